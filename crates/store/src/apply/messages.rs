//! Sending, editing and deleting messages.
//!
//! Invariant: a message's copies, their index entries, the conversations' rows and the change log move together.

use kalamdb_protocol::{ConversationType, ErrorCode, MsgId, UserId};

use super::{Apply, ColdEnds, conflict, forbidden, invalid};
use crate::{
    commit::{Actor, Change, NewMessage, Place, Proposal, Sent},
    database::Read,
    error::{Error, Result},
    keys::{self, Family},
    model::ConversationKey,
    records::{ChangeKind, ConversationRecord, MessageRecord},
    rows,
};

impl Apply<'_, '_> {
    /// Sends a message to its owner, or to every participant of a group.
    pub(super) fn send(&mut self, actor: &Actor, new: &NewMessage) -> Result<Sent> {
        if new.content.len() >= self.rules.large_message_threshold_bytes {
            return Err(Error::refused(
                ErrorCode::PayloadTooLarge,
                format!(
                    "A message must be smaller than {} bytes; larger ones are not offered yet.",
                    self.rules.large_message_threshold_bytes
                ),
            ));
        }
        if new.content_ref.is_some() {
            return Err(invalid("contentRef must name a file of this conversation; there is none of that name."));
        }
        let key = ConversationKey { id: new.conversation.clone(), kind: self.kind_of(new)? };
        let from = new.from.clone().unwrap_or_else(|| new.owner.as_str().to_owned());
        let recipients = match key.kind {
            ConversationType::Ai => vec![new.owner.clone()],
            ConversationType::Group => self.recipients(actor, new, &key, &from)?,
        };
        let msg_id = self.msg_id(actor, new, &key, &recipients)?;
        let timestamp = self.time(new.timestamp)?;
        let record = MessageRecord {
            from,
            timestamp,
            content: new.content.clone(),
            content_ref: None,
            metadata: new.metadata.clone(),
        };
        let bytes = record.encode(self.seq)?;
        for owner in &recipients {
            self.put_hot(owner, &key, msg_id, bytes.clone())?;
            let conversation = match rows::conversation(self.overlay, owner, &key)? {
                Some(conversation) => conversation,
                None => ConversationRecord::new(self.now, self.now, None),
            };
            self.put_conversation(owner, &key, with_message(conversation, owner, msg_id, &record.from))?;
            self.log(owner, ChangeKind::MessageSent, &key, Some(msg_id))?;
        }
        Ok(Sent { msg_id, conversation: key, timestamp })
    }

    /// The type of the conversation that a message goes to: as given, else the group of that id that the owner is
    /// in, else their AI conversation of that id, else the default.
    fn kind_of(&self, new: &NewMessage) -> Result<ConversationType> {
        if let Some(kind) = new.kind {
            return Ok(kind);
        }
        let of = |kind| ConversationKey { id: new.conversation.clone(), kind };
        if rows::conversation(self.overlay, &new.owner, &of(ConversationType::Group))?.is_some_and(|row| row.joined) {
            return Ok(ConversationType::Group);
        }
        if rows::conversation(self.overlay, &new.owner, &of(ConversationType::Ai))?.is_some() {
            return Ok(ConversationType::Ai);
        }
        Ok(self.rules.default_type)
    }

