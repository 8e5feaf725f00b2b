//! Decoding in a child process.
//!
//! `leoma-node` starts itself with the hidden subcommand [`SUBCOMMAND`], the video as standard input and a pipe
//! as standard output. The child limits its own address space, processor time, open files and file size
//! *before* it touches the video, so a video that breaks the decoder breaks a process that can do little; the
//! parent believes nothing it is sent ([`wire`]) and ends the child when its time is up.
//!
//! The child never sees a file name and never opens a file: the parent passes an open file, the library reads it
//! through callbacks, and playlists, external references and network protocols are switched off.

mod child;
#[cfg(feature = "ffmpeg")]
mod colour;
pub(super) mod parent;
#[cfg(feature = "ffmpeg")]
mod source;
mod timing;
#[cfg(feature = "ffmpeg")]
mod turn;
mod wire;

use std::process::ExitCode;

/// The subcommand under which the child runs. Not for people, so it is not in the help.
const SUBCOMMAND: &str = "__decode-clip";

/// Becomes the decoding child when the command line says so; otherwise does nothing.
///
/// Called first of all in `main`: the child needs none of the settings, and none of the threads.
pub(crate) fn child_of_command_line() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == SUBCOMMAND).then(|| child::main(arguments))
}
