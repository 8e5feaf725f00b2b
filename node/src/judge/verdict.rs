//! What a judge concludes: a verdict, or none, and then why and whose fault that is.

use leoma_models::Fault;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Parse, Reading};
use super::profile::{Configuration, Profile};
use super::rubric::{Dimension, Scores};

/// Longest text of an answer that is kept, in bytes.
pub const MAX_ANSWER_BYTES: usize = 8 << 10;

/// What a judge concludes about a clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It passes or fails.
    Verdict(Box<Verdict>),
    /// Nothing can be said.
    NoVerdict(Box<NoVerdict>),
}

impl Outcome {
    /// The verdict, where there is one.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Verdict(verdict) => Some(verdict),
            Self::NoVerdict(_) => None,
        }
    }

    /// Whether the clip passes, where there is a verdict.
    pub fn pass(&self) -> Option<bool> {
        self.verdict().map(|verdict| verdict.pass)
    }
}

impl From<NoVerdict> for Outcome {
    fn from(none: NoVerdict) -> Self {
        Self::NoVerdict(Box::new(none))
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(Box::new(verdict))
    }
}

/// Which of the two overall scores decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The one that the model names.
    Model,
    /// The weighted sum of the six.
    Weighted,
}

/// Six scores and what follows from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which judge: `remote`, `signals`, `qwen3-vl`, `unified-reward`.
    pub judge: String,
    /// The model that was asked, or the version of the rules where there is none.
    pub model: String,
    /// How it was asked and read.
    pub profile: Profile,
    /// Digest of thresholds, frames, model and prompt.
    pub configuration_sha256: String,
    /// The six scores.
    pub scores: Scores,
    /// Dimensions that this judge cannot speak about; their scores are its assumption.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unjudged: Vec<Dimension>,
    /// The overall that the model names, where it names one.
    pub model_overall: Option<u8>,
    /// The weighted sum of the six.
    pub weighted_overall: u8,
    /// Which of both decides.
    pub decided_by: DecidedBy,
    /// The one that decides.
    pub overall: u8,
    /// The least critical score.
    pub critical_floor: u8,
    /// Whether the clip passes.
    pub pass: bool,
    /// Chance that the remote judge passes it, where this judge is calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated_p_pass: Option<f64>,
    /// How sure the judge says it is.
    pub confidence: Option<u8>,
    /// How well its answer could be read.
    pub parse: Parse,
    /// What it finds wrong. Written by a model: for people, never for another model.
    pub issues: Vec<String>,
    /// What it finds good.
    pub strengths: Vec<String>,
    /// Its reasons.
    pub reasoning: String,
    /// Whether it saw writing in the frames.
    pub text_in_frames: Option<bool>,
    /// What it cost.
    pub usage: Usage,
    /// What was answered, as evidence.
    pub answers: Vec<Answer>,
    /// Measurements of this judge, such as signals and gates.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Verdict {
    /// What follows from an answer under a configuration.
    pub fn of_reading(
        judge: &str,
        configuration: &Configuration,
        reading: Reading,
        usage: Usage,
        answers: Vec<Answer>,
    ) -> Self {
        let mut verdict = Self::of_scores(judge, configuration, reading.scores);
        let usable = matches!(reading.parse, Parse::Ok | Parse::Repaired);
        if let (Profile::Subnet, Some(overall)) = (configuration.profile, reading.model_overall) {
            verdict.decided_by = DecidedBy::Model;
            verdict.overall = overall;
        }
        let passes = configuration.rules.passes(verdict.overall, &verdict.scores);
        // Zeros fail whatever the thresholds are.
        verdict.pass = usable && passes;
        verdict.model_overall = reading.model_overall;
        verdict.confidence = Some(reading.confidence);
        verdict.parse = reading.parse;
        verdict.issues = reading.issues;
        verdict.strengths = reading.strengths;
        verdict.reasoning = reading.reasoning;
        verdict.text_in_frames = reading.text_in_frames;
        verdict.usage = usage;
        verdict.answers = answers;
        verdict
    }

    /// Adds a field to its details.
    pub fn note(&mut self, field: &str, value: Value) {
        match &mut self.details {
            Value::Object(details) => {
                details.insert(field.to_owned(), value);
            }
            details => {
                let fields = [(field.to_owned(), value)];
                *details = Value::Object(fields.into_iter().collect());
            }
        }
    }

    /// What follows from six scores alone: the weighted sum decides.
    pub fn of_scores(judge: &str, configuration: &Configuration, scores: Scores) -> Self {
        let overall = scores.weighted();
        Self {
            judge: judge.to_owned(),
            model: configuration.model.clone(),
            profile: configuration.profile,
            configuration_sha256: configuration.sha256(),
            scores,
            unjudged: Vec::new(),
            model_overall: None,
            weighted_overall: overall,
            decided_by: DecidedBy::Weighted,
            overall,
            critical_floor: scores.critical_floor(),
            pass: configuration.rules.passes(overall, &scores),
            calibrated_p_pass: None,
            confidence: None,
            parse: Parse::Ok,
            issues: Vec::new(),
            strengths: Vec::new(),
            reasoning: String::new(),
            text_in_frames: None,
            usage: Usage::default(),
            answers: Vec::new(),
            details: Value::Null,
        }
    }
}

