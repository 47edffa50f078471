//! What the sequencer is asked to do: a [`Command`] is everything that changes the database, as a plain value.
//!
//! Invariant: plain serialisable values with no handle and no rule in them; the ground floor of the sequencer, of the
//! rules that it applies, and of the jobs that ask it.

use std::collections::BTreeMap;

use kalamdb_protocol::{ConversationId, ConversationType, MsgId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    commit::{Actor, Proposal, Receipt},
    model::{ConversationKey, Seq, Uploaded},
    records::SegmentRecord,
};

/// Everything that changes the database, as a plain value.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    /// What a user or an application asked for, and its large texts.
    Write { proposal: Proposal, texts: Texts },
    /// Take an upload in.
    AddFile { actor: Actor, upload: Upload },
    /// Committed files are in their places.
    Moved { paths: Vec<String> },
    /// These entries of what is due are due.
    Expire { entries: Vec<Vec<u8>> },
    /// These files are removed.
    Forget { paths: Vec<String> },
    /// Nothing; answered once everything before it is written.
    Barrier,
    /// These audit entries have had their time.
    TrimAudit { owner: UserId, ids: Vec<i64> },
    /// Name the next batch file before it is written.
    ReserveSegment { owner: UserId },
    /// Adopt a batch file: its rows stop being hot.
    PublishSegment {
        owner: UserId,
        number: u64,
        segment: SegmentRecord,
        /// The hot rows in the file, in its order, as they were when it was written.
        rows: Vec<RowVersion>,
    },
    /// Adopt a segment, or none, in the place of others.
    PublishCompaction { owner: UserId, inputs: Vec<CompactedSegment>, output: Option<(u64, SegmentRecord)> },
    /// Give up a file that was not adopted and is gone.
    ReleaseIntent { path: String },
}

impl Command {
    /// Bytes that it takes in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        /// What a command takes besides lists and texts, and each of their entries.
        const PLAIN: usize = 256;
        let lengths = |texts: &[String]| texts.iter().map(|text| PLAIN + text.len()).sum::<usize>();
        PLAIN
            + match self {
                Self::Write { proposal, texts } => proposal.bytes() + texts.len() * PLAIN,
                Self::Moved { paths } | Self::Forget { paths } => lengths(paths),
                Self::Expire { entries } => entries.iter().map(|entry| PLAIN + entry.len()).sum(),
                Self::TrimAudit { ids, .. } => size_of_val(ids.as_slice()),
                Self::PublishSegment { rows, .. } => rows.len() * PLAIN,
                Self::PublishCompaction { inputs, .. } => {
                    inputs.iter().map(|input| size_of_val(input.moved_to.as_slice())).sum()
                }
                Self::AddFile { .. } | Self::Barrier | Self::ReserveSegment { .. } | Self::ReleaseIntent { .. } => 0,
            }
    }
}

/// What a command came to.
#[derive(Debug, Clone)]
pub(crate) enum Done {
    Write { receipt: Receipt, adopted: Vec<Adopted> },
    FileAdded { uploaded: Uploaded, adopted: Vec<Adopted> },
    Expired { messages: u64, uploads: u64 },
    Reserved { number: u64, path: String },
    Finished,
}

/// A file of the spool, complete and durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spooled {
    /// Its name there.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
}

/// The texts of a proposal that are in the spool, by the index of their change.
pub(crate) type Texts = BTreeMap<usize, Spooled>;

/// A file that a commit has named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// Its place.
    pub(crate) path: String,
    /// Its name in the spool.
    pub(crate) spooled: String,
}

/// An upload, as a commit names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) owner: UserId,
    pub(crate) conversation: ConversationId,
    pub(crate) conversation_type: Option<ConversationType>,
    pub(crate) file: Spooled,
    pub(crate) content_type: String,
    pub(crate) extension: String,
    pub(crate) thumbnail: Option<SpooledThumbnail>,
}

/// Its thumbnail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpooledThumbnail {
    pub(crate) file: Spooled,
    pub(crate) content_type: String,
    pub(crate) extension: String,
}

/// A segment that was read, and where each of its rows went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CompactedSegment {
    /// Its number.
    pub(crate) number: u64,
    /// The position of each row in the output; [`DROPPED`] for one that was not written.
    pub(crate) moved_to: Vec<u32>,
}

/// Of a row that is gone.
pub(crate) const DROPPED: u32 = u32::MAX;

/// A hot row that went into a segment, and the version it had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RowVersion {
    pub(crate) conversation: ConversationKey,
    pub(crate) msg_id: MsgId,
    pub(crate) version: Seq,
}
