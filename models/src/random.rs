//! Numbers that are the same on every machine ([`Random`]), and checkpoints of random weights in the sizes of the
//! released models, for measurements of speed and memory.
//!
//! Of a checkpoint nothing is on disk: each tensor is made when a network asks for it, in the type that it asks for, the same
//! values for the same seed on every machine. Scales are those of the tiny checkpoints ([`crate::tiny`]), so
//! that activations stay in range through any depth.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::error::{Context, Error, Result};
use crate::text::Umt5Config;
use crate::tiny::{self, init};
use crate::wan::{TransformerConfig, VaeConfig};
use crate::weights::{
    Checkpoint, Component, MadeCheckpoint, ModelKind, Sizes, TensorSource, latent_statistics,
    tensor_shapes,
};

pub use crate::tiny::init::Random;

/// Sizes of the networks of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Networks {
    /// Each expert.
    pub transformer: TransformerConfig,
    /// The video autoencoder.
    pub vae: VaeConfig,
    /// The text encoder.
    pub text: Umt5Config,
}

impl Networks {
    /// The released sizes. **Source**: the published `config.json` files of Wan-AI's diffusers repositories
    /// and of google/umt5-xxl.
    pub fn released(kind: ModelKind) -> Self {
        let residual = kind == ModelKind::Ti2v5b;
        let z_dim = if residual { 48 } else { 16 };
        let (mean, std) = latent_statistics(z_dim).unwrap_or_default();
        let channels = if residual { 12 } else { 3 };
        let (heads, ffn_dim, num_layers) = match kind {
            ModelKind::T2vA14b | ModelKind::I2vA14b => (40, 13_824, 40),
            ModelKind::Ti2v5b => (24, 14_336, 30),
            ModelKind::Wan21T2v => (12, 8_960, 30),
        };
        Self {
            transformer: TransformerConfig {
                patch_size: [1, 2, 2],
                num_attention_heads: heads,
                attention_head_dim: 128,
                // Image to video: four mask channels and the latents of the first frame beside the noise.
                in_channels: if kind == ModelKind::I2vA14b {
                    z_dim + 4 + z_dim
                } else {
                    z_dim
                },
                out_channels: z_dim,
                text_dim: 4096,
                freq_dim: 256,
                ffn_dim,
                num_layers,
                cross_attn_norm: true,
                qk_norm: Some("rms_norm_across_heads".into()),
                eps: 1e-6,
                image_dim: None,
                added_kv_proj_dim: None,
                rope_max_seq_len: 1024,
            },
            vae: VaeConfig {
                base_dim: if residual { 160 } else { 96 },
                decoder_base_dim: residual.then_some(256),
                z_dim,
                dim_mult: vec![1, 2, 4, 4],
                num_res_blocks: 2,
                attn_scales: Vec::new(),
                temperal_downsample: vec![false, true, true],
                latents_mean: mean.to_vec(),
                latents_std: std.to_vec(),
                is_residual: residual,
                in_channels: channels,
                out_channels: channels,
                patch_size: residual.then_some(2),
                scale_factor_temporal: 4,
                scale_factor_spatial: if residual { 16 } else { 8 },
            },
            text: Umt5Config {
                vocab_size: 256_384,
                d_model: 4096,
                d_kv: 64,
                d_ff: 10_240,
                num_layers: 24,
                num_heads: 64,
                relative_attention_num_buckets: 32,
                relative_attention_max_distance: 128,
                layer_norm_epsilon: 1e-6,
            },
        }
    }

    /// The sizes of [`tiny::make_tiny`].
    pub fn tiny(kind: ModelKind) -> Self {
        tiny::networks(kind)
    }

    fn sizes(&self, component: Component) -> Sizes<'_> {
        match component {
            Component::Transformer | Component::Transformer2 => {
                Sizes::Transformer(&self.transformer)
            }
            Component::Vae => Sizes::Vae(&self.vae),
            Component::TextEncoder => Sizes::Text(&self.text),
        }
    }

    /// Elements of one component's weights.
    pub fn parameters(&self, component: Component) -> u64 {
        tensor_shapes(self.sizes(component))
            .iter()
            .map(|(_, shape)| shape.iter().map(|&axis| axis as u64).product::<u64>())
            .sum()
    }
}

