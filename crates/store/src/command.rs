//! The log's format: a [`Command`] is everything that changes the database, as a plain value, and an [`Entry`] is one
//! with all that applying it takes besides the database.
//!
//! Invariant: plain serialisable values with no handle and no rule in them; the ground floor of the sequencer, of the
//! rules that it applies, and of the jobs that ask it. The same entries in the same order make the same database.

use std::collections::BTreeMap;

use kalamdb_protocol::{ConversationId, ConversationType, Micros, MsgId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    commit::{Actor, Proposal, Receipt},
    error::{Error, Result},
    model::{ConversationKey, Seq, Uploaded},
    records::{RulesRecord, SegmentRecord},
};

/// An entry of the log: a command, with its number and its time, which are inputs of applying it as the command is.
///
/// Its bytes are the version of the encoding, the number and the time in eight bytes each (big-endian), and the
/// command in postcard. The third commit of a folder, on 13 October 2025, that gives up the name of a segment:
/// `01 0000000000000003 000640fef2d24000 09 01 1e "ann/batch-20251013-001.parquet"`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The number of the commit that the command becomes; higher than every one before.
    pub(crate) seq: Seq,
    /// The time of that commit; no earlier than any before.
    pub(crate) time: Micros,
    /// The command itself.
    pub(crate) command: Command,
}

impl Entry {
    /// The encoding that this program writes.
    pub(crate) const VERSION: u8 = 1;

    /// The entry's bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![Self::VERSION];
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.time.to_be_bytes());
        postcard::to_extend(&self.command, bytes).map_err(|_| Error::corrupt("command"))
    }

    /// Reads what [`Entry::encode`] wrote.
    #[cfg_attr(not(test), expect(dead_code, reason = "nobody but tests reads a log that another server wrote, yet"))]
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = || Error::corrupt("command");
        let (&version, rest) = bytes.split_first().ok_or_else(corrupt)?;
        let (seq, rest) = rest.split_first_chunk().ok_or_else(corrupt)?;
        let (time, rest) = rest.split_first_chunk().ok_or_else(corrupt)?;
        if version != Self::VERSION {
            return Err(corrupt());
        }
        let command = postcard::from_bytes(rest).map_err(|_| corrupt())?;
        Ok(Self { seq: Seq::from_be_bytes(*seq), time: Micros::from_be_bytes(*time), command })
    }
}

/// Something that can be asked of the sequencer, and what it answers.
pub(crate) trait Ask: Into<Command> {
    /// The result of the command.
    type Answer;

    /// Takes that out of what the command came to.
    fn answer(done: Done) -> Self::Answer;
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident -> $answer:ty),+ $(,)?) => {
        /// Everything that changes the database, as a plain value. New commands go at the end: their places in this
        /// list are their numbers in the log.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub(crate) enum Command {
            $($(#[$doc])* $name($name)),+
        }

        /// The result of a command.
        #[derive(Debug)]
        pub(crate) enum Done {
            $($name($answer)),+
        }

        $(
            impl From<$name> for Command {
                fn from(command: $name) -> Self {
                    Self::$name(command)
                }
            }

            impl Ask for $name {
                type Answer = $answer;

                fn answer(done: Done) -> $answer {
                    match done {
                        Done::$name(answer) => answer,
                        _ => unreachable!("a command is answered as what it is"),
                    }
                }
            }
        )+
    };
}

commands! {
    /// Commit the changes that a user or an application asked for, with their large texts.
    Write -> Written,
    /// Take an upload in.
    AddFile -> FileAdded,
    /// Committed files are in their places.
    Moved -> (),
    /// Expire these entries of `due`, whose time has come.
    Expire -> Expired,
    /// Forget these files, which have been removed.
    Forget -> (),
    /// Remove these audit entries, whose retention has passed.
    TrimAudit -> (),
    /// Name the next segment before it is written.
    ReserveSegment -> Reserved,
    /// Adopt a segment: its rows stop being hot.
    PublishSegment -> (),
    /// Adopt a segment, or none, in the place of others.
    PublishCompaction -> (),
    /// Give up files that were not adopted and are gone.
    ReleaseIntents -> (),
    /// Decide by these rules from now on.
    SetRules -> (),
}

