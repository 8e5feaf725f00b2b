//! A picture as the judge takes it.

use crate::error::{Error, Result};

/// Rows of red, green, blue, 8 bits each, borrowed from whoever decoded them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pixels: &'a [u8],
    height: usize,
    width: usize,
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({}x{})", self.width, self.height)
    }
}

impl<'a> Frame<'a> {
    /// Wraps `height` rows of `width` pixels of three bytes.
    ///
    /// # Errors
    /// [`Error::Caller`] when a side is 0 or the number of bytes is another.
    pub fn new(pixels: &'a [u8], height: usize, width: usize) -> Result<Self> {
        let bytes = height
            .checked_mul(width)
            .and_then(|count| count.checked_mul(3));
        if bytes != Some(pixels.len()) || pixels.is_empty() {
            return Err(Error::caller(
                "frame",
                format!(
                    "has {} bytes, {width}x{height} pixels of three bytes are said",
                    pixels.len()
                ),
            ));
        }
        Ok(Self {
            pixels,
            height,
            width,
        })
    }

    /// The bytes.
    pub fn pixels(&self) -> &'a [u8] {
        self.pixels
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }
}