/// A checkpoint of `kind` with random weights. `tokenizer` is a folder with `tokenizer.json`, for example one
/// that holds [`crate::text::tiny_tokenizer_files`].
pub fn checkpoint(
    kind: ModelKind,
    networks: Networks,
    seed: u64,
    tokenizer: PathBuf,
) -> Checkpoint {
    let sources = Component::ALL
        .into_iter()
        .filter(|&component| component != Component::Transformer2 || kind.has_two_experts())
        .map(|component| {
            let source = RandomSource::new(&networks, component, seed);
            (component, Arc::new(source) as Arc<dyn TensorSource>)
        })
        .collect();
    Checkpoint::made(MadeCheckpoint {
        kind,
        transformer: networks.transformer,
        vae: networks.vae,
        text: networks.text,
        boundary_ratio: match kind {
            ModelKind::T2vA14b => Some(0.875),
            ModelKind::I2vA14b => Some(0.9),
            ModelKind::Ti2v5b | ModelKind::Wan21T2v => None,
        },
        tokenizer,
        sources,
    })
}

/// The random tensors of one component.
#[derive(Debug)]
pub struct RandomSource {
    component: Component,
    seed: u64,
    shapes: BTreeMap<String, Vec<usize>>,
    /// Deviation of a text query's weights times the root of its inputs: UMT5 does not divide its scores by
    /// the root of the head width, its weights do.
    query_gain: f64,
}

/// Values that one generator state gives; a multiple of four.
const RUN: usize = 1 << 16;

impl RandomSource {
    /// The tensors of `component` in these sizes.
    pub fn new(networks: &Networks, component: Component, seed: u64) -> Self {
        Self {
            component,
            seed,
            shapes: tensor_shapes(networks.sizes(component))
                .into_iter()
                .collect(),
            query_gain: (networks.text.d_kv as f64).sqrt().recip(),
        }
    }

    fn values<T: WithDType + Send + Sync>(
        &self,
        name: &str,
        shape: &[usize],
        of: impl Fn(f32) -> T,
    ) -> Result<Vec<T>> {
        let (mean, mut deviation) = init::scale(self.component, name, shape);
        if name.ends_with("SelfAttention.q.weight") {
            let inputs = shape.get(1).copied().unwrap_or(1).max(1) as f64;
            deviation = self.query_gain / inputs.sqrt();
        }
        // Sixteen bits per value, uniform with variance 1, looked up in the type asked for.
        let table: Vec<T> = (0..1_u32 << 16)
            .map(|bits| {
                let unit = (f64::from(bits) + 0.5) / 32_768.0 - 1.0;
                of((mean + deviation * unit * 3f64.sqrt()) as f32)
            })
            .collect();
        let count = shape.iter().product();
        let mut values: Vec<T> = Vec::new();
        values
            .try_reserve_exact(count)
            .map_err(|_| Error::local(format!("no memory for random tensor `{name}` {shape:?}")))?;
        values.resize(count, of(0.0));
        let stream = format!("{}/{name}", self.component);
        values
            .par_chunks_mut(RUN)
            .enumerate()
            .for_each(|(run, values)| {
                let mut random = init::Random::new(self.seed ^ (run as u64) << 1, &stream);
                for four in values.chunks_mut(4) {
                    let mut bits = random.bits();
                    for value in four {
                        *value = table[(bits & 0xffff) as usize];
                        bits >>= 16;
                    }
                }
            });
        Ok(values)
    }
}

