//! One consistent view of everything: what readers see.
//!
//! Invariant: hot rows, segments, deletion vectors and the commit number all come from one RocksDB snapshot, so that
//! while rows move from RocksDB to Parquet nothing is seen twice and nothing is missed.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use kalamdb_protocol::{ConversationId, ConversationType, MsgId, UserId};
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use tokio::sync::Notify;

use crate::{
    counters,
    database::{DatabaseSnapshot, Entries},
    error::{Error, Result},
    inbox::{InboxOrder, Inboxes},
    keys::{self, Family, Key},
    model::{
        AuditEntry, ColdTrash, Conversation, ConversationKey, HotMessage, LoggedChange, MessageRange, OwnerState,
        Participant, Segment, Seq, StoredFile, TrashedMessage,
    },
    newest::Newest,
    records::{AuditRecord, ChangeRecord, ConversationRecord, FileRecord, Record, TrashRecord},
    rows,
};

/// A consistent view of the database; cheap to clone. Files that it may read stay as long as a clone of it lives.
#[derive(Clone)]
pub struct Snapshot {
    database: DatabaseSnapshot,
    inboxes: Arc<Inboxes>,
    _pin: Arc<Pin>,
}

#[allow(clippy::missing_errors_doc, reason = "each of these fails when the disk does, and only then")]
impl Snapshot {
    /// Wraps a snapshot that was taken after `pin` was made.
    pub(crate) fn new(database: DatabaseSnapshot, inboxes: Arc<Inboxes>, pin: Arc<Pin>) -> Self {
        Self { database, inboxes, _pin: pin }
    }

    /// The last commit that it holds.
    pub fn seq(&self) -> Result<Seq> {
        counters::seq(&self.database)
    }

    /// Owners by id, from the first one after `after` on; at most `most`.
    pub fn owners_after(&self, after: Option<&UserId>, most: usize) -> Result<Vec<(UserId, OwnerState)>> {
        let owners = rows::owners_after(&self.database, after, most)?;
        Ok(owners.into_iter().map(|(owner, record)| (owner, rows::owner_state(&record))).collect())
    }

    /// Whether the owner has a segment.
    pub fn has_segments(&self, owner: &UserId) -> Result<bool> {
        rows::has_segments(&self.database, owner)
    }

    /// Every owner, by id.
    pub fn owners(&self) -> Result<Vec<(UserId, OwnerState)>> {
        let owners = rows::owners(&self.database)?;
        Ok(owners.into_iter().map(|(owner, record)| (owner, rows::owner_state(&record))).collect())
    }

    /// The counters of one owner; all zero when unknown.
    pub fn owner(&self, owner: &UserId) -> Result<OwnerState> {
        Ok(rows::owner_state(&rows::owner(&self.database, owner)?))
    }

    /// The owner's segments, by number.
    pub fn segments(&self, owner: &UserId) -> Result<Vec<Segment>> {
        rows::segments(&self.database, owner)
    }

    /// The hot messages of a range.
    pub fn messages(&self, owner: &UserId, range: &MessageRange) -> Result<MessageCursor> {
        let (from, to) = if let Some(conversation) = &range.conversation {
            let from = keys::message(owner, conversation, range.min_msg_id.unwrap_or(0));
            let to = match range.max_msg_id {
                Some(MsgId::MAX) | None => keys::after_prefix(&keys::conversation(owner, conversation)),
                Some(max) => keys::message(owner, conversation, max.saturating_add(1)),
            };
            (from, to)
        } else {
            let prefix = keys::id_prefix(owner.as_str());
            let end = keys::after_prefix(&prefix);
            (prefix, end)
        };
        let of = range.conversation.as_ref().filter(|_| range.newest_first);
        let walk = if from < to {
            let entries = self.database.iterate(Family::Messages, &from, &to, of.is_some())?;
            let first = keys::id_number(range.min_msg_id.unwrap_or(0));
            Some(Walk::new(entries, of.map(|of| (keys::conversation(owner, of), first))))
        } else {
            None
        };
        Ok(MessageCursor { walk, range: range.clone() })
    }

