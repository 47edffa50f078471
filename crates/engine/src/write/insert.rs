//! INSERT: rows become messages to send, conversations to create, participants to add.
//!
//! Invariant: a column that only the server writes is refused, not ignored.

use std::collections::{BTreeMap, BTreeSet};

use kalamdb_protocol::{ConversationType, MsgId, Role, TableId, UserId};
use kalamdb_store::{Change, Expect, NewMessage};

use super::{
    Prepared, Preparing, check_metadata, invalid, read_only,
    rows::{TypedRow, owner_of},
};
use crate::{Result, sql::Insert};

impl Preparing<'_> {
    pub(super) async fn insert(&self, insert: &Insert) -> Result<Prepared> {
        let new_row = match insert.target.table.id {
            TableId::Messages => new_message,
            TableId::Conversations => new_conversation,
            TableId::ConversationUsers => new_participant,
            TableId::DeletedMessages
            | TableId::AuditLog
            | TableId::SystemUsers
            | TableId::SystemSegments
            | TableId::SystemFiles => return Err(read_only(insert.target.table)),
        };
        let rows = self.source(insert).await?;
        let mut prepared = Prepared::default();
        for row in rows.iter() {
            let owner = owner_of(&insert.target.schema, &row)?;
            prepared.changes.push(new_row(owner, &row)?);
        }
        prepared.rows_affected = prepared.changes.len() as u64;
        self.check_given_ids(&mut prepared).await?;
        Ok(prepared)
    }

    /// Looks up ids that the statement gives among the messages in segments, the deleted ones too; the sequencer knows
    /// the others.
    pub(super) async fn check_given_ids(&self, prepared: &mut Prepared) -> Result<()> {
        let mut given: BTreeMap<UserId, BTreeSet<MsgId>> = BTreeMap::new();
        let mut groups = BTreeSet::new();
        for change in &prepared.changes {
            let Change::Send(NewMessage { owner, conversation, kind, msg_id: Some(msg_id), .. }) = change else {
                continue;
            };
            given.entry(owner.clone()).or_default().insert(*msg_id);
            // Without a type it may turn out to be a group's, so its participants are looked up too.
            if *kind != Some(ConversationType::Ai) {
                groups.insert(conversation.clone());
                for participant in self.snapshot.participants(conversation)? {
                    given.entry(participant.user).or_default().insert(*msg_id);
                }
            }
        }
        for group in groups {
            prepared.expect.push(Expect::Group { version: self.snapshot.group_version(&group)?, group });
        }
        for (owner, ids) in given {
            let ids: Vec<MsgId> = ids.into_iter().collect();
            if let Some(taken) = self.locate_cold(&owner, &ids).await?.keys().min() {
                return Err(kalamdb_store::Error::id_taken(*taken).into());
            }
            if let Some(taken) = self.locate_cold_trash(&owner, &ids).await?.keys().min() {
                return Err(kalamdb_store::Error::id_in_trash(*taken).into());
            }
            prepared.expect.push(self.expect_cold(&owner)?);
        }
        Ok(())
    }
}

/// Refuses values for columns that the server keeps.
fn check_kept_by_server(row: &TypedRow<'_>, numbers: &[&str], texts: &[&str]) -> Result<()> {
    let given = numbers.iter().find(|name| row.int(name).is_some());
    match given.or_else(|| texts.iter().find(|name| row.text(name).is_some())) {
        Some(name) => Err(invalid(format!("{name} is kept by the server; leave it out."))),
        None => Ok(()),
    }
}

fn new_message(owner: UserId, row: &TypedRow<'_>) -> Result<Change> {
    check_metadata(row.text("metadata"))?;
    let content = match row.owned("content") {
        None if row.text("contentRef").is_some() => String::new(),
        content => content.ok_or_else(|| invalid("content is needed; give it a text."))?,
    };
    Ok(Change::Send(NewMessage {
        owner,
        conversation: row.conversation_id()?,
        kind: row.conversation_type()?,
        from: row.owned("from"),
        msg_id: row.int("msgId"),
        timestamp: row.int("timestamp"),
        content,
        content_ref: row.owned("contentRef"),
        metadata: row.owned("metadata"),
    }))
}

fn new_conversation(owner: UserId, row: &TypedRow<'_>) -> Result<Change> {
    check_kept_by_server(
        row,
        &["firstMsgId", "lastMsgId", "updated", "lastReadMsgId", "unreadCount"],
        &["storagePath"],
    )?;
    check_metadata(row.text("metadata"))?;
    let kind = row.conversation_type()?;
    if row.user("userId")?.is_some_and(|user| user != owner || kind == Some(ConversationType::Group)) {
        return Err(invalid("userId of a conversation is its owner, NULL for a group; leave it out."));
    }
    Ok(Change::CreateConversation {
        owner,
        id: row.conversation_id()?,
        kind,
        created: row.int("created"),
        metadata: row.owned("metadata"),
    })
}

fn new_participant(owner: UserId, row: &TypedRow<'_>) -> Result<Change> {
    check_kept_by_server(row, &["created", "updated"], &[])?;
    check_metadata(row.text("metadata"))?;
    Ok(Change::AddParticipant {
        owner,
        group: row.conversation_id()?,
        user: row.user("userId")?.ok_or_else(|| invalid("userId is needed; give it a value."))?,
        role: role(row.text("role"))?,
        metadata: row.owned("metadata"),
    })
}

/// A role by its name.
pub(super) fn role(name: Option<&str>) -> Result<Option<Role>> {
    name.map(|name| Role::parse(name).ok_or_else(|| invalid("role must be 'owner', 'admin' or 'member'."))).transpose()
}
