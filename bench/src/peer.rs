//! The PyTorch side: a Python process that answers one JSON object per line.
//!
//! The peer does nothing until asked and measures itself, so neither pipes nor the interpreter's
//! start are in its times. Its standard error goes to a file that error messages quote.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::measure::Sample;

/// The peer's program; it travels inside the binary so that the two cannot drift apart.
const PROGRAM: &str = include_str!("../peer/peer.py");

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A running peer.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    log: PathBuf,
}

/// Resident memory of one run in a fresh process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct MemoryProbe {
    /// Held before the run, weights loaded.
    pub(crate) before_bytes: u64,
    /// Most held during the run.
    pub(crate) peak_bytes: u64,
    /// Whether the system let the peak be reset before the run; if not, it includes loading.
    pub(crate) peak_was_reset: bool,
}

impl MemoryProbe {
    /// Memory that the run added to what was loaded.
    pub(crate) fn above_loaded_bytes(&self) -> u64 {
        self.peak_bytes.saturating_sub(self.before_bytes)
    }
}

impl Peer {
    /// Starts the peer with `threads` threads; its files go under `work`.
    pub(crate) fn start(python: &Path, threads: usize, work: &Path) -> Result<Self> {
        Self::start_program(PROGRAM, python, threads, work)
    }

    /// As [`Peer::start`], with another program that speaks the same language.
    pub(crate) fn start_program(
        text: &str,
        python: &Path,
        threads: usize,
        work: &Path,
    ) -> Result<Self> {
        let program = work.join("peer.py");
        std::fs::write(&program, text)
            .with_context(|| format!("cannot write {}", program.display()))?;
        let log = work.join("peer.log");
        let mut child = Command::new(python)
            .arg(&program)
            .arg(threads.to_string())
            .env("OMP_NUM_THREADS", threads.to_string())
            .env("MKL_NUM_THREADS", threads.to_string())
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start the Python with PyTorch and diffusers, {}: \
                     run scripts/golden's set-up or name one with --python",
                    python.display()
                )
            })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            bail!("the peer has no pipes");
        };
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            answers,
            log,
        })
    }

    /// Versions of Python and its packages, and the peer's thread count.
    pub(crate) fn hello(&mut self) -> Result<Value> {
        self.ask(&json!({"op": "hello"}))
    }

    /// Loads a case. What `setup` holds is the business of the case and of its half in the peer.
    pub(crate) fn setup(&mut self, case: &str, setup: &Value) -> Result<()> {
        self.ask(&json!({"op": "setup", "case": case, "setup": setup}))
            .map(drop)
    }

    /// One iteration, timed by the peer.
    pub(crate) fn run(&mut self) -> Result<Sample> {
        Ok(serde_json::from_value(self.ask(&json!({"op": "run"}))?)?)
    }

    /// Writes the last iteration's result as tensor `output` of a safetensors file.
    pub(crate) fn write_output(&mut self, path: &Path) -> Result<()> {
        self.ask(&json!({"op": "output", "path": path})).map(drop)
    }

    /// One iteration with its peak memory.
    pub(crate) fn memory(&mut self) -> Result<MemoryProbe> {
        Ok(serde_json::from_value(self.ask(&json!({"op": "memory"}))?)?)
    }

    /// CPU time that the peer has used since it started, in seconds.
    pub(crate) fn cpu_seconds(&mut self) -> Result<f64> {
        let answer = self.ask(&json!({"op": "usage"}))?;
        answer["cpu_s"]
            .as_f64()
            .ok_or_else(|| anyhow!("the peer reported no CPU time"))
    }

    /// One request and its answer.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Value> {
        let op = request["op"].as_str().unwrap_or_default();
        let sent = writeln!(self.stdin, "{request}").and_then(|()| self.stdin.flush());
        if sent.is_err() {
            bail!("the Python peer ended before \"{op}\"{}", self.log_tail());
        }
        let line = match self.answers.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "the Python peer did not answer \"{op}\" in {} s",
                    PATIENCE.as_secs()
                )
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the Python peer ended during \"{op}\"{}", self.log_tail())
            }
        };
        parse_answer(op, &line).map_err(|error| anyhow!("{error}{}", self.log_tail()))
    }

    /// The end of what the peer wrote to standard error, for messages.
    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        if lines.is_empty() {
            return String::new();
        }
        let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        format!("; its last words:\n  {tail}")
    }
}

/// Reads an answer: `{"ok": true, …}` or `{"ok": false, "error": "…"}`.
fn parse_answer(op: &str, line: &str) -> Result<Value> {
    let answer: Value = serde_json::from_str(line)
        .with_context(|| format!("the Python peer answered \"{op}\" with no JSON: {line}"))?;
    if answer["ok"] != Value::Bool(true) {
        let reason = answer["error"].as_str().unwrap_or("no reason given");
        bail!("the Python peer failed at \"{op}\": {reason}");
    }
    Ok(answer)
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Closing standard input is the polite end; killing covers a peer that is stuck.
        let _ = writeln!(self.stdin, "{}", json!({"op": "quit"}));
        let _ = self.stdin.flush();
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_are_checked() {
        assert_eq!(parse_answer("run", r#"{"ok":true,"x":1}"#).unwrap()["x"], 1);
        let failed = parse_answer("run", r#"{"ok":false,"error":"no torch"}"#).unwrap_err();
        assert!(failed.to_string().contains("no torch"));
        assert!(
            parse_answer("run", "Loading...")
                .unwrap_err()
                .to_string()
                .contains("no JSON")
        );
        assert!(parse_answer("run", r#"{"wall_s":1}"#).is_err());
    }

    #[test]
    fn memory_is_counted_above_what_was_loaded() {
        let probe = MemoryProbe {
            before_bytes: 100,
            peak_bytes: 130,
            peak_was_reset: true,
        };
        assert_eq!(probe.above_loaded_bytes(), 30);
        let odd = MemoryProbe {
            before_bytes: 100,
            peak_bytes: 90,
            peak_was_reset: true,
        };
        assert_eq!(odd.above_loaded_bytes(), 0);
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let work = tempfile::tempdir().unwrap();
        let error = Peer::start(Path::new("no-such-python"), 1, work.path()).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("no-such-python") && text.contains("--python"),
            "{text}"
        );
    }

    /// Any program that reads a line and answers stands in for Python here.
    #[test]
    fn a_peer_that_dies_is_an_error_with_its_last_words() {
        use std::os::unix::fs::PermissionsExt;
        let work = tempfile::tempdir().unwrap();
        let fake = work.path().join("fake");
        let script = "#!/bin/sh\nread line\necho '{\"ok\":true,\"threads\":1}'\nread line\necho 'out of memory' >&2\n";
        std::fs::write(&fake, script).unwrap();
        std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut peer = Peer::start(&fake, 1, work.path()).unwrap();
        assert_eq!(peer.hello().unwrap()["threads"], 1);
        let error = peer.run().unwrap_err().to_string();
        assert!(error.contains("ended during \"run\""), "{error}");
        assert!(error.contains("out of memory"), "{error}");
    }
}
