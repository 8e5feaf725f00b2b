use candle_core::{Device, Tensor};
use leoma_kernels::{gelu_tanh, silu};

use crate::support::{FLOATS, agrees, random};

#[test]
fn silu_and_gelu() {
    for (dtype, limit) in FLOATS {
        for n in [1, 4, 7, 8, 1000, 4099] {
            let x = (random(&[n], 0.0, n as u64) * 3.0).unwrap();
            let x = x.to_dtype(dtype).unwrap();
            agrees(limit, &format!("silu {dtype:?} {n}"), || silu(&x));
            agrees(limit, &format!("gelu {dtype:?} {n}"), || gelu_tanh(&x));
        }
        // Not at a multiple of 16 bytes.
        let x = random(&[70], 0.0, 1).to_dtype(dtype).unwrap();
        let x = x.narrow(0, 3, 64).unwrap();
        agrees(limit, "unaligned", || silu(&x));
    }
}

#[test]
fn extremes() {
    let x = [-3e38f32, -200.0, -0.0, 0.0, 200.0, 3e38];
    let x = Tensor::new(&x, &Device::Cpu).unwrap();
    for y in leoma_kernels::with_shim(0, || [silu(&x).unwrap(), gelu_tanh(&x).unwrap()]) {
        let y = y.to_vec1::<f32>().unwrap();
        assert!(y[..4].iter().all(|y| y.abs() < 1e-30), "{y:?}");
        assert!(y[4] > 199.0 && y[5] > 2e38, "{y:?}");
    }
}
