//! Convolutions: every instruction set against f64 loops over all geometries in use, dtypes,
//! layouts, errors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{
    close, close_f64, close_sums, each_isa, narrowed, random, scattered, squared, values,
};
use leoma_kernels::{Conv3d, Conv3dConfig, reference};
use proptest::prelude::*;

/// The convolution by its definition, in f64: frames in front, padding and doubling resolved per
/// element.
fn exact(
    x: &Tensor,
    history: Option<&Tensor>,
    w: &Tensor,
    b: Option<&Tensor>,
    cfg: Conv3dConfig,
) -> (Vec<usize>, Vec<f64>) {
    let (t, h, width, c) = x.dims4().unwrap();
    let (o, _, kt, kh, kw) = w.dims5().unwrap();
    let before = history.map_or(0, |h| h.dim(0).unwrap());
    let (xs, hs) = (values(x), history.map_or(vec![], values));
    let (w, b) = (values(w), b.map_or(vec![0.0; o], values));
    let zoom = if cfg.upsample2x { 2 } else { 1 };
    let [top, bottom, left, right] = cfg.pad;
    let at = |f: isize, y: isize, xx: isize, ch: usize| -> f64 {
        if y < 0 || xx < 0 || y >= (h * zoom) as isize || xx >= (width * zoom) as isize {
            return 0.0;
        }
        let pixel = (y as usize / zoom * width + xx as usize / zoom) * c + ch;
        let frame = h * width * c;
        if f >= 0 {
            xs[f as usize * frame + pixel]
        } else if -f as usize <= before {
            hs[(before as isize + f) as usize * frame + pixel]
        } else {
            0.0
        }
    };
    let out = [
        (t + cfg.pad_front - kt) / cfg.stride[0] + 1,
        (h * zoom + top + bottom - kh) / cfg.stride[1] + 1,
        (width * zoom + left + right - kw) / cfg.stride[2] + 1,
    ];
    let mut y = Vec::new();
    for (ti, i, j) in
        (0..out[0]).flat_map(|t| (0..out[1]).flat_map(move |i| (0..out[2]).map(move |j| (t, i, j))))
    {
        for oc in 0..o {
            let mut sum = b[oc];
            for ch in 0..c {
                for (dt, di, dj) in
                    (0..kt).flat_map(|t| (0..kh).flat_map(move |i| (0..kw).map(move |j| (t, i, j))))
                {
                    let value = at(
                        (ti * cfg.stride[0] + dt) as isize - cfg.pad_front as isize,
                        (i * cfg.stride[1] + di) as isize - top as isize,
                        (j * cfg.stride[2] + dj) as isize - left as isize,
                        ch,
                    );
                    sum += value * w[(((oc * c + ch) * kt + dt) * kh + di) * kw + dj];
                }
            }
            y.push(sum);
        }
    }
    (vec![out[0], out[1], out[2], o], y)
}

/// Compares the fast path of every instruction set, and the reference, with the definition.
fn check(x: &Tensor, history: Option<&Tensor>, w: &Tensor, b: Option<&Tensor>, cfg: Conv3dConfig) {
    let (shape, want) = exact(x, history, w, b, cfg);
    let (before2, b2) = (history.map(squared), b.map(squared));
    let (_, squares) = exact(&squared(x), before2.as_ref(), &squared(w), b2.as_ref(), cfg);
    each_isa(|isa| {
        let layer = Conv3d::new(w.clone(), b.cloned(), cfg).unwrap();
        let got = layer.forward(x, history, None).unwrap();
        assert_eq!(got.dims(), shape, "{isa} {cfg:?}");
        close_sums(&got, &want, &squares, 3e-6, &format!("{isa} {cfg:?}"));
        let residual = random(&shape, 99);
        let sum = layer.forward(x, history, Some(&residual)).unwrap();
        close(&sum, &(&got + &residual).unwrap(), 1e-6, "residual");
    });
    let got = reference::conv3d(x, history, None, w, b, cfg).unwrap();
    assert_eq!(got.dims(), shape);
    close_sums(&got, &want, &squares, 3e-6, "reference");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_geometry_equals_f64(
        size in (1usize..5, 1usize..7, 1usize..7),
        channels in (1usize..20, 1usize..20),
        kernel in (1usize..4, 1usize..4, 1usize..4),
        stride in (1usize..3, 1usize..3, 1usize..3),
        pad in (0usize..2, 0usize..2, 0usize..2, 0usize..2),
        front in 0usize..3,
        history in 0usize..3,
        upsample2x: bool,
        bias: bool,
        seed: u64,
    ) {
        let zoom = if upsample2x { 2 } else { 1 };
        prop_assume!(size.0 + front >= kernel.0);
        prop_assume!(size.1 * zoom + pad.0 + pad.1 >= kernel.1);
        prop_assume!(size.2 * zoom + pad.2 + pad.3 >= kernel.2);
        let cfg = Conv3dConfig {
            stride: [stride.0, stride.1, stride.2],
            pad: [pad.0, pad.1, pad.2, pad.3],
            pad_front: front,
            upsample2x,
        };
        let x = random(&[size.0, size.1, size.2, channels.0], seed);
        let history = history.min(front);
        let past = [history, size.1, size.2, channels.0];
        let before = (history > 0).then(|| random(&past, seed ^ 1));
        let w = random(&[channels.1, channels.0, kernel.0, kernel.1, kernel.2], seed ^ 2);
        let b = bias.then(|| random(&[channels.1], seed ^ 3));
        check(&x, before.as_ref(), &w, b.as_ref(), cfg);
    }
}

