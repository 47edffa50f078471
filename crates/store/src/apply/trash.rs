//! The trash: deleted messages that can come back for a while, their way back, and their end.
//!
//! Invariant: a copy is in exactly one place: among the messages, in the trash, or gone. In the trash it keeps its
//! reference to a file, hidden; when it goes for good the reference goes in the same commit.

use kalamdb_protocol::{AuditAction, ConversationType, Micros, MsgId, UserId};
use roaring::RoaringBitmap;

use super::{Apply, audit, messages::with_message};
use crate::{
    commit::Place,
    database::Read,
    due::Due,
    error::{Error, Result},
    feed::RowState,
    keys::{self, Family},
    model::{ChangeKind, ConversationKey, Seq},
    overlay::Value,
    records::{
        ColdTrashRecord, ConversationRecord, MessageRecord, Record, ReferenceRecord, TrashConversationRecord,
        TrashRecord,
    },
    rows,
};

/// The trash rows of one segment, while a commit changes them.
pub(super) struct ColdTrashRows {
    pub(super) deleted_at: Micros,
    pub(super) expires_at: Micros,
    pub(super) positions: RoaringBitmap,
}

impl Apply<'_, '_> {
    /// The time at which a row that is deleted now expires; `None` when it goes at once.
    pub(super) fn trash_expiry(&self) -> Option<Micros> {
        self.rules.trash_retention.map(|retention| self.now.saturating_add(retention))
    }

    /// A copy leaves the messages, for the trash or for good.
    pub(super) fn discard(&mut self, owner: &UserId, key: &ConversationKey, msg_id: MsgId, place: Place) -> Result<()> {
        let Some(expires_at) = self.trash_expiry() else {
            self.take(owner, key, msg_id, place)?;
            return self.release(owner, key, msg_id);
        };
        match place {
            Place::Hot { version } => {
                let message = self.take_hot(owner, key, msg_id, Some(version))?;
                self.put_trash(owner, msg_id, &self.trashed(key, message, expires_at))?;
                self.mark_reference(owner, key, msg_id, ReferenceRecord::Hidden { deletion: self.seq })?;
                Ok(())
            }
            Place::Cold { segment, position } => {
                self.trash_cold(owner, segment, &[(position, position + 1)], expires_at)?;
                self.hide_cold(owner, key, msg_id, expires_at)
            }
            Place::TrashedHot { .. } | Place::TrashedCold { .. } => Err(Error::changed()),
        }
    }

    /// The trash row of a message that this commit deletes.
    pub(super) fn trashed(&self, key: &ConversationKey, message: MessageRecord, expires_at: Micros) -> TrashRecord {
        TrashRecord { version: self.seq, conversation: key.clone(), message, deleted_at: self.now, expires_at }
    }

    /// Puts a message into the trash.
    pub(super) fn put_trash(&mut self, owner: &UserId, msg_id: MsgId, record: &TrashRecord) -> Result<()> {
        let (at, expires_at) = (keys::trash(owner, msg_id), record.expires_at);
        assert!(self.overlay.get(Family::Trash, &at)?.is_none(), "a copy is in one place");
        self.put(Family::Trash, at, record.encode()?);
        self.put(Family::Due, Due::Trash { owner: owner.clone(), msg_id }.key(expires_at), Vec::new());
        self.count_row()
    }

    /// Takes a message out of the trash, if it is still as the preparation saw it.
    pub(super) fn take_trash(&mut self, owner: &UserId, msg_id: MsgId, version: Option<Seq>) -> Result<TrashRecord> {
        let record = rows::trashed(self.overlay, owner, msg_id)?.ok_or_else(Error::changed)?;
        if version.is_some_and(|version| version != record.version) {
            return Err(Error::changed());
        }
        self.overlay.delete(Family::Trash, keys::trash(owner, msg_id));
        self.overlay.delete(Family::Due, Due::Trash { owner: owner.clone(), msg_id }.key(record.expires_at));
        Ok(record)
    }

    /// Marks rows of a segment as deleted, and as such that can come back.
    pub(super) fn trash_cold(
        &mut self,
        owner: &UserId,
        segment: u64,
        ranges: &[(u32, u32)],
        expires_at: Micros,
    ) -> Result<()> {
        self.mark_deleted(owner, segment, ranges)?;
        let (deleted_at, deletion) = (self.now, self.seq);
        let rows = self.cold_trash.entry((owner.clone(), deletion, segment)).or_insert_with(|| ColdTrashRows {
            deleted_at,
            expires_at,
            positions: RoaringBitmap::new(),
        });
        for (start, end) in ranges {
            rows.positions.insert_range(*start..*end);
        }
        Ok(())
    }

