//! Creating, changing and deleting conversations.
//!
//! Invariant: the metadata that a group's participants share stands in the group's row alone; what else they share, in
//! each participant's view of it too, and both are written by the same commit. A view is small: it is written with every
//! message, and metadata is not.

use std::{ops::ControlFlow, rc::Rc};

use kalamdb_protocol::{AuditAction, ConversationId, ConversationType, Micros, MsgId, Role, UserId};

use super::{Apply, audit, change_row, conflict, forbidden};
use crate::{
    commit::Actor,
    database::Read,
    error::{Error, Result},
    keys::{self, Family},
    model::{ChangeKind, ConversationKey, Seq},
    records::{ConversationRecord, GroupRecord, ParticipantRecord, Record, ReferenceRecord},
    rows,
};

/// A conversation's new values; `None` leaves a field as it is.
pub(super) struct ConversationUpdate<'a> {
    pub(super) metadata: &'a Option<Option<String>>,
    pub(super) last_msg_id: Option<Option<MsgId>>,
    /// The last message that the owner has read, and how many unread messages after it lie in segments.
    pub(super) last_read: Option<(Option<MsgId>, u64)>,
}

/// The messages that go with a conversation.
struct DeletedMessages<'a> {
    hot: Vec<MsgId>,
    /// Ranges `[start, end)` of positions, by segment number.
    cold: &'a [(u64, Vec<(u32, u32)>)],
}

impl DeletedMessages<'_> {
    fn count(&self) -> u64 {
        let ranges = self.cold.iter().flat_map(|(_, ranges)| ranges);
        self.hot.len() as u64 + ranges.map(|(start, end)| u64::from(end - start)).sum::<u64>()
    }
}

impl Apply<'_, '_> {
    /// Creates a conversation; of a group its owner is the first participant.
    pub(super) fn create_conversation(
        &mut self,
        owner: &UserId,
        id: &ConversationId,
        kind: Option<ConversationType>,
        created: Option<i64>,
        metadata: Option<String>,
    ) -> Result<()> {
        let key = ConversationKey { id: id.clone(), kind: kind.unwrap_or(self.rules.default_type) };
        let created = self.time(created)?;
        if key.kind == ConversationType::Group {
            if rows::group(self.overlay, id)?.is_some() {
                return Err(conflict("There is a group of this id already; choose another conversationId."));
            }
            return self.found_group(owner, &key, created, metadata);
        }
        if rows::conversation(self.overlay, owner, &key)?.is_some() {
            return Err(conflict("There is a conversation of this id already; choose another conversationId."));
        }
        self.put_conversation(owner, &key, ConversationRecord::new(created, self.now, metadata))?;
        self.log(owner, ChangeKind::ConversationChanged, &key, None)
    }

    /// A group that does not exist yet begins, with one participant.
    pub(super) fn found_group(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        created: Micros,
        metadata: Option<String>,
    ) -> Result<()> {
        let group = GroupRecord { version: self.seq, created, metadata, participants: 0 };
        self.join(owner, key, group, Role::Owner, None)
    }

    /// Writes a participant's row, their view of the conversation, and the group's new count.
    pub(super) fn join(
        &mut self,
        user: &UserId,
        key: &ConversationKey,
        mut group: GroupRecord,
        role: Role,
        metadata: Option<String>,
    ) -> Result<()> {
        self.remember_group(&key.id)?;
        let participant = ParticipantRecord { version: self.seq, role, created: self.now, updated: self.now, metadata };
        self.put(Family::Participants, keys::participant(&key.id, user), participant.encode()?);
        // Someone who left keeps their copies, and with them their view of the conversation.
        let mut row = match rows::conversation(self.overlay, user, key)? {
            Some(row) => row,
            None => ConversationRecord::new(group.created, self.now, None),
        };
        row.joined = true;
        row.created = group.created;
        self.put_conversation(user, key, row)?;
        // The group's metadata counts from now on.
        self.put_metadata(user, key, None)?;
        group.participants += 1;
        group.version = self.seq;
        self.put_group(&key.id, &group)?;
        self.log_to_participants(&key.id, ChangeKind::ParticipantChanged)
    }

