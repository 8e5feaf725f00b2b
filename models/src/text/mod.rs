//! Text side: prompt cleaning, tokenizer, UMT5 encoder.

mod clean;
#[cfg(test)]
mod clean_tests;
mod config;
mod fix_text;
mod html;
mod tiny_tokenizer;
mod tokenizer;
#[cfg(test)]
mod tokenizer_tests;
pub mod umt5;

pub use clean::clean_prompt;
pub use config::Umt5Config;
pub use tiny_tokenizer::{tiny_tokenizer_files, tiny_vocab_size};
pub use tokenizer::{MAX_PROMPT_BYTES, MAX_TOKENS, PromptTokenizer, validate_prompt};
pub use umt5::{Umt5Encoder, tensor_shapes};
