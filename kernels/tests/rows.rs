//! Norms, modulation, residual, rotary embedding, activations: every instruction set against f64,
//! odd widths, dtypes, layouts, errors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{close, close_f64, each_isa, narrowed, random, scattered, values};
use leoma_kernels::{
    Norm, RmsConfig, Rotation, channel_norm, gate_residual, gelu_tanh, layer_norm,
    layer_norm_modulate, reference, residual_norm, rms_norm, rms_norm_heads, rms_norm_rope, rope,
    silu,
};
use proptest::prelude::*;

const LIMIT: f64 = 1e-6;

/// Compares `fast` on every instruction set, and `plain`, with `want`; then layouts and half
/// precision of the first argument with the same results.
fn check(
    x: &Tensor,
    want: &[f64],
    fast: &dyn Fn(&Tensor) -> Result<Tensor>,
    plain: &dyn Fn(&Tensor) -> Result<Tensor>,
) {
    close_f64(&plain(x).unwrap(), want, LIMIT, "reference");
    each_isa(|isa| {
        let got = fast(x).unwrap();
        assert_eq!((got.dims(), got.dtype()), (x.dims(), x.dtype()));
        close_f64(&got, want, LIMIT, isa);
        close(&fast(&scattered(x)).unwrap(), &got, 0.0, "scattered");
        close(
            &fast(&narrowed(x).narrow(0, 0, x.dim(0).unwrap()).unwrap()).unwrap(),
            &got,
            0.0,
            "narrowed",
        );
        for (dtype, limit) in [(DType::BF16, 3e-3), (DType::F16, 4e-4)] {
            let half = x.to_dtype(dtype).unwrap();
            let got = fast(&half).unwrap();
            assert_eq!(got.dtype(), dtype);
            close(
                &got,
                &plain(&half.to_dtype(DType::F32).unwrap()).unwrap(),
                limit,
                isa,
            );
        }
    });
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Rows of `d`, each through `f(row index, row)`.
fn by_row(x: &Tensor, d: usize, f: impl Fn(usize, &[f64]) -> Vec<f64>) -> Vec<f64> {
    values(x)
        .chunks(d)
        .enumerate()
        .flat_map(|(r, row)| f(r, row))
        .collect()
}

fn normalised(row: &[f64], eps: f64) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    row.iter()
        .map(|x| (x - mean) / (var + eps).sqrt())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn rms_norm_equals_f64(rows in 1usize..40, d in 1usize..300, seed: u64) {
        let (x, w) = (random(&[rows, d], seed), random(&[d], seed ^ 1));
        let weight = values(&w);
        let want = by_row(&x, d, |_, row| {
            let rms = (row.iter().map(|x| x * x).sum::<f64>() / d as f64 + 1e-6).sqrt();
            row.iter().zip(&weight).map(|(x, w)| x / rms * w).collect()
        });
        check(&x, &want, &|x| rms_norm(x, &w, 1e-6), &|x| reference::rms_norm(x, &w, 1e-6));
    }

    #[test]
    fn channel_norm_equals_f64(rows in 1usize..40, c in 1usize..300, act: bool, seed: u64) {
        let (x, g) = (random(&[rows, c], seed), random(&[c], seed ^ 1));
        let gamma = values(&g);
        let want = by_row(&x, c, |_, row| {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
            let y = row.iter().zip(&gamma).map(|(x, g)| x / norm * (c as f64).sqrt() * g);
            y.map(|y| if act { y * sigmoid(y) } else { y }).collect()
        });
        check(&x, &want, &|x| channel_norm(x, &g, act), &|x| reference::channel_norm(x, &g, act));
    }

    #[test]
    fn layer_norm_equals_f64(rows in 1usize..40, d in 8usize..300, affine: bool, seed: u64) {
        let (x, w, b) = (random(&[rows, d], seed), random(&[d], seed ^ 1), random(&[d], seed ^ 2));
        let (weight, bias) = (values(&w), values(&b));
        let want = by_row(&x, d, |_, row| {
            let y = normalised(row, 1e-6);
            let scaled = y.iter().zip(weight.iter().zip(&bias)).map(|(y, (w, b))| y * w + b);
            if affine { scaled.collect() } else { y }
        });
        let params = affine.then_some((&w, &b));
        let plain = |x: &Tensor| reference::layer_norm(x, params, 1e-6);
        check(&x, &want, &|x| layer_norm(x, params, 1e-6), &plain);
    }

    #[test]
    fn modulation_equals_f64(
        len in 1usize..60, d in 8usize..300, rows in 1usize..3, part in 0.0f64..=1.0, seed: u64,
    ) {
        let first = (part * len as f64) as usize;
        let x = random(&[len, d], seed);
        let (scale, shift) = (random(&[rows, d], seed ^ 1), random(&[rows, d], seed ^ 2));
        let (a, b) = (values(&scale), values(&shift));
        let row_of = |r: usize| if rows == 2 && r >= first { d } else { 0 };
        let want = by_row(&x, d, |r, row| {
            let (a, b) = (&a[row_of(r)..], &b[row_of(r)..]);
            let y = normalised(row, 1e-6);
            y.iter().zip(a.iter().zip(b)).map(|(y, (a, b))| y * (1.0 + a) + b).collect()
        });
        check(
            &x,
            &want,
            &|x| layer_norm_modulate(x, &scale, &shift, first, 1e-6),
            &|x| reference::layer_norm_modulate(x, &scale, &shift, first, 1e-6),
        );
        let y = random(&[len, d], seed ^ 3);
        let ys = values(&y);
        let want = by_row(&x, d, |r, row| {
            let (a, y) = (&a[row_of(r)..], &ys[r * d..]);
            row.iter().zip(a.iter().zip(y)).map(|(x, (a, y))| x + y * a).collect()
        });
        check(
            &x,
            &want,
            &|x| gate_residual(x, &y, &scale, first),
            &|x| reference::gate_residual(x, &y, &scale, first),
        );
    }

    #[test]
    fn rope_equals_f64(len in 1usize..30, heads in 1usize..5, half in 1usize..70, seed: u64) {
        let d = 2 * half;
        let x = random(&[len, heads, d], seed);
        let (cos, sin) = (random(&[len, half], seed ^ 1), random(&[len, half], seed ^ 2));
        let (c, s) = (values(&cos), values(&sin));
        let want = by_row(&x, d, |r, row| {
            let at = r / heads * half;
            (0..d)
                .map(|i| {
                    let (c, s) = (c[at + i / 2], s[at + i / 2]);
                    let (a, b) = (row[i / 2 * 2], row[i / 2 * 2 + 1]);
                    if i % 2 == 0 { a * c - b * s } else { a * s + b * c }
                })
                .collect()
        });
        check(&x, &want, &|x| rope(x, &cos, &sin), &|x| reference::rope(x, &cos, &sin));
    }

    // Of a few values one that cancels, or rounds badly, would be all there is.
    #[test]
    fn activations_equal_f64(n in 16usize..500, gain in 0.01f64..30.0, seed: u64) {
        let x = (random(&[n, 3], seed) * gain).unwrap();
        let want = by_row(&x, 3, |_, row| row.iter().map(|&x| x * sigmoid(x)).collect());
        check(&x, &want, &silu, &reference::silu);
        let want = by_row(&x, 3, |_, row| {
            let u = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            row.iter().map(|&x| 0.5 * x * (1.0 + u(x).tanh())).collect()
        });
        check(&x, &want, &gelu_tanh, &reference::gelu_tanh);
    }
}

