//! The rows that KalamDB keeps, as the rest of the program sees them.
//!
//! Invariant: plain values, with no database handle and no rule in them.

use std::path::PathBuf;

use bytes::Bytes;
use kalamdb_protocol::{AuditAction, ConversationId, ConversationType, Micros, MsgId, Role, UserId};
use serde::{Deserialize, Serialize};

/// The number of a commit; rises by one with each, never repeats within an epoch.
pub type Seq = u64;

/// A conversation's key within its owner's conversations. Sorts as segments do: by id, then by type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConversationKey {
    /// Its id.
    pub id: ConversationId,
    /// Its type.
    pub kind: ConversationType,
}

/// One owner's copy of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, the same in every participant's copy.
    pub msg_id: MsgId,
    /// Where it was sent.
    pub conversation: ConversationKey,
    /// Who wrote it: a user id in a group, anything in an AI conversation.
    pub from: String,
    /// When it was sent.
    pub timestamp: Micros,
    /// Its text.
    pub content: String,
    /// The file that goes with it.
    pub content_ref: Option<String>,
    /// JSON text.
    pub metadata: Option<String>,
}

/// A hot message and the commit that last wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotMessage {
    /// The row.
    pub message: Message,
    /// The commit that last wrote it: its version.
    pub version: Seq,
}

/// A deleted message that can be brought back, and lies in RocksDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashedMessage {
    /// The row.
    pub message: Message,
    /// When it was deleted.
    pub deleted_at: Micros,
    /// From when on it is gone.
    pub expires_at: Micros,
    /// The commit that last wrote it: its version.
    pub version: Seq,
}

/// The rows of one segment that one commit deleted, and that can be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdTrash {
    /// The commit that deleted them.
    pub deletion: Seq,
    /// Where they lie; its deletion vector, which holds all of them, is left out.
    pub segment: Segment,
    /// Their positions in it.
    pub positions: roaring::RoaringBitmap,
    /// When they were deleted.
    pub deleted_at: Micros,
    /// From when on they are gone.
    pub expires_at: Micros,
}

/// What a commit did to something that an owner sees. New kinds go at the end: their numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// A message came.
    MessageSent,
    /// A message has other content or metadata.
    MessageEdited,
    /// A message went.
    MessageDeleted,
    /// A conversation was created, or has other metadata.
    ConversationChanged,
    /// A conversation went, with its messages.
    ConversationDeleted,
    /// A group has another participant, or one has another role.
    ParticipantChanged,
    /// A group has one participant less.
    ParticipantRemoved,
    /// A deleted message came back.
    MessageRestored,
}

/// An entry of the change log: something that an owner sees differently since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedChange {
    /// The commit.
    pub seq: Seq,
    /// Its number within the commit.
    pub n: u32,
    /// What.
    pub kind: ChangeKind,
    /// Of which conversation.
    pub conversation: ConversationKey,
    /// Of which message, where it is about one.
    pub msg_id: Option<MsgId>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its id; rises with time.
    pub audit_id: i64,
    /// When.
    pub timestamp: Micros,
    /// Who: a user id, or `system` for what happened by itself.
    pub actor: String,
    /// What.
    pub action: AuditAction,
    /// To what, like `messages of ai/c1` or `conversationUsers/g1/bob`.
    pub target: String,
    /// How much of it: JSON text of an object.
    pub details: String,
}

/// What a content file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A large message's text.
    Text,
    /// An upload.
    Media,
    /// A small picture of an upload; it lives as long as that does.
    Thumbnail,
}

/// A content file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its path below the base path: what `contentRef` says.
    pub path: String,
    /// The conversation that it belongs to.
    pub conversation: ConversationKey,
    /// Whose message or upload brought it.
    pub owner: UserId,
    /// What it holds.
    pub kind: FileKind,
    /// Its MIME type.
    pub content_type: String,
    /// Its size.
    pub bytes: u64,
    /// When it was stored.
    pub created: Micros,
    /// The thumbnail that goes with it.
    pub thumbnail: Option<String>,
    /// Messages that refer to it, each participant's copy counted, deleted ones that can come back too.
    pub references: u64,
    /// Whether it is about to be removed.
    pub doomed: bool,
}

