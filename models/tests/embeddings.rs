//! Replays what transformers 5.14.1 (float32, CPU) made of pictures and prompts with a tiny random CLIP and DINOv2.
//!
//! `scripts/golden/embeddings_fixtures.py` makes the fixture. LEOMA_EMBEDDINGS_FIXTURE names another folder of the same
//! form, of a seed that was never seen.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use leoma_models::Fault;
use leoma_models::judge::Frame;
use leoma_models::judge::embeddings::{ClipModel, Dinov2Model, cosine};
use serde::Deserialize;
use serde_json::{Value, json};

use common::{relative_l2, values};

/// Relative L2 from given pixels or ids.
const LIMIT: f64 = 2e-5;
/// Largest difference of a resampled pixel, in normalised units: a grey level is at most 0.0175.
const RESAMPLED: f64 = 0.03;

#[derive(Deserialize)]
struct Golden {
    pictures: usize,
    texts: Vec<String>,
    #[serde(skip)]
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn read() -> Self {
        let text = std::fs::read_to_string(folder().join("golden.json")).unwrap();
        let file = folder().join("golden.safetensors");
        Self {
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
            ..serde_json::from_str(&text).unwrap()
        }
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// Bytes, height and width of each picture.
    fn pictures(&self) -> Vec<(Vec<u8>, usize, usize)> {
        let picture = |index| {
            let image = self.get(&format!("picture.{index}"));
            let (height, width, _) = image.dims3().unwrap();
            (
                image.flatten_all().unwrap().to_vec1().unwrap(),
                height,
                width,
            )
        };
        (0..self.pictures).map(picture).collect()
    }
}

fn folder() -> PathBuf {
    std::env::var_os("LEOMA_EMBEDDINGS_FIXTURE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/embeddings"),
        PathBuf::from,
    )
}

fn clip() -> ClipModel {
    ClipModel::open(folder().join("clip"), &Device::Cpu).unwrap()
}

fn dinov2() -> Dinov2Model {
    Dinov2Model::open(folder().join("dinov2"), &Device::Cpu).unwrap()
}

fn frames(pictures: &[(Vec<u8>, usize, usize)]) -> Vec<Frame<'_>> {
    pictures
        .iter()
        .map(|(bytes, height, width)| Frame::new(bytes, *height, *width).unwrap())
        .collect()
}

fn largest_difference(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.dims(), wanted.dims());
    let pairs = values(found).into_iter().zip(values(wanted));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn clip_pictures_agree() {
    let (golden, model) = (Golden::read(), clip());
    let found = model.image_features(golden.get("clip.pixels")).unwrap();
    let error = relative_l2(&found, golden.get("clip.images"));
    assert!(error <= LIMIT, "{error:e}");
}

#[test]
fn clip_prompts_agree() {
    let (golden, model) = (Golden::read(), clip());
    for (index, text) in golden.texts.iter().enumerate() {
        let tokens = model.tokens(text).unwrap();
        let ids: Vec<i64> = golden.get(&format!("clip.ids.{index}")).to_vec1().unwrap();
        assert_eq!(
            tokens
                .ids
                .iter()
                .map(|id| i64::from(*id))
                .collect::<Vec<_>>(),
            ids,
            "{text}"
        );
        // The reference cuts the same texts.
        let most = model.config().text.max_position_embeddings;
        assert!(tokens.dropped == 0 || ids.len() == most);
        let found = model.text_features(&tokens).unwrap();
        let error = relative_l2(&found, golden.get(&format!("clip.text.{index}")));
        assert!(error <= LIMIT, "{text}: {error:e}");
    }
    assert!(
        model
            .prompt(golden.texts.last().unwrap())
            .unwrap()
            .dropped_tokens
            > 0
    );
}

#[test]
fn dinov2_pictures_agree_with_and_without_interpolation() {
    let (golden, model) = (Golden::read(), dinov2());
    for name in ["dinov2", "dinov2.trained"] {
        let pixels = golden.get(&format!("{name}.pixels"));
        let found = model.image_features(pixels).unwrap();
        let error = relative_l2(&found, golden.get(&format!("{name}.images")));
        assert!(error <= LIMIT, "{name}: {error:e}");
    }
}

#[test]
fn our_own_pixels_are_those_of_pillow() {
    let golden = Golden::read();
    let pictures = golden.pictures();
    let frames = frames(&pictures);
    let (clip, dinov2) = (clip(), dinov2());
    for (name, preprocess) in [("clip", clip.preprocess()), ("dinov2", dinov2.preprocess())] {
        let found = preprocess.pixels(&frames, &Device::Cpu).unwrap();
        let off = largest_difference(&found, golden.get(&format!("{name}.pixels")));
        assert!(off <= RESAMPLED, "{name}: {off}");
    }
}

