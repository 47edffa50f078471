//! Answers of repeated statements, from memory.
//!
//! Invariant: never stale. An entry knows the change number of every schema it was read from, as its own snapshot
//! had them, and is used only while the store still has the same; it belongs to one user in one role, and holds no
//! snapshot.

use std::sync::Arc;

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, SchemaRef},
};
use kalamdb_protocol::{QueryRequest, UserId};
use kalamdb_store::{Seq, Snapshot, Store};
use moka::sync::Cache as Moka;

use super::catalog::Dependency;
use crate::Caller;

/// The part of the budget that one answer may take: few large ones would push out many small ones.
const PART_OF_BUDGET: u64 = 16;

/// Bytes of an entry besides its rows and its statement, about.
const ENTRY_BYTES: u64 = 1024;

/// Whole answers, by their questions.
#[derive(Clone)]
pub(super) struct Cache {
    entries: Moka<Key, Arc<CachedAnswer>>,
    max_answer_bytes: u64,
}

/// A question: the caller and the statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    user: UserId,
    admin: bool,
    sql: String,
    /// The parameters, as JSON text.
    params: String,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct CachedAnswer {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    pub truncated: bool,
    read_at: Versions,
    bytes: u64,
}

/// The dependencies of an answer, with their change numbers when it was read.
pub(super) type Versions = Vec<(Dependency, Seq)>;

/// An answer that is being read, kept on the way out.
pub(super) struct Keep {
    cache: Cache,
    key: Key,
    read_at: Versions,
    batches: Vec<RecordBatch>,
    bytes: u64,
}

impl Key {
    /// `None` when the parameters cannot be written down.
    pub fn new(caller: &Caller, request: &QueryRequest) -> Option<Self> {
        Some(Self {
            user: caller.user.clone(),
            admin: caller.admin,
            sql: request.sql.clone(),
            params: serde_json::to_string(&request.params).ok()?,
        })
    }

    fn bytes(&self) -> u64 {
        (self.sql.len() + self.params.len() + self.user.as_str().len()) as u64
    }
}

impl Cache {
    pub fn new(budget_bytes: u64) -> Self {
        let weigh = |key: &Key, answer: &Arc<CachedAnswer>| {
            u32::try_from(answer.bytes + key.bytes() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        let entries = Moka::builder().max_capacity(budget_bytes).weigher(weigh).build();
        Self { entries, max_answer_bytes: budget_bytes / PART_OF_BUDGET }
    }

    /// The answer, if everything it was read from is still as it was.
    pub fn get(&self, key: &Key, store: &Store) -> Option<Arc<CachedAnswer>> {
        let answer = self.entries.get(key)?;
        let unchanged = answer.read_at.iter().all(|(dependency, read_at)| match dependency {
            Dependency::Owner(owner) => store.change_number(owner).is_ok_and(|now| now == *read_at),
            Dependency::Everything => store.last_seq().is_ok_and(|now| now == *read_at),
            Dependency::Clock => false,
        });
        if !unchanged {
            self.entries.invalidate(key);
            return None;
        }
        Some(answer)
    }

    /// Begins to keep an answer.
    pub fn keep(&self, key: Key, read_at: Versions) -> Keep {
        Keep { cache: self.clone(), key, read_at, batches: Vec::new(), bytes: 0 }
    }
}

/// The change numbers of what was read, as the snapshot has them; `None` when the answer can change without a commit.
pub(super) fn versions(
    snapshot: &Snapshot,
    dependencies: impl IntoIterator<Item = Dependency>,
) -> kalamdb_store::Result<Option<Versions>> {
    let version = |dependency| {
        let read_at = match &dependency {
            Dependency::Owner(owner) => snapshot.owner(owner)?.change,
            Dependency::Everything => snapshot.seq()?,
            Dependency::Clock => return Ok(None),
        };
        Ok(Some((dependency, read_at)))
    };
    dependencies.into_iter().map(version).collect()
}

impl Keep {
    /// Adds a batch; `None` once the answer is too large to be kept.
    pub fn add(mut self, batch: &RecordBatch) -> Option<Self> {
        let batch = compact(batch)?;
        self.bytes += batch.get_array_memory_size() as u64;
        self.batches.push(batch);
        (self.bytes <= self.cache.max_answer_bytes).then_some(self)
    }

    /// The answer is whole.
    pub fn finish(self, schema: SchemaRef, truncated: bool) {
        let Self { cache, key, read_at, batches, bytes } = self;
        cache.entries.insert(key, Arc::new(CachedAnswer { schema, batches, truncated, read_at, bytes }));
    }
}

/// Copies the rows without the memory that they share: a few texts may hold on to the whole page they were read from.
fn compact(batch: &RecordBatch) -> Option<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()) as ArrayRef,
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()) as ArrayRef,
        _ => Arc::clone(column),
    });
    RecordBatch::try_new(batch.schema(), columns.collect()).ok()
}
