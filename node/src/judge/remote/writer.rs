//! The task prompt writer: what a clip shows, as a prompt for a video model.
//!
//! The subnet makes its tasks this way: 12 frames of a five-second clip, at 3 per second, one user message, plain
//! text, 220 tokens.

use std::time::Duration;

use leoma_models::Fault;

use super::chat::Ask;
use super::{ID, Remote};
use crate::judge::input::ShownFrame;
use crate::judge::verdict::{Answer, NoVerdict, Reason, Usage, kept};

const MAX_TOKENS: u32 = 220;
/// Fewer words describe nothing.
const LEAST_WORDS: usize = 5;

/// A prompt, and where it comes from.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TaskPrompt {
    /// One paragraph.
    pub text: String,
    /// Words in it.
    pub words: usize,
    /// Whether it ends in the middle of a sentence, at the limit of tokens.
    pub cut: bool,
    /// What it cost.
    pub usage: Usage,
    /// What the model wrote, as evidence.
    pub answer: Answer,
}

impl Remote {
    /// Has a prompt written from frames in the order of time.
    ///
    /// # Errors
    /// [`NoVerdict`] with whose fault it is.
    pub fn write_prompt(
        &self,
        frames: &[ShownFrame],
        task: Option<&str>,
        within: Duration,
    ) -> Result<TaskPrompt, NoVerdict> {
        let none = |reason, fault, message: &str| NoVerdict::new(ID, reason, fault, message);
        if frames.is_empty() {
            return Err(none(
                Reason::Input,
                Fault::Caller,
                "video: is too short for a single frame",
            ));
        }
        let ask = Ask::task_prompt(&self.settings.model, MAX_TOKENS, frames);
        let asked = self.ask(&ask, task, within).map_err(|none| *none)?;
        let answer = asked.answer();
        let failed = |reason, message: &str| NoVerdict {
            usage: asked.usage,
            answers: vec![answer.clone()],
            ..none(reason, Fault::Transient, message)
        };
        if asked.completion.is_refused() {
            return Err(failed(Reason::Refused, "the model refuses to look at it"));
        }
        let text = paragraph(asked.completion.content.as_deref().unwrap_or_default());
        let words = text.split_whitespace().count();
        if words < LEAST_WORDS {
            return Err(failed(
                Reason::Transport,
                "the model wrote no description; try again",
            ));
        }
        Ok(TaskPrompt {
            text,
            words,
            cut: asked.completion.is_cut(),
            usage: asked.usage,
            answer,
        })
    }
}

/// One paragraph of plain text, whatever lines it came in.
fn paragraph(content: &str) -> String {
    let text = kept(content);
    let words: Vec<_> = text.split_whitespace().collect();
    let text = words.join(" ");
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    // Quotation marks around all of it are the model's, those inside are the scene's.
    bare.filter(|bare| !bare.contains('"'))
        .map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_paragraph() {
        for (content, text) in [
            ("  A boat\n\ndrifts\u{7}. ", "A boat drifts."),
            ("\"A boat drifts.\"", "A boat drifts."),
            (
                "\"Stop\" says a sign, \"Go\"",
                "\"Stop\" says a sign, \"Go\"",
            ),
            ("\"", "\""),
            ("", ""),
        ] {
            assert_eq!(paragraph(content), text);
        }
    }
}
