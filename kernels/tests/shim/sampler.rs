use candle_core::{DType, Tensor};
use leoma_kernels::{Combination, Isa, Velocity, combine, reference, with_shim};

use crate::support::{distance, random, through_shim};

/// A step of UniPC in the middle of a run.
const ROWS: [Combination; 3] = [
    Combination {
        terms: [1.0, 0.0, 0.0, 0.0],
        results: [0.0, 0.0],
        velocity: -0.83,
    },
    Combination {
        terms: [0.0, 0.91, 0.37, -0.12],
        results: [-0.44, 0.0],
        velocity: 0.0,
    },
    Combination {
        terms: [0.0, 0.0, -0.21, 0.0],
        results: [0.6, 0.87],
        velocity: 0.05,
    },
];

/// Sizes around a block, a chunk of the CPU path, and none at all.
const SIZES: [usize; 6] = [1, 31, 257, 4096, 8193, 0];

/// Both paths, all results as one tensor: the CPU's, the kernel's and the reference's.
fn all(
    velocity: Velocity<'_>,
    terms: &[&Tensor],
    rows: &[Combination],
) -> (Tensor, Tensor, Tensor) {
    let stack = |x: Vec<Tensor>| Tensor::stack(&x, 0);
    (
        stack(combine(velocity, terms, rows).unwrap()).unwrap(),
        through_shim(|| stack(combine(velocity, terms, rows)?)),
        stack(reference::combine(velocity, terms, rows).unwrap()).unwrap(),
    )
}

fn bits(x: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_count_of_terms_and_results() {
    for n in SIZES {
        let tensors: Vec<Tensor> = (0..4).map(|i| random(&[n], 0.3, i + 1)).collect();
        for terms in 0..=4 {
            let terms: Vec<&Tensor> = tensors.iter().take(terms).collect();
            for results in 1..=3 {
                for dtype in [DType::F32, DType::BF16, DType::F16] {
                    let what = format!("{n} elements, {} terms, {results}, {dtype:?}", terms.len());
                    let cond = random(&[n], 0.0, 8).to_dtype(dtype).unwrap();
                    let uncond = random(&[n], 0.1, 9).to_dtype(dtype).unwrap();
                    for velocity in [
                        Velocity::plain(&cond),
                        Velocity::guided(&cond, &uncond, 4.1),
                    ] {
                        let (cpu, kernel, reference) = all(velocity, &terms, &ROWS[..results]);
                        // Fused multiply-adds on both sides, so the same bits; the processor's own path
                        // without them is as close as float32 is.
                        if Isa::current().name() != "scalar" {
                            assert_eq!(bits(&kernel), bits(&cpu), "{what}");
                        } else if n > 0 {
                            assert!(distance(&kernel, &cpu) < 1e-6, "{what}");
                        }
                        if n > 0 {
                            assert!(distance(&kernel, &reference) < 1e-6, "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// The scale is not rounded to the velocity's type, the results of the operations are.
#[test]
fn guidance_rounds_as_the_reference_does() {
    use half::bf16;
    let (c, u) = (bf16::from_f32(1.7), bf16::from_f32(-0.33));
    let scale = 4.1f32;
    let round = |x: f32| bf16::from_f32(x).to_f32();
    let difference = round(c.to_f32() - u.to_f32());
    let expected = round(u.to_f32() + round(difference * scale));
    let device = candle_core::Device::Cpu;
    let (c, u) = (
        Tensor::new(&[c], &device).unwrap(),
        Tensor::new(&[u], &device).unwrap(),
    );
    let itself = Combination {
        velocity: 1.0,
        ..Combination::default()
    };
    let velocity = Velocity::guided(&c, &u, f64::from(scale));
    let (cpu, kernel, reference) = all(velocity, &[], &[itself]);
    for found in [cpu, kernel, reference] {
        assert_eq!(bits(&found), [expected.to_bits()]);
    }
}

#[test]
fn tensors_need_not_be_contiguous() {
    let (cond, term) = (random(&[12, 5], 0.0, 1), random(&[12, 5], 0.0, 2));
    let (cond, term) = (cond.t().unwrap(), term.t().unwrap());
    let (cpu, kernel, reference) = all(Velocity::plain(&cond), &[&term], &ROWS[..2]);
    assert!(distance(&kernel, &reference) < 1e-6 && distance(&cpu, &reference) < 1e-6);
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = random(&[8], 0.0, 1);
    let other = random(&[9], 0.0, 1);
    let half = x.to_dtype(DType::BF16).unwrap();
    let message = |velocity: Velocity<'_>, terms: &[&Tensor], rows: &[Combination]| {
        let cpu = combine(velocity, terms, rows).unwrap_err();
        let kernel = with_shim(0, || combine(velocity, terms, rows)).unwrap_err();
        // Without the backtrace that candle adds where it is asked for one.
        let first = |error: candle_core::Error| {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        };
        let cpu = first(cpu);
        assert_eq!(first(kernel), cpu);
        cpu
    };
    let plain = Velocity::plain(&x);
    assert!(message(plain, &[&other], &ROWS[..1]).contains("term 0"));
    assert!(message(plain, &[&half], &ROWS[..1]).contains("must be f32"));
    assert!(message(plain, &[&x; 5], &ROWS[..1]).contains("5 terms"));
    assert!(message(plain, &[], &[]).contains("0 combinations"));
    assert!(message(Velocity::guided(&x, &other, 2.0), &[], &ROWS[..1]).contains("uncond"));
    assert!(message(Velocity::guided(&x, &half, 2.0), &[], &ROWS[..1]).contains("one type"));
}