    /// Hides the file that a cold message refers to; nothing but this says when that ends, because the message's
    /// row is not read here.
    pub(super) fn hide_cold(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        expires_at: Micros,
    ) -> Result<()> {
        if self.mark_reference(owner, key, msg_id, ReferenceRecord::Hidden { deletion: self.seq })? {
            let due = Due::Holding { owner: owner.clone(), deletion: self.seq, conversation: key.clone(), msg_id };
            self.put(Family::Due, due.key(expires_at), Vec::new());
        }
        Ok(())
    }

    /// The trash rows of a segment, to be written at the end.
    pub(super) fn cold_trash_rows(
        &mut self,
        owner: &UserId,
        deletion: Seq,
        segment: u64,
    ) -> Result<&mut ColdTrashRows> {
        let at = (owner.clone(), deletion, segment);
        if !self.cold_trash.contains_key(&at) {
            let record = rows::cold_trash(self.overlay, owner, deletion, segment)?.ok_or_else(Error::changed)?;
            let rows = ColdTrashRows {
                deleted_at: record.deleted_at,
                expires_at: record.expires_at,
                positions: rows::parse_deletions(&record.positions)?,
            };
            self.cold_trash.insert(at.clone(), rows);
        }
        self.cold_trash.get_mut(&at).ok_or_else(Error::changed)
    }

    /// Takes a row of a segment out of the trash; tells when it was deleted and expires.
    pub(super) fn take_cold_trash(
        &mut self,
        owner: &UserId,
        deletion: Seq,
        segment: u64,
        position: u32,
    ) -> Result<(Micros, Micros)> {
        let rows = self.cold_trash_rows(owner, deletion, segment)?;
        if !rows.positions.remove(position) {
            return Err(Error::changed());
        }
        Ok((rows.deleted_at, rows.expires_at))
    }

    /// Writes the trash rows of segments; one with none left goes.
    pub(super) fn write_cold_trash(&mut self) -> Result<()> {
        for ((owner, deletion, segment), rows) in std::mem::take(&mut self.cold_trash) {
            let key = keys::cold_trash(&owner, deletion, segment);
            let due = Due::ColdTrash { owner, deletion, segment }.key(rows.expires_at);
            if rows.positions.is_empty() {
                self.overlay.delete(Family::ColdTrash, key);
                self.overlay.delete(Family::Due, due);
                continue;
            }
            let record = ColdTrashRecord {
                deleted_at: rows.deleted_at,
                expires_at: rows.expires_at,
                positions: rows::encode_deletions(&rows.positions)?,
            };
            self.put(Family::ColdTrash, key, record.encode()?);
            self.put(Family::Due, due, Vec::new());
        }
        Ok(())
    }

    /// Keeps what a deleted conversation's row said, for when a message of it comes back.
    pub(super) fn trash_conversation(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        conversation: ConversationRecord,
        expires_at: Micros,
    ) -> Result<()> {
        self.forget_trashed_conversation(owner, key)?;
        let record = TrashConversationRecord { conversation, expires_at };
        self.put(Family::TrashConversations, keys::conversation(owner, key), record.encode()?);
        let due = Due::Conversation { owner: owner.clone(), conversation: key.clone() };
        self.put(Family::Due, due.key(expires_at), Vec::new());
        Ok(())
    }

    fn forget_trashed_conversation(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
    ) -> Result<Option<ConversationRecord>> {
        let Some(record) = rows::trashed_conversation(self.overlay, owner, key)? else { return Ok(None) };
        self.overlay.delete(Family::TrashConversations, keys::conversation(owner, key));
        let due = Due::Conversation { owner: owner.clone(), conversation: key.clone() };
        self.overlay.delete(Family::Due, due.key(record.expires_at));
        Ok(Some(record.conversation))
    }

    /// Brings a copy back, and its conversation with it.
    pub(super) fn restore(
        &mut self,
        owner: &UserId,
        msg_id: MsgId,
        key: &ConversationKey,
        from: &str,
        place: Place,
    ) -> Result<()> {
        let after = match place {
            Place::TrashedHot { version } => {
                let record = self.take_trash(owner, msg_id, Some(version))?;
                let (bytes, at) = (record.message.encode(self.seq)?.into(), keys::conversation_value(key));
                assert!(!self.has_hot(owner, msg_id)?, "a copy is in one place");
                self.put_hot(owner, key, msg_id, bytes, Value::from(&*at))?;
                RowState::There(Self::told_row(key, msg_id, &record.message))
            }
            Place::TrashedCold { deletion, segment, position } => {
                self.take_cold_trash(owner, deletion, segment, position)?;
                self.unmark_deleted(owner, segment, position)?;
                RowState::Cold
            }
            Place::Hot { .. } | Place::Cold { .. } => return Err(Error::changed()),
        };
        self.mark_reference(owner, key, msg_id, ReferenceRecord::Shown)?;
        let row = match rows::conversation(self.overlay, owner, key)? {
            Some(row) => row,
            None => self.restored_conversation(owner, key)?,
        };
        self.put_conversation(owner, key, with_message(row, owner, msg_id, from))?;
        self.note_messages(owner, AuditAction::MessageRestore, audit::messages_of(key), 1);
        self.tell_message(owner, key, msg_id, RowState::Absent, after);
        self.log(owner, ChangeKind::MessageRestored, key, Some(msg_id))
    }

