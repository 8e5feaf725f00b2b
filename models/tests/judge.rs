//! Replays what transformers 5.14.1 (float32, CPU) made of a tiny random Qwen3-VL: patches, tokens, positions,
//! features, scores of all words, greedy continuation.
//!
//! `scripts/golden/judge_fixtures.py` makes the fixture. LEOMA_JUDGE_FIXTURE names another folder of the same
//! form, of a seed that was never seen.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use leoma_models::Precision;
use leoma_models::judge::{Frame, LocalJudge, Qwen3Vl, Sequence, SequenceBuilder, VisionFeatures};
use serde::Deserialize;

use common::{relative_l2, values};

/// Relative L2 from given pixels, in f32.
const LIMIT: f64 = 2e-5;
/// Largest difference of a resampled pixel, in normalised units.
const RESAMPLED: f64 = 0.03;

const CASES: [&str; 4] = ["clip", "images", "exact", "text"];

#[derive(Deserialize)]
struct Case {
    parts: Vec<String>,
    indices: Vec<usize>,
    fps: f64,
}

struct Golden {
    case: Case,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let folder = folder();
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let file = folder.join(format!("{name}.safetensors"));
        Self {
            case: serde_json::from_str(&text).unwrap(),
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
        }
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let ids: Vec<i64> = self.get(name).flatten_all().unwrap().to_vec1().unwrap();
        ids.into_iter().map(|id| id.try_into().unwrap()).collect()
    }

    /// The sequence that our own processor makes.
    fn sequence(&self, judge: &LocalJudge) -> Sequence {
        let bytes = |x: &Tensor| -> Vec<u8> { x.flatten_all().unwrap().to_vec1().unwrap() };
        let mut builder = SequenceBuilder::new(judge.tokenizer(), judge.processor())
            .begin("user")
            .unwrap();
        let mut images = 0;
        for part in &self.case.parts {
            builder = match part.as_str() {
                "image" => {
                    let image = self.get(&format!("image.{images}"));
                    images += 1;
                    let (height, width, _) = image.dims3().unwrap();
                    let pixels = bytes(image);
                    builder
                        .image(&Frame::new(&pixels, height, width).unwrap())
                        .unwrap()
                }
                "video" => {
                    let video = self.get("video");
                    let (count, height, width, _) = video.dims4().unwrap();
                    let pixels: Vec<_> = (0..count)
                        .map(|index| bytes(&video.get(index).unwrap()))
                        .collect();
                    let frames: Vec<_> = pixels
                        .iter()
                        .map(|pixels| Frame::new(pixels, height, width).unwrap())
                        .collect();
                    builder
                        .video(&frames, &self.case.indices, self.case.fps)
                        .unwrap()
                }
                text => builder.text(text.strip_prefix("text:").unwrap()),
            };
        }
        let ended = builder.end().unwrap().begin("assistant").unwrap();
        ended.build(&Device::Cpu).unwrap()
    }

    /// That sequence with the reference's patches.
    fn given(&self, judge: &LocalJudge) -> Sequence {
        Sequence {
            pixel_values: self.tensors.get("pixel_values").cloned(),
            ..self.sequence(judge)
        }
    }
}

fn folder() -> PathBuf {
    std::env::var_os("LEOMA_JUDGE_FIXTURE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/judge"),
        PathBuf::from,
    )
}

fn open(precision: Precision) -> LocalJudge {
    LocalJudge::open(folder().join("model"), precision, &Device::Cpu).unwrap()
}

#[track_caller]
fn close(name: &str, found: &Tensor, wanted: &Tensor) {
    let distance = relative_l2(found, wanted);
    assert!(
        distance <= LIMIT,
        "{name}: relative L2 {distance:.2e}, limit {LIMIT:.0e}"
    );
}

fn features(model: &Qwen3Vl, sequence: &Sequence) -> Option<VisionFeatures> {
    model.vision(sequence).unwrap()
}

#[test]
fn tokens_positions_and_grids_are_identical() {
    let judge = open(Precision::F32);
    for name in CASES {
        let golden = Golden::read(name);
        let sequence = golden.sequence(&judge);
        assert_eq!(sequence.input_ids, golden.ids("input_ids"), "{name}");
        let positions = sequence.positions.axes.concat();
        assert_eq!(positions, golden.ids("position_ids"), "{name}");
        let grid: Vec<u32> = sequence
            .grids
            .iter()
            .flat_map(|grid| [grid.frames, grid.rows, grid.columns])
            .map(|count| count as u32)
            .collect();
        let wanted = golden.tensors.contains_key("grid");
        assert_eq!(
            grid,
            if wanted { golden.ids("grid") } else { vec![] },
            "{name}"
        );
    }
}

#[test]
fn patches_are_near_and_equal_where_nothing_is_resampled() {
    let judge = open(Precision::F32);
    for (name, limit) in [("clip", RESAMPLED), ("images", RESAMPLED), ("exact", 1e-6)] {
        let golden = Golden::read(name);
        let found = golden.sequence(&judge).pixel_values.unwrap();
        let wanted = golden.get("pixel_values");
        assert_eq!(found.dims(), wanted.dims(), "{name}");
        let (found, wanted) = (values(&found), values(wanted));
        let most = found
            .iter()
            .zip(&wanted)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(most <= limit, "{name}: patches differ by up to {most}");
    }
}

#[test]
fn features_of_the_vision_tower() {
    let judge = open(Precision::F32);
    for name in ["clip", "images", "exact"] {
        let golden = Golden::read(name);
        let found = features(judge.model(), &golden.given(&judge)).unwrap();
        close(
            &format!("{name}, vision"),
            &found.merged,
            golden.get("vision"),
        );
        let levels = found.stacked().unwrap().unwrap();
        close(
            &format!("{name}, deepstack"),
            &levels,
            golden.get("deepstack"),
        );
    }
}

#[test]
fn scores_of_all_words_and_the_greedy_continuation() {
    let judge = open(Precision::F32);
    for name in CASES {
        let golden = Golden::read(name);
        let sequence = golden.given(&judge);
        let features = features(judge.model(), &sequence);
        let wanted = golden.ids("greedy");
        let mut session = judge
            .model()
            .session(sequence.len() + wanted.len())
            .unwrap();
        let hidden = session.prefill(&sequence, features.as_ref()).unwrap();
        let logits = session.logits(&hidden, sequence.len()).unwrap();
        close(&format!("{name}, logits"), &logits, golden.get("logits"));
        let found = session
            .greedy(&hidden, wanted.len(), &[], |_, _| Ok(()))
            .unwrap();
        assert_eq!(found, wanted, "{name}");
    }
}

/// bf16 is not bit-exact between implementations; it must stay near f32, and must not be it.
#[test]
fn bf16_stays_near() {
    let judge = open(Precision::Bf16);
    let golden = Golden::read("clip");
    let sequence = golden.given(&judge);
    let features = features(judge.model(), &sequence);
    assert_eq!(features.as_ref().unwrap().merged.dtype(), DType::BF16);
    let mut session = judge.model().session(sequence.len()).unwrap();
    let hidden = session.prefill(&sequence, features.as_ref()).unwrap();
    let logits = session.logits(&hidden, sequence.len()).unwrap();
    let distance = relative_l2(&logits, golden.get("logits"));
    assert!(distance > 1e-4 && distance < 0.15, "{distance}");
}
