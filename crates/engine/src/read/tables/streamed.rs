//! A table whose rows the store hands over one after the other: everything but messages.
//!
//! Invariant: rows are read when the statement runs, not when it is planned, and no more of them at a time than fill
//! a batch.

use std::{fmt, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch},
        datatypes::SchemaRef,
    },
    catalog::{TableProvider, streaming::StreamingTable},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::stream;
use kalamdb_protocol::UserId;
use kalamdb_store::Snapshot;

use super::{BATCH_TEXT_BYTES, arrays::batch, owners, store_error};
use crate::sql::Schema;

/// Rows of one batch.
const BATCH_ROWS: usize = 4096;

/// Rows as the store hands them over.
pub(super) type RowIter<R> = Box<dyn Iterator<Item = kalamdb_store::Result<R>> + Send>;

/// A row and whose it is.
pub(super) type WithOwner<R> = (UserId, R);

/// A table whose rows are read from RocksDB as they are asked for.
pub(super) struct Streamed<R> {
    /// The table's columns.
    pub schema: SchemaRef,
    /// Begins to read its rows.
    pub open: Arc<dyn Fn() -> RowIter<R> + Send + Sync>,
    /// The column of that name; `None` when there is none.
    pub column: fn(&str, &[R]) -> Option<ArrayRef>,
    /// Bytes of a row's texts, where these may be long.
    pub text_bytes: fn(&R) -> usize,
}

/// The rows of everybody whom the schema means, one owner after the other; for [`Streamed::open`].
pub(super) fn by_owner<R, I>(
    snapshot: Snapshot,
    schema: Schema,
    read: fn(&Snapshot, &UserId) -> kalamdb_store::Result<I>,
) -> Arc<dyn Fn() -> RowIter<WithOwner<R>> + Send + Sync>
where
    R: Send + 'static,
    I: Iterator<Item = kalamdb_store::Result<R>> + Send + 'static,
{
    Arc::new(move || match owners(&snapshot, &schema) {
        Ok(owners) => {
            let snapshot = snapshot.clone();
            of_owners(owners, move |owner| read(&snapshot, owner))
        }
        Err(error) => Box::new(std::iter::once(Err(error))),
    })
}

/// The rows of these owners, each owner's read when its turn comes.
pub(super) fn of_owners<R, I>(
    owners: Vec<UserId>,
    read: impl Fn(&UserId) -> kalamdb_store::Result<I> + Send + 'static,
) -> RowIter<WithOwner<R>>
where
    R: Send + 'static,
    I: Iterator<Item = kalamdb_store::Result<R>> + Send + 'static,
{
    Box::new(owners.into_iter().flat_map(move |owner| -> RowIter<WithOwner<R>> {
        match read(&owner) {
            Ok(rows) => Box::new(rows.map(move |row| row.map(|row| (owner.clone(), row)))),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }))
}

// Derives would ask the same of R.
impl<R> Clone for Streamed<R> {
    fn clone(&self) -> Self {
        Self {
            schema: Arc::clone(&self.schema),
            open: Arc::clone(&self.open),
            column: self.column,
            text_bytes: self.text_bytes,
        }
    }
}

impl<R> fmt::Debug for Streamed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl<R: Send + 'static> Streamed<R> {
    /// The table for DataFusion.
    pub fn into_table(self) -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(StreamingTable::try_new(Arc::clone(&self.schema), vec![Arc::new(self)])?))
    }

    /// The table's rows as an operator, for a table that has others besides.
    pub fn into_plan(self, projection: &[usize], limit: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let (schema, columns) = (Arc::clone(&self.schema), projection.to_vec());
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(self)], Some(&columns), [], false, limit)?))
    }

    /// The batches, each read when it is asked for.
    fn batches(self) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let mut rows = None;
        std::iter::from_fn(move || {
            let rows = rows.get_or_insert_with(|| (self.open)().fuse());
            self.next_batch(rows).transpose()
        })
    }

    fn next_batch(&self, all: &mut impl Iterator<Item = kalamdb_store::Result<R>>) -> Result<Option<RecordBatch>> {
        let (mut rows, mut text_bytes) = (Vec::new(), 0);
        while rows.len() < BATCH_ROWS
            && text_bytes < BATCH_TEXT_BYTES
            && let Some(row) = all.next().transpose().map_err(store_error)?
        {
            text_bytes += (self.text_bytes)(&row);
            rows.push(row);
        }
        if rows.is_empty() { Ok(None) } else { batch(&self.schema, &rows, self.column).map(Some) }
    }
}

impl<R: Send + 'static> PartitionStream for Streamed<R> {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = stream::iter(self.clone().batches());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}