/// What a judgement cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Requests that were sent, failed ones too.
    pub requests: u32,
    /// Tokens read.
    pub tokens_in: u64,
    /// Tokens written.
    pub tokens_out: u64,
    /// Cost in billionths of a US dollar; `None` where the model's price is not known.
    pub nano_usd: Option<u64>,
    /// From the start to the answer, in milliseconds.
    pub millis: u64,
}

/// One answer of a model, cleaned for a record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What the model wrote, without control characters and at most [`MAX_ANSWER_BYTES`] long.
    pub content: Option<String>,
    /// Digest of all that it wrote.
    pub content_sha256: Option<String>,
    /// Whether `content` is all of it; only then it can be read again.
    pub complete: bool,
    /// Why the model stopped.
    pub finish_reason: Option<String>,
    /// The words of a refusal.
    pub refusal: Option<String>,
    /// The model that says it answered.
    pub model: Option<String>,
    /// Finds the request at the provider.
    pub request_id: Option<String>,
    /// The provider's mark of its software.
    pub system_fingerprint: Option<String>,
    /// Digest of the request's body.
    pub request_sha256: String,
    /// Fields that the server would not take, so that the request went without them or under another name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapted: Vec<String>,
}

impl Answer {
    /// Keeps what a model wrote.
    pub fn keep(&mut self, content: &str) {
        let kept = kept(content);
        self.complete = kept == content;
        self.content = Some(kept);
        self.content_sha256 = Some(super::canonical::sha256(content.as_bytes()));
    }
}

/// A text of others for a record: without control characters except line ends and tabs, and not too long.
pub fn kept(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars() {
        let is_line = matches!(c, '\n' | '\r' | '\t');
        if c.is_control() && !is_line {
            continue;
        }
        if kept.len() + c.len_utf8() > MAX_ANSWER_BYTES {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The provider's policy, or the model, refuses to look at it.
    Refused,
    /// The connection failed, or what answered is no model server.
    Transport,
    /// Too many requests, for longer than the deadline allows.
    RateLimited,
    /// The account at the provider has no credit left.
    Quota,
    /// Our own budget of the day is spent.
    Budget,
    /// Our own budget of the task is spent; other tasks may go on.
    TaskBudget,
    /// Time ran out.
    Deadline,
    /// Too many failures in a row: nothing is sent for a while.
    Unavailable,
    /// The model is gone, or past the date on which it was announced to go.
    ModelGone,
    /// There is no key, or it is not accepted.
    Key,
    /// The server does not take the request.
    Request,
    /// The video or the conditioning frame cannot be judged.
    Input,
    /// A model of this machine is missing or unusable.
    Weights,
    /// Something of this machine failed.
    Internal,
    /// The judge sees nothing that rules a pass out, and cannot see what a pass would need.
    Abstains,
}

impl Reason {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Transport => "transport",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Budget => "budget",
            Self::TaskBudget => "task_budget",
            Self::Deadline => "deadline",
            Self::Unavailable => "unavailable",
            Self::ModelGone => "model_gone",
            Self::Key => "key",
            Self::Request => "request",
            Self::Input => "input",
            Self::Weights => "weights",
            Self::Internal => "internal",
            Self::Abstains => "abstains",
        }
    }
}

/// No verdict: it never counts against a miner unless `fault` says [`Fault::Artifact`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoVerdict {
    /// Which judge.
    pub judge: Box<str>,
    /// Why, for programs.
    pub reason: Reason,
    /// Who has to act.
    #[serde(with = "fault_record")]
    pub fault: Fault,
    /// What happened and what to do.
    pub message: Box<str>,
    /// What it cost all the same.
    pub usage: Usage,
    /// What was answered, as evidence.
    pub answers: Vec<Answer>,
    /// Measurements of this judge, such as signals and gates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Value>>,
}

impl NoVerdict {
    /// Without cost or answers.
    pub fn new(judge: &str, reason: Reason, fault: Fault, message: impl Into<String>) -> Self {
        Self {
            judge: judge.into(),
            reason,
            fault,
            message: message.into().into_boxed_str(),
            usage: Usage::default(),
            answers: Vec::new(),
            details: None,
        }
    }
}

impl std::fmt::Display for NoVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason.name(), self.message)
    }
}

/// The name of a fault's owner in records.
pub fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Caller => "caller",
        Fault::Artifact => "artifact",
        Fault::Transient => "transient",
        Fault::Local => "local",
    }
}

/// Faults as records hold them.
mod fault_record {
    use leoma_models::Fault;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref)] // The form that serde calls.
    pub(super) fn serialize<S: Serializer>(
        fault: &Fault,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(super::fault_name(*fault))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Fault, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = [
            Fault::Caller,
            Fault::Artifact,
            Fault::Transient,
            Fault::Local,
        ];
        let found = known
            .into_iter()
            .find(|fault| super::fault_name(*fault) == name);
        found.ok_or_else(|| serde::de::Error::custom(format!("`{name}` is nobody's fault")))
    }
}
