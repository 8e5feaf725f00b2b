//! The remote judge: a vision model behind the Chat Completions API, of OpenAI or of any server that speaks it
//! (vLLM, SGLang, …).
//!
//! ```text
//! life of the model ─► limits said by the server ─► breaker ─► budget: reserve ─► request ─► settle
//!                            ▲                                                        │
//!                            └───────── full jitter, Retry-After, 4 tries ◄───────────┘
//! ```
//!
//! **Own client, not `async-openai`.** What matters here is what that crate hides or decides by itself: the exact
//! bytes of the request, which are evidence; the headers of every answer, which carry the limits; when a try is
//! over and what it may have cost; fields that a server rejects. Its typed answers would turn a null content or an
//! unknown finish reason into an error, and those are verdicts here. What is left of it is two routes and a few
//! hundred lines, for which reqwest, already part of the node, is enough.

mod ask;
mod breaker;
mod budget;
pub(crate) mod chat;
mod http;
mod known;
mod life;
mod limits;
mod reply;
mod settings;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use leoma_models::Fault;

use super::clock::Clock;
use super::input::JudgeInput;
use super::profile::Configuration;
use super::side::Judge;
use super::verdict::{Answer, NoVerdict, Outcome, Reason, Usage, Verdict};
use ask::Asked;
use breaker::Breaker;
use budget::Ledger;
use chat::Ask;
use http::Http;
use known::Known;
use limits::Limits;

pub use settings::{Budget, DEFAULT_BASE, DEFAULT_MODEL, Price, RemoteSettings};
pub use writer::TaskPrompt;

/// The name of this judge in records.
pub const ID: &str = "remote";

