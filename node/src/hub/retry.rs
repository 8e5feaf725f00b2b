//! How long and how often a download is tried again.

use std::time::{Duration, Instant};

use super::error::{HubError, Result};

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(16);
/// Wrong answers in a row that are put up with.
const WRONG_ANSWERS: u32 = 5;

/// Waits between attempts: longer each time, until something arrives again.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Duration,
    first_delay: Duration,
    heard: Instant,
    delay: Duration,
    wrong: u32,
}

impl Retry {
    /// Gives up after `patience` without any progress.
    pub(super) fn new(patience: Duration) -> Self {
        // Short patience is for tests, which have no time to wait.
        let first_delay = FIRST_DELAY.min(patience / 100);
        Self {
            patience,
            first_delay,
            heard: Instant::now(),
            delay: first_delay,
            wrong: 0,
        }
    }

    /// Something new arrived.
    pub(super) fn progress(&mut self) {
        self.heard = Instant::now();
        self.delay = self.first_delay;
        self.wrong = 0;
    }

    /// Time went by in which nothing was asked.
    pub(super) fn waited(&mut self, time: Duration) {
        self.heard += time;
    }

    /// The wait before the next attempt.
    ///
    /// # Errors
    /// `error` itself when it will not pass, or patience is over.
    pub(super) fn delay(&mut self, error: HubError) -> Result<Duration, HubError> {
        if error.is_wrong_answer() {
            self.wrong += 1;
        }
        let hopeless = !(error.is_passing() || error.is_wrong_answer());
        if hopeless || self.wrong > WRONG_ANSWERS || self.heard.elapsed() > self.patience {
            return Err(error);
        }
        let asked = match &error {
            HubError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        if asked.is_some_and(|asked| asked > self.patience) {
            return Err(error);
        }
        // Clients that were cut off together must not come back together.
        let spread = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 1024.0;
        let delay = self.delay.mul_f64(1.0 + spread);
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        Ok(delay.max(asked.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(status: u16, retry_after: Option<u64>) -> HubError {
        HubError::Refused {
            host: "h".into(),
            status,
            message: "m".into(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_grow_to_a_bound_and_start_anew_with_progress() {
        let mut retry = Retry::new(Duration::from_secs(600));
        let waits: Vec<_> = (0..12)
            .map(|_| retry.delay(refused(503, None)).unwrap())
            .collect();
        assert!(
            waits[0] >= FIRST_DELAY && waits[0] < FIRST_DELAY * 2,
            "{waits:?}"
        );
        assert!(
            waits[11] >= LONGEST_DELAY && waits[11] < LONGEST_DELAY * 2,
            "{waits:?}"
        );
        retry.progress();
        assert!(retry.delay(refused(503, None)).unwrap() < FIRST_DELAY * 2);
    }

    #[test]
    fn the_server_says_how_long() {
        let mut retry = Retry::new(Duration::from_secs(60));
        assert_eq!(
            retry.delay(refused(429, Some(30))).unwrap(),
            Duration::from_secs(30)
        );
        assert!(retry.delay(refused(429, Some(3600))).is_err());
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again_and_lies_not_often() {
        let mut retry = Retry::new(Duration::from_secs(60));
        assert!(retry.delay(refused(400, None)).is_err());
        let wrong = || HubError::Protocol {
            host: "h".into(),
            message: "m".into(),
        };
        for _ in 0..WRONG_ANSWERS {
            retry.delay(wrong()).unwrap();
        }
        assert!(retry.delay(wrong()).is_err());
        let mut retry = Retry::new(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
        assert!(retry.delay(refused(503, None)).is_err());
    }
}
