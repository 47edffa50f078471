//! Sending, editing and deleting messages.
//!
//! Invariant: a message's copies, their index entries, the conversations' rows and the change log move together.

use std::{rc::Rc, sync::Arc};

use kalamdb_protocol::{AuditAction, ConversationId, ConversationType, MsgId, UserId};

use super::{Apply, ColdEnds, audit, change_row, forbidden, invalid};
use crate::{
    command::Spooled,
    commit::{Actor, Change, NewMessage, Place, Proposal, Sent},
    database::Read,
    error::{Error, Result},
    feed::RowState,
    keys::{self, Family},
    large,
    model::{ChangeKind, ConversationKey, FileKind, Message, Seq},
    overlay::Value,
    records::{ConversationRecord, MessageRecord, ReferenceRecord, TrashRecord},
    rows,
};

impl Apply<'_, '_> {
    /// Sends a message to its owner, or to every participant of a group; its `text` when that is in the spool, and
    /// the message holds its beginning only.
    pub(super) fn send(&mut self, actor: &Actor, new: &NewMessage, text: Option<&Spooled>) -> Result<Sent> {
        let kind = self.kind_of(&new.owner, &new.conversation, new.kind)?;
        let key = ConversationKey { id: new.conversation.clone(), kind };
        let from = new.from.clone().unwrap_or_else(|| new.owner.as_str().to_owned());
        let (recipients, conversation_created) = match key.kind {
            ConversationType::Ai => {
                (vec![new.owner.clone()], rows::conversation(self.overlay, &new.owner, &key)?.is_none())
            }
            ConversationType::Group => {
                check_sender(actor, new, &from)?;
                self.recipients(actor, &new.owner, &key)?
            }
        };
        let msg_id = self.msg_id(actor, new, &key, &recipients)?;
        let mut record = MessageRecord {
            from,
            timestamp: self.time(new.timestamp)?,
            content: new.content.clone(),
            content_ref: new.content_ref.clone(),
            metadata: new.metadata.clone(),
        };
        if let Some(path) = &record.content_ref {
            self.check_given(actor, &new.owner, &key, path)?;
        }
        if let Some(text) = text {
            record.content_ref = Some(self.add_text(&new.owner, &key, msg_id, false, text)?);
            record.metadata = large::describe(record.metadata.as_deref(), text.bytes)?;
        }
        // What the copies have in common is made once.
        let (bytes, at) = (Value::from(record.encode(self.seq)?), Value::from(&*keys::conversation_value(&key)));
        let change = change_row(ChangeKind::MessageSent, &key, Some(msg_id))?;
        let row = self.row_for(&recipients, &key, msg_id, &record);
        for owner in &recipients {
            self.put_hot(owner, &key, msg_id, Rc::clone(&bytes), Rc::clone(&at))?;
            if let Some(path) = &record.content_ref {
                self.refer(path, owner, &key, msg_id, ReferenceRecord::Shown)?;
            }
            let conversation = match rows::conversation(self.overlay, owner, &key)? {
                Some(conversation) => conversation,
                None => ConversationRecord::new(self.now, self.now, None),
            };
            self.put_conversation(owner, &key, with_message(conversation, owner, msg_id, &record.from))?;
            if let Some(row) = &row {
                self.tell_message(owner, &key, msg_id, RowState::Absent, RowState::There(Arc::clone(row)));
            }
            self.log_row(owner, Rc::clone(&change))?;
        }
        Ok(Sent { msg_id, conversation: key, timestamp: record.timestamp, conversation_created })
    }

    /// The type of the conversation that a message or upload goes to: as given, else the group of that id that the
    /// owner is in, else their AI conversation of that id, else the default.
    pub(super) fn kind_of(
        &self,
        owner: &UserId,
        id: &ConversationId,
        given: Option<ConversationType>,
    ) -> Result<ConversationType> {
        if let Some(kind) = given {
            return Ok(kind);
        }
        let of = |kind| ConversationKey { id: id.clone(), kind };
        if rows::conversation(self.overlay, owner, &of(ConversationType::Group))?.is_some_and(|row| row.joined) {
            return Ok(ConversationType::Group);
        }
        if rows::conversation(self.overlay, owner, &of(ConversationType::Ai))?.is_some() {
            return Ok(ConversationType::Ai);
        }
        Ok(self.rules.default_type)
    }

