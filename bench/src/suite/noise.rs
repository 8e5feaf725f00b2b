//! Part 3: Philox noise against torch on this card, and against the host's generator.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use leoma_kernels::philox_normal;
use serde_json::json;

use super::parts::Session;
use super::result::{Row, Verdict};
use super::torch;

/// Seed and number of values: one call of a few threads, several calls, the latents of an A14B clip at 480p
/// and of a 5B clip at 720p.
const DRAWS: [(u64, usize); 4] = [
    (0, 300),
    (42, 1_000_003),
    (42, 16 * 21 * 60 * 104),
    (9 << 40 | 3, 48 * 31 * 44 * 80),
];

/// Values of a draw without a card.
const SMALL: usize = 20_000;

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let threads = session.place.threads()?;
    session.note("threads of torch's largest launch", threads.to_string());
    let small = session.small();
    let mut drawn = Vec::new();
    for (seed, n) in DRAWS {
        let n = if small { n.min(SMALL) } else { n };
        let host = philox_normal(seed, &[n], threads, &Device::Cpu)?;
        let place = &session.place;
        let found = place.run(|| philox_normal(seed, &[n], threads, place.device()))?;
        let found = found.to_device(&Device::Cpu)?;
        let (most, _) = apart(&found, &host)?;
        let name = format!("seed {seed}, {n} values: host generator");
        let detail = format!("at most {most:.1e} apart, limit 2.0e-6");
        session.push(Row::check(name, most <= 2e-6, detail).value("most", most))?;
        drawn.push((seed, n, found));
    }
    let work = tempfile::tempdir().context("a folder for torch's values")?;
    let Some((mut peer, hello)) = torch::side(session, work.path())? else {
        return Ok(());
    };
    if hello["cuda"] != true || !session.place.is_card() {
        let why = "torch has no card here, and its CPU generator is another one";
        return session.push(Row::new("torch's own values", Verdict::Skipped, why));
    }
    let path = work.path().join("noise.safetensors");
    for (seed, n, found) in drawn {
        let name = format!("seed {seed}, {n} values: torch");
        if session.late(&name)? {
            return Ok(());
        }
        peer.setup("noise", &json!({"seed": seed, "n": n}))?;
        peer.run()?;
        peer.write_output(&path)?;
        let theirs = candle_core::safetensors::load(&path, &Device::Cpu)?
            .remove("output")
            .context("torch wrote no tensor")?;
        let (most, different) = apart(&found, &theirs)?;
        let detail = format!(
            "{different} of {n} values differ, at most {most:.1e} apart; all must be equal"
        );
        session.push(
            Row::check(name, different == 0, detail)
                .value("most", most)
                .value("different", different as f64),
        )?;
    }
    Ok(())
}

/// Largest difference and how many values differ in their bits; NaN is infinitely far.
fn apart(a: &Tensor, b: &Tensor) -> Result<(f64, usize)> {
    let (a, b): (Vec<f32>, Vec<f32>) = (a.to_vec1()?, b.to_vec1()?);
    anyhow::ensure!(a.len() == b.len(), "{} values and {}", a.len(), b.len());
    let (mut most, mut different) = (0f64, 0);
    for (a, b) in a.iter().zip(&b) {
        let distance = (f64::from(*a) - f64::from(*b)).abs();
        most = most.max(if distance.is_nan() {
            f64::INFINITY
        } else {
            distance
        });
        different += usize::from(a.to_bits() != b.to_bits());
    }
    Ok((most, different))
}
