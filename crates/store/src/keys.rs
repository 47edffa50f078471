//! The column families and the layout of their keys.
//!
//! Invariant: every key starts with what its question starts with (an owner, a group, a file, a time) and sorts so
//! that each common question is one bounded range: an owner's messages by conversation and id, one conversation's
//! newest, a group's participants, what refers to a file, what is due. A family, once released, keeps its name and
//! its layout; a new layout is a new family and a new format version.
//!
//! Ids hold no control characters, so a NUL byte ends one without ambiguity; numbers are big-endian, so that bytes
//! sort as numbers do.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    hash::{Hash, Hasher},
    ops::Deref,
};

use kalamdb_protocol::{ConversationId, ConversationType, MsgId, UserId};

use crate::{
    error::{Error, Result},
    model::{ConversationKey, Seq},
};

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Single values of the server: counters, format, epoch.
    Meta,
    /// owner, conversation, msgId → a hot message.
    Messages,
    /// owner, msgId → the conversation of a hot message.
    MessageIds,
    /// owner, conversation → the owner's view of it.
    Conversations,
    /// owner, conversation → its metadata, where no group shares that.
    ConversationMetadata,
    /// group → what its participants share.
    Groups,
    /// group, user → a participant.
    Participants,
    /// owner → counters and the next segment number.
    Owners,
    /// owner, number → a segment.
    Segments,
    /// owner, number → positions of its deleted rows.
    Deletions,
    /// path → a file about to be written, that no commit has adopted yet.
    Intents,
    /// owner, seq, n → what changed, without content.
    Changes,
    /// user, client key → the receipt of a request.
    Requests,
    /// path → a content file.
    Files,
    /// path, owner, msgId → whether that message shows the file.
    References,
    /// owner, conversation, msgId → the path of the file that the message refers to.
    Holdings,
    /// owner, msgId → a deleted message that was hot.
    Trash,
    /// owner, deletion, segment → positions of rows that a commit deleted and that can come back.
    ColdTrash,
    /// owner, conversation → the owner's view of a deleted conversation.
    TrashConversations,
    /// time, kind, what → something that must happen then.
    Due,
    /// owner, auditId → an entry of the audit log.
    Audit,
}

impl Family {
    /// Every family, in the order of their numbers.
    pub(crate) const ALL: [Self; 21] = [
        Self::Meta,
        Self::Messages,
        Self::MessageIds,
        Self::Conversations,
        Self::ConversationMetadata,
        Self::Groups,
        Self::Participants,
        Self::Owners,
        Self::Segments,
        Self::Deletions,
        Self::Intents,
        Self::Changes,
        Self::Requests,
        Self::Files,
        Self::References,
        Self::Holdings,
        Self::Trash,
        Self::ColdTrash,
        Self::TrashConversations,
        Self::Due,
        Self::Audit,
    ];

    /// The family's name in RocksDB.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Messages => "messages",
            Self::MessageIds => "message_ids",
            Self::Conversations => "conversations",
            Self::ConversationMetadata => "conversation_metadata",
            Self::Groups => "groups",
            Self::Participants => "members",
            Self::Owners => "owners",
            Self::Segments => "segments",
            Self::Deletions => "deletions",
            Self::Intents => "intents",
            Self::Changes => "changes",
            Self::Requests => "requests",
            Self::Files => "files",
            Self::References => "references",
            Self::Holdings => "holdings",
            Self::Trash => "trash",
            Self::ColdTrash => "cold_trash",
            Self::TrashConversations => "trash_conversations",
            Self::Due => "due",
            Self::Audit => "audit",
        }
    }
}

/// Ends an id within a key.
const END: u8 = 0;

/// Bytes of a key that need no memory of their own: those of a message's, with ids of 30 bytes on average.
const INLINE: usize = 70;

/// A key. A send makes half a dozen for each who gets a copy, and they are kept until their batch is written, so that most
/// of them are better not allocated one by one.
#[derive(Clone)]
pub(crate) enum Key {
    /// One of at most [`INLINE`] bytes.
    Short { len: u8, bytes: [u8; INLINE] },
    /// Any other.
    Long(Vec<u8>),
}

