//! What is sent, what is kept, and checking it again.

use serde_json::{Value, json};

use crate::mock::{Mock, message, says};
use crate::{Clip, command, json as parsed, schema, shown};

fn good() -> String {
    let scores = json!({
        "first_frame_fidelity": 90, "prompt_adherence": 85, "motion_quality": 70, "temporal_consistency": 80,
        "visual_quality": 75, "camera_composition": 60,
    });
    json!({"overall_score": 82, "confidence": 80, "aspect_scores": scores, "major_issues": ["a"], "strengths": ["b"],
           "reasoning": "r"})
    .to_string()
}

#[test]
fn what_is_sent() {
    let clip = Clip::new();
    std::fs::write(clip.file("key"), "sk-secret\n").unwrap();
    let mock = Mock::start(vec![says(&good())]);
    let output = clip.judge(
        &mock.base,
        &["--profile", "subnet", "--api-key-file", "key"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("PASS  mode remote: remote: overall 82 (the model's own)"),
        "{text}"
    );
    assert!(!shown(&output).contains("sk-secret"));

    let asked = mock.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), Some("Bearer sk-secret"));
    let body = asked[0].json();
    let keys: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["max_tokens", "messages", "model"]);
    let parts = body["messages"][1]["content"].as_array().unwrap();
    // 33 frames at 16 per second: the subnet's ffmpeg takes six.
    let images = parts
        .iter()
        .filter(|part| part["type"] == "image_url")
        .count();
    assert_eq!(images, 7);
    assert!(
        parts[0]["text"]
            .as_str()
            .unwrap()
            .contains("\"a red box moves over a table\"")
    );
    assert!(!body.to_string().contains("sk-secret"));
}

#[test]
fn a_judgement_that_cannot_be_kept_is_printed_all_the_same() {
    let clip = Clip::new();
    std::fs::create_dir(clip.file("taken")).unwrap();
    let mock = Mock::start(vec![says(&good()), says(&good())]);
    for option in ["--evidence", "--log"] {
        let more = ["--profile", "subnet", "--format", "json", option, "taken"];
        let output = clip.judge(&mock.base, &more);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        assert_eq!(parsed(&output)["judgement"]["decision"]["pass"], true);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("taken"), "{text}");
    }
    assert_eq!(mock.asked().len(), 2);
}

#[test]
fn a_calibration_needs_both_judges() {
    let clip = Clip::new();
    let mock = Mock::start(vec![]);
    for mode in ["remote", "local"] {
        let more = ["--mode", mode, "--calibration", "table.json"];
        let output = clip.judge(&mock.base, &more);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        let text = String::from_utf8_lossy(&output.stderr);
        let why = format!("mode {mode} asks one judge only");
        assert!(
            text.contains("calibration") && text.contains(&why),
            "{text}"
        );
    }
    assert!(mock.asked().is_empty());
}

#[test]
fn evidence_is_kept_and_checked_again() {
    let clip = Clip::new();
    let mock = Mock::start(vec![says(&good())]);
    let more = [
        "--profile",
        "subnet",
        "--mode",
        "shadow",
        "--task-id",
        "17",
        "--evidence",
        "e.json",
        "--log",
        "log.jsonl",
        "--format",
        "json",
    ];
    let output = clip.judge(&mock.base, &more);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let bytes = std::fs::read(clip.file("e.json")).unwrap();
    let evidence: Value = serde_json::from_slice(&bytes).unwrap();
    schema::check("judge-evidence", &evidence);
    assert_eq!(parsed(&output)["evidence_sha256"], evidence["digest"]);
    let line: Value =
        serde_json::from_slice(&std::fs::read(clip.file("log.jsonl")).unwrap()).unwrap();
    schema::check("judge-log-line", &line);
    assert_eq!(
        (&line["task_id"], &line["evidence_sha256"]),
        (&json!("17"), &evidence["digest"])
    );

    let verify = |more: &[&str]| {
        let output = command(clip.path())
            .args(["judge", "verify", "e.json"])
            .args(more)
            .output()
            .unwrap();
        (output.status.code().unwrap(), shown(&output))
    };
    let media = ["--video", "clip.mp4", "--first-frame", "first.png"];
    for more in [&[][..], &media] {
        let (code, text) = verify(more);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains("the bundle holds") && text.contains("ok       remote answer\n"),
            "{text}"
        );
    }
    assert!(verify(&media).1.contains("ok       requests\n"));
    // One flipped bit.
    for at in [10, bytes.len() / 2, bytes.len() - 2] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(clip.file("e.json"), &changed).unwrap();
        let (code, text) = verify(&[]);
        assert_eq!(code, 1, "byte {at}: {text}");
    }
    std::fs::write(clip.file("e.json"), &bytes).unwrap();
    // Another clip.
    std::fs::write(
        clip.file("first.png"),
        std::fs::read(clip.file("clip.mp4")).unwrap(),
    )
    .unwrap();
    assert_eq!(verify(&media).0, 2);
    std::fs::remove_file(clip.file("e.json")).unwrap();
    assert_eq!(verify(&[]).0, 2);
}

