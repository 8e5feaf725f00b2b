//! Text side: prompt cleaning, tokenizer, UMT5 encoder.

mod config;

pub use config::Umt5Config;
