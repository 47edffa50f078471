//! SQL over a snapshot of the store, writes prepared into commits, and background work.
//!
//! Invariant: the only crate that knows DataFusion, and one that knows nothing of HTTP or tokens: a caller is a
//! user id and whether it is an admin's.

mod background;
mod error;
mod functions;
mod live;
mod read;
mod settings;
mod sql;
#[cfg(test)]
mod tests;
mod upstream;
mod workers;
mod write;

use std::{
    ops::ControlFlow,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
pub use error::{Error, Result};
use futures::Stream;
use kalamdb_protocol::{ErrorCode, QueryRequest, SendMessageResponse, SendRequest, UserId, WriteResponse};
use kalamdb_store::Store;
pub use kalamdb_store::WriteStages;
pub use live::{LiveFrame, LiveSession};
pub use settings::{ConsolidationSettings, LiveSettings, QuerySettings, Settings};
use tokio::sync::watch;

use crate::{
    background::{Background, Whose},
    live::Hub,
    read::{Reader, Rows, View},
    sql::{Shape, Statement, Template},
    workers::{Stage, Threads, Ticket, Workers, ended_early},
    write::{NamedRequest, Write},
};

/// The user who asks, as the token says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The user's id.
    pub user: UserId,
    /// Whether the token's role is `admin`.
    pub admin: bool,
}

/// The engine: cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    store: Store,
    reader: Reader,
    workers: Workers,
    /// The threads of background work, apart from those of statements.
    background: Threads,
    live: Arc<Hub>,
    max_statement_bytes: usize,
    stop: watch::Sender<bool>,
}

/// The result of a statement.
#[allow(clippy::large_enum_variant, reason = "there is one for each statement, and it is moved twice")]
pub enum Outcome {
    /// The rows of a read, as one JSON document: a `QueryResponse`.
    Json(Bytes),
    /// The rows of a read, as a stream in the format that was asked for.
    Stream(RowStream),
    /// A write, committed.
    Written(WriteResponse),
}

/// The formats in which rows are streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/csv`, with a header line.
    Csv,
    /// `application/x-ndjson`, an object per row.
    NdJson,
    /// `application/vnd.apache.arrow.stream`.
    Arrow,
}

/// A streamed answer.
pub struct RowStream {
    /// The format of the bytes.
    pub format: Format,
    /// Whether `max_rows` cut the answer, when that is known before the first byte (small answers).
    pub truncated: Option<bool>,
    /// The bytes; a late error comes as a last error record.
    pub body: Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
    /// The code of a late error, once it has come.
    pub late: Arc<OnceLock<ErrorCode>>,
}

/// The result of a compaction on request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Segments read and replaced.
    pub replaced_segments: u64,
    /// Segments written in their place.
    pub written_segments: u64,
    /// Rows that were deleted or written elsewhere, and are in no file any more.
    pub dropped_rows: u64,
}

/// The result of a consolidation on request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsolidationReport {
    /// The number of segments written.
    pub segments: u64,
    /// Messages in them.
    pub messages: u64,
}

