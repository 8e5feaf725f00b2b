//! What the local models cost per clip on this machine.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::clock::{peak_mib, process_cpu_seconds, resident_mib};
use super::{COST_SHAPE, Shape};
use crate::cli::judge::weights::LocalArgs;
use crate::judge::input::JudgeInput;
use crate::judge::local::open;
use crate::judge::metamorphic::{Kind, generate};
use crate::judge::verdict::Outcome;

/// Longest that one judgement may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// A prompt as long as the subnet's.
const PROMPT: &str = "A figure of jointed limbs walks across a wide room while the camera stays where it is. Arms and legs \
     swing against each other in an even rhythm, the floor and the walls do not change, and the light comes from one side. \
     The walk neither speeds up nor stops before the end of the shot, the figure keeps its shape and its colours, and \
     nothing else enters the room or leaves it.";

/// Judges one generated clip of the subnet's size several times; nothing where no weights are named.
pub(super) fn run(args: &LocalArgs, count: u32) -> Result<String> {
    let weights = args.weights();
    if weights.is_empty() {
        return Ok(String::new());
    }
    let weights: Vec<_> = weights
        .iter()
        .map(|(folder, precision)| format!("{} in {precision}", folder.display()))
        .collect();
    let clip = generate(Kind::Articulated, 1, &COST_SHAPE)
        .ok_or_else(|| anyhow!("the clip to be judged cannot be painted"))?;
    let fps = (COST_SHAPE.fps as u32, 1);
    let input = JudgeInput::new(
        "0".repeat(64),
        (clip.frames, fps),
        (clip.first, Vec::new()),
        PROMPT.into(),
        None,
    )
    .map_err(|none| anyhow!("{none}"))?;
    let before = resident_mib();
    let start = Instant::now();
    let judge = open(&args.settings()?).map_err(|none| anyhow!("{none}"))?;
    let opening = start.elapsed().as_secs_f64();
    let opened = resident_mib();

    let mut text = String::new();
    let mut rounds = Vec::new();
    let mut last = None;
    // The first judgement also warms up.
    for _ in 0..=count {
        let (start, cpu) = (Instant::now(), process_cpu_seconds());
        last = Some(judge.judge(&input, PATIENCE));
        rounds.push((start.elapsed().as_secs_f64(), process_cpu_seconds() - cpu));
    }
    let Shape {
        width,
        height,
        frames,
        ..
    } = COST_SHAPE;
    let _ = writeln!(
        text,
        "Cost of judging one {frames}-frame {width}x{height} clip with {}, signals included; opening took {opening:.2} s.\n",
        weights.join(" and ")
    );
    text.push_str("| judgement | clock, s | processor time, s |\n|---|---|---|\n");
    for (index, (wall, cpu)) in rounds.iter().enumerate() {
        let name = match index {
            0 => "first".to_owned(),
            index => index.to_string(),
        };
        let _ = writeln!(text, "| {name} | {wall:.2} | {cpu:.2} |");
    }
    match &last {
        Some(Outcome::Verdict(verdict)) => {
            let _ = writeln!(text, "\nTokens read: {}.", verdict.usage.tokens_in);
        }
        Some(Outcome::NoVerdict(none)) => {
            let _ = writeln!(text, "\nThe last one gave no verdict: {none}.");
        }
        None => {}
    }
    if let (Some(before), Some(opened), Some(peak)) = (before, opened, peak_mib()) {
        let _ = writeln!(
            text,
            "Memory of this process: {before} MiB with the clip, {opened} MiB with the weights, {peak} MiB at the peak; \
             that of a card is not in it."
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_as_long_as_the_subnets() {
        let words = PROMPT.split_whitespace().count();
        assert!((60..=90).contains(&words), "{words}");
    }
}
