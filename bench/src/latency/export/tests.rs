#![allow(clippy::unwrap_used)]
use leoma_models::Precision;

use super::*;
use crate::latency::result::Stage;
use crate::latency::schedule::tests::{report, run_with, scenario};
use crate::latency::telemetry::Telemetry;

/// A lossless and a lossy run, every value fixed.
fn two() -> LatencyReport {
    let lossless = run_with(&scenario(), |_| ());
    let mut lossy = scenario();
    lossy.name = "half <b>".into();
    lossy.precision = Precision::Fp8;
    report(vec![lossless, run_with(&lossy, |fake| fake.swap = true)])
}

#[test]
fn markdown_is_as_agreed() {
    let text = markdown::render(&two());
    for line in [
        "# Test CPU, 2026-01-31",
        "release build at 0123456789ab, rustc 1.95.0, 2 threads on Test CPU.",
        "No power, clocks or temperature: computing on the CPU.",
        "| scenario | clip | 95 % | clips per hour | EUR per clip | energy | attention |",
        "| `tiny/ti2v-5b` | 4.50 s | 4.50 s – 4.50 s | 800.0 | 0.0025 | — | fake attention |",
        "tiny ti2v-5b, 128x128, 17 frames, 6 steps, guidance 5, first frame, f32, offload none; 80 tokens, weights: \
         tiny checkpoint; 6 rounds after 1 warm-up.",
        "| load | 1 | 2.00 s | — | 0 s | 2.00 s | 2.00 s | — | — | 2.00 MiB | — |",
        "- mux: not measured: no leoma-node beside this program.",
        "| large product | 100 GFLOP/s |",
        "| copy | 10.0 GB/s |",
        "Doubts:",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n\n{text}");
    }
    let (lossless, lossy) = text.split_once("## Lossy").unwrap();
    assert!(lossless.contains("## Lossless") && !lossless.contains("fp8"));
    assert!(lossy.contains("fp8") && lossy.contains("| swap | 6 | 3.00 s |"));
}

#[test]
fn csv_has_a_line_per_measured_stage_in_base_units() {
    let text = csv::render(&two());
    let lines: Vec<&str> = text.split("\r\n").filter(|line| !line.is_empty()).collect();
    let columns = lines[0].split(',').count();
    // Five stages of the first run, six of the second, which swaps.
    assert_eq!((lines.len(), columns), (12, 27));
    assert!(lines.iter().all(|line| line.split(',').count() == columns));
    let decode = lines.iter().find(|line| line.contains(",decode,")).unwrap();
    assert!(decode.starts_with(
        "2026-01-31,Test CPU,0123456789ab,tiny/ti2v-5b,ti2v-5b,tiny,128,128,17,6,f32,true,fake attention,none,decode,6,1,0,1,1,1,1,"
    ), "{decode}");
}

