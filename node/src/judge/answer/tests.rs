//! The table of cases of the subnet's judge, and where the whitepaper's reading differs.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::judge::rubric::Rules;

const NAMES: [&str; 6] = [
    "first_frame_fidelity",
    "prompt_adherence",
    "motion_quality",
    "temporal_consistency",
    "visual_quality",
    "camera_composition",
];

fn aspects(scores: [Value; 6]) -> Value {
    let fields = NAMES.iter().map(|name| (*name).to_owned()).zip(scores);
    Value::Object(fields.collect())
}

fn same(score: impl Into<Value>) -> Value {
    let score = score.into();
    aspects([(); 6].map(|()| score.clone()))
}

fn answer(overall: Value, aspects: Value) -> String {
    json!({
        "overall_score": overall, "confidence": 80, "aspect_scores": aspects,
        "major_issues": ["x"], "strengths": [], "reasoning": " fine ",
    })
    .to_string()
}

/// Overall and whether it passes, as the subnet decides.
fn subnet_decides(text: &str) -> (u8, bool) {
    let reading = subnet(Some(text), false);
    let overall = reading.model_overall.unwrap_or(reading.scores.weighted());
    (overall, Rules::default().passes(overall, &reading.scores))
}

#[test]
fn scores_are_converted_as_the_reference_does() {
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
        (json!([]), 0),
        (json!("nan"), 0),
    ] {
        let reading = subnet(Some(&answer(json!(80), same(value.clone()))), false);
        assert_eq!(reading.scores, Scores::new([score; 6]), "{value}");
    }
}

#[test]
fn the_pass_line_of_the_subnet() {
    let some = |scores: [i32; 6]| aspects(scores.map(Value::from));
    for (overall, aspects, expected) in [
        // The model's own overall decides, whatever the aspects make.
        (json!(100), some([50, 50, 0, 50, 0, 0]), (100, true)),
        (json!(10), same(90), (10, false)),
        (json!(75), some([50, 50, 90, 50, 90, 90]), (75, true)),
        (json!(74.5), same(90), (74, false)),
        (json!(75.5), same(90), (76, true)),
        (json!("74.6"), same(90), (75, true)),
        (json!(80), some([49, 90, 90, 90, 90, 90]), (80, false)),
        (json!(80), some([90, 90, 90, 49, 90, 90]), (80, false)),
        (json!(80), some([90, 90, 0, 90, 0, 0]), (80, true)),
        // Only where it is missing or no number, the weighted sum does.
        (json!(null), same(80), (80, true)),
        (json!("high"), same(80), (80, true)),
        (json!("nan"), same(80), (80, true)),
        (json!(null), some([90, 90, 70, 60, 60, 20]), (74, false)),
        (json!(null), some([87, 76, 58, 77, 55, 83]), (75, true)),
        (json!(90), json!("none"), (90, false)),
    ] {
        let text = answer(overall, aspects);
        assert_eq!(subnet_decides(&text), expected, "{text}");
    }
    let mut critical = same(90);
    critical["first_frame_fidelity"] = json!(49.5);
    assert_eq!(subnet_decides(&answer(json!(90), critical)), (90, true));
    assert_eq!(subnet_decides("{\"overall_score\": 90}"), (90, false));
}

#[test]
fn fences_are_taken_off() {
    let good = answer(json!(80), same(80));
    for (text, read) in [
        (good.clone(), true),
        (format!("\u{1c}\n {good} \n"), true),
        (format!("```json\n{good}\n```"), true),
        (format!("```\n{good}\n```"), true),
        (
            format!("Here it is:\n```json{good}```\nand ```more```"),
            true,
        ),
        (format!("```json\n{good}"), true),
        (format!("```JSON\n{good}\n```"), false),
        (format!("```json5\n{good}\n```"), false),
        (format!("Sure! {good}"), false),
        (format!("``````{good}"), false),
        (format!("{good} trailing"), false),
    ] {
        let reading = subnet(Some(&text), false);
        assert_eq!(reading.scores == Scores::new([80; 6]), read, "{text}");
        let expected = match (read, text.contains("```")) {
            (true, true) => Parse::Repaired,
            (true, false) => Parse::Ok,
            (false, _) => Parse::Unparseable,
        };
        assert_eq!(reading.parse, expected, "{text}");
    }
}