impl Engine {
    /// Starts the engine's threads and its background work.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(store: Store, settings: Settings) -> Result<Self> {
        let workers = Workers::start(&settings.query)?;
        let background = background::threads()?;
        let reader = Reader::new(store.clone(), &settings.query)?;
        let (stop, stopped) = watch::channel(false);
        let max_statement_bytes = settings.query.max_statement_bytes;
        let feed = store.feed().ok_or_else(|| Error::fault("the store has an engine already"))?;
        let live = Hub::start(store.clone(), reader.clone(), workers.short(), &settings, feed, stopped.clone())?;
        background.handle().spawn(Background::new(store.clone(), settings).run(stopped));
        Ok(Self(Arc::new(Inner { store, reader, workers, background, live, max_statement_bytes, stop })))
    }

    /// Runs one SQL statement; dropping the future stops it, unless its commit is on its way. A repeated
    /// `idempotency_key` gets the first write's answer; a read does not look at it. Rows are answered in `format`, or
    /// as one JSON document where it is `None`.
    ///
    /// # Errors
    /// What is wrong with the statement, or why it could not be finished.
    pub async fn execute(
        &self,
        caller: &Caller,
        request: QueryRequest,
        idempotency_key: Option<String>,
        format: Option<Format>,
    ) -> Result<Outcome> {
        let ticket = self.0.workers.admit(&caller.user).await?;
        let (inner, caller, place) = (Arc::clone(&self.0), caller.clone(), ticket.clone());
        // One task to the last byte of a JSON document: each hand-over between threads costs more than a small read. On
        // the heap, because the future is moved a dozen times on its way there.
        let request = match self.0.reader.known(&request.sql) {
            None => request,
            Some((template, shape)) => {
                let (inner, caller, place) = (Arc::clone(&inner), caller.clone(), place.clone());
                let run = async move { inner.again(&caller, &template, &shape, request, format, &place).await };
                match ticket.run_short(Box::pin(run)).await? {
                    ControlFlow::Break(outcome) => return Ok(outcome),
                    ControlFlow::Continue(request) => request,
                }
            }
        };
        let run = async move { inner.execute(&caller, &request, idempotency_key, format, &place).await };
        ticket.run(Box::pin(run)).await
    }

    /// Sends one message, or several, all or none, and answers in their order; a repeated `idempotency_key` gets the
    /// first answer.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub async fn send(
        &self,
        caller: &Caller,
        request: SendRequest,
        idempotency_key: Option<String>,
    ) -> Result<Vec<SendMessageResponse>> {
        // Most sends read nothing but what the sequencer reads; only one with an id of its own needs a place on the
        // engine's threads, to look among the segments, and many at once, to be prepared.
        if matches!(&request, SendRequest::One(message) if message.msg_id.is_none()) {
            return write::send(&self.0.store, &self.0.reader, caller, request, idempotency_key, &Stage::free()).await;
        }
        let ticket = self.0.workers.admit(&caller.user).await?;
        let (inner, caller, stage) = (Arc::clone(&self.0), caller.clone(), Arc::clone(ticket.stage()));
        let send =
            async move { write::send(&inner.store, &inner.reader, &caller, request, idempotency_key, &stage).await };
        ticket.run_short(send).await
    }

    /// Consolidates one owner's hot messages, or everybody's, whatever their number.
    ///
    /// # Errors
    /// When the disk or the object store fails.
    pub async fn consolidate(&self, owner: Option<&UserId>) -> Result<ConsolidationReport> {
        let (store, whose) = (self.0.store.clone(), whose(owner));
        self.to_the_end(async move { background::consolidate_all(&store, whose).await }).await
    }

    /// Rewrites one owner's segments, or everybody's, without the rows that are gone, and removes what nothing refers
    /// to any more.
    ///
    /// # Errors
    /// When the disk or the object store fails; what was not done is done in the background later.
    pub async fn compact(&self, owner: Option<&UserId>) -> Result<CompactionReport> {
        let (store, whose) = (self.0.store.clone(), whose(owner));
        self.to_the_end(async move {
            // Expired rows go first, so that the files are written without them.
            store.sweep().await?;
            let report = background::compact_all(&store, whose).await?;
            store.sweep().await?;
            Ok(report)
        })
        .await
    }

    /// Whether a write would succeed now: the store decides and writes commits.
    ///
    /// # Errors
    /// `storage_unavailable`, and why.
    pub async fn ready(&self) -> Result<()> {
        Ok(self.0.store.ready().await?)
    }

    /// The writes of this process so far, and where their time was spent.
    #[must_use]
    pub fn write_stages(&self) -> WriteStages {
        self.0.store.write_stages()
    }

    /// Runs work on files to its end, whether or not somebody still waits for it: what stops half-way leaves a file
    /// that is in nobody's way, but stays until the next start.
    async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let task = self.0.background.handle().spawn(work);
        task.await.unwrap_or_else(|broken| Err(ended_early(&broken)))
    }

    /// Stops background work and waits for statements that run.
    pub async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        tokio::join!(self.0.workers.shutdown(), self.0.background.end(background::END_WITHIN));
        self.0.live.end().await;
    }
}

async fn answer(rows: Rows, format: Option<Format>) -> Result<Outcome> {
    Ok(match format {
        None => Outcome::Json(rows.into_json().await?),
        // A stream's beginning holds much; a short document's future need not be as large.
        Some(format) => Outcome::Stream(Box::pin(rows.into_stream(format)).await?),
    })
}

/// The owner named, or everybody.
fn whose(owner: Option<&UserId>) -> Whose {
    owner.map_or(Whose::All, |owner| Whose::One(owner.clone()))
}

impl Inner {
    fn view(&self, caller: &Caller, ticket: &Ticket) -> View {
        self.reader.view(caller, self.store.snapshot()).in_stage(Arc::clone(ticket.stage()))
    }

    /// Runs a read whose statement was parsed before; gives the request back where it needs the planner with these
    /// values.
    async fn again(
        &self,
        caller: &Caller,
        template: &Template,
        shape: &Shape,
        request: QueryRequest,
        format: Option<Format>,
        ticket: &Ticket,
    ) -> Result<ControlFlow<Outcome, QueryRequest>> {
        let rows = match self.reader.cached(caller, &request, ticket) {
            Some(rows) => Some(rows),
            None => self.view(caller, ticket).rows_again(template, shape, &request, ticket)?,
        };
        Ok(match rows {
            Some(rows) => ControlFlow::Break(answer(rows, format).await?),
            None => ControlFlow::Continue(request),
        })
    }

    async fn execute(
        &self,
        caller: &Caller,
        request: &QueryRequest,
        idempotency_key: Option<String>,
        format: Option<Format>,
        ticket: &Ticket,
    ) -> Result<Outcome> {
        if let Some(rows) = self.reader.cached(caller, request, ticket) {
            return answer(rows, format).await;
        }
        let write = match sql::parse(caller, request, self.max_statement_bytes)? {
            Statement::Read(read) => {
                self.reader.learn(&request.sql);
                let rows = self.view(caller, ticket).rows(&read, request, ticket).await?;
                Box::pin(write::record_read(&self.store, caller, &read.foreign)).await?;
                return answer(rows, format).await;
            }
            Statement::Insert(insert) => Write::Insert(insert),
            Statement::Update(update) => Write::Update(update),
            Statement::Delete(delete) => Write::Delete(delete),
        };
        let name = idempotency_key.map(|key| NamedRequest::new(key, request)).transpose()?;
        // Planning and committing hold much; a read's future need not be as large.
        let run = write::run(&self.store, &self.reader, caller, &write, name.as_ref(), ticket.stage());
        let written = Box::pin(run).await?;
        Ok(Outcome::Written(WriteResponse {
            rows_affected: written.rows_affected,
            msg_ids: written.msg_ids,
            conversation_created: written.conversation_created,
            execution_time_ms: ticket.started().elapsed().as_secs_f64() * 1_000.0,
        }))
    }
}
