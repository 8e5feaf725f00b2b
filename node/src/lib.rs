//! GPU-local node for the Leoma subnet: generates and serves Wan 2.2 video.

pub mod audit;
pub mod cli;
pub mod client;
pub mod cuda;
pub mod engine;
pub mod error;
pub mod generation;
pub mod http;
pub mod hub;
pub mod jobs;
pub mod judge;
pub mod media;
pub mod memory;
mod report;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod tls;
mod transport;

pub use error::{Error, Result};