    /// The owner's hot messages with ids from the first to the second, both included and not negative, by id.
    pub fn messages_by_id(
        &self,
        owner: &UserId,
        ids: (MsgId, MsgId),
        newest_first: bool,
    ) -> Result<impl Iterator<Item = Result<HotMessage>> + use<>> {
        let (prefix, from) = (keys::id_prefix(owner.as_str()), keys::message_id(owner, ids.0));
        let to = match ids.1.checked_add(1) {
            Some(after) => keys::message_id(owner, after),
            None => keys::after_prefix(&prefix),
        };
        let mut walk = None;
        if from < to {
            let entries = self.database.iterate(Family::MessageIds, &from, &to, newest_first)?;
            walk = Some(Walk::new(entries, newest_first.then(|| (prefix, keys::id_number(ids.0)))));
        }
        let (database, owner) = (self.database.clone(), owner.clone());
        Ok(std::iter::from_fn(move || {
            let read = |key: &[u8], value: &[u8]| {
                Ok((keys::parse_conversation_value(value)?, keys::last_number(key)? as MsgId))
            };
            let (conversation, msg_id) = match walk.as_mut()?.next(read)? {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            };
            let found = rows::hot_message_of(&database, &owner, conversation, msg_id);
            Some(found.and_then(|found| found.ok_or_else(|| Error::corrupt("message"))))
        }))
    }

    /// The number of the owner's hot messages in a conversation.
    pub fn hot_messages(&self, owner: &UserId, conversation: &ConversationKey) -> Result<u64> {
        rows::hot_count(&self.database, owner, conversation)
    }

    /// A hot message, by its id.
    pub fn hot_message(&self, owner: &UserId, msg_id: MsgId) -> Result<Option<HotMessage>> {
        rows::hot_message(&self.database, owner, msg_id)
    }

    /// The owner's deleted messages that lie in RocksDB.
    pub fn trash(&self, owner: &UserId) -> Result<TrashCursor> {
        self.under(Family::Trash, owner).map(TrashCursor)
    }

    /// A deleted message that lies in RocksDB, by its id.
    pub fn trashed_message(&self, owner: &UserId, msg_id: MsgId) -> Result<Option<TrashedMessage>> {
        let record = rows::trashed(&self.database, owner, msg_id)?;
        Ok(record.map(|record| rows::public_trash(msg_id, record)))
    }

    /// The owner's deleted messages that lie in segments, by deletion and segment.
    pub fn cold_trash(&self, owner: &UserId) -> Result<Vec<ColdTrash>> {
        rows::all_cold_trash(&self.database, owner)?
            .into_iter()
            .map(|(deletion, number, record)| {
                let segment = rows::segment(&self.database, owner, number)?.ok_or_else(|| Error::corrupt("segment"))?;
                Ok(ColdTrash {
                    deletion,
                    segment: rows::public_segment(number, segment, RoaringBitmap::new()),
                    positions: rows::parse_deletions(&record.positions)?,
                    deleted_at: record.deleted_at,
                    expires_at: record.expires_at,
                })
            })
            .collect()
    }

    /// The owner's audit log.
    pub fn audit(&self, owner: &UserId) -> Result<AuditCursor> {
        self.under(Family::Audit, owner).map(AuditCursor)
    }

    /// The owner's changes after the `n`th change of commit `seq`; `None` when the log does not reach back that far.
    pub fn changes(&self, owner: &UserId, seq: Seq, n: u32) -> Result<Option<ChangeCursor>> {
        if seq < counters::changes_below(&self.database)? {
            return Ok(None);
        }
        let from = keys::change(owner, seq, n.saturating_add(1));
        let end = keys::after_prefix(&keys::id_prefix(owner.as_str()));
        Ok(Some(ChangeCursor(self.database.iterate(Family::Changes, &from, &end, false)?)))
    }