#[test]
fn csv_quotes_what_would_break_a_line() {
    let mut found = two();
    found.device.name = "A \"B\", C".into();
    assert!(csv::render(&found).contains(",\"A \"\"B\"\", C\","));
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let mut found = two();
    found.runs[0].telemetry = Telemetry {
        t_s: vec![0.0, 1.0, 2.0],
        power_w: vec![Some(300.0), None, Some(310.0)],
        sm_mhz: vec![Some(1900); 3],
        memory_mhz: vec![None; 3],
        temperature_c: vec![None; 3],
        used_bytes: vec![None; 3],
        ..Telemetry::default()
    };
    let page = html::render(&found);
    for forbidden in [
        "<script", "http:", "https:", "src=", "url(", "@import", "<link", "NaN", "inf,",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // Bars, steps and roofline of both, device series of one.
    assert_eq!(page.matches("<svg").count(), 7);
    assert_eq!(page.matches("</svg>").count(), 7);
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("viewport"));
    assert!(page.contains("half &lt;b&gt;") && !page.contains("half <b>"));
    assert!(page.find("<h2>Lossless").unwrap() < page.find("<h2>Lossy").unwrap());
    assert!(page.contains("Why these numbers may lie"));
    // Every element that is opened is closed.
    for tag in [
        "div", "table", "tr", "td", "th", "ul", "li", "h2", "h3", "p", "text",
    ] {
        let opened =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn the_parts_of_a_clip_add_up() {
    let run = run_with(&scenario(), |_| ());
    let parts = svg::shares(&run);
    let sum: f64 = parts.iter().map(|part| part.1).sum();
    assert!((sum - run.clip.seconds).abs() < 1e-9, "{parts:?}");
    assert_eq!(parts.last().unwrap().0, "other");
    let steps = run.stage(Stage::DenoiseStep).unwrap().samples_s.len();
    assert_eq!(
        svg::step_times(&run).unwrap().matches("<circle").count(),
        steps
    );
}

#[test]
fn outputs_go_to_the_devices_folder_or_where_they_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let found = two();
    let usual = |format: &str| {
        format
            .parse::<Output>()
            .unwrap()
            .write(&found, dir.path())
            .unwrap()
    };
    let path = usual("json");
    assert_eq!(
        path,
        dir.path().join("test-cpu-2t/2026-01-31-0123456789ab.json")
    );
    assert_eq!(LatencyReport::load(&path).unwrap(), found);
    assert!(usual("json").ends_with("2026-01-31-0123456789ab-2.json"));
    let named = dir.path().join("mine.html");
    let output: Output = named.to_str().unwrap().parse().unwrap();
    assert_eq!(output.write(&found, dir.path()).unwrap(), named);
    assert!(
        std::fs::read_to_string(named)
            .unwrap()
            .starts_with("<!doctype html>")
    );
}

#[test]
fn another_schema_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    files::write(&path, r#"{"schema": "leoma-bench/latency/0"}"#).unwrap();
    let error = LatencyReport::load(&path).unwrap_err();
    assert_eq!(crate::failure::code(&error), 2);
    assert!(error.to_string().contains("measure again"), "{error}");
    files::write(
        &path,
        &format!(r#"{{"schema": "{}"}}"#, crate::latency::SCHEMA),
    )
    .unwrap();
    assert!(
        LatencyReport::load(&path)
            .unwrap_err()
            .to_string()
            .contains("missing field")
    );
}

mod schema {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn schema() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/schema.json");
        files::read_json(&path).unwrap()
    }

    /// The part of JSON Schema 2020-12 that `schema.json` uses. Adds a line per violation.
    fn check(value: &Value, schema: &Value, root: &Value, at: &str, wrong: &mut Vec<String>) {
        let known = [
            "$schema",
            "$id",
            "$defs",
            "$ref",
            "title",
            "description",
            "type",
            "const",
            "enum",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "minItems",
            "maxItems",
            "minimum",
            "exclusiveMinimum",
            "pattern",
        ];
        for key in schema.as_object().unwrap().keys() {
            assert!(
                known.contains(&key.as_str()),
                "{at}: the checker does not know `{key}`"
            );
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.strip_prefix('#').unwrap();
            check(value, root.pointer(pointer).unwrap(), root, at, wrong);
        }
        let is = |name: &str| match name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_u64() || value.is_i64(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{at}: type {other}"),
        };
        let fits = match &schema["type"] {
            Value::Null => true,
            Value::String(name) => is(name),
            Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
            other => panic!("{at}: {other}"),
        };
        if !fits {
            wrong.push(format!("{at}: {value} is no {}", schema["type"]));
        }
        if schema.get("const").is_some_and(|only| only != value) {
            wrong.push(format!("{at}: {value} is not {}", schema["const"]));
        }
        if schema["enum"]
            .as_array()
            .is_some_and(|all| !all.contains(value))
        {
            wrong.push(format!("{at}: {value} is none of {}", schema["enum"]));
        }
        if let (Some(number), Some(least)) = (value.as_f64(), schema["minimum"].as_f64())
            && number < least
        {
            wrong.push(format!("{at}: {number} is less than {least}"));
        }
        if let (Some(number), Some(bound)) = (value.as_f64(), schema["exclusiveMinimum"].as_f64())
            && number <= bound
        {
            wrong.push(format!("{at}: {number} is not above {bound}"));
        }
        if let Some(items) = value.as_array() {
            let count = items.len() as u64;
            if schema["minItems"]
                .as_u64()
                .is_some_and(|least| count < least)
                || schema["maxItems"].as_u64().is_some_and(|most| count > most)
            {
                wrong.push(format!("{at}: {count} items"));
            }
            if schema.get("items").is_some() {
                for (index, item) in items.iter().enumerate() {
                    check(
                        item,
                        &schema["items"],
                        root,
                        &format!("{at}/{index}"),
                        wrong,
                    );
                }
            }
        }
        if let Some(fields) = value.as_object() {
            for required in schema["required"].as_array().into_iter().flatten() {
                if !fields.contains_key(required.as_str().unwrap()) {
                    wrong.push(format!("{at}: {required} is missing"));
                }
            }
            for (name, field) in fields {
                let place = format!("{at}/{name}");
                match (
                    schema["properties"].get(name),
                    schema.get("additionalProperties"),
                ) {
                    (Some(inner), _) => check(field, inner, root, &place, wrong),
                    (None, Some(Value::Bool(false))) => wrong.push(format!("{place} is not known")),
                    (None, Some(inner @ Value::Object(_))) => {
                        check(field, inner, root, &place, wrong)
                    }
                    _ => {}
                }
            }
        }
    }

    fn violations(value: &Value) -> Vec<String> {
        let (root, mut wrong) = (schema(), Vec::new());
        check(value, &root, &root, "", &mut wrong);
        wrong
    }

    #[test]
    fn results_are_as_the_schema_says() {
        let mut found = two();
        found.runs[0].telemetry.t_s = vec![0.5];
        let value = serde_json::to_value(&found).unwrap();
        assert_eq!(violations(&value), Vec::<String>::new());
        // Those that `compare` and `report` are given as `bench/results/*/*.json`; deeper folders hold other measurements.
        let entries = |folder: &Path| -> Vec<_> {
            std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect()
        };
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let folders = entries(&results).into_iter().filter(|path| path.is_dir());
        for file in folders.flat_map(|folder| entries(&folder)) {
            if file.is_file() {
                let wrong = violations(&files::read_json(&file).unwrap());
                assert_eq!(wrong, Vec::<String>::new(), "{}", file.display());
            }
        }
    }

    #[test]
    fn the_schema_refuses_what_is_no_result() {
        let good = serde_json::to_value(two()).unwrap();
        let broken = |pointer: &str, value: Value| {
            let mut copy = good.clone();
            *copy.pointer_mut(pointer).unwrap() = value;
            violations(&copy)
        };
        for (pointer, value) in [
            ("/schema", json!("leoma-bench/latency/9")),
            ("/date", json!(5)),
            ("/device/kind", json!("tpu")),
            ("/runs/0/clip/seconds", json!(-1.0)),
            ("/runs/0/stages/0/stage", json!("sleep")),
            ("/runs/0/stages/0/samples_s", json!(["1"])),
            ("/runs/0/scenario/rounds", json!(0)),
            ("/runs/0/scenario/extra", json!(1)),
        ] {
            if pointer.ends_with("extra") {
                let mut copy = good.clone();
                copy["runs"][0]["scenario"]["extra"] = value;
                assert_eq!(violations(&copy).len(), 1);
            } else {
                assert!(!broken(pointer, value).is_empty(), "{pointer}");
            }
        }
        let mut missing = good.clone();
        missing.as_object_mut().unwrap().remove("machine");
        assert_eq!(violations(&missing).len(), 1);
    }
}
