//! What the clients of this crate say of a connection that failed.

/// The innermost reason: what lies around it repeats the layers of a library and the address, which may be a signed
/// one and a secret.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    if error.is_connect() {
        format!("cannot connect: {reason}")
    } else {
        format!("the connection was lost: {reason}")
    }
}
