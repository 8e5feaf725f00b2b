use super::clean_prompt;
#[test]
fn smoke() { assert_eq!(clean_prompt(" a  b "), "a b"); }
