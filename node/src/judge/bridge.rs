//! From the verdict log to what the statistics read, and from a calibration to what the modes ask.
//!
//! Two verdicts are comparable when judge, model and configuration are equal; the digest of the configuration covers
//! thresholds, frames and prompt. A local model sees more of a clip than the remote judge; where it also scored
//! exactly the remote judge's frames, those scores are what is compared.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::calibration::table::Table;
use super::local::{Record, SameFrames};
use super::log::Line;
use super::profile::Configuration;
use super::rubric::Dimension;
use super::side::{Calibrated, Calibration};
use super::signals::gates::ceiling;
use super::statistics::pairs::{LocalJudge, Pair, RemoteJudge};
use super::verdict::{Outcome, Verdict};

/// Remarks of each judge that are kept for the table of clips that disagree.
const REMARKS: usize = 6;

/// What tells a line of the log from a pair of verdicts from elsewhere.
#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    judgement: Option<IgnoredAny>,
}

/// The pair of verdicts of a line of the log, none where the remote judge gave none; or a line that is such a pair.
///
/// # Errors
/// Why the line cannot be read.
pub fn pair_of_line(line: &str) -> Result<Option<Pair>, String> {
    let kind: Kind = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if kind.judgement.is_none() {
        return Pair::from_line(line);
    }
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if line.version != super::log::VERSION {
        return Err(format!(
            "version {}; this program reads {}",
            line.version,
            super::log::VERSION
        ));
    }
    Ok(pair(line))
}

fn pair(line: Line) -> Option<Pair> {
    let remote = line.judgement.remote.as_ref().and_then(Outcome::verdict)?;
    let local = line.judgement.local.as_ref().and_then(Outcome::verdict);
    // A judge that had no time for the remote judge's frames said nothing that compares; its scores of other frames
    // would be another judge's, and the newest of the log at that.
    let comparable = local.filter(|verdict| !SameFrames::are_missing(verdict));
    let compared = comparable.map(compared);
    // Clips of one prompt are not independent either, where nobody says which task they belong to.
    let task_id = line.task_id.unwrap_or(line.prompt_sha256);
    let id = format!("{task_id}/{}", line.video_sha256);
    let remarks = [("local", local), ("remote", Some(remote))]
        .into_iter()
        .filter_map(|(name, verdict)| Some((name, verdict?)))
        .flat_map(|(name, verdict)| {
            let issues = verdict.issues.iter().take(REMARKS);
            issues.map(move |issue| format!("{name}: {issue}"))
        })
        .collect();
    Some(Pair {
        repeat_of: (line.repeat > 0).then(|| id.clone()),
        id: match line.repeat {
            0 => id,
            number => format!("{id}#{number}"),
        },
        task_id,
        video: line.video_sha256,
        time: line.unix,
        local_judge: comparable.map(local_judge).unwrap_or_default(),
        remote_judge: RemoteJudge {
            remote_model: remote.model.clone(),
            remote_configuration_sha256: Some(remote.configuration_sha256.clone()),
        },
        local: compared.as_ref().map_or([None; 6], |(scores, ..)| *scores),
        local_overall: compared.as_ref().map(|(_, overall, _)| *overall),
        local_pass: compared.as_ref().map(|(.., pass)| *pass),
        local_p_pass: comparable.and_then(|verdict| verdict.calibrated_p_pass),
        remote: remote.scores.to_array().map(f64::from),
        remote_overall: f64::from(remote.overall),
        remote_pass: remote.pass,
        prompt: line.prompt,
        remarks,
        frames: line.frames,
    })
}

/// What is compared with the remote judge's verdict: scores that the local judge could tell, overall score and
/// decision, of the remote judge's frames where those were scored apart.
fn compared(verdict: &Verdict) -> ([Option<f64>; 6], f64, bool) {
    let same = SameFrames::of(verdict);
    let (scores, overall, pass) = same
        .map_or((verdict.scores, verdict.overall, verdict.pass), |same| {
            (same.scores, same.overall, same.pass)
        });
    let known = Dimension::ALL.map(|dimension| {
        let score = f64::from(scores[dimension]);
        (!verdict.unjudged.contains(&dimension)).then_some(score)
    });
    (known, f64::from(overall), pass)
}

