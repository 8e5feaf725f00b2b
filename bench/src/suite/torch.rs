//! The PyTorch side of the suite: a Python process that works on the same card.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::parts::Session;
use super::result::{Row, Verdict};
use crate::peer::Peer;

/// Its program; it travels inside the binary so that the two cannot drift apart.
const PROGRAM: &str = include_str!("../../peer/card.py");

/// Starts it; its files go under `work`. An error says why there is no such side.
fn start(python: &Path, work: &Path) -> Result<(Peer, Value)> {
    let mut peer = Peer::start_program(PROGRAM, python, 4, work)?;
    let hello = peer.hello()?;
    Ok((peer, hello))
}

/// Starts it for a part and says what it is; the part's notes get its versions, or a skipped row the reason why there is none.
pub(crate) fn side(session: &mut Session<'_>, work: &Path) -> Result<Option<(Peer, Value)>> {
    match start(&session.args.python, work) {
        Ok((peer, hello)) => {
            session.note("torch", hello["versions"].to_string());
            Ok(Some((peer, hello)))
        }
        Err(error) => {
            session.push(Row::new(
                "PyTorch's side",
                Verdict::Skipped,
                why_not(&error),
            ))?;
            Ok(None)
        }
    }
}

/// Why there is no such side, in one line: the first of the error, and the last, in which Python says what was
/// wrong.
fn why_not(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("no PyTorch: {first} {last}"),
        None => format!("no PyTorch: {first}"),
    }
}
