//! The lines between a running job and whoever waits for it: cancellation in; progress and a heartbeat out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{mpsc, watch};

/// Share of denoising in a job before anything was measured.
const DENOISE_SHARE: f64 = 0.9;

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Waiting behind other jobs.
    Queued,
    /// Reading weights that are not kept in memory.
    Load,
    /// Encoding the prompt.
    TextEncode,
    /// Encoding the first frame.
    ImageEncode,
    /// Denoising; `total` is the number of steps.
    Denoise,
    /// Decoding latents to pixels and writing the file; counted in latent frames.
    VaeDecode,
}

impl Stage {
    /// Name in events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Load => "load",
            Self::TextEncode => "text_encode",
            Self::ImageEncode => "image_encode",
            Self::Denoise => "denoise",
            Self::VaeDecode => "vae_decode",
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Steps of the stage that are done.
    pub done: usize,
    /// Steps of the stage in all; 0 when unknown.
    pub total: usize,
    /// Share of the whole job that is done, 0 to 100.
    pub percent: f64,
    /// Time left, where it can be told.
    pub eta_s: Option<f64>,
}

impl Progress {
    /// Before anything has begun.
    pub const QUEUED: Self = Self {
        stage: Stage::Queued,
        done: 0,
        total: 0,
        percent: 0.0,
        eta_s: None,
    };
}

/// Seconds a job is expected to take, from earlier ones.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Expected {
    /// Until the latents are there.
    pub denoise_s: Option<f64>,
    /// From there to the file.
    pub decode_s: Option<f64>,
}

/// Handed to the backend with each job.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cancel: AtomicBool,
    /// Milliseconds from `epoch` to the last sign of life.
    beat: AtomicU64,
    epoch: Instant,
    progress: watch::Sender<Progress>,
    listener: Option<mpsc::UnboundedSender<Progress>>,
    clock: Mutex<Clock>,
}

/// When the current stage and its last step began.
#[derive(Debug)]
struct Clock {
    expected: Expected,
    stage: Stage,
    stage_start: Instant,
    last_step: Instant,
    step_s: Vec<f64>,
}