impl Key {
    const fn new() -> Self {
        Self::Short { len: 0, bytes: [0; INLINE] }
    }

    fn extend_from_slice(&mut self, more: &[u8]) {
        match self {
            Self::Long(all) => all.extend_from_slice(more),
            Self::Short { len, bytes } => {
                let (start, end) = (usize::from(*len), usize::from(*len) + more.len());
                if let (Some(place), Ok(end)) = (bytes.get_mut(start..end), u8::try_from(end)) {
                    place.copy_from_slice(more);
                    *len = end;
                } else {
                    *self = Self::Long([&bytes[..start], more].concat());
                }
            }
        }
    }

    /// Its bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self
    }

    fn push(&mut self, byte: u8) {
        self.extend_from_slice(&[byte]);
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(all) => all,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        let mut key = Self::new();
        key.extend_from_slice(bytes);
        key
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() > INLINE { Self::Long(bytes) } else { bytes.as_slice().into() }
    }
}

// As its bytes, in all that follows: so that a map of keys is asked with bytes.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// `id NUL`: all keys of one owner, or of one group.
pub(crate) fn id_prefix(id: &str) -> Key {
    let mut key = Key::new();
    key.extend_from_slice(id.as_bytes());
    key.push(END);
    key
}

/// The first key after all that start with `prefix`; of no prefix, one after all keys: they start with an id, and
/// no UTF-8 text holds the byte 0xFF.
pub(crate) fn after_prefix(prefix: &[u8]) -> Key {
    if prefix.is_empty() {
        return [u8::MAX].as_slice().into();
    }
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

const fn kind_byte(kind: ConversationType) -> u8 {
    match kind {
        ConversationType::Ai => 0,
        ConversationType::Group => 1,
    }
}

fn push_conversation(key: &mut Key, conversation: &ConversationKey) {
    key.extend_from_slice(conversation.id.as_str().as_bytes());
    key.push(END);
    key.push(kind_byte(conversation.kind));
}

fn push_number(key: &mut Key, number: u64) {
    key.extend_from_slice(&number.to_be_bytes());
}

/// A message id as a number. Ids that are stored are positive; a reader may ask for others, which come before all of
/// them.
pub(crate) fn id_number(msg_id: MsgId) -> u64 {
    u64::try_from(msg_id).unwrap_or(0)
}

/// The key of an owner's view of a conversation, and the prefix of its messages: `616e6e00 6300 00` is `ann`, `c`, AI.
pub(crate) fn conversation(owner: &UserId, conversation: &ConversationKey) -> Key {
    let mut key = id_prefix(owner.as_str());
    push_conversation(&mut key, conversation);
    key
}

/// The key of a hot message, in the order in which a conversation is read: `616e6e00 6300 00 0000000000000005`.
pub(crate) fn message(owner: &UserId, of: &ConversationKey, msg_id: MsgId) -> Key {
    let mut key = conversation(owner, of);
    push_number(&mut key, id_number(msg_id));
    key
}

/// The key of a hot message's entry by id: `616e6e00 0000000000000005`.
pub(crate) fn message_id(owner: &UserId, msg_id: MsgId) -> Key {
    let mut key = id_prefix(owner.as_str());
    push_number(&mut key, id_number(msg_id));
    key
}

/// The key of a participant, `ann` of the group `g`: `6700 616e6e`.
pub(crate) fn participant(group: &ConversationId, user: &UserId) -> Key {
    let mut key = id_prefix(group.as_str());
    key.extend_from_slice(user.as_str().as_bytes());
    key
}

/// The key of a segment, and of its deletion vector: `616e6e00 0000000000000001`.
pub(crate) fn segment(owner: &UserId, number: u64) -> Key {
    let mut key = id_prefix(owner.as_str());
    push_number(&mut key, number);
    key
}

/// The key of a deleted message that was hot: as [`message_id`].
pub(crate) fn trash(owner: &UserId, msg_id: MsgId) -> Key {
    message_id(owner, msg_id)
}

/// The key of a segment's rows that a commit deleted, commit 7 in segment 1: `616e6e00 0000000000000007
/// 0000000000000001`.
pub(crate) fn cold_trash(owner: &UserId, deletion: Seq, segment: u64) -> Key {
    let mut key = id_prefix(owner.as_str());
    push_number(&mut key, deletion);
    push_number(&mut key, segment);
    key
}

/// The key of an audit entry: as [`message_id`].
pub(crate) fn audit(owner: &UserId, audit_id: i64) -> Key {
    message_id(owner, audit_id)
}

/// The key of a message's reference to a file: the path (`ann/msg-5.bin`), NUL, and `616e6e00 0000000000000005`.
pub(crate) fn reference(path: &str, owner: &UserId, msg_id: MsgId) -> Key {
    let mut key = references_of(path, owner);
    push_number(&mut key, id_number(msg_id));
    key
}

/// The prefix of an owner's references to a file.
pub(crate) fn references_of(path: &str, owner: &UserId) -> Key {
    let mut key = id_prefix(path);
    key.extend_from_slice(owner.as_str().as_bytes());
    key.push(END);
    key
}

/// The key of a change log entry, the second change of commit 7: `616e6e00 0000000000000007 00000002`.
pub(crate) fn change(owner: &UserId, seq: Seq, n: u32) -> Key {
    let mut key = id_prefix(owner.as_str());
    push_number(&mut key, seq);
    key.extend_from_slice(&n.to_be_bytes());
    key
}

/// The key of a receipt, by the client's name for its request (`key`): `616e6e00 6b6579`.
pub(crate) fn request(user: &UserId, client_key: &str) -> Key {
    let mut key = id_prefix(user.as_str());
    key.extend_from_slice(client_key.as_bytes());
    key
}

/// The seq in a key of the change log: the eight bytes before the last four.
pub(crate) fn seq_of_change(key: &[u8]) -> Option<Seq> {
    let end = key.len().checked_sub(4)?;
    let bytes = key.get(end.checked_sub(8)?..end)?;
    Some(Seq::from_be_bytes(bytes.try_into().ok()?))
}

/// The seq and number of a key of the change log.
pub(crate) fn parse_change(key: &[u8]) -> Result<(Seq, u32)> {
    let n = key.last_chunk().ok_or_else(|| Error::corrupt("key"))?;
    Ok((seq_of_change(key).ok_or_else(|| Error::corrupt("key"))?, u32::from_be_bytes(*n)))
}

fn split_id(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == END).ok_or_else(|| Error::corrupt("key"))?;
    let id = std::str::from_utf8(&bytes[..end]).map_err(|_| Error::corrupt("key"))?;
    Ok((id, &bytes[end + 1..]))
}

