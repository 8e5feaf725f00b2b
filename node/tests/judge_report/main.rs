//! `leoma-node judge report` and `judge calibrate` on a simulated log of 500 clips, as a validator runs them. The
//! figures are those of scikit-learn and scipy: `scripts/golden/judge_statistics.py`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../audit/schema.rs"]
mod schema;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// The third digit, as the figures are printed.
const NEAR: f64 = 5e-4;

struct Done {
    code: i32,
    out: String,
    error: String,
}

fn judge(arguments: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LEOMA_NODE_") {
            command.env_remove(name);
        }
    }
    let output = command
        .arg("judge")
        .args(arguments)
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        error: text(output.stderr),
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/judge")
        .join(name)
}

fn log() -> String {
    data("simulated.jsonl").to_str().unwrap().to_owned()
}

fn lines() -> Vec<Value> {
    let text = std::fs::read_to_string(log()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn json_report(arguments: &[&str]) -> Value {
    let done = judge(&[&["report", "--format", "json"], arguments].concat());
    assert!(done.code < 2, "{}", done.error);
    let report = serde_json::from_str(&done.out).unwrap();
    schema::check("judge-report", &report);
    report
}

fn write(folder: &Path, lines: &[Value]) -> String {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = folder.join("log.jsonl");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn figures_are_right_to_the_third_digit() {
    for line in lines().iter().take(20) {
        schema::check("judge-pair", line);
    }
    let report = json_report(&[&log()]);
    let values: Value =
        serde_json::from_slice(&std::fs::read(data("statistics.json")).unwrap()).unwrap();
    let expected = values["report"]["figures"].as_object().unwrap();
    let pointers = [
        ("agreement", "/decision/agreement"),
        ("kappa", "/decision/kappa"),
        ("false_pass", "/decision/false_pass/rate"),
        ("false_fail", "/decision/false_fail/rate"),
        ("auc", "/chances/auc"),
        ("brier", "/chances/brier"),
        ("ece", "/chances/ece"),
        ("calibrated kappa", "/chances/kappa"),
        ("ceiling kappa", "/ceiling/kappa"),
        ("ceiling quadratic_kappa", "/ceiling/quadratic_kappa"),
        ("ceiling spearman", "/ceiling/spearman"),
    ];
    let mut found: Vec<(String, Value)> = pointers
        .map(|(name, pointer)| (name.to_owned(), report.pointer(pointer).unwrap().clone()))
        .to_vec();
    for score in report["scores"].as_array().unwrap() {
        for figure in ["quadratic_kappa", "spearman"] {
            let name = format!("{} {figure}", score["name"].as_str().unwrap());
            found.push((name, score[figure].clone()));
        }
    }
    assert_eq!(found.len(), expected.len());
    for (name, figure) in found {
        let figures = [
            &figure["value"],
            &figure["interval"][0],
            &figure["interval"][1],
        ];
        for (figure, expected) in figures.into_iter().zip(expected[&name].as_array().unwrap()) {
            let (figure, expected) = (figure.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!(
                (figure - expected).abs() < NEAR,
                "{name}: {figure} is not {expected}"
            );
        }
    }
    // The simulated local judge gets worse, and the report says so.
    assert_eq!(report["drift"]["alarm"], true);
    assert_eq!(judge(&["report", &log()]).code, 1);
}

#[test]
fn a_calibration_is_fitted_checked_and_refused_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.json");
    let table = table.to_str().unwrap();
    let done = judge(&["calibrate", &log(), "--output", table]);
    assert_eq!(done.code, 0, "{}", done.error);
    assert!(
        done.out
            .starts_with("isotonic for simulated-2b beside gpt-4o: 490 clips of 125 tasks"),
        "{}",
        done.out
    );
    let written: Value = serde_json::from_slice(&std::fs::read(table).unwrap()).unwrap();
    schema::check("judge-calibration", &written);

    let report = json_report(&[&log(), "--calibration", table]);
    assert_eq!(report["calibration"]["valid"], true);
    let mut others = lines();
    for line in &mut others {
        line["remote_judge"]["remote_model"] = "another".into();
    }
    let others = write(folder.path(), &others);
    let report = json_report(&[&others, "--calibration", table]);
    assert!(
        report["calibration"]["invalid"]
            .as_str()
            .unwrap()
            .contains("remote_model")
    );
    assert_eq!(judge(&["report", &others, "--calibration", table]).code, 1);
    // Both in one report: judges are compared one by one, and can be chosen.
    let both = json_report(&[&others, &log(), "--remote-model", "gpt-4o"]);
    assert_eq!(both["log"]["others"][0]["records"], 500);
    assert_eq!(both["log"]["judged"], 490);

    std::fs::write(table, "{}").unwrap();
    let done = judge(&["report", &log(), "--calibration", table]);
    assert_eq!(done.code, 2);
    assert!(
        done.error.contains("no calibration table"),
        "{}",
        done.error
    );
    let few = write(folder.path(), &lines()[..30]);
    let done = judge(&["calibrate", &few, "--output", table]);
    assert_eq!(
        (done.code, std::fs::read_to_string(table).unwrap().as_str()),
        (1, "{}")
    );
    assert!(
        done.out.contains("no calibration: 29 clips")
            || done.out.contains("no calibration: 30 clips"),
        "{}",
        done.out
    );
}

#[test]
fn bad_lines_are_named_and_bad_files_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = std::fs::read_to_string(log()).unwrap();
    text.insert_str(0, "{\"id\": 7}\n[1, 2]\n\u{1b}[2J\n");
    let path = folder.path().join("log.jsonl");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let report = json_report(&[path]);
    assert_eq!(
        (&report["log"]["unusable"], &report["log"]["judged"]),
        (&json!(3), &json!(490))
    );
    assert_eq!(report["log"]["problems"][2]["line"], 3);
    let done = judge(&["report", path]);
    assert!(done.out.contains("note: line 1:") && !done.out.contains('\u{1b}'));
    // Of several logs it has to be said which.
    let both = json_report(&[&log(), path]);
    assert_eq!(both["log"]["problems"][0]["log"], path);
    let done = judge(&["report", &log(), path]);
    let note = format!("note: line 1 of {path}:");
    assert!(done.out.contains(&note), "{}", done.out);

    let missing = folder.path().join("none.jsonl");
    let done = judge(&["report", missing.to_str().unwrap()]);
    assert!(
        done.code == 2 && done.error.contains("none.jsonl"),
        "{}",
        done.error
    );
    std::fs::write(&missing, "").unwrap();
    let report = json_report(&[missing.to_str().unwrap()]);
    assert_eq!(
        (&report["sufficient"], &report["log"]["clips"]),
        (&json!(false), &json!(0))
    );
}

#[test]
fn the_page_shows_the_pictures_beside_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = lines();
    let digest = "ab".repeat(32);
    for line in &mut lines {
        line["frames"] = json!([digest, "../../etc/passwd", "cd".repeat(32)]);
    }
    let log = write(folder.path(), &lines);
    let frames = folder.path().join("log.jsonl.frames");
    std::fs::create_dir(&frames).unwrap();
    std::fs::write(
        frames.join(format!("{digest}.jpg")),
        [0xff, 0xd8, 0xff, 0xd9],
    )
    .unwrap();
    let page = folder.path().join("page.html");
    let page = page.to_str().unwrap();
    let done = judge(&["report", &log, "--format", "html", "-o", page]);
    assert_eq!((done.code, done.out.as_str()), (1, ""), "{}", done.error);
    // Whole or not at all: nothing is left beside it, and a folder in its place is an error.
    let beside = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(beside, 3);
    let done = judge(&["report", &log, "-o", frames.to_str().unwrap()]);
    assert!(done.code == 2 && done.error.contains("output: cannot write"));
    let text = std::fs::read_to_string(page).unwrap();
    assert_eq!(
        text.matches("src=\"data:image/jpeg;base64,/9j/2Q==\"")
            .count(),
        40
    );
    assert_eq!(text.matches("<img").count(), 40);
}
