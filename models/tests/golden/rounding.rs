//! bf16 in both roundings against the float32 reference: how far, and that they differ where they should.

use candle_core::{DType, Device, Tensor};
use leoma_models::Precision;
use leoma_models::rounding::Rounding;
use leoma_models::wan::pipeline::{Offload, WanPipeline};
use leoma_models::weights::Checkpoint;

use crate::fixture;
use crate::gate::values;
use crate::pipeline::generate_with;

/// Tensors that are reported.
const REPORTED: [&str; 3] = ["velocity_cond.00", "latents.final", "decoded"];

fn pipeline(kind: &str, precision: Precision) -> WanPipeline {
    let checkpoint = Checkpoint::open(fixture::folder(kind)).unwrap();
    WanPipeline::new(checkpoint, precision, &Device::Cpu, Offload::None).unwrap()
}

fn distance(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.dims(), wanted.dims());
    let (found, wanted) = (values(found), values(wanted));
    let pairs = found.iter().zip(&wanted);
    let apart: f64 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
    (apart / wanted.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// With `--nocapture` this prints the table of docs/numerics.md.
#[test]
#[allow(clippy::print_stdout)]
fn bf16_stays_near_float32_in_both_roundings() {
    for (kind, name) in [("ti2v-5b", "i2v"), ("i2v-a14b", "i2v"), ("t2v-a14b", "t2v")] {
        let (run, reference) = fixture::run(kind, name);
        let mut distances = Vec::new();
        for rounding in Rounding::ALL {
            let pipeline = pipeline(kind, Precision::Bf16)
                .with_rounding(rounding)
                .unwrap();
            assert_eq!(pipeline.rounding(), Some(rounding));
            let found = generate_with(pipeline, &run, &reference);
            assert_eq!(
                found["velocity_cond.00"].dtype(),
                rounding.wide(DType::BF16)
            );
            assert_eq!(found["latents.final"].dtype(), DType::F32);
            let row = REPORTED.map(|name| {
                let wanted = match name {
                    "decoded" => reference.find(name).cloned(),
                    _ => Some(reference.get(name).clone()),
                };
                wanted.map(|wanted| distance(&found[name], &wanted))
            });
            let shown = row.map(|d| d.map_or("-".into(), |d| format!("{d:.1e}")));
            println!("| {kind} | {rounding} | {} |", shown.join(" | "));
            for (name, distance) in REPORTED.iter().zip(row) {
                let Some(distance) = distance else { continue };
                // Nothing in bf16 is nearer than 1e-4; a mistake is farther than a few percent.
                assert!(
                    (1e-4..6e-2).contains(&distance),
                    "{kind}, {rounding}, {name}: {distance:e}"
                );
            }
            distances.push(row);
        }
        // The first velocity has met nothing but rounding; keeping the stream wide must help it.
        let [diffusers, official] = [distances[0][0], distances[1][0]];
        assert!(official < diffusers, "{kind}: {official:?}, {diffusers:?}");
    }
}

#[test]
fn tf32_is_for_cards_only() {
    let checkpoint = Checkpoint::open(fixture::folder("ti2v-5b")).unwrap();
    let refused = WanPipeline::new(checkpoint, Precision::Tf32, &Device::Cpu, Offload::None);
    assert!(refused.unwrap_err().to_string().contains("use f32"));
}

#[test]
fn float32_has_one_rounding() {
    assert_eq!(pipeline("ti2v-5b", Precision::F32).rounding(), None);
    let refused = pipeline("ti2v-5b", Precision::F32).with_rounding(Rounding::Official);
    assert!(refused.unwrap_err().to_string().contains("--dtype bf16"));
}
