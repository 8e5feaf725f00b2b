//! The table of cases of the subnet's judge, through the real binary.

use serde_json::{Value, json};

use crate::mock::{Answer, Mock, message, says};
use crate::{Clip, json as parsed, shown};

const NAMES: [&str; 6] = [
    "first_frame_fidelity",
    "prompt_adherence",
    "motion_quality",
    "temporal_consistency",
    "visual_quality",
    "camera_composition",
];

fn scores(values: [Value; 6]) -> Value {
    let fields = NAMES.iter().map(|name| (*name).to_owned()).zip(values);
    Value::Object(fields.collect())
}

fn same(value: impl Into<Value>) -> Value {
    let value = value.into();
    scores([(); 6].map(|()| value.clone()))
}

fn some(values: [i32; 6]) -> Value {
    scores(values.map(Value::from))
}

fn answer(overall: Value, aspects: Value) -> String {
    let mut answer = json!({
        "confidence": 80, "aspect_scores": aspects, "major_issues": [], "strengths": [], "reasoning": "r",
    });
    if !overall.is_null() {
        answer["overall_score"] = overall;
    }
    answer.to_string()
}

/// What the binary makes of an answer: exit code, overall that decides, the six scores.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    code: i32,
    overall: u64,
    scores: [u64; 6],
}

fn judged(clip: &Clip, profile: &str, answer: Answer) -> (Made, Value) {
    let mock = Mock::start(vec![answer]);
    let output = clip.judge(&mock.base, &["--profile", profile, "--format", "json"]);
    let value = parsed(&output);
    let verdict = &value["judgement"]["remote"];
    assert_eq!(verdict["outcome"], "verdict", "{}", shown(&output));
    let made = Made {
        code: output.status.code().unwrap(),
        overall: verdict["overall"].as_u64().unwrap(),
        scores: NAMES.map(|name| verdict["scores"][name].as_u64().unwrap()),
    };
    (made, verdict.clone())
}

fn made(pass: bool, overall: u64, scores: [u64; 6]) -> Made {
    Made {
        code: i32::from(!pass),
        overall,
        scores,
    }
}

#[test]
fn scores_overall_and_passing() {
    let clip = Clip::new();
    let subnet = |text: String| judged(&clip, "subnet", says(&text)).0;
    // Conversions: rounded half to even, cut to 0..100, texts and booleans as Python's float().
    for (value, score) in [
        (json!(74.5), 74),
        (json!(75.5), 76),
        (json!(49.5), 50),
        (json!("88.6"), 89),
        (json!(true), 1),
        (json!("1e2"), 100),
        (json!(" 60 "), 60),
        (json!("0x10"), 0),
        (json!(-5), 0),
        (json!(250), 100),
        (json!(null), 0),
    ] {
        let found = subnet(answer(json!(10), same(value.clone())));
        assert_eq!(found, made(false, 10, [score; 6]), "{value}");
    }
    // Who decides, and the edges of passing.
    for (text, expected) in [
        (
            answer(json!(100), some([50, 50, 0, 50, 0, 0])),
            made(true, 100, [50, 50, 0, 50, 0, 0]),
        ),
        (answer(json!(10), same(90)), made(false, 10, [90; 6])),
        (answer(json!(75), same(50)), made(true, 75, [50; 6])),
        (answer(json!(74.5), same(90)), made(false, 74, [90; 6])),
        (answer(json!(90), same(49.5)), made(true, 90, [50; 6])),
        (answer(json!(90), same(49)), made(false, 90, [49; 6])),
        (
            answer(Value::Null, some([90, 90, 70, 60, 60, 20])),
            made(false, 74, [90, 90, 70, 60, 60, 20]),
        ),
        (
            answer(Value::Null, some([87, 76, 58, 77, 55, 83])),
            made(true, 75, [87, 76, 58, 77, 55, 83]),
        ),
        (answer(json!("high"), same(80)), made(true, 80, [80; 6])),
        ("{\"overall_score\": 90}".into(), made(false, 90, [0; 6])),
        (answer(json!(90), json!([1, 2])), made(false, 90, [0; 6])),
    ] {
        assert_eq!(subnet(text.clone()), expected, "{text}");
    }
}

