//! The samplers on given velocities.

use leoma_models::scheduler::{self, SchedulerKind};

use crate::fixture::{self, Tensors};
use crate::gate::{COMPONENT, Gate, values, values_f32};

#[test]
fn samplers_walk_as_their_references() {
    let reference = Tensors::read(&fixture::root().join("schedulers.safetensors"));
    let mut runs = 0;
    for name in reference.names() {
        let Some(key) = name.strip_suffix(".latents") else {
            continue;
        };
        let parts: Vec<_> = key.split('.').collect();
        let kind: SchedulerKind = parts[0].parse().unwrap();
        let (steps, shift) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
        let get = |tensor: &str| reference.get(&format!("{key}.{tensor}"));

        let mut sampler = scheduler::build(kind, steps, shift).unwrap();
        let mut gate = Gate::new(format!("{kind}, {steps} steps, shift {shift}"));
        let timesteps: Vec<f32> = sampler.timesteps().iter().map(|&t| t as f32).collect();
        if kind == SchedulerKind::Euler {
            gate.same("timesteps", &timesteps, &values_f32(get("timesteps")));
        } else {
            let whole: Vec<f64> = sampler.timesteps().to_vec();
            gate.same("timesteps", &whole, &values(get("timesteps")));
        }
        let sigmas = candle_core::Tensor::new(sampler.sigmas(), &candle_core::Device::Cpu).unwrap();
        gate.close("sigmas", &sigmas, get("sigmas"), 1e-7);
        let mut sample = get("start").clone();
        for step in 0..steps {
            let velocity = get("velocity").get(step).unwrap();
            sample = sampler
                .step(step, scheduler::Velocity::plain(&velocity), &sample)
                .unwrap();
            let wanted = get("latents").get(step).unwrap();
            gate.close(&format!("latents.{step:02}"), &sample, &wanted, COMPONENT);
        }
        gate.finish();
        runs += 1;
    }
    assert_eq!(runs, 18, "three samplers, six schedules");
}
