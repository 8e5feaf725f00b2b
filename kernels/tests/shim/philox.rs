use candle_core::{Device, Tensor};
use leoma_kernels::{philox_normal, with_shim};

use crate::support::through_shim;

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// One call, several, a short last row; fewer values than threads; a seed of more than 32 bits.
const DRAWS: [(usize, u64); 7] = [
    (1, 256),
    (255, 512),
    (1024, 256),
    (1025, 256),
    (5000, 512),
    (20_001, 4608),
    (3 * 256, 270_336),
];

#[test]
fn values_and_layout_are_the_hosts() {
    for (n, threads) in DRAWS {
        for seed in [0, 42, 9 << 40 | 3] {
            let draw = || philox_normal(seed, &[n], threads, &Device::Cpu);
            let (host, kernel) = (draw().unwrap(), through_shim(draw));
            for (index, (a, b)) in values(&kernel).iter().zip(values(&host)).enumerate() {
                assert!(
                    (a - b).abs() <= 1e-6 * b.abs().max(1.0),
                    "{n} values of {threads} threads, seed {seed}: element {index} is {a}, not {b}"
                );
            }
        }
    }
}

#[test]
fn no_values_are_no_launch() {
    let draw = || philox_normal(1, &[0, 3], 256, &Device::Cpu).unwrap();
    assert_eq!(with_shim(0, draw).dims(), [0, 3]);
    assert_eq!(draw().dims(), [0, 3]);
}

#[test]
fn threads_that_no_card_has_are_refused() {
    for threads in [0, 100, 1 << 32] {
        let draw = || philox_normal(1, &[4], threads, &Device::Cpu);
        assert!(draw().is_err());
        assert!(with_shim(0, draw).is_err());
    }
}
