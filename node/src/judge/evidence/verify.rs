//! Checking a bundle offline.

use serde::Serialize;
use serde_json::Value;

use super::{Evidence, KIND, VERSION, local};
use crate::judge::answer::Parse;
use crate::judge::calibration::PASS_CHANCE;
use crate::judge::canonical::{self, sha256};
use crate::judge::input::JudgeInput;
use crate::judge::profile::{Configuration, Profile};
use crate::judge::remote::chat::Ask;
use crate::judge::rubric::Rules;
use crate::judge::side::{Decision, Mode, Side, decide, is_withdrawn};
use crate::judge::verdict::{Answer, DecidedBy, NoVerdict, Outcome, Reason, Verdict};
use crate::judge::{jpeg, remote, wording};

/// Most frames of a clip, and most that a rule takes, far beyond those of any judgement: what follows from the numbers
/// of a bundle is computed, and whoever wrote it may have meant that to never end.
const MAX_FRAMES: usize = 1 << 20;
const MAX_SHOWN: usize = 1 << 12;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it came out.
    #[serde(flatten)]
    pub result: CheckResult,
}

/// How a check came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "message", rename_all = "snake_case")]
pub enum CheckResult {
    /// As the bundle says.
    Passed,
    /// Not as the bundle says.
    Failed(String),
    /// It could not be looked at, and why.
    Skipped(String),
}

/// All checks of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        !self
            .checks
            .iter()
            .any(|check| matches!(check.result, CheckResult::Failed(_)))
    }

    fn add(&mut self, name: impl Into<String>, result: CheckResult) {
        self.checks.push(Check {
            name: name.into(),
            result,
        });
    }

    pub(super) fn check(
        &mut self,
        name: impl Into<String>,
        good: bool,
        problem: impl FnOnce() -> String,
    ) {
        let result = if good {
            CheckResult::Passed
        } else {
            CheckResult::Failed(problem())
        };
        self.add(name, result);
    }

    pub(super) fn skip(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.add(name, CheckResult::Skipped(why.into()));
    }
}

/// The files that a bundle is about, decoded again.
#[derive(Debug, Clone, Copy)]
pub struct Media<'a> {
    /// Clip, first frame and prompt.
    pub input: &'a JudgeInput,
}

/// Checks the bytes of a bundle; with `media` also what was shown.
pub fn verify(bytes: &[u8], media: Option<Media<'_>>) -> Report {
    let mut report = Report::default();
    let Some(evidence) = form(bytes, &mut report) else {
        return report;
    };
    let rules = evidence.configurations.values();
    let most = rules.map(|configuration| configuration.frames.most).max();
    if evidence.video.frames > MAX_FRAMES || most.is_some_and(|most| most > MAX_SHOWN) {
        let message = format!(
            "no judge looks at more than {MAX_FRAMES} frames, or shows more than {MAX_SHOWN}"
        );
        report.add("size", CheckResult::Failed(message));
        return report;
    }
    report.check(
        "prompt",
        evidence.prompt.sha256 == sha256(evidence.prompt.text.as_bytes()),
        || "the digest of the prompt is not that of its words".into(),
    );
    for (digest, configuration) in &evidence.configurations {
        report.check("configuration", configuration.sha256() == *digest, || {
            format!("the configuration {digest} has another digest")
        });
    }
    let judgement = &evidence.judgement;
    for (side, outcome) in [("remote", &judgement.remote), ("local", &judgement.local)] {
        if let Some(Outcome::Verdict(verdict)) = outcome {
            follows(side, verdict, &evidence, &mut report);
        }
    }
    if let Some(Outcome::NoVerdict(none)) = &judgement.remote {
        unanswered(none, &mut report);
    }
    if let Some(outcome) = &judgement.local {
        local::record(outcome, &evidence, &mut report);
    }
    decision(&evidence, &mut report);
    frames(&evidence, &mut report);
    match media {
        Some(media) => files(&evidence, media.input, &mut report),
        None => report.skip(
            "files",
            "give the video and the first frame to check them, too",
        ),
    }
    report
}

