//! The audit log's entries of an admin's statement that names others' tables.
//!
//! Invariant: a write is recorded in the commit that it is; a read, and a write that fails, is recorded before its first
//! row or its error is given out, or gives out none.

use kalamdb_protocol::AuditAction;
use kalamdb_store::{Change, Proposal, Store};

use super::{Write, actor};
use crate::{Caller, Result, sql::Foreign};

/// Records what a read names of others.
///
/// # Errors
/// When it cannot be recorded: then nobody may see the rows.
pub(crate) async fn record_read(store: &Store, caller: &Caller, foreign: &[Foreign]) -> Result<()> {
    if foreign.is_empty() {
        return Ok(());
    }
    let changes = foreign.iter().map(|foreign| entry(foreign, AuditAction::AdminSelect)).collect();
    store.commit(Proposal { actor: actor(caller), idempotency: None, expect: Vec::new(), changes }).await?;
    Ok(())
}

/// The entries of a write, which changes something or not: what it only read is recorded in either case.
pub(super) fn entries(write: &Write, changes: bool) -> impl Iterator<Item = Change> {
    let action = match write {
        Write::Insert(_) => AuditAction::AdminInsert,
        Write::Update(_) => AuditAction::AdminUpdate,
        Write::Delete(_) => AuditAction::AdminDelete,
    };
    let entries = write.foreign().iter().filter(move |foreign| changes || !foreign.written);
    entries.map(move |foreign| entry(foreign, if foreign.written { action } else { AuditAction::AdminSelect }))
}

fn entry(foreign: &Foreign, action: AuditAction) -> Change {
    Change::AdminStatement { log: foreign.log.clone(), action, target: foreign.table.clone() }
}