    /// The owners who get a copy of what is sent to a group, which is founded if there is none; and whether it was.
    pub(super) fn recipients(
        &mut self,
        actor: &Actor,
        owner: &UserId,
        key: &ConversationKey,
    ) -> Result<(Vec<UserId>, bool)> {
        let founded = rows::group(self.overlay, &key.id)?.is_none();
        if founded {
            self.found_group(owner, key, self.now, None)?;
        }
        let participants = rows::participant_ids(self.overlay, &key.id)?;
        if !actor.admin && !participants.contains(owner) {
            return Err(not_a_participant());
        }
        Ok((participants, founded))
    }

    /// The message's id: the next one, or the one given if it is free for every recipient.
    fn msg_id(
        &mut self,
        actor: &Actor,
        new: &NewMessage,
        key: &ConversationKey,
        recipients: &[UserId],
    ) -> Result<MsgId> {
        let next = self.counters.next_msg_id(self.now)?;
        let Some(given) = new.msg_id else {
            self.counters.last_msg_id = next;
            return Ok(next);
        };
        if key.kind == ConversationType::Group && !actor.admin {
            return Err(forbidden("In a group the server gives the msgId; leave it out."));
        }
        if given <= 0 || given >= next {
            return Err(invalid(format!("A msgId must be positive and below the next generated one, {next}.")));
        }
        for owner in recipients {
            // Ids in segments were looked up by the preparation, which expects the segments to be unchanged.
            if self.has_hot(owner, given)? {
                return Err(Error::id_taken(given));
            }
            if rows::trashed(self.overlay, owner, given)?.is_some() {
                return Err(Error::id_in_trash(given));
            }
        }
        // Generated ids go on above a given one: after a clock jump they would otherwise reach it a second time.
        self.counters.last_msg_id = self.counters.last_msg_id.max(given);
        Ok(given)
    }

    pub(super) fn has_hot(&self, owner: &UserId, msg_id: MsgId) -> Result<bool> {
        Ok(self.overlay.get(Family::MessageIds, &keys::message_id(owner, msg_id))?.is_some())
    }

    /// Writes a hot copy, and its entry by id, whose value is `at`: [`keys::conversation_value`].
    pub(super) fn put_hot(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        bytes: Value,
        at: Value,
    ) -> Result<()> {
        assert!(msg_id > 0, "a message's id is positive");
        self.put(Family::Messages, keys::message(owner, key, msg_id), bytes);
        self.put(Family::MessageIds, keys::message_id(owner, msg_id), at);
        let now = self.now;
        let (record, _) = self.owner(owner)?;
        record.hot_messages += 1;
        record.hot_since.get_or_insert(now);
        Ok(())
    }

    pub(super) fn delete_hot(&mut self, owner: &UserId, key: &ConversationKey, msg_id: MsgId) -> Result<()> {
        self.overlay.delete(Family::Messages, keys::message(owner, key, msg_id));
        self.overlay.delete(Family::MessageIds, keys::message_id(owner, msg_id));
        let (record, _) = self.owner(owner)?;
        record.hot_messages =
            record.hot_messages.checked_sub(1).expect("an owner's hot messages are counted one by one");
        if record.hot_messages == 0 {
            record.hot_since = None;
        }
        Ok(())
    }

    /// Takes a hot copy, if it is still the version that the preparation saw.
    pub(super) fn take_hot(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        version: Option<Seq>,
    ) -> Result<MessageRecord> {
        let bytes = self.overlay.get(Family::Messages, &keys::message(owner, key, msg_id))?;
        let (now, record) = MessageRecord::decode(&bytes.ok_or_else(Error::changed)?)?;
        if version.is_some_and(|version| version != now) {
            return Err(Error::changed());
        }
        self.delete_hot(owner, key, msg_id)?;
        Ok(record)
    }

    /// Takes a copy from where it lies among the messages, if it still lies there unchanged.
    pub(super) fn take(&mut self, owner: &UserId, key: &ConversationKey, msg_id: MsgId, place: Place) -> Result<()> {
        match place {
            Place::Hot { version } => self.take_hot(owner, key, msg_id, Some(version)).map(|_| ()),
            Place::Cold { segment, position } => self.mark_deleted(owner, segment, &[(position, position + 1)]),
            Place::TrashedHot { .. } | Place::TrashedCold { .. } => Err(Error::changed()),
        }
    }