    /// All content files.
    pub fn files(&self) -> Result<FileCursor> {
        let entries = self.database.iterate(Family::Files, &[], &keys::after_prefix(&[]), false)?;
        Ok(FileCursor { entries, snapshot: self.clone() })
    }

    fn under(&self, family: Family, owner: &UserId) -> Result<Entries> {
        let prefix = keys::id_prefix(owner.as_str());
        self.database.iterate(family, &prefix, &keys::after_prefix(&prefix), false)
    }

    /// A conversation, as its owner sees it.
    pub fn conversation(&self, owner: &UserId, key: &ConversationKey) -> Result<Option<Conversation>> {
        let record = rows::conversation(&self.database, owner, key)?;
        record.map(|record| rows::public_conversation(&self.database, owner, key.clone(), &record)).transpose()
    }

    /// The lowest and highest id of the owner's messages in a conversation, whatever an UPDATE shows instead.
    pub fn message_ends(&self, owner: &UserId, key: &ConversationKey) -> Result<Option<(MsgId, MsgId)>> {
        let record = rows::conversation(&self.database, owner, key)?;
        Ok(record.and_then(|record| record.first.zip(record.last)))
    }

    /// The owner's conversations, in key order.
    pub fn conversations(&self, owner: &UserId) -> Result<ConversationCursor> {
        let entries = self.under(Family::Conversations, owner)?;
        Ok(ConversationCursor { entries, snapshot: self.clone(), owner: owner.clone() })
    }

    /// Conversations among which are the owner's first ones by this order, of these kinds, and all that share the last one's
    /// place; in no order. `None` where they must be picked out of all, and [`Self::gather_inbox`] may help the next time.
    pub fn first_conversations(
        &self,
        owner: &UserId,
        order: InboxOrder,
        kinds: &[ConversationType],
    ) -> Result<Option<impl Iterator<Item = Result<Conversation>> + use<>>> {
        let Some(keys) = self.inboxes.first(&self.database, owner, order, kinds)? else { return Ok(None) };
        let (snapshot, owner) = (self.clone(), owner.clone());
        Ok(Some(keys.into_iter().map(move |key| {
            let row = snapshot.conversation(&owner, &key)?;
            row.ok_or_else(|| Error::fault("an inbox has a conversation that is not there"))
        })))
    }

    /// Has the owner's first conversations at hand from now on, if those that were `seen`, looking for the first by this
    /// order, were so many that it helps.
    pub fn gather_inbox(&self, owner: &UserId, order: InboxOrder, seen: usize) -> Result<()> {
        self.inboxes.gather(&self.database, owner, order, seen)
    }

    /// The participants of a group, by user id.
    pub fn participants(&self, group: &ConversationId) -> Result<Vec<Participant>> {
        let rows = rows::participants(&self.database, group)?;
        Ok(rows.into_iter().map(|(user, record)| rows::public_participant(group, user, record)).collect())
    }

    /// A participant of a group.
    pub fn participant(&self, group: &ConversationId, user: &UserId) -> Result<Option<Participant>> {
        let record = rows::participant(&self.database, group, user)?;
        Ok(record.map(|record| rows::public_participant(group, user.clone(), record)))
    }

    /// The last commit that changed who takes part in the group, or as what; 0 when there is no such group.
    pub fn group_version(&self, group: &ConversationId) -> Result<Seq> {
        Ok(rows::group(&self.database, group)?.map_or(0, |group| group.version))
    }

    /// All participants of the groups that the owner takes part in.
    pub fn visible_participants(&self, owner: &UserId) -> Result<ParticipantCursor> {
        let conversations = self.under(Family::Conversations, owner)?;
        Ok(ParticipantCursor { conversations, participants: Vec::new().into_iter(), snapshot: self.clone() })
    }
}

/// An owner's conversations, read as they are asked for.
pub struct ConversationCursor {
    entries: Entries,
    snapshot: Snapshot,
    owner: UserId,
}

