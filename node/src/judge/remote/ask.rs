//! One question, as many requests as it takes.

use std::time::Duration;

use bytes::Bytes;
use leoma_models::Fault;

use super::budget::{Amount, Reservation};
use super::chat::{Ask, Rendered};
use super::http::{Lost, Response};
use super::life::{self, Life};
use super::limits::{backoff, random, retry_after};
use super::reply::{Completion, Next, Refusal};
use super::{ID, Remote, locked};
use crate::judge::canonical::sha256;
use crate::judge::verdict::{NoVerdict, Reason, Usage};

/// Tries of one question.
const TRIES: u32 = 4;
/// Patience for the description of the model: it is good to know and no more.
const LIFE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a model answered, and what that cost.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) completion: Completion,
    pub(super) request_sha256: String,
    pub(super) request_id: Option<String>,
    pub(super) adapted: Vec<String>,
    pub(super) usage: Usage,
}

/// Whether another try may help.
#[derive(Clone, Copy)]
enum Again {
    Never,
    Soon,
    /// Not before the server has been left alone for so long.
    After(Duration),
}

/// Why a try did not give an answer.
struct Failure {
    reason: Reason,
    fault: Fault,
    message: String,
    again: Again,
}

/// One try.
enum Try {
    Answered(Box<Asked>),
    /// The server does not take a field that the request can do without.
    Adapted,
    Failed(Failure),
}

impl Remote {
    /// Asks until there is an answer, no hope, or no time.
    pub(super) async fn converse(
        &self,
        ask: &Ask,
        task: Option<&str>,
        within: Duration,
    ) -> Result<Asked, Box<NoVerdict>> {
        let start = self.clock.monotonic();
        let until = start + within;
        let mut usage = Usage {
            nano_usd: self.settings.price.map(|_| 0),
            ..Usage::default()
        };
        let result = self.tries(ask, task, until, &mut usage).await;
        usage.millis = (self.clock.monotonic().saturating_sub(start)).as_millis() as u64;
        match result {
            Ok(mut asked) => {
                asked.usage = usage;
                Ok(*asked)
            }
            Err(mut none) => {
                none.usage = usage;
                Err(none)
            }
        }
    }

