//! The judge of this machine, through the real binary: a tiny random model, and signals alone.

use std::path::Path;
use std::process::Output;

use candle_core::{Device, safetensors};
use leoma_node::media::RgbImage8;
use serde_json::{Value, json};

use crate::mock::{Mock, says};
use crate::{Clip, HEIGHT, WIDTH, command, frame, json as parsed, schema, shown};

/// Nobody listens there, and nobody is asked.
const NOWHERE: &str = "http://127.0.0.1:9/v1";

fn good() -> String {
    let scores = json!({
        "first_frame_fidelity": 90, "prompt_adherence": 85, "motion_quality": 70, "temporal_consistency": 80,
        "visual_quality": 75, "camera_composition": 60,
    });
    json!({"issues": ["the table is bare"], "aspect_scores": scores, "confidence": 80, "text_in_frames": false})
        .to_string()
}

/// A clip with a tiny model in the folder `tiny` beside it.
fn with_model() -> Clip {
    let clip = Clip::new();
    let made = command(clip.path())
        .args(["models", "make-tiny", "--kind", "judge", "--seed", "1"])
        .args(["--out", "tiny"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", shown(&made));
    clip
}

const MODEL: [&str; 4] = ["--local-model", "tiny", "--device", "cpu"];

fn verify(clip: &Clip, more: &[&str]) -> (Option<i32>, String) {
    let output = command(clip.path())
        .args(["judge", "verify", "e.json"])
        .args(more)
        .output()
        .unwrap();
    (output.status.code(), shown(&output))
}

#[test]
fn both_judges_and_what_they_rest_on() {
    let clip = with_model();
    let mock = Mock::start(vec![says(&good())]);
    let more = [
        &MODEL[..],
        &["--mode", "shadow", "--format", "json"],
        &["--evidence", "e.json", "--log", "log.jsonl"],
    ];
    let output = clip.judge(&mock.base, &more.concat());
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let judgement = &parsed(&output)["judgement"];
    assert_eq!(
        (&judgement["decision"]["pass"], &judgement["decision"]["by"]),
        (&json!(true), &json!("remote"))
    );
    let (remote, local) = (&judgement["remote"], &judgement["local"]);
    assert_eq!(remote["issues"], json!(["the table is bare"]));
    assert_eq!(
        (&local["outcome"], &local["judge"], &local["model"]),
        (&json!("verdict"), &json!("qwen3-vl"), &json!("tiny"))
    );
    let details = &local["details"];
    assert_eq!(details["weights_sha256"].as_str().unwrap().len(), 64);
    assert!(details["signals"]["ff_ssim"].as_f64().unwrap() > 0.5);
    let frames = details["frames"].as_array().unwrap();
    let seen: Vec<_> = frames.iter().map(|frame| &frame["index"]).collect();
    assert_eq!(json!(seen), json!([0, 2, 7, 13, 18, 23, 29, 30, 31, 32]));
    // What calibration compares: the remote judge's frames, and no others.
    assert_eq!(
        details["same_frames"]["indices"],
        json!([2, 7, 13, 18, 23, 29])
    );

    let bytes = std::fs::read(clip.file("e.json")).unwrap();
    let evidence: Value = serde_json::from_slice(&bytes).unwrap();
    schema::check("judge-evidence", &evidence);
    assert_eq!(evidence["configurations"].as_object().unwrap().len(), 2);
    let line: Value =
        serde_json::from_slice(&std::fs::read(clip.file("log.jsonl")).unwrap()).unwrap();
    schema::check("judge-log-line", &line);

    let media = ["--video", "clip.mp4", "--first-frame", "first.png"];
    let (code, text) = verify(&clip, &media);
    assert_eq!(code, Some(0), "{text}");
    for check in [
        "local gates",
        "local scores",
        "local scores of the remote judge's frames",
        "local signals",
        "local pixels",
        "remote answer",
    ] {
        assert!(
            text.contains(&format!("ok       {check}\n")),
            "{check}: {text}"
        );
    }
    for at in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 20] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(clip.file("e.json"), &changed).unwrap();
        let (code, text) = verify(&clip, &[]);
        assert_eq!(code, Some(1), "byte {at}: {text}");
    }
}

