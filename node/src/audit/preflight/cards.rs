//! On which cards a model runs, by the memory plan: nothing is loaded.

use candle_core::DType;
use leoma_models::wan::pipeline::Offload;
use leoma_models::wan::plan::{Memory, ModelSizes, PlanOptions, PlanRequest};
use leoma_models::weights::Checkpoint;
use serde::Serialize;

use super::{Check, State};
use crate::generation::{Budget, Planning};

/// Sizes of memory that cards are sold with, in GiB, and some of the cards.
pub const CARDS: [(u64, &str); 6] = [
    (16, "RTX 5080, 4080"),
    (24, "RTX 4090, 3090"),
    (32, "RTX 5090"),
    (48, "L40S, RTX 6000 Ada"),
    (80, "H100, A100"),
    (141, "H200"),
];
/// What the driver and a context hold back.
const HELD_BACK: u64 = 1 << 30;

/// The clip that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Clip {
    /// Pixel frames.
    pub num_frames: usize,
    /// Pixel columns.
    pub width: usize,
    /// Pixel rows.
    pub height: usize,
    /// Whether there is guidance.
    pub guided: bool,
    /// Bytes of a number while computing.
    pub bytes: usize,
}

impl Default for Clip {
    /// What the running validators ask miners for.
    fn default() -> Self {
        Self {
            num_frames: 81,
            width: 832,
            height: 480,
            guided: true,
            bytes: 2,
        }
    }
}

/// A card and how the model runs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Its memory, in GiB.
    pub gib: u64,
    /// Cards of that size.
    pub examples: &'static str,
    /// The fastest mode that fits: `none`, `experts` or `blocks`; None where none does.
    pub offload: Option<&'static str>,
    /// Bytes of device memory in that mode, or in the most sparing one, with the plan's margin of 5 %.
    pub needed: u64,
    /// Bytes of the machine's memory beside it.
    pub host: u64,
}

impl Card {
    /// How the model runs on it, in words.
    pub(in crate::audit) fn how(&self) -> String {
        match self.offload {
            Some("none") => "everything in its memory".to_owned(),
            Some(mode) => format!("--offload {mode}"),
            None => "too small".to_owned(),
        }
    }
}

/// How the model runs on every size of card.
pub(super) fn fit(checkpoint: &Checkpoint, clip: Clip) -> Vec<Card> {
    let sizes = ModelSizes::of(checkpoint);
    let request = PlanRequest {
        num_frames: clip.num_frames,
        height: clip.height,
        width: clip.width,
        guided: clip.guided,
        with_image: true,
        prompt_tokens: [512; 2],
    };
    let dtype = if clip.bytes == 4 {
        DType::F32
    } else {
        DType::BF16
    };
    let card = |(gib, examples): (u64, &'static str)| {
        let options = PlanOptions {
            dtype,
            wide: dtype,
            accelerator: true,
            offload: Offload::None,
            text_on_cpu: false,
            threads: 8,
        };
        let budget = Budget {
            device: Some((gib << 30) - HELD_BACK),
            host: None,
        };
        let mut planning = Planning::new(sizes.clone(), options, budget);
        let offload = planning.choose(request);
        planning.set_offload(offload);
        let plan = planning.plan(request);
        Card {
            gib,
            examples,
            offload: planning.check(&plan).is_ok().then(|| offload.as_str()),
            needed: planning.needed(&plan, Memory::Device),
            host: planning.needed(&plan, Memory::Host),
        }
    };
    CARDS.map(card).to_vec()
}

/// The answer in a sentence.
pub(super) fn check(cards: &[Card], clip: Clip) -> Check {
    let Clip {
        num_frames,
        width,
        height,
        ..
    } = clip;
    let clip = format!("{num_frames} frames of {width}x{height}");
    let smallest = cards.iter().find(|card| card.offload.is_some());
    let whole = cards.iter().find(|card| card.offload == Some("none"));
    let (state, says) = match (smallest, whole) {
        _ if cards.is_empty() => (
            State::Unknown,
            "What does not load has no memory plan.".to_owned(),
        ),
        (None, _) => (
            State::Fix,
            format!(
                "{clip} fit on no card of {} GiB or less.",
                cards.last().map_or(0, |c| c.gib)
            ),
        ),
        (Some(smallest), Some(whole)) if smallest.gib == whole.gib => (
            State::Good,
            format!(
                "{clip} fit on a card of {} GiB with everything in its memory.",
                whole.gib
            ),
        ),
        (Some(smallest), whole) => {
            let whole = whole.map_or_else(
                || "on none of them without offloading".to_owned(),
                |whole| format!("with everything in memory from {} GiB on", whole.gib),
            );
            let mode = smallest.offload.unwrap_or_default();
            (
                State::Good,
                format!(
                    "{clip} fit on a card of {} GiB with --offload {mode}, {whole}.",
                    smallest.gib
                ),
            )
        }
    };
    Check {
        name: "memory",
        state,
        says,
        findings: Vec::new(),
    }
}