/// One pass gives the bits of the operations one after the other, whatever the type between them.
#[test]
fn fused_operations_equal_their_parts() {
    let same = |a: &Tensor, b: &Tensor, what: &str| {
        assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()), "{what}");
        close(a, b, 0.0, what);
    };
    // Several chunks of rows, and rows wider than a chunk.
    for (len, heads, width) in [(5, 3, 10), (700, 2, 48), (3, 150, 128)] {
        let d = heads * width;
        let (scale, shift) = (random(&[2, d], 1), random(&[2, d], 2));
        let (gate, weight, bias) = (random(&[2, d], 3), random(&[d], 4), random(&[d], 5));
        let (cos, sin) = (random(&[len, width / 2], 6), random(&[len, width / 2], 7));
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let x = random(&[len, d], 8).to_dtype(dtype).unwrap();
            let y = random(&[len, d], 9).to_dtype(dtype).unwrap();
            each_isa(|isa| {
                let what = format!("{isa} {dtype:?} {len} x {d}");
                let norm = Norm::Modulated {
                    scale: &scale,
                    shift: &shift,
                };
                let (sum, normed) = residual_norm(&x, &y, Some(&gate), &norm, 2, 1e-6).unwrap();
                same(&sum, &gate_residual(&x, &y, &gate, 2).unwrap(), &what);
                let parts = layer_norm_modulate(&sum, &scale, &shift, 2, 1e-6).unwrap();
                same(&normed, &parts, &what);
                let norm = Norm::Affine {
                    weight: &weight,
                    bias: &bias,
                };
                let (sum, normed) = residual_norm(&x, &y, None, &norm, 0, 1e-6).unwrap();
                same(&sum, &(&x + &y).unwrap(), &what);
                let parts = layer_norm(&sum, Some((&weight, &bias)), 1e-6).unwrap();
                same(&normed, &parts, &what);

                let q = x.reshape((len, heads, width)).unwrap();
                let k = y.reshape((len, heads, width)).unwrap();
                let rotation = Rotation {
                    cos: &cos,
                    sin: &sin,
                };
                let config = RmsConfig {
                    eps: 1e-6,
                    ..RmsConfig::default()
                };
                let both = rms_norm_rope((&q, &weight), (&k, &bias), &rotation, &config).unwrap();
                for (found, rows, weight) in [(both.0, &x, &weight), (both.1, &y, &bias)] {
                    let parts = rms_norm(rows, weight, 1e-6).unwrap();
                    let parts = parts.reshape((len, heads, width)).unwrap();
                    same(&found, &rope(&parts, &cos, &sin).unwrap(), &what);
                    let rows = rows.reshape((len, heads, width)).unwrap();
                    let unrotated = rms_norm_heads(&rows, weight, &config).unwrap();
                    same(&unrotated, &parts, &what);
                }
            });
        }
    }
}

