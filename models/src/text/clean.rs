//! Prompt cleaning: `prompt_clean` of diffusers' Wan pipelines (0.35.2).

use super::fix_text::{fix_text, is_space};
use super::html::unescape;

/// Cleans a prompt as the reference does: broken text repaired (ftfy 6.3.1), HTML character references
/// decoded twice, white space collapsed to single spaces and removed at both ends.
pub fn clean_prompt(text: &str) -> String {
    let text = unescape(&unescape(&fix_text(text)));
    let mut out = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}
