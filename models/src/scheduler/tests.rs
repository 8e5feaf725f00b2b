#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::{Scheduler, SchedulerKind, Velocity, build};

/// One run of diffusers 0.35.2 on the velocity field below (for DPM++ with the official sigmas).
#[derive(Deserialize)]
struct Reference {
    scheduler: String,
    num_inference_steps: usize,
    flow_shift: f64,
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
    sample: Vec<f32>,
}

fn start() -> Tensor {
    let values: Vec<f32> = (0..16).map(|i| i as f32 * 0.25 - 1.9).collect();
    Tensor::from_vec(values, (1, 1, 1, 4, 4), &Device::Cpu).unwrap()
}

/// `0.9 x - 0.2 x^2 + sigma`
fn velocity(x: &Tensor, sigma: f32) -> Tensor {
    let square = (x.sqr().unwrap() * 0.2).unwrap();
    ((x * 0.9).unwrap() - square)
        .unwrap()
        .affine(1.0, f64::from(sigma))
        .unwrap()
}

fn run(scheduler: &mut dyn Scheduler, start: Tensor) -> Vec<f32> {
    let sigmas = scheduler.sigmas().to_vec();
    let mut x = start;
    for index in 0..scheduler.timesteps().len() {
        let v = velocity(&x, sigmas[index]);
        x = scheduler.step(index, Velocity::plain(&v), &x).unwrap();
    }
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let mut difference = a.iter().zip(b).map(|(a, b)| f64::from(a - b));
    norm(&mut difference) / norm(&mut b.iter().map(|b| f64::from(*b)))
}

#[test]
fn runs_equal_the_reference() {
    let references: Vec<Reference> = serde_json::from_str(include_str!("reference.json")).unwrap();
    assert_eq!(references.len(), 18);
    for reference in references {
        let (steps, shift) = (reference.num_inference_steps, reference.flow_shift);
        let name = format!("{} {steps} {shift}", reference.scheduler);
        let mut scheduler = build(reference.scheduler.parse().unwrap(), steps, shift).unwrap();
        let timesteps: Vec<_> = reference.timesteps.iter().map(|t| f64::from(*t)).collect();
        assert_eq!(scheduler.timesteps(), timesteps, "{name}");
        assert_eq!(scheduler.sigmas(), reference.sigmas, "{name}");
        let sample = run(scheduler.as_mut(), start());
        let error = relative(&sample, &reference.sample);
        assert!(error <= 1e-6, "{name}: {error:e}");
    }
}

fn timesteps(steps: usize, shift: f64) -> Vec<i64> {
    let scheduler = build(SchedulerKind::UniPc, steps, shift).unwrap();
    scheduler.timesteps().iter().map(|t| *t as i64).collect()
}

#[test]
fn published_schedules() {
    assert_eq!(timesteps(6, 5.0), [999, 961, 908, 833, 713, 499]);
    assert_eq!(
        timesteps(40, 12.0),
        [
            999, 997, 995, 993, 990, 988, 985, 982, 979, 976, 972, 969, 965, 961, 956, 952, 947,
            941, 936, 929, 922, 915, 907, 898, 888, 877, 865, 852, 837, 819, 799, 776, 749, 717,
            678, 631, 571, 492, 386, 235
        ]
    );
    assert_eq!(
        timesteps(40, 5.0),
        [
            999, 994, 989, 983, 978, 972, 965, 959, 952, 944, 937, 929, 920, 911, 902, 892, 882,
            870, 859, 846, 833, 818, 803, 786, 768, 749, 728, 706, 681, 654, 624, 591, 555, 514,
            468, 416, 356, 288, 208, 113
        ]
    );
    assert_eq!(
        timesteps(50, 5.0),
        [
            999, 995, 991, 987, 982, 978, 973, 968, 963, 957, 952, 946, 940, 934, 927, 920, 913,
            906, 898, 890, 882, 873, 863, 854, 843, 833, 821, 809, 796, 783, 768, 753, 737, 720,
            701, 681, 660, 636, 611, 584, 555, 522, 487, 448, 405, 356, 302, 241, 172, 92
        ]
    );
    assert_eq!(
        timesteps(30, 3.0),
        [
            999, 988, 976, 963, 950, 937, 922, 907, 891, 874, 856, 837, 817, 796, 773, 749, 723,
            696, 666, 634, 599, 562, 521, 476, 428, 374, 315, 249, 176, 93
        ]
    );
    assert_eq!(
        timesteps(40, 3.0),
        [
            999, 991, 982, 973, 963, 954, 944, 933, 922, 911, 899, 887, 874, 861, 847, 832, 817,
            801, 785, 767, 749, 730, 710, 688, 666, 642, 617, 590, 562, 531, 499, 465, 428, 388,
            345, 299, 249, 195, 136, 71
        ]
    );
    let high = |steps, shift, boundary| {
        timesteps(steps, shift)
            .into_iter()
            .filter(|t| *t >= boundary)
            .count()
    };
    assert_eq!(high(30, 3.0, 900), 8);
    assert_eq!(high(30, 5.0, 900), 11);
    assert_eq!(high(40, 3.0, 875), 12);
    assert_eq!(high(50, 3.0, 900), 13);
    assert_eq!(high(40, 12.0, 875), 26);
}