#[test]
fn the_same_clip_has_the_same_scores_in_words_too() {
    let clip = with_model();
    let local = |more: &[&str]| {
        let more = [&MODEL[..], &["--mode", "local"], more].concat();
        clip.judge(NOWHERE, &more)
    };
    let scores = |output: &Output| parsed(output)["judgement"]["local"]["scores"].clone();
    let first = local(&["--format", "json"]);
    assert!(
        matches!(first.status.code(), Some(0 | 1)),
        "{}",
        shown(&first)
    );
    assert_eq!(scores(&first), scores(&local(&["--format", "json"])));
    let text = local(&[]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(
        text.contains("local: qwen3-vl tiny, profile whitepaper, the weighted overall decides"),
        "{text}"
    );
    // Fewer tokens are another judge.
    let blind = local(&["--local-tokens-per-picture", "4", "--format", "json"]);
    let digest =
        |output: &Output| parsed(output)["judgement"]["local"]["configuration_sha256"].clone();
    assert_ne!(digest(&first), digest(&blind));
}

#[test]
fn a_dump_holds_what_the_scores_were_made_from() {
    let clip = with_model();
    let dump = |more: &[&str]| {
        let more = [&["--mode", "local", "--dump", "d.safetensors"][..], more].concat();
        clip.judge(NOWHERE, &more)
    };
    let output = dump(&MODEL);
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{}",
        shown(&output)
    );
    let tensors = safetensors::load(clip.file("d.safetensors"), &Device::Cpu).unwrap();
    let dims = |name: &str| tensors[name].dims().to_vec();
    let grid = tensors["grid"].to_vec2::<i64>().unwrap();
    // The conditioning image, and ten frames in pairs.
    assert_eq!((grid.len(), grid[0][0], grid[1][0]), (2, 1, 5));
    let patches: i64 = grid.iter().map(|grid| grid.iter().product::<i64>()).sum();
    let patches = patches as usize;
    assert_eq!(dims("pixel_values"), [patches, 3 * 2 * 16 * 16]);
    let tokens = dims("input_ids")[0];
    assert_eq!(dims("position_ids"), [3, tokens]);
    assert_eq!(dims("vision")[0], patches / 4);
    assert_eq!(dims("deepstack")[1..], dims("vision"));
    assert_eq!(dims("logits")[0], 6);
    assert!(dims("questions.motion_quality")[0] > 0);

    for (more, remedy) in [
        (&[][..], "--local-model"),
        (&["--local-model", "tiny", "--mode", "remote"][..], "--mode"),
        (
            &["--local-model", "tiny", "--local-profile", "unified"][..],
            "rubric",
        ),
    ] {
        let output = if more.contains(&"--mode") {
            clip.judge(NOWHERE, &[&["--dump", "d.safetensors"][..], more].concat())
        } else {
            dump(more)
        };
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        assert!(text.contains("dump: ") && text.contains(remedy), "{text}");
    }
}

