//! Plans of the released models: the claims about card sizes, and the table in `docs/memory.md`.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;

use candle_core::DType;

use super::{Memory, MemoryPlan, ModelSizes, PlanOptions, PlanRequest, PlanStage};
use crate::wan::pipeline::Offload;
use crate::weights::ModelKind;

const GIB: u64 = 1 << 30;

fn plan(
    kind: ModelKind,
    [width, height, frames]: [usize; 3],
    offload: Offload,
    text_on_cpu: bool,
) -> MemoryPlan {
    let request = PlanRequest {
        num_frames: frames,
        height,
        width,
        guided: true,
        with_image: kind != ModelKind::T2vA14b,
        prompt_tokens: [512; 2],
    };
    let options = PlanOptions {
        dtype: DType::BF16,
        wide: DType::BF16,
        accelerator: true,
        offload,
        text_on_cpu,
        threads: 8,
    };
    MemoryPlan::new(&ModelSizes::released(kind), request, options)
}

/// A card's memory less a gibibyte for the driver's context.
fn fits(plan: &MemoryPlan, gib: u64) -> bool {
    let needed = plan.serving_peak(Memory::Device);
    needed + needed / 20 <= (gib - 1) * GIB
}

#[test]
fn blocks_fit_small_cards() {
    let a14b = |offload| plan(ModelKind::I2vA14b, [832, 480, 81], offload, false);
    assert!(fits(&a14b(Offload::Blocks), 24));
    assert!(!fits(&a14b(Offload::Experts), 24) && fits(&a14b(Offload::Experts), 48));
    assert!(!fits(&a14b(Offload::None), 48) && fits(&a14b(Offload::None), 80));
    let five =
        |offload, text_on_cpu| plan(ModelKind::Ti2v5b, [1280, 704, 121], offload, text_on_cpu);
    assert!(fits(&five(Offload::Blocks, true), 16));
    assert!(!fits(&five(Offload::None, false), 24));
}

/// Figures of the architecture that follow from sizes alone.
#[test]
fn the_parts_are_those_of_the_arithmetic() {
    let near = |found: u64, gigabytes: f64| {
        let found = found as f64 / 1e9;
        assert!(
            (found / gigabytes - 1.0).abs() < 0.01,
            "{found} for {gigabytes}"
        );
    };
    let none = plan(ModelKind::I2vA14b, [832, 480, 81], Offload::None, false);
    let of = |name: &str| {
        none.components
            .iter()
            .find(|part| part.name == name)
            .unwrap()
            .bytes
    };
    near(of("transformer"), 28.6);
    near(of("text encoder"), 11.36);
    near(of("vae encoder") + of("vae decoder"), 0.253);

    // Two blocks of 0.703 GB and what stays.
    let blocks = plan(ModelKind::I2vA14b, [832, 480, 81], Offload::Blocks, false);
    let denoise = blocks
        .stages
        .iter()
        .find(|s| s.stage == PlanStage::Denoise)
        .unwrap();
    assert!((1.4e9..2.2e9).contains(&(denoise.device.weights as f64)));
    // Residual streams of two prompts, q, k, v, feed-forward, keys and values of the prompts: 32,760 tokens.
    assert!((2.5e9..5.0e9).contains(&(denoise.device.work() as f64)));
}

const START: &str = "<!-- plans: computed; LEOMA_UPDATE_DOCS=1 cargo test -p leoma-models plans_in_the_documentation -->\n";
const END: &str = "<!-- end of plans -->";

#[test]
fn plans_in_the_documentation_are_up_to_date() {
    let mut table = String::from(
        "| model, bf16 | clip | none | experts | blocks | blocks, text on the CPU |\n\
         |---|---|---:|---:|---:|---:|\n",
    );
    for (kind, clip) in [
        (ModelKind::I2vA14b, [832, 480, 81]),
        (ModelKind::I2vA14b, [1280, 720, 81]),
        (ModelKind::T2vA14b, [832, 480, 81]),
        (ModelKind::T2vA14b, [1280, 720, 81]),
        (ModelKind::Ti2v5b, [832, 480, 81]),
        (ModelKind::Ti2v5b, [1280, 704, 121]),
    ] {
        let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
        let device =
            |offload, text| gigabytes(plan(kind, clip, offload, text).peak(Memory::Device));
        let [width, height, frames] = clip;
        writeln!(
            table,
            "| {kind} | {width}x{height}, {frames} frames | {} | {} | {} | {} |",
            device(Offload::None, false),
            device(Offload::Experts, false),
            device(Offload::Blocks, false),
            device(Offload::Blocks, true)
        )
        .unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/memory.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("LEOMA_UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{START}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(found, table, "run again with LEOMA_UPDATE_DOCS=1");
    }
}
