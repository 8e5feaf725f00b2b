//! Decode of a small clip by a VAE 2.2 decoder of the released widths, with peak memory.
//!
//! Speed is measured like every case. Memory is measured afterwards in one fresh process per side:
//! weights and latents are loaded, the peak is reset, one clip is decoded. The decoded clip itself is
//! kept and counts on both sides.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_core::Tensor;
use leoma_models::wan::VaeConfig;
use leoma_models::wan::vae::{AutoencoderKlWan, VaeParts};
use serde_json::{Value, json};

use super::weights::{Shapes, open, unit, write_inputs, write_weights};
use crate::case::{Case, Planned, once, text};
use crate::cli::Size;
use crate::clock;
use crate::measure::Subject;
use crate::peer::MemoryProbe;

/// Pixel frames of the clip.
const FRAMES: usize = 13;

pub(crate) fn list(size: Size) -> Vec<Planned> {
    let side = side(size);
    vec![Planned {
        name: "vae-decode/2.2".into(),
        what: format!(
            "VAE 2.2 decode, decoder base width {}, {} latent channels, {FRAMES} frames of \
             {side}x{side}",
            config(size).decoder_base_dim.unwrap_or_default(),
            config(size).z_dim,
        ),
        limit: 1.5,
        peer_case: "vae-decode",
        memory_limit: Some(0.5),
        prepare: Box::new(move |work| Ok(Box::new(VaeDecode::prepare(size, work)?))),
    }]
}

/// A decoder with its latents.
struct VaeDecode {
    vae: AutoencoderKlWan,
    size: Size,
    /// `[z, t, h, w]`.
    latents: Tensor,
    weights: PathBuf,
    inputs: PathBuf,
}

/// Files of the case: weights, then inputs.
pub(crate) fn files(work: &Path) -> [PathBuf; 2] {
    ["weights", "inputs"].map(|kind| work.join(format!("vae-decode-{kind}.safetensors")))
}

/// What the peer needs to load the case.
pub(crate) fn peer_setup(size: Size, weights: &Path, inputs: &Path) -> Value {
    json!({ "config": config(size), "weights": text(weights), "inputs": text(inputs) })
}

/// One decode in this process, with its peak memory.
pub(crate) fn probe_memory(size: Size, work: &Path) -> Result<MemoryProbe> {
    let mut case = VaeDecode::prepare(size, work)?;
    clock::trim_allocator();
    let peak_was_reset = clock::reset_peak();
    let before_bytes = clock::resident_bytes();
    let clip = case.run(Subject::Leoma)?;
    let peak_bytes = clock::peak_resident_bytes();
    drop(clip);
    Ok(MemoryProbe {
        before_bytes,
        peak_bytes,
        peak_was_reset,
    })
}

impl VaeDecode {
    fn prepare(size: Size, work: &Path) -> Result<Self> {
        let cfg = config(size);
        let [weights, inputs] = files(work);
        let weights = once(weights, |path| write_weights(path, &decoder_shapes(&cfg)))?;
        let cells = side(size) / cfg.scale_factor_spatial;
        let latents = unit(
            "latents",
            &[
                1,
                cfg.z_dim,
                (FRAMES - 1) / cfg.scale_factor_temporal + 1,
                cells,
                cells,
            ],
        )?;
        let inputs = once(inputs, |path| write_inputs(path, &[("latents", &latents)]))?;
        let vae = AutoencoderKlWan::new(&cfg, open(&weights)?, VaeParts::Decoder)?;
        Ok(Self {
            vae,
            size,
            latents: latents.squeeze(0)?,
            weights,
            inputs,
        })
    }
}

impl Case for VaeDecode {
    fn peer_setup(&self) -> Value {
        peer_setup(self.size, &self.weights, &self.inputs)
    }

    fn run(&mut self, subject: Subject) -> Result<Tensor> {
        if subject != Subject::Leoma {
            bail!("{} is not measured here", subject.label());
        }
        let mut chunks = Vec::new();
        self.vae.decode(&self.latents, None, &mut |frames| {
            chunks.push(frames);
            Ok(())
        })?;
        Ok(Tensor::cat(&chunks, 1)?) // [3, f, H, W] along frames
    }
}

fn side(size: Size) -> usize {
    match size {
        Size::Full => 256,
        Size::Small => 64,
    }
}

fn config(size: Size) -> VaeConfig {
    let scale = match size {
        Size::Full => 1,
        Size::Small => 16,
    };
    VaeConfig {
        base_dim: 160 / scale,
        decoder_base_dim: Some(256 / scale),
        z_dim: 48,
        dim_mult: vec![1, 2, 4, 4],
        num_res_blocks: 2,
        attn_scales: Vec::new(),
        temperal_downsample: vec![false, true, true],
        // Undoing the normalisation is no part of diffusers' decode, so that it changes nothing here.
        latents_mean: vec![0.0; 48],
        latents_std: vec![1.0; 48],
        is_residual: true,
        in_channels: 12,
        out_channels: 12,
        patch_size: Some(2),
        scale_factor_temporal: 4,
        scale_factor_spatial: 16,
    }
}

/// Tensors that decoding needs.
fn decoder_shapes(cfg: &VaeConfig) -> Shapes {
    AutoencoderKlWan::tensor_shapes(cfg)
        .into_iter()
        .filter(|(name, _)| name.starts_with("decoder.") || name.starts_with("post_quant_conv."))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_decoder_has_its_published_size() {
        let count: usize = decoder_shapes(&config(Size::Full))
            .iter()
            .filter(|(name, _)| name.starts_with("decoder."))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(count, 555_049_228);
    }

    #[test]
    fn small_decoder_runs_and_probes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut case = VaeDecode::prepare(Size::Small, dir.path()).expect("ready");
        let clip = case.run(Subject::Leoma).expect("a clip");
        assert_eq!(clip.dims(), [3, FRAMES, 64, 64]);
        let probe = probe_memory(Size::Small, dir.path()).expect("a probe");
        assert!(probe.before_bytes > 0 && probe.peak_bytes > 0);
    }
}
