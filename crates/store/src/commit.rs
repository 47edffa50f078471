//! A write: a [`Proposal`], prepared on a snapshot, and the [`Receipt`] of the commit it became.
//!
//! Invariant: plain serialisable values. Everything that a commit depends on besides the state of the database is
//! in the proposal or assigned by the sequencer, so that the same proposals in the same order build the same
//! database, here or on another machine.

use kalamdb_protocol::{AuditAction, ConversationId, ConversationType, Micros, MsgId, Role, UserId};
use serde::{Deserialize, Serialize};

use crate::model::{ConversationKey, Message, Seq};

/// A write: applied whole, or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The user on whose behalf it is done.
    pub actor: Actor,
    /// Answers a repeated request with the first one's receipt.
    pub idempotency: Option<Idempotency>,
    /// Facts that the preparation read and that the changes do not name themselves.
    pub expect: Vec<Expect>,
    /// The changes, applied in order.
    pub changes: Vec<Change>,
}

/// The user who asks for a write, by whose role it is decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user of the token.
    pub user: UserId,
    /// Whether the token's role is `admin`: an admin writes in any schema and past the rules of roles in groups.
    pub admin: bool,
}

/// A client's name for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The client's key, unique among the actor's for 24 hours.
    pub key: String,
    /// SHA-256 of the request: the same key with another request is a conflict.
    pub request_hash: [u8; 32],
    /// Rows that the answer says were changed, for the repetition, which counts none.
    pub rows_affected: u64,
}

/// Something the preparation read that must still be so; if not, the answer is [`crate::ErrorKind::Changed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The owner's segments and deletion vectors: [`crate::OwnerState::cold_version`].
    Cold {
        /// The owner of the segments.
        owner: UserId,
        /// The version in the snapshot.
        version: Seq,
    },
    /// The group's participants and their roles: [`crate::Snapshot::group_version`].
    Group {
        /// The group's id.
        group: ConversationId,
        /// The version in the snapshot.
        version: Seq,
    },
}

/// The place of one copy of a message, with what shows that the copy is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In RocksDB; the commit that wrote the row last shows that it is unchanged.
    Hot {
        /// [`crate::HotMessage::version`].
        version: Seq,
    },
    /// In a segment, whose rows never change.
    Cold {
        /// [`crate::Segment::number`].
        segment: u64,
        /// The row's position in the file, from 0.
        position: u32,
    },
    /// Deleted, and kept in RocksDB until it expires.
    TrashedHot {
        /// [`crate::TrashedMessage::version`].
        version: Seq,
    },
    /// Deleted, and kept in its segment until it expires.
    TrashedCold {
        /// [`crate::ColdTrash::deletion`].
        deletion: Seq,
        /// [`crate::Segment::number`].
        segment: u64,
        /// The row's position in the file, from 0.
        position: u32,
    },
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewMessage {
    /// The schema it is sent from.
    pub owner: UserId,
    /// The conversation's id.
    pub conversation: ConversationId,
    /// The conversation's type. When absent: the group of that id that the owner is in, else their AI conversation of
    /// that id, else [`crate::Rules::default_type`].
    pub kind: Option<ConversationType>,
    /// The owner when absent.
    pub from: Option<String>,
    /// Generated when absent.
    pub msg_id: Option<MsgId>,
    /// The time of the commit when absent. What a client gives in seconds or milliseconds is microseconds by now: only
    /// whoever reads the request knows that it was given.
    pub timestamp: Option<Micros>,
    /// The text. From [`crate::Rules::large_message_threshold_bytes`] on it goes to a file, and its beginning stays.
    pub content: String,
    /// A file of the conversation that the owner may read.
    pub content_ref: Option<String>,
    /// JSON text of an object.
    pub metadata: Option<String>,
}

/// An owner's messages of one conversation that lie in segments, with the deletions of the same proposal taken
/// out: what the sequencer, which reads RocksDB only, cannot see for itself. Goes with [`Expect::Cold`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdSummary {
    /// The owner of the messages.
    pub owner: UserId,
    /// The conversation's key.
    pub conversation: ConversationKey,
    /// The lowest and highest id left there.
    pub msg_ids: Option<(MsgId, MsgId)>,
}