#[test]
fn what_is_no_score_object_is_zeros_in_both_profiles() {
    let infinite = answer(json!(80), same(80)).replacen("80", "Infinity", 1);
    let aspect = answer(json!(80), same(80)).replacen(":80,", ":Infinity,", 2);
    let huge = answer(json!(80), same(80)).replace("80", "1e999");
    for content in [
        None,
        Some(""),
        Some("I cannot see the frames."),
        Some("[1, 2]"),
        Some("\"80\""),
        Some("80"),
        Some("null"),
        Some("{\"overall_score\": 80, \"aspect_scores\": {\"first_frame_fidelity\": 80"),
        Some(aspect.as_str()),
        Some(huge.as_str()),
    ] {
        for reading in [subnet(content, false), whitepaper(content, false, false)] {
            assert_eq!(reading.parse, Parse::Unparseable, "{content:?}");
            assert_eq!(
                (reading.scores, reading.model_overall),
                (Scores::default(), None)
            );
            assert!(!reading.reasoning.is_empty());
        }
        let cut = subnet(content, true);
        assert_eq!(
            cut.parse == Parse::Truncated,
            content.is_some(),
            "{content:?}"
        );
    }
    assert_eq!(subnet(Some(&infinite), false).parse, Parse::Unparseable);
    let long = "x".repeat(300);
    assert_eq!(
        subnet(Some(&long), false).reasoning,
        format!("Parse error: {}", "x".repeat(100))
    );
}

#[test]
fn lists_are_cut_and_shown_as_text() {
    let mut value: Value = serde_json::from_str(&answer(json!(80), same(80))).unwrap();
    value["major_issues"] = Value::Array((0..30).map(Value::from).collect());
    value["strengths"] = json!("not a list");
    value["confidence"] = json!("120");
    let reading = subnet(Some(&value.to_string()), false);
    assert_eq!(reading.issues.len(), 20);
    assert_eq!(reading.issues[19], "19");
    assert!(reading.strengths.is_empty());
    assert_eq!((reading.confidence, reading.parse), (100, Parse::Repaired));
    assert_eq!(reading.reasoning, "fine");
    value["major_issues"] = json!([null, true, "a"]);
    value["reasoning"] = json!("y".repeat(5_000));
    let reading = subnet(Some(&value.to_string()), false);
    assert_eq!(reading.reasoning.len(), MAX_ITEM_CHARS);
    value["reasoning"] = json!(0);
    let reading = subnet(Some(&value.to_string()), false);
    assert_eq!(reading.issues, ["None", "True", "a"]);
    assert_eq!(reading.reasoning, "");
}

fn strict(scores: Value) -> Value {
    json!({"issues": ["a"], "aspect_scores": scores, "confidence": 70, "text_in_frames": false})
}

#[test]
fn the_whitepaper_takes_numbers_only_and_no_fence() {
    let good = strict(same(80));
    let reading = whitepaper(Some(&good.to_string()), false, false);
    assert_eq!(
        (reading.parse, reading.scores),
        (Parse::Ok, Scores::new([80; 6]))
    );
    assert_eq!(reading.text_in_frames, Some(false));
    for (value, score) in [
        (json!("88.6"), 0),
        (json!(true), 0),
        (json!(null), 0),
        (json!(74.5), 74),
        (json!(-5), 0),
        (json!(250), 100),
    ] {
        let reading = whitepaper(Some(&strict(same(value.clone())).to_string()), false, false);
        assert_eq!(
            (reading.parse, reading.scores),
            (Parse::Repaired, Scores::new([score; 6])),
            "{value}"
        );
    }
    let fenced = format!("```json\n{good}\n```");
    assert_eq!(
        whitepaper(Some(&fenced), false, false).parse,
        Parse::Unparseable
    );
    assert_eq!(
        whitepaper(Some(&fenced), false, true).parse,
        Parse::Repaired
    );
    let without = json!({"aspect_scores": 5});
    assert_eq!(
        whitepaper(Some(&without.to_string()), false, false).parse,
        Parse::Unparseable
    );
    let mut own = good;
    own["overall_score"] = json!(20);
    assert_eq!(
        whitepaper(Some(&own.to_string()), false, false).model_overall,
        Some(20)
    );
}
