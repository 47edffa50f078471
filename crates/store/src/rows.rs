//! Typed reads, the same over the database, a snapshot and a write in progress.
//!
//! Invariant: pure functions of what they read; no rule of the data.

use std::ops::ControlFlow;

use kalamdb_protocol::{ConversationId, ConversationType, MsgId, UserId};

use crate::{
    database::Read,
    error::Result,
    keys::{self, Family},
    model::{Conversation, ConversationKey, HotMessage, Member, Message, OwnerState, Segment},
    paths,
    records::{ConversationRecord, GroupRecord, MemberRecord, MessageRecord, OwnerRecord, Record, SegmentRecord},
};

fn decoded<T: Record>(read: &impl Read, family: Family, key: &[u8]) -> Result<Option<T>> {
    read.get(family, key)?.map(|bytes| T::decode(&bytes)).transpose()
}

/// Everything under a prefix.
fn under<T>(
    read: &impl Read,
    family: Family,
    prefix: &[u8],
    mut parse: impl FnMut(&[u8], &[u8]) -> Result<T>,
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    read.scan(family, prefix, &keys::after_prefix(prefix), false, &mut |key, value| {
        rows.push(parse(key, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

pub(crate) fn owner(read: &impl Read, owner: &UserId) -> Result<OwnerRecord> {
    Ok(decoded(read, Family::Owners, owner.as_str().as_bytes())?.unwrap_or_default())
}

pub(crate) fn owners(read: &impl Read) -> Result<Vec<(UserId, OwnerRecord)>> {
    under(read, Family::Owners, &[], |key, value| Ok((keys::parse_owner(key)?, OwnerRecord::decode(value)?)))
}

pub(crate) fn group(read: &impl Read, group: &ConversationId) -> Result<Option<GroupRecord>> {
    decoded(read, Family::Groups, group.as_str().as_bytes())
}

pub(crate) fn member(read: &impl Read, group: &ConversationId, user: &UserId) -> Result<Option<MemberRecord>> {
    decoded(read, Family::Members, &keys::member(group, user))
}

pub(crate) fn members(read: &impl Read, group: &ConversationId) -> Result<Vec<(UserId, MemberRecord)>> {
    under(read, Family::Members, &keys::id_prefix(group.as_str()), |key, value| {
        Ok((keys::parse_member(key)?, MemberRecord::decode(value)?))
    })
}

pub(crate) fn conversation(
    read: &impl Read,
    owner: &UserId,
    key: &ConversationKey,
) -> Result<Option<ConversationRecord>> {
    decoded(read, Family::Conversations, &keys::conversation(owner, key))
}

pub(crate) fn conversations(read: &impl Read, owner: &UserId) -> Result<Vec<(ConversationKey, ConversationRecord)>> {
    under(read, Family::Conversations, &keys::id_prefix(owner.as_str()), |key, value| {
        Ok((keys::parse_conversation(key)?, ConversationRecord::decode(value)?))
    })
}

/// A hot message by its id.
pub(crate) fn hot_message(read: &impl Read, owner: &UserId, msg_id: MsgId) -> Result<Option<HotMessage>> {
    let Some(value) = read.get(Family::MessageIds, &keys::message_id(owner, msg_id))? else { return Ok(None) };
    let conversation = keys::parse_conversation_value(&value)?;
    let Some(bytes) = read.get(Family::Messages, &keys::message(owner, &conversation, msg_id))? else {
        return Ok(None);
    };
    message(conversation, msg_id, &bytes).map(Some)
}

/// A hot message from its value.
pub(crate) fn message(conversation: ConversationKey, msg_id: MsgId, bytes: &[u8]) -> Result<HotMessage> {
    let (version, record) = MessageRecord::decode(bytes)?;
    let message = Message {
        msg_id,
        conversation,
        from: record.from,
        timestamp: record.timestamp,
        content: record.content,
        content_ref: record.content_ref,
        metadata: record.metadata,
    };
    Ok(HotMessage { message, version })
}

/// The first and last id among an owner's hot messages of a conversation.
pub(crate) fn hot_ends(read: &impl Read, owner: &UserId, of: &ConversationKey) -> Result<Option<(MsgId, MsgId)>> {
    let prefix = keys::conversation(owner, of);
    let end = keys::after_prefix(&prefix);
    let mut at = [None, None];
    for (slot, backwards) in at.iter_mut().zip([false, true]) {
        read.scan(Family::Messages, &prefix, &end, backwards, &mut |key, _| {
            *slot = Some(keys::parse_message(key)?.1);
            Ok(ControlFlow::Break(()))
        })?;
    }
    Ok(at[0].zip(at[1]))
}

/// How many hot messages after `after` are from somebody else than the owner.
pub(crate) fn hot_unread(read: &impl Read, owner: &UserId, of: &ConversationKey, after: MsgId) -> Result<u64> {
    let from = keys::message(owner, of, after.saturating_add(1));
    let end = keys::after_prefix(&keys::conversation(owner, of));
    let mut unread = 0;
    read.scan(Family::Messages, &from, &end, false, &mut |_, value| {
        let (_, record) = MessageRecord::decode(value)?;
        unread += u64::from(record.from != owner.as_str());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(unread)
}

pub(crate) fn segment(read: &impl Read, owner: &UserId, number: u64) -> Result<Option<SegmentRecord>> {
    decoded(read, Family::Segments, &keys::segment(owner, number))
}

/// Positions of a segment's deleted rows.
pub(crate) fn deletions(read: &impl Read, owner: &UserId, number: u64) -> Result<roaring::RoaringBitmap> {
    match read.get(Family::Deletions, &keys::segment(owner, number))? {
        Some(bytes) => parse_deletions(&bytes),
        None => Ok(roaring::RoaringBitmap::new()),
    }
}

/// Reads the portable serialisation that the Roaring format specifies.
pub(crate) fn parse_deletions(bytes: &[u8]) -> Result<roaring::RoaringBitmap> {
    roaring::RoaringBitmap::deserialize_from(bytes).map_err(|_| crate::error::Error::corrupt("deletion vector"))
}

pub(crate) fn segments(read: &impl Read, owner: &UserId) -> Result<Vec<Segment>> {
    let records = under(read, Family::Segments, &keys::id_prefix(owner.as_str()), |key, value| {
        Ok((keys::parse_segment(key)?, SegmentRecord::decode(value)?))
    })?;
    records
        .into_iter()
        .map(|(number, record)| {
            Ok(Segment {
                number,
                path: record.path,
                rows: record.rows,
                bytes: record.bytes,
                created: record.created,
                msg_ids: record.msg_ids,
                timestamps: record.timestamps,
                conversations: record.conversations,
                deleted: deletions(read, owner, number)?,
            })
        })
        .collect()
}

/// The public form of an owner's counters.
pub(crate) fn owner_state(record: &OwnerRecord) -> OwnerState {
    OwnerState {
        change: record.change,
        cold_version: record.cold_version,
        hot_messages: record.hot_messages,
        hot_since: record.hot_since,
    }
}

/// The public form of an owner's view of a conversation.
pub(crate) fn public_conversation(owner: &UserId, key: ConversationKey, record: ConversationRecord) -> Conversation {
    Conversation {
        user_id: (key.kind == ConversationType::Ai).then(|| owner.clone()),
        first_msg_id: record.first,
        last_msg_id: record.shown_last.unwrap_or(record.last),
        created: record.created,
        updated: record.updated,
        storage_path: paths::conversation(owner, &key),
        metadata: record.metadata,
        last_read_msg_id: record.last_read,
        unread_count: record.unread,
        joined: record.joined,
        version: record.version,
        key,
    }
}

/// The public form of a participant.
pub(crate) fn public_member(group: &ConversationId, user: UserId, record: MemberRecord) -> Member {
    Member {
        user,
        group: group.clone(),
        role: record.role,
        created: record.created,
        updated: record.updated,
        metadata: record.metadata,
        version: record.version,
    }
}
