//! `auditLog`: who deleted, restored or purged what, joined and left, and what admins did.
//!
//! Invariant: read only; it holds names and numbers, never content.

use std::sync::Arc;

use datafusion::{arrow::array::ArrayRef, catalog::TableProvider, error::Result};
use kalamdb_protocol::Table;
use kalamdb_store::{AuditEntry, Snapshot};

use super::{
    OWNER,
    arrays::{ints, texts},
    streamed::{Streamed, WithOwner, by_owner},
    table_schema,
};
use crate::sql::Schema;

/// The table `auditLog`.
pub(in crate::read) fn audit_log(table: &Table, snapshot: Snapshot, owners: Schema) -> Result<Arc<dyn TableProvider>> {
    let schema = table_schema(table.columns, &owners, []);
    let open = by_owner(snapshot, owners, Snapshot::audit);
    Streamed { schema, open, column, text_bytes: |(_, entry)| entry.target.len() + entry.details.len() }.into_table()
}

fn column(name: &str, rows: &[WithOwner<AuditEntry>]) -> Option<ArrayRef> {
    let all = rows.iter().map(|(_, row)| row);
    Some(match name {
        OWNER => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        "auditId" => ints(all.map(|row| row.audit_id)),
        "timestamp" => ints(all.map(|row| row.timestamp)),
        "actor" => texts(all.map(|row| row.actor.as_str())),
        "action" => texts(all.map(|row| row.action.as_str())),
        "target" => texts(all.map(|row| row.target.as_str())),
        "details" => texts(all.map(|row| row.details.as_str())),
        _ => return None,
    })
}
