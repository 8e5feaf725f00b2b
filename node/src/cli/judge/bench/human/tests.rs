#![allow(clippy::unwrap_used)]
use super::*;
use crate::judge::evidence::Tool;
use crate::judge::profile::{Configuration, Profile};
use crate::judge::rubric::{Rules, Scores};
use crate::judge::sampling::FrameRule;
use crate::judge::side::{Decision, Mode};

/// A judge that orders clips as people do but for two neighbours.
fn files(clips: usize) -> (Ratings, Ratings) {
    let mut human = String::from("clip,score\n");
    let mut judge = String::from("clip,score\n");
    for clip in 0..clips {
        let _ = writeln!(human, "c{clip},{}", clip as f64 / 20.0);
        let score = match clip {
            3 => 4,
            4 => 3,
            clip => clip,
        };
        let _ = writeln!(judge, "c{clip},{score}");
    }
    (
        Ratings::read(&human).unwrap(),
        Ratings::read(&judge).unwrap(),
    )
}

#[test]
fn scores_are_held_against_scores() {
    let (human, judge) = files(40);
    let text = table(&human, &judge);
    // Of 780 pairs one is exchanged: tau 778/780, accuracy 779/780.
    assert!(text.contains("| overall | 40 | 40 | 1.000 ["), "{text}");
    assert!(
        text.contains("| 0.997 [") && text.contains("| 0.999 ["),
        "{text}"
    );
    let (human, judge) = files(8);
    let few = table(&human, &judge);
    assert!(
        few.contains("| overall | 8 | 8 | 0.976 | 0.929 | 0.964 |"),
        "{few}"
    );
}

#[test]
fn preferences_are_held_against_gaps() {
    let human = "clip_a,clip_b,preference,dimension\na,b,first,visual_quality\nb,c,tie,visual_quality\n\
                 c,a,first,visual_quality\na,x,first,visual_quality\n";
    let judge =
        "clip,dimension,score\na,visual_quality,80\nb,visual_quality,60\nc,visual_quality,59\n";
    let (human, judge) = (Ratings::read(human).unwrap(), Ratings::read(judge).unwrap());
    let text = table(&human, &judge);
    assert!(
        text.contains("| visual_quality | 3 | 1 | 0.500 | 0.667 | 1 |"),
        "{text}"
    );
    assert!(text.contains("no score of: 1."), "{text}");
}

/// A line of a log with this local verdict.
fn line(unix: f64, clip: &str, model: &str, overall: u8) -> String {
    let (rules, frames) = (Rules::default(), FrameRule::default());
    let configuration = Configuration::remote(Profile::Whitepaper, model, rules, frames);
    let scores = Scores::new([overall; 6]);
    let verdict = Verdict::of_scores("qwen3-vl", &configuration, scores);
    let line = Line {
        version: VERSION,
        at: String::new(),
        unix,
        tool: Tool::default(),
        task_id: None,
        miner: None,
        video_sha256: clip.to_owned(),
        prompt: String::new(),
        prompt_sha256: String::new(),
        repeat: 0,
        judgement: Judgement {
            mode: Mode::Local,
            remote: None,
            local: Some(verdict.into()),
            decision: Decision {
                pass: None,
                by: None,
                why: String::new(),
            },
        },
        disagreements: Vec::new(),
        frames: Vec::new(),
        evidence_sha256: None,
    };
    serde_json::to_string(&line).unwrap()
}

#[test]
fn judges_of_one_log_are_not_mixed() {
    let log = [
        line(3.0, "a", "new", 70),
        line(1.0, "a", "old", 10),
        line(1.0, "b", "old", 20),
        line(2.0, "a", "new", 60),
        line(2.0, "c", "new", 80),
    ];
    let found = judged(&log.join("\n"), Who::Local).unwrap();
    let overall: Vec<_> = found.ratings.scores[&None].clone().into_iter().collect();
    // The newest verdict of a clip, wherever its line stands.
    assert_eq!(overall, [("a".to_owned(), 70.0), ("c".to_owned(), 80.0)]);
    let note = found.note();
    assert!(
        note.contains("qwen3-vl/new") && note.contains("2 verdicts"),
        "{note}"
    );
    let remote = judged(&log.join("\n"), Who::Remote).unwrap();
    assert!(remote.ratings.scores.is_empty() && remote.name.is_none());
    let scores = judged("clip,score\na,1\n", Who::Local).unwrap();
    assert_eq!((scores.note(), scores.others), (String::new(), 0));
}

#[test]
fn nothing_in_common_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let args = HumanArgs {
        human: write("human.csv", "clip,score\na,1\n"),
        scores: write("scores.csv", "clip,score\nb,1\n"),
        judge: Who::Local,
    };
    let message = run(&args).unwrap_err().to_string();
    assert!(message.contains("same names"), "{message}");
    let args = HumanArgs {
        scores: write("scores.csv", "clip,score\na\n"),
        ..args
    };
    let message = run(&args).unwrap_err().to_string();
    assert!(message.contains("scores.csv: line 2"), "{message}");
}
