//! Work that is due at some time: rows of one family, sorted by when.
//!
//! Invariant: an entry says only where to look; whether there is still anything to do is for the row that it points
//! to, so an entry too many is harmless.

use kalamdb_protocol::{Micros, MsgId, UserId};

use crate::{
    error::{Error, Result},
    keys::{self, Key},
    model::{ConversationKey, Seq},
};

/// Something that must happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// A committed file waits in the spool to be moved to its place: now.
    Move { path: String },
    /// A file that nothing refers to any more waits to be removed: now.
    Removal { path: String },
    /// A deleted message in RocksDB expires.
    Trash { owner: UserId, msg_id: MsgId },
    /// A segment's rows that a commit deleted expire.
    ColdTrash { owner: UserId, deletion: Seq, segment: u64 },
    /// A deleted message's reference to a file expires: of one that lies in a segment, which is not read here.
    Holding { owner: UserId, deletion: Seq, conversation: ConversationKey, msg_id: MsgId },
    /// The kept row of a deleted conversation expires.
    Conversation { owner: UserId, conversation: ConversationKey },
    /// An upload that no message refers to expires.
    Upload { path: String },
}

const MOVE: u8 = 1;
const REMOVAL: u8 = 2;
const TRASH: u8 = 3;
const COLD_TRASH: u8 = 4;
const HOLDING: u8 = 5;
const CONVERSATION: u8 = 6;
const UPLOAD: u8 = 7;

/// The time of what is due at once: it comes before everything that has a time.
pub(crate) const AT_ONCE: Micros = 0;

/// The end of the keys of what is due at `now`.
pub(crate) fn until(now: Micros) -> Vec<u8> {
    time(now.saturating_add(1)).to_vec()
}

/// A time as sorting bytes; nothing is due before 1970.
fn time(at: Micros) -> [u8; 8] {
    u64::try_from(at).expect("nothing is due before 1970").to_be_bytes()
}

impl Due {
    /// The entry's key in `due`, by which entries sort by time: the move of `ann/msg-5.bin`, due at once, is
    /// `0000000000000000 01 616e6e2f6d73672d352e62696e`.
    pub(crate) fn key(&self, at: Micros) -> Vec<u8> {
        let (kind, what): (u8, Key) = match self {
            Self::Move { path } => (MOVE, path.as_str().into()),
            Self::Removal { path } => (REMOVAL, path.as_str().into()),
            Self::Trash { owner, msg_id } => (TRASH, keys::trash(owner, *msg_id)),
            Self::ColdTrash { owner, deletion, segment } => (COLD_TRASH, keys::cold_trash(owner, *deletion, *segment)),
            Self::Holding { owner, deletion, conversation, msg_id } => {
                (HOLDING, [&deletion.to_be_bytes()[..], &keys::message(owner, conversation, *msg_id)].concat().into())
            }
            Self::Conversation { owner, conversation } => (CONVERSATION, keys::conversation(owner, conversation)),
            Self::Upload { path } => (UPLOAD, path.as_str().into()),
        };
        let mut key = Vec::with_capacity(9 + what.len());
        key.extend_from_slice(&time(at));
        key.push(kind);
        key.extend_from_slice(&what);
        key
    }

    /// Reads what [`Due::key`] wrote.
    pub(crate) fn parse(key: &[u8]) -> Result<(Micros, Self)> {
        let corrupt = || Error::corrupt("due entry");
        let (at, rest) = key.split_at_checked(8).ok_or_else(corrupt)?;
        let at = u64::from_be_bytes(at.try_into().map_err(|_| corrupt())?) as Micros;
        let (kind, what) = rest.split_first().ok_or_else(corrupt)?;
        let path = || String::from_utf8(what.to_vec()).map_err(|_| corrupt());
        let owner = || keys::owner_of(what);
        let due = match *kind {
            MOVE => Self::Move { path: path()? },
            REMOVAL => Self::Removal { path: path()? },
            TRASH => Self::Trash { owner: owner()?, msg_id: keys::parse_message_id(what)? },
            COLD_TRASH => {
                let (deletion, segment) = keys::parse_cold_trash(what)?;
                Self::ColdTrash { owner: owner()?, deletion, segment }
            }
            HOLDING => {
                let (deletion, what) = what.split_at_checked(8).ok_or_else(corrupt)?;
                let deletion = Seq::from_be_bytes(deletion.try_into().map_err(|_| corrupt())?);
                let (conversation, msg_id) = keys::parse_message(what)?;
                Self::Holding { owner: keys::owner_of(what)?, deletion, conversation, msg_id }
            }
            CONVERSATION => Self::Conversation { owner: owner()?, conversation: keys::parse_conversation(what)? },
            UPLOAD => Self::Upload { path: path()? },
            _ => return Err(corrupt()),
        };
        Ok((at, due))
    }
}

#[cfg(test)]
mod tests {
    use kalamdb_protocol::{ConversationId, ConversationType};

    use super::*;

    #[test]
    fn an_entry_gives_itself_back_and_sorts_by_time() {
        let owner = UserId::new("o").unwrap();
        let conversation = ConversationKey { id: ConversationId::new("c").unwrap(), kind: ConversationType::Group };
        let entries = [
            (AT_ONCE, Due::Move { path: "o/msg-1.bin".to_owned() }),
            (AT_ONCE, Due::Removal { path: "o/msg-2.bin".to_owned() }),
            (5, Due::Upload { path: "o/media-3.png".to_owned() }),
            (6, Due::Trash { owner: owner.clone(), msg_id: 7 }),
            (256, Due::ColdTrash { owner: owner.clone(), deletion: 8, segment: 9 }),
            (257, Due::Holding { owner: owner.clone(), deletion: 9, conversation: conversation.clone(), msg_id: 10 }),
            (1 << 50, Due::Conversation { owner, conversation }),
        ];
        let keys: Vec<_> = entries.iter().map(|(at, due)| due.key(*at)).collect();
        assert!(keys.is_sorted());
        for (entry, key) in entries.iter().zip(&keys) {
            assert_eq!(&Due::parse(key).unwrap(), entry);
        }
        assert!(keys[3] < until(6) && keys[4] > until(6));
    }
}
