//! Attention on the kernels of `cuda/attention.cu`, in the host shim, and the order of its ways.
//!
//! Tolerance: at most twice the error, against f64, of the same operations composed in the low precision
//! (scores and weights rounded to it), the rule of the flash-attention tests; and in f32 that of the
//! CPU's own path.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor};

use super::fused::{self, Variant};
use super::{AttentionBackend, AttentionPreference, attention, attention_backend, fused_attention};
use crate::cudnn::tests::Fake;
use crate::cudnn::with_library;
use crate::device::{target, with_shim};

const MMA_64: Variant = Variant::Mma {
    width: 128,
    keys: 64,
};
const MMA_32: Variant = Variant::Mma {
    width: 128,
    keys: 32,
};
const MMA_NARROW: Variant = Variant::Mma {
    width: 64,
    keys: 64,
};

/// Normally distributed with deviation `spread`.
fn random(shape: &[usize], seed: u64, spread: f32) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            let angle = std::f32::consts::TAU * uniform();
            spread * (-2.0 * uniform().ln()).sqrt() * angle.cos()
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    x.to_vec1().unwrap()
}

/// Attention by its definition in f64; with `round`, scores and weights pass through that type on the way,
/// as they do between operations of that precision.
fn exact(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, round: Option<DType>) -> Vec<f64> {
    let (b, lq, n, d) = q.dims4().unwrap();
    let lk = k.dim(1).unwrap();
    let through = |row: Vec<f64>| match round {
        None => row,
        Some(dtype) => {
            let row = Tensor::from_vec(row, lk, &Device::Cpu).unwrap();
            values(&row.to_dtype(dtype).unwrap())
        }
    };
    let (qs, ks, vs) = (values(q), values(k), values(v));
    let mut y = vec![0.0; qs.len()];
    for (b, h) in (0..b).flat_map(|b| (0..n).map(move |h| (b, h))) {
        for i in 0..lq {
            let query = ((b * lq + i) * n + h) * d;
            let row = |j: usize| ((b * lk + j) * n + h) * d;
            let dot = |j: usize| -> f64 { (0..d).map(|e| qs[query + e] * ks[row(j) + e]).sum() };
            let scores = through((0..lk).map(dot).collect());
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| ((s - max) * scale).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let weights = through(weights.into_iter().map(|w| w / sum).collect());
            for e in 0..d {
                y[query + e] = (0..lk).map(|j| weights[j] * vs[row(j) + e]).sum();
            }
        }
    }
    match round {
        None => y,
        Some(dtype) => {
            let y = Tensor::from_vec(y, q.dims(), &Device::Cpu).unwrap();
            values(&y.to_dtype(dtype).unwrap())
        }
    }
}

/// `|a - b| / |b|`; infinite where there is a NaN.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let error: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    let distance = (error / norm.max(f64::MIN_POSITIVE)).sqrt();
    if distance.is_nan() {
        f64::INFINITY
    } else {
        distance
    }
}

