//! What can go wrong in the store, by what the caller would do about it.
//!
//! Invariant: no message holds a row's content, a path of the machine or a secret.

use kalamdb_protocol::ErrorCode;

/// An error of the store.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do about it.
    pub kind: ErrorKind,
    /// One sentence for a person.
    pub message: String,
}

/// What the caller can do about an error.
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
    /// What was read is not what was written: a fault.
    Corrupt,
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

    pub(crate) fn corrupt(what: &str) -> Self {
        Self::new(ErrorKind::Corrupt, format!("A stored {what} cannot be read."))
    }
}

impl From<rocksdb::Error> for Error {
    fn from(error: rocksdb::Error) -> Self {
        tracing::error!(kind = ?error.kind(), %error, "RocksDB failed");
        Self::new(ErrorKind::Unavailable, "The database's disk does not answer; try again later.")
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        tracing::error!(%error, "the object store failed");
        Self::new(ErrorKind::Unavailable, "The message files cannot be read or written; try again later.")
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        tracing::error!(%error, "the disk failed");
        Self::new(ErrorKind::Unavailable, "The database's disk does not answer; try again later.")
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Self {
        tracing::error!(%error, "a segment could not be written");
        Self::new(ErrorKind::Unavailable, "The message files cannot be read or written; try again later.")
    }
}
