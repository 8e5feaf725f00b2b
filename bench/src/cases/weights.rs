//! Random weights and inputs, written once and read by both sides.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use leoma_models::weights::{MemorySource, VarBuilder};
use rayon::prelude::*;

use crate::stats::SplitMix;

/// Named shapes, as the models' `tensor_shapes` list them.
pub(crate) type Shapes = Vec<(String, Vec<usize>)>;

/// Writes random tensors of the given shapes whose sizes keep activations near 1 through any depth.
pub(crate) fn write_weights(path: &Path, shapes: &Shapes) -> Result<()> {
    let tensors = shapes
        .par_iter()
        .map(|(name, shape)| Ok((name.clone(), weight(name, shape)?)))
        .collect::<Result<HashMap<String, Tensor>>>()?;
    Ok(candle_core::safetensors::save(&tensors, path)?)
}

/// A tensor with mean 0 and variance 1, the same for the same name and shape.
pub(crate) fn unit(name: &str, shape: &[usize]) -> Result<Tensor> {
    random(name, shape, 0.0, 1.0)
}

/// Writes inputs under their names.
pub(crate) fn write_inputs(path: &Path, inputs: &[(&str, &Tensor)]) -> Result<()> {
    let named: HashMap<&str, Tensor> = inputs
        .iter()
        .map(|&(name, tensor)| (name, tensor.clone()))
        .collect();
    Ok(candle_core::safetensors::save(&named, path)?)
}

/// Opens a weights file in float32 on the CPU.
pub(crate) fn open(path: &Path) -> Result<VarBuilder> {
    let tensors: BTreeMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu)?
        .into_iter()
        .collect();
    Ok(VarBuilder::new(
        Arc::new(MemorySource::new(tensors)),
        DType::F32,
        &Device::Cpu,
    ))
}

fn weight(name: &str, shape: &[usize]) -> Result<Tensor> {
    let (mean, deviation) = distribution(name, shape);
    random(name, shape, mean, deviation)
}

/// Mean and standard deviation by the part a tensor plays.
fn distribution(name: &str, shape: &[usize]) -> (f32, f32) {
    let fan_in = shape.iter().skip(1).product::<usize>().max(1) as f32;
    let plain = fan_in.sqrt().recip();
    if name.ends_with("bias") {
        (0.0, 0.02)
    } else if name.contains("gamma") || name.contains("norm") {
        (1.0, 0.1)
    } else if name.ends_with("scale_shift_table") {
        (0.0, 0.1)
    } else if name == "shared.weight" {
        (0.0, 1.0)
    } else if name.ends_with("SelfAttention.q.weight") {
        // T5 does not divide scores by the square root of the head width: the weights do.
        (0.0, plain / 8.0)
    } else if name.ends_with("decoder.conv_out.weight") {
        // Pixels are clamped to [-1, 1]; values that are clamped compare equal whatever they were.
        (0.0, plain / 4.0)
    } else {
        (0.0, plain)
    }
}

fn random(name: &str, shape: &[usize], mean: f32, deviation: f32) -> Result<Tensor> {
    // FNV-1a of the name, so that each tensor has its own numbers.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut rng = SplitMix(seed);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|_| mean + deviation * rng.unit_variance())
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn weights_are_reproducible_scaled_and_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let shapes: Shapes = vec![
            ("a.weight".into(), vec![64, 100]),
            ("a.norm.weight".into(), vec![500]),
        ];
        write_weights(&path, &shapes).unwrap();
        let vb = open(&path).unwrap();
        let read = vb
            .get([64, 100], "a.weight")
            .unwrap()
            .flatten_all()
            .unwrap();
        let again = weight("a.weight", &[64, 100])
            .unwrap()
            .flatten_all()
            .unwrap();
        assert_eq!(
            read.to_vec1::<f32>().unwrap(),
            again.to_vec1::<f32>().unwrap()
        );
        let square = read
            .sqr()
            .unwrap()
            .mean_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!((square.sqrt() - 0.1).abs() < 0.005, "{square}");
        let norm = vb.get([500], "a.norm.weight").unwrap();
        let mean = norm.mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }

    #[test]
    fn tensors_of_other_names_differ() {
        let values = |name: &str| unit(name, &[8]).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values("x"), values("x"));
        assert_ne!(values("x"), values("y"));
    }
}
