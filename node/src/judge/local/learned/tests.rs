#![allow(clippy::unwrap_used)]
use super::*;
use crate::judge::bridge::local_judge;
use crate::judge::embeddings::EmbeddingConfiguration;
use crate::judge::local::{Compared, Record};
use crate::judge::rubric::Dimension;
use leoma_models::tiny::make_tiny_judge;

fn frame(shift: usize) -> RgbImage8 {
    let pixels = (0..64 * 48).flat_map(|at| {
        let (x, y) = ((at % 64 + shift) % 64, at / 64);
        [(40 + 150 * (x / 7 % 2)) as u8, (3 * y) as u8, 90]
    });
    RgbImage8::new(64, 48, pixels.collect()).unwrap()
}

fn input(frozen: bool) -> JudgeInput {
    let frames = (0..21).map(|n| frame(if frozen { 0 } else { n }));
    JudgeInput::new(
        "v".into(),
        (frames.collect(), (16, 1)),
        (frame(0), vec![1]),
        "a dog runs".into(),
        None,
    )
    .unwrap()
}

fn settings(profile: LocalProfile) -> (tempfile::TempDir, LocalSettings) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny");
    make_tiny_judge(true, 3, &model).unwrap();
    let settings = LocalSettings {
        model: Some(model),
        profile,
        ..LocalSettings::default()
    };
    (folder, settings)
}

const LONG: Duration = Duration::from_secs(600);

#[test]
fn a_model_scores_under_the_gates() {
    let (_folder, settings) = settings(LocalProfile::Rubric);
    let judge = LearnedJudge::open(&settings).unwrap();
    let outcome = judge.judge(&input(false), LONG);
    let verdict = outcome.verdict().unwrap();
    assert_eq!(
        (verdict.judge.as_str(), verdict.model.as_str()),
        (MODEL_ID, "tiny")
    );
    let details = &verdict.details;
    let indices: Vec<_> = details["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| frame["index"].as_u64().unwrap())
        .collect();
    // Frame 0, the subnet's four, and the tail.
    assert_eq!(indices, [0, 2, 7, 13, 18, 19, 20]);
    assert_eq!(details["weights_sha256"].as_str().unwrap().len(), 64);
    let readings: Readings = serde_json::from_value(details["readings"].clone()).unwrap();
    let read = readings.read().unwrap();
    let hits = Record::of(details).unwrap().hits().unwrap();
    assert_eq!(capped(read.scores, &hits), verdict.scores);
    assert_eq!(verdict.weighted_overall, verdict.overall);
    assert!(verdict.confidence.is_some() && verdict.usage.tokens_in > 0);

    // Frozen: the ceilings of that gate hold whatever the model says.
    let outcome = judge.judge(&input(true), LONG);
    let verdict = outcome.verdict().unwrap();
    assert!(verdict.scores[Dimension::MotionQuality] <= 20);
    assert!(verdict.scores[Dimension::TemporalConsistency] <= 60);
    assert!(!verdict.issues.is_empty());
}

#[test]
fn clip_and_dinov2_look_as_well_and_are_part_of_the_judge() {
    let (_folder, mut settings) = settings(LocalProfile::Rubric);
    let without = LearnedJudge::open(&settings).unwrap();
    settings.embeddings = crate::judge::embeddings::tests::settings();
    let judge = LearnedJudge::open(&settings).unwrap();
    assert_ne!(
        judge.configuration().sha256(),
        without.configuration().sha256()
    );
    let outcome = judge.judge(&input(false), LONG);
    let details = &outcome.verdict().unwrap().details;
    let found = Record::of(details).unwrap().embeddings.unwrap();
    let own = EmbeddingConfiguration::of(judge.configuration()).unwrap();
    assert!(own.made(&found, 21));
    assert_eq!(found.values.len(), 7);
    // The digest of the language model's weights is still its own.
    assert_eq!(details["weights_sha256"], without.facts["weights_sha256"]);

    settings.embeddings.dinov2 = settings.model.clone();
    let none = LearnedJudge::open(&settings).unwrap_err();
    assert_eq!((none.reason, none.fault), (Reason::Weights, Fault::Local));
    assert!(none.message.contains("config.json"), "{none}");
}

#[test]
fn the_remote_frames_are_scored_beside() {
    let (_folder, settings) = settings(LocalProfile::Rubric);
    let judge = Arc::new(LearnedJudge::open(&settings).unwrap());
    let compared = Compared::new(Arc::clone(&judge) as Arc<dyn Judge>, Arc::clone(&judge));
    let outcome = compared.judge(&input(false), LONG);
    let verdict = outcome.verdict().unwrap();
    let same = SameFrames::of(verdict).unwrap();
    assert_eq!(same.indices, [2, 7, 13, 18]);
    assert_eq!(same.overall, same.scores.weighted());
}

#[test]
fn a_clip_that_is_none_is_failed_by_the_same_judge() {
    let (_folder, settings) = settings(LocalProfile::Rubric);
    let judge = Arc::new(LearnedJudge::open(&settings).unwrap());
    let compared = Compared::new(Arc::clone(&judge) as Arc<dyn Judge>, Arc::clone(&judge));
    let tiny = || RgbImage8::new(16, 16, vec![90; 16 * 16 * 3]).unwrap();
    let clip = ((0..21).map(|_| tiny()).collect(), (16, 1));
    let first = (frame(0), vec![1]);
    let input = JudgeInput::new("v".into(), clip, first, "a dog runs".into(), None).unwrap();
    let failed = compared.judge(&input, LONG);
    let judged = compared.judge(&self::input(false), LONG);
    let (failed, judged) = (failed.verdict().unwrap(), judged.verdict().unwrap());
    assert!(!failed.pass && failed.details.get("readings").is_none());
    for fact in ["weights_sha256", "asks_sha256", "precision", "device"] {
        assert!(failed.details[fact].is_string(), "{fact}");
        assert_eq!(failed.details[fact], judged.details[fact]);
    }
    assert_eq!(local_judge(failed), local_judge(judged));
}

#[test]
fn time_and_weights_are_no_fault_of_the_clip() {
    let (_folder, mut settings) = settings(LocalProfile::Unified);
    let judge = LearnedJudge::open(&settings).unwrap();
    let Outcome::NoVerdict(none) = judge.judge(&input(false), Duration::ZERO) else {
        panic!("there was no time");
    };
    assert_eq!(
        (none.reason, none.fault),
        (Reason::Deadline, Fault::Transient)
    );
    // A random model writes no such three lines.
    let Outcome::NoVerdict(none) = judge.judge(&input(false), LONG) else {
        panic!("nobody has trained it");
    };
    assert_eq!((none.reason, none.fault), (Reason::Weights, Fault::Local));
    assert!(none.details.unwrap()["readings"]["text"].is_string());

    let folder = settings.model.clone().unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    let none = LearnedJudge::open(&settings).unwrap_err();
    assert_eq!((none.reason, none.fault), (Reason::Weights, Fault::Local));
    assert!(none.message.contains("config.json"), "{none}");
    settings.model = None;
    assert!(LearnedJudge::open(&settings).is_err());
}