#[test]
fn fences_and_what_is_no_score_object() {
    let clip = Clip::new();
    let good = answer(json!(80), same(80));
    let passes = made(true, 80, [80; 6]);
    let zeros = made(false, 0, [0; 6]);
    for text in [
        format!("```json\n{good}\n```"),
        format!("```\n{good}\n```"),
        format!("Here:\n```json{good}```\nand ```more```"),
    ] {
        let (found, verdict) = judged(&clip, "subnet", says(&text));
        assert_eq!(
            (&found, &verdict["parse"]),
            (&passes, &json!("repaired")),
            "{text}"
        );
        // The whitepaper's profile asks by schema; a fence is no score object.
        assert_eq!(judged(&clip, "whitepaper", says(&text)).0, zeros, "{text}");
    }
    let infinite = good.replacen("80", "Infinity", 1);
    for text in [
        format!("```JSON\n{good}\n```"),
        "I would give it a good score.".to_owned(),
        String::new(),
        format!("[{good}]"),
        infinite,
        good[..good.len() / 2].to_owned(),
    ] {
        for profile in ["subnet", "whitepaper"] {
            let (found, verdict) = judged(&clip, profile, says(&text));
            assert_eq!(
                (&found, &verdict["parse"]),
                (&zeros, &json!("unparseable")),
                "{profile}: {text}"
            );
        }
    }
    let null = || message(json!({"role": "assistant", "content": null}), "stop");
    for profile in ["subnet", "whitepaper"] {
        assert_eq!(judged(&clip, profile, null()).0, zeros, "{profile}");
    }
    // Cut at the limit of tokens: the subnet asks once.
    let cut = message(json!({"content": &good[..50]}), "length");
    let (found, verdict) = judged(&clip, "subnet", cut);
    assert_eq!((&found, &verdict["parse"]), (&zeros, &json!("truncated")));
}

#[test]
fn the_whitepaper_sums_by_itself() {
    let clip = Clip::new();
    let strict = |aspects: Value| json!({"issues": ["blur"], "aspect_scores": aspects, "confidence": 70, "text_in_frames": false, "overall_score": 3});
    for (aspects, expected) in [
        (same(80), made(true, 80, [80; 6])),
        (
            some([50, 50, 0, 50, 0, 0]),
            made(false, 35, [50, 50, 0, 50, 0, 0]),
        ),
        (
            some([87, 76, 58, 77, 55, 83]),
            made(true, 75, [87, 76, 58, 77, 55, 83]),
        ),
        (same(49), made(false, 49, [49; 6])),
        (same(250), made(true, 100, [100; 6])),
        // A text or a boolean is no number here.
        (same("88.6"), made(false, 0, [0; 6])),
        (same(true), made(false, 0, [0; 6])),
    ] {
        let (found, verdict) = judged(
            &clip,
            "whitepaper",
            says(&strict(aspects.clone()).to_string()),
        );
        assert_eq!(found, expected, "{aspects}");
        // Both numbers are on record; the weighted one decides.
        assert_eq!(verdict["model_overall"], 3);
        assert_eq!(verdict["decided_by"], "weighted");
        assert_eq!(verdict["weighted_overall"], verdict["overall"]);
    }
    // One that was cut is asked for again, with more room.
    let cut = message(json!({"content": "{\"issues\": [\"a"}), "length");
    let mock = Mock::start(vec![cut, says(&strict(same(80)).to_string())]);
    let output = clip.judge(&mock.base, &["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let limits: Vec<_> = mock
        .asked()
        .iter()
        .map(|seen| seen.json()["max_completion_tokens"].clone())
        .collect();
    assert_eq!(limits, [900, 1400]);
    let verdict = &parsed(&output)["judgement"]["remote"];
    assert_eq!(verdict["answers"].as_array().unwrap().len(), 2);
    assert_eq!(verdict["usage"]["tokens_in"], 12_000);
}