fn parse_user(text: &str) -> Result<UserId> {
    UserId::new(text).map_err(|_| Error::corrupt("key"))
}

/// A whole key that is a user id.
pub(crate) fn parse_owner(key: &[u8]) -> Result<UserId> {
    parse_user(std::str::from_utf8(key).map_err(|_| Error::corrupt("key"))?)
}

/// The conversation at the front of what follows the owner, and the rest.
fn split_conversation(bytes: &[u8]) -> Result<(ConversationKey, &[u8])> {
    let (id, rest) = split_id(bytes)?;
    let (kind, rest) = match rest.split_first() {
        Some((0, rest)) => (ConversationType::Ai, rest),
        Some((1, rest)) => (ConversationType::Group, rest),
        _ => return Err(Error::corrupt("key")),
    };
    let id = ConversationId::new(id).map_err(|_| Error::corrupt("key"))?;
    Ok((ConversationKey { id, kind }, rest))
}

fn parse_number(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| Error::corrupt("key"))?))
}

/// The number at the end of a key that has one.
pub(crate) fn last_number(key: &[u8]) -> Result<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes)).ok_or_else(|| Error::corrupt("key"))
}

/// The conversation of a key made by [`conversation`].
pub(crate) fn parse_conversation(key: &[u8]) -> Result<ConversationKey> {
    Ok(split_conversation(split_id(key)?.1)?.0)
}

