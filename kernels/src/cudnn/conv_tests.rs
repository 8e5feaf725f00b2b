//! Convolution through a fake cuDNN (`tests/fake_cudnn_conv.h`) against the CPU's own.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Tensor};

use super::super::tests::Fake;
use super::super::with_library;
use super::forget;
use crate::device::with_shim;
use crate::samples::samples;
use crate::{Conv3d, Conv3dConfig, conv3d_refusals};

const CAUSAL: Conv3dConfig = Conv3dConfig {
    stride: [1; 3],
    pad: [1; 4],
    pad_front: 2,
    upsample2x: false,
};

fn values(shape: &[usize], seed: u32) -> Tensor {
    samples(shape, seed).to_dtype(DType::BF16).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let floats = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    let (a, b) = (floats(a), floats(b));
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>();
    let error = norm(&(&a - &b).unwrap()).unwrap();
    (error / norm(&b).unwrap()).sqrt()
}

/// One convolution with everything, built and run on the CPU or with the fake in the shim.
struct Case {
    x: [usize; 4],
    out: usize,
    kernel: [usize; 3],
    history: usize,
    cfg: Conv3dConfig,
}

impl Case {
    fn run(&self, bias: bool, residual: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let ([_, h, w, c], [kt, kh, kw]) = (self.x, self.kernel);
        let weight = values(&[self.out, c, kt, kh, kw], 2);
        let bias = bias.then(|| values(&[self.out], 3));
        let history = (self.history > 0).then(|| values(&[self.history, h, w, c], 4));
        let layer = Conv3d::new(weight, bias, self.cfg)?;
        layer.forward(&values(&self.x, 1), history.as_ref(), residual)
    }

    /// How many convolutions the fake ran for the four forms of this one, all of which must be right.
    fn executions(&self) -> usize {
        let fake = Fake::new();
        let plain = self.run(false, None).unwrap();
        let residual = values(plain.dims(), 5);
        for bias in [false, true] {
            for residual in [None, Some(&residual)] {
                let want = self.run(bias, residual).unwrap();
                let got = with_library(&fake.library, || {
                    with_shim(0, || self.run(bias, residual)).unwrap()
                });
                assert!(distance(&got, &want) <= 3e-3, "{bias} {residual:?}");
            }
        }
        forget(&fake.library);
        fake.executions()
    }
}

const fn causal(history: usize) -> Case {
    Case {
        x: [1, 4, 5, 8],
        out: 16,
        kernel: [3, 3, 3],
        history,
        cfg: CAUSAL,
    }
}

#[test]
fn geometries_are_told_as_they_are() {
    for history in 0..3 {
        assert_eq!(causal(history).executions(), 4);
    }
    let halve = Conv3dConfig {
        stride: [1, 2, 2],
        pad: [0, 1, 0, 1],
        ..Conv3dConfig::default()
    };
    let spatial = Case {
        x: [2, 8, 6, 8],
        out: 8,
        kernel: [1, 3, 3],
        history: 0,
        cfg: halve,
    };
    assert_eq!(spatial.executions(), 4);
    let time = Conv3dConfig {
        stride: [2, 1, 1],
        pad_front: 1,
        ..Conv3dConfig::default()
    };
    let temporal = Case {
        x: [4, 2, 3, 8],
        out: 8,
        kernel: [3, 1, 1],
        history: 1,
        cfg: time,
    };
    assert_eq!(temporal.executions(), 4);
}

#[test]
fn what_it_does_not_take_goes_to_the_kernel() {
    let doubled = Conv3dConfig {
        pad: [1; 4],
        upsample2x: true,
        ..Conv3dConfig::default()
    };
    let upsample = Case {
        x: [1, 3, 4, 8],
        out: 8,
        kernel: [1, 3, 3],
        history: 0,
        cfg: doubled,
    };
    let narrow = Case {
        x: [1, 4, 5, 3],
        ..causal(0)
    };
    // The weights of a doubled input are summed before they are rounded to bf16.
    assert_eq!(narrow.executions(), 0);
    let fake = Fake::new();
    let got = with_library(&fake.library, || with_shim(0, || upsample.run(true, None)));
    assert!(distance(&got.unwrap(), &upsample.run(true, None).unwrap()) <= 6e-3);
    assert_eq!(fake.executions(), 0);
    let reasons = conv3d_refusals().join("\n");
    assert!(reasons.contains("not 3 and 16"), "{reasons}");
}

#[test]
fn a_call_that_fails_costs_nothing_but_the_reason() {
    for call in [
        "cudnnCreate",
        "cudnnBackendCreateDescriptor",
        "cudnnBackendSetAttribute",
        "cudnnBackendFinalize",
        "cudnnBackendExecute",
    ] {
        let fake = Fake::new();
        fake.fail(call, 1, 3000);
        let case = causal(1);
        let run = || {
            with_library(&fake.library, || {
                with_shim(0, || case.run(true, None)).unwrap()
            })
        };
        assert!(
            distance(&run(), &case.run(true, None).unwrap()) <= 3e-3,
            "{call}"
        );
        assert_eq!(fake.executions(), 0, "{call}");
        let reasons = conv3d_refusals().join("\n");
        assert!(reasons.contains("3000"), "{call}: {reasons}");
        forget(&fake.library);
    }
}
