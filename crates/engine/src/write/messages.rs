//! UPDATE and DELETE of messages.
//!
//! Invariant: an edit of a group's message reaches every participant's copy, deleted ones too; a deletion takes the
//! copies that the statement selected, and no other.

use std::collections::{BTreeMap, BTreeSet};

use kalamdb_protocol::{ConversationType, MsgId, UserId};
use kalamdb_store::{Change, ConversationKey, Expect, Message, Place};

use super::{
    Prepared, Preparing, check_metadata, check_updatable,
    cold::Deleted,
    invalid,
    rows::{TypedRow, owner_of},
    select::assigned,
};
use crate::{
    Result,
    sql::{Delete, Update},
};

const HIDDEN: [&str; 3] = ["_segment", "_position", "_version"];

/// A message to edit, what it becomes, and the copies of it that get that.
struct Edited {
    owner: UserId,
    message: Message,
    content: Option<String>,
    metadata: Option<Option<String>>,
    copies: BTreeMap<UserId, Place>,
}

impl Preparing<'_> {
    pub(super) async fn update_messages(&self, update: &Update) -> Result<Prepared> {
        check_updatable(update, &["content", "metadata"])?;
        let columns =
            ["msgId", "conversationId", "conversationType", "from", "timestamp", "content", "contentRef", "metadata"];
        let columns: Vec<&str> = columns.into_iter().chain(HIDDEN).collect();
        let rows =
            self.select(&update.target, &update.from, &columns, &update.assignments, update.selection.as_ref()).await?;
        // A message is edited once; a group's edit goes to all copies, whichever of them were selected.
        let mut edits: BTreeMap<(ConversationKey, MsgId, Option<UserId>), Edited> = BTreeMap::new();
        let mut prepared = Prepared::default();
        for row in rows.iter() {
            prepared.rows_affected += 1;
            let owner = owner_of(&update.target.schema, &row)?;
            let (msg_id, place) = row.place()?;
            let key = row.conversation()?;
            let only = (key.kind == ConversationType::Ai).then(|| owner.clone());
            let edited = match edits.entry((key, msg_id, only)) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(edited(owner.clone(), &row, update)?),
            };
            edited.copies.insert(owner, place);
        }
        self.add_participants(&mut edits, &mut prepared.expect).await?;
        prepared.changes.extend(edits.into_values().map(|edited| Change::Edit {
            owner: edited.owner,
            message: edited.message,
            content: edited.content,
            metadata: edited.metadata,
            copies: edited.copies.into_iter().collect(),
        }));
        Ok(prepared)
    }

    /// Finds the copies of the groups' current participants, deleted ones too: who brings one back gets it as it is by
    /// then.
    async fn add_participants(
        &self,
        edits: &mut BTreeMap<(ConversationKey, MsgId, Option<UserId>), Edited>,
        expect: &mut Vec<Expect>,
    ) -> Result<()> {
        let mut groups: BTreeMap<ConversationKey, Vec<MsgId>> = BTreeMap::new();
        for (key, msg_id, _) in edits.keys().filter(|(key, ..)| key.kind == ConversationType::Group) {
            groups.entry(key.clone()).or_default().push(*msg_id);
        }
        for (key, ids) in groups {
            expect.push(Expect::Group { version: self.snapshot.group_version(&key.id)?, group: key.id.clone() });
            for participant in self.snapshot.participants(&key.id)? {
                for (msg_id, place) in self.locate(&participant.user, &ids).await? {
                    if let Some(edited) = edits.get_mut(&(key.clone(), msg_id, None)) {
                        edited.copies.insert(participant.user.clone(), place);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) async fn delete_messages(&self, delete: &Delete) -> Result<Prepared> {
        let columns = ["msgId", "conversationId", "conversationType", "from"];
        let columns: Vec<&str> = columns.into_iter().chain(HIDDEN).collect();
        let rows = self.select(&delete.target, &delete.from, &columns, &[], delete.selection.as_ref()).await?;
        let mut prepared = Prepared::default();
        let mut deleted: BTreeMap<UserId, Deleted> = BTreeMap::new();
        let mut lost: BTreeMap<UserId, BTreeMap<ConversationKey, BTreeSet<MsgId>>> = BTreeMap::new();
        for row in rows.iter() {
            prepared.rows_affected += 1;
            let owner = owner_of(&delete.target.schema, &row)?;
            let (msg_id, place) = row.place()?;
            let conversation = row.conversation()?;
            if let Place::Cold { segment, position } = place {
                let deleted = deleted.entry(owner.clone()).or_default();
                deleted.entry((owner.clone(), segment)).or_default().insert(position);
            }
            lost.entry(owner.clone()).or_default().entry(conversation.clone()).or_default().insert(msg_id);
            let from = row.need_text("from")?.to_owned();
            prepared.changes.push(Change::Delete { owner, msg_id, conversation, from, place });
        }
        for (owner, conversations) in lost {
            let shortened = self.shortened(&owner, conversations)?;
            if !shortened.is_empty() {
                let deleted = deleted.remove(&owner).unwrap_or_default();
                prepared.changes.extend(self.cold_summaries(&owner, &shortened, deleted).await?);
                prepared.expect.push(self.expect_cold(&owner)?);
            }
        }
        Ok(prepared)
    }

    /// The conversations that lose their first or last message.
    fn shortened(
        &self,
        owner: &UserId,
        lost: BTreeMap<ConversationKey, BTreeSet<MsgId>>,
    ) -> Result<Vec<ConversationKey>> {
        let mut shortened = Vec::new();
        for (key, ids) in lost {
            let ends = self.snapshot.message_ends(owner, &key)?;
            if ends.is_some_and(|(first, last)| ids.contains(&first) || ids.contains(&last)) {
                shortened.push(key);
            }
        }
        Ok(shortened)
    }
}

fn edited(owner: UserId, row: &TypedRow<'_>, update: &Update) -> Result<Edited> {
    let sets = |column: &str| update.assignments.iter().any(|(assigned, _)| assigned == column);
    let content = row.owned(&assigned("content"));
    if sets("content") && content.is_none() {
        return Err(invalid("content cannot be NULL; give it a text, or delete the message."));
    }
    let metadata = sets("metadata").then(|| row.owned(&assigned("metadata")));
    check_metadata(metadata.as_ref().and_then(Option::as_deref))?;
    let message = Message {
        msg_id: row.need_int("msgId")?,
        conversation: row.conversation()?,
        from: row.need_text("from")?.to_owned(),
        timestamp: row.need_int("timestamp")?,
        content: row.need_text("content")?.to_owned(),
        content_ref: row.owned("contentRef"),
        metadata: row.owned("metadata"),
    };
    Ok(Edited { owner, message, content, metadata, copies: BTreeMap::new() })
}
