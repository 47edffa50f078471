//! Errors of the engine, ready for the wire.
//!
//! Invariant: classified by type, never by the text of a message; no path, stack or other user's name in it.

use kalamdb_protocol::ErrorCode;
use serde_json::{Map, Value};

/// An error of the engine: what the client gets to see.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The code, for a program.
    pub code: ErrorCode,
    /// The sentence, from which a person learns what to do.
    pub message: String,
    /// Values for a program, by the code: `{"suggestions":["content"]}`.
    pub details: Map<String, Value>,
}

/// A result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of that code with that sentence.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Map::new() }
    }

    /// A fault of ours: `what` goes to the log, the client learns that it was not theirs.
    pub(crate) fn fault(what: &'static str) -> Self {
        tracing::error!(what, "a fault of the server");
        Self::new(ErrorCode::Internal, "The server made a mistake; it has been logged. Try again, or report it.")
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

impl From<kalamdb_store::Error> for Error {
    fn from(error: kalamdb_store::Error) -> Self {
        use kalamdb_store::ErrorKind;
        let code = match error.kind {
            ErrorKind::Changed => ErrorCode::Conflict,
            ErrorKind::Refused(code) => code,
            ErrorKind::Unavailable => ErrorCode::StorageUnavailable,
            ErrorKind::Unusable | ErrorKind::Corrupt | ErrorKind::Fault => ErrorCode::Internal,
        };
        Self::new(code, error.message)
    }
}
