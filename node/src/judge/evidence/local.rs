//! What a local judge recorded, made again: gates from signals, scores from readings and gates, signals from the clip.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::Evidence;
use super::verify::Report;
use crate::judge::canonical::sha256;
use crate::judge::embeddings::EmbeddingConfiguration;
use crate::judge::input::JudgeInput;
use crate::judge::local::{Readings, Record, SameFrames, Seen, capped, ceilings};
use crate::judge::profile::Configuration;
use crate::judge::rubric::{Dimension, Rules, Scores};
use crate::judge::signals::gates::{GateHit, GateId, ceiling};
use crate::judge::signals::opinion::opinion;
use crate::judge::verdict::{Outcome, Reason, Verdict};

/// Share by which a signal may differ when it is measured again: by the order of additions on another processor.
const APART: f64 = 1e-6;

fn details(outcome: &Outcome) -> Option<&Value> {
    match outcome {
        Outcome::Verdict(verdict) => Some(&verdict.details),
        Outcome::NoVerdict(none) => none.details.as_deref(),
    }
}

/// Checks the record by itself.
pub(super) fn record(outcome: &Outcome, evidence: &Evidence, report: &mut Report) {
    let Some(record) = details(outcome).and_then(Record::of) else {
        // Other failures can come before anything is measured.
        let needs_one = match outcome {
            Outcome::Verdict(_) => true,
            Outcome::NoVerdict(none) => none.reason == Reason::Abstains,
        };
        if needs_one {
            report.check("local record", false, || {
                "what was measured is not on record, so nothing says where the scores come from"
                    .into()
            });
        }
        return;
    };
    let Some(hits) = record.hits() else {
        report.skip(
            "local gates",
            "this program does not have all of them: use the one that wrote the bundle",
        );
        return;
    };
    match record.hits_again(&evidence.prompt.text) {
        None => report.skip(
            "local gates",
            "there are no signals on record, or they were read with another table of limits",
        ),
        Some(again) => {
            let ids = |hits: &[GateHit]| -> BTreeSet<GateId> {
                hits.iter().map(|hit| hit.gate).collect()
            };
            let (found, expected) = (ids(&hits), ids(&again));
            report.check("local gates", found == expected, || {
                format!("by the signals {expected:?} close, the bundle has {found:?}")
            });
        }
    }
    embeddings(&record, outcome, evidence, report);
    match outcome {
        Outcome::Verdict(verdict) => {
            let Some(configuration) = evidence.configurations.get(&verdict.configuration_sha256)
            else {
                // The missing configuration has failed already.
                return;
            };
            scores(verdict, &hits, configuration.rules, report);
            same_frames(verdict, &hits, configuration, evidence, report);
        }
        Outcome::NoVerdict(none) if none.reason == Reason::Abstains => {
            let rules = own(evidence).map(|configuration| configuration.rules);
            let fails = opinion(&hits, &rules.unwrap_or_default()).pass == Some(false);
            report.check("local abstention", !fails, || {
                "by its gates the clip fails".into()
            });
        }
        Outcome::NoVerdict(_) => {}
    }
}

/// Whether a gate that closed leaves too little in a critical dimension, whatever a calibration makes of the score.
pub(super) fn rules_out(verdict: &Verdict, rules: Rules) -> bool {
    let hits = Record::of(&verdict.details).and_then(|record| record.hits());
    hits.is_some_and(|hits| {
        let mut critical = Dimension::ALL.into_iter().filter(|d| d.is_critical());
        critical.any(|dimension| {
            ceiling(&hits, dimension).is_some_and(|most| most < rules.pass_critical)
        })
    })
}

/// The configuration of the local judge.
pub(super) fn own(evidence: &Evidence) -> Option<&Configuration> {
    let mut configurations = evidence.configurations.values();
    configurations.find(|one| one.asks.get("limits").is_some())
}