impl Iterator for ConversationCursor {
    type Item = Result<Conversation>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next(|key, value| {
            let (key, record) = (keys::parse_conversation(key)?, ConversationRecord::decode(value)?);
            rows::public_conversation(&self.snapshot.database, &self.owner, key, &record)
        })
    }
}

/// The participants of the groups that an owner takes part in, read a group at a time.
pub struct ParticipantCursor {
    conversations: Entries,
    participants: std::vec::IntoIter<Participant>,
    snapshot: Snapshot,
}

impl Iterator for ParticipantCursor {
    type Item = Result<Participant>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(participant) = self.participants.next() {
                return Some(Ok(participant));
            }
            let snapshot = &self.snapshot;
            let participants = self.conversations.next(|key, value| {
                let (key, record) = (keys::parse_conversation(key)?, ConversationRecord::decode(value)?);
                let takes_part = key.kind == ConversationType::Group && record.joined;
                if takes_part { snapshot.participants(&key.id) } else { Ok(Vec::new()) }
            })?;
            match participants {
                Ok(participants) => self.participants = participants.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Deleted messages in RocksDB, by id, read as they are asked for.
pub struct TrashCursor(Entries);

impl Iterator for TrashCursor {
    type Item = Result<TrashedMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(|key, value| Ok(rows::public_trash(keys::parse_message_id(key)?, TrashRecord::decode(value)?)))
    }
}

/// An owner's audit log, oldest first, read as it is asked for.
pub struct AuditCursor(Entries);

impl Iterator for AuditCursor {
    type Item = Result<AuditEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(|key, value| {
            let record = AuditRecord::decode(value)?;
            Ok(AuditEntry {
                audit_id: keys::parse_message_id(key)?,
                timestamp: record.timestamp,
                actor: record.actor,
                action: record.action,
                target: record.target,
                details: record.details,
            })
        })
    }
}

/// Content files, by path, read as they are asked for.
pub struct FileCursor {
    entries: Entries,
    snapshot: Snapshot,
}

impl Iterator for FileCursor {
    type Item = Result<StoredFile>;

    fn next(&mut self) -> Option<Self::Item> {
        let database = &self.snapshot.database;
        self.entries.next(|key, value| {
            let path = String::from_utf8(key.to_vec()).map_err(|_| Error::corrupt("file"))?;
            let references = rows::references(database, &path)?;
            Ok(rows::public_file(path, FileRecord::decode(value)?, references))
        })
    }
}

/// The changes of an owner's, in commit order, read as they are asked for.
pub struct ChangeCursor(Entries);

impl Iterator for ChangeCursor {
    type Item = Result<LoggedChange>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(|key, value| {
            let (seq, n) = keys::parse_change(key)?;
            let record = ChangeRecord::decode(value)?;
            Ok(LoggedChange { seq, n, kind: record.kind, conversation: record.conversation()?, msg_id: record.msg_id })
        })
    }
}

/// The snapshots that are alive: a file that one of them may read is not removed.
pub(crate) struct Pins {
    alive: Mutex<Alive>,
    /// The signal to remove files that snapshots kept from being removed.
    litter: Arc<Notify>,
}

#[derive(Default)]
struct Alive {
    /// The number of snapshots by the commit that they are at least as new as; at most as many as statements run.
    pins: BTreeMap<Seq, usize>,
    /// The first commit that released a file which a snapshot keeps from being removed.
    waiting: Option<Seq>,
}

impl Alive {
    /// Whether a snapshot may be older than this commit.
    fn block(&self, released: Seq) -> bool {
        self.pins.first_key_value().is_some_and(|(oldest, _)| *oldest < released)
    }
}

impl Pins {
    /// A set of pins without any snapshot yet.
    pub(crate) fn new(litter: Arc<Notify>) -> Self {
        Self { alive: Mutex::default(), litter }
    }

