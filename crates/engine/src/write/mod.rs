//! From a statement that writes to a commit: read the rows meant, say what becomes of them, have the store decide.
//!
//! Invariant: nothing is written here. Each preparation reads one snapshot and says in its proposal what of it must
//! still hold; the store's sequencer applies the rules, which are the same for SQL and `POST /messages`.

mod audit;
mod cold;
mod conversations;
mod deleted;
mod insert;
mod members;
mod messages;
mod rows;
mod select;
mod send;

pub(crate) use audit::record_read;
use kalamdb_protocol::{ErrorCode, MsgId, Table, TableId};
use kalamdb_store::{Actor, Change, ErrorKind, Expect, Proposal, Receipt, Snapshot, Store};
pub(crate) use send::send;

use crate::{
    Caller, Error, Result,
    read::{Reader, View},
    sql::{Delete, Insert, Update},
};

/// How often a write is prepared when others keep changing the rows it read: then it is their turn that is unusual,
/// and the client should know.
const ATTEMPTS: usize = 3;

/// A statement that writes.
pub(crate) enum Write {
    /// INSERT.
    Insert(Insert),
    /// UPDATE.
    Update(Update),
    /// DELETE.
    Delete(Delete),
}

/// What a write did.
pub(crate) struct Written {
    /// Rows of the named table; a group's message counts as one.
    pub rows_affected: u64,
    /// Ids of inserted messages.
    pub msg_ids: Option<Vec<MsgId>>,
}

/// What a preparation works with: one snapshot, and the tables over it with their hidden columns.
struct Preparing<'a> {
    snapshot: &'a Snapshot,
    view: &'a View,
}

/// What a preparation comes to.
#[derive(Default)]
struct Prepared {
    rows_affected: u64,
    inserts_messages: bool,
    expect: Vec<Expect>,
    changes: Vec<Change>,
}

/// Prepares the statement and has it committed; prepares it again when its rows were changed meanwhile.
pub(crate) async fn run(store: &Store, reader: &Reader, caller: &Caller, write: &Write) -> Result<Written> {
    let mut attempt = 1;
    loop {
        let snapshot = store.snapshot();
        let view = reader.view(caller, snapshot.clone());
        // The source of an INSERT is a read like any other, whose `*` means the columns that everybody knows.
        let view = if matches!(write, Write::Insert(_)) { view } else { view.with_hidden() };
        let mut prepared = Preparing { snapshot: &snapshot, view: &view }.prepare(write).await?;
        let entries = audit::entries(write, !prepared.changes.is_empty());
        prepared.changes.extend(entries);
        let (rows_affected, inserts_messages) = (prepared.rows_affected, prepared.inserts_messages);
        match prepared.commit(store, caller).await {
            Err(error) if error.kind == ErrorKind::Changed && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
            Ok(receipt) => {
                let ids = receipt.iter().flat_map(|receipt| &receipt.sent).map(|sent| sent.msg_id);
                return Ok(Written { rows_affected, msg_ids: inserts_messages.then(|| ids.collect()) });
            }
        }
    }
}

impl Prepared {
    /// `None` when there was nothing to do.
    async fn commit(self, store: &Store, caller: &Caller) -> kalamdb_store::Result<Option<Receipt>> {
        if self.changes.is_empty() {
            return Ok(None);
        }
        let proposal = Proposal { actor: actor(caller), idempotency: None, expect: self.expect, changes: self.changes };
        store.commit(proposal).await.map(Some)
    }
}

fn actor(caller: &Caller) -> Actor {
    Actor { user: caller.user.clone(), admin: caller.admin }
}

impl Preparing<'_> {
    async fn prepare(&self, write: &Write) -> Result<Prepared> {
        match write {
            Write::Insert(insert) => self.insert(insert).await,
            Write::Update(update) => match update.target.table.id {
                TableId::Messages => self.update_messages(update).await,
                TableId::Conversations => self.update_conversations(update).await,
                TableId::ConversationUsers => self.update_members(update).await,
                TableId::DeletedMessages => self.restore_messages(update).await,
                TableId::AuditLog | TableId::SystemUsers | TableId::SystemSegments | TableId::SystemFiles => {
                    Err(read_only(update.target.table))
                }
            },
            Write::Delete(delete) => match delete.target.table.id {
                TableId::Messages => self.delete_messages(delete).await,
                TableId::Conversations => self.delete_conversations(delete).await,
                TableId::ConversationUsers => self.delete_members(delete).await,
                TableId::DeletedMessages => self.purge_messages(delete).await,
                TableId::AuditLog | TableId::SystemUsers | TableId::SystemSegments | TableId::SystemFiles => {
                    Err(read_only(delete.target.table))
                }
            },
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidValue, message)
}

/// Refuses a write of a table that the server alone writes.
fn read_only(table: &Table) -> Error {
    let name = table.name;
    Error::new(ErrorCode::Unsupported, format!("The table {name} is written by the server alone; it can be read."))
}

/// Refuses a change of a column that only the server writes.
fn check_updatable(update: &Update, columns: &[&str]) -> Result<()> {
    match update.assignments.iter().find(|(column, _)| !columns.contains(&column.as_str())) {
        Some((column, _)) => Err(invalid(format!(
            "{}.{column} cannot be changed; an UPDATE of this table may set {}.",
            update.target.table.name,
            columns.join(" and ")
        ))),
        None => Ok(()),
    }
}

/// Metadata must be the text of a JSON object.
fn check_metadata(metadata: Option<&str>) -> Result<()> {
    let Some(text) = metadata else { return Ok(()) };
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid("metadata must be the text of a JSON object, such as {\"key\": \"value\"}, or NULL.")),
    }
}
