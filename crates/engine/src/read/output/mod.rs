//! The rows of an answer, whole or in parts.
//!
//! Invariant: no more rows than `query.max_rows` leave here, no more bytes than the limit are held for one answer. A
//! stream is computed on the engine's threads, whoever polls it; one document where its reader runs.

mod cells;
mod charge;
mod encode;
mod json;
mod streamed;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{StreamExt, stream};
use kalamdb_protocol::ErrorCode;
use kalamdb_store::Snapshot;

pub(crate) use self::encode::objects;
use super::{
    cache::{CachedAnswer, Keep},
    errors::{client_error, rowless_error},
    memory::QueryMemory,
};
use crate::{Error, Format, Result, RowStream, workers::Ticket};

/// Bounds of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Rows of any answer.
    pub rows: usize,
    /// Bytes of a buffered one.
    pub bytes: usize,
}

/// The resources that a statement holds until its last row is computed.
pub(super) struct Held {
    memory: Arc<QueryMemory>,
    /// The snapshot, because the plan may read segments, whose files stay as long as a snapshot that names them is
    /// held. Rows of the cache read nothing.
    _snapshot: Option<Snapshot>,
    /// Whether the statement reads a table, so that an error may hold what lies there.
    reads_rows: bool,
}

impl Held {
    /// The resources of a statement that reads.
    pub fn new(memory: Arc<QueryMemory>, snapshot: Snapshot, reads_rows: bool) -> Self {
        Self { memory, _snapshot: Some(snapshot), reads_rows }
    }

    /// The resources of a statement whose rows are in the cache, which has memory of its own: this is for the answer
    /// that is made of them.
    pub fn of_cache(memory: Arc<QueryMemory>) -> Self {
        Self { memory, _snapshot: None, reads_rows: true }
    }
}

/// The rows of a read, not all computed yet.
pub(crate) struct Rows {
    columns: Vec<String>,
    batches: Batches,
    ticket: Ticket,
    limits: Limits,
}

/// The batches of an answer, up to the limit of rows.
struct Batches {
    stream: SendableRecordBatchStream,
    left: usize,
    truncated: bool,
    held: Held,
    keep: Option<Keep>,
}

impl Rows {
    /// Rows that a plan computes; `keep` puts them in the cache on the way.
    pub(super) fn live(
        stream: SendableRecordBatchStream,
        ticket: Ticket,
        limits: Limits,
        held: Held,
        keep: Option<Keep>,
    ) -> Self {
        let columns = names(&stream.schema());
        let batches = Batches { stream, left: limits.rows, truncated: false, held, keep };
        Self { columns, batches, ticket, limits }
    }

    /// Rows of the cache.
    pub(super) fn cached(answer: &CachedAnswer, ticket: Ticket, limits: Limits, held: Held) -> Self {
        let batches = stream::iter(answer.batches.clone().into_iter().map(Ok));
        let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&answer.schema), batches));
        let batches = Batches { stream, left: limits.rows, truncated: answer.truncated, held, keep: None };
        Self { columns: names(&answer.schema), batches, ticket, limits }
    }

    /// The whole answer: a `QueryResponse` as JSON, computed by whoever awaits it.
    ///
    /// # Errors
    /// What the statement runs into, and `payload_too_large`.
    pub async fn into_json(self) -> Result<Bytes> {
        json::response(self).await
    }

    /// The answer in parts; an error before the first part is an error here.
    ///
    /// # Errors
    /// What the statement runs into; for objects, columns of one name.
    pub async fn into_stream(self, format: Format) -> Result<RowStream> {
        if format == Format::NdJson {
            check_keys(&self.columns)?;
        }
        streamed::start(self, format).await
    }
}

/// Refuses columns of one name, of which an object could hold one only.
pub(crate) fn check_keys(names: &[String]) -> Result<()> {
    let mut seen = HashSet::with_capacity(names.len());
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(name) => Err(Error::new(
            ErrorCode::InvalidValue,
            format!(
                "Two columns here are called `{name}`, and an object has each key once; give one of them another name \
                 with AS."
            ),
        )),
        None => Ok(()),
    }
}

fn names(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

impl Batches {
    /// The next rows; after the last, [`Self::truncated`] is settled.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(batch) = self.stream.next().await {
            let batch = batch.map_err(|error| self.error(&error))?;
            if batch.num_rows() == 0 {
                continue;
            }
            if self.left == 0 {
                self.truncated = true;
                break;
            }
            if batch.num_rows() > self.left {
                self.truncated = true;
            }
            let batch = batch.slice(0, batch.num_rows().min(self.left));
            self.left -= batch.num_rows();
            self.keep = self.keep.take().and_then(|keep| keep.add(&batch));
            return Ok(Some(batch));
        }
        if let Some(keep) = self.keep.take() {
            keep.finish(self.stream.schema(), self.truncated);
        }
        Ok(None)
    }

    fn error(&self, error: &datafusion::error::DataFusionError) -> Error {
        let of = if self.held.reads_rows { client_error } else { rowless_error };
        of(error, self.held.memory.refused())
    }
}
