//! Whole runs: from prompt, picture and seed to frames, every intermediate tensor compared.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use leoma_models::Precision;
use leoma_models::noise::NoiseSource;
use leoma_models::scheduler::SchedulerKind;
use leoma_models::wan::pipeline::{GenerateParams, Observer, Offload, Stage, WanPipeline};
use leoma_models::weights::{Checkpoint, Layout};

use crate::fixture::{self, RUNS, Run, Tensors};
use crate::gate::{COMPONENT, Gate, RUN, values, values_f32};
use crate::{official, vae};

/// Keeps every tensor.
#[derive(Default)]
struct Recorder(BTreeMap<String, Tensor>);

impl Observer for Recorder {
    fn progress(&mut self, _: Stage, _: usize, _: usize) {}

    fn wants_tensors(&self) -> bool {
        true
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor) -> leoma_models::Result<()> {
        self.0.insert(name.to_owned(), tensor.clone());
        Ok(())
    }
}

fn params(run: &Run, checkpoint: &Checkpoint) -> GenerateParams {
    let stored = checkpoint
        .scheduler_config()
        .and_then(|config| config.shift());
    GenerateParams {
        prompt: run.prompt.clone(),
        negative_prompt: run.negative_prompt.clone(),
        num_frames: run.num_frames,
        height: run.height,
        width: run.width,
        num_inference_steps: run.steps,
        guidance_scale: run.guidance_scale,
        guidance_scale_2: run.guidance_scale_2.unwrap_or(run.guidance_scale),
        flow_shift: run.flow_shift.or(stored).unwrap(),
        boundary_ratio: checkpoint.boundary_ratio(),
        scheduler: run.scheduler(),
        seed: run.seed,
        noise: NoiseSource::TorchCpu,
        tiling: None,
    }
}

fn generate(
    folder: &Path,
    run: &Run,
    reference: &Tensors,
    offload: Offload,
) -> BTreeMap<String, Tensor> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let pipeline = WanPipeline::new(checkpoint, Precision::F32, &Device::Cpu, offload).unwrap();
    generate_with(pipeline, run, reference)
}

/// Every tensor of a run, and `decoded`.
pub(crate) fn generate_with(
    mut pipeline: WanPipeline,
    run: &Run,
    reference: &Tensors,
) -> BTreeMap<String, Tensor> {
    let params = params(run, pipeline.checkpoint());
    let image = run.image.then(|| vae::first_frame(reference));
    let (mut recorder, mut frames) = (Recorder::default(), Vec::new());
    let mut sink = |frame| {
        frames.push(frame);
        Ok(())
    };
    pipeline
        .generate(&params, image.as_ref(), &mut recorder, &|| false, &mut sink)
        .unwrap();
    let decoded = Tensor::cat(&frames, 1).unwrap().unsqueeze(0).unwrap();
    recorder.0.insert("decoded".into(), decoded);
    recorder.0
}

/// Order in which tensors are made, so that the first line that fails is the cause.
fn rank(name: &str) -> (usize, String) {
    let (head, tail) = name.split_once('.').unwrap_or((name, ""));
    match head {
        "tokens" => (0, tail.into()),
        "text" => (1, tail.into()),
        "noise" | "timesteps" | "sigmas" => (2, name.into()),
        "condition" | "image_latents" => (3, name.into()),
        "velocity_cond" => (4, format!("{tail}.0")),
        "velocity_uncond" => (4, format!("{tail}.1")),
        "latents" if tail != "final" => (4, format!("{tail}.2")),
        "latents" => (5, tail.into()),
        _ => (6, name.into()),
    }
}

fn compare(title: String, found: &BTreeMap<String, Tensor>, reference: &Tensors) {
    let mut gate = Gate::new(title);
    let mut names = reference.names();
    names.retain(|name| !matches!(*name, "image_u8" | "frames_u8"));
    names.sort_by_key(|name| rank(name));
    for name in names {
        let wanted = reference.get(name);
        let tensor = found
            .get(name)
            .unwrap_or_else(|| panic!("the run has no tensor {name}"));
        match name.split('.').next().unwrap() {
            "tokens" => gate.same(name, &values(tensor), &values(wanted)),
            // Bit for bit.
            "noise" => gate.same(name, &values_f32(tensor), &values_f32(wanted)),
            "timesteps" => gate.same(name, &values_f32(tensor), &values_f32(wanted)),
            "text" | "condition" | "image_latents" => gate.close(name, tensor, wanted, COMPONENT),
            _ => gate.close(name, tensor, wanted, RUN),
        }
    }
    gate.close_bytes(
        "frames_u8",
        found.get("decoded").unwrap(),
        reference.get("frames_u8"),
    );
    gate.finish();
}