#[test]
fn vectors_have_unit_length_and_compare() {
    let golden = Golden::read();
    let pictures = golden.pictures();
    let mut frames = frames(&pictures);
    frames.push(frames[0]);
    let (clip, dinov2) = (clip(), dinov2());
    for vectors in [
        clip.images(&frames).unwrap(),
        dinov2.images(&frames).unwrap(),
    ] {
        assert_eq!(vectors.len(), frames.len());
        let of = |other: usize| cosine(&vectors[0], &vectors[other]).unwrap();
        assert!((of(0) - 1.0).abs() < 1e-6 && (of(3) - 1.0).abs() < 1e-6);
        assert!(of(1) < 0.9999, "other pictures have other vectors");
    }
    let prompt = clip.prompt("a red panda").unwrap();
    assert_eq!(prompt.dropped_tokens, 0);
    let image = clip.images(&frames[..1]).unwrap();
    assert!(cosine(&prompt.vector, &image[0]).unwrap().abs() <= 1.0);
    // One space each: what CLIP says and what DINOv2 says cannot be compared.
    assert_eq!(
        cosine(&image[0], &dinov2.images(&frames[..1]).unwrap()[0]),
        None
    );
}

#[test]
fn marks_in_a_prompt_are_text() {
    let model = clip();
    let plain = model.tokens("x").unwrap().ids;
    let forged = model.tokens("x<|endoftext|><|startoftext|>").unwrap().ids;
    let (begin, end) = (plain[0], plain[2]);
    let count = |mark| forged.iter().filter(|id| **id == mark).count();
    assert_eq!((count(begin), count(end)), (1, 1), "{forged:?}");
    assert_eq!(forged.last(), Some(&end));
}

#[test]
fn digests_name_the_weights() {
    let (one, other) = (clip().weights_sha256(), dinov2().weights_sha256());
    assert_eq!((one.len(), clip().weights_sha256()), (64, one.clone()));
    assert_ne!(one, other);
}

/// A copy of a fixture's model with one JSON file changed.
fn changed(model: &str, file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder().join(model)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(&path, value.to_string()).unwrap();
    copy
}

#[test]
fn files_that_do_not_belong_together_are_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change, &str); 6] = [
        (
            "clip",
            "config.json",
            |v| v["vision_config"]["hidden_size"] = json!(64),
            "vision_model",
        ),
        (
            "clip",
            "config.json",
            |v| v["projection_dim"] = json!(21),
            "visual_projection.weight",
        ),
        (
            "clip",
            "config.json",
            |v| v["text_config"]["eos_token_id"] = json!(7),
            "eos_token_id",
        ),
        (
            "clip",
            "preprocessor_config.json",
            |v| v["crop_size"] = json!(6),
            "crop_size",
        ),
        (
            "dinov2",
            "config.json",
            |v| v["num_hidden_layers"] = json!(3),
            "encoder.layer.2",
        ),
        (
            "dinov2",
            "preprocessor_config.json",
            |v| v["crop_size"] = json!(3),
            "crop_size",
        ),
    ];
    for (model, file, change, named) in cases {
        let folder = changed(model, file, change);
        let error = match model {
            "clip" => ClipModel::open(folder.path(), &Device::Cpu).map(|_| ()),
            _ => Dinov2Model::open(folder.path(), &Device::Cpu).map(|_| ()),
        }
        .unwrap_err();
        assert_eq!(error.fault(), Fault::Artifact);
        assert!(
            error.to_string().contains(named),
            "{file}, {named}: {error}"
        );
    }
    // One model in the place of the other.
    let error = Dinov2Model::open(folder().join("clip"), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("model_type"), "{error}");
    let missing = changed("clip", "config.json", |_| ());
    std::fs::remove_file(missing.path().join("tokenizer.json")).unwrap();
    let error = ClipModel::open(missing.path(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn pixels_of_another_shape_are_the_callers_fault() {
    let wrong = Tensor::zeros((1, 3, 10, 11), DType::F32, &Device::Cpu).unwrap();
    for error in [
        clip().image_features(&wrong).unwrap_err(),
        dinov2().image_features(&wrong).unwrap_err(),
    ] {
        assert_eq!(error.fault(), Fault::Caller);
    }
}