    pub(super) fn put_group(&mut self, group: &ConversationId, record: &GroupRecord) -> Result<()> {
        self.put(Family::Groups, group.as_str().as_bytes().to_vec(), record.encode()?);
        Ok(())
    }

    /// Notes a change of the group for everybody who takes part in it.
    pub(super) fn log_to_participants(&mut self, group: &ConversationId, kind: ChangeKind) -> Result<()> {
        let key = ConversationKey { id: group.clone(), kind: ConversationType::Group };
        let change = change_row(kind, &key, None)?;
        for user in rows::participant_ids(self.overlay, group)? {
            self.log_row(&user, Rc::clone(&change))?;
        }
        Ok(())
    }

    /// An owner's view of a conversation, if it is still the version that the preparation saw.
    fn unchanged(&self, owner: &UserId, key: &ConversationKey, version: Seq) -> Result<ConversationRecord> {
        match rows::conversation(self.overlay, owner, key)? {
            Some(row) if self.is_current(row.version, version) => Ok(row),
            _ => Err(Error::changed()),
        }
    }

    /// Changes what may be changed of a conversation.
    pub(super) fn set_conversation(
        &mut self,
        actor: &Actor,
        owner: &UserId,
        key: &ConversationKey,
        version: Seq,
        update: &ConversationUpdate<'_>,
    ) -> Result<()> {
        let mut row = self.unchanged(owner, key, version)?;
        if let Some(last) = update.last_msg_id {
            row.shown_last = Some(last);
        }
        if let Some((last_read, cold_unread)) = update.last_read {
            row.last_read = last_read;
            let after = last_read.unwrap_or(0);
            row.unread = match row.last {
                Some(last) if after < last => cold_unread + rows::hot_unread(self.overlay, owner, key, after)?,
                _ => 0,
            };
        }
        let mut group = None;
        if let Some(metadata) = update.metadata {
            row.metadata = None;
            if key.kind == ConversationType::Group {
                group = self.set_group_metadata(actor, owner, key, metadata.as_ref())?;
            }
        }
        let alone = !rows::shares_metadata(key, &row);
        self.put_conversation(owner, key, row)?;
        // Metadata is written last, because a group's is kept in the group's row, and watchers are told the row as it
        // was before that.
        if let Some(group) = group {
            self.put_group(&key.id, &group)?;
        }
        if let Some(metadata) = update.metadata
            && alone
        {
            self.put_metadata(owner, key, metadata.clone())?;
        }
        self.log(owner, ChangeKind::ConversationChanged, key, None)
    }

    /// Gives a group new metadata: everybody's view of it is another one now, and has a new version. Answers the group's
    /// row, to be written when that is noted.
    fn set_group_metadata(
        &mut self,
        actor: &Actor,
        owner: &UserId,
        key: &ConversationKey,
        metadata: Option<&String>,
    ) -> Result<Option<GroupRecord>> {
        let role = rows::participant(self.overlay, &key.id, owner)?.map(|participant| participant.role);
        if !actor.admin && !matches!(role, Some(Role::Owner | Role::Admin)) {
            return Err(forbidden("Only a group's owner and admins may change its metadata."));
        }
        let Some(mut group) = rows::group(self.overlay, &key.id)? else { return Ok(None) };
        group.metadata = metadata.cloned();
        for user in rows::participant_ids(self.overlay, &key.id)? {
            if &user != owner
                && let Some(row) = rows::conversation(self.overlay, &user, key)?
            {
                self.put_conversation(&user, key, row)?;
                self.log(&user, ChangeKind::ConversationChanged, key, None)?;
            }
        }
        Ok(Some(group))
    }

