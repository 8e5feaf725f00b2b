//! Errors that decide the exit code.

use std::fmt;

/// An error with its exit code: 2 bad input, 69 this build or machine cannot do it.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The caller gave something that cannot be used.
pub(crate) fn bad_input(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure {
        code: 2,
        message: message.into(),
    })
}

/// This build or machine cannot do what was asked.
pub(crate) fn unavailable(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure {
        code: 69,
        message: message.into(),
    })
}

/// Exit code of an error: by whose fault it is, else 1.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    use leoma_models::Fault;
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if let Some(model) = cause.downcast_ref::<leoma_models::Error>() {
            return match model.fault() {
                Fault::Caller | Fault::Artifact => 2,
                Fault::Local => 69,
                Fault::Transient => 1,
            };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_fault() {
        assert_eq!(code(&bad_input("x").context("in a file")), 2);
        assert_eq!(code(&unavailable("x")), 69);
        assert_eq!(code(&anyhow::anyhow!("x")), 1);
        let model = leoma_models::Error::caller("frames", "x");
        assert_eq!(code(&anyhow::Error::new(model)), 2);
    }
}