/// Which local judge gave a verdict. Its configuration names prompt, rules and frames in one digest.
pub fn local_judge(verdict: &Verdict) -> LocalJudge {
    let weights = verdict.details.get("weights_sha256");
    LocalJudge {
        local_id: format!("{}/{}", verdict.judge, verdict.model),
        weights_sha256: weights
            .and_then(|digest| digest.as_str())
            .map(str::to_owned),
        prompt_sha256: verdict.configuration_sha256.clone(),
        sampling: if SameFrames::are_judged(verdict) {
            "the remote judge's".into()
        } else {
            "the local judge's own".into()
        },
    }
}

impl Calibration for Table {
    fn apply(&self, local: &Verdict, remote: &Configuration) -> Result<Calibrated, String> {
        let remote = RemoteJudge {
            remote_model: remote.model.clone(),
            remote_configuration_sha256: Some(remote.sha256()),
        };
        self.check(&local_judge(local), &remote)
            .map_err(|invalid| invalid.to_string())?;
        let unfit = self.unfit_for_fallback();
        if !unfit.is_empty() {
            return Err(unfit.join("; "));
        }
        // A gate can be about what the remote judge never sees, such as frame 0: no map of scores may undo it.
        let hits = Record::of(&local.details)
            .and_then(|record| record.hits())
            .ok_or("the gates that the local judge closed cannot be read")?;
        if hits.iter().any(|hit| hit.gate.is_hard_fail()) {
            return Ok(Calibrated {
                p_pass: 0.0,
                critical_floor: 0,
            });
        }
        let calibration = self.calibration();
        let (scores, overall, _) = compared(local);
        let mut floor: f64 = 100.0;
        for dimension in Dimension::ALL
            .into_iter()
            .filter(|dimension| dimension.is_critical())
        {
            let score = scores[dimension as usize]
                .and_then(|score| calibration.score(dimension, score))
                .ok_or_else(|| format!("the local judge says nothing about {dimension}"))?;
            let most = ceiling(&hits, dimension).map_or(100.0, f64::from);
            floor = floor.min(score).min(most);
        }
        Ok(Calibrated {
            p_pass: calibration.map.at(overall),
            // Cut, not rounded: a floor that is not reached must not be reached by rounding.
            critical_floor: floor as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::judge::profile::Profile;
    use crate::judge::rubric::{Rules, Scores};
    use crate::judge::sampling::FrameRule;
    use crate::judge::side::{Decision, Judgement, Mode};
    use crate::judge::statistics::pairs::{Selection, Wanted};
    use crate::judge::statistics::reference::simulated;

    fn verdict(judge: &str, scores: [u8; 6]) -> Verdict {
        let (rules, frames) = (Rules::default(), FrameRule::default());
        let configuration = Configuration::remote(Profile::Whitepaper, "m-1", rules, frames);
        Verdict::of_scores(judge, &configuration, Scores::new(scores))
    }

    /// The same verdict, under these gates.
    fn under(mut verdict: Verdict, gates: &[&str]) -> Verdict {
        let closed: serde_json::Map<_, _> = gates
            .iter()
            .map(|gate| ((*gate).to_owned(), json!("Reason.")))
            .collect();
        verdict.details = json!({
            "limits_version": 1, "signals": {}, "camera": null, "gates": closed, "statement": "x", "signals_millis": 7,
        });
        verdict
    }

    fn line(repeat: u32, remote: Option<Verdict>, local: Option<Verdict>) -> String {
        let line = Line {
            version: crate::judge::log::VERSION,
            at: "2026-11-22T00:00:00.000Z".into(),
            unix: 1_795_305_600.0,
            tool: crate::judge::evidence::Tool::default(),
            task_id: None,
            miner: Some("5F…".into()),
            video_sha256: "a".repeat(64),
            prompt: "a boat".into(),
            prompt_sha256: "b".repeat(64),
            repeat,
            judgement: Judgement {
                mode: Mode::Shadow,
                remote: remote.map(Outcome::from),
                local: local.map(Outcome::from),
                decision: Decision {
                    pass: None,
                    by: None,
                    why: String::new(),
                },
            },
            disagreements: Vec::new(),
            frames: vec!["c".repeat(64)],
            evidence_sha256: None,
        };
        serde_json::to_string(&line).unwrap()
    }

    #[test]
    fn a_line_of_the_log_is_a_pair() {
        let mut local = verdict("signals", [90, 80, 70, 60, 50, 40]);
        local.unjudged = vec![Dimension::CameraComposition];
        local.issues = vec!["a cut".into()];
        local.calibrated_p_pass = Some(0.25);
        let found = pair_of_line(&line(
            0,
            Some(verdict("remote", [80; 6])),
            Some(local.clone()),
        ));
        let pair = found.unwrap().unwrap();
        assert_eq!(pair.check(), Ok(()));
        // Without a task, clips of one prompt belong together.
        assert_eq!(
            (pair.task_id.as_str(), pair.prompt.as_str()),
            (&*"b".repeat(64), "a boat")
        );
        assert_eq!(
            pair.local,
            [
                Some(90.0),
                Some(80.0),
                Some(70.0),
                Some(60.0),
                Some(50.0),
                None
            ]
        );
        assert_eq!(
            (pair.remote, pair.remote_overall, pair.remote_pass),
            ([80.0; 6], 80.0, true)
        );
        assert_eq!(
            (pair.local_overall, pair.local_pass),
            (Some(f64::from(local.overall)), Some(false))
        );
        assert_eq!((pair.local_p_pass, pair.repeat_of), (Some(0.25), None));
        assert_eq!(
            (pair.remarks, pair.frames.len()),
            (vec!["local: a cut".to_owned()], 1)
        );
        assert_eq!(pair.local_judge.local_id, "signals/m-1");
    }

    #[test]
    fn a_comparison_that_was_skipped_is_no_local_verdict() {
        let mut local = verdict("qwen3-vl", [90; 6]);
        local.issues = vec!["a cut".into()];
        local.note("same_frames", json!({"skipped": "no time is left"}));
        let found = pair_of_line(&line(0, Some(verdict("remote", [80; 6])), Some(local)));
        let pair = found.unwrap().unwrap();
        assert_eq!(
            (pair.check(), pair.local_judge),
            (Ok(()), LocalJudge::default())
        );
        assert_eq!(
            (pair.local, pair.local_overall, pair.local_pass),
            ([None; 6], None, None)
        );
        assert_eq!((pair.remote_pass, pair.remarks.len()), (true, 1));
    }

    #[test]
    fn repeats_find_their_first_line_and_no_verdict_is_no_pair() {
        let remote = || Some(verdict("remote", [80; 6]));
        let lines = [line(0, remote(), None), line(1, remote(), None)];
        let pairs: Vec<Pair> = lines
            .iter()
            .map(|line| pair_of_line(line).unwrap().unwrap())
            .collect();
        let selection = Selection::of(&pairs, Wanted::default());
        assert_eq!(
            (
                selection.pairs.len(),
                selection.repeats.len(),
                selection.orphans
            ),
            (1, 1, 0)
        );
        assert_eq!(pair_of_line(&line(0, None, remote())), Ok(None));
        for wrong in ["", "[]", "{}", "{\"judgement\":{}}", "7"] {
            assert!(pair_of_line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_table_speaks_about_its_judges_only() {
        let local = under(verdict("signals", [90; 6]), &[]);
        let (rules, frames) = (Rules::default(), FrameRule::default());
        let of = |profile, model| Configuration::remote(profile, model, rules, frames);
        let remote = of(Profile::Whitepaper, "gpt-4o");
        let mut pairs = simulated();
        for pair in &mut pairs {
            pair.local_judge = local_judge(&local);
            pair.remote_judge.remote_configuration_sha256 = Some(remote.sha256());
        }
        let selection = Selection::of(&pairs, Wanted::default());
        let mut table = Table::fit(&selection, String::new()).unwrap();
        let found = table.apply(&local, &remote).unwrap();
        assert!(
            found.p_pass > 0.9 && found.critical_floor >= 50,
            "{found:?}"
        );
        let low = under(verdict("signals", [20; 6]), &[]);
        let found = table.apply(&low, &remote).unwrap();
        assert!(found.p_pass < 0.1, "{found:?}");
        let refused = |table: &Table, local: &Verdict, remote: &Configuration, what: &str| {
            let why = table.apply(local, remote).unwrap_err();
            assert!(why.contains(what), "{why}");
        };
        let other = of(Profile::Whitepaper, "another");
        refused(&table, &local, &other, "remote_model");
        // The same model, asked otherwise.
        let other = of(Profile::Subnet, "gpt-4o");
        refused(&table, &local, &other, "remote_configuration_sha256");
        refused(&table, &verdict("other", [90; 6]), &remote, "local_id");
        let mut silent = local.clone();
        silent.unjudged = vec![Dimension::PromptAdherence];
        refused(&table, &silent, &remote, "prompt_adherence");
        // Gates that nobody can read could have failed the clip.
        refused(&table, &verdict("signals", [90; 6]), &remote, "gates");
        refused(&table, &under(local.clone(), &["G_new"]), &remote, "gates");
        table.n_tasks = 99;
        refused(&table, &local, &remote, "99 tasks");
    }

    #[test]
    fn a_map_undoes_no_gate() {
        let (rules, frames) = (Rules::default(), FrameRule::default());
        let remote = Configuration::remote(Profile::Whitepaper, "gpt-4o", rules, frames);
        let local = verdict("signals", [30, 90, 90, 90, 90, 90]);
        let mut pairs = simulated();
        for pair in &mut pairs {
            pair.local_judge = local_judge(&local);
            pair.remote_judge.remote_configuration_sha256 = Some(remote.sha256());
        }
        let selection = Selection::of(&pairs, Wanted::default());
        let mut table = Table::fit(&selection, String::new()).unwrap();
        // The remote judge is content with first frames that the local one gives 30.
        let generous = vec![(0.0, 60.0), (100.0, 90.0)];
        table.keys.insert(Dimension::FirstFrameFidelity, generous);
        let floor = |gates: &[&str]| {
            let found = table.apply(&under(local.clone(), gates), &remote);
            found.unwrap().critical_floor
        };
        assert!(floor(&[]) >= 50);
        assert_eq!((floor(&["G_paste"]), floor(&["G_first"])), (30, 40));
        // A gate without a ceiling flags only.
        assert!(floor(&["G_block"]) >= 50);
        let found = table.apply(&under(local.clone(), &["G_short"]), &remote);
        assert_eq!(
            found,
            Ok(Calibrated {
                p_pass: 0.0,
                critical_floor: 0
            })
        );
    }

    #[test]
    fn a_clip_that_no_model_was_asked_about_is_of_the_same_judge() {
        let mut local = verdict("qwen3-vl", [0; 6]);
        local.note("weights_sha256", json!("d"));
        let mut asked = local.clone();
        let readings = json!({"profile": "unified", "text": "", "digits": []});
        asked.note(
            "same_frames",
            json!({
                "indices": [2], "readings": readings, "scores": Scores::new([80; 6]), "overall": 80, "pass": true,
                "millis": 7,
            }),
        );
        assert_ne!(local_judge(&local), local_judge(&asked));
        local.note("same_frames", json!({"unasked": "the clip is none"}));
        assert_eq!(local_judge(&local), local_judge(&asked));
        let line = line(0, Some(verdict("remote", [80; 6])), Some(local));
        let pair = pair_of_line(&line).unwrap().unwrap();
        assert_eq!((pair.local, pair.local_pass), ([Some(0.0); 6], Some(false)));
    }

    #[test]
    fn the_same_frames_are_what_is_compared() {
        let mut local = verdict("qwen3-vl", [20; 6]);
        let own = local_judge(&local);
        let readings = json!({"profile": "unified", "text": "", "digits": []});
        local.note(
            "same_frames",
            json!({
                "indices": [2, 7], "readings": readings, "scores": Scores::new([80; 6]), "overall": 80, "pass": true,
                "millis": 7,
            }),
        );
        assert_ne!(local_judge(&local), own);
        let line = line(0, Some(verdict("remote", [80; 6])), Some(local.clone()));
        let pair = pair_of_line(&line).unwrap().unwrap();
        assert_eq!(
            (pair.local, pair.local_overall, pair.local_pass),
            ([Some(80.0); 6], Some(80.0), Some(true))
        );
        // What was skipped leaves a verdict on the judge's own frames.
        local.note("same_frames", json!({"skipped": "no time"}));
        assert_eq!(local_judge(&local), own);
    }
}
