//! Every rule has a page, and every page has a rule.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use leoma_node::audit::Rule;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_rule_has_a_page_that_says_the_same() {
    let index = fs::read_to_string(sources().join("docs/rules/README.md")).unwrap();
    let mut pages: BTreeSet<String> = fs::read_dir(sources().join("docs/rules"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(pages.remove("README.md"));
    for rule in Rule::ALL {
        let (id, name, severity) = (rule.id(), rule.name(), rule.severity());
        assert_eq!(rule.page(), format!("docs/rules/{id}.md"));
        let page = fs::read_to_string(sources().join(rule.page())).unwrap_or_default();
        assert!(
            page.starts_with(&format!("# {id} {name}\n")),
            "{id}: its heading"
        );
        assert!(
            page.contains(&format!("\nSeverity: {severity}\n")),
            "{id}: its severity"
        );
        // Lines are wrapped in the page.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words(&page).contains(&words(rule.summary())),
            "{id}: its summary"
        );
        let sections: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        assert_eq!(
            sections,
            ["Why it matters", "What to do", "Example"],
            "{id}"
        );
        assert!(page.contains(&format!("{id} {name}")), "{id}: its example");
        assert!(
            index.contains(&format!("| [{id}]({id}.md) | {name} | {severity} |")),
            "{id} in the index"
        );
        assert!(pages.remove(&format!("{id}.md")));
    }
    assert_eq!(pages, BTreeSet::new(), "pages without a rule");
}