    /// Gives a message new content or metadata in each copy named; its new `text` when that is in the spool.
    pub(super) fn edit(&mut self, actor: &Actor, change: &Change, text: Option<&Spooled>) -> Result<()> {
        let Change::Edit { owner, message, content, metadata, copies } = change else { return Ok(()) };
        let key = &message.conversation;
        if key.kind == ConversationType::Group && !actor.admin {
            if message.from != owner.as_str() {
                return Err(forbidden("In a group only the sender may change a message."));
            }
            if rows::participant(self.overlay, &key.id, owner)?.is_none() {
                return Err(not_a_participant());
            }
        }
        let record = self.edited(owner, message, content.as_ref(), metadata.as_ref(), text)?;
        let after = self.row_for(copies.iter().map(|(owner, _)| owner), key, message.msg_id, &record);
        let rows = after.map(|after| (Arc::new(message.clone()), after));
        for (owner, place) in copies {
            if let (Some((before, after)), Place::Hot { .. } | Place::Cold { .. }) = (&rows, place) {
                let (before, after) = (RowState::There(Arc::clone(before)), RowState::There(Arc::clone(after)));
                self.tell_message(owner, key, message.msg_id, before, after);
            }
            self.replace(owner, key, message.msg_id, *place, &record)?;
            self.refer_anew(owner, key, message.msg_id, record.content_ref.as_deref())?;
        }
        Ok(())
    }

    /// The new content of an edited message: its text stays in a file, moves to one, or comes back from one.
    fn edited(
        &mut self,
        owner: &UserId,
        old: &Message,
        content: Option<&String>,
        metadata: Option<&Option<String>>,
        text: Option<&Spooled>,
    ) -> Result<MessageRecord> {
        let file = match &old.content_ref {
            Some(path) => rows::file(self.overlay, path)?,
            None => None,
        };
        let text_file = file.as_ref().filter(|file| file.kind == FileKind::Text);
        if text.is_some() && file.is_some() && text_file.is_none() {
            return Err(invalid(large::TEXT_AND_MEDIA));
        }
        let given = metadata.unwrap_or(&old.metadata).as_deref();
        let (content_ref, metadata) = match (text, text_file) {
            (Some(text), _) => {
                let path = self.add_text(owner, &old.conversation, old.msg_id, true, text)?;
                (Some(path), large::describe(given, text.bytes)?)
            }
            (None, Some(file)) if content.is_none() => (old.content_ref.clone(), large::describe(given, file.bytes)?),
            (None, Some(_)) => (None, large::undescribe(given)?),
            (None, None) => (old.content_ref.clone(), given.map(str::to_owned)),
        };
        Ok(MessageRecord {
            from: old.from.clone(),
            timestamp: old.timestamp,
            content: content.unwrap_or(&old.content).clone(),
            content_ref,
            metadata,
        })
    }

    /// Writes a copy anew, where it lies if that is RocksDB, else there.
    fn replace(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        place: Place,
        record: &MessageRecord,
    ) -> Result<()> {
        let (deleted_at, expires_at) = match place {
            Place::Hot { .. } | Place::Cold { .. } => {
                self.take(owner, key, msg_id, place)?;
                let at = Value::from(&*keys::conversation_value(key));
                self.put_hot(owner, key, msg_id, record.encode(self.seq)?.into(), at)?;
                if let Some(row) = rows::conversation(self.overlay, owner, key)? {
                    self.put_conversation(owner, key, row)?;
                }
                return self.log(owner, ChangeKind::MessageEdited, key, Some(msg_id));
            }
            Place::TrashedHot { version } => {
                let old = self.take_trash(owner, msg_id, Some(version))?;
                (old.deleted_at, old.expires_at)
            }
            Place::TrashedCold { deletion, segment, position } => {
                self.take_cold_trash(owner, deletion, segment, position)?
            }
        };
        let seq = self.seq;
        self.owner(owner)?.0.cold_version = seq;
        let trashed = TrashRecord { deleted_at, ..self.trashed(key, record.clone(), expires_at) };
        self.put_trash(owner, msg_id, &trashed)?;
        self.touch(owner)
    }

    /// Lets a copy refer to the file that its message has now, shown or hidden as before.
    fn refer_anew(&mut self, owner: &UserId, key: &ConversationKey, msg_id: MsgId, path: Option<&str>) -> Result<()> {
        let old = self.reference_of(owner, key, msg_id)?;
        if old.as_ref().map(|(path, _)| path.as_str()) == path {
            return Ok(());
        }
        self.release(owner, key, msg_id)?;
        let Some(path) = path else { return Ok(()) };
        // A copy that had no file is hidden with its own trash row, whose expiry takes the reference with it.
        let reference = match old {
            Some((_, reference)) => reference,
            None if rows::trashed(self.overlay, owner, msg_id)?.is_some() => {
                ReferenceRecord::Hidden { deletion: self.seq }
            }
            None => ReferenceRecord::Shown,
        };
        self.refer(path, owner, key, msg_id, reference)
    }