    /// Whether a snapshot may still read a file that was released by this commit; if so, the last such snapshot to go
    /// signals that the file can be removed.
    pub(crate) fn block(&self, released: Seq) -> bool {
        let mut alive = self.alive.lock();
        let blocked = alive.block(released);
        if blocked {
            alive.waiting = Some(alive.waiting.map_or(released, |waiting| waiting.min(released)));
        }
        blocked
    }

    /// Notes a snapshot that is about to be taken, `seq` being committed.
    pub(crate) fn pin(self: &Arc<Self>, seq: Seq) -> Arc<Pin> {
        *self.alive.lock().pins.entry(seq).or_default() += 1;
        Arc::new(Pin { pins: Arc::clone(self), seq })
    }
}

/// A mark that one snapshot is alive.
pub(crate) struct Pin {
    pins: Arc<Pins>,
    seq: Seq,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut alive = self.pins.alive.lock();
        if let Entry::Occupied(mut entry) = alive.pins.entry(self.seq) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        if alive.waiting.is_some_and(|released| !alive.block(released)) {
            alive.waiting = None;
            self.pins.litter.notify_one();
        }
    }
}

/// Hot messages, read as they are asked for.
pub struct MessageCursor {
    walk: Option<Walk<HotMessage>>,
    range: MessageRange,
}

/// The order in which entries are read.
enum Walk<T> {
    /// By their keys.
    InOrder(Entries),
    /// Of one prefix, the highest number first.
    NewestFirst(Newest<T>),
}

impl<T> Walk<T> {
    /// The entries in order; or from the newest on, of this prefix and of the numbers from this one on.
    fn new(entries: Entries, newest_first: Option<(Key, u64)>) -> Self {
        match newest_first {
            Some((prefix, from)) => Self::NewestFirst(Newest::new(entries, prefix, from)),
            None => Self::InOrder(entries),
        }
    }

    fn next(&mut self, read: impl Fn(&[u8], &[u8]) -> Result<T>) -> Option<Result<T>> {
        match self {
            Self::InOrder(entries) => entries.next(read),
            Self::NewestFirst(newest) => newest.next(read),
        }
    }
}

impl MessageCursor {
    fn wanted(&self, msg_id: MsgId) -> bool {
        self.range.min_msg_id.is_none_or(|min| msg_id >= min) && self.range.max_msg_id.is_none_or(|max| msg_id <= max)
    }
}

impl Iterator for MessageCursor {
    type Item = Result<HotMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let of = self.range.conversation.as_ref();
            let read = |key: &[u8], value: &[u8]| {
                let (conversation, msg_id) = match of {
                    // What the keys of one conversation begin with is known.
                    Some(of) => (of.clone(), keys::last_number(key)? as MsgId),
                    None => keys::parse_message(key)?,
                };
                rows::message(conversation, msg_id, value)
            };
            let item = self.walk.as_mut()?.next(read)?;
            match item {
                Ok(row) if !self.wanted(row.message.msg_id) => {}
                item => return Some(item),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether somebody was told to look again since the last time.
    async fn told(litter: &Notify) -> bool {
        let woken = tokio::time::timeout(std::time::Duration::ZERO, litter.notified()).await;
        woken.is_ok()
    }

    #[tokio::test]
    async fn only_the_last_snapshot_that_blocks_a_file_has_somebody_look_again() {
        let litter = Arc::new(Notify::new());
        let pins = Arc::new(Pins::new(Arc::clone(&litter)));
        let (old, older, new) = (pins.pin(5), pins.pin(3), pins.pin(9));
        assert!(!pins.block(3), "the oldest snapshot is not from before it");
        assert!(pins.block(8) && pins.block(6));
        drop(new);
        assert!(!told(&litter).await, "it blocked nothing");
        drop(older);
        assert!(!told(&litter).await, "there is another one");
        drop(old);
        assert!(told(&litter).await);
        drop(pins.pin(1));
        assert!(!told(&litter).await, "nothing waits any more");
    }
}
