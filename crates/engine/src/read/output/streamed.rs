//! An answer in parts: computed by a task on the engine's threads, which stays a few parts ahead of the client.
//!
//! Invariant: a slow client holds back the task, not memory; one that has gone stops it; the deadline of the
//! statement holds to the last part. Each part is charged to the statement's memory until it is sent. An answer that
//! `query.max_rows` cut says so: in its head, or, once that is out, at its end.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use futures::{Stream, stream};
use kalamdb_protocol::ErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::{
    Batches, Rows,
    charge::Charge,
    encode::{Encoder, cut_record, error_record},
};
use crate::{Error, Format, Result, RowStream, workers::Running};

/// Parts computed ahead of the client.
const PARTS_AHEAD: usize = 4;

/// Bytes that are computed before the first one goes out: most answers are whole by then, so that the client is told
/// whether rows were cut, and an error is still an error.
const HEAD_BYTES: usize = 1024 * 1024;

/// A part is about this large, whatever the rows are: a batch has up to 8,192 of them, and would be up to some hundred
/// megabytes at once.
const PART_BYTES: usize = 256 * 1024;

/// Rows of the first part, while nothing is known of their size.
const FIRST_ROWS: usize = 64;

/// The facts that are known when the first bytes go out.
struct Head {
    truncated: Option<bool>,
    bytes: Bytes,
}

/// Starts the task and waits for the beginning of the answer.
pub(super) async fn start(rows: Rows, format: Format) -> Result<RowStream> {
    let Rows { batches, ticket, limits, .. } = rows;
    let (head, first) = oneshot::channel();
    let (parts, rest) = mpsc::channel(PARTS_AHEAD);
    let charge = Charge::new(&batches);
    let out = Outgoing { charge, beginning: Some((head, Vec::new())), parts };
    let task = ticket.spawn(produce(batches, format, limits.rows, out));
    match first.await {
        Ok(Head { truncated, bytes }) => {
            let late = Arc::default();
            let body = body(bytes, rest, task, format, Arc::clone(&late));
            Ok(RowStream { format, truncated, body, late })
        }
        // The task ended before it had a beginning, and says why.
        Err(_) => Err(task.end().await.err().unwrap_or_else(unexplained)),
    }
}

/// The answer's reader has gone.
struct Gone;

/// The way out of the answer's parts: into the beginning, and once that is large enough after it.
struct Outgoing {
    charge: Charge,
    beginning: Option<(oneshot::Sender<Head>, Vec<u8>)>,
    parts: mpsc::Sender<Bytes>,
}

impl Outgoing {
    /// Sends what was encoded.
    async fn part(&mut self, batches: &mut Batches, bytes: Vec<u8>) -> Result<Result<(), Gone>> {
        let Some((head, mut beginning)) = self.beginning.take() else {
            let part = self.charge.bytes(bytes).map_err(|error| batches.error(&error))?;
            return Ok(self.parts.send(part).await.map_err(|_| Gone));
        };
        beginning.extend_from_slice(&bytes);
        if beginning.len() < HEAD_BYTES {
            self.beginning = Some((head, beginning));
            return Ok(Ok(()));
        }
        let bytes = self.charge.bytes(beginning).map_err(|error| batches.error(&error))?;
        Ok(head.send(Head { truncated: None, bytes }).map_err(|_| Gone))
    }

    /// The end, with the mark of an answer that was cut and could not say so before.
    async fn end(mut self, batches: &mut Batches, last: Vec<u8>, format: Format, rows: usize) -> Result<()> {
        let truncated = batches.truncated;
        if let Some((head, mut bytes)) = self.beginning.take() {
            bytes.extend_from_slice(&last);
            let bytes = self.charge.bytes(bytes).map_err(|error| batches.error(&error))?;
            // A reader that has gone meanwhile makes no difference any more.
            head.send(Head { truncated: Some(truncated), bytes }).ok();
            return Ok(());
        }
        let last = match truncated.then(|| cut_record(format, rows)) {
            None => last,
            Some(Some(record)) => record,
            // The format has no place for it: a stream that breaks off is the only end that nobody misses.
            Some(None) => return Err(cut(rows)),
        };
        self.parts.send(last.into()).await.ok();
        Ok(())
    }
}

async fn produce(mut batches: Batches, format: Format, max_rows: usize, mut out: Outgoing) -> Result<()> {
    let (mut encoder, first) = encoded(&batches, Encoder::new(format, &batches.stream.schema()))?;
    if out.part(&mut batches, first).await?.is_err() {
        return Ok(());
    }
    let mut rows = FIRST_ROWS;
    while let Some(batch) = batches.next().await? {
        let mut from = 0;
        while from < batch.num_rows() {
            let piece = batch.slice(from, rows.min(batch.num_rows() - from));
            from += piece.num_rows();
            let bytes = encoded(&batches, encoder.batch(&piece))?;
            rows = rows_of_a_part(&piece, bytes.len());
            if out.part(&mut batches, bytes).await?.is_err() {
                return Ok(());
            }
        }
    }
    let last = encoded(&batches, encoder.end())?;
    out.end(&mut batches, last, format, max_rows).await
}

/// The number of rows of the next part, as these came to so many bytes.
fn rows_of_a_part(piece: &RecordBatch, bytes: usize) -> usize {
    (PART_BYTES * piece.num_rows() / bytes.max(1)).max(1)
}

fn cut(rows: usize) -> Error {
    Error::new(ErrorCode::PayloadTooLarge, cut_sentence(rows))
}

/// The sentence of an answer that was cut, in formats that have one.
pub(super) fn cut_sentence(rows: usize) -> String {
    format!(
        "The answer ends after {rows} rows (`query.max_rows`), and there are more: narrow the query, or page by a key."
    )
}

fn encoded<T>(batches: &Batches, result: Result<T, ArrowError>) -> Result<T> {
    result.map_err(|error| batches.error(&error.into()))
}

/// The body's progress: its beginning goes out first, then the parts that follow.
enum Body {
    Head(Bytes, mpsc::Receiver<Bytes>, Running<()>),
    Parts(mpsc::Receiver<Bytes>, Running<()>),
    Done,
}

/// The bytes as they come, and at the end what the task has to say.
fn body(
    head: Bytes,
    rest: mpsc::Receiver<Bytes>,
    task: Running<()>,
    format: Format,
    late: Arc<OnceLock<ErrorCode>>,
) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> {
    let parts = stream::unfold((Body::Head(head, rest, task), late), move |(body, late)| async move {
        let (mut rest, task) = match body {
            Body::Head(bytes, rest, task) => return Some((Ok(bytes), (Body::Parts(rest, task), late))),
            Body::Parts(rest, task) => (rest, task),
            Body::Done => return None,
        };
        if let Some(bytes) = rest.recv().await {
            return Some((Ok(bytes), (Body::Parts(rest, task), late)));
        }
        let error = task.end().await.err()?;
        late.get_or_init(|| error.code);
        let record = match error_record(format, &error) {
            Some(record) => Ok(record.into()),
            None => Err(io::Error::other(error.message)),
        };
        Some((record, (Body::Done, late)))
    });
    Box::pin(parts)
}

fn unexplained() -> Error {
    tracing::error!("an answer ended before it began");
    Error::new(ErrorCode::Internal, "The server made a mistake with this answer; its log says more.")
}
