//! Errors of the store, by what the caller would do about it.
//!
//! Invariant: no message and no log line holds a row's content, a path of the machine or a secret. A mistake of ours
//! is a [`ErrorKind::Fault`], never called a damaged disk; what the system reports is logged where it happened, with
//! what was tried.

use std::{error::Error as StdError, io};

use kalamdb_protocol::{ErrorCode, MsgId};

/// An error of the store.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of error, by which a caller decides what to do.
    pub kind: ErrorKind,
    /// The sentence for a person, who learns from it what to do.
    pub message: String,
}

/// The kinds of errors, by what a caller would do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something the preparation read has changed: prepare again from a new snapshot.
    Changed,
    /// A rule of the data refuses the write; the code goes to the client as it is.
    Refused(ErrorCode),
    /// The disk or the object store failed: try again later.
    Unavailable,
    /// The folder is not one that this program can open: an operator must act.
    Unusable,
    /// The disk, or somebody else, has changed what was written.
    Corrupt,
    /// The program made a mistake: nothing that was stored is suspected.
    Fault,
}

/// A result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of that kind with that sentence.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn changed() -> Self {
        Self::new(ErrorKind::Changed, "The rows were changed by somebody else meanwhile; try again.")
    }

    pub(crate) fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused(code), message)
    }

    /// The refusal of an id that a message of the owner's has.
    #[must_use]
    pub fn id_taken(msg_id: MsgId) -> Self {
        Self::refused(ErrorCode::Conflict, format!("There is a message {msg_id} already; choose another msgId."))
    }

    /// The refusal of an id that a deleted message of the owner's has.
    #[must_use]
    pub fn id_in_trash(msg_id: MsgId) -> Self {
        let message = format!(
            "A deleted message {msg_id} can still be brought back; choose another msgId, or delete it from \
             deletedMessages."
        );
        Self::refused(ErrorCode::Conflict, message)
    }

    /// Something that was stored, like `segment`, is not what was written.
    pub(crate) fn corrupt(what: &str) -> Self {
        Self::new(ErrorKind::Corrupt, format!("A stored {what} cannot be read."))
    }

    /// A mistake of ours: `what` goes to the log, like "a task panicked".
    pub(crate) fn fault(what: &'static str) -> Self {
        tracing::error!(what, "a fault of the server");
        Self::new(ErrorKind::Fault, "The server made a mistake; it has been logged. Try again, or report it.")
    }

    /// The store is closing.
    pub(crate) fn stopped() -> Self {
        Self::new(ErrorKind::Unavailable, "The server is shutting down; try again.")
    }

    /// The system refused `tried`, like "sync a folder".
    pub(crate) fn io(tried: &'static str, error: &io::Error) -> Self {
        tracing::error!(tried, %error, "the disk failed");
        Self::new(ErrorKind::Unavailable, "The database's disk does not answer; try again later.")
    }

    /// The object store refused `tried`. Its own words hold paths, so that only what the system said is logged.
    pub(crate) fn objects(tried: &'static str, error: &object_store::Error) -> Self {
        let cause = io_cause(error).map(ToString::to_string);
        tracing::error!(tried, cause, "the object store failed");
        Self::new(ErrorKind::Unavailable, "The message files cannot be read or written; try again later.")
    }
}

/// The system's own error, beneath the errors that wrap it.
pub(crate) fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref() {
            return Some(cause);
        }
        next = error.source();
    }
    None
}

impl From<rocksdb::Error> for Error {
    fn from(error: rocksdb::Error) -> Self {
        tracing::error!(error = without_paths(error.as_ref()), "RocksDB failed");
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::corrupt("row"),
            _ => Self::new(ErrorKind::Unavailable, "The database's disk does not answer; try again later."),
        }
    }
}

/// A message of RocksDB's without the paths in it: `While appending to file: /data/000012.log: …` names the machine's
/// folders, which are nobody's business who reads a log.
pub(crate) fn without_paths(text: &str) -> String {
    let shown = |word| if str::contains(word, '/') && word != "Input/output" { "…" } else { word };
    let words: Vec<&str> = text.split(' ').map(shown).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_holds_no_path() {
        let said = "IO error: While appending to file: /srv/x y/000012.log: Input/output error";
        assert_eq!(without_paths(said), "IO error: While appending to file: … … Input/output error");
        let inside = io::Error::from(io::ErrorKind::StorageFull);
        let outside = object_store::Error::Generic { store: "local", source: Box::new(inside) };
        assert_eq!(io_cause(&outside).map(io::Error::kind), Some(io::ErrorKind::StorageFull));
    }
}