/// A single change of a proposal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Send a message: to its owner, or to every participant of a group.
    Send(NewMessage),
    /// Give a message new content or metadata, in each of the copies named.
    Edit {
        /// The schema the statement named.
        owner: UserId,
        /// The message as the preparation read it.
        message: Message,
        /// The text from now on; `None` leaves it.
        content: Option<String>,
        /// The metadata from now on; `None` leaves it.
        metadata: Option<Option<String>>,
        /// Every copy that gets it: the owner's, and in a group each current participant's, deleted ones too.
        copies: Vec<(UserId, Place)>,
    },
    /// Remove one owner's copy of a message: into the trash where [`crate::Rules::trash_retention`] says so.
    Delete {
        /// The copy's owner.
        owner: UserId,
        /// The message's id.
        msg_id: MsgId,
        /// The message's conversation.
        conversation: ConversationKey,
        /// The sender, which decides whether it counted as unread.
        from: String,
        /// The copy's place.
        place: Place,
    },
    /// Bring one owner's deleted copy of a message back, and its conversation with it.
    Restore {
        /// The copy's owner.
        owner: UserId,
        /// The message's id.
        msg_id: MsgId,
        /// The message's conversation.
        conversation: ConversationKey,
        /// The sender, which decides whether it counts as unread.
        from: String,
        /// The copy's place in the trash.
        place: Place,
    },
    /// Remove one owner's deleted copy for good.
    Purge {
        /// The copy's owner.
        owner: UserId,
        /// The message's id.
        msg_id: MsgId,
        /// The message's conversation.
        conversation: ConversationKey,
        /// The copy's place in the trash.
        place: Place,
    },
    /// Note what an admin's statement did, or read, in somebody else's schema.
    AdminStatement {
        /// The user whose audit log gets the entry: the schema's owner, or the admin for `*`.
        log: UserId,
        /// The action that the entry names.
        action: AuditAction,
        /// The table named, like `alice.messages`.
        target: String,
    },
    /// Tell what remains in segments after the deletions of this proposal; one for each conversation that has any.
    Cold(ColdSummary),
    /// Create a conversation; for a group its owner becomes the first participant.
    CreateConversation {
        /// The owner of the schema.
        owner: UserId,
        /// The conversation's id.
        id: ConversationId,
        /// The conversation's type; [`crate::Rules::default_type`] when absent.
        kind: Option<ConversationType>,
        /// Now when absent; as [`NewMessage::timestamp`].
        created: Option<Micros>,
        /// JSON text of an object.
        metadata: Option<String>,
    },
    /// Change what may be changed of a conversation; `None` leaves a field as it is.
    SetConversation {
        /// The owner of the schema.
        owner: UserId,
        /// The conversation's key.
        key: ConversationKey,
        /// The row's version in the snapshot.
        version: Seq,
        /// New metadata, for a group by its owner and admins.
        metadata: Option<Option<String>>,
        /// Shown until the next send or deletion.
        last_msg_id: Option<Option<MsgId>>,
        /// The last message that the owner has read, and how many after it, from somebody else, lie in segments.
        last_read: Option<(Option<MsgId>, u64)>,
    },
    /// Remove a conversation with all the owner's messages in it; in a group the owner leaves.
    DeleteConversation {
        /// The owner of the schema.
        owner: UserId,
        /// The conversation's key.
        key: ConversationKey,
        /// The row's version in the snapshot.
        version: Seq,
        /// Ranges `[start, end)` of positions of its messages, by segment number.
        cold: Vec<(u64, Vec<(u32, u32)>)>,
    },
    /// Add a participant.
    AddParticipant {
        /// The schema the statement named: who adds.
        owner: UserId,
        /// The group's id.
        group: ConversationId,
        /// The user who is added.
        user: UserId,
        /// [`Role::Member`] when absent.
        role: Option<Role>,
        /// JSON text of an object.
        metadata: Option<String>,
    },
    /// Change a participant's role or metadata.
    SetParticipant {
        /// The schema the statement named.
        owner: UserId,
        /// The group's id.
        group: ConversationId,
        /// The participant's user id.
        user: UserId,
        /// The row's version in the snapshot.
        version: Seq,
        /// The new role.
        role: Option<Role>,
        /// New metadata; the participant's own row only.
        metadata: Option<Option<String>>,
    },
    /// Remove a participant, or leave; the copies stay.
    RemoveParticipant {
        /// The schema the statement named.
        owner: UserId,
        /// The group's id.
        group: ConversationId,
        /// The participant's user id.
        user: UserId,
        /// The row's version in the snapshot.
        version: Seq,
    },
}

