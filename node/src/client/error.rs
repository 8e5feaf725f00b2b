//! Why a server did not make the clip, and who has to act.

use leoma_models::Fault;
use serde_json::Value;

use crate::media::MediaError;

/// What can go wrong between a request and its downloaded clip.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An address, key or other value of the caller's cannot be used.
    #[error("{field}: {message}")]
    Invalid {
        /// Option as the caller spells it.
        field: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The server cannot be reached, or stopped answering for longer than the client's patience.
    #[error("{host}: {message}")]
    Unreachable {
        /// The server.
        host: String,
        /// What happened, and what to do.
        message: String,
    },
    /// The server answered with an error.
    #[error("the server refused: {message} ({})", details(*status, code, request_id.as_deref()))]
    Refused {
        /// HTTP status.
        status: u16,
        /// The stable word for programs; empty when the answer had none.
        code: String,
        /// The server's sentence.
        message: String,
        /// Finds the request in the server's log.
        request_id: Option<String>,
    },
    /// The server took the job and could not do it.
    #[error("the job failed: {message} ({code}, {id})")]
    Job {
        /// The job.
        id: String,
        /// The stable word for programs.
        code: String,
        /// The server's sentence.
        message: String,
    },
    /// The answer is not one that a leoma-node server gives.
    #[error(
        "{host}: unexpected answer: {message}; is this a leoma-node server, and of this version?"
    )]
    Protocol {
        /// The server.
        host: String,
        /// What was expected and what came.
        message: String,
    },
    /// The clip arrived, but not as the server has it.
    #[error("the clip was damaged on the way: {message}; try again")]
    Damaged {
        /// What was expected and what came.
        message: String,
    },
    /// The clip cannot be written.
    #[error(transparent)]
    File(#[from] MediaError),
    /// The user stopped it.
    #[error("cancelled")]
    Interrupted,
}

fn details(status: u16, code: &str, request_id: Option<&str>) -> String {
    let mut text = format!("HTTP {status}");
    for part in [Some(code), request_id].into_iter().flatten() {
        if !part.is_empty() {
            text.push_str(", ");
            text.push_str(part);
        }
    }
    text
}

impl ClientError {
    /// Reads an answer with an error status, in either of the two forms that the server has.
    pub(super) fn refused(status: u16, body: &[u8], request_id: Option<String>) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let error = &body["error"];
        let message = text(&error["message"])
            .or_else(|| text(&body["message"]))
            .or_else(|| text(&body["detail"]));
        Self::Refused {
            status,
            code: text(&error["code"])
                .or_else(|| text(&body["code"]))
                .unwrap_or_default(),
            message: message.unwrap_or_else(|| "no reason given".to_owned()),
            request_id: request_id.or_else(|| text(&error["request_id"])),
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Invalid { .. } | Self::Interrupted => Fault::Caller,
            Self::Unreachable { .. } | Self::Damaged { .. } => Fault::Transient,
            Self::Refused { status, code, .. } => match *status {
                408 | 425 | 429 | 502..=504 | 507 => Fault::Transient,
                400..=499 => Fault::Caller,
                _ => fault_of_code(code),
            },
            Self::Job { code, .. } => fault_of_code(code),
            Self::Protocol { .. } => Fault::Local,
            Self::File(error) => error.fault(),
        }
    }

    /// Whether the user stopped it.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    /// Whether the same request may succeed a moment later: the connection or the server went away.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 502..=504),
            _ => false,
        }
    }
}

/// The server's words for what went wrong, by who has to act.
fn fault_of_code(code: &str) -> Fault {
    match code {
        "invalid_request" | "too_large" | "too_large_for_device" | "too_slow" => Fault::Caller,
        "artifact" | "bad_output" => Fault::Artifact,
        // `cancelled`: by somebody else, who can be asked.
        "busy" | "deadline" | "shutting_down" | "not_ready" | "disk_full" | "device_lost"
        | "out_of_memory" | "cancelled" => Fault::Transient,
        _ => Fault::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_errors_are_read() {
        let body = br#"{"error":{"code":"busy","message":"try later","request_id":"r1"}}"#;
        let error = ClientError::refused(429, body, None);
        assert_eq!(
            error.to_string(),
            "the server refused: try later (HTTP 429, busy, r1)"
        );
        let body = br#"{"detail":"image: too large","code":"too_large"}"#;
        let error = ClientError::refused(413, body, Some("r2".into()));
        assert_eq!(
            error.to_string(),
            "the server refused: image: too large (HTTP 413, too_large, r2)"
        );
        let error = ClientError::refused(502, b"<html>bad gateway", None);
        assert_eq!(
            error.to_string(),
            "the server refused: no reason given (HTTP 502)"
        );
    }

    #[test]
    fn who_has_to_act() {
        let refused = |status, code: &str| {
            let body = serde_json::json!({"error": {"code": code, "message": "m"}});
            ClientError::refused(status, body.to_string().as_bytes(), None).fault()
        };
        for status in [400, 401, 403, 404, 409, 413, 415] {
            assert_eq!(refused(status, "x"), Fault::Caller, "{status}");
        }
        for status in [408, 429, 502, 503, 504, 507] {
            assert_eq!(refused(status, "x"), Fault::Transient, "{status}");
        }
        assert_eq!(refused(500, "artifact"), Fault::Artifact);
        assert_eq!(refused(500, "internal"), Fault::Local);
        assert_eq!(refused(301, ""), Fault::Local);
    }
}