/// Whether what CLIP and DINOv2 saw is of the models and the frames that the configuration names.
fn embeddings(record: &Record, outcome: &Outcome, evidence: &Evidence, report: &mut Report) {
    let configuration = match outcome {
        Outcome::Verdict(verdict) => evidence.configurations.get(&verdict.configuration_sha256),
        Outcome::NoVerdict(_) => own(evidence),
    };
    let asked = configuration.and_then(EmbeddingConfiguration::of);
    let holds = match (&asked, &record.embeddings) {
        (None, None) => return,
        // A clip that is none is seen by nobody.
        (Some(_), None) if record.signals.is_empty() => return,
        (Some(asked), Some(found)) => asked.made(found, evidence.video.frames),
        (Some(_), None) | (None, Some(_)) => false,
    };
    report.check("local embeddings", holds, || {
        "they are not those of the models and the frames that the configuration names".into()
    });
}

/// Whether the scores follow from what the model said and the gates, or from the gates alone.
fn scores(verdict: &Verdict, hits: &[GateHit], rules: Rules, report: &mut Report) {
    const NAME: &str = "local scores";
    let (expected, unjudged) = match verdict.details.get("readings") {
        None => ceilings(&opinion(hits, &rules).ceilings),
        Some(kept) => {
            let read = Readings::deserialize(kept)
                .ok()
                .and_then(|kept| kept.read());
            let Some(read) = read else {
                report.check(NAME, false, || "what the model said gives no scores".into());
                return;
            };
            (capped(read.scores, hits), read.unjudged)
        }
    };
    let same = (verdict.scores, &verdict.unjudged) == (expected, &unjudged);
    report.check(NAME, same, || differ(expected));
}

fn differ(expected: Scores) -> String {
    format!("they follow as {:?}", expected.to_array())
}

/// The same of the remote judge's frames, where they were scored apart.
fn same_frames(
    verdict: &Verdict,
    hits: &[GateHit],
    configuration: &Configuration,
    evidence: &Evidence,
    report: &mut Report,
) {
    let Some(same) = SameFrames::of(verdict) else {
        return;
    };
    let video = &evidence.video;
    let mut indices = configuration.frames.indices(video.frames, video.fps);
    indices.dedup();
    let read = same.readings.read();
    let expected = capped(read.map(|read| read.scores).unwrap_or_default(), hits);
    let overall = expected.weighted();
    let pass = configuration.rules.passes(overall, &expected);
    let holds = same.indices == indices
        && (same.scores, same.overall, same.pass) == (expected, overall, pass);
    report.check("local scores of the remote judge's frames", holds, || {
        format!("{} of frames {indices:?}", differ(expected))
    });
}