    /// Everybody who gets a group's message; founds the group if there is none.
    fn recipients(
        &mut self,
        actor: &Actor,
        new: &NewMessage,
        key: &ConversationKey,
        from: &str,
    ) -> Result<Vec<UserId>> {
        if from != new.owner.as_str() && !actor.admin {
            return Err(forbidden("In a group you write as yourself: leave `from` out, or give your own user id."));
        }
        if UserId::new(from).is_err() {
            return Err(invalid("In a group `from` must be a user id of 1 to 128 printable characters."));
        }
        if rows::group(self.overlay, &key.id)?.is_none() {
            self.found_group(&new.owner, key, self.now, None)?;
        }
        let members = rows::members(self.overlay, &key.id)?;
        if !actor.admin && !members.iter().any(|(user, _)| user == &new.owner) {
            return Err(not_a_participant());
        }
        Ok(members.into_iter().map(|(user, _)| user).collect())
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
                return Err(conflict(format!("There is a message {given} already; choose another msgId.")));
            }
        }
        Ok(given)
    }

    fn has_hot(&self, owner: &UserId, msg_id: MsgId) -> Result<bool> {
        Ok(self.overlay.get(Family::MessageIds, &keys::message_id(owner, msg_id))?.is_some())
    }

    fn put_hot(&mut self, owner: &UserId, key: &ConversationKey, msg_id: MsgId, bytes: Vec<u8>) -> Result<()> {
        self.bytes += bytes.len();
        self.overlay.put(Family::Messages, keys::message(owner, key, msg_id), bytes);
        self.overlay.put(Family::MessageIds, keys::message_id(owner, msg_id), keys::conversation_value(key));
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
        record.hot_messages = record.hot_messages.saturating_sub(1);
        if record.hot_messages == 0 {
            record.hot_since = None;
        }
        Ok(())
    }

    /// Takes a copy from where it lies, if it still lies there unchanged.
    fn take(&mut self, owner: &UserId, key: &ConversationKey, msg_id: MsgId, place: Place) -> Result<()> {
        match place {
            Place::Hot { version } => {
                let bytes = self.overlay.get(Family::Messages, &keys::message(owner, key, msg_id))?;
                match bytes.map(|bytes| MessageRecord::version(&bytes)).transpose()? {
                    Some(now) if now == version => self.delete_hot(owner, key, msg_id),
                    _ => Err(Error::changed()),
                }
            }
            Place::Cold { segment, position } => self.mark_deleted(owner, segment, &[(position, position + 1)]),
        }
    }

    /// Gives a message new content or metadata in each copy named.
    pub(super) fn edit(&mut self, actor: &Actor, change: &Change) -> Result<()> {
        let Change::Edit { owner, msg_id, conversation, from, timestamp, content_ref, content, metadata, copies } =
            change
        else {
            return Ok(());
        };
        if conversation.kind == ConversationType::Group && !actor.admin {
            if from != owner.as_str() {
                return Err(forbidden("In a group only the sender may change a message."));
            }
            if rows::member(self.overlay, &conversation.id, owner)?.is_none() {
                return Err(not_a_participant());
            }
        }
        if content.len() >= self.rules.large_message_threshold_bytes {
            return Err(Error::refused(
                ErrorCode::PayloadTooLarge,
                format!("A message must be smaller than {} bytes.", self.rules.large_message_threshold_bytes),
            ));
        }
        let record = MessageRecord {
            from: from.clone(),
            timestamp: *timestamp,
            content: content.clone(),
            content_ref: content_ref.clone(),
            metadata: metadata.clone(),
        };
        let bytes = record.encode(self.seq)?;
        for (owner, place) in copies {
            self.take(owner, conversation, *msg_id, *place)?;
            self.put_hot(owner, conversation, *msg_id, bytes.clone())?;
            if let Some(row) = rows::conversation(self.overlay, owner, conversation)? {
                self.put_conversation(owner, conversation, row)?;
            }
            self.log(owner, ChangeKind::MessageEdited, conversation, Some(*msg_id))?;
        }
        Ok(())
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
        self.take(owner, conversation, msg_id, place)?;
        if let Some(mut row) = rows::conversation(self.overlay, owner, conversation)? {
            if from != owner.as_str() && msg_id > row.last_read.unwrap_or(0) {
                row.unread = row.unread.saturating_sub(1);
            }
            if row.first == Some(msg_id) || row.last == Some(msg_id) {
                self.shortened.insert((owner.clone(), conversation.clone()));
            }
            row.shown_last = None;
            self.put_conversation(owner, conversation, row)?;
        }
        self.log(owner, ChangeKind::MessageDeleted, conversation, Some(msg_id))
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

fn with_message(mut row: ConversationRecord, owner: &UserId, msg_id: MsgId, from: &str) -> ConversationRecord {
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