impl Control {
    /// A control for a job; every progress also goes to `listener`.
    pub fn new(listener: Option<mpsc::UnboundedSender<Progress>>) -> Self {
        let now = Instant::now();
        let clock = Clock {
            expected: Expected::default(),
            stage: Stage::Queued,
            stage_start: now,
            last_step: now,
            step_s: Vec::new(),
        };
        let shared = Shared {
            cancel: AtomicBool::new(false),
            beat: AtomicU64::new(0),
            epoch: now,
            progress: watch::Sender::new(Progress::QUEUED),
            listener,
            clock: Mutex::new(clock),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Another handle to the same job.
    pub(super) fn share(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Whether the job is no longer wanted. Asking is also a sign of life for the watchdog, so code asks at
    /// least once per transformer block.
    pub fn cancelled(&self) -> bool {
        self.beat();
        self.shared.cancel.load(Ordering::Relaxed)
    }

    /// As [`Self::cancelled`], but not a sign of life: for the fake's hangs.
    pub(super) fn stop_requested(&self) -> bool {
        self.shared.cancel.load(Ordering::Relaxed)
    }

    /// Says that the job is no longer wanted.
    pub fn cancel(&self) {
        self.shared.cancel.store(true, Ordering::Relaxed);
    }

    /// A sign of life.
    pub(super) fn beat(&self) {
        let now = self.shared.epoch.elapsed().as_millis() as u64;
        self.shared.beat.store(now, Ordering::Relaxed);
    }

    /// Time since the last sign of life.
    pub(super) fn silence(&self) -> Duration {
        let beat = Duration::from_millis(self.shared.beat.load(Ordering::Relaxed));
        self.shared.epoch.elapsed().saturating_sub(beat)
    }

    /// What earlier jobs say about this one's length.
    pub(super) fn expect(&self, expected: Expected) {
        self.clock().expected = expected;
    }

    /// The progress now and as it changes; changes in quick succession are merged.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Seconds of each denoising step so far.
    pub(super) fn take_steps(&self) -> Vec<f64> {
        std::mem::take(&mut self.clock().step_s)
    }

    fn clock(&self) -> std::sync::MutexGuard<'_, Clock> {
        // Nothing under this lock panics half-way.
        self.shared
            .clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how far the job is. Never blocks.
    pub fn progress(&self, stage: Stage, done: usize, total: usize) {
        self.beat();
        let progress = self.clock().advance(stage, done, total);
        self.shared.progress.send_replace(progress);
        if let Some(listener) = &self.shared.listener {
            let _ = listener.send(progress); // nobody listens any more
        }
    }
}

impl Clock {
    fn advance(&mut self, stage: Stage, done: usize, total: usize) -> Progress {
        let now = Instant::now();
        if stage != self.stage {
            self.stage = stage;
            self.stage_start = now;
        } else if stage == Stage::Denoise && done > 0 {
            self.step_s.push((now - self.last_step).as_secs_f64());
        }
        self.last_step = now;

        let elapsed = (now - self.stage_start).as_secs_f64();
        let fraction = if total == 0 {
            0.0
        } else {
            done as f64 / total as f64
        };
        // Time left in the stage: measured as soon as one step is done, expected before.
        let rest = |expected: Option<f64>| match done {
            0 => expected,
            _ => Some(elapsed / done as f64 * total.saturating_sub(done) as f64),
        };
        let Expected {
            denoise_s,
            decode_s,
        } = self.expected;
        let share = match (denoise_s, decode_s) {
            (Some(denoise), Some(decode)) if denoise + decode > 0.0 => denoise / (denoise + decode),
            _ => DENOISE_SHARE,
        };
        let (percent, eta_s) = match stage {
            Stage::Denoise => {
                let decode = decode_s.or_else(|| {
                    // Nothing measured yet: the usual share of what denoising will have taken.
                    let whole = elapsed / fraction.max(f64::MIN_POSITIVE);
                    (done > 0).then_some(whole * (1.0 - DENOISE_SHARE) / DENOISE_SHARE)
                });
                let eta = rest(denoise_s).map(|rest| rest + decode.unwrap_or(0.0));
                (share * fraction, eta)
            }
            Stage::VaeDecode => (share + (1.0 - share) * fraction, rest(decode_s)),
            _ => (0.0, denoise_s.map(|d| d + decode_s.unwrap_or(0.0))),
        };
        Progress {
            stage,
            done,
            total,
            percent: (percent * 100.0).clamp(0.0, 99.0),
            eta_s,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percent_only_grows_and_every_step_reaches_the_listener() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let control = Control::new(Some(sender));
        control.progress(Stage::TextEncode, 0, 1);
        for step in 0..=4 {
            control.progress(Stage::Denoise, step, 4);
        }
        for frame in 0..=2 {
            control.progress(Stage::VaeDecode, frame, 2);
        }
        let mut seen = Vec::new();
        while let Ok(progress) = receiver.try_recv() {
            seen.push(progress);
        }
        assert_eq!(seen.len(), 9);
        assert!(
            seen.windows(2)
                .all(|pair| pair[0].percent <= pair[1].percent)
        );
        assert!(seen.iter().all(|p| p.percent <= 99.0));
        assert_eq!(seen[1].eta_s, None, "nothing is known at the first step");
        assert!(seen[2].eta_s.is_some());
        assert_eq!(control.take_steps().len(), 4);
    }

    #[test]
    fn expectations_give_a_time_left_from_the_start() {
        let control = Control::new(None);
        control.expect(Expected {
            denoise_s: Some(30.0),
            decode_s: Some(10.0),
        });
        control.progress(Stage::TextEncode, 0, 1);
        assert_eq!(control.watch().borrow().eta_s, Some(40.0));
        control.progress(Stage::VaeDecode, 0, 1);
        assert_eq!(control.watch().borrow().percent, 75.0);
    }
}
