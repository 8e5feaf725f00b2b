use candle_core::DType;
use leoma_kernels::{Conv3d, Conv3dConfig, with_shim};

use crate::support::{FLOATS, agrees, distance, random};

const CAUSAL: Conv3dConfig = Conv3dConfig {
    stride: [1; 3],
    pad: [1; 4],
    pad_front: 2,
    upsample2x: false,
};

/// Sizes of one case: x [T, H, W, C], W [C', C, kt, kh, kw], frames of history.
struct Case {
    x: [usize; 4],
    out: usize,
    kernel: [usize; 3],
    history: usize,
    cfg: Conv3dConfig,
}

impl Case {
    /// Layer and input through the kernel and on the CPU, with bias and residual and without.
    fn check(&self, dtype: DType, limit: f64) {
        let Self {
            x: [t, h, w, c],
            out,
            kernel: [kt, kh, kw],
            history,
            cfg,
        } = *self;
        let of = |shape: &[usize], seed| random(shape, 0.0, seed).to_dtype(dtype).unwrap();
        let x = of(&[t, h, w, c], 1);
        let before = (history > 0).then(|| of(&[history, h, w, c], 2));
        let weight = of(&[out, c, kt, kh, kw], 3);
        let bias = of(&[out], 4);
        let what = format!(
            "{dtype:?} {:?} -> {out}, {:?}, {cfg:?}",
            self.x, self.kernel
        );
        let layer = |bias| Conv3d::new(weight.clone(), bias, cfg);
        let shape = layer(None).unwrap().forward(&x, before.as_ref(), None);
        let residual = of(shape.unwrap().dims(), 5);
        agrees(limit, &what, || {
            layer(Some(bias.clone()))?.forward(&x, before.as_ref(), Some(&residual))
        });
        let plain = || layer(None)?.forward(&x, before.as_ref(), None);
        let found = with_shim(0, plain).unwrap();
        assert!(
            distance(&found, &plain().unwrap()) <= limit,
            "{what}, plain"
        );
    }
}

/// Every tile of the kernel, with whole and broken tiles and pieces.
#[test]
fn causal_with_all_widths() {
    for (dtype, limit) in FLOATS {
        for (c, out) in [
            (8, 32),
            (16, 64),
            (40, 96),
            (24, 130),
            (3, 96),
            (12, 5),
            (20, 33),
        ] {
            let case = Case {
                x: [2, 5, 7, c],
                out,
                kernel: [3, 3, 3],
                history: 1,
                cfg: CAUSAL,
            };
            case.check(dtype, limit);
        }
    }
}

#[test]
fn history_of_every_length() {
    for history in 0..3 {
        let case = Case {
            x: [1, 4, 6, 16],
            out: 16,
            kernel: [3, 3, 3],
            history,
            cfg: CAUSAL,
        };
        case.check(DType::BF16, 3e-3);
        case.check(DType::F32, 2e-6);
    }
}

#[test]
fn the_geometries_of_the_vae() {
    let plain = Conv3dConfig::default();
    let halve = Conv3dConfig {
        stride: [1, 2, 2],
        pad: [0, 1, 0, 1],
        ..plain
    };
    let time = Conv3dConfig {
        stride: [2, 1, 1],
        ..plain
    };
    let look_back = Conv3dConfig {
        pad_front: 2,
        ..plain
    };
    // Not the window that is taken apart: read doubled.
    let uneven = Conv3dConfig {
        pad: [2, 1, 1, 0],
        upsample2x: true,
        ..plain
    };
    for (x, kernel, history, cfg) in [
        ([2, 8, 6, 16], [1, 3, 3], 0, halve),
        ([5, 3, 4, 16], [3, 1, 1], 0, time),
        ([1, 9, 17, 16], [3, 1, 1], 2, look_back),
        ([1, 4, 3, 24], [1, 3, 3], 0, uneven),
        ([3, 4, 5, 72], [1, 1, 1], 0, plain),
    ] {
        for (dtype, limit) in FLOATS {
            let case = Case {
                x,
                out: 16,
                kernel,
                history,
                cfg,
            };
            case.check(dtype, limit);
        }
    }
}

/// Four phases; in the 16-bit types their summed weights are rounded, which the CPU does not do: the error
/// may be that of one more rounding of the weight.
#[test]
fn a_doubled_input() {
    for (dtype, limit) in [(DType::F32, 2e-6), (DType::BF16, 5e-3), (DType::F16, 7e-4)] {
        for (front, kt, history) in [(0, 1, 0), (2, 3, 1)] {
            let case = Case {
                x: [2, 5, 14, 16],
                out: 40,
                kernel: [kt, 3, 3],
                history,
                cfg: Conv3dConfig {
                    pad_front: front,
                    upsample2x: true,
                    ..CAUSAL
                },
            };
            case.check(dtype, limit);
        }
    }
}

/// A weight of another type than the input, an input that begins at an odd place, a residual that is a view.
#[test]
fn mixed_types_and_views() {
    // [2, 4, 5, 8] from the third element on.
    let x = random(&[323], 0.0, 1).to_dtype(DType::BF16).unwrap();
    let x = x.narrow(0, 3, 320).unwrap().reshape((2, 4, 5, 8)).unwrap();
    let weight = random(&[8, 8, 3, 3, 3], 0.0, 2);
    let residual = random(&[2, 5, 4, 8], 0.0, 3).permute((0, 2, 1, 3)).unwrap();
    agrees(5e-3, "views", || {
        Conv3d::new(weight.clone(), None, CAUSAL)?.forward(&x, Some(&x), Some(&residual))
    });
}

#[test]
fn a_weight_of_the_shim_does_not_leave_it() {
    let layer = with_shim(0, || {
        Conv3d::new(random(&[4, 8, 1, 1, 1], 0.0, 1), None, CAUSAL)
    });
    let error = layer
        .unwrap()
        .forward(&random(&[1, 2, 2, 8], 0.0, 2), None, None);
    assert!(error.unwrap_err().to_string().contains("shim"));
}