    /// A deleted conversation as it was, without messages; in a group its owner has left it.
    fn restored_conversation(&mut self, owner: &UserId, key: &ConversationKey) -> Result<ConversationRecord> {
        let mut row = match self.forget_trashed_conversation(owner, key)? {
            Some(row) => ConversationRecord { first: None, last: None, shown_last: None, unread: 0, ..row },
            None => ConversationRecord::new(self.now, self.now, None),
        };
        row.joined = key.kind == ConversationType::Ai || rows::participant(self.overlay, &key.id, owner)?.is_some();
        Ok(row)
    }

    /// Removes a copy in the trash for good.
    pub(super) fn purge(&mut self, owner: &UserId, msg_id: MsgId, key: &ConversationKey, place: Place) -> Result<()> {
        match place {
            Place::TrashedHot { version } => {
                self.take_trash(owner, msg_id, Some(version))?;
            }
            Place::TrashedCold { deletion, segment, position } => {
                self.take_cold_trash(owner, deletion, segment, position)?;
                let seq = self.seq;
                self.owner(owner)?.0.cold_version = seq;
            }
            Place::Hot { .. } | Place::Cold { .. } => return Err(Error::changed()),
        }
        self.release(owner, key, msg_id)?;
        self.note_messages(owner, AuditAction::MessagePurge, audit::messages_of(key), 1);
        self.touch(owner)?;
        self.count_row()
    }

    /// Does what is due: each entry that its row still agrees with.
    pub(crate) fn expire(&mut self, entries: &[Vec<u8>]) -> Result<(u64, u64)> {
        let (mut messages, mut uploads) = (0, 0);
        for key in entries {
            let (at, due) = Due::parse(key)?;
            if at > self.now {
                // Only the commit's time tells; whoever proposed this went by a clock.
                continue;
            }
            self.overlay.delete(Family::Due, key.clone());
            match due {
                Due::Trash { owner, msg_id } => messages += self.expire_trash(&owner, msg_id, at)?,
                Due::ColdTrash { owner, deletion, segment } => {
                    messages += self.expire_cold_trash(&owner, deletion, segment)?;
                }
                Due::Holding { owner, deletion, conversation, msg_id } => {
                    // A message that came back shows its file again, and a later deletion of it has its own entry.
                    let reference = self.reference_of(&owner, &conversation, msg_id)?;
                    if reference.is_some_and(|(_, now)| now == ReferenceRecord::Hidden { deletion }) {
                        self.release(&owner, &conversation, msg_id)?;
                    }
                }
                Due::Conversation { owner, conversation } => {
                    self.forget_trashed_conversation(&owner, &conversation)?;
                }
                Due::Upload { path } => {
                    if rows::file(self.overlay, &path)?
                        .is_some_and(|file| file.unsent.is_some_and(|unsent| unsent.until == at))
                    {
                        self.doom(&path)?;
                        uploads += 1;
                    }
                }
                Due::Move { .. } | Due::Removal { .. } => {}
            }
        }
        Ok((messages, uploads))
    }

    fn expire_trash(&mut self, owner: &UserId, msg_id: MsgId, at: Micros) -> Result<u64> {
        match rows::trashed(self.overlay, owner, msg_id)? {
            Some(record) if record.expires_at == at => {
                self.take_trash(owner, msg_id, None)?;
                self.release(owner, &record.conversation, msg_id)?;
                let target = audit::messages_of(&record.conversation);
                self.note_messages(owner, AuditAction::MessagePurge, target, 1);
                self.touch(owner)?;
                Ok(1)
            }
            _ => Ok(0),
        }
    }

    fn expire_cold_trash(&mut self, owner: &UserId, deletion: Seq, segment: u64) -> Result<u64> {
        if rows::cold_trash(self.overlay, owner, deletion, segment)?.is_none() {
            return Ok(0);
        }
        let rows = self.cold_trash_rows(owner, deletion, segment)?;
        let messages = rows.positions.len();
        rows.positions.clear();
        self.note_messages(owner, AuditAction::MessagePurge, "messages".to_owned(), messages);
        let seq = self.seq;
        let (record, changed) = self.owner(owner)?;
        record.cold_version = seq;
        *changed = true;
        Ok(messages)
    }
}
