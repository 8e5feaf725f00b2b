//! The error of this module, and whose fault an error is.

use std::io;
use std::path::{Path, PathBuf};

use leoma_models::Fault;

/// Result of this module.
pub type Result<T, E = MediaError> = std::result::Result<T, E>;

/// What can go wrong between picture or video files and pixels. Every message names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The encoded picture has more bytes than allowed.
    #[error("the image has {found} bytes, the limit is {limit}: send a smaller file")]
    TooManyBytes {
        /// Bytes given.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The header of the picture announces more pixels than allowed; nothing was decoded.
    #[error(
        "the image is {width}x{height}, the limit is {max_pixels} pixels and {max_side} per side: \
         scale it down first"
    )]
    TooManyPixels {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// Pixels allowed.
        max_pixels: u64,
        /// Pixels allowed along one side.
        max_side: u32,
    },
    /// Neither PNG, JPEG nor WebP.
    #[error("the image is {found}: send PNG, JPEG or WebP")]
    UnsupportedFormat {
        /// What the first bytes look like.
        found: String,
    },
    /// More than one frame.
    #[error("the {format} image is animated: send a single frame (save the first one as PNG)")]
    Animated {
        /// Name of the format.
        format: &'static str,
    },
    /// The file ends before the picture does.
    #[error("the {format} image is cut off before its end: send the whole file again")]
    Truncated {
        /// Name of the format.
        format: &'static str,
    },
    /// The file is damaged or uses a feature that cannot be read.
    #[error("the {format} image cannot be read ({message}): save it again as PNG")]
    Corrupt {
        /// Name of the format.
        format: &'static str,
        /// The decoder's words.
        message: String,
    },
    /// A width, height, frame rate or buffer that cannot be used.
    #[error("{message}")]
    Size {
        /// What was expected and what was found.
        message: String,
    },
    /// No room left where the file is written.
    #[error("{}: no space left: free some or choose another folder", path.display())]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
    },
    /// The folder or file cannot be written: it is missing or not ours.
    #[error("{}: cannot be written ({source}): choose a folder that exists and is writable", path.display())]
    Unwritable {
        /// The file asked for.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Reading or writing failed for another reason.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file to be read is not a video this build understands.
    #[error("{}: not a readable video ({message}): check the file", path.display())]
    Video {
        /// The file.
        path: PathBuf,
        /// The library's words.
        message: String,
    },
    /// The encoder failed.
    #[error(
        "encoding failed ({message}): write PNG frames instead, and report this with the settings"
    )]
    Encode {
        /// The library's words and the step.
        message: String,
    },
    /// This build or machine lacks something.
    #[error("{message}")]
    Local {
        /// What is missing and the remedy.
        message: String,
    },
}

impl MediaError {
    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::TooManyBytes { .. }
            | Self::TooManyPixels { .. }
            | Self::UnsupportedFormat { .. }
            | Self::Animated { .. }
            | Self::Truncated { .. }
            | Self::Corrupt { .. }
            | Self::Size { .. }
            | Self::Unwritable { .. }
            | Self::Video { .. } => Fault::Caller,
            Self::DiskFull { .. } | Self::Io { .. } => Fault::Transient,
            Self::Encode { .. } | Self::Local { .. } => Fault::Local,
        }
    }

    /// The input exceeds a limit (HTTP 413).
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooManyBytes { .. } | Self::TooManyPixels { .. })
    }

    /// The disk is full (HTTP 507).
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    pub(super) fn size(message: impl Into<String>) -> Self {
        Self::Size {
            message: message.into(),
        }
    }

    /// Sorts an error met while writing `path`.
    pub(crate) fn writing(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            // A file larger than the process or the file system may write is as full as it gets.
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::DiskFull { path },
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::ReadOnlyFilesystem => Self::Unwritable { path, source },
            _ => Self::Io { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_are_told_from_wrong_folders() {
        let path = Path::new("/out/a.mp4");
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            let error = MediaError::writing(path, io::Error::from_raw_os_error(errno));
            assert!(error.is_disk_full(), "{error}");
            assert_eq!(error.fault(), Fault::Transient);
        }
        for errno in [libc::EACCES, libc::ENOENT, libc::EROFS, libc::EISDIR] {
            let error = MediaError::writing(path, io::Error::from_raw_os_error(errno));
            assert!(matches!(error, MediaError::Unwritable { .. }), "{error}");
            assert_eq!(error.fault(), Fault::Caller);
        }
        let error = MediaError::writing(path, io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(error, MediaError::Io { .. }), "{error}");
    }
}