#[test]
fn causal_with_no_part_and_full_history() {
    let cfg = Conv3dConfig {
        pad: [1; 4],
        pad_front: 2,
        ..Conv3dConfig::default()
    };
    let (x, w, b) = (
        random(&[2, 5, 7, 24], 1),
        random(&[40, 24, 3, 3, 3], 2),
        random(&[40], 3),
    );
    check(&x, None, &w, Some(&b), cfg);
    for frames in [1, 2] {
        check(&x, Some(&random(&[frames, 5, 7, 24], 4)), &w, Some(&b), cfg);
    }
    let empty = Tensor::zeros((0, 5, 7, 24), DType::F32, &Device::Cpu).unwrap();
    let layer = Conv3d::new(w, Some(b), cfg).unwrap();
    let want = layer.forward(&x, None, None).unwrap();
    close(
        &layer.forward(&x, Some(&empty), None).unwrap(),
        &want,
        0.0,
        "empty history",
    );
}

#[test]
fn streaming_equals_one_call() {
    let cfg = Conv3dConfig {
        pad: [1; 4],
        pad_front: 2,
        ..Conv3dConfig::default()
    };
    let layer = Conv3d::new(random(&[12, 8, 3, 3, 3], 1), None, cfg).unwrap();
    let x = random(&[5, 6, 6, 8], 2);
    let whole = layer.forward(&x, None, None).unwrap();
    for t in 0..5 {
        let first = t.max(2) - 2;
        let history = x.narrow(0, first, t - first).unwrap();
        let got = layer
            .forward(&x.narrow(0, t, 1).unwrap(), Some(&history), None)
            .unwrap();
        close(&got, &whole.narrow(0, t, 1).unwrap(), 0.0, "frame");
    }
}

#[test]
fn the_geometries_of_the_vae() {
    // Spatial halving with the odd row and column at the end; temporal halving; doubling;
    // pointwise.
    let halve = Conv3dConfig {
        stride: [1, 2, 2],
        pad: [0, 1, 0, 1],
        ..Conv3dConfig::default()
    };
    check(
        &random(&[2, 8, 6, 16], 1),
        None,
        &random(&[16, 16, 1, 3, 3], 2),
        None,
        halve,
    );
    let time = Conv3dConfig {
        stride: [2, 1, 1],
        ..Conv3dConfig::default()
    };
    check(
        &random(&[5, 3, 4, 16], 3),
        None,
        &random(&[16, 16, 3, 1, 1], 4),
        None,
        time,
    );
    let double = Conv3dConfig {
        pad: [1; 4],
        upsample2x: true,
        ..Conv3dConfig::default()
    };
    check(
        &random(&[2, 5, 3, 32], 5),
        None,
        &random(&[16, 32, 1, 3, 3], 6),
        None,
        double,
    );
    let point = Conv3dConfig::default();
    check(
        &random(&[3, 4, 5, 70], 7),
        None,
        &random(&[33, 70, 1, 1, 1], 8),
        None,
        point,
    );
}

#[test]
fn doubled_input_of_any_size() {
    let cfg = Conv3dConfig {
        pad: [1; 4],
        pad_front: 2,
        upsample2x: true,
        ..Conv3dConfig::default()
    };
    for (t, h, w) in [(1, 1, 1), (2, 1, 4), (1, 5, 2), (3, 4, 3)] {
        let (x, history) = (random(&[t, h, w, 20], 1), random(&[1, h, w, 20], 2));
        let (weight, bias) = (random(&[34, 20, 3, 3, 3], 3), random(&[34], 4));
        check(&x, Some(&history), &weight, Some(&bias), cfg);
        check(
            &x,
            None,
            &weight,
            None,
            Conv3dConfig {
                stride: [2, 1, 1],
                ..cfg
            },
        );
        // Not the 3x3 window with padding 1: read doubled instead of taken apart.
        check(
            &x,
            None,
            &weight,
            None,
            Conv3dConfig {
                pad: [2, 1, 1, 1],
                ..cfg
            },
        );
    }
}