/// A model on a server, and everything that guards it. One for a process: breaker, limits and connections are
/// shared by all who ask.
#[derive(Debug)]
pub struct Remote {
    settings: RemoteSettings,
    clock: Arc<dyn Clock>,
    http: Http,
    ledger: Ledger,
    breaker: Mutex<Breaker>,
    limits: Mutex<Limits>,
    known: Mutex<Known>,
    /// Set once the server says that it has no such model.
    gone: Mutex<Option<String>>,
    /// Taken on the way out only.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Remote {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`NoVerdict`] when the settings cannot work.
    pub fn new(settings: RemoteSettings, clock: Arc<dyn Clock>) -> Result<Self, NoVerdict> {
        settings.check()?;
        let http = Http::new(&settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("judge-remote")
            .enable_all()
            .build()
            .map_err(|error| {
                let message = format!("cannot prepare connections: {error}");
                NoVerdict::new(ID, Reason::Internal, Fault::Local, message)
            })?;
        let base = settings.base.as_str();
        let known = Known::read(&settings.state, base, &settings.model, clock.unix());
        Ok(Self {
            ledger: Ledger::new(&settings.state, settings.budget),
            breaker: Mutex::new(Breaker::new()),
            limits: Mutex::default(),
            known: Mutex::new(known),
            gone: Mutex::default(),
            runtime: Some(runtime),
            settings,
            clock,
            http,
        })
    }

    /// What a user can act on: an unencrypted key, a price that is not known, a model that leaves. What the
    /// server says about its model is known after the first request.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.settings.shows_key() {
            warnings.push(format!(
                "the key goes to {} unencrypted; use https",
                self.http.host()
            ));
        }
        if self.settings.price.is_none() {
            warnings.push(format!(
                "the price of {} is not known: only the ceilings of tokens hold; give --price IN,OUT",
                self.settings.model
            ));
        }
        if let life::Life::Leaving(text) = self.life() {
            warnings.push(text);
        }
        warnings
    }

    fn life(&self) -> life::Life {
        let date = locked(&self.known).shutdown_date.clone();
        let RemoteSettings { base, model, .. } = &self.settings;
        life::of(base, model, date.as_deref(), self.clock.unix())
    }

    /// Asks and waits, on the thread of the caller, which must not be one that runs async work.
    fn ask(
        &self,
        ask: &Ask,
        task: Option<&str>,
        within: Duration,
    ) -> Result<Asked, Box<NoVerdict>> {
        let Some(runtime) = &self.runtime else {
            let message = "the judge is shutting down";
            return Err(Box::new(NoVerdict::new(
                ID,
                Reason::Internal,
                Fault::Transient,
                message,
            )));
        };
        runtime.block_on(self.converse(ask, task, within))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed where async work runs, and a server drops this there.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Nothing that panics is done under these locks; what they guard is whole at any time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A judge that asks a remote model.
#[derive(Debug, Clone)]
pub struct RemoteJudge {
    remote: Arc<Remote>,
    configuration: Configuration,
}

impl RemoteJudge {
    /// Asks `remote` as `configuration` says. The model of the configuration is what counts in records; it has to
    /// be the one of `remote`.
    ///
    /// # Errors
    /// [`NoVerdict`] when the two name different models.
    pub fn new(remote: Arc<Remote>, configuration: Configuration) -> Result<Self, NoVerdict> {
        if remote.settings.model != configuration.model {
            let message = format!(
                "the configuration is about {}, the server is asked for {}",
                configuration.model, remote.settings.model
            );
            return Err(NoVerdict::new(ID, Reason::Internal, Fault::Local, message));
        }
        Ok(Self {
            remote,
            configuration,
        })
    }

    fn outcome(&self, input: &JudgeInput, within: Duration) -> Result<Verdict, NoVerdict> {
        let configuration = &self.configuration;
        let clock = &self.remote.clock;
        let start = clock.monotonic();
        let frames = input.shown(configuration.frames).map_err(|error| {
            NoVerdict::new(ID, Reason::Internal, error.fault(), error.to_string())
        })?;
        if frames.is_empty() {
            let message = format!(
                "video: {} frames at {}/{} per second are too short for a single frame at {}/{} per second",
                input.frames.len(),
                input.fps.0,
                input.fps.1,
                configuration.frames.rate.0,
                configuration.frames.rate.1
            );
            return Err(NoVerdict::new(ID, Reason::Input, Fault::Artifact, message));
        }
        let (first_limit, second_limit) = configuration.profile.max_tokens();
        let mut usage = Usage::default();
        let mut answers = Vec::new();
        for limit in [Some(first_limit), second_limit].into_iter().flatten() {
            let ask = Ask::scores(
                configuration.profile,
                &configuration.model,
                limit,
                &input.prompt,
                &input.first_bytes,
                &frames,
            );
            let left = within.saturating_sub(clock.monotonic().saturating_sub(start));
            let asked = match self.remote.ask(&ask, input.task_id.as_deref(), left) {
                Ok(asked) => asked,
                Err(mut none) => {
                    none.usage = plus(usage, none.usage);
                    answers.append(&mut none.answers);
                    none.answers = answers;
                    return Err(*none);
                }
            };
            usage = plus(usage, asked.usage);
            let answer = asked.answer();
            let bound = answer.is_bound();
            answers.push(answer);
            let completion = &asked.completion;
            if completion.is_refused() {
                let words = completion.refusal.as_deref().unwrap_or("content filter");
                let words: String = words
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect();
                return Err(NoVerdict {
                    usage,
                    answers,
                    ..NoVerdict::new(
                        ID,
                        Reason::Refused,
                        Fault::Transient,
                        format!("the model refuses to look at it: {words}"),
                    )
                });
            }
            let cut = completion.is_cut();
            if cut && second_limit.is_some_and(|second| second > limit) {
                continue;
            }
            let reading = configuration
                .profile
                .read(completion.content.as_deref(), cut, bound);
            return Ok(Verdict::of_reading(
                ID,
                configuration,
                reading,
                usage,
                answers,
            ));
        }
        Err(NoVerdict::new(
            ID,
            Reason::Internal,
            Fault::Local,
            "nothing was asked",
        ))
    }
}

impl Judge for RemoteJudge {
    fn id(&self) -> &str {
        ID
    }

    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn judge(&self, input: &JudgeInput, within: Duration) -> Outcome {
        self.outcome(input, within)
            .map_or_else(Outcome::from, Outcome::from)
    }
}

fn plus(a: Usage, b: Usage) -> Usage {
    Usage {
        requests: a.requests + b.requests,
        tokens_in: a.tokens_in + b.tokens_in,
        tokens_out: a.tokens_out + b.tokens_out,
        // Unknown with a known part is unknown, unless nothing was asked yet.
        nano_usd: match (a.requests, b.requests) {
            (0, _) => b.nano_usd,
            (_, 0) => a.nano_usd,
            _ => a.nano_usd.zip(b.nano_usd).map(|(a, b)| a + b),
        },
        millis: a.millis + b.millis,
    }
}

impl Asked {
    /// What is kept of it.
    fn answer(&self) -> Answer {
        let completion = &self.completion;
        let short = |text: &Option<String>| {
            text.as_ref()
                .map(|text| super::verdict::kept(text).chars().take(200).collect())
        };
        let mut answer = Answer {
            finish_reason: short(&completion.finish_reason),
            refusal: completion.refusal.as_deref().map(super::verdict::kept),
            model: short(&completion.model),
            request_id: self.request_id.clone().or_else(|| short(&completion.id)),
            system_fingerprint: short(&completion.system_fingerprint),
            request_sha256: self.request_sha256.clone(),
            adapted: self.adapted.clone(),
            ..Answer::default()
        };
        if let Some(content) = &completion.content {
            answer.keep(content);
        }
        answer
    }
}