#[test]
fn runs_from_the_diffusers_layout_equal_the_reference() {
    for (kind, name) in RUNS {
        let (run, reference) = fixture::run(kind, name);
        let found = generate(&fixture::folder(kind), &run, &reference, Offload::None);
        compare(format!("{kind}, run {name}"), &found, &reference);
    }
}

#[test]
fn runs_from_the_official_layout_equal_the_reference() {
    for (kind, name) in RUNS {
        let (mut run, reference) = fixture::run(kind, name);
        let stored = Checkpoint::open(fixture::folder(kind)).unwrap();
        // The official layout stores no shift: pass the one the reference used.
        run.flow_shift = run
            .flow_shift
            .or_else(|| stored.scheduler_config().and_then(|config| config.shift()));
        let folder = official::checkpoint(kind);
        assert_eq!(
            Checkpoint::open(folder.path()).unwrap().layout(),
            Layout::Official
        );
        let found = generate(folder.path(), &run, &reference, Offload::None);
        compare(
            format!("{kind}, run {name}, official layout"),
            &found,
            &reference,
        );
    }
}

/// The same launches as on a card, kernel by kernel on the host; threads in two orders.
#[cfg(feature = "shim")]
#[test]
fn runs_through_the_kernels_equal_the_reference() {
    for (order, kind, name) in [(0, "ti2v-5b", "i2v"), (7, "t2v-a14b", "t2v")] {
        let (run, reference) = fixture::run(kind, name);
        let found = leoma_kernels::with_shim(order, || {
            generate(&fixture::folder(kind), &run, &reference, Offload::None)
        });
        compare(format!("{kind}, run {name}, shim"), &found, &reference);
    }
}

#[test]
fn offloading_experts_changes_no_bit() {
    for kind in ["i2v-a14b", "ti2v-5b"] {
        let (run, reference) = fixture::run(kind, "i2v");
        let whole = generate(&fixture::folder(kind), &run, &reference, Offload::None);
        let offloaded = generate(&fixture::folder(kind), &run, &reference, Offload::Experts);
        let mut gate = Gate::new(format!("{kind}, offload experts"));
        for name in whole.keys() {
            gate.same(
                name,
                &values_f32(&offloaded[name]),
                &values_f32(&whole[name]),
            );
        }
        gate.finish();
    }
}

/// A cancelled run does no more than the block it is in: the flag is asked before every one.
#[test]
fn cancelling_takes_effect_within_one_block() {
    use std::cell::Cell;

    use leoma_models::Error;
    use leoma_models::weights::Component;

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("model");
    leoma_models::tiny::make_tiny(leoma_models::weights::ModelKind::Ti2v5b, 1, &folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let layers = checkpoint
        .transformer_config(Component::Transformer)
        .num_layers;
    let params = GenerateParams {
        prompt: "a boat".into(),
        negative_prompt: String::new(),
        num_frames: 5,
        height: 64,
        width: 64,
        num_inference_steps: 2,
        guidance_scale: 5.0,
        guidance_scale_2: 5.0,
        flow_shift: 5.0,
        boundary_ratio: None,
        scheduler: SchedulerKind::UniPc,
        seed: 0,
        noise: NoiseSource::TorchCpu,
        tiling: None,
    };
    let mut pipeline =
        WanPipeline::new(checkpoint, Precision::F32, &Device::Cpu, Offload::None).unwrap();
    let mut run = |cancel_at: usize| {
        let asked = Cell::new(0);
        let cancelled = || {
            asked.set(asked.get() + 1);
            asked.get() >= cancel_at
        };
        let unobserved = &mut leoma_models::wan::pipeline::Unobserved;
        let result = pipeline.denoise(&params, None, unobserved, &cancelled);
        (result.map(drop), asked.get())
    };
    let (whole, asked) = run(usize::MAX);
    whole.unwrap();
    assert!(params.guided());
    assert!(
        asked >= 2 * 2 * layers,
        "{asked} times for {layers} blocks, two steps, two passes"
    );
    for cancel_at in [1, asked / 3, asked / 2, asked] {
        let (result, asked) = run(cancel_at);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert_eq!(asked, cancel_at, "nothing is begun after the answer");
    }
}
