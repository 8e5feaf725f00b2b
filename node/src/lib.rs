//! The node: command line, HTTP service, engine and media around `leoma-models`.

pub mod media;
