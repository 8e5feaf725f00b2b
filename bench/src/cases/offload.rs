//! Peak memory of `leoma-node generate --offload experts` on a checkpoint whose experts are far larger
//! than everything else, so that keeping two of them, or a copy of one, cannot go unseen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use leoma_models::tiny::make_tiny;
use leoma_models::wan::TransformerConfig;
use leoma_models::wan::transformer::tensor_shapes;
use leoma_models::weights::ModelKind;
use serde_json::{Value, json};

use super::weights::write_weights;
use crate::cli::{RunArgs, Size};
use crate::clock;
use crate::report::Offload;
use crate::run::this_program;

/// Pixels along each side of the clip.
const SIDE: usize = 64;

/// Makes the checkpoint, generates with it in a process of its own and reads that process's peak.
pub(crate) fn measure(args: &RunArgs, work: &Path) -> Result<Offload> {
    let node = match &args.node {
        Some(path) => path.clone(),
        None => this_program()?.with_file_name("leoma-node"),
    };
    if !node.is_file() {
        bail!(
            "there is no {}: build it with `cargo build --release`, or pass --node",
            node.display()
        );
    }
    let model = work.join("offload");
    let expert_bytes = make_checkpoint(args.size, &model)?;
    let image = work.join("offload.png");
    image::RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        image::Rgb([x as u8, y as u8, 90])
    })
    .save(&image)?;
    let peak_bytes = generate(&node, &model, &image, work)?;
    fs::remove_dir_all(&model)?;
    Ok(Offload {
        what: format!(
            "`generate --offload experts`, two experts of {} MiB in float32",
            expert_bytes >> 20
        ),
        expert_bytes,
        peak_bytes,
        limit: 1.25,
    })
}

/// A tiny I2V-A14B checkpoint with its experts replaced by larger ones; returns the size of one.
fn make_checkpoint(size: Size, model: &Path) -> Result<u64> {
    let (heads, layers) = match size {
        Size::Full => (8, 10),
        Size::Small => (2, 1),
    };
    make_tiny(ModelKind::I2vA14b, 7, model)?;
    let mut expert_bytes = 0;
    for expert in ["transformer", "transformer_2"] {
        let folder = model.join(expert);
        let config_path = folder.join("config.json");
        let mut config: Value = serde_json::from_str(
            &fs::read_to_string(&config_path)
                .with_context(|| format!("cannot read {}", config_path.display()))?,
        )?;
        config["num_attention_heads"] = json!(heads);
        config["attention_head_dim"] = json!(128);
        config["ffn_dim"] = json!(heads * 128 * 4);
        config["num_layers"] = json!(layers);
        for entry in fs::read_dir(&folder)? {
            fs::remove_file(entry?.path())?;
        }
        fs::write(&config_path, serde_json::to_string_pretty(&config)?)?;
        let config: TransformerConfig = serde_json::from_value(config)?;
        let weights = folder.join("diffusion_pytorch_model.safetensors");
        write_weights(&weights, &tensor_shapes(&config))?;
        expert_bytes = weights.metadata()?.len();
    }
    Ok(expert_bytes)
}

/// Runs one generation through both experts and returns the most memory it held.
fn generate(node: &Path, model: &Path, image: &Path, work: &Path) -> Result<u64> {
    let log: PathBuf = work.join("offload.log");
    let mut child = Command::new(node)
        .arg("generate")
        .arg("--model")
        .arg(model)
        .arg("--image")
        .arg(image)
        .args([
            "--prompt",
            "a red bird",
            "--preset",
            "diffusers",
            "--offload",
            "experts",
        ])
        .args(["--dtype", "f32", "--device", "cpu", "--num-frames", "5"])
        .args(["--num-inference-steps", "4", "--format", "json"])
        .args(["--height", &SIDE.to_string(), "--width", &SIDE.to_string()])
        .arg("--output")
        .arg(work.join("offload.mp4"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .with_context(|| format!("cannot start {}", node.display()))?;
    let seen = watch(&mut child)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        bail!(
            "leoma-node generate failed ({}): {}",
            output.status,
            text.trim()
        );
    }
    // The process also reports its own peak; it cannot be less than what was seen from outside.
    let reported: Value = serde_json::from_slice(&output.stdout)
        .context("leoma-node generate --format json did not print one JSON object")?;
    Ok(seen.max(reported["peak_memory_bytes"].as_u64().unwrap_or(0)))
}

/// Reads the child's high-water mark until it ends. The mark only rises, so polling misses nothing but
/// what happens between the last look and the end.
fn watch(child: &mut Child) -> Result<u64> {
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        peak = peak.max(clock::peak_resident_bytes_of(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(peak)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_peak_of_a_child_is_seen() {
        let mut child = Command::new("sleep").arg("0.2").spawn().unwrap();
        let peak = watch(&mut child).unwrap();
        assert!(peak > 4096, "{peak}");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn experts_grow_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        let bytes = make_checkpoint(Size::Small, &model).unwrap();
        assert!(bytes > 1 << 20, "{bytes}");
        assert!(
            model
                .join("transformer_2/diffusion_pytorch_model.safetensors")
                .is_file()
        );
        assert!(model.join("vae").is_dir() && model.join("text_encoder").is_dir());
    }
}