/// The conversation and id of a key made by [`message`].
pub(crate) fn parse_message(key: &[u8]) -> Result<(ConversationKey, MsgId)> {
    let (conversation, rest) = split_conversation(split_id(key)?.1)?;
    Ok((conversation, parse_number(rest)? as MsgId))
}

/// The message id of a key made by [`message_id`], and by those of its layout.
pub(crate) fn parse_message_id(key: &[u8]) -> Result<MsgId> {
    Ok(parse_number(split_id(key)?.1)? as MsgId)
}

/// The owner of a key that starts with one.
pub(crate) fn owner_of(key: &[u8]) -> Result<UserId> {
    parse_user(split_id(key)?.0)
}

/// The deletion and segment of a key made by [`cold_trash`].
pub(crate) fn parse_cold_trash(key: &[u8]) -> Result<(Seq, u64)> {
    let numbers = split_id(key)?.1;
    let (deletion, segment) = numbers.split_at_checked(8).ok_or_else(|| Error::corrupt("key"))?;
    Ok((parse_number(deletion)?, parse_number(segment)?))
}

/// The user of a key made by [`member`].
pub(crate) fn parse_participant(key: &[u8]) -> Result<UserId> {
    parse_owner(split_id(key)?.1)
}

/// The number of a key made by [`segment`].
pub(crate) fn parse_segment(key: &[u8]) -> Result<u64> {
    parse_number(split_id(key)?.1)
}

/// The value of [`Family::MessageIds`]: the conversation's part of the message's key.
pub(crate) fn conversation_value(conversation: &ConversationKey) -> Key {
    let mut value = Key::new();
    push_conversation(&mut value, conversation);
    value
}

/// Reads what [`conversation_value`] wrote.
pub(crate) fn parse_conversation_value(value: &[u8]) -> Result<ConversationKey> {
    Ok(split_conversation(value)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, kind: ConversationType) -> ConversationKey {
        ConversationKey { id: ConversationId::new(id).unwrap(), kind }
    }

    #[test]
    fn keys_sort_as_segments_do() {
        let owner = UserId::new("o").unwrap();
        let mut rows = Vec::new();
        for id in ["a", "a b", "ab", "b", "é", "🙂"] {
            for kind in [ConversationType::Ai, ConversationType::Group] {
                for msg_id in [1, 255, 256, 1 << 40, (1 << 53) - 1] {
                    rows.push((key(id, kind), msg_id));
                }
            }
        }
        let keys: Vec<_> = rows.iter().map(|(conversation, id)| message(&owner, conversation, *id)).collect();
        assert!(keys.is_sorted());
        for (row, key) in rows.iter().zip(&keys) {
            assert_eq!(&parse_message(key).unwrap(), row);
        }
    }

    #[test]
    fn a_key_is_its_bytes_however_long_it_is() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let mut keys = Vec::new();
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, all.len()] {
            for step in [1, 7, all.len()] {
                let mut key = Key::new();
                all[..len].chunks(step).for_each(|part| key.extend_from_slice(part));
                assert_eq!(&*key, &all[..len]);
                assert!(key == Key::from(&all[..len]) && key == Key::from(all[..len].to_vec()));
                assert_eq!(matches!(key, Key::Long(_)), len > INLINE);
            }
            keys.push(Key::from(&all[..len]));
        }
        assert!(keys.is_sorted());
        let map: std::collections::BTreeMap<Key, usize> = keys.into_iter().zip(0..).collect();
        assert_eq!(map.get(&all[..=INLINE]), Some(&4));
    }

    #[test]
    fn an_owner_s_keys_are_not_another_s() {
        let (short, long) = (UserId::new("a").unwrap(), UserId::new("ab").unwrap());
        let prefix = id_prefix(short.as_str());
        let other = message(&long, &key("c", ConversationType::Ai), 1);
        assert!(!other.starts_with(&prefix));
        assert!(other > after_prefix(&prefix));
        assert!(other < after_prefix(&[]));
    }

    #[test]
    fn a_change_key_gives_its_seq_back() {
        let owner = UserId::new("o").unwrap();
        assert_eq!(seq_of_change(&change(&owner, 77, 3)), Some(77));
        assert_eq!(seq_of_change(b"short"), None);
    }
}