#[test]
fn a_prompt_is_written_from_a_clip() {
    let clip = Clip::new();
    let mock = Mock::start(vec![
        says("A red box slides\nslowly over a table, seen from above."),
        message(
            json!({"content": "A red box slides over the", "refusal": null}),
            "length",
        ),
        message(json!({"content": null, "refusal": "no"}), "stop"),
    ]);
    let prompt = |more: &[&str]| {
        command(clip.path())
            .args([
                "judge",
                "prompt",
                "--video",
                "clip.mp4",
                "--base-url",
                &mock.base,
                "--remote-model",
                "m",
            ])
            .args(["--state-dir", "state"])
            .args(more)
            .output()
            .unwrap()
    };
    let output = prompt(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert_eq!(
        output.stdout,
        b"A red box slides slowly over a table, seen from above.\n"
    );
    let body = mock.asked()[0].json();
    assert_eq!(body["max_tokens"], 220);
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    let output = prompt(&["--format", "json"]);
    assert_eq!(
        (&parsed(&output)["cut"], &parsed(&output)["words"]),
        (&json!(true), &json!(6))
    );
    let output = prompt(&["--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(parsed(&output)["no_verdict"]["reason"], "refused");
}

#[test]
fn many_clips_are_judged_once() {
    let clip = Clip::new();
    for (task, miners) in [("2", &["b", "a"][..]), ("10", &["c"])] {
        let folder = clip.file("tasks").join(task);
        std::fs::create_dir_all(folder.join("generated_videos")).unwrap();
        std::fs::copy(clip.file("first.png"), folder.join("first_frame.png")).unwrap();
        for miner in miners {
            let video = folder.join("generated_videos").join(format!("{miner}.mp4"));
            std::fs::copy(clip.file("clip.mp4"), video).unwrap();
        }
        let metadata = json!({"task_id": 2, "prompt": {"text": format!("a box, {task}")}});
        std::fs::write(folder.join("metadata.json"), metadata.to_string()).unwrap();
    }
    std::fs::write(clip.file("tasks/10/generated_videos/d.mp4"), "no video").unwrap();
    let refused = message(json!({"content": null, "refusal": "no"}), "stop");
    let mock = Mock::start(vec![says(&good()), refused, says(&good()), says(&good())]);
    let batch = || {
        let output = command(clip.path())
            .args([
                "judge",
                "batch",
                "tasks",
                "--mode",
                "remote",
                "--profile",
                "subnet",
            ])
            .args([
                "--base-url",
                &mock.base,
                "--remote-model",
                "m",
                "--state-dir",
                "state",
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        (output.status.code().unwrap(), last)
    };
    // Task 2 first: a passes, b is refused; then c of task 10 passes and d is no video.
    let (code, counts) = batch();
    assert_eq!(code, 2);
    for (name, count) in [
        ("clips", 4),
        ("passed", 2),
        ("failed", 0),
        ("no_verdict", 2),
        ("already_decided", 0),
    ] {
        assert_eq!(counts[name], count, "{name}: {counts}");
    }
    assert_eq!(mock.asked().len(), 3);
    // Only what has no verdict is asked about again.
    let (code, counts) = batch();
    assert_eq!(
        (code, &counts["already_decided"], &counts["passed"]),
        (2, &json!(2), &json!(1))
    );
    assert_eq!(mock.asked().len(), 4);
    let log = std::fs::read_to_string(clip.file("tasks/verdicts.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let miners: Vec<_> = lines
        .iter()
        .map(|line| line["miner"].as_str().unwrap())
        .collect();
    assert_eq!(miners, ["a", "b", "c", "b"]);
    for line in &lines {
        schema::check("judge-log-line", line);
    }
}

#[test]
fn bad_input_is_no_verdict_and_says_whose_fault_it_is() {
    let clip = Clip::new();
    std::fs::write(clip.file("broken.mp4"), b"not a video").unwrap();
    std::fs::write(clip.file("empty"), b"").unwrap();
    let case = |args: &[&str]| {
        let mut all = vec![
            "judge",
            "--mode",
            "remote",
            "--base-url",
            "http://127.0.0.1:9/v1",
            "--format",
            "json",
        ];
        all.extend(["--state-dir", "state"]);
        all.extend(args);
        command(clip.path()).args(all).output().unwrap()
    };
    let video = ["--video", "clip.mp4"];
    let first = ["--first-frame", "first.png"];
    for (args, fault, word) in [
        (
            [&video[..], &first, &["--prompt", " "]].concat(),
            "caller",
            "prompt",
        ),
        (
            [
                &video[..],
                &["--first-frame", "missing.png", "--prompt", "a"],
            ]
            .concat(),
            "caller",
            "first_frame",
        ),
        (
            [&video[..], &["--first-frame", "clip.mp4", "--prompt", "a"]].concat(),
            "caller",
            "first_frame",
        ),
        (
            [&["--video", "missing.mp4"][..], &first, &["--prompt", "a"]].concat(),
            "caller",
            "video",
        ),
        (
            [&["--video", "broken.mp4"][..], &first, &["--prompt", "a"]].concat(),
            "artifact",
            "video",
        ),
        (
            [&["--video", "empty"][..], &first, &["--prompt", "a"]].concat(),
            "artifact",
            "video",
        ),
    ] {
        let output = case(&args);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        let none = &parsed(&output)["no_verdict"];
        assert_eq!(none["fault"], fault, "{}", shown(&output));
        assert!(
            none["message"].as_str().unwrap().starts_with(word),
            "{}",
            shown(&output)
        );
    }
    // Options that cannot be used are said on stderr.
    for args in [
        &["--price", "x"][..],
        &["--api-key", "sk-typed"],
        &["--max-frames", "0"],
        &["--deadline", "10000000000000000000s"],
        &["--deadline", "25h"],
    ] {
        let all = [&video[..], &first, &["--prompt", "a"], args].concat();
        let output = case(&all);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        assert!(
            !output.stderr.is_empty() && !shown(&output).contains("sk-typed"),
            "{}",
            shown(&output)
        );
    }
    let secret = ["--base-url", "https://me:pw@h/v1"];
    let args = [&["judge"][..], &video, &first, &["--prompt", "a"], &secret].concat();
    let output = command(clip.path()).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    assert!(!shown(&output).contains("pw"), "{}", shown(&output));
    // No key where one is needed.
    let args = [
        "judge",
        "--mode",
        "remote",
        "--video",
        "clip.mp4",
        "--first-frame",
        "first.png",
        "--prompt",
        "a",
    ];
    let output = command(clip.path())
        .args(args)
        .args(["--state-dir", "state", "--format", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let remote = &parsed(&output)["judgement"]["remote"];
    assert_eq!(
        (&remote["reason"], &remote["fault"]),
        (&json!("key"), &json!("local")),
        "{}",
        shown(&output)
    );
}
