//! Server-sent events, read from bytes as they arrive (WHATWG HTML, "9.2.6 Interpreting an event stream").

/// Longest event taken; the server's are a few kilobytes.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// `event:`, `message` when the stream names none.
    pub(super) kind: String,
    /// The last `id:` seen so far.
    pub(super) id: Option<String>,
    /// `data:` lines, joined by line feeds.
    pub(super) data: String,
}

/// The event, or the line before it, is longer than [`MAX_EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Cuts a byte stream into events, wherever the network cut it.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    kind: String,
    data: String,
    has_data: bool,
    id: Option<String>,
}

impl Parser {
    /// A parser for a stream that goes on after the event `id`.
    pub(super) fn after(id: Option<String>) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Takes the next bytes and returns the events that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {} // CR LF is one line end
                b'\r' | b'\n' => events.extend(self.end_line()),
                _ if self.line.len() + self.data.len() >= MAX_EVENT_BYTES => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let line = if self.begun {
            &*text
        } else {
            text.strip_prefix('\u{feff}').unwrap_or(&text)
        };
        self.begun = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // A comment has an empty name; it and unknown fields mean nothing.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let kind = std::mem::take(&mut self.kind);
        let data = std::mem::take(&mut self.data);
        let complete = std::mem::take(&mut self.has_data);
        complete.then(|| Event {
            kind: if kind.is_empty() {
                "message".to_owned()
            } else {
                kind
            },
            id: self.id.clone(),
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event(kind: &str, id: Option<&str>, data: &str) -> Event {
        Event {
            kind: kind.into(),
            id: id.map(Into::into),
            data: data.into(),
        }
    }

    const STREAM: &str = "\u{feff}: hello\n\nid: 1\nevent: queued\ndata: {\"position\":2}\n\n\
        :\r\n\r\nid:2\r\nevent: progress\r\ndata:{\r\ndata: \"a\": 1}\r\nretry: 5\r\n\r\n\
        data\r\rid: 3\n\ndata: last, cut off\n";

    fn expected() -> Vec<Event> {
        vec![
            event("queued", Some("1"), "{\"position\":2}"),
            event("progress", Some("2"), "{\n\"a\": 1}"),
            event("message", Some("2"), ""),
        ]
    }

    #[test]
    fn every_line_end_comments_and_joined_data() {
        assert_eq!(
            Parser::default().feed(STREAM.as_bytes()).unwrap(),
            expected()
        );
    }

    #[test]
    fn it_does_not_matter_where_the_network_cuts() {
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let events: Vec<_> = STREAM
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| parser.feed(chunk).unwrap())
                .collect();
            assert_eq!(events, expected(), "pieces of {size}");
        }
    }

    #[test]
    fn an_id_holds_for_the_events_after_it() {
        let mut parser = Parser::after(Some("7".into()));
        assert_eq!(
            parser.feed(b"data: x\n\n").unwrap(),
            [event("message", Some("7"), "x")]
        );
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let piece = vec![b'x'; MAX_EVENT_BYTES];
        let mut parser = Parser::default();
        assert!(parser.feed(&piece).unwrap().is_empty());
        assert_eq!(parser.feed(b"x"), Err(TooLong));
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &piece[..MAX_EVENT_BYTES / 2], b"\n"].concat();
        parser.feed(&line).unwrap();
        assert_eq!(parser.feed(&line), Err(TooLong));
    }
}
