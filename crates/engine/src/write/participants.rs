//! UPDATE and DELETE of a group's participants.
//!
//! Invariant: a participant is one row, in however many schemas it shows.

use std::collections::BTreeMap;

use kalamdb_protocol::{ConversationId, UserId};
use kalamdb_store::Change;

use super::{
    Prepared, Preparing, check_metadata, check_updatable,
    insert::role,
    invalid,
    rows::{TypedRow, TypedRows},
    select::assigned,
};
use crate::{
    Result,
    sql::{Delete, Schema, Target, Update},
};

const KEY: [&str; 3] = ["userId", "conversationId", "_version"];

impl Preparing<'_> {
    pub(super) async fn update_participants(&self, update: &Update) -> Result<Prepared> {
        check_updatable(update, &["role", "metadata"])?;
        let rows =
            self.select(&update.target, &update.from, &KEY, &update.assignments, update.selection.as_ref()).await?;
        let sets = |column: &str| update.assignments.iter().any(|(assigned, _)| assigned == column);
        let mut prepared = Prepared::default();
        for ((group, user), (owner, row)) in distinct(&update.target, &rows)? {
            let metadata = sets("metadata").then(|| row.owned(&assigned("metadata")));
            check_metadata(metadata.as_ref().and_then(Option::as_deref))?;
            let new_role = role(row.text(&assigned("role")))?;
            if sets("role") && new_role.is_none() {
                return Err(invalid("role cannot be NULL; it is 'owner', 'admin' or 'member'."));
            }
            let version = row.version()?;
            prepared.changes.push(Change::SetParticipant { owner, group, user, version, role: new_role, metadata });
        }
        prepared.rows_affected = prepared.changes.len() as u64;
        Ok(prepared)
    }

    pub(super) async fn delete_participants(&self, delete: &Delete) -> Result<Prepared> {
        let rows = self.select(&delete.target, &delete.from, &KEY, &[], delete.selection.as_ref()).await?;
        let mut prepared = Prepared::default();
        for ((group, user), (owner, row)) in distinct(&delete.target, &rows)? {
            let version = row.version()?;
            prepared.changes.push(Change::RemoveParticipant { owner, group, user, version });
        }
        // A caller who removes everybody goes last: after leaving they could remove nobody.
        prepared
            .changes
            .sort_by_key(|change| matches!(change, Change::RemoveParticipant { owner, user, .. } if owner == user));
        prepared.rows_affected = prepared.changes.len() as u64;
        Ok(prepared)
    }
}

/// Each participant once. In everybody's schemas a participant shows once for each who sees them; there the
/// server's admin acts in the participant's own.
fn distinct<'r>(
    target: &Target,
    rows: &'r TypedRows,
) -> Result<BTreeMap<(ConversationId, UserId), (UserId, TypedRow<'r>)>> {
    let mut distinct = BTreeMap::new();
    for row in rows.iter() {
        let user = row.user("userId")?.ok_or_else(|| invalid("userId is needed."))?;
        let owner = match &target.schema {
            Schema::Owner(owner) => owner.clone(),
            Schema::All => user.clone(),
        };
        distinct.entry((row.conversation_id()?, user)).or_insert((owner, row));
    }
    Ok(distinct)
}
