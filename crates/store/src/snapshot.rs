//! One consistent view of everything: what readers see.
//!
//! Invariant: hot rows, segments, deletion vectors and the commit number all come from one RocksDB snapshot, so that
//! while rows move from RocksDB to Parquet nothing is seen twice and nothing is missed.

use kalamdb_protocol::{ConversationId, ConversationType, MsgId, UserId};

use crate::{
    counters,
    database::{DatabaseSnapshot, Entries},
    error::Result,
    keys::{self, Family},
    model::{Conversation, ConversationKey, HotMessage, Member, MessageRange, OwnerState, Segment, Seq},
    rows,
};

/// One consistent view; cheap to clone, and kept as long as somebody holds it.
#[derive(Clone)]
pub struct Snapshot {
    database: DatabaseSnapshot,
}

#[allow(clippy::missing_errors_doc, reason = "each of these fails when the disk does, and only then")]
impl Snapshot {
    pub(crate) fn new(database: DatabaseSnapshot) -> Self {
        Self { database }
    }

    /// The last commit that it holds.
    pub fn seq(&self) -> Result<Seq> {
        counters::seq(&self.database)
    }

    /// Every owner, by id.
    pub fn owners(&self) -> Result<Vec<(UserId, OwnerState)>> {
        let owners = rows::owners(&self.database)?;
        Ok(owners.into_iter().map(|(owner, record)| (owner, rows::owner_state(&record))).collect())
    }

    /// One owner's counters; all zero when unknown.
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
        let backwards = range.newest_first && range.conversation.is_some();
        let entries =
            if from < to { Some(self.database.iterate(Family::Messages, &from, &to, backwards)?) } else { None };
        Ok(MessageCursor { entries, range: range.clone() })
    }

    /// One hot message, by its id.
    pub fn hot_message(&self, owner: &UserId, msg_id: MsgId) -> Result<Option<HotMessage>> {
        rows::hot_message(&self.database, owner, msg_id)
    }

    /// One conversation as its owner sees it.
    pub fn conversation(&self, owner: &UserId, key: &ConversationKey) -> Result<Option<Conversation>> {
        let record = rows::conversation(&self.database, owner, key)?;
        Ok(record.map(|record| rows::public_conversation(owner, key.clone(), record)))
    }

    /// The lowest and highest id of the owner's messages in a conversation, whatever an UPDATE shows instead.
    pub fn message_ends(&self, owner: &UserId, key: &ConversationKey) -> Result<Option<(MsgId, MsgId)>> {
        let record = rows::conversation(&self.database, owner, key)?;
        Ok(record.and_then(|record| record.first.zip(record.last)))
    }

    /// The owner's conversations, in key order.
    pub fn conversations(&self, owner: &UserId) -> Result<Vec<Conversation>> {
        let rows = rows::conversations(&self.database, owner)?;
        Ok(rows.into_iter().map(|(key, record)| rows::public_conversation(owner, key, record)).collect())
    }

    /// The participants of a group, by user id.
    pub fn members(&self, group: &ConversationId) -> Result<Vec<Member>> {
        let rows = rows::members(&self.database, group)?;
        Ok(rows.into_iter().map(|(user, record)| rows::public_member(group, user, record)).collect())
    }

    /// One participant.
    pub fn member(&self, group: &ConversationId, user: &UserId) -> Result<Option<Member>> {
        let record = rows::member(&self.database, group, user)?;
        Ok(record.map(|record| rows::public_member(group, user.clone(), record)))
    }

    /// The last commit that changed who takes part in the group, or as what; 0 when there is no such group.
    pub fn group_version(&self, group: &ConversationId) -> Result<Seq> {
        Ok(rows::group(&self.database, group)?.map_or(0, |group| group.version))
    }

    /// All participants of the groups that the owner takes part in.
    pub fn visible_members(&self, owner: &UserId) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for (key, record) in rows::conversations(&self.database, owner)? {
            if key.kind == ConversationType::Group && record.joined {
                members.extend(self.members(&key.id)?);
            }
        }
        Ok(members)
    }
}

/// Hot messages, read as they are asked for.
pub struct MessageCursor {
    entries: Option<Entries>,
    range: MessageRange,
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
            let item = self.entries.as_mut()?.next(|key, value| {
                let (conversation, msg_id) = keys::parse_message(key)?;
                rows::message(conversation, msg_id, value)
            })?;
            match item {
                Ok(row) if !self.wanted(row.message.msg_id) => {}
                item => return Some(item),
            }
        }
    }
}
