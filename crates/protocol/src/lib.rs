//! The words between KalamDB and its clients: identifiers, HTTP bodies, error codes, units of time.
//!
//! Invariant: plain data. Nothing here opens a file, a socket or a clock, and nothing here knows how a message
//! is stored; a client may depend on this crate alone.

mod audit;
mod error;
mod http;
mod ids;
mod live;
mod tables;
mod time;
mod values;

pub use audit::AuditAction;
pub use error::{ErrorBody, ErrorCode};
pub use http::{
    ContentLinkRequest, ContentLinkResponse, Health, MediaMetadata, Params, QueryRequest, QueryResponse,
    SendMessageRequest, SendMessageResponse, SendRequest, SendResponse, SendStatus, UploadResponse, WriteResponse,
};
pub use ids::{ConversationId, ConversationType, IdError, MAX_ID_CHARS, MsgId, RESERVED_USER_IDS, Role, UserId};
pub use live::{Auth, ClientFrame, Lagged, LiveErrorCode, Position, ServerFrame, Subscribe, Unsubscribe};
pub use tables::{Column, ColumnType, OWNER_COLUMN, SYSTEM_SCHEMA, SYSTEM_TABLES, TABLES, Table, TableId};
pub use time::{MAX_MICROS, Micros, to_micros};
pub use values::{MAX_VALUES, bytes_beside_text};
