//! Conditioning of the transformer: timestep and text embeddings.

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Activation, Linear, silu};

use super::load::linear;
use crate::error::Result;
use crate::wan::TransformerConfig;
use crate::weights::VarBuilder;

/// Rows of the context that cross attention sees, real tokens and zero padding together.
pub const CONTEXT_LEN: usize = 512;

/// `condition_embedder`: sinusoid → MLP → modulation rows; text rows → model width.
#[derive(Debug)]
pub struct ConditionEmbedder {
    freq_dim: usize,
    time_1: Linear,
    time_2: Linear,
    time_proj: Linear,
    text_1: Linear,
    text_2: Linear,
    dtype: DType,
    /// Type of the embedded timestep and of its projection.
    time_dtype: DType,
}

/// Embedded timesteps: `R` rows, one per distinct timestep in the clip.
#[derive(Debug)]
pub struct TimeRows {
    /// `[R, d]` f32: what the output head is modulated with.
    pub temb: Tensor,
    /// `[6, R, d]` f32: what every block is modulated with.
    pub modulation: Tensor,
}

impl ConditionEmbedder {
    /// Loads `condition_embedder.*`; the timestep MLP stays in f32 whatever the model's type is.
    pub fn new(cfg: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        let d = cfg.dim();
        let time = vb.pp("time_embedder").with_dtype(DType::F32);
        Ok(Self {
            freq_dim: cfg.freq_dim,
            time_1: linear(cfg.freq_dim, d, &time.pp("linear_1"))?,
            time_2: linear(d, d, &time.pp("linear_2"))?,
            time_proj: linear(d, 6 * d, &vb.pp("time_proj").with_dtype(vb.wide()))?,
            text_1: linear(cfg.text_dim, d, &vb.pp("text_embedder").pp("linear_1"))?,
            text_2: linear(d, d, &vb.pp("text_embedder").pp("linear_2"))?,
            dtype: vb.dtype(),
            time_dtype: vb.wide(),
        })
    }

    /// Embeds `R` distinct timesteps.
    pub fn time(&self, timesteps: &[f64], device: &Device) -> Result<TimeRows> {
        let rows = timesteps.len();
        let sinusoid = Tensor::from_vec(
            sinusoid(timesteps, self.freq_dim),
            (rows, self.freq_dim),
            device,
        )?;
        let hidden = self.time_1.forward_act(&sinusoid, Activation::Silu)?;
        let temb = self.time_2.forward(&hidden)?.to_dtype(self.time_dtype)?;
        let modulation = self.time_proj.forward(&silu(&temb)?)?;
        let d = temb.dim(1)?;
        Ok(TimeRows {
            temb: temb.to_dtype(DType::F32)?,
            // [R, 6d] → [R, 6, d] → [6, R, d]: each of the six is then a contiguous part.
            modulation: modulation
                .to_dtype(DType::F32)?
                .reshape((rows, 6, d))?
                .transpose(0, 1)?
                .contiguous()?,
        })
    }

    /// Projects text rows `[n, text_dim]` to `[n, d]`.
    pub fn text(&self, rows: &Tensor) -> Result<Tensor> {
        let hidden = self
            .text_1
            .forward_act(&rows.to_dtype(self.dtype)?, Activation::GeluTanh)?;
        Ok(self.text_2.forward(&hidden)?)
    }
}

/// `w_k = exp(-ln(10000) k / half)` in f32, to the last bit of the reference.
///
/// One unit in the last place matters: an angle of 900 rad moves by 5e-5, which is all of the distance that
/// is left to the reference. Its exponential is the correctly rounded one except at k = 12 and k = 106 of
/// 128 (and the same fractions of other powers of two), where it rounds 0.52 of a unit away; these two values
/// were read off the reference.
fn frequency(k: usize, half: usize) -> f32 {
    let exponent = -(10_000f64.ln() as f32) * k as f32 / half as f32;
    let rounded = f64::from(exponent).exp() as f32;
    match rounded.to_bits() {
        bits @ (0x3ed7_e89a | 0x39ff_4fac) => f32::from_bits(bits + 1),
        _ => rounded,
    }
}

/// `[cos(t w_k) | sin(t w_k)]`, every operation rounded to f32 as in diffusers' `get_timestep_embedding`.
fn sinusoid(timesteps: &[f64], freq_dim: usize) -> Vec<f32> {
    let half = freq_dim / 2;
    let frequencies = (0..half).map(|k| frequency(k, half)).collect::<Vec<f32>>();
    let mut out = Vec::with_capacity(timesteps.len() * freq_dim);
    for &t in timesteps {
        let angles = frequencies.iter().map(|w| t as f32 * w);
        out.extend(angles.clone().map(|angle| f64::from(angle).cos() as f32));
        out.extend(angles.map(|angle| f64::from(angle).sin() as f32));
        out.extend(std::iter::repeat_n(0.0, freq_dim % 2)); // diffusers pads an odd width with a zero
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoid_is_cosines_then_sines() {
        let row = sinusoid(&[999.0], 256);
        assert_eq!(row.len(), 256);
        assert!((row[0] - 999f32.cos()).abs() < 1e-6);
        assert!((row[128] - 999f32.sin()).abs() < 1e-6);
        // k = 127: w = 10000^(-127/128) = 1.0746e-4, t w = 0.10736.
        assert!((row[127] - 0.994_243).abs() < 1e-5 && (row[255] - 0.107_147).abs() < 1e-5);
    }
}
