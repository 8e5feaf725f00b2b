//! e4m3 linear layers: against f64 on the rounded operands, scales of both kinds, errors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{close, close_sums, distance, each_isa, narrowed, random, scattered, values};
use leoma_kernels::{Activation, Fp8Scale, Fp8Weight, Linear, e4m3, reference};
use proptest::prelude::*;

/// Rows of `x` rounded to e4m3 with a scale per row (or `input_scale`), back at their own size.
fn rounded(x: &Tensor, input_scale: Option<f32>) -> Vec<f64> {
    let k = *x.dims().last().unwrap();
    let x: Vec<f32> = x
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let mut out = Vec::new();
    for row in x.chunks(k) {
        let amax = row.iter().fold(0f32, |max, v| max.max(v.abs()));
        let scale = input_scale.unwrap_or(amax / 448.0);
        let inverse = input_scale.map_or(448.0 / amax, |scale| 1.0 / scale);
        for v in row {
            out.push(f64::from(e4m3::decode(e4m3::encode(v * inverse))) * f64::from(scale));
        }
    }
    out
}

/// `x W^T + b` in f64 for x [m, k] and W [n, k].
fn product(x: &[f64], w: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks(k) {
        for (w, b) in w.chunks(k).zip(b) {
            y.push(x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + b);
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn equals_the_product_of_the_rounded_operands(
        m in 1usize..20,
        k in 1usize..300,
        n in 1usize..60,
        per in prop::sample::select(vec![Fp8Scale::PerTensor, Fp8Scale::PerRow]),
        weight_only: bool,
        fixed in prop::option::of(0.001f32..0.1),
        seed: u64,
    ) {
        let (x, w, b) = (random(&[m, k], seed), random(&[n, k], seed ^ 1), random(&[n], seed ^ 2));
        let mut weight = Fp8Weight::quantize(&w, per).unwrap();
        if let Some(scale) = fixed {
            weight = weight.with_input_scale(scale).unwrap();
        }
        if weight_only {
            weight = weight.weight_only();
        }
        let w8 = values(&weight.dequantize(DType::F32).unwrap());
        let x8 = if weight_only { values(&x) } else { rounded(&x, fixed) };
        let want = product(&x8, &w8, &values(&b), k);
        let squares = |x: &[f64]| {
            let [x, w, b] = [x, &w8, &values(&b)].map(|v| v.iter().map(|v| v * v).collect::<Vec<_>>());
            product(&x, &w, &b, k)
        };
        each_isa(|isa| {
            let layer = Linear::fp8(weight.clone(), Some(b.clone())).unwrap();
            assert_eq!((layer.in_features(), layer.out_features()), (k, n));
            close_sums(&layer.forward(&x).unwrap(), &want, &squares(&x8), 3e-6, isa);
        });
        let plain = reference::fp8_linear(&x, &weight, Some(&b), Activation::None).unwrap();
        let x = values(&x);
        close_sums(&plain, &product(&x, &w8, &values(&b), k), &squares(&x), 3e-6, "reference");
    }
}

#[test]
fn quantising_keeps_the_largest_value_and_loses_what_e4m3_loses() {
    let w = random(&[40, 96], 3);
    // Rows of very different size: one scale loses the small ones, a scale per row does not.
    let sizes: Vec<f32> = (0..40).map(|row| 10f32.powi(row % 7 - 5)).collect();
    let sizes = Tensor::from_vec(sizes, (40, 1), &Device::Cpu).unwrap();
    let uneven = w.broadcast_mul(&sizes).unwrap();
    let error = |w: &Tensor, per| {
        let weight = Fp8Weight::quantize(w, per).unwrap();
        let scales = if per == Fp8Scale::PerRow { 40 } else { 1 };
        assert_eq!(weight.scale().dims(), [scales]);
        let back = weight.dequantize(DType::F32).unwrap();
        for row in 0..40 {
            let amax = |t: &Tensor| {
                values(&t.get(row).unwrap())
                    .iter()
                    .fold(0f64, |m, v| m.max(v.abs()))
            };
            if per == Fp8Scale::PerRow {
                assert!((amax(&back) - amax(w)).abs() <= 1e-6 * amax(w));
            }
        }
        let rows = |t: &Tensor| t.broadcast_div(&sizes).unwrap();
        distance(&values(&rows(&back)), &values(&rows(w)))
    };
    // Three mantissa bits: at most 2^-4 of a value, about 0.025 on the whole.
    let even = error(&uneven, Fp8Scale::PerRow);
    assert!(even > 0.01 && even < 0.04, "{even}");
    assert!(error(&uneven, Fp8Scale::PerTensor) > 4.0 * even);

    // bf16 and f16 weights give the codes of their own values.
    for dtype in [DType::BF16, DType::F16] {
        let narrow = w.to_dtype(dtype).unwrap();
        let a = Fp8Weight::quantize(&narrow, Fp8Scale::PerRow).unwrap();
        let b =
            Fp8Weight::quantize(&narrow.to_dtype(DType::F32).unwrap(), Fp8Scale::PerRow).unwrap();
        assert_eq!(values(a.codes()), values(b.codes()));
        assert_eq!(values(a.scale()), values(b.scale()));
    }
}

#[test]
fn a_weight_of_codes_comes_back_bit_for_bit() {
    // Row maxima of 448 give the scale 1, so every finite code survives.
    let codes: Vec<u8> = (0..=255_u8).filter(|code| code & 0x7f != 0x7f).collect();
    let all = Tensor::from_vec(codes.clone(), (1, 254), &Device::Cpu).unwrap();
    let scale = Tensor::new(&[0.5f32], &Device::Cpu).unwrap();
    let weight = Fp8Weight::new(all, scale).unwrap();
    let back = weight.dequantize(DType::F32).unwrap();
    let again = Fp8Weight::quantize(&back, Fp8Scale::PerTensor).unwrap();
    assert_eq!(
        again
            .codes()
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap(),
        codes
    );
    assert_eq!(again.scale().to_vec1::<f32>().unwrap(), [0.5]);
}

#[test]
fn types_layouts_and_activations() {
    let (x, w, b) = (
        random(&[2, 9, 70], 5),
        random(&[33, 70], 6),
        random(&[33], 7),
    );
    let weight = Fp8Weight::quantize(&w, Fp8Scale::PerRow).unwrap();
    let layer = Linear::fp8(weight, Some(b)).unwrap();
    let plain = layer.forward(&x).unwrap();
    assert_eq!(plain.dims(), [2, 9, 33]);
    for y in [&scattered(&x), &narrowed(&x).narrow(0, 0, 2).unwrap()] {
        close(&layer.forward(y).unwrap(), &plain, 0.0, "layout");
    }
    let gelu = layer.forward_act(&x, Activation::GeluTanh).unwrap();
    close(&gelu, &reference::gelu_tanh(&plain).unwrap(), 1e-6, "gelu");
    for dtype in [DType::BF16, DType::F16] {
        let narrow = x.to_dtype(dtype).unwrap();
        let y = layer.forward(&narrow).unwrap();
        assert_eq!(y.dtype(), dtype);
        // Rounded once, from the product of the same rounded rows.
        let want = layer
            .forward(&narrow.to_dtype(DType::F32).unwrap())
            .unwrap();
        close(&y, &want.to_dtype(dtype).unwrap(), 0.0, "dtype");
    }
}

#[test]
fn layers_that_share_an_input_join() {
    let x = random(&[6, 50], 1);
    let parts: Vec<_> = [
        (Fp8Scale::PerTensor, 8),
        (Fp8Scale::PerRow, 5),
        (Fp8Scale::PerTensor, 3),
    ]
    .iter()
    .map(|&(per, n)| Fp8Weight::quantize(&random(&[n, 50], n as u64), per).unwrap())
    .collect();
    let joined = Fp8Weight::cat(&parts).unwrap();
    assert_eq!(
        (joined.out_features(), joined.scale().dims()),
        (16, &[16][..])
    );
    let y = Linear::fp8(joined, None).unwrap().forward(&x).unwrap();
    let each: Vec<_> = parts
        .iter()
        .map(|part| {
            Linear::fp8(part.clone(), None)
                .unwrap()
                .forward(&x)
                .unwrap()
        })
        .collect();
    close(&y, &Tensor::cat(&each, 1).unwrap(), 1e-6, "joined");

    let fixed: Vec<_> = parts
        .iter()
        .map(|part| part.clone().with_input_scale(0.25).unwrap())
        .collect();
    assert_eq!(Fp8Weight::cat(&fixed).unwrap().input_scale(), Some(0.25));
    let mixed = [fixed[0].clone(), parts[1].clone().weight_only()];
    let mixed = Fp8Weight::cat(&mixed).unwrap();
    assert!(mixed.input_scale().is_none() && mixed.is_weight_only());
}

#[test]
fn rows_of_zeros_nan_and_infinity() {
    let w = random(&[4, 8], 2);
    let layer = Linear::fp8(Fp8Weight::quantize(&w, Fp8Scale::PerRow).unwrap(), None).unwrap();
    let mut x = vec![0f32; 32];
    x[8..16].fill(1e-38);
    x[17] = f32::NAN;
    x[25] = f32::INFINITY;
    let x = Tensor::from_vec(x, (4, 8), &Device::Cpu).unwrap();
    let y: Vec<Vec<f32>> = layer.forward(&x).unwrap().to_vec2().unwrap();
    assert!(y[0].iter().all(|v| *v == 0.0));
    assert!(y[1].iter().all(|v| v.abs() < 1e-36));
    assert!(y[2].iter().chain(&y[3]).all(|v| v.is_nan()));
}

#[test]
fn wrong_inputs_are_errors() {
    let codes = Tensor::zeros((4, 8), DType::U8, &Device::Cpu).unwrap();
    let scale = |n: usize| Tensor::ones(n, DType::F32, &Device::Cpu).unwrap();
    let message = |result: candle_core::Result<Fp8Weight>| result.unwrap_err().to_string();
    assert!(message(Fp8Weight::new(scale(4), scale(1))).contains("u8"));
    assert!(message(Fp8Weight::new(codes.flatten_all().unwrap(), scale(1))).contains("[out, in]"));
    assert!(message(Fp8Weight::new(codes.narrow(0, 0, 0).unwrap(), scale(1))).contains("empty"));
    assert!(message(Fp8Weight::new(codes.clone(), scale(3))).contains("1 or 4"));
    let half = scale(1).to_dtype(DType::F16).unwrap();
    assert!(message(Fp8Weight::new(codes.clone(), half)).contains("f32"));
    let weight = Fp8Weight::new(codes, scale(4)).unwrap();
    for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(message(weight.clone().with_input_scale(wrong)).contains("positive"));
    }
    assert!(Linear::fp8(weight.clone(), Some(scale(3))).is_err());
    let layer = Linear::fp8(weight, None).unwrap();
    assert!(
        layer
            .forward(&random(&[2, 7], 0))
            .unwrap_err()
            .to_string()
            .contains("[.., 8]")
    );
}
