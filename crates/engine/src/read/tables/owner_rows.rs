//! A table whose rows the store hands over owner by owner: everything but messages.
//!
//! Invariant: rows are read when the statement runs, not when it is planned, and no more owners ahead than fill a
//! batch.

use std::{collections::VecDeque, fmt, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch},
        datatypes::SchemaRef,
    },
    catalog::{TableProvider, streaming::StreamingTable},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::stream;
use kalamdb_protocol::UserId;
use kalamdb_store::Snapshot;

use super::{arrays::batch, owners, store_error};
use crate::sql::Schema;

/// Rows of one batch, and how many are read ahead for it.
const BATCH_ROWS: usize = 4096;

/// A row and whose it is.
pub(super) type Owned<R> = (UserId, R);

/// Such a table.
pub(super) struct OwnerRows<R> {
    /// What it shows.
    pub schema: SchemaRef,
    /// When.
    pub snapshot: Snapshot,
    /// Whose.
    pub owners: Schema,
    /// One owner's rows.
    pub read: fn(&Snapshot, &UserId) -> kalamdb_store::Result<Vec<R>>,
    /// The column of that name; `None` when there is none.
    pub column: fn(&str, &[Owned<R>]) -> Option<ArrayRef>,
}

// Derives would ask the same of R.
impl<R> Clone for OwnerRows<R> {
    fn clone(&self) -> Self {
        Self {
            schema: Arc::clone(&self.schema),
            snapshot: self.snapshot.clone(),
            owners: self.owners.clone(),
            read: self.read,
            column: self.column,
        }
    }
}

impl<R> fmt::Debug for OwnerRows<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerRows").field("owners", &self.owners).finish_non_exhaustive()
    }
}

impl<R: Send + 'static> OwnerRows<R> {
    /// The table for DataFusion.
    pub fn into_table(self) -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(StreamingTable::try_new(Arc::clone(&self.schema), vec![Arc::new(self)])?))
    }

    /// The batches, each read when it is asked for.
    fn batches(self) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let mut queue: Option<VecDeque<UserId>> = None;
        let mut rows: Vec<Owned<R>> = Vec::new();
        let mut next = move || -> Result<Option<RecordBatch>> {
            let queue = match &mut queue {
                Some(queue) => queue,
                None => queue.insert(owners(&self.snapshot, &self.owners).map_err(store_error)?.into()),
            };
            while rows.len() < BATCH_ROWS
                && let Some(owner) = queue.pop_front()
            {
                let more = (self.read)(&self.snapshot, &owner).map_err(store_error)?;
                rows.extend(more.into_iter().map(|row| (owner.clone(), row)));
            }
            if rows.is_empty() {
                return Ok(None);
            }
            let later = rows.split_off(rows.len().min(BATCH_ROWS));
            let now = std::mem::replace(&mut rows, later);
            batch(&self.schema, &now, self.column).map(Some)
        };
        std::iter::from_fn(move || next().transpose())
    }
}

impl<R: Send + 'static> PartitionStream for OwnerRows<R> {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = stream::iter(self.clone().batches());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}