#[test]
fn signals_fail_damage_and_pass_nothing() {
    let local = |clip: &Clip, more: &[&str]| {
        let more = [&["--mode", "local", "--format", "json"][..], more].concat();
        clip.judge(NOWHERE, &more)
    };
    // Nothing is wrong with it, and that is all that can be said.
    let output = local(&Clip::new(), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    let none = &parsed(&output)["judgement"]["local"];
    assert_eq!(
        (&none["reason"], &none["fault"]),
        (&json!("abstains"), &json!("local"))
    );
    assert!(none["message"].as_str().unwrap().contains("Signals only"));

    let cut = Clip::of(|number| {
        let frame = frame(number);
        if number < 16 {
            return frame;
        }
        let inverted = frame.data().iter().map(|value| 255 - value).collect();
        RgbImage8::new(WIDTH, HEIGHT, inverted).unwrap()
    });
    let output = local(&cut, &["--evidence", "e.json"]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let verdict = &parsed(&output)["judgement"]["local"];
    assert_eq!(verdict["scores"]["temporal_consistency"], 45);
    assert_eq!(
        verdict["unjudged"],
        json!(["prompt_adherence", "visual_quality", "camera_composition"])
    );
    assert!(verdict["details"]["gates"]["G_cut"].is_string());
    let media = ["--video", "clip.mp4", "--first-frame", "first.png"];
    let (code, text) = verify(&cut, &media);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ok       local signals\n"), "{text}");

    // Frozen, it could still have 80 points: that fails where 81 are asked for.
    let frozen = Clip::of(|_| frame(0));
    let output = local(&frozen, &["--pass-threshold", "81"]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let verdict = &parsed(&output)["judgement"]["local"];
    assert_eq!(
        (&verdict["scores"]["motion_quality"], &verdict["overall"]),
        (&json!(20), &json!(80))
    );
    assert_eq!(local(&frozen, &[]).status.code(), Some(2));
}

#[test]
fn what_clip_and_dinov2_see_is_said_kept_and_checked() {
    let clip = Clip::new();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/embeddings");
    let [text_model, picture_model] =
        ["clip", "dinov2"].map(|name| models.join(name).display().to_string());
    let options = [
        ["--mode", "local"],
        ["--device", "cpu"],
        ["--clip", text_model.as_str()],
        ["--dinov2", picture_model.as_str()],
    ]
    .concat();
    let local = |more: &[&str]| clip.judge(NOWHERE, &[&options[..], more].concat());

    let output = local(&["--format", "json", "--evidence", "e.json"]);
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    let judgement = &parsed(&output)["judgement"];
    let found = &judgement["local"]["details"]["embeddings"];
    assert_eq!(found["values"].as_object().unwrap().len(), 7, "{found}");
    assert!(
        found["values"]["dino_first"].as_f64().unwrap() > 0.9,
        "{found}"
    );
    assert_eq!(found["indices"].as_array().unwrap().len(), 16);
    let evidence: Value =
        serde_json::from_slice(&std::fs::read(clip.file("e.json")).unwrap()).unwrap();
    schema::check("judge-evidence", &evidence);
    let configurations = evidence["configurations"].as_object().unwrap();
    let asks = &configurations.values().next().unwrap()["asks"]["embeddings"];
    assert_eq!(asks["weights_sha256"], found["weights_sha256"]);
    assert_eq!(asks["frames"], 16);
    let media = ["--video", "clip.mp4", "--first-frame", "first.png"];
    let (code, text) = verify(&clip, &media);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ok       local embeddings\n"), "{text}");
    assert!(
        text.contains("skipped  local embeddings of the clip: "),
        "{text}"
    );

    let text = local(&[]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("  in 16 frames: clip_text "), "{text}");
    let page = local(&["--format", "html"]);
    let page = String::from_utf8_lossy(&page.stdout);
    assert!(page.contains("CLIP and DINOv2, in 16 frames"));

    // Weights that cannot be used are named before anything is judged.
    std::fs::create_dir(clip.file("broken")).unwrap();
    for name in ["model.safetensors", "preprocessor_config.json"] {
        std::fs::copy(
            models.join("dinov2").join(name),
            clip.file("broken").join(name),
        )
        .unwrap();
    }
    std::fs::write(clip.file("broken/config.json"), "{}").unwrap();
    let output = clip.judge(NOWHERE, &["--mode", "local", "--dinov2", "broken"]);
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("broken/config.json"), "{text}");
}

#[test]
fn what_cannot_be_used_is_named_before_anybody_is_asked() {
    let clip = with_model();
    let mock = Mock::start(vec![says(&good())]);
    std::fs::remove_file(clip.file("tiny/tokenizer.json")).unwrap();
    std::fs::write(clip.file("table.json"), "{}").unwrap();
    let table = ["--calibration", "table.json"];
    for (more, file) in [(&MODEL[..], "tokenizer.json"), (&table[..], "table.json")] {
        let output = clip.judge(&mock.base, &[&["--mode", "shadow"][..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(file), "{text}");
    }
    assert!(mock.asked().is_empty());

    // Without a table mode fallback is the remote judge alone, and says so.
    let output = clip.judge(&mock.base, &["--mode", "fallback"]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("there is no --calibration"), "{text}");
}