#[test]
fn large_tensors_are_cut_into_chunks_and_joined() {
    // Wider than one chunk, and several chunks of rows.
    for (rows, d) in [(3, 20_000), (700, 96), (100_003, 1)] {
        let (x, w) = (random(&[rows, d], 1), random(&[d], 2));
        each_isa(|isa| {
            let want = reference::rms_norm(&x, &w, 1e-6).unwrap();
            close(&rms_norm(&x, &w, 1e-6).unwrap(), &want, LIMIT, isa);
            close(
                &silu(&x).unwrap(),
                &reference::silu(&x).unwrap(),
                LIMIT,
                isa,
            );
        });
    }
}

#[test]
fn extremes_stay_finite_and_nan_stays_nan() {
    let x = vec![-3e38, -200.0, -90.0, -0.0, 0.0, 90.0, 200.0, 3e38, f32::NAN];
    let x = Tensor::from_vec(x, 9, &Device::Cpu).unwrap();
    each_isa(|isa| {
        for y in [silu(&x).unwrap(), gelu_tanh(&x).unwrap()] {
            let y = values(&y);
            assert!(
                y[..3].iter().all(|y| y.abs() < 1e-30 || *y <= 0.0),
                "{isa}: {y:?}"
            );
            assert!(y[..3].iter().all(|y| y.abs() < 2.0), "{isa}: {y:?}");
            assert_eq!(
                (y[3], y[4], y[5], y[6], y[7]),
                (0.0, 0.0, 90.0, 200.0, 3e38f32 as f64),
                "{isa}"
            );
            assert!(y[8].is_nan(), "{isa}");
        }
        let zero = Tensor::zeros((2, 8), DType::F32, &Device::Cpu).unwrap();
        let ones = Tensor::ones(8, DType::F32, &Device::Cpu).unwrap();
        assert!(
            values(&channel_norm(&zero, &ones, true).unwrap())
                .iter()
                .all(|y| *y == 0.0)
        );
    });
}

