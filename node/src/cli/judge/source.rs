//! Files on their way to a judge.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use leoma_models::Fault;
use sha2::{Digest as _, Sha256};

use crate::judge::clip::{self, DecodedClip};
use crate::judge::input::JudgeInput;
use crate::judge::verdict::{NoVerdict, Reason};
use crate::media::{ImageLimits, decode};

/// A clip, its first frame and its prompt, as judges take them.
pub(super) fn input(
    video: &Path,
    first: &Path,
    prompt: &str,
    task_id: Option<&str>,
) -> Result<JudgeInput, NoVerdict> {
    // What is cheap to refuse comes before what is not.
    let (image, bytes) = first_frame(first)?;
    let sha256 = digest(video)?;
    let clip = frames(video)?;
    JudgeInput::new(
        sha256,
        (clip.frames, clip.fps),
        (image, bytes),
        prompt.to_owned(),
        task_id.map(str::to_owned),
    )
}

/// The frames of a clip.
pub(super) fn frames(video: &Path) -> Result<DecodedClip, NoVerdict> {
    clip::decode(video, &clip::ClipLimits::default())
        .map_err(|error| none(error.fault(), format!("video: {error}")))
}

fn first_frame(path: &Path) -> Result<(crate::media::RgbImage8, Vec<u8>), NoVerdict> {
    let limits = ImageLimits::default();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limits.max_bytes + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            none(
                Fault::Caller,
                format!("first_frame: {}: {error}", path.display()),
            )
        })?;
    let image = decode(&bytes, &limits).map_err(|error| {
        none(
            error.fault(),
            format!("first_frame: {}: {error}", path.display()),
        )
    })?;
    Ok((image, bytes))
}

/// SHA-256 of a file.
pub(super) fn digest(path: &Path) -> Result<String, NoVerdict> {
    let unreadable =
        |error: std::io::Error| none(Fault::Caller, format!("video: {}: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut chunk).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        hasher.update(chunk.get(..read).unwrap_or_default());
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn none(fault: Fault, message: String) -> NoVerdict {
    NoVerdict::new("input", Reason::Input, fault, message)
}
