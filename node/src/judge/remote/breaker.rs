//! A circuit breaker: after failures in a row nothing is sent for a while, then one request tries again.
//!
//! ```text
//! closed ──5 failures──► open ──60 s──► half open ──success──► closed
//!                          ▲────────────failure────┘
//! ```
//!
//! Without it every clip of a task would wait out its whole deadline on a server that is down.

use std::time::Duration;

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// How long it stays open before one request may try.
const OPEN_FOR: Duration = Duration::from_secs(60);

/// The state machine; times are those of a monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaker {
    /// Requests go through; so many failed in a row.
    Closed(u32),
    /// Nothing goes through until then.
    Open(Duration),
    /// One request is under way; it decides. It counts as failed when nothing is heard of it until then.
    HalfOpen(Duration),
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self::Closed(0)
    }

    /// Asks for leave to send.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn enter(&mut self, now: Duration) -> Result<(), Duration> {
        match *self {
            Self::Closed(_) => Ok(()),
            Self::Open(until) | Self::HalfOpen(until) if now < until => {
                Err(until.saturating_sub(now))
            }
            Self::Open(_) | Self::HalfOpen(_) => {
                *self = Self::HalfOpen(now + OPEN_FOR);
                Ok(())
            }
        }
    }

    /// The server answered.
    pub(super) fn succeeded(&mut self) {
        *self = Self::Closed(0);
    }

    /// Nothing was sent after all: the next one may try.
    pub(super) fn gave_up(&mut self, now: Duration) {
        if matches!(self, Self::HalfOpen(_)) {
            *self = Self::Open(now);
        }
    }

    /// The server has no time for us. That alone opens nothing, but it is no success of a trial either.
    pub(super) fn busy(&mut self, now: Duration) {
        if matches!(self, Self::HalfOpen(_)) {
            self.failed(now);
        }
    }

    /// The server did not answer, or had no time for us.
    pub(super) fn failed(&mut self, now: Duration) {
        *self = match *self {
            Self::Closed(failures) if failures + 1 < FAILURES => Self::Closed(failures + 1),
            _ => Self::Open(now + OPEN_FOR),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let mut breaker = Breaker::new();
        for _ in 0..20 {
            for _ in 0..FAILURES - 1 {
                breaker.failed(Duration::ZERO);
            }
            assert_eq!(breaker.enter(Duration::ZERO), Ok(()));
            breaker.succeeded();
        }
        for _ in 0..FAILURES {
            breaker.failed(SECOND);
        }
        assert_eq!(breaker.enter(2 * SECOND), Err(59 * SECOND));
    }

    #[test]
    fn one_request_tries_and_decides() {
        let open = Breaker::Open(60 * SECOND);
        let mut breaker = open;
        assert_eq!(breaker.enter(60 * SECOND), Ok(()));
        assert_eq!(breaker.enter(61 * SECOND), Err(59 * SECOND));
        breaker.failed(62 * SECOND);
        assert_eq!(breaker, Breaker::Open(122 * SECOND));

        let mut breaker = open;
        assert_eq!(breaker.enter(60 * SECOND), Ok(()));
        breaker.succeeded();
        assert_eq!(
            (breaker, breaker.enter(61 * SECOND)),
            (Breaker::Closed(0), Ok(()))
        );

        // One that is never heard of again does not hold it for ever.
        let mut breaker = open;
        assert_eq!(breaker.enter(60 * SECOND), Ok(()));
        assert_eq!(breaker.enter(120 * SECOND), Ok(()));
        breaker.gave_up(121 * SECOND);
        breaker.busy(121 * SECOND);
        assert_eq!(breaker.enter(121 * SECOND), Ok(()));
        breaker.busy(122 * SECOND);
        assert_eq!(breaker, Breaker::Open(182 * SECOND));
    }
}