#[test]
fn parameters_may_be_half_and_the_second_operand_another_dtype() {
    let (x, y) = (
        random(&[5, 40], 1),
        random(&[5, 40], 2).to_dtype(DType::BF16).unwrap(),
    );
    let gate = random(&[1, 40], 3).to_dtype(DType::F16).unwrap();
    each_isa(|isa| {
        let want = reference::gate_residual(&x, &y, &gate, 0).unwrap();
        close(&gate_residual(&x, &y, &gate, 0).unwrap(), &want, LIMIT, isa);
    });
}

#[test]
fn empty_inputs_give_empty_results() {
    let none = Tensor::zeros((0, 8), DType::F32, &Device::Cpu).unwrap();
    let (row, one) = (random(&[1, 8], 1), random(&[8], 1));
    for y in [
        rms_norm(&none, &one, 1e-6),
        channel_norm(&none, &one, true),
        layer_norm(&none, None, 1e-6),
        layer_norm_modulate(&none, &row, &row, 0, 1e-6),
        gate_residual(&none, &none, &row, 0),
        silu(&none),
    ] {
        assert_eq!(y.unwrap().dims(), [0, 8]);
    }
}

#[test]
fn wrong_shapes_are_errors_with_the_shapes() {
    let (x, seven, row) = (random(&[4, 8], 1), random(&[7], 1), random(&[1, 8], 1));
    let says = |result: Result<Tensor>, op: &str, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(op) && error.contains(text), "{error}");
    };
    says(rms_norm(&x, &seven, 1e-6), "rms_norm", "[7]");
    says(channel_norm(&x, &seven, false), "channel_norm", "[7]");
    says(
        layer_norm(&x, Some((&seven, &seven)), 1e-6),
        "layer_norm",
        "[7]",
    );
    says(
        layer_norm_modulate(&x, &row, &random(&[2, 8], 1), 1, 1e-6),
        "layer_norm_modulate",
        "[2, 8]",
    );
    says(
        layer_norm_modulate(&x, &random(&[3, 8], 1), &row, 1, 1e-6),
        "layer_norm_modulate",
        "[3, 8]",
    );
    let two = random(&[2, 8], 1);
    says(
        layer_norm_modulate(&x, &two, &two, 5, 1e-6),
        "layer_norm_modulate",
        "only 4 tokens",
    );
    says(
        gate_residual(&x, &random(&[4, 7], 1), &row, 0),
        "gate_residual",
        "[4, 7]",
    );
    says(
        gate_residual(&x, &x, &random(&[1, 7], 1), 0),
        "gate_residual",
        "[1, 7]",
    );
    let heads = x.reshape((4, 2, 4)).unwrap();
    says(
        rope(&heads, &random(&[4, 3], 1), &random(&[4, 2], 1)),
        "rope",
        "[4, 3]",
    );
    says(
        rope(&random(&[4, 2, 3], 1), &seven, &seven),
        "rope",
        "[4, 2, 3]",
    );
    says(
        silu(&Tensor::zeros(3, DType::U8, &Device::Cpu).unwrap()),
        "silu",
        "U8",
    );
}
