//! The way from a statement that writes to a commit: read the rows meant, say what becomes of them, have the store
//! decide.
//!
//! Invariant: nothing is written here. Each preparation reads one snapshot and says in its proposal what of it must
//! still hold; the store's sequencer applies the rules, which are the same for SQL and `POST /messages`.

mod audit;
mod cold;
mod conversations;
mod deleted;
mod insert;
mod messages;
mod participants;
mod rows;
mod select;
mod send;
mod whole;

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub(crate) use audit::record_read;
use kalamdb_protocol::{ErrorCode, MsgId, Table, TableId};
use kalamdb_store::{Actor, Change, ErrorKind, Expect, Idempotency, Proposal, Receipt, Snapshot, Store};
pub(crate) use send::send;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    Caller, Error, Result,
    read::{Reader, View},
    sql::{Delete, Foreign, Insert, Update},
    workers::Stage,
};

/// The number of preparations of a write when others keep changing the rows it read: so much contention is unusual, and
/// the client should know of it.
const ATTEMPTS: usize = 3;

/// A statement that writes.
pub(crate) enum Write {
    /// An INSERT.
    Insert(Insert),
    /// An UPDATE.
    Update(Update),
    /// A DELETE.
    Delete(Delete),
}

impl Write {
    /// The tables of other users that it names.
    fn foreign(&self) -> &[Foreign] {
        match self {
            Self::Insert(insert) => &insert.foreign,
            Self::Update(update) => &update.foreign,
            Self::Delete(delete) => &delete.foreign,
        }
    }

    /// The result, by the receipt of its commit if there was one.
    fn done(&self, rows_affected: u64, receipt: Option<Receipt>) -> Written {
        let sent = receipt.map(|receipt| receipt.sent).unwrap_or_default();
        let inserts_messages = matches!(self, Self::Insert(insert) if insert.target.table.id == TableId::Messages);
        Written {
            rows_affected,
            conversation_created: sent.iter().any(|sent| sent.conversation_created),
            msg_ids: inserts_messages.then(|| sent.iter().map(|sent| sent.msg_id).collect()),
        }
    }

    /// The tables of other users that it reads: an INSERT does not read the table that it writes.
    fn reads(&self) -> Vec<Foreign> {
        let is_read = |foreign: &&Foreign| !(foreign.written && matches!(self, Self::Insert(_)));
        self.foreign().iter().filter(is_read).cloned().collect()
    }
}

/// The result of a write.
pub(crate) struct Written {
    /// Rows of the named table; a group's message counts as one.
    pub rows_affected: u64,
    /// Ids of inserted messages.
    pub msg_ids: Option<Vec<MsgId>>,
    /// Whether a conversation began with one of these messages.
    pub conversation_created: bool,
}

/// A client's name for a request, and the request's hash.
#[derive(Debug, Clone)]
pub(crate) struct NamedRequest {
    key: String,
    hash: [u8; 32],
}

impl NamedRequest {
    /// The name of a request that is JSON like that.
    ///
    /// # Errors
    /// A fault of ours only.
    pub fn new(key: String, request: &impl Serialize) -> Result<Self> {
        let mut hash = Hash(Sha256::new());
        serde_json::to_writer(&mut hash, request).map_err(|_| Error::fault("a request that does not serialise"))?;
        Ok(Self { key, hash: hash.0.finalize().into() })
    }

    fn idempotency(&self, rows_affected: u64) -> Idempotency {
        Idempotency { key: self.key.clone(), request_hash: self.hash, rows_affected }
    }

    /// The receipt of the first request of this name, if this one repeats it.
    ///
    /// # Errors
    /// `conflict` when the first was another request.
    fn earlier(&self, store: &Store, caller: &Caller) -> Result<Option<Receipt>> {
        Ok(store.earlier_receipt(&caller.user, &self.idempotency(0))?)
    }
}

/// A hash that is written to, so that a large request is not held twice.
struct Hash(Sha256);

impl std::io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The surroundings of a preparation: one snapshot, and the tables over it with their hidden columns.
struct Preparing<'a> {
    snapshot: &'a Snapshot,
    view: &'a View,
    /// Whether it has begun to read what the statement selects.
    has_read: AtomicBool,
}

impl<'a> Preparing<'a> {
    fn new(snapshot: &'a Snapshot, view: &'a View) -> Self {
        Self { snapshot, view, has_read: AtomicBool::new(false) }
    }

    fn has_read(&self) -> bool {
        self.has_read.load(Ordering::Relaxed)
    }
}

/// The result of a preparation.
#[derive(Default)]
struct Prepared {
    rows_affected: u64,
    expect: Vec<Expect>,
    changes: Vec<Change>,
}

