//! `generate --host`: against a server whose every answer is written down, and against a real one.
#![allow(clippy::unwrap_used, missing_docs)]

mod real;
mod scripted;
#[path = "../seen/mod.rs"]
mod seen;

use std::path::Path;
use std::process::{Command, Stdio};

/// The command with an environment that says nothing.
fn generate(folder: &Path, host: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    command
        .args(["generate", "--prompt", "a boat", "--host", host])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    without_settings(&mut command);
    command
}

/// Takes away what the machine's own environment and configuration file say.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LEOMA_NODE_") {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent");
}

/// Names in the folder.
fn files(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}
