//! Offload modes change where weights are, never what comes out.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use leoma_models::Precision;
use leoma_models::noise::NoiseSource;
use leoma_models::scheduler::SchedulerKind;
use leoma_models::tiny::make_tiny;
use leoma_models::wan::pipeline::{GenerateParams, Offload, Unobserved, WanPipeline};
use leoma_models::weights::{Checkpoint, ModelKind};

fn params(guidance: f64) -> GenerateParams {
    GenerateParams {
        prompt: "a boat drifts across the lake".into(),
        negative_prompt: "blurry".into(),
        num_frames: 5,
        height: 64,
        width: 96,
        num_inference_steps: 3,
        guidance_scale: guidance,
        guidance_scale_2: guidance,
        flow_shift: 5.0,
        boundary_ratio: Some(0.9),
        scheduler: SchedulerKind::UniPc,
        seed: 1,
        noise: NoiseSource::TorchCpu,
        tiling: None,
    }
}

/// Latents and pixels of two clips in a row, with the digest of what was read.
fn clips(model: &std::path::Path, offload: Offload, guidance: f64) -> (Vec<Vec<f32>>, String) {
    let checkpoint = Checkpoint::open(model).unwrap();
    let image = (checkpoint.kind() == ModelKind::I2vA14b)
        .then(|| Tensor::full(0.25f32, (3, 64, 96), &Device::Cpu).unwrap());
    let mut pipeline = WanPipeline::new(checkpoint, Precision::F32, &Device::Cpu, offload).unwrap();
    let mut values = Vec::new();
    for _ in 0..2 {
        let clip = pipeline
            .denoise(&params(guidance), image.as_ref(), &mut Unobserved, &|| {
                false
            })
            .unwrap();
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.push(flat(clip.latents()));
        clip.decode(&mut Unobserved, &|| false, &mut |frames| {
            values.push(flat(&frames));
            Ok(())
        })
        .unwrap();
    }
    (values, pipeline.checkpoint().digest())
}

#[test]
fn every_mode_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [ModelKind::Ti2v5b, ModelKind::I2vA14b, ModelKind::T2vA14b] {
        let model = folder.path().join(kind.as_str());
        make_tiny(kind, 3, &model).unwrap();
        for guidance in [1.0, 5.0] {
            let resident = clips(&model, Offload::None, guidance);
            for offload in [Offload::Experts, Offload::Blocks] {
                let found = clips(&model, offload, guidance);
                assert!(found.0 == resident.0, "{kind} {offload} {guidance}");
                if kind == ModelKind::I2vA14b {
                    // The same tensors were read: encoder and decoder of the VAE, both experts.
                    assert_eq!(found.1, resident.1, "{offload}");
                }
            }
        }
    }
}

#[test]
fn a_cancelled_clip_leaves_a_pipeline_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny");
    make_tiny(ModelKind::T2vA14b, 3, &model).unwrap();
    let checkpoint = Checkpoint::open(&model).unwrap();
    let mut pipeline =
        WanPipeline::new(checkpoint, Precision::F32, &Device::Cpu, Offload::Blocks).unwrap();
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 6
    };
    let params = params(5.0);
    let stopped = pipeline.denoise(&params, None, &mut Unobserved, &stop);
    assert!(matches!(stopped, Err(leoma_models::Error::Cancelled)));
    let whole = pipeline.denoise(&params, None, &mut Unobserved, &|| false);
    assert!(whole.is_ok());
}
