//! How long and how often a lost connection is tried again.

use std::time::{Duration, Instant};

use super::ClientError;

/// Time without any sign of the server after which it is given up. A server that restarts loads its
/// checkpoint before it opens its port, which takes minutes for a large one.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(8);

/// Waits between attempts: longer each time, until the server is heard again.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Duration,
    heard: Instant,
    delay: Duration,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self::with(PATIENCE)
    }

    fn with(patience: Duration) -> Self {
        Self {
            patience,
            heard: Instant::now(),
            delay: FIRST_DELAY,
        }
    }

    /// The server answered.
    pub(super) fn heard(&mut self) {
        *self = Self::with(self.patience);
    }

    /// The wait before the next attempt.
    ///
    /// # Errors
    /// `error` itself when it will not pass or patience is over.
    pub(super) fn delay(&mut self, error: ClientError) -> Result<Duration, ClientError> {
        if !error.is_passing() || self.heard.elapsed() > self.patience {
            return Err(error);
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(LONGEST_DELAY);
        Ok(delay)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lost() -> ClientError {
        ClientError::Unreachable {
            host: "h".into(),
            message: "m".into(),
        }
    }

    #[test]
    fn waits_grow_to_a_bound_and_start_anew_when_the_server_is_heard() {
        let mut retry = Retry::new();
        let waits: Vec<_> = (0..8).map(|_| retry.delay(lost()).unwrap()).collect();
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((waits[0], waits[7]), (FIRST_DELAY, LONGEST_DELAY));
        retry.heard();
        assert_eq!(retry.delay(lost()).unwrap(), FIRST_DELAY);
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        let error = ClientError::refused(404, b"", None);
        assert!(Retry::new().delay(error).is_err());
        let mut retry = Retry::with(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
        assert!(retry.delay(lost()).is_err());
    }
}