/// Canonical JSON of a known version, with its own digest.
fn form(bytes: &[u8], report: &mut Report) -> Option<Evidence> {
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => {
            report.add("form", CheckResult::Failed(format!("not JSON: {error}")));
            return None;
        }
    };
    let mut text = canonical::text(&value);
    text.push('\n');
    report.check("canonical", text.as_bytes() == bytes, || {
        "the file is not canonical JSON and one line end, as it was written".into()
    });
    let mut signed = value.clone();
    let digest = signed
        .as_object_mut()
        .and_then(|fields| fields.remove("digest"));
    let digest = digest.as_ref().and_then(Value::as_str).unwrap_or_default();
    let found = canonical::digest(&signed);
    report.check("digest", found == digest, || {
        format!("the content has the digest {found}, the bundle says {digest:?}")
    });
    if value["kind"] != KIND || value["version"] != VERSION {
        let message = format!("not {KIND} of version {VERSION}: use the program that wrote it");
        report.add("form", CheckResult::Failed(message));
        return None;
    }
    match serde_json::from_value::<Evidence>(value.clone()) {
        Err(error) => {
            report.add("form", CheckResult::Failed(error.to_string()));
            None
        }
        Ok(evidence) => {
            // What is in the file and not in the record would be signed and never looked at.
            let again = serde_json::to_value(&evidence).unwrap_or_default();
            report.check("form", again == value, || {
                "it has fields that no bundle has".into()
            });
            Some(evidence)
        }
    }
}

/// Whether the bundle lists the frames that the rule takes; without any judge none are listed.
fn frames(evidence: &Evidence, report: &mut Report) {
    let video = &evidence.video;
    let expected = match of_frames(evidence) {
        Some(configuration) => configuration.frames.indices(video.frames, video.fps),
        None if evidence.configurations.is_empty() => Vec::new(),
        // Whose they are has failed already.
        None => return,
    };
    let found: Vec<_> = evidence.frames.iter().map(|frame| frame.index).collect();
    report.check("frames", expected == found, || {
        format!("by the rule the frames are {expected:?}, the bundle has {found:?}")
    });
}

/// Whose rule the listed frames follow: the remote judge's, or the local one's where no other ran.
fn of_frames(evidence: &Evidence) -> Option<&Configuration> {
    of_remote(evidence).or_else(|| local::own(evidence))
}

fn of_remote(evidence: &Evidence) -> Option<&Configuration> {
    match &evidence.judgement.remote {
        Some(Outcome::Verdict(verdict)) => {
            evidence.configurations.get(&verdict.configuration_sha256)
        }
        // Without a verdict there may be answers all the same.
        _ => evidence
            .configurations
            .values()
            .find(|c| c.asks.get("words_sha256").is_some()),
    }
}

/// Whether a verdict follows from its scores, and these from the answer.
fn follows(side: &str, verdict: &Verdict, evidence: &Evidence, report: &mut Report) {
    let name = |what: &str| format!("{side} {what}");
    let Some(configuration) = evidence.configurations.get(&verdict.configuration_sha256) else {
        let message = "its configuration is not in the bundle".to_owned();
        report.add(name("configuration"), CheckResult::Failed(message));
        return;
    };
    let same = configuration.profile == verdict.profile && configuration.model == verdict.model;
    report.check(name("profile and model"), same, || {
        "not those of its configuration".into()
    });

    let scores = &verdict.scores;
    let overall = match verdict.decided_by {
        DecidedBy::Model => verdict.model_overall,
        DecidedBy::Weighted => Some(verdict.weighted_overall),
    };
    // The model decides where the profile is the subnet's and it said something, and nowhere else.
    let by_model = configuration.profile == Profile::Subnet && verdict.model_overall.is_some();
    let sums = scores.weighted() == verdict.weighted_overall
        && scores.critical_floor() == verdict.critical_floor
        && overall == Some(verdict.overall)
        && by_model == (verdict.decided_by == DecidedBy::Model);
    report.check(name("overall"), sums, || {
        format!(
            "by the scores the weighted overall is {} and the least critical score {}",
            scores.weighted(),
            scores.critical_floor()
        )
    });
    let usable = matches!(verdict.parse, Parse::Ok | Parse::Repaired);
    let passes = usable && configuration.rules.passes(verdict.overall, scores);
    report.check(name("pass"), passes == verdict.pass, || {
        format!("by its scores and thresholds pass is {passes}")
    });
    if verdict.judge == remote::ID {
        answers(side, verdict, configuration, report);
    }
}

