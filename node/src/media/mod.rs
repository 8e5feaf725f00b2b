//! Pictures in, video out: decoding with limits, first-frame preparation, frames to bytes, H.264/MP4.
//!
//! The main path: [`image::decode`] → [`prepare::prepare`] → (the model) → [`frames::frames_to_u8`] →
//! [`video::Mp4Writer`] or [`png::write_png`]. Nothing here touches a tensor library.

pub mod error;
pub mod frames;
pub mod image;
pub mod png;
pub mod prepare;
pub(crate) mod publish;
pub mod resize;
pub mod video;

pub use error::{MediaError, Result};
pub use frames::{Rounding, frames_to_u8};
pub use image::{ImageLimits, RgbImage8, decode};
pub use png::{encode_png, poster, write_png};
pub use prepare::{ImagePreparation, PreparedImage, prepare};
pub use video::{Fps, Mp4Options, Mp4Writer, VideoInfo, WrittenVideo, read_video_info};
