//! Judging clips: six dimensions, a remote judge, a local one, and how far they agree.
//!
//! The main path: [`clip`] decodes a video in a process of its own → [`sampling`] picks frames and encodes them →
//! [`remote`] asks a model in the words of a [`profile`] → [`answer`] reads what it says → [`verdict`] holds the
//! outcome. [`signals`] measures without a model; [`local`] is the judge of this machine, with a model or without.
//! [`side`] runs a remote and a local judge beside each other; [`evidence`] and [`log`] keep what was seen; [`bridge`]
//! takes the log to [`statistics`], [`calibration`] and [`report`]. [`metamorphic`] damages clips to see what the
//! signals notice. See `docs/judge.md`.
//!
//! Whose fault a failure is decides what may follow from it. An answer that is no usable score object counts
//! as zeros, as the subnet's whitepaper asks; a refusal, a lost connection, a spent budget or a fault of this
//! machine is no verdict at all and never counts against a miner.

pub mod answer;
pub mod bridge;
pub mod calibration;
pub mod canonical;
pub mod clip;
pub mod clock;
pub(crate) mod decode;
pub mod embeddings;
pub mod evidence;
pub mod input;
pub mod jpeg;
pub mod local;
pub mod log;
pub mod metamorphic;
pub mod page;
pub mod profile;
pub mod recheck;
pub mod remote;
pub mod report;
pub mod rubric;
pub mod sampling;
pub mod side;
pub mod signals;
pub mod statistics;
pub mod verdict;
pub mod wording;