#[test]
fn narrow_channels_and_several_blocks() {
    let cfg = Conv3dConfig {
        pad: [1; 4],
        pad_front: 2,
        ..Conv3dConfig::default()
    };
    check(
        &random(&[2, 16, 15, 3], 1),
        None,
        &random(&[96, 3, 3, 3, 3], 2),
        None,
        cfg,
    );
    check(
        &random(&[1, 14, 15, 64], 3),
        None,
        &random(&[12, 64, 3, 3, 3], 4),
        None,
        cfg,
    );
    check(
        &random(&[1, 14, 15, 64], 5),
        None,
        &random(&[3, 64, 3, 3, 3], 6),
        None,
        cfg,
    );
}

#[test]
fn layouts_and_half_precision() {
    let cfg = Conv3dConfig {
        pad: [1; 4],
        pad_front: 2,
        ..Conv3dConfig::default()
    };
    let (x, h) = (random(&[2, 4, 5, 10], 1), random(&[2, 4, 5, 10], 2));
    let w = random(&[20, 10, 3, 3, 3], 3);
    each_isa(|isa| {
        let layer = Conv3d::new(w.clone(), None, cfg).unwrap();
        let want = layer.forward(&x, Some(&h), None).unwrap();
        let moved = layer
            .forward(&scattered(&x), Some(&narrowed(&h)), None)
            .unwrap();
        close(&moved, &want, 0.0, isa);
        let moved = layer
            .forward(&narrowed(&x), Some(&scattered(&h)), None)
            .unwrap();
        close(&moved, &want, 0.0, isa);
        for (dtype, limit) in [(DType::BF16, 2.5e-3), (DType::F16, 3e-4)] {
            let half = |t: &Tensor| t.to_dtype(dtype).unwrap();
            let (_, exact) = exact(&half(&x), Some(&half(&h)), &half(&w), None, cfg);
            let layer = Conv3d::new(half(&w), None, cfg).unwrap();
            let got = layer.forward(&half(&x), Some(&half(&h)), None).unwrap();
            assert_eq!(got.dtype(), dtype);
            close_f64(&got, &exact, limit, isa);
        }
    });
}

#[test]
fn wrong_shapes_are_errors_with_the_shapes() {
    let cfg = Conv3dConfig {
        pad_front: 1,
        ..Conv3dConfig::default()
    };
    let layer = Conv3d::new(random(&[4, 3, 2, 3, 3], 1), None, cfg).unwrap();
    let x = random(&[2, 5, 5, 3], 2);
    let says = |result: candle_core::Result<Tensor>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("conv3d") && error.contains(text), "{error}");
    };
    says(
        layer.forward(&random(&[2, 5, 5, 4], 1), None, None),
        "[2, 5, 5, 4]",
    );
    says(
        layer.forward(&random(&[5, 5, 3], 1), None, None),
        "[5, 5, 3]",
    );
    says(
        layer.forward(&random(&[1, 2, 5, 3], 1), None, None),
        "smaller than the window",
    );
    says(
        layer.forward(&x, Some(&random(&[2, 5, 5, 3], 1)), None),
        "[2, 5, 5, 3]",
    );
    says(
        layer.forward(&x, Some(&random(&[1, 4, 5, 3], 1)), None),
        "[1, 4, 5, 3]",
    );
    says(
        layer.forward(&x, None, Some(&random(&[2, 5, 5, 4], 1))),
        "[2, 3, 3, 4]",
    );
    let mixed = random(&[1, 5, 5, 3], 1).to_dtype(DType::BF16).unwrap();
    says(layer.forward(&x, Some(&mixed), None), "dtype");
    assert!(Conv3d::new(random(&[4, 3, 3, 3], 1), None, cfg).is_err());
    assert!(Conv3d::new(random(&[4, 3, 1, 1, 1], 1), Some(random(&[3], 1)), cfg).is_err());
    let still = Conv3dConfig {
        stride: [1, 0, 1],
        ..cfg
    };
    assert!(Conv3d::new(random(&[4, 3, 1, 1, 1], 1), None, still).is_err());
}
