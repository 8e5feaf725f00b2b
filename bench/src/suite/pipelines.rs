//! Part 2: tiny pipelines on the card against the tensors that diffusers recorded, and the same bits twice.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use leoma_models::Precision;
use leoma_models::noise::NoiseSource;
use leoma_models::wan::pipeline::{GenerateParams, Observer, Offload, Stage, WanPipeline};
use leoma_models::weights::Checkpoint;
use serde::Deserialize;

use super::kernels::{distance, same_bits};
use super::parts::Session;
use super::result::{Row, Verdict};

/// Distance allowed in f32, of latents and of decoded frames.
const LIMIT: f64 = 2e-5;

/// Kind and recorded run; the first stand for all where time is short.
const RUNS: [(&str, &str); 6] = [
    ("i2v-a14b", "i2v"),
    ("ti2v-5b", "i2v"),
    ("ti2v-5b", "t2v"),
    ("ti2v-5b", "euler"),
    ("i2v-a14b", "dpmpp"),
    ("t2v-a14b", "t2v"),
];

/// Runs of a dry run: the shim takes its time.
const DRY: usize = 2;

/// Settings of a recorded run, as `scripts/golden/fixtures.py` writes them.
#[derive(Debug, Deserialize)]
struct Recorded {
    prompt: String,
    negative_prompt: String,
    image: bool,
    height: usize,
    width: usize,
    num_frames: usize,
    steps: usize,
    guidance_scale: f64,
    guidance_scale_2: Option<f64>,
    flow_shift: Option<f64>,
    seed: u64,
    scheduler: String,
}

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let runs = if session.place.is_card() {
        RUNS.len()
    } else {
        DRY
    };
    for (kind, name) in RUNS.iter().take(runs) {
        let folder = session.args.data.join(kind);
        let (recorded, reference) = read(&folder, name)?;
        for precision in [Precision::F32, Precision::Bf16] {
            let title = format!("{kind}/{name} {precision}");
            if session.late(&title)? {
                return Ok(());
            }
            let rows = match compare(session, &folder, &recorded, &reference, precision, &title) {
                Ok(rows) => rows,
                Err(error) => vec![Row::new(title, Verdict::Fail, format!("{error:#}"))],
            };
            for row in rows {
                session.push(row)?;
            }
        }
    }
    Ok(())
}

fn compare(
    session: &Session<'_>,
    folder: &Path,
    recorded: &Recorded,
    reference: &HashMap<String, Tensor>,
    precision: Precision,
    title: &str,
) -> Result<Vec<Row>> {
    let once = || generate(session, folder, recorded, reference, precision);
    let found = once()?;
    let mut rows = Vec::new();
    for name in ["latents.final", "decoded"] {
        let expected = reference
            .get(name)
            .with_context(|| format!("the recorded run has no tensor {name}"))?;
        let tensor = found
            .get(name)
            .with_context(|| format!("the run made no tensor {name}"))?;
        let error = distance(tensor, expected)?;
        let name = format!("{title}: {name}");
        // In bf16 the reference is not: the distance is for reading, a NaN is still an error.
        rows.push(
            match precision {
                Precision::F32 => {
                    let detail = format!("{error:.1e} from diffusers' f32, limit {LIMIT:.0e}");
                    Row::check(name, error <= LIMIT, detail)
                }
                _ if error.is_finite() => Row::new(
                    name,
                    Verdict::Measured,
                    format!("{error:.1e} from diffusers' f32"),
                ),
                _ => Row::check(name, false, "values that are not finite"),
            }
            .value("error", error),
        );
    }
    // The shim runs threads in a fixed order: there is nothing to learn from a second run.
    if session.place.is_card() {
        let again = once()?;
        let mut same = true;
        for (name, tensor) in &found {
            let other = again
                .get(name)
                .context("the second run made fewer tensors")?;
            same &= same_bits(tensor, other)?;
        }
        let detail = if same {
            "the same bits twice"
        } else {
            "two runs differ in their bits"
        };
        rows.push(Row::check(format!("{title}: repeated"), same, detail));
    }
    Ok(rows)
}

