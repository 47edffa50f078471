//! The streamed formats: what each says before the rows, for a batch of rows, after them, and when it goes wrong.
//!
//! Invariant: an error after the first byte is still told, as the last record, where the format has records.

use std::{io::Write, sync::Arc};

use datafusion::arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
};
use kalamdb_protocol::ErrorBody;
use serde_json::json;

use super::{
    cells::{Cells, write_joined},
    streamed::cut_sentence,
};
use crate::{Error, Format};

/// The beginning of a CSV answer's last line when it ended in an error.
const ERROR_LINE: &[u8] = b"#error,";

/// The beginning of a CSV answer's last line when rows were cut: `#truncated,10000,"The answer ends after …"`.
const CUT_LINE: &[u8] = b"#truncated,";

/// Writes one format.
pub(super) enum Encoder {
    Csv,
    NdJson(Vec<String>),
    Arrow(Box<StreamWriter<Vec<u8>>>, SchemaRef),
}

impl Encoder {
    /// The encoder, and what comes before the rows.
    pub fn new(format: Format, schema: &SchemaRef) -> Result<(Self, Vec<u8>), ArrowError> {
        let names = || schema.fields().iter().map(|field| field.name().as_str());
        match format {
            Format::Csv => {
                let mut out = Vec::new();
                write_line(&mut out, names(), csv_text)?;
                Ok((Self::Csv, out))
            }
            Format::NdJson => Ok((Self::NdJson(names().map(ToOwned::to_owned).collect()), Vec::new())),
            Format::Arrow => {
                let schema = portable_schema(schema);
                let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
                let head = std::mem::take(writer.get_mut());
                Ok((Self::Arrow(Box::new(writer), schema), head))
            }
        }
    }

    /// A batch of rows.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        if let Self::Arrow(writer, schema) = self {
            writer.write(&portable(batch, schema)?)?;
            return Ok(std::mem::take(writer.get_mut()));
        }
        let cells = batch.columns().iter().map(Cells::new).collect::<Result<Vec<_>, _>>()?;
        let mut out = Vec::new();
        for row in 0..batch.num_rows() {
            if let Self::NdJson(names) = self {
                write_object(names, &cells, row, &mut out)?;
                out.push(b'\n');
            } else {
                write_line(&mut out, &cells, |cells, out| csv_cell(cells, row, out))?;
            }
        }
        Ok(out)
    }

    /// The bytes after the rows.
    pub fn end(self) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Csv | Self::NdJson(_) => Ok(Vec::new()),
            Self::Arrow(mut writer, _) => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }
}

/// A row as a JSON object.
fn write_object(names: &[String], cells: &[Cells], row: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
    write_joined(out, [b"{", b"}"], names.iter().zip(cells), |(name, cells), out| {
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        cells.write_json(row, out)
    })
}

/// Each row of these columns as the text of a JSON object.
pub(crate) fn objects(names: &[String], columns: &[ArrayRef], rows: usize) -> Result<Vec<String>, ArrowError> {
    let cells = columns.iter().map(Cells::new).collect::<Result<Vec<_>, _>>()?;
    let object = |row| {
        let mut out = Vec::new();
        write_object(names, &cells, row, &mut out)?;
        String::from_utf8(out).map_err(|error| ArrowError::ExternalError(Box::new(error)))
    };
    (0..rows).map(object).collect()
}

/// The last record of an answer that ended in an error; `None` where the format has no place for one, and the
/// stream itself must fail.
pub(super) fn error_record(format: Format, error: &Error) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let done = match format {
        Format::Csv => {
            out.extend_from_slice(ERROR_LINE);
            write_line(&mut out, [error.code.as_str(), error.message.as_str()], csv_text)
        }
        Format::NdJson => {
            let body = ErrorBody { error: error.code, message: error.message.clone(), details: error.details.clone() };
            serde_json::to_writer(&mut out, &body).map_err(Into::into).and_then(|()| out.write_all(b"\n"))
        }
        Format::Arrow => return None,
    };
    done.ok().map(|()| out)
}

/// The last record of an answer that was cut after so many rows, as
/// `{"message":"The answer ends after …","rowCount":10000,"truncated":true}`; `None` where the format has no place for one, and the
/// stream itself must fail.
pub(super) fn cut_record(format: Format, rows: usize) -> Option<Vec<u8>> {
    let message = cut_sentence(rows);
    let mut out = Vec::new();
    let done = match format {
        Format::Csv => {
            out.extend_from_slice(CUT_LINE);
            write_line(&mut out, [rows.to_string().as_str(), &message], csv_text)
        }
        Format::NdJson => {
            let record = json!({ "truncated": true, "rowCount": rows, "message": message });
            serde_json::to_writer(&mut out, &record).map_err(Into::into).and_then(|()| out.write_all(b"\n"))
        }
        Format::Arrow => return None,
    };
    done.ok().map(|()| out)
}

fn write_line<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    write: impl FnMut(T, &mut Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    write_joined(out, [b"", b"\n"], items, write)
}

/// No value is nothing; an empty text is a pair of quotes.
fn csv_cell(cells: &Cells, row: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
    if cells.is_null(row) {
        return Ok(());
    }
    match cells {
        Cells::Text(_) => csv_text(cells.text(row).unwrap_or_default(), out),
        Cells::List(..) | Cells::Struct(..) | Cells::Union(..) => {
            let mut json = Vec::new();
            cells.write_json(row, &mut json)?;
            csv_text(&String::from_utf8_lossy(&json), out)
        }
        _ => cells.write_json(row, out),
    }
}

fn csv_text(text: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
    // A row must not begin like an error record.
    let plain = !text.is_empty() && !text.starts_with('#') && !text.contains(['"', ',', '\n', '\r']);
    if plain {
        return out.write_all(text.as_bytes());
    }
    write!(out, "\"{}\"", text.replace('"', "\"\""))
}

/// Types that every Arrow library reads: not all know views of text yet.
fn portable_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}

fn portable_schema(schema: &SchemaRef) -> SchemaRef {
    let portable = |field: &Arc<Field>| field.as_ref().clone().with_data_type(portable_type(field.data_type()));
    Arc::new(Schema::new(schema.fields().iter().map(portable).collect::<Vec<_>>()))
}

fn portable(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(|column| cast(column, &portable_type(column.data_type())));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
