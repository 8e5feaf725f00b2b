//! One clock for everything that is written down.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock as it was when the store was opened, carried on by the monotonic clock.
///
/// Ages are differences of written times. If each time were read from the wall clock, one step of it
/// (NTP, an operator, a virtual machine that resumes) would make every clip look expired at once, or none
/// ever. Within one run this clock never steps; what it is wrong by at the start it stays wrong by, and
/// the next start puts it right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall: Duration,
    since: Instant,
}

impl Clock {
    /// Reads the wall clock for the only time.
    pub(super) fn start() -> Self {
        Self::starting_at(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }

    fn starting_at(wall: Duration) -> Self {
        Self {
            wall,
            since: Instant::now(),
        }
    }

    /// Unix seconds.
    pub(super) fn now(&self) -> f64 {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> f64 {
        (self.wall + instant.saturating_duration_since(self.since)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_the_start_by_the_monotonic_clock_alone() {
        // A wall time far from today's: the system's clock is not asked again.
        let clock = Clock::starting_at(Duration::from_secs(1_000));
        assert_eq!(clock.at(clock.since), 1_000.0);
        assert_eq!(
            clock.at(clock.since + Duration::from_millis(2_500)),
            1_002.5
        );
        assert!((1_000.0..2_000.0).contains(&clock.now()));
    }
}
