//! Tensor operations for Wan 2.2 that candle lacks or does slowly.
//!
//! One operation per file: formula in the header, shape checks, a plain reference composed of candle
//! operations that runs on every device, and a fast CPU path. Public functions take and return candle
//! tensors and choose the path by device, so that models are written once.
#![warn(missing_docs)]
