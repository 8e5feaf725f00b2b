//! How well the engine is: self-tests, jobs without signs of life, devices that are beyond repair.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::EngineError;
use super::queue::Queue;

/// Relative difference of a self-test to the first one that counts as damage. The same work on the same
/// device repeats to the last bit; libraries that choose among algorithms stay well below this.
const DRIFT: f64 = 1e-2;

/// The state of the engine.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// The last self-test.
    pub canary: Option<CanaryReport>,
    /// When the last self-test passed.
    pub last_good_canary: Option<Instant>,
    /// Why only a new process can go on.
    pub lost: Option<String>,
    /// The job the watchdog gave up last, and its silence.
    stalled: Option<(u64, Duration)>,
}

impl Health {
    pub(super) fn canary_passed(&mut self) {
        self.canary = Some(CanaryReport::passed());
        self.last_good_canary = Some(Instant::now());
    }

    /// How long a job was silent when the watchdog gave it up.
    pub(super) fn stalled(&self, id: u64) -> Option<Duration> {
        self.stalled
            .and_then(|(stalled, after)| (stalled == id).then_some(after))
    }

    pub(super) fn set_canary(&mut self, report: CanaryReport) {
        if report.fault.is_none() {
            self.last_good_canary = Some(report.at);
        }
        self.canary = Some(report);
    }
}

/// Outcome of a self-test.
#[derive(Debug, Clone)]
pub struct CanaryReport {
    at: Instant,
    fault: Option<String>,
}

impl CanaryReport {
    fn passed() -> Self {
        Self {
            at: Instant::now(),
            fault: None,
        }
    }

    pub(super) fn failed(fault: String) -> Self {
        Self {
            at: Instant::now(),
            fault: Some(fault),
        }
    }

    /// Compares with the first self-test: relative L2 distance.
    pub(super) fn compare(baseline: &[f32], found: &[f32]) -> Self {
        if baseline.len() != found.len() {
            let message = format!("{} values in place of {}", found.len(), baseline.len());
            return Self::failed(message);
        }
        let square = |v: f32| f64::from(v) * f64::from(v);
        let norm: f64 = baseline.iter().map(|&v| square(v)).sum();
        let distance: f64 = baseline.iter().zip(found).map(|(a, b)| square(a - b)).sum();
        let relative = (distance / norm.max(f64::MIN_POSITIVE)).sqrt();
        // Not `>`: what is not a number must fail.
        if relative <= DRIFT {
            Self::passed()
        } else {
            Self::failed(format!(
                "the same work gives another result than at the start (relative difference {relative:.1e}); \
                 the device or its memory is damaged: restart, and check the hardware if it comes again"
            ))
        }
    }

    /// What is wrong, if anything.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// When the test ended.
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// The watchdog: a job that gives no sign of life is asked to stop, and if it cannot, the engine is lost.
pub(super) struct Watch {
    pub(super) queue: Weak<Queue>,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) health: Arc<watch::Sender<Health>>,
}

impl Watch {
    pub(super) fn run(&self) {
        let Some(limit) = self.stall_timeout else {
            return;
        };
        let tick = (limit / 10).clamp(Duration::from_millis(10), Duration::from_secs(5));
        // Ends with the queue.
        while let Some(queue) = self.queue.upgrade() {
            for (id, control, silence) in queue.silent() {
                if silence < limit {
                    continue;
                }
                if self.health.borrow().stalled(id).is_none() {
                    tracing::error!(
                        job = id,
                        silence_s = silence.as_secs(),
                        "no progress: stopping the job"
                    );
                    self.health
                        .send_modify(|health| health.stalled = Some((id, silence)));
                    control.cancel();
                } else if silence >= limit + self.grace {
                    let message = format!(
                        "a job has given no sign of life for {} s and does not stop",
                        silence.as_secs()
                    );
                    tracing::error!(job = id, message);
                    self.health.send_modify(|health| {
                        health.lost.get_or_insert_with(|| message.clone());
                    });
                    queue.close();
                    queue.cancel_all(&EngineError::DeviceLost { message });
                    return;
                }
            }
            drop(queue);
            thread::sleep(tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_test_compares_values_and_not_only_the_absence_of_errors() {
        let baseline = [1.0, -2.0, 3.0];
        assert!(
            CanaryReport::compare(&baseline, &baseline)
                .fault()
                .is_none()
        );
        assert!(
            CanaryReport::compare(&baseline, &[1.0, -2.0, 3.001])
                .fault()
                .is_none()
        );
        for bad in [
            &[1.0, -2.0, -3.0][..],
            &[1.0, -2.0, f32::NAN],
            &[0.0, 0.0, 0.0],
            &[1.0, -2.0],
        ] {
            assert!(
                CanaryReport::compare(&baseline, bad).fault().is_some(),
                "{bad:?}"
            );
        }
    }
}
