//! Linear layers: every instruction set against f64, tails of all sizes, dtypes, layouts, errors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{
    close, close_f64, close_sums, each_isa, narrowed, random, scattered, squared, values,
};
use leoma_kernels::{Activation, Linear, reference};
use proptest::prelude::*;

/// `act(x W^T + b)` in f64.
fn exact(x: &Tensor, w: &Tensor, b: Option<&Tensor>, act: Activation) -> Vec<f64> {
    let (n, k) = w.dims2().unwrap();
    let (x, w) = (values(x), values(w));
    let b = b.map_or(vec![0.0; n], values);
    let mut y = Vec::new();
    for row in x.chunks(k) {
        for (col, w) in w.chunks(k).enumerate() {
            let sum = row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + b[col];
            y.push(match act {
                Activation::None => sum,
                Activation::Silu => sum / (1.0 + (-sum).exp()),
                Activation::GeluTanh => {
                    let u = (2.0 / std::f64::consts::PI).sqrt() * (sum + 0.044715 * sum.powi(3));
                    0.5 * sum * (1.0 + u.tanh())
                }
            });
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_equals_f64(
        m in 1usize..40,
        k in 1usize..600,
        n in 1usize..100,
        act in prop::sample::select(vec![Activation::None, Activation::GeluTanh, Activation::Silu]),
        bias: bool,
        seed: u64,
    ) {
        let (x, w) = (random(&[m, k], seed), random(&[n, k], seed ^ 1));
        let b = bias.then(|| random(&[n], seed ^ 2));
        let want = exact(&x, &w, b.as_ref(), act);
        let b2 = b.as_ref().map(squared);
        let squares = exact(&squared(&x), &squared(&w), b2.as_ref(), Activation::None);
        each_isa(|isa| {
            let layer = Linear::new(w.clone(), b.clone()).unwrap();
            let got = layer.forward_act(&x, act).unwrap();
            assert_eq!(got.dims(), [m, n]);
            close_sums(&got, &want, &squares, 3e-6, isa);
        });
        let plain = reference::linear(&x, &w, b.as_ref(), act).unwrap();
        close_sums(&plain, &want, &squares, 3e-6, "reference");
    }
}

#[test]
fn every_tile_height_and_width() {
    for m in 1..=26 {
        for n in [1, 15, 16, 17, 31, 32, 33, 48, 64] {
            let (x, w) = (random(&[m, 37], m as u64), random(&[n, 37], n as u64));
            let want = exact(&x, &w, None, Activation::None);
            each_isa(|isa| {
                let got = Linear::new(w.clone(), None).unwrap().forward(&x).unwrap();
                close_f64(&got, &want, 1e-6, &format!("{isa} {m}x{n}"));
            });
        }
    }
}

#[test]
fn several_blocks_in_every_direction() {
    let (x, w) = (random(&[401, 1100], 1), random(&[330, 1100], 2));
    let b = random(&[330], 3);
    let want = exact(&x, &w, Some(&b), Activation::Silu);
    each_isa(|isa| {
        let layer = Linear::new(w.clone(), Some(b.clone())).unwrap();
        close_f64(
            &layer.forward_act(&x, Activation::Silu).unwrap(),
            &want,
            2e-6,
            isa,
        );
    });
}

#[test]
fn leading_axes_and_layouts() {
    let (x, w) = (random(&[2, 3, 50], 4), random(&[20, 50], 5));
    each_isa(|isa| {
        let layer = Linear::new(scattered(&w), None).unwrap();
        let want = layer.forward(&x).unwrap();
        assert_eq!(want.dims(), [2, 3, 20]);
        close(
            &want,
            &reference::linear(&x, &w, None, Activation::None).unwrap(),
            1e-6,
            isa,
        );
        close(&layer.forward(&scattered(&x)).unwrap(), &want, 0.0, isa);
        close(&layer.forward(&narrowed(&x)).unwrap(), &want, 0.0, isa);
        let line = x.get(0).unwrap().get(1).unwrap();
        close(
            &layer.forward(&line).unwrap(),
            &want.get(0).unwrap().get(1).unwrap(),
            0.0,
            isa,
        );
    });
}

#[test]
fn half_weights_and_inputs_compute_in_f32() {
    for dtype in [DType::BF16, DType::F16] {
        let (x, w, b) = (random(&[23, 70], 6), random(&[50, 70], 7), random(&[50], 8));
        let w = w.to_dtype(dtype).unwrap();
        let want = exact(&x, &w, Some(&b), Activation::None);
        let half = x.to_dtype(dtype).unwrap();
        let half_want = exact(&half, &w, Some(&b), Activation::None);
        each_isa(|isa| {
            let layer = Linear::new(w.clone(), Some(b.clone())).unwrap();
            close_f64(&layer.forward(&x).unwrap(), &want, 1e-6, isa);
            let got = layer.forward(&half).unwrap();
            assert_eq!(got.dtype(), dtype);
            // One rounding of the result: 2^-9 for bf16, 2^-12 for f16.
            let limit = if dtype == DType::BF16 { 2.5e-3 } else { 3e-4 };
            close_f64(&got, &half_want, limit, isa);
        });
    }
}

#[test]
fn result_does_not_depend_on_threads() {
    let layer = Linear::new(random(&[200, 1500], 9), None).unwrap();
    let x = random(&[300, 1500], 10);
    let want = layer.forward(&x).unwrap();
    for threads in [1, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        close(
            &pool.install(|| layer.forward(&x)).unwrap(),
            &want,
            0.0,
            "threads",
        );
    }
}

#[test]
fn nan_reaches_the_result() {
    let mut w = vec![1f32; 6];
    w[1] = f32::NAN;
    let layer = Linear::new(Tensor::from_vec(w, (2, 3), &Device::Cpu).unwrap(), None).unwrap();
    for act in [Activation::None, Activation::GeluTanh, Activation::Silu] {
        let y = values(&layer.forward_act(&random(&[1, 3], 1), act).unwrap());
        assert!(y[0].is_nan() && y[1].is_finite());
    }
}

#[test]
fn no_rows_give_no_rows() {
    let layer = Linear::new(random(&[4, 3], 1), None).unwrap();
    let x = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(layer.forward(&x).unwrap().dims(), [0, 4]);
}

#[test]
fn wrong_shapes_are_errors_with_the_shapes() {
    let layer = Linear::new(random(&[4, 3], 1), None).unwrap();
    assert_eq!((layer.in_features(), layer.out_features()), (3, 4));
    let error = layer.forward(&random(&[2, 5], 1)).unwrap_err().to_string();
    assert!(
        error.contains("linear") && error.contains("[2, 5]") && error.contains("[4, 3]"),
        "{error}"
    );
    assert!(Linear::new(random(&[4], 1), None).is_err());
    assert!(Linear::new(random(&[4, 3], 1), Some(random(&[3], 1))).is_err());
    let ints = Tensor::zeros((2, 3), DType::U32, &Device::Cpu).unwrap();
    assert!(layer.forward(&ints).is_err());
}
