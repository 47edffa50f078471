//! Typed reads, the same over the database, a snapshot and a write in progress.
//!
//! Invariant: pure functions of what they read; no rule of the data.

use std::ops::ControlFlow;

use kalamdb_protocol::{ConversationId, ConversationType, MsgId, UserId};

use crate::{
    database::Read,
    error::{Error, Result},
    keys::{self, Family},
    model::{
        Conversation, ConversationKey, HotMessage, Message, OwnerState, Participant, Segment, Seq, StoredFile,
        TrashedMessage,
    },
    paths,
    records::{
        ColdTrashRecord, ConversationRecord, FileRecord, GroupRecord, MessageRecord, MetadataRecord, OwnerRecord,
        ParticipantRecord, Record, ReferenceRecord, RulesRecord, SegmentRecord, TrashConversationRecord, TrashRecord,
    },
};

fn decoded<T: Record>(read: &impl Read, family: Family, key: &[u8]) -> Result<Option<T>> {
    read.view(family, key, T::decode)
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

/// The key of the rules in [`Family::Meta`].
pub(crate) const RULES_KEY: &[u8] = b"rules";

/// The rules that a command has set.
pub(crate) fn rules(read: &impl Read) -> Result<Option<RulesRecord>> {
    decoded(read, Family::Meta, RULES_KEY)
}

pub(crate) fn owner(read: &impl Read, owner: &UserId) -> Result<OwnerRecord> {
    Ok(decoded(read, Family::Owners, owner.as_str().as_bytes())?.unwrap_or_default())
}

pub(crate) fn owners(read: &impl Read) -> Result<Vec<(UserId, OwnerRecord)>> {
    under(read, Family::Owners, &[], |key, value| Ok((keys::parse_owner(key)?, OwnerRecord::decode(value)?)))
}

/// Owners by id, from the first one after `after` on; at most `most`.
pub(crate) fn owners_after(
    read: &impl Read,
    after: Option<&UserId>,
    most: usize,
) -> Result<Vec<(UserId, OwnerRecord)>> {
    // An id is a whole key here: the next key after it is the same with the lowest byte behind it.
    let from = after.map(|owner| [owner.as_str().as_bytes(), &[0]].concat()).unwrap_or_default();
    let mut owners = Vec::new();
    read.scan(Family::Owners, &from, &keys::after_prefix(&[]), false, &mut |key, value| {
        owners.push((keys::parse_owner(key)?, OwnerRecord::decode(value)?));
        Ok(if owners.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(owners)
}

/// Whether the owner has a segment.
pub(crate) fn has_segments(read: &impl Read, owner: &UserId) -> Result<bool> {
    has_any(read, Family::Segments, &keys::id_prefix(owner.as_str()))
}

/// Whether there is anything under a prefix.
fn has_any(read: &impl Read, family: Family, prefix: &[u8]) -> Result<bool> {
    let mut found = false;
    read.scan(family, prefix, &keys::after_prefix(prefix), false, &mut |_, _| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

pub(crate) fn group(read: &impl Read, group: &ConversationId) -> Result<Option<GroupRecord>> {
    decoded(read, Family::Groups, group.as_str().as_bytes())
}

pub(crate) fn participant(
    read: &impl Read,
    group: &ConversationId,
    user: &UserId,
) -> Result<Option<ParticipantRecord>> {
    decoded(read, Family::Participants, &keys::participant(group, user))
}

pub(crate) fn participants(read: &impl Read, group: &ConversationId) -> Result<Vec<(UserId, ParticipantRecord)>> {
    under(read, Family::Participants, &keys::id_prefix(group.as_str()), |key, value| {
        Ok((keys::parse_participant(key)?, ParticipantRecord::decode(value)?))
    })
}

/// The participants of a group, by id: their rows, and what they hold of metadata, are not read.
pub(crate) fn participant_ids(read: &impl Read, group: &ConversationId) -> Result<Vec<UserId>> {
    under(read, Family::Participants, &keys::id_prefix(group.as_str()), |key, _| keys::parse_participant(key))
}

pub(crate) fn conversation(
    read: &impl Read,
    owner: &UserId,
    key: &ConversationKey,
) -> Result<Option<ConversationRecord>> {
    decoded(read, Family::Conversations, &keys::conversation(owner, key))
}

/// A hot message by its id.
pub(crate) fn hot_message(read: &impl Read, owner: &UserId, msg_id: MsgId) -> Result<Option<HotMessage>> {
    let Some(value) = read.get(Family::MessageIds, &keys::message_id(owner, msg_id))? else { return Ok(None) };
    hot_message_of(read, owner, keys::parse_conversation_value(&value)?, msg_id)
}

/// A hot message of a conversation by its id.
pub(crate) fn hot_message_of(
    read: &impl Read,
    owner: &UserId,
    conversation: ConversationKey,
    msg_id: MsgId,
) -> Result<Option<HotMessage>> {
    let key = keys::message(owner, &conversation, msg_id);
    read.view(Family::Messages, &key, |bytes| message(conversation, msg_id, bytes))
}

/// A hot message from its value.
pub(crate) fn message(conversation: ConversationKey, msg_id: MsgId, bytes: &[u8]) -> Result<HotMessage> {
    let (version, record) = MessageRecord::decode(bytes)?;
    Ok(HotMessage { message: public_message(conversation, msg_id, record), version })
}

/// The public form of a message.
pub(crate) fn public_message(conversation: ConversationKey, msg_id: MsgId, record: MessageRecord) -> Message {
    Message {
        msg_id,
        conversation,
        from: record.from,
        timestamp: record.timestamp,
        content: record.content,
        content_ref: record.content_ref,
        metadata: record.metadata,
    }
}

/// The public form of a deleted message.
pub(crate) fn public_trash(msg_id: MsgId, record: TrashRecord) -> TrashedMessage {
    TrashedMessage {
        message: public_message(record.conversation, msg_id, record.message),
        deleted_at: record.deleted_at,
        expires_at: record.expires_at,
        version: record.version,
    }
}

/// The public form of a content file.
pub(crate) fn public_file(path: String, record: FileRecord, references: u64) -> StoredFile {
    StoredFile {
        path,
        conversation: record.conversation,
        owner: record.owner,
        kind: record.kind,
        content_type: record.content_type,
        bytes: record.bytes,
        created: record.created,
        thumbnail: record.thumbnail,
        references,
        doomed: record.doomed,
    }
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

/// The number of an owner's hot messages in a conversation.
pub(crate) fn hot_count(read: &impl Read, owner: &UserId, of: &ConversationKey) -> Result<u64> {
    let prefix = keys::conversation(owner, of);
    let mut count = 0;
    read.scan(Family::Messages, &prefix, &keys::after_prefix(&prefix), false, &mut |_, _| {
        count += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// The number of hot messages after `after` that are from somebody else than the owner.
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

pub(crate) fn file(read: &impl Read, path: &str) -> Result<Option<FileRecord>> {
    decoded(read, Family::Files, path.as_bytes())
}

/// The path of the file that a message refers to.
pub(crate) fn holding(read: &impl Read, owner: &UserId, of: &ConversationKey, msg_id: MsgId) -> Result<Option<String>> {
    let path = read.get(Family::Holdings, &keys::message(owner, of, msg_id))?;
    path.map(|path| String::from_utf8(path).map_err(|_| Error::corrupt("holding"))).transpose()
}

/// An owner's messages of a conversation that refer to files, deleted ones too: their ids and the files' paths.
pub(crate) fn holdings(read: &impl Read, owner: &UserId, of: &ConversationKey) -> Result<Vec<(MsgId, String)>> {
    under(read, Family::Holdings, &keys::conversation(owner, of), |key, path| {
        let path = String::from_utf8(path.to_vec()).map_err(|_| Error::corrupt("holding"))?;
        Ok((keys::parse_message(key)?.1, path))
    })
}

pub(crate) fn reference(
    read: &impl Read,
    path: &str,
    owner: &UserId,
    msg_id: MsgId,
) -> Result<Option<ReferenceRecord>> {
    decoded(read, Family::References, &keys::reference(path, owner, msg_id))
}

/// The number of messages that refer to the file, deleted ones that can come back too.
pub(crate) fn references(read: &impl Read, path: &str) -> Result<u64> {
    let prefix = keys::id_prefix(path);
    let mut count = 0;
    read.scan(Family::References, &prefix, &keys::after_prefix(&prefix), false, &mut |_, _| {
        count += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// Whether anything refers to the file.
pub(crate) fn is_referred_to(read: &impl Read, path: &str) -> Result<bool> {
    has_any(read, Family::References, &keys::id_prefix(path))
}

/// Whether the user may read the file: a message of theirs shows it, or they uploaded it and nothing refers to it yet.
pub(crate) fn may_read(read: &impl Read, user: &UserId, path: &str, file: &FileRecord) -> Result<bool> {
    if file.doomed {
        return Ok(false);
    }
    if file.unsent.is_some() {
        return Ok(&file.owner == user);
    }
    let prefix = keys::references_of(path, user);
    let mut shown = false;
    read.scan(Family::References, &prefix, &keys::after_prefix(&prefix), false, &mut |_, value| {
        shown = ReferenceRecord::decode(value)? == ReferenceRecord::Shown;
        Ok(if shown { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(shown)
}

pub(crate) fn trashed(read: &impl Read, owner: &UserId, msg_id: MsgId) -> Result<Option<TrashRecord>> {
    decoded(read, Family::Trash, &keys::trash(owner, msg_id))
}

pub(crate) fn cold_trash(
    read: &impl Read,
    owner: &UserId,
    deletion: Seq,
    segment: u64,
) -> Result<Option<ColdTrashRecord>> {
    decoded(read, Family::ColdTrash, &keys::cold_trash(owner, deletion, segment))
}

/// All that is left of an owner's deleted cold rows, by deletion and segment.
pub(crate) fn all_cold_trash(read: &impl Read, owner: &UserId) -> Result<Vec<(Seq, u64, ColdTrashRecord)>> {
    under(read, Family::ColdTrash, &keys::id_prefix(owner.as_str()), |key, value| {
        let (deletion, segment) = keys::parse_cold_trash(key)?;
        Ok((deletion, segment, ColdTrashRecord::decode(value)?))
    })
}

pub(crate) fn trashed_conversation(
    read: &impl Read,
    owner: &UserId,
    key: &ConversationKey,
) -> Result<Option<TrashConversationRecord>> {
    decoded(read, Family::TrashConversations, &keys::conversation(owner, key))
}

/// Reads the portable serialisation that the Roaring format specifies.
pub(crate) fn parse_deletions(bytes: &[u8]) -> Result<roaring::RoaringBitmap> {
    roaring::RoaringBitmap::deserialize_from(bytes).map_err(|_| Error::corrupt("deletion vector"))
}

/// Writes the portable serialisation that [`parse_deletions`] reads.
pub(crate) fn encode_deletions(deleted: &roaring::RoaringBitmap) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(deleted.serialized_size());
    deleted.serialize_into(&mut bytes).map_err(|_| Error::corrupt("deletion vector"))?;
    Ok(bytes)
}

pub(crate) fn segments(read: &impl Read, owner: &UserId) -> Result<Vec<Segment>> {
    let records = under(read, Family::Segments, &keys::id_prefix(owner.as_str()), |key, value| {
        Ok((keys::parse_segment(key)?, SegmentRecord::decode(value)?))
    })?;
    records
        .into_iter()
        .map(|(number, record)| Ok(public_segment(number, record, deletions(read, owner, number)?)))
        .collect()
}

/// The public form of a segment.
pub(crate) fn public_segment(number: u64, record: SegmentRecord, deleted: roaring::RoaringBitmap) -> Segment {
    Segment {
        number,
        path: record.path,
        rows: record.rows,
        bytes: record.bytes,
        created: record.created,
        msg_ids: record.msg_ids,
        timestamps: record.timestamps,
        conversations: record.conversations,
        deleted,
    }
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

/// Whether the metadata of a conversation is its group's: an AI conversation has its own, and so has who left a group.
pub(crate) fn shares_metadata(key: &ConversationKey, view: &ConversationRecord) -> bool {
    key.kind == ConversationType::Group && view.joined
}

/// The metadata of a conversation as its owner sees it: the group's, or the owner's own. The view itself holds it in
/// older folders, until it is next written.
pub(crate) fn metadata(
    read: &impl Read,
    owner: &UserId,
    key: &ConversationKey,
    view: &ConversationRecord,
) -> Result<Option<String>> {
    if shares_metadata(key, view)
        && let Some(group) = group(read, &key.id)?
    {
        return Ok(group.metadata);
    }
    let own = decoded::<MetadataRecord>(read, Family::ConversationMetadata, &keys::conversation(owner, key))?;
    Ok(own.map(|own| own.text).or_else(|| view.metadata.clone()))
}

/// The public form of an owner's view of a conversation.
pub(crate) fn public_conversation(
    read: &impl Read,
    owner: &UserId,
    key: ConversationKey,
    record: &ConversationRecord,
) -> Result<Conversation> {
    Ok(Conversation {
        user_id: (key.kind == ConversationType::Ai).then(|| owner.clone()),
        first_msg_id: record.first,
        last_msg_id: record.shown_last.unwrap_or(record.last),
        created: record.created,
        updated: record.updated,
        storage_path: paths::conversation(owner, &key),
        metadata: metadata(read, owner, &key, record)?,
        last_read_msg_id: record.last_read,
        unread_count: record.unread,
        joined: record.joined,
        version: record.version,
        key,
    })
}

/// The public form of a participant.
pub(crate) fn public_participant(group: &ConversationId, user: UserId, record: ParticipantRecord) -> Participant {
    Participant {
        user,
        group: group.clone(),
        role: record.role,
        created: record.created,
        updated: record.updated,
        metadata: record.metadata,
        version: record.version,
    }
}