    async fn tries(
        &self,
        ask: &Ask,
        task: Option<&str>,
        until: Duration,
        usage: &mut Usage,
    ) -> Result<Box<Asked>, Box<NoVerdict>> {
        self.check_life(until).await?;
        let mut attempt = 0;
        loop {
            self.wait_for_limits(ask, until).await?;
            let failure = match self.attempt(ask, task, until, usage).await? {
                Try::Answered(asked) => return Ok(asked),
                Try::Adapted => continue,
                Try::Failed(failure) => failure,
            };
            attempt += 1;
            let none = |text: &str| {
                let message = format!("{}: {}{text}", self.http.host(), failure.message);
                Box::new(NoVerdict::new(ID, failure.reason, failure.fault, message))
            };
            let asked_for = match failure.again {
                Again::Never => return Err(none("")),
                Again::Soon => None,
                Again::After(time) => Some(time),
            };
            if attempt >= TRIES {
                self.out_of_tries(failure.reason);
                return Err(none(&format!(", after {attempt} tries")));
            }
            let wait = backoff(self.settings.backoff, attempt - 1, random(), asked_for);
            if wait >= self.left(until) {
                self.out_of_tries(failure.reason);
                return Err(none(&format!(
                    ", and the next try would be in {:.1} s, after the deadline",
                    wait.as_secs_f64()
                )));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// A server that has no time for us, try after try, is as good as one that is down.
    fn out_of_tries(&self, reason: Reason) {
        if reason == Reason::RateLimited {
            locked(&self.breaker).failed(self.clock.monotonic());
        }
    }

    fn left(&self, until: Duration) -> Duration {
        until.saturating_sub(self.clock.monotonic())
    }

    /// One request and what became of it.
    async fn attempt(
        &self,
        ask: &Ask,
        task: Option<&str>,
        until: Duration,
        usage: &mut Usage,
    ) -> Result<Try, Box<NoVerdict>> {
        let left = self.left(until);
        if left.is_zero() {
            return Err(Box::new(late()));
        }
        let (tokens_in, tokens_out) = ask.most_tokens();
        let entered = locked(&self.breaker).enter(self.clock.monotonic());
        entered.map_err(|wait| {
            let message = format!(
                "{}: too many failures in a row; the next request goes out in {:.0} s",
                self.http.host(),
                wait.as_secs_f64().ceil()
            );
            Box::new(NoVerdict::new(
                ID,
                Reason::Unavailable,
                Fault::Transient,
                message,
            ))
        })?;
        let rendered = {
            let known = locked(&self.known);
            ask.render(&|name| known.rejects(name))
        };
        let most = self.amount(tokens_in, tokens_out);
        let reserved = self.ledger.reserve(task, most, self.clock.unix());
        let reservation = reserved.map_err(|none| {
            locked(&self.breaker).gave_up(self.clock.monotonic());
            Box::new(none)
        })?;
        locked(&self.limits).sent(tokens_in + tokens_out);
        usage.requests += 1;
        let request_sha256 = sha256(&rendered.body);
        let Rendered {
            body,
            sent,
            adapted,
        } = rendered;
        let response = match self.http.complete(Bytes::from(body), left).await {
            Ok(response) => response,
            Err(lost) => return Ok(Try::Failed(self.lost(lost, reservation, usage))),
        };
        locked(&self.limits).heard(&response.headers, self.clock.monotonic());
        if !response.is_success() {
            self.settle(reservation, Amount::default(), usage);
            return Ok(self.refused(&response, &sent));
        }
        match Completion::read(&response.body) {
            Ok(completion) => {
                // What is not counted is taken for the most that it can be.
                let (read, written) = completion.tokens.unwrap_or((tokens_in, tokens_out));
                usage.tokens_in += read;
                usage.tokens_out += written;
                self.settle(reservation, self.amount(read, written), usage);
                locked(&self.breaker).succeeded();
                Ok(Try::Answered(Box::new(Asked {
                    request_id: response.request_id(),
                    completion,
                    request_sha256,
                    adapted,
                    usage: Usage::default(),
                })))
            }
            Err(what) => {
                let most = reservation.most;
                self.settle(reservation, most, usage);
                locked(&self.breaker).failed(self.clock.monotonic());
                Ok(Try::Failed(Failure {
                    reason: Reason::Transport,
                    fault: Fault::Transient,
                    message: format!("what it sent is no completion: {what}"),
                    again: Again::Soon,
                }))
            }
        }
    }

    /// There is no answer: what may have been served may be billed.
    fn lost(&self, lost: Lost, reservation: Reservation, usage: &mut Usage) -> Failure {
        locked(&self.breaker).failed(self.clock.monotonic());
        let most = reservation.most;
        let (spent, reason, message, again) = match lost {
            Lost::NotSent(what) => (Amount::default(), Reason::Transport, what, Again::Soon),
            Lost::Broken(what) => (most, Reason::Transport, what, Again::Soon),
            Lost::Late => (
                most,
                Reason::Deadline,
                "no answer before the deadline".into(),
                Again::Never,
            ),
        };
        self.settle(reservation, spent, usage);
        Failure {
            reason,
            fault: Fault::Transient,
            message,
            again,
        }
    }

    /// An error answer. Such requests are not billed.
    fn refused(&self, response: &Response, sent: &[&'static str]) -> Try {
        let refusal = Refusal::read(response.status, &response.body);
        if let Some(field) = refusal.rejected(sent) {
            tracing::info!(field, words = %refusal.words(), "the judge's server does not take a field");
            let mut known = locked(&self.known);
            known.reject(field, self.clock.unix());
            self.keep(&known);
            locked(&self.breaker).succeeded();
            return Try::Adapted;
        }
        let next = refusal.next();
        let (reason, fault, again) = match next {
            Next::Stop(reason, fault) => (reason, fault, Again::Never),
            Next::Again(reason) => {
                let asked = retry_after(&response.headers).map_or(Again::Soon, Again::After);
                (reason, Fault::Transient, asked)
            }
        };
        let now = self.clock.monotonic();
        match next {
            // It is there and speaks to us.
            Next::Stop(..) => locked(&self.breaker).succeeded(),
            Next::Again(Reason::RateLimited) => locked(&self.breaker).busy(now),
            Next::Again(_) => locked(&self.breaker).failed(now),
        }
        if reason == Reason::ModelGone {
            *locked(&self.gone) = Some(refusal.words());
        }
        let remedy = match reason {
            Reason::Key => "; check the key of --api-key-file",
            Reason::Quota => "; the account has no credit left",
            Reason::ModelGone => "; choose another with --remote-model",
            Reason::Request => {
                "; does the server have this route and this model, and does it take images?"
            }
            _ => "",
        };
        Try::Failed(Failure {
            reason,
            fault,
            message: format!("{}{remedy}", refusal.words()),
            again,
        })
    }

    fn amount(&self, tokens_in: u64, tokens_out: u64) -> Amount {
        let price = self.settings.price;
        Amount {
            nano_usd: price.map_or(0, |price| price.cost(tokens_in, tokens_out)),
            tokens: tokens_in.saturating_add(tokens_out),
        }
    }

    /// An account that cannot be written loses no answer that is paid for: the reservation counts in full then.
    fn settle(&self, reservation: Reservation, spent: Amount, usage: &mut Usage) {
        usage.nano_usd = usage.nano_usd.map(|sum| sum.saturating_add(spent.nano_usd));
        if let Err(none) = self.ledger.settle(reservation, spent, self.clock.unix()) {
            tracing::error!(%none, "what a request cost is not in the account");
        }
    }

    /// Waits until the server has room for the request by its own words.
    async fn wait_for_limits(&self, ask: &Ask, until: Duration) -> Result<(), Box<NoVerdict>> {
        let (tokens_in, tokens_out) = ask.most_tokens();
        let now = self.clock.monotonic();
        let wait = locked(&self.limits).wait(tokens_in + tokens_out, now);
        if wait.is_zero() {
            return Ok(());
        }
        if wait >= self.left(until) {
            let message = format!(
                "{}: the server has no room for the request for another {:.1} s, which is after the deadline",
                self.http.host(),
                wait.as_secs_f64()
            );
            return Err(Box::new(NoVerdict::new(
                ID,
                Reason::RateLimited,
                Fault::Transient,
                message,
            )));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Stops where the model is gone; asks the server about its end once a day.
    async fn check_life(&self, until: Duration) -> Result<(), Box<NoVerdict>> {
        let gone = |message: String| {
            Err(Box::new(NoVerdict::new(
                ID,
                Reason::ModelGone,
                Fault::Local,
                message,
            )))
        };
        let said = locked(&self.gone).clone();
        if let Some(words) = said {
            return gone(format!("{}: {words}", self.http.host()));
        }
        let now = self.clock.unix();
        let due = locked(&self.known).is_life_due(now);
        if due {
            let within = LIFE_TIMEOUT.min(self.left(until) / 4);
            // A server that is not there says so when it is asked for scores.
            if let Ok(response) = self.http.model(&self.settings.model, within).await {
                let date = if response.is_success() {
                    let body = serde_json::from_slice(&response.body).unwrap_or_default();
                    life::shutdown_date(&body)
                } else {
                    // Local servers have no such route.
                    locked(&self.known).shutdown_date.clone()
                };
                let mut known = locked(&self.known);
                known.heard_of_life(date, now);
                self.keep(&known);
            } else {
                locked(&self.known).missed_life(now);
            }
        }
        match self.life() {
            Life::Gone(message) => gone(message),
            Life::Fine | Life::Leaving(_) => Ok(()),
        }
    }

    fn keep(&self, known: &super::Known) {
        known.write(
            &self.settings.state,
            self.settings.base.as_str(),
            &self.settings.model,
        );
    }
}

fn late() -> NoVerdict {
    NoVerdict::new(
        ID,
        Reason::Deadline,
        Fault::Transient,
        "no time is left before the deadline",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::super::{Budget, RemoteSettings};
    use super::*;
    use crate::judge::clock::ManualClock;

    #[test]
    fn an_account_that_breaks_loses_no_answer_and_stops_the_next_question() {
        let state = tempfile::tempdir().unwrap();
        let settings = RemoteSettings {
            base: RemoteSettings::parse_base("http://127.0.0.1:9/v1").unwrap(),
            model: "m".into(),
            key: None,
            price: None,
            budget: Budget::default(),
            backoff: Duration::from_millis(1),
            state: state.path().to_owned(),
        };
        let remote = Remote::new(settings, Arc::new(ManualClock::at(1e9))).unwrap();
        let most = Amount {
            nano_usd: 9,
            tokens: 9,
        };
        let reserve = || remote.ledger.reserve(None, most, 1e9);
        let reservation = reserve().unwrap();
        std::fs::write(state.path().join("spent.json"), "half").unwrap();
        let mut usage = Usage {
            nano_usd: Some(1),
            ..Usage::default()
        };
        remote.settle(reservation, most, &mut usage);
        assert_eq!(usage.nano_usd, Some(10));
        assert_eq!(reserve().unwrap_err().reason, Reason::Internal);
    }
}
