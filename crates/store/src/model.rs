//! The rows that KalamDB keeps, as the rest of the program sees them.
//!
//! Invariant: plain values, with no database handle and no rule in them.

use kalamdb_protocol::{ConversationId, ConversationType, Micros, MsgId, Role, UserId};
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
pub struct Member {
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
    /// Its number among the owner's batch files; never reused.
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