/// Bytes that a change takes besides its texts, about: ids, numbers, its place in a list.
const CHANGE_BYTES: usize = 128;

impl Proposal {
    /// Bytes that it takes in memory, roughly: every text in it, and something for each of its parts.
    pub(crate) fn bytes(&self) -> usize {
        let key = self.idempotency.as_ref().map_or(0, |idempotency| idempotency.key.len());
        let expect = self.expect.len() * CHANGE_BYTES;
        CHANGE_BYTES + key + expect + self.changes.iter().map(Change::bytes).sum::<usize>()
    }
}

impl Change {
    /// Bytes that it takes in memory, roughly.
    fn bytes(&self) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        CHANGE_BYTES
            + match self {
                Self::Send(new) => len(&new.from) + new.content.len() + len(&new.content_ref) + len(&new.metadata),
                Self::Edit { message, content, metadata, copies, .. } => {
                    let Message { from, content: old, content_ref, metadata: old_metadata, .. } = message;
                    let before = from.len() + old.len() + len(content_ref) + len(old_metadata);
                    let after = len(content) + metadata.as_ref().map_or(0, len);
                    before + after + copies.len() * CHANGE_BYTES
                }
                Self::Delete { from, .. } | Self::Restore { from, .. } => from.len(),
                Self::AdminStatement { target, .. } => target.len(),
                Self::CreateConversation { metadata, .. } | Self::AddParticipant { metadata, .. } => len(metadata),
                Self::SetConversation { metadata, .. } | Self::SetParticipant { metadata, .. } => {
                    metadata.as_ref().map_or(0, len)
                }
                Self::DeleteConversation { cold, .. } => {
                    cold.iter().map(|(_, ranges)| size_of::<u64>() * (1 + ranges.len())).sum()
                }
                Self::Purge { .. } | Self::Cold(_) | Self::RemoveParticipant { .. } => 0,
            }
    }

    /// The metadata that it gives a row.
    pub(crate) fn metadata(&self) -> Option<&str> {
        match self {
            Self::Send(NewMessage { metadata, .. })
            | Self::CreateConversation { metadata, .. }
            | Self::AddParticipant { metadata, .. } => metadata.as_deref(),
            Self::Edit { metadata, .. }
            | Self::SetConversation { metadata, .. }
            | Self::SetParticipant { metadata, .. } => metadata.as_ref()?.as_deref(),
            Self::Delete { .. }
            | Self::Restore { .. }
            | Self::Purge { .. }
            | Self::AdminStatement { .. }
            | Self::Cold(_)
            | Self::DeleteConversation { .. }
            | Self::RemoveParticipant { .. } => None,
        }
    }
}

/// The outcome of a proposal, kept so that a repeated request gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The number of its commit.
    pub seq: Seq,
    /// The messages sent, in the order of the proposal.
    pub sent: Vec<Sent>,
    /// [`Idempotency::rows_affected`] of the request that was committed; none of one without a name.
    pub rows_affected: u64,
}

/// A message that a commit has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The message's id.
    pub msg_id: MsgId,
    /// The conversation that it went to.
    pub conversation: ConversationKey,
    /// The message's time.
    pub timestamp: Micros,
    /// Whether the conversation began with this message, as it does when its id is misspelt.
    pub conversation_created: bool,
}
