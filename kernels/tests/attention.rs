//! Attention: every instruction set against f64, block borders, bias, extreme scores, dtypes,
//! errors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Tensor};
use common::{close, close_f64, close_sums, each_isa, narrowed, random, squared, values};
use leoma_kernels::{attention, reference};
use proptest::prelude::*;

/// Attention by its definition, in f64.
fn exact(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Vec<f64> {
    let (b, lq, n, d) = q.dims4().unwrap();
    let lk = k.dim(1).unwrap();
    let (q, k, v) = (values(q), values(k), values(v));
    let bias = bias.map_or(vec![0.0; n * lq * lk], values);
    let mut y = vec![0.0; q.len()];
    for (b, n0) in (0..b).flat_map(|b| (0..n).map(move |n| (b, n))) {
        for i in 0..lq {
            let query = &q[((b * lq + i) * n + n0) * d..][..d];
            let row = |j: usize| ((b * lk + j) * n + n0) * d;
            let scores: Vec<f64> = (0..lk)
                .map(|j| {
                    let dot: f64 = query.iter().zip(&k[row(j)..]).map(|(q, k)| q * k).sum();
                    dot * scale + bias[(n0 * lq + i) * lk + j]
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let out = &mut y[((b * lq + i) * n + n0) * d..][..d];
            for (j, s) in scores.iter().enumerate() {
                for (o, v) in out.iter_mut().zip(&v[row(j)..]) {
                    *o += (s - max).exp() / sum * v;
                }
            }
        }
    }
    y
}

fn inputs(b: usize, lq: usize, lk: usize, n: usize, d: usize, seed: u64) -> [Tensor; 3] {
    [
        random(&[b, lq, n, d], seed),
        random(&[b, lk, n, d], seed ^ 1),
        random(&[b, lk, n, d], seed ^ 2),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn any_shape_equals_f64(
        b in 1usize..3,
        lq in 1usize..130,
        lk in 1usize..130,
        n in 1usize..4,
        d in 1usize..80,
        scale in 0.05f64..1.0,
        biased: bool,
        seed: u64,
    ) {
        let [q, k, v] = inputs(b, lq, lk, n, d, seed);
        let bias = biased.then(|| random(&[n, lq, lk], seed ^ 3));
        let want = exact(&q, &k, &v, scale, bias.as_ref());
        let squares = exact(&q, &k, &squared(&v), scale, bias.as_ref());
        each_isa(|isa| {
            let got = attention(&q, &k, &v, scale, bias.as_ref()).unwrap();
            assert_eq!(got.dims(), q.dims());
            close_sums(&got, &want, &squares, 3e-6, isa);
        });
        let plain = reference::attention(&q, &k, &v, scale, bias.as_ref()).unwrap();
        close_sums(&plain, &want, &squares, 3e-6, "reference");
    }
}

#[test]
fn several_key_blocks_and_wide_heads() {
    for (lq, lk, n, d) in [
        (7, 1100, 2, 64),
        (100, 513, 1, 128),
        (40, 70, 1, 1024),
        (5, 512, 1, 600),
    ] {
        let [q, k, v] = inputs(2, lq, lk, n, d, 7);
        let scale = (d as f64).sqrt().recip();
        let bias = random(&[n, lq, lk], 8);
        let want = exact(&q, &k, &v, scale, Some(&bias));
        each_isa(|isa| {
            let got = attention(&q, &k, &v, scale, Some(&bias)).unwrap();
            close_f64(&got, &want, 2e-6, &format!("{isa} {lq} {lk} {n} {d}"));
        });
    }
}

#[test]
fn large_scores_and_late_maxima_stay_exact() {
    // The maximum grows from block to block, so that earlier sums are scaled down again and again.
    let [q, k, v] = inputs(1, 30, 1500, 1, 32, 9);
    let ramp: Vec<f32> = (0..30 * 1500)
        .map(|i| (i % 1500) as f32 * 0.2 - 100.0)
        .collect();
    let bias = Tensor::from_vec(ramp, (1, 30, 1500), q.device()).unwrap();
    let want = exact(&q, &k, &v, 2.0, Some(&bias));
    each_isa(|isa| {
        close_f64(
            &attention(&q, &k, &v, 2.0, Some(&bias)).unwrap(),
            &want,
            5e-6,
            isa,
        );
    });
}

#[test]
fn masked_keys_do_not_count() {
    let [q, k, v] = inputs(1, 9, 700, 1, 16, 10);
    let mask: Vec<f32> = (0..9 * 700)
        .map(|i| {
            if i % 700 < 600 {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        })
        .collect();
    let bias = Tensor::from_vec(mask, (1, 9, 700), q.device()).unwrap();
    let seen = |x: &Tensor| x.narrow(1, 600, 100).unwrap();
    let want = exact(&q, &seen(&k), &seen(&v), 0.25, None);
    each_isa(|isa| {
        close_f64(
            &attention(&q, &k, &v, 0.25, Some(&bias)).unwrap(),
            &want,
            2e-6,
            isa,
        );
    });
}

#[test]
fn layouts_and_half_precision() {
    let [q, k, v] = inputs(2, 20, 30, 3, 24, 11);
    // [B, L, N, D] as a view of [B, N, L, D]
    let view = |x: &Tensor| {
        x.transpose(1, 2)
            .unwrap()
            .contiguous()
            .unwrap()
            .transpose(1, 2)
            .unwrap()
    };
    each_isa(|isa| {
        let want = attention(&q, &k, &v, 0.2, None).unwrap();
        close(
            &attention(&view(&q), &view(&k), &narrowed(&v), 0.2, None).unwrap(),
            &want,
            0.0,
            isa,
        );
        for (dtype, limit) in [(DType::BF16, 2.5e-3), (DType::F16, 3e-4)] {
            let [q, k, v] = [&q, &k, &v].map(|x| x.to_dtype(dtype).unwrap());
            let got = attention(&q, &k, &v, 0.2, None).unwrap();
            assert_eq!(got.dtype(), dtype);
            close_f64(&got, &exact(&q, &k, &v, 0.2, None), limit, isa);
        }
    });
}

#[test]
fn wrong_shapes_are_errors_with_the_shapes() {
    let [q, k, v] = inputs(1, 4, 5, 2, 8, 12);
    let says = |result: candle_core::Result<Tensor>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("attention") && error.contains(text),
            "{error}"
        );
    };
    says(
        attention(&q, &k, &random(&[1, 6, 2, 8], 1), 1.0, None),
        "[1, 6, 2, 8]",
    );
    says(
        attention(&q, &random(&[1, 5, 2, 7], 1), &v, 1.0, None),
        "[1, 5, 2, 7]",
    );
    says(
        attention(&random(&[4, 2, 8], 1), &k, &v, 1.0, None),
        "[4, 2, 8]",
    );
    says(
        attention(&q, &k, &v, 1.0, Some(&random(&[2, 5, 4], 1))),
        "[2, 5, 4]",
    );
    let none = Tensor::zeros((1, 0, 2, 8), DType::F32, q.device()).unwrap();
    says(
        attention(&q, &none, &none, 1.0, None),
        "nothing to attend to",
    );
    says(
        attention(&q, &k, &v.to_dtype(DType::BF16).unwrap(), 1.0, None),
        "dtype",
    );
}
