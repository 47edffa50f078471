//! An answer in parts: computed by a task on the engine's threads, which stays a few parts ahead of the client.
//!
//! Invariant: a slow client holds back the task, not memory; one that has gone stops it; the deadline of the
//! statement holds to the last part.

use std::{io, pin::Pin};

use bytes::Bytes;
use datafusion::arrow::error::ArrowError;
use futures::{Stream, stream};
use kalamdb_protocol::ErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::{
    Batches, Rows,
    encode::{Encoder, error_record},
};
use crate::{Error, Format, Result, RowStream, workers::Running};

/// Parts computed ahead of the client.
const PARTS_AHEAD: usize = 4;

/// So much is computed before the first byte goes out: most answers are whole by then, so that the client is told
/// whether rows were cut, and an error is still an error.
const HEAD_BYTES: usize = 1024 * 1024;

/// What is known when the first bytes go out.
struct Head {
    truncated: Option<bool>,
    bytes: Bytes,
}

/// Starts the task and waits for the beginning of the answer.
pub(super) async fn start(rows: Rows, format: Format) -> Result<RowStream> {
    let Rows { batches, ticket, .. } = rows;
    let (head, first) = oneshot::channel();
    let (parts, rest) = mpsc::channel(PARTS_AHEAD);
    let task = ticket.spawn(produce(batches, format, head, parts));
    match first.await {
        Ok(Head { truncated, bytes }) => Ok(RowStream { truncated, body: body(bytes, rest, task, format) }),
        // The task ended before it had a beginning, and says why.
        Err(_) => Err(task.end().await.err().unwrap_or_else(unexplained)),
    }
}

async fn produce(
    mut batches: Batches,
    format: Format,
    head: oneshot::Sender<Head>,
    parts: mpsc::Sender<Bytes>,
) -> Result<()> {
    let (mut encoder, first) = encoded(&batches, Encoder::new(format, &batches.stream.schema()))?;
    let mut begun = Some((head, first));
    while let Some(batch) = batches.next().await? {
        let bytes = encoded(&batches, encoder.batch(&batch))?;
        begun = match begun {
            Some((head, mut buffer)) => {
                buffer.extend_from_slice(&bytes);
                if buffer.len() < HEAD_BYTES {
                    Some((head, buffer))
                } else if head.send(Head { truncated: None, bytes: buffer.into() }).is_err() {
                    return Ok(());
                } else {
                    None
                }
            }
            // Nobody is there to read it any more.
            None if parts.send(bytes.into()).await.is_err() => return Ok(()),
            None => None,
        };
    }
    let last = encoded(&batches, encoder.end())?;
    match begun {
        Some((head, mut buffer)) => {
            buffer.extend_from_slice(&last);
            // Whether somebody is still there does not matter any more.
            head.send(Head { truncated: Some(batches.truncated), bytes: buffer.into() }).ok();
        }
        None => {
            parts.send(last.into()).await.ok();
        }
    }
    Ok(())
}

fn encoded<T>(batches: &Batches, result: Result<T, ArrowError>) -> Result<T> {
    result.map_err(|error| batches.error(&error.into()))
}

/// Where the body is.
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
) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> {
    Box::pin(stream::unfold(Body::Head(head, rest, task), move |body| async move {
        let (mut rest, task) = match body {
            Body::Head(bytes, rest, task) => return Some((Ok(bytes), Body::Parts(rest, task))),
            Body::Parts(rest, task) => (rest, task),
            Body::Done => return None,
        };
        if let Some(bytes) = rest.recv().await {
            return Some((Ok(bytes), Body::Parts(rest, task)));
        }
        let error = task.end().await.err()?;
        let record = match error_record(format, &error) {
            Some(record) => Ok(record.into()),
            None => Err(io::Error::other(error.message)),
        };
        Some((record, Body::Done))
    }))
}

fn unexplained() -> Error {
    tracing::error!("an answer ended before it began");
    Error::new(ErrorCode::Internal, "The server made a mistake with this answer; its log says more.")
}