/// Keeps the final latents.
#[derive(Default)]
struct Recorder(BTreeMap<String, Tensor>);

impl Observer for Recorder {
    fn progress(&mut self, _: Stage, _: usize, _: usize) {}

    fn wants_tensors(&self) -> bool {
        true
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor) -> leoma_models::Result<()> {
        if name == "latents.final" {
            self.0
                .insert(name.to_owned(), tensor.to_device(&Device::Cpu)?);
        }
        Ok(())
    }
}

fn generate(
    session: &Session<'_>,
    folder: &Path,
    recorded: &Recorded,
    reference: &HashMap<String, Tensor>,
    precision: Precision,
) -> Result<BTreeMap<String, Tensor>> {
    let checkpoint = Checkpoint::open(folder)?;
    let stored = checkpoint
        .scheduler_config()
        .and_then(|config| config.shift());
    let params = GenerateParams {
        prompt: recorded.prompt.clone(),
        negative_prompt: recorded.negative_prompt.clone(),
        num_frames: recorded.num_frames,
        height: recorded.height,
        width: recorded.width,
        num_inference_steps: recorded.steps,
        guidance_scale: recorded.guidance_scale,
        guidance_scale_2: recorded.guidance_scale_2.unwrap_or(recorded.guidance_scale),
        flow_shift: recorded
            .flow_shift
            .or(stored)
            .context("the recorded run has no shift")?,
        boundary_ratio: checkpoint.boundary_ratio(),
        scheduler: recorded.scheduler.parse()?,
        seed: recorded.seed,
        noise: NoiseSource::TorchCpu,
        tiling: None,
    };
    let image = match (recorded.image, reference.get("image_u8")) {
        (true, Some(bytes)) => {
            let unit = (bytes.to_dtype(DType::F32)? / 255.0)?;
            // [H, W, 3] to [3, H, W]
            Some(((unit * 2.0)? - 1.0)?.permute((2, 0, 1))?.contiguous()?)
        }
        _ => None,
    };
    let (mut recorder, mut frames) = (Recorder::default(), Vec::new());
    let place = &session.place;
    place.run(|| -> Result<()> {
        let mut pipeline = WanPipeline::new(checkpoint, precision, place.device(), Offload::None)?;
        pipeline.generate(
            &params,
            image.as_ref(),
            &mut recorder,
            &|| false,
            &mut |clip| {
                frames.push(clip.to_device(&Device::Cpu)?.to_dtype(DType::F32)?);
                Ok(())
            },
        )?;
        Ok(())
    })?;
    let decoded = Tensor::cat(&frames, 1)?.unsqueeze(0)?;
    recorder.0.insert("decoded".into(), decoded);
    Ok(recorder.0)
}

/// Settings and tensors of one recorded run.
fn read(folder: &Path, name: &str) -> Result<(Recorded, HashMap<String, Tensor>)> {
    let path: PathBuf = folder.join(format!("{name}.safetensors"));
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let settings = settings(&bytes).with_context(|| format!("{}", path.display()))?;
    Ok((
        settings,
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?,
    ))
}

/// The settings in a safetensors header: eight bytes of length, then JSON.
fn settings(bytes: &[u8]) -> Result<Recorded> {
    let (length, rest) = bytes.split_first_chunk::<8>().context("no header")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let header: serde_json::Value =
        serde_json::from_slice(rest.get(..length).context("the header is cut short")?)?;
    let run = header["__metadata__"]["run"]
        .as_str()
        .context("the header has no settings of a run")?;
    Ok(serde_json::from_str(run)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_recorded_runs_are_there() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
        for (kind, name) in RUNS {
            let (recorded, tensors) = read(&data.join(kind), name).unwrap();
            assert!(recorded.steps > 0 && tensors.contains_key("latents.final"));
        }
    }

    #[test]
    fn a_cut_header_is_an_error() {
        assert!(settings(&[1, 2, 3]).is_err());
        assert!(settings(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']).is_err());
    }
}
