//! The values that RocksDB holds, and their encoding.
//!
//! Invariant: every value starts with the version of its record's encoding, and this program reads every version that
//! was ever released: `tests/formats.rs` keeps bytes of each. A hot message has its commit number next, in eight fixed bytes, so that a consolidation can check
//! ten thousand of them without decoding one.

use kalamdb_protocol::{AuditAction, ConversationId, ConversationType, Micros, MsgId, Role, UserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    commit::{Receipt, Sent},
    error::{Error, Result},
    model::{ChangeKind, ConversationKey, FileKind, Seq},
};

/// A value of a family: the version of its encoding in one byte, then the fields in postcard, in the order in which
/// they stand here. A group of two since commit 7, without metadata, is `01 07 808092addebfa006 00 02`.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// The record's name in the sentence that says it cannot be read.
    const NAME: &'static str;

    /// The version of the encoding that this program writes. Fields that are added, changed or moved make a new one;
    /// then the old fields stay as a type of their own, for [`Record::decode_older`].
    const VERSION: u8;

    /// The record's bytes.
    fn encode(&self) -> Result<Vec<u8>> {
        // Most records are shorter than this, and a buffer that grows from nothing is copied four times until then.
        let mut bytes = Vec::with_capacity(64);
        bytes.push(Self::VERSION);
        postcard::to_extend(self, bytes).map_err(|_| Error::corrupt(Self::NAME))
    }

    /// Reads what [`Record::encode`] wrote, now or in an older program.
    fn decode(bytes: &[u8]) -> Result<Self> {
        let record = match bytes.split_first() {
            Some((version, rest)) if *version == Self::VERSION => postcard::from_bytes(rest).ok(),
            Some((version, rest)) => Self::decode_older(*version, rest),
            None => None,
        };
        record.ok_or_else(|| Error::corrupt(Self::NAME))
    }

    /// Reads the fields as an older version wrote them; `None` when there was no such version.
    fn decode_older(_version: u8, _fields: &[u8]) -> Option<Self> {
        None
    }
}

/// A hot message, without what its key says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MessageRecord {
    pub(crate) from: String,
    pub(crate) timestamp: Micros,
    pub(crate) content: String,
    pub(crate) content_ref: Option<String>,
    pub(crate) metadata: Option<String>,
}

impl MessageRecord {
    /// The version of the encoding that this program writes.
    pub(crate) const VERSION: u8 = 1;

    /// The record's bytes, as commit `version` writes them.
    pub(crate) fn encode(&self, version: Seq) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.content.len() + 64);
        bytes.push(Self::VERSION);
        bytes.extend_from_slice(&version.to_be_bytes());
        postcard::to_extend(self, bytes).map_err(|_| Error::corrupt("message"))
    }

    /// The commit that wrote these bytes.
    pub(crate) fn version(bytes: &[u8]) -> Result<Seq> {
        match bytes {
            [Self::VERSION, rest @ ..] if rest.len() >= 8 => {
                Ok(Seq::from_be_bytes(rest[..8].try_into().map_err(|_| Error::corrupt("message"))?))
            }
            _ => Err(Error::corrupt("message")),
        }
    }

    /// Reads what [`MessageRecord::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Seq, Self)> {
        let version = Self::version(bytes)?;
        let record = postcard::from_bytes(&bytes[9..]).map_err(|_| Error::corrupt("message"))?;
        Ok((version, record))
    }
}

/// An owner's view of a conversation, without its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConversationRecord {
    pub(crate) version: Seq,
    /// The lowest and highest id of the owner's messages in it.
    pub(crate) first: Option<MsgId>,
    pub(crate) last: Option<MsgId>,
    /// The last message as an UPDATE set it, shown instead of `last` until the next send or deletion.
    pub(crate) shown_last: Option<Option<MsgId>>,
    pub(crate) created: Micros,
    pub(crate) updated: Micros,
    /// On its way to or from the trash, and in rows of format 2; else it stands in a row of its own, or in the group's.
    pub(crate) metadata: Option<String>,
    pub(crate) last_read: Option<MsgId>,
    pub(crate) unread: u64,
    pub(crate) joined: bool,
}

