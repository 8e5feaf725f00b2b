//! Figures in words.

/// A number and its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = match noun {
        "repository" => "repositories",
        "match" => "matches",
        _ => "",
    };
    match (number, plural) {
        (1, _) => format!("1 {noun}"),
        (_, "") => format!("{number} {noun}s"),
        (_, plural) => format!("{number} {plural}"),
    }
}

/// Whether a character turns the direction of writing: it could make one name look like another, or change what a
/// reader takes for whose words.
pub(crate) fn turns_text(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Names come from repositories and logs: what a terminal would act on is escaped.
pub(crate) fn plain(name: &str) -> String {
    if name.chars().any(|c| c.is_control() || turns_text(c)) {
        name.escape_debug().to_string()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        assert_eq!(plain("ü 'x'"), "ü 'x'");
        assert_eq!(plain("a\u{1b}[2J\u{202e}"), "a\\u{1b}[2J\\u{202e}");
        assert_eq!(plain("a\u{200f}"), "a\\u{200f}");
    }
}