impl Command {
    /// Bytes that it takes in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        /// Bytes of a command besides lists and texts, and of each entry of them, about.
        const PLAIN: usize = 256;
        let lengths = |texts: &[String]| texts.iter().map(|text| PLAIN + text.len()).sum::<usize>();
        PLAIN
            + match self {
                Self::Write(write) => write.proposal.bytes() + write.texts.len() * PLAIN,
                Self::Moved(Moved { paths })
                | Self::Forget(Forget { paths })
                | Self::ReleaseIntents(ReleaseIntents { paths }) => lengths(paths),
                Self::Expire(expire) => expire.entries.iter().map(|entry| PLAIN + entry.len()).sum(),
                Self::TrimAudit(trim) => size_of_val(trim.ids.as_slice()),
                Self::PublishSegment(publish) => publish.rows.len() * PLAIN,
                Self::PublishCompaction(publish) => {
                    publish.inputs.iter().map(|input| size_of_val(input.moved_to.as_slice())).sum()
                }
                Self::AddFile(_) | Self::ReserveSegment(_) | Self::SetRules(_) => 0,
            }
    }
}

/// A proposal, with the places of its large texts in the spool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) proposal: Proposal,
    pub(crate) texts: Texts,
}

/// The result of a [`Write`].
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) receipt: Receipt,
    /// Files to be moved to their places; none when the request was a repeated one.
    pub(crate) adopted: Vec<Adopted>,
}

/// An upload whose file is in the spool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AddFile {
    pub(crate) actor: Actor,
    pub(crate) upload: Upload,
}

/// The result of an [`AddFile`].
#[derive(Debug)]
pub(crate) struct FileAdded {
    pub(crate) uploaded: Uploaded,
    /// Files to be moved to their places: the upload and its thumbnail.
    pub(crate) adopted: Vec<Adopted>,
}

/// Paths of files that have been moved out of the spool to their places.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) paths: Vec<String>,
}

/// Keys of `due` whose time has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Expire {
    /// Keys of the family of what is due.
    pub(crate) entries: Vec<Vec<u8>>,
}

/// The result of an [`Expire`]: how much there was to expire.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) messages: u64,
    pub(crate) uploads: u64,
}

/// Paths of files that have been removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Forget {
    pub(crate) paths: Vec<String>,
}

/// Audit entries of one owner, by their ids.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TrimAudit {
    pub(crate) owner: UserId,
    pub(crate) ids: Vec<i64>,
}

/// An owner whose next segment is to be named.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReserveSegment {
    pub(crate) owner: UserId,
}

/// The result of a [`ReserveSegment`]: the segment's number and path.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) number: u64,
    pub(crate) path: String,
}

/// A segment that is written, and the hot rows that went into it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PublishSegment {
    pub(crate) owner: UserId,
    pub(crate) number: u64,
    pub(crate) segment: SegmentRecord,
    /// The hot rows in the file, in its order, as they were when it was written.
    pub(crate) rows: Vec<RowVersion>,
}

/// A segment that was made of others, and where their rows went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PublishCompaction {
    pub(crate) owner: UserId,
    pub(crate) inputs: Vec<CompactedSegment>,
    pub(crate) output: Option<(u64, SegmentRecord)>,
}

/// Paths of segments that were named and will not be adopted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReleaseIntents {
    pub(crate) paths: Vec<String>,
}

/// Rules that are in force from this commit on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SetRules {
    pub(crate) rules: RulesRecord,
}

/// A file of the spool, complete and durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spooled {
    /// The file's name in the spool: `17`.
    pub(crate) name: String,
    /// The file's size.
    pub(crate) bytes: u64,
}

/// The texts of a proposal that are in the spool, by the index of their change.
pub(crate) type Texts = BTreeMap<usize, Spooled>;

/// A file that a commit has named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// The file's place below the base path.
    pub(crate) path: String,
    /// The file's name in the spool.
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

/// The thumbnail of an upload, in the spool beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpooledThumbnail {
    pub(crate) file: Spooled,
    pub(crate) content_type: String,
    pub(crate) extension: String,
}

/// A segment that was read, and where each of its rows went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CompactedSegment {
    /// The segment's number.
    pub(crate) number: u64,
    /// The position of each row in the output; [`DROPPED`] for one that was not written.
    pub(crate) moved_to: Vec<u32>,
}

/// The position in [`CompactedSegment::moved_to`] of a row that was not written again.
pub(crate) const DROPPED: u32 = u32::MAX;

/// A hot row that went into a segment, and the version it had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RowVersion {
    pub(crate) conversation: ConversationKey,
    pub(crate) msg_id: MsgId,
    pub(crate) version: Seq,
}
