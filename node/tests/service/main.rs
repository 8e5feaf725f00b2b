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
mod kill;
mod leave;
mod load;
mod node;
mod stop;