/// Prepares the statement and has it committed; prepares it again when its rows were changed meanwhile. A repetition
/// under the same name gets the first one's answer.
pub(crate) async fn run(
    store: &Store,
    reader: &Reader,
    caller: &Caller,
    write: &Write,
    name: Option<&NamedRequest>,
    stage: &Arc<Stage>,
) -> Result<Written> {
    if let Some(receipt) = name.map(|name| name.earlier(store, caller)).transpose()?.flatten() {
        return Ok(write.done(receipt.rows_affected, Some(receipt)));
    }
    let mut attempts = Attempts::new(store, caller, name, stage);
    loop {
        let prepared = prepare(store, reader, caller, write, stage).await?;
        let rows_affected = prepared.rows_affected;
        if let ControlFlow::Break(receipt) = attempts.commit(prepared).await? {
            let named = receipt.as_ref().filter(|_| name.is_some());
            return Ok(write.done(named.map_or(rows_affected, |receipt| receipt.rows_affected), receipt));
        }
    }
}

/// Prepares a statement on a new snapshot, with the audit entries of what it does in other schemas.
async fn prepare(
    store: &Store,
    reader: &Reader,
    caller: &Caller,
    write: &Write,
    stage: &Arc<Stage>,
) -> Result<Prepared> {
    stage.goes_on()?;
    let snapshot = store.snapshot();
    let view = reader.view(caller, snapshot.clone()).in_stage(Arc::clone(stage));
    // The source of an INSERT is a read like any other, whose `*` means the columns that everybody knows.
    let view = if matches!(write, Write::Insert(_)) { view } else { view.with_hidden() };
    let preparing = Preparing::new(&snapshot, &view);
    let mut prepared = match preparing.prepare(write).await {
        Ok(prepared) => prepared,
        Err(error) => {
            // A failed write changes nothing, but its error may tell of rows that it has read in other schemas.
            if preparing.has_read() {
                record_read(store, caller, &write.reads()).await?;
            }
            return Err(error);
        }
    };
    let entries = audit::entries(write, !prepared.changes.is_empty());
    prepared.changes.extend(entries);
    Ok(prepared)
}

/// The attempts to commit a write: one whose rows were changed meanwhile is followed by another, with a new preparation.
struct Attempts<'a> {
    store: &'a Store,
    caller: &'a Caller,
    name: Option<&'a NamedRequest>,
    stage: &'a Arc<Stage>,
    left: usize,
}

impl<'a> Attempts<'a> {
    fn new(store: &'a Store, caller: &'a Caller, name: Option<&'a NamedRequest>, stage: &'a Arc<Stage>) -> Self {
        Self { store, caller, name, stage, left: ATTEMPTS }
    }

    /// Commits what was prepared, if the statement has not been stopped; from then on it is waited for. Goes on when
    /// rows that the preparation read were changed meanwhile; else it breaks with the receipt, if there was anything to
    /// commit.
    async fn commit(&mut self, prepared: Prepared) -> Result<ControlFlow<Option<Receipt>>> {
        self.left -= 1;
        let committing = self.stage.commit()?;
        let result = prepared.commit(self.store, self.caller, self.name).await;
        drop(committing);
        match result {
            Err(error) if error.kind == ErrorKind::Changed && self.left > 0 => {
                self.stage.goes_on()?;
                Ok(ControlFlow::Continue(()))
            }
            result => Ok(ControlFlow::Break(result?)),
        }
    }
}

impl Prepared {
    /// `None` when there was nothing to do. A request with a name is noted all the same: its repetition must not find
    /// more to do.
    async fn commit(
        self,
        store: &Store,
        caller: &Caller,
        name: Option<&NamedRequest>,
    ) -> kalamdb_store::Result<Option<Receipt>> {
        if self.changes.is_empty() && name.is_none() {
            return Ok(None);
        }
        let idempotency = name.map(|name| name.idempotency(self.rows_affected));
        let proposal = Proposal { actor: actor(caller), idempotency, expect: self.expect, changes: self.changes };
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
                TableId::ConversationUsers => self.update_participants(update).await,
                TableId::DeletedMessages => self.restore_messages(update).await,
                TableId::AuditLog | TableId::SystemUsers | TableId::SystemSegments | TableId::SystemFiles => {
                    Err(read_only(update.target.table))
                }
            },
            Write::Delete(delete) => match delete.target.table.id {
                TableId::Messages => self.delete_messages(delete).await,
                TableId::Conversations => self.delete_conversations(delete).await,
                TableId::ConversationUsers => self.delete_participants(delete).await,
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
