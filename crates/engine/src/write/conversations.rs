//! UPDATE and DELETE of conversations.
//!
//! Invariant: what the sequencer cannot count for itself, because it lies in segments, is counted here on the same
//! snapshot that chose the rows.

use kalamdb_protocol::{MsgId, UserId};
use kalamdb_store::{Change, ConversationKey};

use super::{
    Prepared, Preparing, check_metadata, check_updatable,
    rows::{TypedRow, owner_of},
    select::assigned,
};
use crate::{
    Result,
    sql::{Delete, Update},
};

const KEY: [&str; 3] = ["conversationId", "conversationType", "_version"];

impl Preparing<'_> {
    pub(super) async fn update_conversations(&self, update: &Update) -> Result<Prepared> {
        check_updatable(update, &["metadata", "lastMsgId", "lastReadMsgId"])?;
        let rows =
            self.select(&update.target, &update.from, &KEY, &update.assignments, update.selection.as_ref()).await?;
        let sets = |column: &str| update.assignments.iter().any(|(assigned, _)| assigned == column);
        let mut prepared = Prepared::default();
        for row in rows.iter() {
            prepared.rows_affected += 1;
            let owner = owner_of(&update.target.schema, &row)?;
            let key = row.conversation()?;
            let metadata = sets("metadata").then(|| row.owned(&assigned("metadata")));
            check_metadata(metadata.as_ref().and_then(Option::as_deref))?;
            let last_read = if sets("lastReadMsgId") {
                Some(self.last_read(&owner, &key, &row, &mut prepared).await?)
            } else {
                None
            };
            prepared.changes.push(Change::SetConversation {
                version: row.version()?,
                metadata,
                last_msg_id: sets("lastMsgId").then(|| row.int(&assigned("lastMsgId"))),
                last_read,
                owner,
                key,
            });
        }
        Ok(prepared)
    }

    /// The new read mark of the owner, and how many messages after it, from somebody else, lie in segments.
    async fn last_read(
        &self,
        owner: &UserId,
        key: &ConversationKey,
        row: &TypedRow<'_>,
        prepared: &mut Prepared,
    ) -> Result<(Option<MsgId>, u64)> {
        let last_read = row.int(&assigned("lastReadMsgId"));
        let after = last_read.unwrap_or(0);
        let all_read = self.snapshot.message_ends(owner, key)?.is_none_or(|(_, last)| last <= after);
        if all_read {
            return Ok((last_read, 0));
        }
        prepared.expect.push(self.expect_cold(owner)?);
        Ok((last_read, self.cold_unread(owner, key, after).await?))
    }

    pub(super) async fn delete_conversations(&self, delete: &Delete) -> Result<Prepared> {
        let rows = self.select(&delete.target, &delete.from, &KEY, &[], delete.selection.as_ref()).await?;
        let mut prepared = Prepared::default();
        for row in rows.iter() {
            prepared.rows_affected += 1;
            let owner = owner_of(&delete.target.schema, &row)?;
            let key = row.conversation()?;
            let cold = self.cold_ranges(&owner, &key).await?;
            prepared.expect.push(self.expect_cold(&owner)?);
            prepared.changes.push(Change::DeleteConversation { version: row.version()?, cold, owner, key });
        }
        Ok(prepared)
    }
}
