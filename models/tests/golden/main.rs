//! Replays what diffusers 0.35.2 (float32, CPU) made of three tiny checkpoints: tokens, text, VAE, one
//! transformer call, samplers, whole runs, in both checkpoint layouts.
//!
//! `scripts/golden/run` regenerates the fixtures. A failure prints, per tensor, the relative L2 distance
//! and its share of the limit, so that the first tensor that went wrong is seen.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod gate;
mod official;
mod pipeline;
mod rounding;
mod scheduler;
mod text;
mod transformer;
mod vae;
