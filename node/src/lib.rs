//! The node: generates video from Wan checkpoints and serves it over HTTP.
#![warn(missing_docs)]

pub mod engine;
pub mod http;
