//! Single transformer calls on the reference's own inputs, so that no error of another part counts.

use candle_core::Tensor;
use leoma_models::wan::WanTransformer3d;
use leoma_models::wan::transformer::ClipTimestep;
use leoma_models::weights::{Checkpoint, Component};

use crate::fixture::{self, RUNS, Tensors};
use crate::gate::{COMPONENT, Gate, values};

#[test]
fn every_velocity_follows_from_the_references_inputs() {
    for (kind, name) in RUNS {
        let (run, reference) = fixture::run(kind, name);
        let checkpoint = Checkpoint::open(fixture::folder(kind)).unwrap();
        let mut gate = Gate::new(format!("{kind}, run {name}, transformer calls"));
        for component in [Component::Transformer, Component::Transformer2] {
            if component == Component::Transformer2 && !checkpoint.has_second_expert() {
                continue;
            }
            let vb = fixture::builder(&checkpoint, component);
            let model =
                WanTransformer3d::new(checkpoint.transformer_config(component), &vb).unwrap();
            for (step, t) in values(reference.get("timesteps")).into_iter().enumerate() {
                let high = checkpoint
                    .boundary_ratio()
                    .is_none_or(|ratio| t >= ratio * 1000.0);
                if high != (component == Component::Transformer) {
                    continue;
                }
                let input = model_input(&reference, step);
                let first_frame = reference.find("image_latents").map(|_| 0.0);
                for (branch, which) in [("cond", "prompt"), ("uncond", "negative")] {
                    let name = format!("velocity_{branch}.{step:02}");
                    let Some(wanted) = reference.find(&name) else {
                        assert!(branch == "uncond" && run.guidance_scale <= 1.0, "no {name}");
                        continue;
                    };
                    let context = model.encode_context(&reference.text_rows(which)).unwrap();
                    let timestep = ClipTimestep { t, first_frame };
                    let found = model
                        .forward(&input, timestep, &context, &|| false)
                        .unwrap();
                    gate.close(&name, &found, &wanted.squeeze(0).unwrap(), COMPONENT);
                }
            }
        }
        gate.finish();
    }
}

/// What the reference fed to the transformer at `step`.
fn model_input(reference: &Tensors, step: usize) -> Tensor {
    let latents = match step {
        0 => reference.single("noise"),
        _ => reference.single(&format!("latents.{:02}", step - 1)),
    };
    if let Some(condition) = reference.find("condition") {
        return Tensor::cat(&[latents, condition.squeeze(0).unwrap()], 0).unwrap();
    }
    if let Some(first) = reference.find("image_latents") {
        let rest = latents.narrow(1, 1, latents.dim(1).unwrap() - 1).unwrap();
        return Tensor::cat(&[first.squeeze(0).unwrap(), rest], 1).unwrap();
    }
    latents
}
