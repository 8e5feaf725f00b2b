//! Pairs of verdicts from JSON lines.
//!
//! A log grows for months and is written by a program that may be killed: a line that cannot be used is counted and
//! named, and the others still are.

use std::io::{self, BufRead, Read};

use super::pairs::Pair;

/// Longest line, in bytes: a record with frames is far smaller.
const MOST_LINE: u64 = 16 << 20;
/// Problems that are kept with their lines; more are only counted.
const MOST_PROBLEMS: usize = 10;

/// What a log holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    /// Usable pairs, in their order.
    pub pairs: Vec<Pair>,
    /// Lines that are not empty.
    pub lines: usize,
    /// Lines in order that hold no pair of verdicts.
    pub without_verdicts: usize,
    /// Lines that cannot be used.
    pub unusable: usize,
    /// The first of them: number and reason.
    pub problems: Vec<(usize, String)>,
}

impl Pair {
    /// A pair from a line of JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_line(line: &str) -> Result<Option<Self>, String> {
        serde_json::from_str(line)
            .map(Some)
            .map_err(|error| error.to_string())
    }
}

impl Log {
    /// Reads all lines. `pair` makes a pair of a line, or finds that it holds none.
    ///
    /// # Errors
    /// When reading fails; a bad line is no error.
    pub fn read(
        mut reader: impl BufRead,
        pair: impl Fn(&str) -> Result<Option<Pair>, String>,
    ) -> io::Result<Self> {
        let mut log = Self::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader
                .by_ref()
                .take(MOST_LINE + 1)
                .read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            if line.len() as u64 > MOST_LINE {
                skip_line(&mut reader, &line)?;
                log.lines += 1;
                log.problem(number, format!("longer than {MOST_LINE} bytes"));
                continue;
            }
            let text = match std::str::from_utf8(&line) {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => text,
                Err(_) => {
                    log.lines += 1;
                    log.problem(number, "not UTF-8".into());
                    continue;
                }
            };
            log.lines += 1;
            match pair(text) {
                Ok(None) => log.without_verdicts += 1,
                Ok(Some(pair)) => match pair.check() {
                    Ok(()) => log.pairs.push(pair),
                    Err(reason) => log.problem(number, reason),
                },
                Err(reason) => log.problem(number, reason),
            }
        }
        Ok(log)
    }

    fn problem(&mut self, number: usize, reason: String) {
        self.unusable += 1;
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push((number, reason));
        }
    }
}

/// Passes over what is left of a line that is too long.
fn skip_line(reader: &mut impl BufRead, read: &[u8]) -> io::Result<()> {
    if read.ends_with(b"\n") {
        return Ok(());
    }
    loop {
        let (used, is_end) = {
            let buffer = reader.fill_buf()?;
            match buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            }
        };
        reader.consume(used);
        if is_end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = r#"{"id":"a","task_id":"1","video":"v","time":1,"local_judge":{"local_id":"l",
        "prompt_sha256":"p","sampling":"s"},"remote_judge":{"remote_model":"m"},"local":[1,2,null,4,5,6],
        "local_overall":50,"local_pass":false,"remote":[1,2,3,4,5,6],"remote_overall":75,"remote_pass":true}"#;

    fn good() -> String {
        GOOD.replace('\n', " ")
    }

    #[test]
    fn bad_lines_are_counted_and_the_others_used() {
        let wrong_score = good().replace("\"remote_overall\":75", "\"remote_overall\":101");
        let infinite = good().replace("\"time\":1", "\"time\":1e999");
        let mut text = format!(
            "{}\n\n  \nnot json\n{wrong_score}\n{infinite}\n[]\nnull\n{}",
            good(),
            good().replace("\"id\":\"a\"", "\"id\":\"b\"")
        )
        .into_bytes();
        text.extend(b"\n\xff\xfe\n{\"id\":");
        let log = Log::read(&*text, Pair::from_line).unwrap();
        let ids: Vec<_> = log.pairs.iter().map(|pair| &*pair.id).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!((log.lines, log.unusable), (9, 7));
        let numbers: Vec<_> = log.problems.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [4, 5, 6, 7, 8, 10, 11]);
        assert!(log.problems[1].1.contains("101"), "{:?}", log.problems);
        assert_eq!(log.pairs[0].local[2], None);
    }

    #[test]
    fn lines_without_verdicts_are_no_problems() {
        let log = Log::read(&b"x\ny\n"[..], |_| Ok(None)).unwrap();
        assert_eq!((log.lines, log.without_verdicts, log.unusable), (2, 2, 0));
        assert_eq!(Log::read(&b""[..], |_| Ok(None)).unwrap(), Log::default());
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let mut text = vec![b'x'; MOST_LINE as usize + 5];
        text.extend(format!("\n{}\n", good()).bytes());
        let log = Log::read(&*text, Pair::from_line).unwrap();
        assert_eq!((log.pairs.len(), log.lines, log.unusable), (1, 2, 1));
    }
}
