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
    /// The conversation's id.
    pub id: ConversationId,
    /// The conversation's type: ids of groups and of AI conversations do not collide.
    pub kind: ConversationType,
}

/// A message, as one owner has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The message's id, the same in every participant's copy.
    pub msg_id: MsgId,
    /// The conversation that it was sent to.
    pub conversation: ConversationKey,
    /// The sender: a user id in a group, anything in an AI conversation.
    pub from: String,
    /// The time of sending.
    pub timestamp: Micros,
    /// The text; of a large message its first KB.
    pub content: String,
    /// The file that goes with it.
    pub content_ref: Option<String>,
    /// The metadata, JSON text of an object.
    pub metadata: Option<String>,
}

/// A hot message and the commit that last wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotMessage {
    /// The message.
    pub message: Message,
    /// The commit that last wrote it: its version.
    pub version: Seq,
}

/// A deleted message that can be brought back, and lies in RocksDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashedMessage {
    /// The message.
    pub message: Message,
    /// The time of the deletion.
    pub deleted_at: Micros,
    /// The time from which it is gone.
    pub expires_at: Micros,
    /// The commit that last wrote it: its version.
    pub version: Seq,
}

/// The rows of one segment that one commit deleted, and that can be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdTrash {
    /// The commit that deleted them.
    pub deletion: Seq,
    /// The segment; its deletion vector, which holds all of these rows, is left out.
    pub segment: Segment,
    /// The rows' positions in the segment.
    pub positions: roaring::RoaringBitmap,
    /// The time of the deletion.
    pub deleted_at: Micros,
    /// The time from which they are gone.
    pub expires_at: Micros,
}

/// The kinds of changes that an owner sees. New kinds go at the end: their numbers are stored.
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
    /// The commit's number.
    pub seq: Seq,
    /// The change's number within the commit.
    pub n: u32,
    /// The kind of change.
    pub kind: ChangeKind,
    /// The conversation that it concerns.
    pub conversation: ConversationKey,
    /// The message that it concerns, where it is a single one.
    pub msg_id: Option<MsgId>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// The entry's id; rises with time.
    pub audit_id: i64,
    /// The time of the action.
    pub timestamp: Micros,
    /// The actor: a user id, or `system` for what the server did by itself.
    pub actor: String,
    /// The action.
    pub action: AuditAction,
    /// To what, like `messages of ai/c1` or `conversationUsers/g1/bob`.
    pub target: String,
    /// The extent of the action, JSON text of an object: `{"messages":3}`.
    pub details: String,
}

/// The kinds of content files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A large message's text.
    Text,
    /// A file that was uploaded.
    Media,
    /// A small picture of an upload; it lives as long as that does.
    Thumbnail,
}

/// A content file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// The path below the base path, as `contentRef` says it.
    pub path: String,
    /// The conversation that it belongs to.
    pub conversation: ConversationKey,
    /// The user whose message or upload brought it.
    pub owner: UserId,
    /// The kind of content.
    pub kind: FileKind,
    /// The MIME type.
    pub content_type: String,
    /// The size.
    pub bytes: u64,
    /// The time when it was stored.
    pub created: Micros,
    /// The thumbnail that goes with it.
    pub thumbnail: Option<String>,
    /// Messages that refer to it, each participant's copy counted, deleted ones that can come back too.
    pub references: u64,
    /// Whether nothing refers to it any more, so that it is about to be removed.
    pub doomed: bool,
}

/// An upload that was taken in.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// The stored file.
    pub file: StoredFile,
    /// Whether the conversation began with this upload.
    pub conversation_created: bool,
}

/// An upload, complete in a file of the spool.
#[derive(Debug)]
pub struct NewFile {
    /// The user who uploads it.
    pub owner: UserId,
    /// The conversation it is for; created when it is not there.
    pub conversation: ConversationId,
    /// The conversation's type; when absent it is found as a message's.
    pub conversation_type: Option<ConversationType>,
    /// A file in [`crate::Store::spool`]; moved away from there.
    pub source: PathBuf,
    /// The MIME type, told from the first bytes.
    pub content_type: String,
    /// The extension, without the dot: lower-case letters and digits.
    pub extension: String,
    /// A small picture of it.
    pub thumbnail: Option<Thumbnail>,
}

/// A small picture of an upload.
#[derive(Debug)]
pub struct Thumbnail {
    /// The picture's bytes.
    pub bytes: Bytes,
    /// The picture's MIME type.
    pub content_type: String,
    /// The extension, without the dot.
    pub extension: String,
}

/// A conversation, as one owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The conversation's key.
    pub key: ConversationKey,
    /// The owner of an AI conversation; `None` for a group.
    pub user_id: Option<UserId>,
    /// The lowest id among the owner's copies of its messages.
    pub first_msg_id: Option<MsgId>,
    /// The highest id among them, or what an UPDATE set until the next send or deletion.
    pub last_msg_id: Option<MsgId>,
    /// The time when the conversation (for a group: the group) was created.
    pub created: Micros,
    /// The time when the owner's view of it last changed.
    pub updated: Micros,
    /// The folder of its files, relative to the base path.
    pub storage_path: String,
    /// JSON text; for a group the same for all participants.
    pub metadata: Option<String>,
    /// The last message that the owner has read.
    pub last_read_msg_id: Option<MsgId>,
    /// Messages after it that are not from the owner.
    pub unread_count: u64,
    /// Whether the owner takes part: false in a group they left but kept messages of.
    pub joined: bool,
    /// The commit that last wrote this row.
    pub version: Seq,
}

/// A participant of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// The participant's user id.
    pub user: UserId,
    /// The group's id.
    pub group: ConversationId,
    /// The role, by which it is decided what they may do.
    pub role: Role,
    /// The time of joining.
    pub created: Micros,
    /// The time when this row last changed.
    pub updated: Micros,
    /// The metadata, JSON text of an object.
    pub metadata: Option<String>,
    /// The commit that last wrote this row.
    pub version: Seq,
}

/// Counters of one owner's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnerState {
    /// The last commit that changed anything the owner can see: the schema's change number.
    pub change: Seq,
    /// The last commit that changed the owner's segments or deletion vectors.
    pub cold_version: Seq,
    /// Messages in RocksDB.
    pub hot_messages: u64,
    /// The time when the oldest hot message became hot, at the earliest.
    pub hot_since: Option<Micros>,
}

/// A Parquet file of an owner's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The segment's number among the owner's; never reused.
    pub number: u64,
    /// The path below the base path: `ann/batch-20251013-001.parquet`.
    pub path: String,
    /// Rows in the file, deleted ones included.
    pub rows: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// The time when it was written.
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

/// A selection of an owner's hot messages: one bounded range of keys.
#[derive(Debug, Clone, Default)]
pub struct MessageRange {
    /// The conversation; with none, the rows come by conversation, then by id.
    pub conversation: Option<ConversationKey>,
    /// The lowest id, inclusive.
    pub min_msg_id: Option<MsgId>,
    /// The highest id, inclusive.
    pub max_msg_id: Option<MsgId>,
    /// Highest first; only within one conversation.
    pub newest_first: bool,
}
