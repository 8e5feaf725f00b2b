//! UnifiedReward-2.0 on Qwen3-VL: a judge that was trained for three scores of a clip, asked in the words it
//! was trained with.
//!
//! Frames go in as images, the instruction after them; the model answers in three lines of the form
//! `Alignment Score (1-5): 2.4036`. Continued greedily, so the same build gives the same text. Beside each
//! number the expectation over the digits 1 to 5 at its first digit is recorded, which says how sure it was.
//!
//! Instruction, frame choice and form of the answer: `CodeGoat24/UnifiedReward` at 0b03be9,
//! `inference_qwen/UnifiedReward-2.0-inference/point_score_APS_video_generation.py` (MIT). That script shows 8
//! frames; 16 is what the model's card names for points, and is configuration here.

use serde::Serialize;

use super::digits::{DigitReading, probabilities};
use super::frame::Frame;
use super::model::Session;
use super::sequence::{Sequence, SequenceBuilder};
use super::tokenizer::JudgeTokenizer;
use crate::error::{Error, Result};

/// Frames shown by default.
pub const UNIFIED_FRAMES: usize = 16;
/// Most tokens of an answer: three lines take about 45.
pub const UNIFIED_ANSWER_TOKENS: usize = 96;
/// Names of the three scores, in the order of the answer.
pub const UNIFIED_AXES: [&str; 3] = ["Alignment", "Physics", "Style"];

/// The instruction, with a caption in its place. The caption stands in brackets without escapes: that is how
/// the model knows it.
pub fn unified_text(caption: &str) -> String {
    format!(
        "You are presented with a generated video and its associated text caption. Your task is to analyze the \
         video across multiple dimensions in relation to the caption. Specifically:\nProvide overall \
         assessments for the video along the following axes (each rated from 1 to 5):\n- Alignment Score: How \
         well the video matches the caption in terms of content.\n- Physics Score: How well the gravity, \
         movements, collisions, and interactions make physical sense.\n- Style Score: How visually appealing \
         the video looks, regardless of caption accuracy.\n\nOutput your evaluation using the format \
         below:\n\nAlignment Score (1-5): X\nPhysics Score (1-5): Y\nStyle Score (1-5): Z\n\nYour task is \
         provided as follows:\nText Caption: [{caption}]"
    )
}

/// What is read before the answer.
///
/// # Errors
/// [`Error::Caller`] without frames or with a caption that is empty or too long.
pub fn unified_sequence(
    mut builder: SequenceBuilder<'_>,
    frames: &[Frame<'_>],
    caption: &str,
    device: &candle_core::Device,
) -> Result<Sequence> {
    if frames.is_empty() {
        return Err(Error::caller("video", "has no frames"));
    }
    // Checks only: the caption goes in as it is.
    super::sequence::quoted_prompt(caption)?;
    builder = builder.begin("user")?;
    for frame in frames {
        builder = builder.image(frame)?;
    }
    builder
        .text(&unified_text(caption))
        .end()?
        .begin("assistant")?
        .build(device)
}

/// One line of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct UnifiedScore {
    /// One of [`UNIFIED_AXES`].
    pub axis: &'static str,
    /// As written, 1 to 5.
    pub value: f64,
    /// `25 (value - 1)`, 0 to 100.
    pub score: f64,
    /// Mean digit at the first digit of the number, where it was seen.
    pub expectation: Option<f64>,
    /// Confidence there, 0 to 1.
    pub confidence: Option<f64>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnifiedReading {
    /// As the model wrote it.
    pub text: String,
    /// The three scores; `None` when the text is not of the form it was trained to have.
    pub scores: Option<[UnifiedScore; 3]>,
}

/// Lets the model answer, after `hidden` `[L, d]` of [`unified_sequence`].
///
/// # Errors
/// As [`Session::greedy`].
pub fn unified_answer(
    session: &mut Session<'_>,
    hidden: &candle_core::Tensor,
    tokenizer: &JudgeTokenizer,
) -> Result<UnifiedReading> {
    let digits = tokenizer.digits()?;
    let mut written = Vec::new();
    let mut seen: Vec<DigitReading> = Vec::new();
    let tokens = session.greedy(
        hidden,
        UNIFIED_ANSWER_TOKENS,
        &[tokenizer.marks().im_end],
        |logits, token| {
            let before = tokenizer.decode(&written)?;
            if digits.contains(&token) && before.trim_end().ends_with("(1-5):") {
                let found = probabilities(logits, digits).ok_or_else(|| {
                    Error::local("the judge's model gave no usable scores (NaN or infinite)")
                })?;
                seen.push(DigitReading::new(found));
            }
            written.push(token);
            Ok(())
        },
    )?;
    let text = tokenizer.decode(&tokens)?;
    let scores = parse_answer(&text).map(|values| {
        let mut index = 0;
        values.map(|value| {
            let reading = seen.get(index).copied();
            let axis = UNIFIED_AXES[index];
            index += 1;
            UnifiedScore {
                axis,
                value,
                score: 25.0 * (value - 1.0),
                expectation: reading.map(|reading| reading.expectation),
                confidence: reading.map(|reading| reading.confidence),
            }
        })
    });
    Ok(UnifiedReading { text, scores })
}

/// The three numbers of an answer: exactly one line for each axis, in order, each from 1 to 5 with decimals or
/// without. Anything else is no answer: a text that only looks like one must not be scored.
pub fn parse_answer(text: &str) -> Option<[f64; 3]> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut values = [0.0; 3];
    for (value, axis) in values.iter_mut().zip(UNIFIED_AXES) {
        let number = lines
            .next()?
            .strip_prefix(axis)?
            .strip_prefix(" Score (1-5):")?
            .trim();
        *value = decimal(number).filter(|value| (1.0..=5.0).contains(value))?;
    }
    lines.next().is_none().then_some(values)
}

/// Digits, and perhaps a point and more digits: no sign, no exponent, no `inf`.
fn decimal(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(part) && text.len() < 20)
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_trained_form_are_read() {
        let text = "Alignment Score (1-5): 2.4036\nPhysics Score (1-5): 3.0987\nStyle Score (1-5): 3.3889\n";
        assert_eq!(parse_answer(text), Some([2.4036, 3.0987, 3.3889]));
        let text = "Alignment Score (1-5): 5\n\n Physics Score (1-5): 1.0 \r\nStyle Score (1-5):4";
        assert_eq!(parse_answer(text), Some([5.0, 1.0, 4.0]));
    }

    #[test]
    fn everything_else_is_no_answer() {
        let good = "Alignment Score (1-5): 2\nPhysics Score (1-5): 3\nStyle Score (1-5): 3";
        assert!(parse_answer(good).is_some());
        for (from, to) in [
            ("2", "0.9"),
            ("2", "5.1"),
            ("2", "-2"),
            ("2", "2e0"),
            ("2", "inf"),
            ("2", "NaN"),
            ("2", "2."),
            ("2", ".5"),
            ("2", "2 of 5"),
            ("2", "X"),
            ("2", ""),
            ("Physics", "Coherence"),
            ("Physics Score", "Physics"),
            ("Style Score (1-5): 3", ""),
            (
                "Style Score (1-5): 3",
                "Style Score (1-5): 3\nAlignment Score (1-5): 5",
            ),
        ] {
            let text = good.replacen(from, to, 1);
            assert_eq!(parse_answer(&text), None, "{text}");
        }
        assert_eq!(parse_answer(""), None);
    }
}