#[test]
fn the_last_step_of_unipc_and_dpmpp_is_the_prediction() {
    for kind in [SchedulerKind::UniPc, SchedulerKind::Dpmpp] {
        let mut scheduler = build(kind, 1, 5.0).unwrap();
        let sigma = scheduler.sigmas()[0];
        let x = start();
        let v = velocity(&x, sigma);
        let next = scheduler.step(0, Velocity::plain(&v), &x).unwrap();
        let x0 = (&x - (&v * f64::from(sigma)).unwrap()).unwrap();
        let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(relative(&flat(next), &flat(x0)) < 1e-6);
    }
}

#[test]
fn a_low_precision_velocity_gives_a_float32_sample() {
    for kind in SchedulerKind::ALL {
        let mut scheduler = build(kind, 3, 5.0).unwrap();
        let mut x = start();
        for index in 0..3 {
            let v = velocity(&x, scheduler.sigmas()[index])
                .to_dtype(DType::BF16)
                .unwrap();
            x = scheduler.step(index, Velocity::plain(&v), &x).unwrap();
            assert_eq!(x.dtype(), DType::F32);
        }
    }
}

/// Guidance inside the step is guidance before it.
#[test]
fn guidance_is_part_of_the_step() {
    for kind in SchedulerKind::ALL {
        let mut inside = build(kind, 4, 3.0).unwrap();
        let mut before = build(kind, 4, 3.0).unwrap();
        let (mut a, mut b) = (start(), start());
        for index in 0..4 {
            let sigma = inside.sigmas()[index];
            let (cond, uncond) = (velocity(&a, sigma), velocity(&a, 0.5 * sigma));
            let guided = Velocity::guided(&cond, &uncond, 3.5);
            a = inside.step(index, guided, &a).unwrap();
            let v = (&uncond + ((&cond - &uncond).unwrap() * 3.5).unwrap()).unwrap();
            b = before.step(index, Velocity::plain(&v), &b).unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&a), flat(&b), "{kind}, step {index}");
        }
    }
}

#[test]
fn unusable_settings_are_the_callers_fault() {
    let field = |kind, steps, shift| match build(kind, steps, shift).map(drop) {
        Err(crate::Error::Caller { field, .. }) => field,
        other => panic!("{kind} {steps} {shift}: {other:?}"),
    };
    for kind in SchedulerKind::ALL {
        assert_eq!(field(kind, 0, 5.0), "num_inference_steps");
        assert_eq!(field(kind, usize::MAX, 5.0), "num_inference_steps");
        for shift in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(field(kind, 4, shift), "flow_shift");
        }
    }
    // From here on the reference would skip a step.
    assert!(build(SchedulerKind::UniPc, 91, 12.0).is_ok());
    assert_eq!(field(SchedulerKind::UniPc, 92, 12.0), "num_inference_steps");
    assert!("ddim".parse::<SchedulerKind>().is_err());
}

#[test]
fn steps_out_of_order_are_refused() {
    for kind in SchedulerKind::ALL {
        let mut scheduler = build(kind, 2, 5.0).unwrap();
        let x = start();
        assert!(scheduler.step(1, Velocity::plain(&x), &x).is_err());
        scheduler.step(0, Velocity::plain(&x), &x).unwrap();
        assert!(scheduler.step(0, Velocity::plain(&x), &x).is_err());
        scheduler.step(1, Velocity::plain(&x), &x).unwrap();
        assert!(scheduler.step(2, Velocity::plain(&x), &x).is_err());
    }
}

#[test]
fn names_round_trip() {
    for kind in SchedulerKind::ALL {
        assert_eq!(kind.to_string().parse::<SchedulerKind>().unwrap(), kind);
    }
}

/// What a velocity of one element becomes with `factor`.
fn product(velocity: Velocity<'_>, factor: f32) -> f32 {
    let combination = leoma_kernels::Combination {
        velocity: factor,
        ..Default::default()
    };
    let results = leoma_kernels::combine(velocity, &[], &[combination]).unwrap();
    results[0].to_vec1::<f32>().unwrap()[0]
}

#[test]
fn guidance_rounds_after_every_operation_but_not_its_scale() {
    let tensor = |x: f32, dtype| {
        let x = Tensor::new(&[x], &Device::Cpu).unwrap();
        x.to_dtype(dtype).unwrap()
    };
    // Numbers of bf16 near 331.5 are 2 apart; a scale rounded to bf16 (1.296875) would give 330.
    for (dtype, expected) in [(DType::F32, 331.5), (DType::BF16, 332.0)] {
        let (cond, uncond) = (tensor(255.0, dtype), tensor(0.0, dtype));
        let guided = product(Velocity::guided(&cond, &uncond, 1.3), 1.0);
        assert!((guided - expected).abs() < 1e-3, "{dtype:?}: {guided}");
    }
}

#[test]
fn the_product_with_sigma_has_the_type_of_the_velocity() {
    let velocity = Tensor::new(&[1.0f32], &Device::Cpu).unwrap();
    // 0.999 lies between the bf16 numbers 0.99609375 and 1.
    for (dtype, expected) in [(DType::F32, -0.999f32), (DType::BF16, -1.0)] {
        let velocity = velocity.to_dtype(dtype).unwrap();
        let found = product(Velocity::plain(&velocity), -0.999);
        assert_eq!(found.to_bits(), expected.to_bits(), "{dtype:?}: {found}");
    }
}
