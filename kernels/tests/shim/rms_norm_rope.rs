use candle_core::{DType, Tensor};
use leoma_kernels::{RmsConfig, Rotation, reference, rms_norm, rms_norm_heads, rms_norm_rope};

use crate::support::{FLOATS, agrees, distance, random};

/// Rounding twice may fall the other way twice.
fn twice(limit: f64, dtype: DType) -> f64 {
    if dtype == DType::F32 {
        limit
    } else {
        1.6 * limit
    }
}

fn configs() -> [RmsConfig; 2] {
    [false, true].map(|round_before_weight| RmsConfig {
        eps: 1e-6,
        round_before_weight,
    })
}

#[test]
fn queries_and_keys_of_one_projection() {
    for (dtype, limit) in FLOATS {
        let limit = twice(limit, dtype);
        for (heads, width) in [(1, 2), (3, 6), (4, 32), (5, 96), (24, 128), (40, 128)] {
            let (len, d) = (3, heads * width);
            let qkv = random(&[len, 3 * d], 0.3, d as u64)
                .to_dtype(dtype)
                .unwrap();
            // [L, 3d] -> [L, 3N, D]; q and k are thirds of the heads.
            let qkv = qkv.reshape((len, 3 * heads, width)).unwrap();
            let part = |index| qkv.narrow(1, index * heads, heads).unwrap();
            let (q, k) = (part(0), part(1));
            let (q_weight, k_weight) = (random(&[d], 1.0, 2), random(&[d], 1.0, 3));
            let angles = random(&[len, width / 2], 0.0, 4);
            let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
            let rotation = Rotation {
                cos: &cos,
                sin: &sin,
            };
            for config in configs() {
                let what = format!("{dtype:?} {heads} x {width} {config:?}");
                let run = || rms_norm_rope((&q, &q_weight), (&k, &k_weight), &rotation, &config);
                agrees(limit, &what, || Ok(run()?.0));
                agrees(limit, &what, || Ok(run()?.1));
                for (found, x, weight) in [
                    (run().unwrap().0, &q, &q_weight),
                    (run().unwrap().1, &k, &k_weight),
                ] {
                    assert_eq!(found.dims(), [len, heads, width]);
                    let plain = reference::rms_norm_rope(x, weight, Some(&rotation), &config);
                    let distance = distance(&found, &plain.unwrap());
                    assert!(distance <= limit, "{what}: {distance:e} from the reference");
                }
            }
        }
    }
}

#[test]
fn without_rotation() {
    for (dtype, limit) in FLOATS {
        for (heads, width) in [(1, 1), (3, 5), (12, 128)] {
            let d = heads * width;
            let x = random(&[4, heads, width], 0.3, 1).to_dtype(dtype).unwrap();
            let weight = random(&[d], 1.0, 2);
            for config in configs() {
                let what = format!("{dtype:?} {heads} x {width} {config:?}");
                agrees(twice(limit, dtype), &what, || {
                    rms_norm_heads(&x, &weight, &config)
                });
            }
            let x = x.flatten_from(1).unwrap();
            agrees(limit, "all heads", || rms_norm(&x, &weight, 1e-6));
        }
    }
    let x = random(&[2, 3, 20], 0.3, 1);
    let weight = random(&[20], 1.0, 2);
    agrees(2e-6, "rank 3", || rms_norm(&x, &weight, 1e-6));
    let across = random(&[20, 5], 0.0, 1).t().unwrap();
    agrees(2e-6, "not contiguous", || rms_norm(&across, &weight, 1e-6));
}

#[test]
fn the_weight_comes_before_or_after_the_rounding() {
    let x = random(&[64, 2, 32], 0.0, 5).to_dtype(DType::BF16).unwrap();
    let weight = random(&[64], 1.0, 6);
    let [late, early] = configs().map(|config| {
        let kernel = leoma_kernels::with_shim(0, || rms_norm_heads(&x, &weight, &config));
        kernel.unwrap()
    });
    let distance = distance(&late, &early);
    assert!(distance > 1e-4 && distance < 5e-3, "{distance:e}");
}

#[test]
fn wrong_shapes_are_refused() {
    let (x, weight) = (random(&[4, 3, 4], 0.0, 1), random(&[12], 1.0, 2));
    let table = random(&[4, 2], 0.0, 3);
    let rotation = Rotation {
        cos: &table,
        sin: &table,
    };
    let config = RmsConfig::default();
    let run =
        |q: &Tensor, k: &Tensor| rms_norm_rope((q, &weight), (k, &weight), &rotation, &config);
    assert!(run(&x, &x).is_ok());
    for shape in [[4, 2, 6], [4, 12, 1], [4, 6, 3], [3, 3, 4]] {
        let other = random(&shape, 0.0, 1);
        assert!(run(&other, &other).is_err(), "{shape:?}");
        assert!(run(&x, &other).is_err(), "{shape:?}");
    }
    assert!(run(&x, &x.to_dtype(DType::BF16).unwrap()).is_err());
    assert!(rms_norm_heads(&x, &random(&[11], 0.0, 1), &config).is_err());
}
