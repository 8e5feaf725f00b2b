//! The two lines between a running job and whoever waits for it: cancellation in, progress out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use tokio::sync::watch;

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Steps of the stage that are done.
    pub done: usize,
    /// Steps of the stage in all; 0 when unknown.
    pub total: usize,
}

/// Handed to [`Backend::generate`](super::Backend::generate) with each job.
#[derive(Debug)]
pub struct Control {
    cancel: Arc<AtomicBool>,
    progress: watch::Sender<Progress>,
}

impl Control {
    /// A control with its two outer ends: the cancel flag and the progress of the job.
    pub fn new() -> (Self, Arc<AtomicBool>, watch::Receiver<Progress>) {
        let cancel = Arc::new(AtomicBool::new(false));
        let (progress, receiver) = watch::channel(Progress {
            stage: Stage::Queued,
            done: 0,
            total: 0,
        });
        (
            Self {
                cancel: Arc::clone(&cancel),
                progress,
            },
            cancel,
            receiver,
        )
    }

    /// Whether the job is no longer wanted.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// The flag behind [`Self::cancelled`], for code that takes a plain flag.
    pub fn cancel_flag(&self) -> &Arc<AtomicBool> {
        &self.cancel
    }

    /// Tells how far the job is. Never blocks.
    pub fn progress(&self, stage: Stage, done: usize, total: usize) {
        self.progress.send_replace(Progress { stage, done, total });
    }
}
