use candle_core::{DType, Tensor};
use leoma_kernels::{Activation, Fp8Scale, Fp8Weight, Linear, LinearGroup, with_shim};

use crate::support::{FLOATS, agrees, distance, random};

/// A weight in e4m3 with one scale or one per row, as it is or prepared further.
fn weight(out: usize, inner: usize, per: Fp8Scale) -> Fp8Weight {
    Fp8Weight::quantize(&random(&[out, inner], 0.0, 3), per).unwrap()
}

/// Layer over `x` through the kernels and on the CPU.
fn check(limit: f64, what: &str, x: &Tensor, weight: &Fp8Weight, bias: bool, act: Activation) {
    let bias = bias.then(|| random(&[weight.out_features()], 0.0, 4));
    agrees(limit, &format!("{what} {:?} {act:?}", x.dtype()), || {
        Linear::fp8(weight.clone(), bias.clone())?.forward_act(x, act)
    });
}

#[test]
fn rows_are_rounded_to_the_same_codes() {
    for (dtype, limit) in FLOATS {
        for (inner, out) in [(16, 16), (272, 48), (2064, 32)] {
            let x = random(&[7, inner], 0.1, 1).to_dtype(dtype).unwrap();
            for per in [Fp8Scale::PerRow, Fp8Scale::PerTensor] {
                let weight = weight(out, inner, per);
                check(limit, "plain", &x, &weight, false, Activation::None);
                let fixed = weight.with_input_scale(0.01).unwrap();
                check(limit, "fixed scale", &x, &fixed, true, Activation::None);
            }
        }
    }
}

#[test]
fn bias_and_activations() {
    let x = random(&[2, 3, 64], 0.0, 1);
    for act in [Activation::None, Activation::GeluTanh, Activation::Silu] {
        let weight = weight(32, 64, Fp8Scale::PerRow);
        check(5e-6, "bias", &x, &weight, true, act);
        check(5e-6, "none", &x, &weight, false, act);
    }
}

/// Widths that 8-bit products do not take, and checkpoints that leave the activations alone.
#[test]
fn weights_made_wide() {
    for (dtype, limit) in FLOATS {
        for (inner, out) in [(40, 33), (64, 20)] {
            let x = random(&[5, inner], 0.0, 1).to_dtype(dtype).unwrap();
            let weight = weight(out, inner, Fp8Scale::PerRow).weight_only();
            check(limit, "wide", &x, &weight, true, Activation::GeluTanh);
        }
    }
}

#[test]
fn rows_of_zeros_of_tiny_and_of_huge_numbers() {
    let row = random(&[1, 32], 0.0, 1);
    let rows: Vec<Tensor> = [0.0, 1e-38, 1e-30, 1.0, 1e30]
        .iter()
        .map(|&factor| (&row * factor).unwrap())
        .collect();
    let x = Tensor::cat(&rows, 0).unwrap();
    let layer = || Linear::fp8(weight(16, 32, Fp8Scale::PerRow), None)?.forward(&x);
    let (found, expected) = (with_shim(0, layer).unwrap(), layer().unwrap());
    for i in 0..rows.len() {
        let (found, expected) = (found.get(i).unwrap(), expected.get(i).unwrap());
        assert!(distance(&found, &expected) <= 2e-6, "row {i}");
    }
}

#[test]
fn not_a_number_shows() {
    let x = Tensor::new(&[[f32::NAN; 16], [1.0; 16]], &candle_core::Device::Cpu).unwrap();
    let layer = || Linear::fp8(weight(16, 16, Fp8Scale::PerRow), None)?.forward(&x);
    let y: Vec<Vec<f32>> = with_shim(0, layer).unwrap().to_vec2().unwrap();
    assert!(y[0].iter().all(|v| v.is_nan()) && y[1].iter().all(|v| v.is_finite()));
}

/// Weights side by side in one product, over rows that lie apart.
#[test]
fn a_group_over_a_view() {
    let whole = random(&[6, 100], 0.0, 1).to_dtype(DType::BF16).unwrap();
    let x = whole.narrow(1, 20, 64).unwrap();
    let group = || {
        let layer = |out| Linear::fp8(weight(out, 64, Fp8Scale::PerTensor), None);
        LinearGroup::new(vec![layer(32)?, layer(16)?, layer(16)?])?.forward(&x)
    };
    let (found, expected) = (with_shim(0, group).unwrap(), group().unwrap());
    for (found, expected) in found.iter().zip(&expected) {
        assert!(distance(found, expected) <= 3e-3);
    }
    assert_eq!(found[1].stride(), [64, 1]);
}
