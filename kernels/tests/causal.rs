//! What the judge's language model needs: causal attention with shared heads, rotation of halves, exact GELU;
//! every instruction set against f64, block borders, dtypes, errors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{close, close_f64, close_sums, each_isa, narrowed, random, squared, values};
use leoma_kernels::{causal_attention, gelu_erf, reference, rope_halves};
use proptest::prelude::*;

/// Causal attention by its definition, in f64.
fn exact(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Vec<f64> {
    let (lq, n, d) = q.dims3().unwrap();
    let (lk, g, _) = k.dims3().unwrap();
    let (q, k, v) = (values(q), values(k), values(v));
    let mut y = vec![0.0; q.len()];
    for (i, head) in (0..lq).flat_map(|i| (0..n).map(move |head| (i, head))) {
        let query = &q[(i * n + head) * d..][..d];
        let row = |j: usize| (j * g + head / (n / g)) * d;
        let scores: Vec<f64> = (0..=lk - lq + i)
            .map(|j| {
                let dot: f64 = query.iter().zip(&k[row(j)..]).map(|(q, k)| q * k).sum();
                dot * scale
            })
            .collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let out = &mut y[(i * n + head) * d..][..d];
        for (j, s) in scores.iter().enumerate() {
            for (o, v) in out.iter_mut().zip(&v[row(j)..]) {
                *o += (s - max).exp() / sum * v;
            }
        }
    }
    y
}

fn inputs(lq: usize, lk: usize, [n, g, d]: [usize; 3], seed: u64) -> [Tensor; 3] {
    [
        random(&[lq, n, d], seed),
        random(&[lk, g, d], seed ^ 1),
        random(&[lk, g, d], seed ^ 2),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn any_shape_equals_f64(
        lq in 1usize..130,
        past in 0usize..130,
        g in 1usize..4,
        group in 1usize..4,
        d in 1usize..80,
        scale in 0.05f64..1.0,
        seed: u64,
    ) {
        let [q, k, v] = inputs(lq, lq + past, [g * group, g, d], seed);
        let want = exact(&q, &k, &v, scale);
        let squares = exact(&q, &k, &squared(&v), scale);
        each_isa(|isa| {
            let got = causal_attention(&q, &k, &v, scale).unwrap();
            close_sums(&got, &want, &squares, 3e-6, isa);
        });
        let composed = reference::causal_attention(&q, &k, &v, scale).unwrap();
        close_sums(&composed, &want, &squares, 3e-6, "composed");
    }
}

#[test]
fn blocks_of_keys_and_tasks_of_queries_meet() {
    // 512 keys are a block, 96 queries a task.
    for (lq, lk) in [
        (97, 97),
        (512, 512),
        (513, 513),
        (200, 1100),
        (1, 1025),
        (300, 513),
    ] {
        let [q, k, v] = inputs(lq, lk, [4, 2, 16], lk as u64);
        let want = exact(&q, &k, &v, 0.25);
        close_f64(
            &causal_attention(&q, &k, &v, 0.25).unwrap(),
            &want,
            2e-6,
            &format!("{lq} {lk}"),
        );
    }
}

#[test]
fn later_keys_change_nothing_at_all() {
    let [q, k, v] = inputs(120, 640, [4, 2, 32], 7);
    let whole = causal_attention(&q, &k, &v, 0.2).unwrap();
    let (k_cut, v_cut) = (k.narrow(0, 0, 600).unwrap(), v.narrow(0, 0, 600).unwrap());
    let part = causal_attention(&q.narrow(0, 0, 80).unwrap(), &k_cut, &v_cut, 0.2).unwrap();
    close(
        &whole.narrow(0, 0, 80).unwrap(),
        &part,
        1e-6,
        "cut after key 600",
    );
    // Huge values in keys that are not seen must not leak as NaN or otherwise.
    let huge = (random(&[40, 2, 32], 8) * 1e30).unwrap();
    let k_huge = Tensor::cat(&[&k_cut, &huge], 0).unwrap();
    let v_huge = Tensor::cat(&[&v_cut, &huge], 0).unwrap();
    let seen = causal_attention(&q, &k_huge, &v_huge, 0.2).unwrap();
    close(
        &seen.narrow(0, 0, 80).unwrap(),
        &part,
        1e-6,
        "huge keys after key 600",
    );
}

#[test]
fn types_and_layouts() {
    let [q, k, v] = inputs(20, 33, [6, 2, 24], 3);
    let want = exact(&q, &k, &v, 0.2);
    let moved = causal_attention(&narrowed(&q), &narrowed(&k), &narrowed(&v), 0.2).unwrap();
    close_f64(&moved, &want, 2e-6, "windows");
    for (dtype, limit) in [(DType::BF16, 1e-2), (DType::F16, 2e-3)] {
        let [q, k, v] = [&q, &k, &v].map(|x| x.to_dtype(dtype).unwrap());
        let got = causal_attention(&q, &k, &v, 0.2).unwrap();
        assert_eq!(got.dtype(), dtype);
        close_f64(&got, &want, limit, "16 bits");
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let [q, k, v] = inputs(5, 8, [4, 2, 8], 1);
    for (q, k, v) in [
        (q.clone(), k.clone(), v.narrow(0, 0, 7).unwrap()),
        (q.narrow(2, 0, 6).unwrap(), k.clone(), v.clone()),
        (q.narrow(1, 0, 3).unwrap(), k.clone(), v.clone()),
        (
            q.clone(),
            k.narrow(0, 0, 4).unwrap(),
            v.narrow(0, 0, 4).unwrap(),
        ),
        (q.unsqueeze(0).unwrap(), k.clone(), v.clone()),
        (q.to_dtype(DType::BF16).unwrap(), k.clone(), v.clone()),
    ] {
        let error = causal_attention(&q, &k, &v, 1.0).unwrap_err().to_string();
        assert!(error.contains("causal_attention"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn halves_are_rotated(len in 1usize..40, heads in 1usize..5, half in 1usize..40, seed: u64) {
        let x = random(&[len, heads, 2 * half], seed);
        let (cos, sin) = (random(&[len, half], seed ^ 1), random(&[len, half], seed ^ 2));
        let (xs, cs, ss) = (values(&x), values(&cos), values(&sin));
        let mut want = vec![0.0; xs.len()];
        for row in 0..len * heads {
            for i in 0..half {
                let (a, b) = (xs[row * 2 * half + i], xs[row * 2 * half + half + i]);
                let (c, s) = (cs[row / heads * half + i], ss[row / heads * half + i]);
                want[row * 2 * half + i] = a * c - b * s;
                want[row * 2 * half + half + i] = b * c + a * s;
            }
        }
        each_isa(|isa| {
            close_f64(&rope_halves(&x, &cos, &sin).unwrap(), &want, 1e-6, isa);
        });
        close_f64(&reference::rope_halves(&x, &cos, &sin).unwrap(), &want, 1e-6, "composed");
        prop_assert!(rope_halves(&x, &cos.narrow(1, 0, half - 1).unwrap(), &sin).is_err());
    }
}

#[test]
fn exact_gelu_is_not_the_tanh_form() {
    // Abramowitz and Stegun 7.1: erf(1/sqrt(2)) = 0.682689492137086, erf(sqrt(2)) = 0.954499736103642.
    let x = Tensor::new(&[0f32, 1.0, -1.0, 2.0, -2.0, 30.0, -30.0], &Device::Cpu).unwrap();
    let want = [
        0.0,
        0.841344746068543,
        -0.158655253931457,
        1.954499736103642,
        -0.045500263896358,
        30.0,
        0.0,
    ];
    for got in [gelu_erf(&x).unwrap(), reference::gelu_erf(&x).unwrap()] {
        for (got, want) in values(&got).iter().zip(want) {
            assert!((got - want).abs() < 2e-7, "{got} {want}");
        }
    }
    let x = random(&[1000, 40], 5);
    close(
        &gelu_erf(&x).unwrap(),
        &reference::gelu_erf(&x).unwrap(),
        1e-7,
        "composed",
    );
    assert!(gelu_erf(&x.to_dtype(DType::U32).unwrap()).is_err());
}
