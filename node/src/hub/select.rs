//! Which files of a repository are wanted: shell patterns as the Python tools have them.

use super::error::{HubError, Result};

/// Longest pattern; matching takes time in proportion to it.
const MAX_PATTERN: usize = 1024;

/// Patterns of what is wanted, and of what is not; the second go first.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Selection {
    /// Files that match one of `include` (all, when it is empty) and none of `exclude`. `*` and `?` also stand
    /// for `/`; a pattern that ends with `/` means everything in that folder.
    ///
    /// # Errors
    /// [`HubError::Invalid`] for a pattern that is empty or too long.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let patterns = |field: &'static str, patterns: &[String]| {
            patterns
                .iter()
                .map(|pattern| match pattern.len() {
                    0 => Err(HubError::Invalid {
                        field,
                        message: "the pattern is empty; write one as `*.safetensors` or `vae/`"
                            .into(),
                    }),
                    1..=MAX_PATTERN if pattern.ends_with('/') => Ok(format!("{pattern}*")),
                    1..=MAX_PATTERN => Ok(pattern.clone()),
                    _ => Err(HubError::Invalid {
                        field,
                        message: format!("the pattern is longer than {MAX_PATTERN} bytes"),
                    }),
                })
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            include: patterns("include", include)?,
            exclude: patterns("exclude", exclude)?,
        })
    }

    /// Whether a file is wanted.
    pub fn wants(&self, path: &str) -> bool {
        let matched = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, path));
        (self.include.is_empty() || matched(&self.include)) && !matched(&self.exclude)
    }
}

/// Shell patterns: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last `*` when the rest does not fit: one character further.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(_), Some(&c)) => one(&pattern, p, c),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => (p, t) = (next, t + 1),
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether the element of the pattern at `p` takes the character; where the next element begins.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => {
            let negated = matches!(pattern.get(p + 1), Some('!'));
            let first = p + 1 + usize::from(negated);
            // A `]` in the first place stands for itself.
            let rest = pattern.get(first + 1..).unwrap_or_default();
            let Some(length) = rest.iter().position(|&c| c == ']') else {
                return (c == '[').then_some(p + 1);
            };
            let end = first + 1 + length;
            let set = pattern.get(first..end).unwrap_or_default();
            let mut at = 0;
            let mut found = false;
            while let Some(&low) = set.get(at) {
                if let (Some('-'), Some(&high)) = (set.get(at + 1), set.get(at + 2)) {
                    found |= (low..=high).contains(&c);
                    at += 3;
                } else {
                    found |= low == c;
                    at += 1;
                }
            }
            (found != negated).then_some(end + 1)
        }
        &literal => (literal == c).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_as_python_has_them() {
        // Each line was compared with `fnmatch.fnmatchcase` of Python 3.11.
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a/b", true),
            ("*.json", "vae/config.json", true),
            ("*.json", "config.json5", false),
            ("vae/*", "vae/a/b", true),
            ("vae/*", "xvae/a", false),
            ("a?c", "a/c", true),
            ("a?c", "ac", false),
            ("[ab]*", "b1", true),
            ("[!ab]*", "b1", false),
            ("[!ab]*", "c", true),
            ("x[0-9]y", "x5y", true),
            ("x[0-9]y", "xay", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[a", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("**a", "ba", true),
            ("", "", true),
            ("", "a", false),
            ("[a-]", "-", true),
            ("ü?", "üß", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        // Linear in what a hostile name and pattern can make of it.
        let text = "a".repeat(1000);
        assert!(!matches(&("*a".repeat(400) + "b"), &text));
    }

    #[test]
    fn exclude_goes_first() {
        let list = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let all = Selection::default();
        assert!(all.wants("x.py"));
        let some = Selection::new(&list(&["*.json", "vae/"]), &list(&["*bad*"])).unwrap();
        assert!(some.wants("config.json") && some.wants("vae/w.safetensors"));
        assert!(!some.wants("README.md") && !some.wants("vae/bad.json"));
        assert!(Selection::new(&list(&[""]), &[]).is_err());
        assert!(Selection::new(&[], &list(&[&"a".repeat(2000)])).is_err());
    }
}