/// Whether the words of answers have the digests on record.
fn digests(side: &str, answers: &[Answer], report: &mut Report) {
    let whole = |answer: &Answer| {
        let digest = answer
            .content
            .as_deref()
            .map(|content| sha256(content.as_bytes()));
        !answer.complete || digest == answer.content_sha256
    };
    report.check(
        format!("{side} answer digest"),
        answers.iter().all(whole),
        || "the digest of an answer is not that of its words".into(),
    );
}

/// Whether the remote judge's answers leave room for no verdict: an answer that refuses nothing and was not cut is one.
fn unanswered(none: &NoVerdict, report: &mut Report) {
    let Some(last) = none.answers.last() else {
        return;
    };
    digests("remote", &none.answers, report);
    // Behind one that was cut, the second request can have failed in any way.
    let is_cut = last.finish_reason.as_deref() == Some("length");
    let holds = if last.is_refused() {
        none.reason == Reason::Refused
    } else {
        is_cut
    };
    report.check("remote answer", holds, || {
        "the last answer does not say why there is no verdict".into()
    });
}

/// Reads the last answer again.
fn answers(side: &str, verdict: &Verdict, configuration: &Configuration, report: &mut Report) {
    let name = format!("{side} answer");
    digests(side, &verdict.answers, report);
    let Some(answer) = verdict.answers.last() else {
        report.add(
            name,
            CheckResult::Failed("a remote verdict without an answer".into()),
        );
        return;
    };
    if answer.is_refused() {
        let message = "it is a refusal, which is no verdict".to_owned();
        report.add(name, CheckResult::Failed(message));
        return;
    }
    if answer.content.is_some() && !answer.complete {
        report.skip(
            name,
            "it was too long or had control characters, so only its digest is on record",
        );
        return;
    }
    let cut = answer.finish_reason.as_deref() == Some("length");
    let reading = configuration
        .profile
        .read(answer.content.as_deref(), cut, answer.is_bound());
    let again = Verdict::of_reading(
        &verdict.judge,
        configuration,
        reading,
        verdict.usage,
        verdict.answers.clone(),
    );
    let expected = Verdict {
        // By another judge's calibration, which is not in the answer.
        calibrated_p_pass: None,
        ..verdict.clone()
    };
    report.check(name, again == expected, || {
        format!(
            "read again, the answer gives {:?}, overall {}, pass {}",
            again.scores.to_array(),
            again.overall,
            again.pass
        )
    });
}

fn decision(evidence: &Evidence, report: &mut Report) {
    let judgement = &evidence.judgement;
    let (remote, local) = (judgement.remote.as_ref(), judgement.local.as_ref());
    let ran = remote.is_some() == judgement.mode.asks_remote()
        && local.is_some() == judgement.mode.asks_local();
    report.check("mode", ran, || "other judges ran than the mode says".into());
    let rules = of_remote(evidence)
        .map(|configuration| configuration.rules)
        .unwrap_or_default();
    if let (Mode::Fallback, Some(Outcome::NoVerdict(none))) = (judgement.mode, remote)
        && is_withdrawn(none.reason)
    {
        stood_in(local, &judgement.decision, rules, report);
        return;
    }
    let none = Err(String::new());
    let expected = decide(judgement.mode, &rules, remote, local, none);
    let found = &judgement.decision;
    report.check(
        "decision",
        (expected.pass, expected.by) == (found.pass, found.by),
        || format!("by the mode it is {:?}: {}", expected.pass, expected.why),
    );
}