/// The kernel's result; the same bits whatever order the threads run in.
fn run(variant: Variant, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Tensor {
    let once = |order| -> Result<Tensor> {
        with_shim(order, || {
            fused::attention(&target(q).unwrap(), variant, q, k, v, scale)
        })
    };
    let first = once(0).unwrap();
    let bits = |x: &Tensor| values(x).into_iter().map(f64::to_bits).collect::<Vec<_>>();
    for order in [1, 7] {
        assert!(bits(&once(order).unwrap()) == bits(&first), "order {order}");
    }
    first
}

#[track_caller]
fn agrees(variant: Variant, [q, k, v]: [&Tensor; 3], scale: f64, what: &str) {
    let dtype = q.dtype();
    let got = run(variant, q, k, v, scale);
    assert_eq!((got.dims(), got.dtype()), (q.dims(), dtype), "{what}");
    assert!(got.is_contiguous());
    let want = exact(q, k, v, scale, None);
    let error = distance(&values(&got), &want);
    let yardstick = if dtype == DType::F32 {
        let twin = attention(q, k, v, scale, None).unwrap();
        let composed = super::chunked::attention(q, k, v, scale, None).unwrap();
        let errors = [twin, composed].map(|x| distance(&values(&x), &want));
        errors[0].max(errors[1]).max(5e-7)
    } else {
        // The result's own rounding is there even where the rest is exact.
        distance(&exact(q, k, v, scale, Some(dtype)), &want)
    };
    assert!(
        error <= 2.0 * yardstick,
        "{variant:?} {what}: error {error:.2e}, composed {yardstick:.2e}"
    );
}

fn inputs(sizes: [usize; 5], dtype: DType, spread: f32) -> [Tensor; 3] {
    let [b, lq, lk, n, d] = sizes;
    let of = |length, seed, spread| {
        let x = random(&[b, length, n, d], seed, spread);
        x.to_dtype(dtype).unwrap()
    };
    [of(lq, 1, spread), of(lk, 2, spread), of(lk, 3, 1.0)]
}

#[test]
fn lengths_round_the_tiles() {
    for (variant, dtype, d) in [
        (MMA_64, DType::BF16, 128),
        (MMA_32, DType::BF16, 104),
        (MMA_32, DType::F16, 128),
        (MMA_NARROW, DType::BF16, 64),
        (MMA_NARROW, DType::F16, 40),
        (Variant::Plain, DType::F32, 128),
        (Variant::Plain, DType::BF16, 12),
    ] {
        for (lq, lk) in [(1, 1), (5, 31), (64, 63), (65, 64), (127, 65), (129, 129)] {
            let [q, k, v] = inputs([2, lq, lk, 2, d], dtype, 1.0);
            let scale = (d as f64).sqrt().recip();
            agrees(
                variant,
                [&q, &k, &v],
                scale,
                &format!("{dtype:?} {lq} {lk} {d}"),
            );
        }
        let [q, k, v] = inputs([1, 33, 512, 1, d], dtype, 1.0);
        agrees(
            variant,
            [&q, &k, &v],
            0.1,
            &format!("{dtype:?} 512 keys, {d}"),
        );
    }
}

#[test]
fn parts_of_a_fused_projection_are_read_in_place() {
    for (variant, dtype, d) in [
        (MMA_64, DType::BF16, 128),
        (MMA_NARROW, DType::F16, 48),
        (Variant::Plain, DType::F32, 20),
    ] {
        let fused = random(&[2, 70, 9, d], 4, 1.0).to_dtype(dtype).unwrap();
        let part = |i: usize| fused.narrow(2, 3 * i, 3).unwrap();
        agrees(variant, [&part(0), &part(1), &part(2)], 0.2, "parts");
        let heads_first = random(&[2, 3, 70, d], 5, 1.0).to_dtype(dtype).unwrap();
        let heads_first = heads_first.transpose(1, 2).unwrap();
        agrees(
            variant,
            [&part(0), &heads_first, &part(2)],
            0.2,
            "heads first",
        );
        // An address and strides that are no multiples of 16 bytes: copied, not misread.
        let odd = random(&[2, 70, 3, d + 1], 6, 1.0).to_dtype(dtype).unwrap();
        let odd = odd.narrow(3, 1, d).unwrap();
        agrees(variant, [&odd, &part(1), &odd], 0.2, "odd");
        let turned = random(&[2, 70, d, 3], 7, 1.0).to_dtype(dtype).unwrap();
        let turned = turned.transpose(2, 3).unwrap();
        agrees(
            variant,
            [&part(0), &turned, &part(2)],
            0.2,
            "last axis not contiguous",
        );
    }
}

#[test]
fn large_scores_stay_finite_and_exact() {
    for (variant, dtype) in [
        (MMA_64, DType::BF16),
        (MMA_32, DType::F16),
        (Variant::Plain, DType::F32),
    ] {
        // Scores of some hundreds; the largest comes late for some queries.
        let [q, k, v] = inputs([1, 40, 200, 1, 128], dtype, 6.0);
        agrees(variant, [&q, &k, &v], 0.3, "large");
        let [q, k, v] = inputs([1, 40, 200, 1, 128], dtype, 1.0);
        let ramp = Tensor::arange(0f32, 200f32, &Device::Cpu).unwrap();
        let ramp = ramp
            .reshape((1, 200, 1, 1))
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        let k = k.broadcast_mul(&ramp).unwrap();
        agrees(variant, [&q, &k, &v], 0.01, "growing");
    }
}

/// The padding of a prompt: all but a few keys are equal. The rounding of equal weights is equal too, and
/// must not bias the result: the error stays that of the result's own rounding.
#[test]
fn equal_keys_do_not_add_up_their_rounding() {
    for (variant, dtype, own) in [
        (MMA_64, DType::BF16, 2f64.powi(-9)),
        (MMA_32, DType::F16, 2f64.powi(-12)),
        (Variant::Plain, DType::F32, 5e-7),
    ] {
        let [q, k, v] = inputs([1, 64, 512, 1, 128], dtype, 1.0);
        let padded = |x: &Tensor| {
            let real = x.narrow(1, 0, 12).unwrap();
            let padding = x.narrow(1, 12, 1).unwrap();
            let padding = padding.broadcast_as((1, 500, 1, 128)).unwrap();
            Tensor::cat(&[&real, &padding.contiguous().unwrap()], 1).unwrap()
        };
        let (k, v) = (padded(&k), padded(&v));
        let got = values(&run(variant, &q, &k, &v, 0.088));
        let error = distance(&got, &exact(&q, &k, &v, 0.088, None));
        assert!(error <= own, "{dtype:?}: {error:e}");
    }
}

#[test]
fn not_a_number_stays_in_its_row() {
    let [q, k, v] = inputs([1, 40, 70, 1, 64], DType::BF16, 1.0);
    let row = Tensor::arange(0u32, 40u32, &Device::Cpu).unwrap();
    let row = row
        .reshape((1, 40, 1, 1))
        .unwrap()
        .broadcast_as(q.shape())
        .unwrap();
    let nan = (q.ones_like().unwrap() * f64::NAN).unwrap();
    let q = row.eq(7u32).unwrap().where_cond(&nan, &q).unwrap();
    let got = values(&run(MMA_NARROW, &q, &k, &v, 0.125));
    for (i, row) in got.chunks(64).enumerate() {
        assert_eq!(row.iter().any(|x| x.is_nan()), i == 7, "row {i}");
    }
}

/// What the public function takes in the shim, without and with a cuDNN.
#[test]
fn the_ways_are_taken_in_order() {
    let [q, k, v] = inputs([1, 6, 9, 2, 16], DType::BF16, 1.0);
    let want = exact(&q, &k, &v, 0.25, None);
    let bias = random(&[2, 6, 9], 8, 1.0);
    let plain = attention(&q, &k, &v, 0.25, Some(&bias)).unwrap();
    let fake = Fake::new();
    with_shim(0, || {
        let target = target(&q).unwrap();
        let mma = fused::attention(&target, MMA_NARROW, &q, &k, &v, 0.25).unwrap();
        let choice = || attention_backend(&Device::Cpu, DType::BF16, 16).unwrap();
        assert_eq!(choice().backend, AttentionBackend::LeomaMma);
        assert!(choice().reason.unwrap().contains("host shim"));
        // The same bits as the kernel's: it was taken.
        let taken = attention(&q, &k, &v, 0.25, None).unwrap();
        assert_eq!(values(&taken), values(&mma));

        with_library(&fake.library, || {
            assert_eq!(choice().to_string(), "cudnn-sdpa 9.19.0");
            let taken = attention(&q, &k, &v, 0.25, None).unwrap();
            assert_eq!(fake.executions(), 1);
            assert!(distance(&values(&taken), &want) < 3e-3);
            let auto = AttentionPreference::Auto;
            let leoma = AttentionPreference::Leoma;
            for (preference, executions) in [(leoma, 1), (auto, 2)] {
                fused_attention(&target, preference, &q, &k, &v, 0.25)
                    .unwrap()
                    .unwrap();
                assert_eq!(fake.executions(), executions);
            }
            // An execution that fails: the next way serves, and the reason is kept.
            fake.fail("cudnnBackendExecute", 1, 5000);
            let taken = attention(&q, &k, &v, 0.25, None).unwrap();
            assert_eq!(values(&taken), values(&mma));
            let choice = choice();
            assert_eq!(choice.backend, AttentionBackend::LeomaMma);
            assert!(
                choice
                    .reason
                    .unwrap()
                    .contains("cudnnBackendExecute failed")
            );
        });

        // A bias, a scale that is not positive, wide heads: portions.
        let biased = attention(&q, &k, &v, 0.25, Some(&bias)).unwrap();
        assert!(distance(&values(&biased), &values(&plain)) < 3e-3);
        let negative = attention(&q, &k, &v, -0.25, None).unwrap();
        let expected = exact(&q, &k.neg().unwrap(), &v, 0.25, None);
        assert!(distance(&values(&negative), &expected) < 3e-3);
        let chunked = AttentionPreference::Chunked;
        assert!(
            fused_attention(&target, chunked, &q, &k, &v, 0.25)
                .unwrap()
                .is_none()
        );
        let wide = attention_backend(&Device::Cpu, DType::BF16, 384).unwrap();
        assert_eq!(wide.backend, AttentionBackend::Chunked);
        assert!(wide.reason.unwrap().contains("not 384"));
        let f32s = attention_backend(&Device::Cpu, DType::F32, 128).unwrap();
        assert_eq!(f32s.backend.to_string(), "leoma-fma");
    });
    let cpu = attention_backend(&Device::Cpu, DType::BF16, 128).unwrap();
    assert_eq!(cpu.to_string(), "cpu-flash");
}

#[test]
fn preferences_have_names() {
    for (name, preference) in [
        ("", AttentionPreference::Auto),
        ("auto", AttentionPreference::Auto),
        ("leoma", AttentionPreference::Leoma),
        ("chunked", AttentionPreference::Chunked),
    ] {
        assert_eq!(name.parse::<AttentionPreference>().unwrap(), preference);
    }
    let error = "fast"
        .parse::<AttentionPreference>()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("auto, leoma") && error.contains("fast"),
        "{error}"
    );
}
