//! The changes of a commit, gathered for subscribers.
//!
//! Invariant: costs nothing for owners that nobody watches.

use std::sync::Arc;

use kalamdb_protocol::{ConversationId, MsgId, UserId};

use super::Apply;
use crate::{
    error::Result,
    feed::{RowChange, RowState},
    model::{Conversation, ConversationKey, Message, Participant},
    records::MessageRecord,
    rows,
};

impl Apply<'_, '_> {
    /// A message of a watched owner changed; called before its entry in the change log is written, whose number it
    /// takes.
    pub(super) fn tell_message(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        before: RowState<Message>,
        after: RowState<Message>,
    ) {
        if self.watched.contains(owner) {
            let change = RowChange::Message { msg_id, conversation: key.clone(), before, after };
            self.told.push(owner, self.logged, change);
        }
    }

    /// All messages of a watched owner's conversation are gone.
    pub(super) fn tell_messages_gone(&mut self, owner: &UserId, key: &ConversationKey) {
        if self.watched.contains(owner) {
            self.told.push(owner, self.logged, RowChange::MessagesGone { conversation: key.clone() });
        }
    }

    /// A message as it is told to some of these owners, shared by all of them; `None` when nobody watches one.
    pub(super) fn row_for<'o>(
        &self,
        owners: impl IntoIterator<Item = &'o UserId>,
        key: &ConversationKey,
        msg_id: MsgId,
        record: &MessageRecord,
    ) -> Option<Arc<Message>> {
        owners.into_iter().any(|owner| self.watched.contains(owner)).then(|| Self::told_row(key, msg_id, record))
    }

    /// A message as it is told.
    pub(super) fn told_row(key: &ConversationKey, msg_id: MsgId, record: &MessageRecord) -> Arc<Message> {
        Arc::new(rows::public_message(key.clone(), msg_id, record.clone()))
    }

    /// A conversation of a watched owner is about to change: how it is now, if this commit has not changed it yet.
    pub(super) fn remember_conversation(&mut self, owner: &UserId, key: &ConversationKey) -> Result<()> {
        if self.watched.contains(owner) && !self.told.knows_conversation(owner, key) {
            let before = self.told_conversation(owner, key)?;
            self.told.conversation_was(owner, key, self.logged, before);
        }
        Ok(())
    }

    /// A group's participants are about to change.
    pub(super) fn remember_group(&mut self, group: &ConversationId) -> Result<()> {
        if !self.watched.is_empty() && !self.told.knows_group(group) {
            let before = self.told_participants(group)?;
            self.told.group_was(group, self.logged, before);
        }
        Ok(())
    }

    fn told_conversation(&self, owner: &UserId, key: &ConversationKey) -> Result<Option<Conversation>> {
        let record = rows::conversation(self.overlay, owner, key)?;
        record.map(|record| rows::public_conversation(self.overlay, owner, key.clone(), &record)).transpose()
    }

    fn told_participants(&self, group: &ConversationId) -> Result<Vec<Participant>> {
        let participants = rows::participants(self.overlay, group)?;
        Ok(participants.into_iter().map(|(user, record)| rows::public_participant(group, user, record)).collect())
    }

    /// Tells of the conversations and groups that the commit touched: at its end, as they are now beside how they were.
    pub(super) fn tell_touched(&mut self) -> Result<()> {
        let (conversations, groups) = self.told.take_touched();
        for ((owner, key), (n, before)) in conversations {
            let after = self.told_conversation(&owner, &key)?.map(Arc::new);
            self.told.push(&owner, n, RowChange::Conversation { before, after });
        }
        for (group, (n, before)) in groups {
            let after: Arc<[Participant]> = self.told_participants(&group)?.into();
            self.told.count_participants(&after);
            let mut owners: Vec<_> =
                before.iter().chain(after.iter()).map(|participant| participant.user.clone()).collect();
            owners.sort();
            owners.dedup();
            for owner in owners.into_iter().filter(|owner| self.watched.contains(owner)) {
                // An owner who takes no part sees no participants.
                let seen = |participants: &Arc<[Participant]>| -> Arc<[Participant]> {
                    if participants.iter().any(|participant| participant.user == owner) {
                        Arc::clone(participants)
                    } else {
                        Arc::default()
                    }
                };
                let change =
                    RowChange::Participants { group: group.clone(), before: seen(&before), after: seen(&after) };
                self.told.push(&owner, n, change);
            }
        }
        Ok(())
    }
}
