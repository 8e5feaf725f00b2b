//! A model server on loopback whose answers are a script.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::seen::Seen;

/// What one request for a completion gets.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status, headers and a body.
    Full(u16, Vec<(&'static str, String)>, String),
    /// These bytes, and then the end.
    Cut(Vec<u8>),
    /// Nothing for as long as the client stays.
    Silence,
}

pub(crate) struct Mock {
    pub(crate) base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Mock {
    /// Gives one answer after the other to requests for completions, 500 when there are more of them than answers.
    /// A server that knows no route for models, as local ones do not.
    pub(crate) fn start(answers: Vec<Answer>) -> Self {
        Self::with_model(None, answers)
    }

    /// The same, with a description of every model.
    pub(crate) fn with_model(model: Option<Value>, answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let mut answers = VecDeque::from(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = Seen::read(&stream) else {
                    continue;
                };
                let answer = if request.line.starts_with("GET /v1/models/") {
                    match &model {
                        Some(model) => Answer::Full(200, Vec::new(), model.to_string()),
                        None => error(404, "", "no such route"),
                    }
                } else {
                    answers
                        .pop_front()
                        .unwrap_or_else(|| error(500, "", "the script is over"))
                };
                log.lock().unwrap().push(request);
                match answer {
                    Answer::Full(status, head, body) => {
                        // The client may be gone.
                        let _ = (&stream).write_all(&full(status, &head, &body));
                    }
                    Answer::Cut(bytes) => drop((&stream).write_all(&bytes)),
                    Answer::Silence => {
                        std::thread::spawn(move || (&stream).read(&mut [0]));
                    }
                }
            }
        });
        Self { base, seen }
    }

    /// Requests for completions.
    pub(crate) fn asked(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        let asked = seen
            .iter()
            .filter(|seen| seen.line == "POST /v1/chat/completions");
        asked.cloned().collect()
    }
}

fn full(status: u16, head: &[(&'static str, String)], body: &str) -> Vec<u8> {
    let mut text = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in head {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    [text.as_bytes(), b"\r\n", body.as_bytes()].concat()
}

/// A model's message, as the API wraps it.
pub(crate) fn message(message: Value, finish_reason: &str) -> Answer {
    let body = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "m-2026", "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 6000, "completion_tokens": 150, "total_tokens": 6150},
    });
    Answer::Full(
        200,
        vec![("x-request-id", "req-7".into())],
        body.to_string(),
    )
}

/// A model's words.
pub(crate) fn says(content: &str) -> Answer {
    message(
        json!({"role": "assistant", "content": content, "refusal": null}),
        "stop",
    )
}

/// An error of the API.
pub(crate) fn error(status: u16, code: &str, text: &str) -> Answer {
    error_with(status, code, text, Vec::new())
}

/// An error of the API with headers.
pub(crate) fn error_with(
    status: u16,
    code: &str,
    text: &str,
    head: Vec<(&'static str, String)>,
) -> Answer {
    let body = json!({"error": {"message": text, "code": code, "param": null}});
    Answer::Full(status, head, body.to_string())
}
