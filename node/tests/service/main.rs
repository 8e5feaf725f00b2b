//! The serving node as a process: killed, stopped, starved and left alone at every point of a job.
//!
//! The real program with a scripted engine, over real sockets; each test has its own folder and port.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(feature = "ffmpeg")]

mod access;
mod client;
mod content;
mod deadline;
mod device;
mod disk;
mod judge;
mod kill;
mod leave;
mod load;
#[allow(dead_code, reason = "shared with the tests of the command `judge`")]
#[path = "../judge/mock.rs"]
mod mock;
mod node;
#[allow(dead_code, reason = "shared with the tests of `judge` and the client")]
#[path = "../seen/mod.rs"]
mod seen;
mod stop;