    /// Removes a conversation with all of the owner's messages in it, into the trash where there is one; of a group
    /// the owner leaves.
    pub(super) fn delete_conversation(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        version: Seq,
        cold: &[(u64, Vec<(u32, u32)>)],
    ) -> Result<()> {
        let mut row = self.unchanged(owner, key, version)?;
        row.metadata = rows::metadata(self.overlay, owner, key, &row)?;
        let metadata = row.metadata.clone();
        let deleted = DeletedMessages { hot: self.hot_ids(owner, key)?, cold };
        let (messages, joined) = (deleted.count(), row.joined);
        match self.trash_expiry() {
            Some(expires_at) => {
                self.trash_messages(owner, key, &deleted, expires_at)?;
                self.trash_conversation(owner, key, row, expires_at)?;
            }
            None => self.purge_messages(owner, key, &deleted)?,
        }
        self.note_messages(owner, AuditAction::ConversationDelete, audit::conversation(key), messages);
        if key.kind == ConversationType::Group && joined {
            self.note(owner, AuditAction::MemberLeave, audit::participant(&key.id, owner));
            // The group may go with its last participant: then this is how its metadata was.
            self.put_metadata(owner, key, metadata)?;
            self.leave(&key.id, owner)?;
        }
        self.doom_unsent(owner, key)?;
        self.delete_conversation_row(owner, key)?;
        self.tell_messages_gone(owner, key);
        self.log(owner, ChangeKind::ConversationDeleted, key, None)
    }

    /// Takes away an owner's view of a conversation.
    pub(super) fn delete_conversation_row(&mut self, owner: &UserId, key: &ConversationKey) -> Result<()> {
        self.remember_conversation(owner, key)?;
        self.overlay.delete(Family::Conversations, keys::conversation(owner, key));
        self.put_metadata(owner, key, None)
    }

    /// All of an owner's messages of a conversation go to the trash; those in segments stay where they are.
    fn trash_messages(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        deleted: &DeletedMessages<'_>,
        expires_at: Micros,
    ) -> Result<()> {
        for msg_id in &deleted.hot {
            let message = self.take_hot(owner, key, *msg_id, None)?;
            self.put_trash(owner, *msg_id, &self.trashed(key, message, expires_at))?;
        }
        for (segment, ranges) in deleted.cold {
            self.trash_cold(owner, *segment, ranges, expires_at)?;
        }
        for (msg_id, path) in rows::holdings(self.overlay, owner, key)? {
            // Messages that were in the trash before keep their own time.
            if rows::reference(self.overlay, &path, owner, msg_id)? == Some(ReferenceRecord::Shown) {
                self.hide_cold(owner, key, msg_id, expires_at)?;
                self.count_row()?;
            }
        }
        Ok(())
    }

    /// All of an owner's messages of a conversation go for good, but for what is in the trash already.
    fn purge_messages(&mut self, owner: &UserId, key: &ConversationKey, deleted: &DeletedMessages<'_>) -> Result<()> {
        for msg_id in &deleted.hot {
            self.delete_hot(owner, key, *msg_id)?;
            self.count_row()?;
        }
        for (segment, ranges) in deleted.cold {
            self.mark_deleted(owner, *segment, ranges)?;
        }
        for (msg_id, path) in rows::holdings(self.overlay, owner, key)? {
            if rows::reference(self.overlay, &path, owner, msg_id)? == Some(ReferenceRecord::Shown) {
                self.release(owner, key, msg_id)?;
                self.count_row()?;
            }
        }
        Ok(())
    }

    fn hot_ids(&self, owner: &UserId, key: &ConversationKey) -> Result<Vec<MsgId>> {
        let prefix = keys::conversation(owner, key);
        let mut ids = Vec::new();
        self.overlay.scan(Family::Messages, &prefix, &keys::after_prefix(&prefix), false, &mut |key, _| {
            ids.push(keys::parse_message(key)?.1);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(ids)
    }
}