    /// Removes one owner's copy.
    pub(super) fn delete(
        &mut self,
        owner: &UserId,
        msg_id: MsgId,
        conversation: &ConversationKey,
        from: &str,
        place: Place,
    ) -> Result<()> {
        let before = self.row_at(owner, conversation, msg_id, place)?;
        self.discard(owner, conversation, msg_id, place)?;
        if let Some(mut row) = rows::conversation(self.overlay, owner, conversation)? {
            if from != owner.as_str() && msg_id > row.last_read.unwrap_or(0) {
                row.unread = row.unread.checked_sub(1).expect("unread messages are counted one by one");
            }
            if row.first == Some(msg_id) || row.last == Some(msg_id) {
                self.shortened.insert((owner.clone(), conversation.clone()));
            }
            row.shown_last = None;
            self.put_conversation(owner, conversation, row)?;
        }
        self.note_messages(owner, self.deletion(), audit::messages_of(conversation), 1);
        self.tell_message(owner, conversation, msg_id, before, RowState::Absent);
        self.log(owner, ChangeKind::MessageDeleted, conversation, Some(msg_id))
    }

    /// A message as it is now, for subscribers.
    fn row_at(&self, owner: &UserId, key: &ConversationKey, msg_id: MsgId, place: Place) -> Result<RowState<Message>> {
        if !self.watched.contains(owner) || !matches!(place, Place::Hot { .. }) {
            return Ok(RowState::Cold);
        }
        match self.overlay.get(Family::Messages, &keys::message(owner, key, msg_id))? {
            Some(bytes) => Ok(RowState::There(Self::told_row(key, msg_id, &MessageRecord::decode(&bytes)?.1))),
            None => Ok(RowState::Absent),
        }
    }

    /// The audit log's name for a deletion: one that cannot be undone is a purge.
    fn deletion(&self) -> AuditAction {
        if self.trash_expiry().is_some() { AuditAction::MessageDelete } else { AuditAction::MessagePurge }
    }

    /// Looks up the first and last message of conversations that lost theirs: among the hot ones here, and among
    /// the cold ones as the preparation saw them. Where it did not look, it did not know that they would go.
    pub(super) fn settle_ends(&mut self, proposal: &Proposal) -> Result<()> {
        let cold: ColdEnds = proposal
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Cold(summary) => Some(((summary.owner.clone(), summary.conversation.clone()), summary.msg_ids)),
                _ => None,
            })
            .collect();
        for at in std::mem::take(&mut self.shortened) {
            let cold = cold.get(&at).ok_or_else(Error::changed)?;
            let (owner, key) = at;
            let Some(mut row) = rows::conversation(self.overlay, &owner, &key)? else { continue };
            let hot = rows::hot_ends(self.overlay, &owner, &key)?;
            row.first = hot.iter().chain(cold).map(|(first, _)| *first).min();
            row.last = hot.iter().chain(cold).map(|(_, last)| *last).max();
            self.put_conversation(&owner, &key, row)?;
        }
        Ok(())
    }
}

/// The sender of a group's message is the user who sends it; only admins may write as others.
fn check_sender(actor: &Actor, new: &NewMessage, from: &str) -> Result<()> {
    if from != new.owner.as_str() && !actor.admin {
        return Err(forbidden("In a group you write as yourself: leave `from` out, or give your own user id."));
    }
    if UserId::new(from).is_err() {
        return Err(invalid("In a group `from` must be a user id of 1 to 128 printable characters."));
    }
    Ok(())
}

pub(super) fn with_message(
    mut row: ConversationRecord,
    owner: &UserId,
    msg_id: MsgId,
    from: &str,
) -> ConversationRecord {
    row.first = Some(row.first.map_or(msg_id, |first| first.min(msg_id)));
    row.last = Some(row.last.map_or(msg_id, |last| last.max(msg_id)));
    row.shown_last = None;
    if from != owner.as_str() && msg_id > row.last_read.unwrap_or(0) {
        row.unread += 1;
    }
    row
}

pub(super) fn not_a_participant() -> Error {
    forbidden("You do not take part in this group; ask its owner or an admin of it to add you.")
}