impl ConversationRecord {
    pub(crate) fn new(created: Micros, updated: Micros, metadata: Option<String>) -> Self {
        Self {
            version: 0,
            first: None,
            last: None,
            shown_last: None,
            created,
            updated,
            metadata,
            last_read: None,
            unread: 0,
            joined: true,
        }
    }
}

/// The metadata of a conversation that no group shares, without owner and conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MetadataRecord {
    /// JSON text of an object.
    pub(crate) text: String,
}

/// A group, as far as its participants share it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    /// The last commit that changed who takes part, or as what.
    pub(crate) version: Seq,
    pub(crate) created: Micros,
    pub(crate) metadata: Option<String>,
    pub(crate) participants: u32,
}

/// A participant, without group and user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ParticipantRecord {
    pub(crate) version: Seq,
    pub(crate) role: Role,
    pub(crate) created: Micros,
    pub(crate) updated: Micros,
    pub(crate) metadata: Option<String>,
}

/// An owner's counters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwnerRecord {
    pub(crate) change: Seq,
    pub(crate) cold_version: Seq,
    pub(crate) hot_messages: u64,
    pub(crate) hot_since: Option<Micros>,
    /// The number that the last segment took; numbers are never reused.
    pub(crate) last_segment: u64,
}

/// A segment, without owner and number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    pub(crate) path: String,
    pub(crate) rows: u32,
    pub(crate) bytes: u64,
    pub(crate) created: Micros,
    pub(crate) msg_ids: (MsgId, MsgId),
    pub(crate) timestamps: (Micros, Micros),
    pub(crate) conversations: (ConversationKey, ConversationKey),
}

/// A file about to be written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IntentRecord {
    pub(crate) created: Micros,
}

/// An entry of the change log, without owner, seq and number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChangeRecord {
    pub(crate) kind: ChangeKind,
    pub(crate) conversation_id: String,
    pub(crate) conversation_type: ConversationType,
    pub(crate) msg_id: Option<MsgId>,
}

impl ChangeRecord {
    /// The conversation that it concerns.
    pub(crate) fn conversation(&self) -> Result<ConversationKey> {
        let id = ConversationId::new(&self.conversation_id).map_err(|_| Error::corrupt(Self::NAME))?;
        Ok(ConversationKey { id, kind: self.conversation_type })
    }
}

/// A content file, without its path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) owner: UserId,
    pub(crate) conversation: ConversationKey,
    pub(crate) kind: FileKind,
    pub(crate) content_type: String,
    pub(crate) bytes: u64,
    pub(crate) created: Micros,
    /// The thumbnail of an upload.
    pub(crate) thumbnail: Option<String>,
    /// The upload of a thumbnail.
    pub(crate) thumbnail_of: Option<String>,
    /// The file's name in the spool, until it is moved to its path.
    pub(crate) moving_from: Option<String>,
    /// The wait of an upload that no message has referred to yet.
    pub(crate) unsent: Option<Unsent>,
    /// Nothing refers to it any more: it takes no new reference, and is removed.
    pub(crate) doomed: bool,
}

/// An upload that waits for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unsent {
    /// The time when the wait is over and the file goes.
    pub(crate) until: Micros,
    /// The upload's number, under which it stands among its uploader's holdings, like a message of that id.
    pub(crate) number: MsgId,
}

/// The visibility of a file through one message's reference to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReferenceRecord {
    /// The message is there.
    Shown,
    /// The message was deleted by that commit, and can come back.
    Hidden { deletion: Seq },
}

/// A deleted message that was hot, without owner and id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TrashRecord {
    pub(crate) version: Seq,
    pub(crate) conversation: ConversationKey,
    pub(crate) message: MessageRecord,
    pub(crate) deleted_at: Micros,
    pub(crate) expires_at: Micros,
}

