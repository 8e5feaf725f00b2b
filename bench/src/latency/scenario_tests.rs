#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn built_in_sets_are_valid_and_have_distinct_names() {
    for set in [Set::Tiny, Set::Released] {
        let all = built_in(set).unwrap();
        assert!(!all.is_empty());
        for scenario in &all {
            assert!(scenario.kind().is_ok());
            assert_eq!(scenario.size == ModelSize::Tiny, set == Set::Tiny);
        }
    }
    let subnet = &built_in(Set::Released).unwrap()[0];
    assert_eq!(
        subnet.describe(),
        "i2v-a14b, 832x480, 81 frames, 30 steps, guidance 5, first frame, bf16, offload none"
    );
    assert!(subnet.is_extrapolated());
}

#[test]
fn lists_stand_for_all_combinations_and_name_what_differs() {
    let all = parse(
        "a.toml",
        r#"
        [[scenario]]
        name = "grid"
        model = ["ti2v-5b", "t2v-a14b"]
        resolution = ["832x480", "1280x704"]
        steps = 4
        "#,
    )
    .unwrap();
    let names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "grid/ti2v-5b/832x480",
            "grid/ti2v-5b/1280x704",
            "grid/t2v-a14b/832x480",
            "grid/t2v-a14b/1280x704"
        ]
    );
    assert_eq!((all[1].width, all[1].height), (1280, 704));
    // What the models usually get.
    assert!(all[0].image && !all[2].image);
    assert_eq!((all[0].steps, all[0].measured_steps), (4, 4));
}

#[test]
fn refusals_name_file_scenario_key_and_remedy() {
    let refusal = |body: &str| {
        let text = format!("[[scenario]]\nname = \"x\"\nmodel = \"ti2v-5b\"\n{body}");
        let error = parse("my.toml", &text).unwrap_err();
        assert_eq!(crate::failure::code(&error), 2, "{error:#}");
        error.to_string()
    };
    for (body, words) in [
        (
            "presision = \"f32\"",
            vec!["my.toml", "`x`", "`presision`", "did you mean `precision`"],
        ),
        (
            "precision = \"fp64\"",
            vec!["`precision`", "\"fp64\"", "bf16"],
        ),
        ("resolution = \"big\"", vec!["`resolution`", "832x480"]),
        ("frames = 80", vec!["`frames`", "80", "4n + 1"]),
        ("frames = []", vec!["`frames`", "empty list"]),
        ("frames = 0", vec!["`frames`", "from 1"]),
        ("steps = \"many\"", vec!["`steps`", "whole number"]),
        (
            "steps = 3\nmeasured_steps = 4",
            vec!["`measured_steps`", "more than the 3"],
        ),
        ("rounds = 0", vec!["`rounds`", "from 1"]),
        ("rounds = [1, 2]", vec!["`rounds`", "cannot be a list"]),
        ("size = \"huge\"", vec!["`size`", "tiny"]),
        ("guidance = -1", vec!["`guidance`", "0 to 100"]),
        ("image = \"yes\"", vec!["`image`", "true or false"]),
        ("offload = \"all\"", vec!["`offload`", "experts"]),
        (
            "attention = \"flash\"",
            vec!["`attention`", "flash", "chunked"],
        ),
        ("qqq = 1", vec!["`qqq`", "known keys", "precision"]),
    ] {
        let text = refusal(body);
        for word in words {
            assert!(text.contains(word), "{body}: {text}");
        }
    }
}

#[test]
fn files_without_scenarios_are_refused() {
    let text = |text: &str| parse("f.toml", text).unwrap_err().to_string();
    assert!(text("").contains("[[scenario]]"));
    assert!(text("speed = 1").contains("`speed`"));
    assert!(text("[[scenario").contains("not TOML"));
    assert!(text("scenario = [1]").contains("no table"));
    assert!(text("[[scenario]]\nmodel = \"ti2v-5b\"").contains("`name` is missing"));
    assert!(text("[[scenario]]\nname = \"a\"\nmodel = \"wan9\"").contains("ti2v-5b"));
    assert!(
        text("[[scenario]]\nname = \"a\"\nmodel = \"i2v-a14b\"\nimage = false")
            .contains("needs a first frame")
    );
    let twice = "[[scenario]]\nname = \"a\"\nmodel = \"ti2v-5b\"\n".repeat(2);
    assert!(text(&twice).contains("taken"));
    let missing = read(Path::new("no-such.toml")).unwrap_err().to_string();
    assert!(missing.contains("no-such.toml"));
}

#[test]
fn a_filter_that_matches_nothing_lists_what_there_is() {
    assert_eq!(select(&[], Set::Tiny, Some("i2v")).unwrap().len(), 2);
    let error = select(&[], Set::Tiny, Some("nothing"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("nothing") && error.contains("tiny/ti2v-5b"),
        "{error}"
    );
}

#[test]
fn the_job_is_what_is_compared_not_the_rounds() {
    let one = built_in(Set::Tiny).unwrap().remove(0);
    let more = Scenario {
        rounds: 99,
        warmups: 3,
        ..one.clone()
    };
    let other = Scenario {
        steps: one.steps + 1,
        ..one.clone()
    };
    assert!(one.same_job(&more) && !one.same_job(&other));
}
