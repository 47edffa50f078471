//! Rows into Arrow columns.
//!
//! Invariant: one type for numbers and one for text, as the tables' schemas have them.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray},
        datatypes::SchemaRef,
    },
    common::internal_datafusion_err,
    error::Result,
};
use kalamdb_store::Message;

/// The rows as a batch; `column` makes the column of a name, if there is one.
pub(crate) fn batch<R>(
    schema: &SchemaRef,
    rows: &[R],
    column: impl Fn(&str, &[R]) -> Option<ArrayRef>,
) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        column(field.name(), rows).ok_or_else(|| internal_datafusion_err!("no such column: {}", field.name()))
    });
    // Counting rows needs no column at all.
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_>>()?, &options)?)
}

/// A column of `messages`, of whatever holds messages.
pub(crate) fn message_column<'a>(name: &str, messages: impl Iterator<Item = &'a Message>) -> Option<ArrayRef> {
    Some(match name {
        "msgId" => ints(messages.map(|row| row.msg_id)),
        "conversationId" => texts(messages.map(|row| row.conversation.id.as_str())),
        "conversationType" => texts(messages.map(|row| row.conversation.kind.as_str())),
        "from" => texts(messages.map(|row| row.from.as_str())),
        "timestamp" => ints(messages.map(|row| row.timestamp)),
        "content" => texts(messages.map(|row| row.content.as_str())),
        "contentRef" => some_texts(messages.map(|row| row.content_ref.as_deref())),
        "metadata" => some_texts(messages.map(|row| row.metadata.as_deref())),
        _ => return None,
    })
}

pub(super) fn ints(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

pub(super) fn some_ints(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

pub(crate) fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values(values))
}

pub(super) fn some_texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringViewArray>())
}

pub(super) fn booleans(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<BooleanArray>())
}
