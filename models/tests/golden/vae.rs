//! VAE 2.1 (A14B) and 2.2 (5B): encode, decode.

use candle_core::{Device, Tensor};
use leoma_models::wan::vae::{AutoencoderKlWan, VaeParts};
use leoma_models::weights::{Checkpoint, Component};

use crate::fixture::{self, KINDS, RUNS, Tensors};
use crate::gate::{COMPONENT, Gate};

pub(crate) fn open(kind: &str) -> (Checkpoint, AutoencoderKlWan) {
    let checkpoint = Checkpoint::open(fixture::folder(kind)).unwrap();
    let vb = fixture::builder(&checkpoint, Component::Vae);
    let vae = AutoencoderKlWan::new(checkpoint.vae_config(), vb, VaeParts::Both).unwrap();
    (checkpoint, vae)
}

/// All frames of `latents [z, T, h, w]`: `[3, F, H, W]`.
fn decode(vae: &AutoencoderKlWan, latents: &Tensor) -> Tensor {
    let mut frames = Vec::new();
    let mut sink = |frame| {
        frames.push(frame);
        Ok(())
    };
    vae.decode(latents, None, &mut sink).unwrap();
    Tensor::cat(&frames, 1).unwrap()
}

/// `[C, T, h, w]`: the reference's raw latents, normalised.
fn normalised(checkpoint: &Checkpoint, raw: &Tensor) -> Tensor {
    let per_channel = |values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let channels = values.len();
        Tensor::from_vec(values, (channels, 1, 1, 1), &Device::Cpu).unwrap()
    };
    let config = checkpoint.vae_config();
    let centred = raw
        .broadcast_sub(&per_channel(&config.latents_mean))
        .unwrap();
    centred
        .broadcast_div(&per_channel(&config.latents_std))
        .unwrap()
}

#[test]
fn a_clip_is_encoded_and_decoded_as_by_the_reference() {
    for kind in KINDS {
        let (checkpoint, vae) = open(kind);
        let reference = Tensors::read(&fixture::folder(kind).join("vae.safetensors"));
        let latents = normalised(&checkpoint, &reference.single("latents"));
        let mut gate = Gate::new(format!("{kind}, VAE"));
        let encoded = vae.encode_video(&reference.single("clip")).unwrap();
        gate.close("encode", &encoded, &latents, COMPONENT);
        gate.close(
            "decode",
            &decode(&vae, &latents),
            &reference.single("decoded"),
            COMPONENT,
        );
        gate.finish();
    }
}

#[test]
fn the_latents_of_every_run_are_decoded_as_by_the_reference() {
    for (kind, name) in RUNS {
        let (_, vae) = open(kind);
        let (_, reference) = fixture::run(kind, name);
        let mut gate = Gate::new(format!("{kind}, run {name}, decode"));
        let frames = decode(&vae, &reference.single("latents.final"));
        gate.close("decoded", &frames, &reference.single("decoded"), COMPONENT);
        gate.finish();
    }
}

#[test]
fn the_first_frame_is_encoded_as_by_the_reference() {
    for (kind, name) in RUNS {
        let (run, reference) = fixture::run(kind, name);
        if !run.image {
            continue;
        }
        let (_, vae) = open(kind);
        let image = first_frame(&reference);
        let mut gate = Gate::new(format!("{kind}, run {name}, first frame"));
        if let Some(latents) = reference.find("image_latents") {
            let encoded = vae.encode_image(&image, 1).unwrap();
            gate.close(
                "image_latents",
                &encoded,
                &latents.squeeze(0).unwrap(),
                COMPONENT,
            );
        } else {
            // Channels 0 to 3 are the mask.
            let condition = reference.single("condition").narrow(0, 4, 16).unwrap();
            let encoded = vae.encode_image(&image, run.num_frames).unwrap();
            gate.close("condition", &encoded, &condition, COMPONENT);
        }
        gate.finish();
    }
}

/// `image_u8 [H, W, 3]` as the pipeline takes it: `[3, H, W]` in [-1, 1], computed as diffusers does.
pub(crate) fn first_frame(reference: &Tensors) -> Tensor {
    let bytes = reference
        .get("image_u8")
        .to_dtype(candle_core::DType::F32)
        .unwrap();
    let unit = (bytes / 255.0).unwrap();
    let scaled = ((unit * 2.0).unwrap() - 1.0).unwrap();
    scaled.permute((2, 0, 1)).unwrap().contiguous().unwrap()
}