impl TensorSource for RandomSource {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.shapes.keys().cloned().collect()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = self
            .shapes
            .get(name)
            .ok_or_else(|| Error::artifact(name, "tensor is missing from the random checkpoint"))?;
        let tensor = match dtype {
            DType::F32 => {
                Tensor::from_vec(self.values(name, shape, |value| value)?, &**shape, device)
            }
            DType::BF16 => {
                Tensor::from_vec(self.values(name, shape, bf16::from_f32)?, &**shape, device)
            }
            DType::F16 => {
                Tensor::from_vec(self.values(name, shape, f16::from_f32)?, &**shape, device)
            }
            other => {
                return Err(Error::local(format!(
                    "random weights are made as f32, bf16 or f16, not as {}",
                    other.as_str()
                )));
            }
        };
        tensor.context(|| format!("random tensor `{name}`"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::noise::NoiseSource;
    use crate::scheduler::SchedulerKind;
    use crate::text::tiny_tokenizer_files;
    use crate::wan::pipeline::{GenerateParams, Offload, Unobserved, WanPipeline};

    fn close(found: u64, billions: f64) -> bool {
        (found as f64 / 1e9 - billions).abs() < 0.005
    }

    /// Counts of the released networks, wan22.md sections 1.1, 5.1 and 6.
    #[test]
    fn released_networks_have_the_released_parameter_counts() {
        let a14b = Networks::released(ModelKind::I2vA14b);
        assert!(close(a14b.parameters(Component::Transformer), 14.29));
        assert_eq!(a14b.parameters(Component::TextEncoder), 5_680_910_336);
        assert_eq!(a14b.parameters(Component::Vae), 126_892_531);
        let five = Networks::released(ModelKind::Ti2v5b);
        assert!(close(five.parameters(Component::Transformer), 5.0));
        assert_eq!(five.parameters(Component::Vae), 704_688_668);
    }

    #[test]
    fn values_depend_on_seed_and_name_only_and_have_their_scale() {
        let networks = Networks::tiny(ModelKind::Ti2v5b);
        let load = |seed, dtype| {
            RandomSource::new(&networks, Component::TextEncoder, seed)
                .load("shared.weight", dtype, &Device::Cpu)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let values = load(1, DType::F32);
        assert_eq!(values, load(1, DType::F32));
        assert_ne!(values, load(2, DType::F32));
        let rounded: Vec<f32> = values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
        assert_eq!(rounded, load(1, DType::BF16));
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let square = values
            .iter()
            .map(|&v| f64::from(v) * f64::from(v))
            .sum::<f64>()
            / n;
        assert!(
            mean.abs() < 0.03 && (square - 1.0).abs() < 0.05,
            "{mean} {square}"
        );
    }

    #[test]
    fn runs_of_one_tensor_differ() {
        let source = RandomSource::new(
            &Networks::released(ModelKind::Ti2v5b),
            Component::Transformer,
            7,
        );
        let values = source.values("x", &[2, RUN], |value| value).unwrap();
        assert_ne!(values[..RUN], values[RUN..]);
    }

    #[test]
    fn a_random_checkpoint_generates_finite_frames() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in tiny_tokenizer_files() {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let kind = ModelKind::T2vA14b;
        let checkpoint = checkpoint(kind, Networks::tiny(kind), 3, dir.path().to_owned());
        let params = GenerateParams {
            prompt: "a red boat".into(),
            negative_prompt: String::new(),
            num_frames: 5,
            height: 32,
            width: 32,
            num_inference_steps: 2,
            guidance_scale: 5.0,
            guidance_scale_2: 5.0,
            flow_shift: 3.0,
            boundary_ratio: checkpoint.boundary_ratio(),
            scheduler: SchedulerKind::Euler,
            seed: 1,
            noise: NoiseSource::TorchCpu,
            tiling: None,
        };
        let mut pipeline = WanPipeline::new(
            checkpoint,
            crate::Precision::F32,
            &Device::Cpu,
            Offload::Experts,
        )
        .unwrap();
        let mut frames = 0;
        pipeline
            .generate(&params, None, &mut Unobserved, &|| false, &mut |clip| {
                let values = clip.flatten_all()?.to_vec1::<f32>()?;
                assert!(values.iter().all(|value| value.is_finite()));
                frames += clip.dim(1)?;
                Ok(())
            })
            .unwrap();
        assert_eq!(frames, 5);
    }
}