/// An upload that was taken in.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// Its file.
    pub file: StoredFile,
    /// Whether its conversation began with it.
    pub conversation_created: bool,
}

/// An upload, complete in a file of the spool.
#[derive(Debug)]
pub struct NewFile {
    /// Whose schema it is uploaded in.
    pub owner: UserId,
    /// The conversation it is for; created when it is not there.
    pub conversation: ConversationId,
    /// When absent, found as a message's.
    pub conversation_type: Option<ConversationType>,
    /// A file in [`crate::Store::spool`]; moved away from there.
    pub source: PathBuf,
    /// Its MIME type, by its bytes.
    pub content_type: String,
    /// What its name ends in, without the dot: lower-case letters and digits.
    pub extension: String,
    /// A small picture of it.
    pub thumbnail: Option<Thumbnail>,
}

/// A small picture of an upload.
#[derive(Debug)]
pub struct Thumbnail {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its MIME type.
    pub content_type: String,
    /// What its name ends in, without the dot.
    pub extension: String,
}

/// One owner's view of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its key.
    pub key: ConversationKey,
    /// Its owner; `None` for a group.
    pub user_id: Option<UserId>,
    /// The lowest id among the owner's copies of its messages.
    pub first_msg_id: Option<MsgId>,
    /// The highest id among them, or what an UPDATE set until the next send or deletion.
    pub last_msg_id: Option<MsgId>,
    /// When the conversation (for a group: the group) was created.
    pub created: Micros,
    /// When the owner's view of it last changed.
    pub updated: Micros,
    /// Where its files lie, relative to the base path.
    pub storage_path: String,
    /// JSON text; for a group the same for all participants.
    pub metadata: Option<String>,
    /// How far the owner has read.
    pub last_read_msg_id: Option<MsgId>,
    /// Messages after that, from somebody else.
    pub unread_count: u64,
    /// Whether the owner takes part: false in a group they left but kept messages of.
    pub joined: bool,
    /// The commit that last wrote this row.
    pub version: Seq,
}

/// A participant of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// Who.
    pub user: UserId,
    /// Of which group.
    pub group: ConversationId,
    /// What they may do.
    pub role: Role,
    /// When they joined.
    pub created: Micros,
    /// When this row last changed.
    pub updated: Micros,
    /// JSON text.
    pub metadata: Option<String>,
    /// The commit that last wrote this row.
    pub version: Seq,
}

/// What an owner's schema holds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnerState {
    /// The last commit that changed anything the owner can see: the schema's change number.
    pub change: Seq,
    /// The last commit that changed the owner's segments or deletion vectors.
    pub cold_version: Seq,
    /// Messages in RocksDB.
    pub hot_messages: u64,
    /// When the oldest of them became hot, at the earliest.
    pub hot_since: Option<Micros>,
}

/// One Parquet file of an owner's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its number among the owner's segments; never reused.
    pub number: u64,
    /// Its path below the base path.
    pub path: String,
    /// Rows in the file, deleted ones included.
    pub rows: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// When it was written.
    pub created: Micros,
    /// The smallest and largest message id in it.
    pub msg_ids: (MsgId, MsgId),
    /// The smallest and largest timestamp in it.
    pub timestamps: (Micros, Micros),
    /// The first and last conversation in it, in key order.
    pub conversations: (ConversationKey, ConversationKey),
    /// Positions of rows that are deleted, or written again elsewhere since.
    pub deleted: roaring::RoaringBitmap,
}

/// Which hot messages of an owner to read: one bounded range of keys.
#[derive(Debug, Clone, Default)]
pub struct MessageRange {
    /// One conversation only; with none, the rows come by conversation, then by id.
    pub conversation: Option<ConversationKey>,
    /// The lowest id, inclusive.
    pub min_msg_id: Option<MsgId>,
    /// The highest id, inclusive.
    pub max_msg_id: Option<MsgId>,
    /// Highest first; only within one conversation.
    pub newest_first: bool,
}