/// Compares the record with the clip.
pub(super) fn media(outcome: &Outcome, input: &JudgeInput, report: &mut Report) {
    let Some((details, record)) =
        details(outcome).and_then(|details| Some((details, Record::of(details)?)))
    else {
        return;
    };
    if record.embeddings.is_some() {
        report.skip(
            "local embeddings of the clip",
            "what CLIP and DINOv2 see is not computed again: their weights are not in the bundle",
        );
    }
    match Seen::of("local", input, &Rules::default(), None, &|| true) {
        Err(none) => report.check("local signals", false, || none.to_string()),
        Ok(seen) => {
            let again = seen.record();
            let apart = |(name, value): (&String, &f64)| {
                let found = again.signals.get(name).copied().unwrap_or(f64::NAN);
                let near = (found - value).abs() <= APART * value.abs().max(1.0);
                (!near).then(|| format!("{name}: {found} here, {value} in the bundle"))
            };
            let first = record.signals.iter().find_map(apart);
            let same = first.is_none() && record.signals.len() == again.signals.len();
            report.check("local signals", same, || {
                first.unwrap_or_else(|| "others were measured than can be".into())
            });
        }
    }
    let Some(frames) = details.get("frames").and_then(Value::as_array) else {
        return;
    };
    let same = frames.iter().all(|frame| {
        let index = frame["index"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok());
        let found = index.and_then(|index| input.frames.get(index));
        found.is_some_and(|found| frame["rgb_sha256"] == sha256(found.data()))
    });
    report.check("local pixels", same, || {
        "the frames that the model saw are not those of the clip".into()
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use serde_json::json;

    use super::super::{CheckResult, Media, verify};
    use super::*;
    use crate::judge::canonical;
    use crate::judge::embeddings;
    use crate::judge::local::SignalsJudge;
    use crate::judge::sampling::FrameRule;
    use crate::judge::side::{Decision, Judge, Judgement, Mode, Side};
    use crate::media::RgbImage8;

    /// Stripes that move; behind the ninth frame perhaps another clip.
    fn input(cut: bool) -> JudgeInput {
        let frame = |number: usize| {
            let pixels = (0..64 * 48).flat_map(|at| {
                let (x, y) = ((at % 64 + number) % 64, at / 64);
                let invert = if cut && number >= 9 { 255 } else { 0 };
                [(40 + 150 * (x / 7 % 2)) as u8, (3 * y) as u8, 90].map(|value| value ^ invert)
            });
            RgbImage8::new(64, 48, pixels.collect()).unwrap()
        };
        let clip = ((0..17).map(frame).collect(), (16, 1));
        let prompt = "a dog runs".to_owned();
        JudgeInput::new("v".into(), clip, (frame(0), vec![1]), prompt, None).unwrap()
    }

    /// A judgement of the signals alone.
    fn bundle(input: &JudgeInput, change: impl FnOnce(&mut Outcome)) -> Vec<u8> {
        let judge = SignalsJudge::new(Rules::default(), FrameRule::default());
        bundle_of(&judge, input, change)
    }

    /// A judgement of this judge.
    fn bundle_of(
        judge: &SignalsJudge,
        input: &JudgeInput,
        change: impl FnOnce(&mut Outcome),
    ) -> Vec<u8> {
        let mut local = judge.judge(input, Duration::from_secs(60));
        change(&mut local);
        let pass = local.pass();
        let judgement = Judgement {
            mode: Mode::Local,
            remote: None,
            decision: Decision {
                pass,
                by: pass.map(|_| Side::Local),
                why: "x".into(),
            },
            local: Some(local),
        };
        let now = "2026-11-22T00:00:00.000Z".to_owned();
        let mut evidence = Evidence::new(input, &[judge.configuration()], judgement, now).unwrap();
        evidence.digest = canonical::sha256(&evidence.signable().unwrap());
        evidence.to_bytes().unwrap()
    }

    fn failed(bytes: &[u8], media: Option<&JudgeInput>) -> Vec<String> {
        let report = verify(bytes, media.map(|input| Media { input }));
        let failed = report
            .checks
            .into_iter()
            .filter(|check| matches!(check.result, CheckResult::Failed(_)));
        failed.map(|check| check.name).collect()
    }

    fn verdict(outcome: &mut Outcome) -> &mut Verdict {
        match outcome {
            Outcome::Verdict(verdict) => verdict,
            Outcome::NoVerdict(none) => panic!("{none}"),
        }
    }

    #[test]
    fn what_signals_said_holds() {
        for cut in [false, true] {
            let input = input(cut);
            let bytes = bundle(&input, |_| ());
            assert_eq!(failed(&bytes, None), [""; 0]);
            assert_eq!(failed(&bytes, Some(&input)), [""; 0]);
        }
        let bytes = bundle(&input(true), |_| ());
        assert_eq!(
            failed(&bytes, Some(&input(false))),
            ["local signals", "pixels"]
        );
    }

    #[test]
    fn the_list_of_frames_is_held_to_the_rule() {
        let changes: [fn(&mut Vec<Value>); 3] = [
            |frames| frames.clear(),
            |frames| {
                frames.pop();
            },
            |frames| frames[0]["index"] = json!(0),
        ];
        for change in changes {
            let bytes = bundle(&input(false), |_| ());
            let mut value: Value = serde_json::from_slice(&bytes).unwrap();
            change(value["frames"].as_array_mut().unwrap());
            value.as_object_mut().unwrap().remove("digest");
            value["digest"] = canonical::digest(&value).into();
            let text = canonical::text(&value) + "\n";
            assert_eq!(failed(text.as_bytes(), None), ["frames"]);
        }
    }

    #[test]
    fn a_closed_gate_rules_a_pass_out_without_the_calibration() {
        let rules = Rules::default();
        let judge = SignalsJudge::new(rules, FrameRule::default());
        let mut outcome = judge.judge(&input(true), Duration::from_secs(60));
        // A cut leaves 45 points of temporal consistency.
        let verdict = verdict(&mut outcome);
        assert!(rules_out(verdict, rules));
        let lower = Rules {
            pass_critical: 45,
            ..rules
        };
        assert!(!rules_out(verdict, lower));
        verdict.details["gates"] = json!({});
        assert!(!rules_out(verdict, rules));
    }

    #[test]
    fn what_models_saw_is_held_to_the_configuration_and_takes_part_in_the_gates() {
        let models = embeddings::open(&embeddings::tests::settings()).unwrap();
        let judge = SignalsJudge::new(Rules::default(), FrameRule::default());
        let judge = judge.with_embeddings(models);
        let input = input(false);
        let with = |change: fn(&mut Value)| {
            bundle_of(&judge, &input, |local| {
                let Outcome::NoVerdict(none) = local else {
                    panic!("signals pass nothing and this has no damage")
                };
                change(none.details.as_mut().unwrap());
            })
        };
        let bytes = with(|_| ());
        assert_eq!(failed(&bytes, None), [""; 0]);
        let report = verify(&bytes, Some(Media { input: &input }));
        assert!(report.passed());
        let mut named = report
            .checks
            .into_iter()
            .filter_map(|check| match check.result {
                CheckResult::Passed | CheckResult::Failed(_) => None,
                CheckResult::Skipped(_) => Some(check.name),
            });
        assert!(named.any(|name| name == "local embeddings of the clip"));

        let open = with(|details| {
            details["signals"]["ff_align"] = json!(0.1);
            details["embeddings"]["values"]["dino_first"] = json!(0.9);
        });
        assert_eq!(failed(&open, None), [""; 0]);
        let closed = with(|details| {
            details["signals"]["ff_align"] = json!(0.1);
            details["embeddings"]["values"]["dino_first"] = json!(0.1);
        });
        assert_eq!(failed(&closed, None), ["local gates"]);
        let changes: [fn(&mut Value); 3] = [
            |details| details["embeddings"] = Value::Null,
            |details| details["embeddings"]["weights_sha256"]["clip"] = json!("00"),
            |details| details["embeddings"]["indices"] = json!([0]),
        ];
        for change in changes {
            assert_eq!(failed(&with(change), None), ["local embeddings"]);
        }
        // Of a judge that has no such models.
        let more = json!({"values": {"dino_first": 1.0}, "weights_sha256": {}, "indices": [], "dropped_tokens": 0});
        let bytes = bundle(&input, |local| {
            if let Outcome::NoVerdict(none) = local {
                none.details.as_mut().unwrap()["embeddings"] = more;
            }
        });
        assert_eq!(failed(&bytes, None), ["local embeddings"]);
    }

    #[test]
    fn who_changes_a_record_is_found_out() {
        let changes: [(&str, fn(&mut Outcome)); 3] = [
            ("local scores", |local| {
                let verdict = verdict(local);
                verdict.scores = Scores::new([30; 6]);
                verdict.weighted_overall = 30;
                verdict.overall = 30;
                verdict.critical_floor = 30;
            }),
            ("local gates", |local| {
                verdict(local).details["signals"]["overlay"] = json!(0.5);
            }),
            ("local gates", |local| {
                verdict(local).details["gates"] = json!({});
            }),
        ];
        for (name, change) in changes {
            let failed = failed(&bundle(&input(true), change), None);
            assert!(failed.iter().any(|one| one == name), "{name}: {failed:?}");
        }
        // A record that is not there.
        let verdict_alone = bundle(&input(true), |local| verdict(local).details = Value::Null);
        assert_eq!(failed(&verdict_alone, None), ["local record"]);
        let abstention_alone = bundle(&input(false), |local| {
            if let Outcome::NoVerdict(none) = local {
                none.details = None;
            }
        });
        assert_eq!(failed(&abstention_alone, None), ["local record"]);
        // An abstention over signals that fail the clip.
        let bytes = bundle(&input(false), |local| {
            let Outcome::NoVerdict(none) = local else {
                panic!("it passes nothing")
            };
            let details = none.details.as_mut().unwrap();
            details["signals"]["scene"] = json!(0.9);
            details["gates"]["G_cut"] = json!("A cut.");
        });
        assert_eq!(failed(&bytes, None), ["local abstention"]);
    }
}