/// The rows of a segment that a commit deleted, without owner, deletion and segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ColdTrashRecord {
    pub(crate) deleted_at: Micros,
    pub(crate) expires_at: Micros,
    /// Positions, in the portable serialisation of the Roaring format.
    pub(crate) positions: Vec<u8>,
}

/// A deleted conversation's row, kept as long as its messages can come back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TrashConversationRecord {
    pub(crate) conversation: ConversationRecord,
    pub(crate) expires_at: Micros,
}

/// A file to be removed: the value of its due entry.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RemovalRecord {
    /// The commit that released it: who reads an older snapshot may still read the file.
    pub(crate) released: Seq,
}

/// An audit entry, without owner and id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AuditRecord {
    pub(crate) timestamp: Micros,
    pub(crate) actor: String,
    pub(crate) action: AuditAction,
    pub(crate) target: String,
    pub(crate) details: String,
}

/// A request that had a client's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RequestRecord {
    pub(crate) expires: Micros,
    pub(crate) request_hash: [u8; 32],
    pub(crate) receipt: Receipt,
}

/// The settings that decide what a command does: a row of [`crate::keys::Family::Meta`], so that whoever applies the
/// same commands decides the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RulesRecord {
    /// [`crate::Rules::default_type`].
    pub(crate) default_type: ConversationType,
    /// [`crate::Rules::max_group_participants`].
    pub(crate) max_group_participants: u64,
    /// [`crate::Rules::trash_retention`].
    pub(crate) trash_retention: Option<Micros>,
    /// [`crate::Rules::upload_ttl`].
    pub(crate) upload_ttl: Micros,
}

/// A request's record as the first encoding has it, in which only sends had a name.
#[derive(Deserialize)]
struct FirstRequest {
    expires: Micros,
    request_hash: [u8; 32],
    receipt: FirstReceipt,
}

#[derive(Deserialize)]
struct FirstReceipt {
    seq: Seq,
    sent: Vec<FirstSent>,
}

#[derive(Deserialize)]
struct FirstSent {
    msg_id: MsgId,
    conversation: ConversationKey,
    timestamp: Micros,
}

impl Record for RequestRecord {
    const NAME: &'static str = "request";
    /// 2: receipts say how many rows there were, and whether a conversation began.
    const VERSION: u8 = 2;

    fn decode_older(version: u8, fields: &[u8]) -> Option<Self> {
        if version != 1 {
            return None;
        }
        let FirstRequest { expires, request_hash, receipt } = postcard::from_bytes(fields).ok()?;
        let rows_affected = receipt.sent.len() as u64;
        let sent = receipt.sent.into_iter().map(|FirstSent { msg_id, conversation, timestamp }| Sent {
            msg_id,
            conversation,
            timestamp,
            conversation_created: false,
        });
        Some(Self { expires, request_hash, receipt: Receipt { seq: receipt.seq, sent: sent.collect(), rows_affected } })
    }
}

macro_rules! records {
    ($($type:ty = $name:literal, $version:literal);+ $(;)?) => {
        $(impl Record for $type {
            const NAME: &'static str = $name;
            const VERSION: u8 = $version;
        })+

        /// Every record, and the version of it that this program writes.
        #[cfg(test)]
        pub(crate) const RECORDS: &[(&str, u8)] = &[
            ("message", MessageRecord::VERSION),
            (RequestRecord::NAME, RequestRecord::VERSION),
            $(($name, $version)),+
        ];
    };
}

records!(
    ConversationRecord = "conversation", 1;
    MetadataRecord = "metadata", 1;
    GroupRecord = "group", 1;
    ParticipantRecord = "participant", 1;
    OwnerRecord = "owner", 1;
    SegmentRecord = "segment", 1;
    IntentRecord = "intent", 1;
    ChangeRecord = "change", 1;
    FileRecord = "file", 1;
    ReferenceRecord = "reference", 1;
    TrashRecord = "deleted message", 1;
    ColdTrashRecord = "deletion", 1;
    TrashConversationRecord = "deleted conversation", 1;
    RemovalRecord = "removal", 1;
    AuditRecord = "audit entry", 1;
    RulesRecord = "rules", 1;
);
