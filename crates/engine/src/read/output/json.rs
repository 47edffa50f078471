//! The buffered answer: one JSON document.
//!
//! Invariant: what it holds is charged to the statement's memory until it is sent, and ends at the limit of bytes; the
//! document is a `QueryResponse`.

use std::io::Write;

use bytes::Bytes;
use kalamdb_protocol::ErrorCode;

use super::{
    Batches, Limits, Rows,
    cells::{Cells, type_name, write_joined},
    charge::Charge,
};
use crate::{Error, Result};

/// Computes the answer and writes it.
pub(super) async fn response(rows: Rows) -> Result<Bytes> {
    let Rows { columns, mut batches, ticket, limits } = rows;
    let charge = Charge::new(&batches);
    let mut out = Vec::with_capacity(4096);
    written(head(&columns, &batches, &mut out))?;
    let mut number = 0_usize;
    while let Some(batch) = batches.next().await? {
        let cells = batch.columns().iter().map(Cells::new).collect::<Result<Vec<_>, _>>();
        let cells = cells.map_err(|error| batches.error(&error.into()))?;
        for row in 0..batch.num_rows() {
            if number > 0 {
                out.push(b',');
            }
            number += 1;
            written(write_joined(&mut out, [b"[", b"]"], &cells, |cells, out| cells.write_json(row, out)))?;
            if out.len() > limits.bytes {
                return Err(too_large(limits));
            }
        }
        charge.grow_to(out.capacity()).map_err(|error| batches.error(&error))?;
    }
    let took_ms = ticket.started().elapsed().as_secs_f64() * 1000.0;
    let truncated = batches.truncated;
    written(write!(out, r#"],"rowCount":{number},"truncated":{truncated},"executionTimeMs":{took_ms:.3}}}"#))?;
    charge.bytes(out).map_err(|error| batches.error(&error))
}

/// Everything before the first row.
fn head(columns: &[String], batches: &Batches, out: &mut Vec<u8>) -> std::io::Result<()> {
    let types = batches.stream.schema();
    out.extend_from_slice(br#"{"columns":"#);
    serde_json::to_writer(&mut *out, columns)?;
    out.extend_from_slice(br#","types":"#);
    write_joined(out, [b"[", b"]"], types.fields(), |field, out| {
        Ok(serde_json::to_writer(out, &type_name(field.data_type()))?)
    })?;
    out.extend_from_slice(br#","rows":["#);
    Ok(())
}

fn too_large(limits: Limits) -> Error {
    let mib = limits.bytes / (1024 * 1024);
    Error::new(
        ErrorCode::PayloadTooLarge,
        format!(
            "The answer is larger than {mib} MiB; narrow the query, or ask for a streamed format with the header \
             Accept: application/x-ndjson, text/csv or application/vnd.apache.arrow.stream."
        ),
    )
}

/// Writing to memory does not fail; if it did, it would be our fault.
pub(super) fn written(result: std::io::Result<()>) -> Result<()> {
    result.map_err(|_| {
        tracing::error!("a row could not be written down");
        Error::new(ErrorCode::Internal, "The server made a mistake with this answer; its log says more.")
    })
}
