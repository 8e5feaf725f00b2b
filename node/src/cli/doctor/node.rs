//! Checks of this program: configuration, encoder, checkpoint.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::layers::nearest;
use super::super::local_model::repository;
use super::super::{definition, layers};
use super::{Finding, Role, Subject, human};
use crate::media::{Fps, video::Mp4Options, video::Mp4Writer};

/// Variables that the program reads and that are no settings.
const OTHER_VARIABLES: [&str; 3] = [
    "LEOMA_NODE_CONFIG",
    "LEOMA_NODE_LOG",
    crate::cuda::LIBRARIES_VARIABLE,
];

pub(super) fn config(subject: &Subject) -> Finding {
    if let Some(problem) = &subject.config_problem {
        return Finding::bad(
            problem,
            "correct it; `leoma-node config show` tells when it is right",
        );
    }
    match &subject.config_file {
        Some(path)
            if subject.config_has_secret && mode(path).is_some_and(|mode| mode & 0o077 != 0) =>
        {
            Finding::poor(
                format!(
                    "{} holds a secret and other users can read it",
                    path.display()
                ),
                format!("chmod 600 {}", path.display()),
            )
        }
        Some(path) => Finding::good(format!("{} is in order", path.display())),
        None => Finding::good("no configuration file; flags, environment and defaults hold"),
    }
}

/// Finds misspelled variables, which nothing else would notice.
pub(super) fn environment(_: &Subject) -> Finding {
    let mut root = definition();
    root.build();
    let mut known: Vec<String> = OTHER_VARIABLES.iter().map(ToString::to_string).collect();
    let mut commands: Vec<&clap::Command> = root.get_subcommands().collect();
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        for arg in layers::settings(command) {
            let Some(name) = arg.get_env() else { continue };
            let name = name.to_string_lossy().into_owned();
            if layers::is_secret(arg) {
                known.push(format!("{name}_FILE"));
            }
            known.push(name);
        }
    }
    let unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("LEOMA_NODE_") && !known.contains(name))
        .collect();
    let Some(first) = unknown.first() else {
        return Finding::good("every LEOMA_NODE_ variable is known");
    };
    let remedy = match nearest(first, known.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}?"),
        None => "unset it; `leoma-node serve --help` lists the variables".into(),
    };
    Finding::poor(
        format!("not read by anything: {}", unknown.join(", ")),
        remedy,
    )
}

pub(super) fn key_file(subject: &Subject) -> Finding {
    let Some(path) = &subject.key_file else {
        return Finding::skip("no --api-key-file");
    };
    let shown = path.display();
    // Never more than the length: the content is the secret.
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            return Finding::bad(
                format!("{shown} cannot be read: {error}"),
                "write the key into it, readable by this user",
            );
        }
    };
    if text.trim().is_empty() {
        return Finding::bad(format!("{shown} is empty"), "write the key into it");
    }
    match mode(path) {
        Some(mode) if mode & 0o077 != 0 => Finding::poor(
            format!("{shown} has mode {mode:03o}: other users can read the key or change it"),
            format!("chmod 600 {shown}"),
        ),
        _ => Finding::good(format!("{shown} is there and private")),
    }
}

fn mode(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

/// Encodes a few small frames, as every clip will be.
pub(super) fn encoder(_: &Subject) -> Finding {
    if !cfg!(feature = "ffmpeg") {
        return Finding::bad(
            "this build has no video encoder",
            "build with the default feature `ffmpeg`",
        );
    }
    let options = Mp4Options {
        width: 64,
        height: 64,
        fps: Fps::from(16),
        crf: 18,
        metadata: Vec::new(),
    };
    let encode = || {
        let mut writer = Mp4Writer::create_in_memory(&std::env::temp_dir(), &options)?;
        for frame in 0..5u8 {
            writer.push(&vec![frame * 40; options.frame_bytes()])?;
        }
        writer.finish_into_bytes()
    };
    match encode() {
        Ok(clip) => Finding::good(format!(
            "libx264 wrote 5 frames, {} bytes{}",
            clip.len(),
            library()
        )),
        Err(error) => Finding::bad(
            format!("no clip could be encoded: {error}"),
            "install the distribution's FFmpeg libraries with libx264 (Debian and Ubuntu: ffmpeg), and see that \
             the temporary folder can be written",
        ),
    }
}

#[cfg(feature = "ffmpeg")]
fn library() -> String {
    let version = ffmpeg_next::codec::version();
    format!(
        ", libavcodec {}.{}.{}",
        version >> 16,
        (version >> 8) & 0xff,
        version & 0xff
    )
}

#[cfg(not(feature = "ffmpeg"))]
fn library() -> String {
    String::new()
}

pub(super) fn model(subject: &Subject) -> Finding {
    let (Some(path), Some(report)) = (&subject.model, &subject.inspection) else {
        let text = "no checkpoint was named";
        return match subject.role {
            Role::Developer => Finding::skip(text),
            _ => Finding::bad(
                text,
                "name one with --model DIR, --model USER/NAME or LEOMA_NODE_MODEL",
            ),
        };
    };
    let shown = path.display();
    if let Some(repo) = repository(path) {
        return Finding::bad(
            format!("{repo} is not downloaded, and there is no folder of this name"),
            format!("`leoma-node models pull {repo}` downloads it"),
        );
    }
    if let Some(first) = report.problems.first() {
        return Finding::bad(
            format!("{} problem(s); first: {first}", report.problems.len()),
            format!("`leoma-node models inspect {shown}` lists all; download the checkpoint again"),
        );
    }
    let kind = report
        .kind
        .map_or_else(|| "unknown".into(), |kind| kind.to_string());
    let bytes = subject.weights().map_or_else(String::new, |bytes| {
        format!(", {} of weights as {}", human(bytes), subject.dtype)
    });
    let found = format!("{shown}: {kind}{bytes}");
    match report.warnings.first() {
        Some(warning) => Finding::poor(format!("{found}; {warning}"), "see that this is meant"),
        None => Finding::good(found),
    }
}
