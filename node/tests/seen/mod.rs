//! Requests as a scripted server reads them.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;

use serde_json::Value;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) head: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The next request; none where the other side has left.
    pub(crate) fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut text = String::new();
        reader.read_line(&mut text).ok()?;
        let line = text.trim_end().strip_suffix(" HTTP/1.1")?.to_owned();
        let mut head = Vec::new();
        loop {
            text.clear();
            reader.read_line(&mut text).ok()?;
            let Some((key, value)) = text.trim_end().split_once(": ") else {
                break;
            };
            head.push((key.to_ascii_lowercase(), value.to_owned()));
        }
        let mut seen = Self {
            line,
            head,
            body: Vec::new(),
        };
        let length = seen.header("content-length").unwrap_or("0").parse().ok()?;
        seen.body.resize(length, 0);
        reader.read_exact(&mut seen.body).ok()?;
        Some(seen)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}