/// What the local judge decides in place of a remote one that is withdrawn. The chance that calibration gives is on
/// record; calibration itself, which also gives the critical scores, is not. A gate that closed holds all the same.
fn stood_in(local: Option<&Outcome>, found: &Decision, rules: Rules, report: &mut Report) {
    let verdict = local.and_then(Outcome::verdict);
    let chance = verdict.and_then(|verdict| verdict.calibrated_p_pass);
    let holds = match (chance, found.pass) {
        (None, pass) => pass.is_none(),
        (Some(chance), Some(true)) => {
            let is_ruled_out = verdict.is_some_and(|verdict| local::rules_out(verdict, rules));
            chance >= PASS_CHANCE && !is_ruled_out
        }
        (Some(_), pass) => pass.is_some(),
    };
    let by = found.pass.map(|_| Side::Local);
    report.check("decision", holds && found.by == by, || {
        format!("it does not follow from the calibrated chance on record, {chance:?}")
    });
    if chance.is_some() {
        report.skip("calibration", "it is not in the bundle");
    }
}

/// Compares the bundle with the files that it is about.
fn files(evidence: &Evidence, input: &JudgeInput, report: &mut Report) {
    report.check("video", evidence.video.sha256 == input.video_sha256, || {
        format!("the file has the digest {}", input.video_sha256)
    });
    let first = sha256(&input.first_bytes);
    report.check("first frame", evidence.first_frame.sha256 == first, || {
        format!("the file has the digest {first}")
    });
    if let Some(outcome) = &evidence.judgement.local {
        local::media(outcome, input, report);
    }
    let Some(rule) = of_frames(evidence) else {
        return;
    };
    let shown = match input.shown(rule.frames) {
        Ok(shown) => shown,
        Err(error) => {
            report.skip(
                "pixels",
                format!("the frames cannot be encoded here: {error}"),
            );
            return;
        }
    };
    let pixels = shown.len() == evidence.frames.len()
        && shown
            .iter()
            .zip(&evidence.frames)
            .all(|(a, b)| a.rgb_sha256 == b.rgb_sha256);
    report.check("pixels", pixels, || {
        "the decoded frames are not those of the bundle (another decoder or another version of it?)".into()
    });
    // Frames that only the local judge has to do with were sent to nobody.
    let Some(configuration) = of_remote(evidence) else {
        return;
    };
    let same = shown
        .iter()
        .zip(&evidence.frames)
        .all(|(a, b)| a.jpeg_sha256 == b.jpeg_sha256);
    if !pixels || evidence.image != jpeg::ENCODING || !same {
        let why =
            "the frames' files come out otherwise here: another encoder, or another version of it";
        report.skip("requests", why);
        return;
    }
    if configuration.asks["words_sha256"] != wording::digest(configuration.profile).as_str() {
        report.skip(
            "requests",
            "this program asks in other words than the one that wrote the bundle",
        );
        return;
    }
    let answers = match &evidence.judgement.remote {
        Some(Outcome::Verdict(verdict)) => &verdict.answers,
        Some(Outcome::NoVerdict(none)) => &none.answers,
        None => return,
    };
    let (first_limit, second_limit) = configuration.profile.max_tokens();
    let limits = [Some(first_limit), second_limit].into_iter().flatten();
    let good = limits.zip(answers).all(|(limit, answer)| {
        let ask = Ask::scores(
            configuration.profile,
            &configuration.model,
            limit,
            &evidence.prompt.text,
            &input.first_bytes,
            &shown,
        );
        let rendered = ask.render(&|name| answer.adapted.iter().any(|field| field == name));
        sha256(&rendered.body) == answer.request_sha256
    });
    report.check("requests", good, || {
        "the request that follows from files, prompt and configuration is not the one that was sent".into()
    });
}
