//! Messages as one Parquet file: writing it, and reading it whole.
//!
//! Invariant: plain Parquet with the columns of the table `messages` and nothing else, sorted by conversation, then
//! by id, laid out so that "the last 50 of one conversation" reads a few pages.

use std::{
    ops::Range,
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Builder, RecordBatch, StringArray, StringBuilder},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use bytes::Bytes;
use futures::{FutureExt as _, TryFutureExt as _, future::BoxFuture};
use kalamdb_protocol::{ConversationId, ConversationType, Micros, MsgId};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path as ObjectPath};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
        arrow_writer::ArrowWriterOptions,
        async_reader::MetadataFetch,
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterVersion},
    },
    schema::types::ColumnPath,
};

use crate::{
    command::RowVersion,
    error::{Error, Result},
    model::{ConversationKey, HotMessage, Message},
    records::SegmentRecord,
};

/// Rows of a row group: its statistics and bloom filters tell a reader whether to open it.
const ROW_GROUP_ROWS: usize = 16 * 1024;
/// Rows of a page, the least that a reader decodes. Smaller pages cost compression: at 512 rows the last 50 of a
/// conversation decode one page per column, and the file grows by some per cent.
const PAGE_ROWS: usize = 512;
/// Rows handed to the writer at a time; divides [`PAGE_ROWS`], which the writer checks once a batch.
const WRITE_BATCH_ROWS: usize = 256;
/// Bytes of rows that wait to be handed to the Parquet writer, every column counted: beyond this they go, whatever
/// their number.
const PENDING_BYTES: usize = 8 << 20;
/// Bytes of the rows of one segment before they are compressed: whoever reads a few whole segments at a time, as a
/// compaction does, holds so many times that at the most, and text that repeats itself compresses a thousandfold.
pub(crate) const MAX_DECODED_BYTES: u64 = 256 << 20;
/// The key in a file's footer under which it says how many bytes its rows have before compression:
/// `"kalamdb.decoded_bytes" = "268435456"`.
pub(crate) const DECODED_BYTES: &str = "kalamdb.decoded_bytes";
/// Bytes of rows that a [`SegmentReader`] decodes at a time, about.
const READ_BYTES: u64 = 8 << 20;
/// Rows of them at the most.
const READ_ROWS: u64 = 1_024;

const _: () = assert!(PAGE_ROWS.is_multiple_of(WRITE_BATCH_ROWS), "the writer looks at a page's size once a batch");
const _: () = assert!(ROW_GROUP_ROWS.is_multiple_of(PAGE_ROWS), "a row group ends with a full page");

/// ZSTD's level: above 3 the file shrinks by little and the writing slows by much.
const ZSTD_LEVEL: i32 = 3;

/// The Arrow schema of a segment file: the columns of `messages`.
#[must_use]
pub fn segment_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("msgId", DataType::Int64, false),
            Field::new("conversationId", DataType::Utf8, false),
            Field::new("conversationType", DataType::Utf8, false),
            Field::new("from", DataType::Utf8, false),
            Field::new("timestamp", DataType::Int64, false),
            Field::new("content", DataType::Utf8, false),
            Field::new("contentRef", DataType::Utf8, true),
            Field::new("metadata", DataType::Utf8, true),
        ]))
    });
    Arc::clone(&SCHEMA)
}

fn properties(rows: usize) -> Result<WriterProperties> {
    let sorted_by = [1, 2, 0].map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: false });
    let properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).map_err(|error| unwritable(&error))?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(WRITE_BATCH_ROWS)
        .set_sorting_columns(Some(sorted_by.to_vec()))
        .set_column_dictionary_enabled(ColumnPath::from("msgId"), false)
        .set_column_dictionary_enabled(ColumnPath::from("timestamp"), false)
        .set_column_dictionary_enabled(ColumnPath::from("content"), false)
        // Texts are long and never compared by order: their statistics would only fill the footer.
        .set_column_statistics_enabled(ColumnPath::from("content"), EnabledStatistics::None)
        .set_column_statistics_enabled(ColumnPath::from("metadata"), EnabledStatistics::None);
    let properties = if rows <= PAGE_ROWS {
        // Where there is one page, nothing is to be skipped: what says where to look would be most of the file.
        properties
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_dictionary_enabled(false)
    } else {
        properties
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_column_bloom_filter_enabled(ColumnPath::from("msgId"), true)
            .set_column_bloom_filter_enabled(ColumnPath::from("conversationId"), true)
    };
    Ok(properties.build())
}

/// The writer of a file that has so many rows, or more.
fn writer(rows: usize) -> Result<ArrowWriter<Vec<u8>>> {
    // Arrow's own schema in the footer says nothing that Parquet's does not say of these columns.
    let options = ArrowWriterOptions::new().with_properties(properties(rows)?).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(Vec::new(), segment_schema(), options).map_err(|error| unwritable(&error))
}

/// A batch of messages on its way into a file.
pub(crate) struct SegmentWriter {
    /// Made for the first rows that it is handed: a file with few rows is laid out in another way.
    writer: Option<ArrowWriter<Vec<u8>>>,
    /// Rows on their way to it.
    pending: Columns,
    /// Bytes that it holds of those it has.
    written: usize,
    /// Rows so far.
    len: usize,
    /// Bytes of them, as they came.
    decoded: u64,
    /// The hot rows among them, with the versions they had.
    rows: Vec<RowVersion>,
    /// The first and the last so far.
    conversations: Option<(ConversationKey, ConversationKey)>,
    msg_ids: (MsgId, MsgId),
    timestamps: (Micros, Micros),
}

/// A finished file and what to say of it.
pub(crate) struct WrittenSegment {
    pub(crate) bytes: Bytes,
    pub(crate) rows: Vec<RowVersion>,
    pub(crate) record: SegmentRecord,
}

impl SegmentWriter {
    /// An empty file.
    pub(crate) fn new() -> Self {
        Self {
            writer: None,
            pending: Columns::default(),
            written: 0,
            len: 0,
            decoded: 0,
            rows: Vec::new(),
            conversations: None,
            msg_ids: (MsgId::MAX, MsgId::MIN),
            timestamps: (Micros::MAX, Micros::MIN),
        }
    }

    /// Adds the next message in key order.
    pub(crate) fn push(&mut self, hot: HotMessage) -> Result<()> {
        let HotMessage { message, version } = hot;
        self.rows.push(RowVersion { conversation: message.conversation.clone(), msg_id: message.msg_id, version });
        self.push_message(message)
    }

    /// Adds the next message in key order, one that was in a segment before.
    pub(crate) fn push_message(&mut self, message: Message) -> Result<()> {
        self.msg_ids = (self.msg_ids.0.min(message.msg_id), self.msg_ids.1.max(message.msg_id));
        self.timestamps = (self.timestamps.0.min(message.timestamp), self.timestamps.1.max(message.timestamp));
        self.decoded += self.pending.push(&message) as u64;
        self.conversations = match self.conversations.take() {
            None => Some((message.conversation.clone(), message.conversation)),
            Some((first, _)) => Some((first, message.conversation)),
        };
        self.len += 1;
        if self.pending.bytes >= PENDING_BYTES || self.pending.rows >= ROW_GROUP_ROWS {
            self.flush(ROW_GROUP_ROWS)?;
        }
        Ok(())
    }

    /// Hands the rows that wait to the Parquet writer, of a file that will have so many, or more.
    fn flush(&mut self, rows: usize) -> Result<()> {
        let batch = self.pending.finish()?;
        let mut writer = self.writer.take().map_or_else(|| writer(rows), Ok)?;
        writer.write(&batch).map_err(|error| unwritable(&error))?;
        self.written = writer.bytes_written() + writer.memory_size();
        self.writer = Some(writer);
        Ok(())
    }

    /// Rows so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that this holds in memory, roughly, and at least as many as the file will have.
    pub(crate) fn size(&self) -> usize {
        self.written + self.pending.bytes
    }

    /// Bytes of the rows so far before they are compressed.
    pub(crate) fn decoded(&self) -> u64 {
        self.decoded
    }

    /// The file; `None` when there is no row in it.
    pub(crate) fn finish(mut self, path: String, created: Micros) -> Result<Option<WrittenSegment>> {
        self.flush(self.len)?;
        let (Some(mut writer), Some(conversations)) = (self.writer, self.conversations) else { return Ok(None) };
        writer.append_key_value_metadata(KeyValue::new(DECODED_BYTES.to_owned(), self.decoded.to_string()));
        let bytes = Bytes::from(writer.into_inner().map_err(|error| unwritable(&error))?);
        let record = SegmentRecord {
            path,
            rows: u32::try_from(self.len).map_err(|_| Error::fault("a segment has more rows than positions"))?,
            bytes: bytes.len() as u64,
            created,
            msg_ids: self.msg_ids,
            timestamps: self.timestamps,
            conversations,
        };
        Ok(Some(WrittenSegment { bytes, record, rows: self.rows }))
    }
}

/// The writer works in memory: where it fails, the rows that it was given are at fault.
fn unwritable(error: &ParquetError) -> Error {
    tracing::error!(%error, "a segment cannot be encoded");
    Error::fault("a segment cannot be encoded")
}

/// A file that is not the Parquet that was written.
fn unreadable(error: &ParquetError) -> Error {
    tracing::error!(%error, "a segment cannot be decoded");
    Error::corrupt("segment")
}

/// Bytes of a file's rows once they are decoded, by its footer: `kalamdb.decoded_bytes = 2022000`.
fn decoded_bytes(file: &ParquetMetaData) -> u64 {
    let said = file.file_metadata().key_value_metadata().into_iter().flatten().find(|said| said.key == DECODED_BYTES);
    if let Some(bytes) = said.and_then(|said| said.value.as_ref()?.parse().ok()) {
        return bytes;
    }
    // Older files do not say it. Values that repeat are encoded once for many rows: then this is less.
    let columns = file.row_groups().iter().flat_map(RowGroupMetaData::columns);
    columns.map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(0)).sum()
}

/// Reads from a file's footer how many bytes its rows are once they are decoded.
pub(crate) async fn read_decoded_bytes(store: Arc<dyn ObjectStore>, path: ObjectPath, size: u64) -> Result<u64> {
    let footer = ParquetMetaDataReader::new()
        .load_and_finish(RangeReader { store, path }, size)
        .await
        .map_err(|error| unreadable(&error))?;
    Ok(decoded_bytes(&footer))
}

/// A file of which parts are read.
struct RangeReader {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
}

impl MetadataFetch for RangeReader {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let part = async move { self.store.get_range(&self.path, range).await };
        part.map_err(|error| ParquetError::External(Box::new(error))).boxed()
    }
}

/// A segment's rows, one after the other.
pub(crate) struct SegmentReader {
    batches: ParquetRecordBatchReader,
    /// Decoded rows, the next one last.
    rows: Vec<Message>,
    position: u32,
}

impl SegmentReader {
    /// Opens a file at its first row.
    pub(crate) fn new(file: Bytes) -> Result<Self> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(&error))?;
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0).max(1);
        let row_bytes = (decoded_bytes(builder.metadata()) / rows).max(1);
        let batch_rows = usize::try_from((READ_BYTES / row_bytes).clamp(1, READ_ROWS)).unwrap_or(1);
        let batches = builder.with_batch_size(batch_rows).build().map_err(|error| unreadable(&error))?;
        let mut reader = Self { batches, rows: Vec::new(), position: 0 };
        reader.fill()?;
        Ok(reader)
    }

    /// The row that comes next.
    pub(crate) fn current(&self) -> Option<&Message> {
        self.rows.last()
    }

    /// Takes the current row, with its position, and goes on to the one after it.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Message)>> {
        let Some(message) = self.rows.pop() else { return Ok(None) };
        let position = self.position;
        self.position += 1;
        if self.rows.is_empty() {
            self.fill()?;
        }
        Ok(Some((position, message)))
    }

    fn fill(&mut self) -> Result<()> {
        if let Some(batch) = self.batches.next() {
            let batch = batch.map_err(|_| Error::corrupt("segment"))?;
            self.rows = messages(&batch).ok_or_else(|| Error::corrupt("segment"))?;
            self.rows.reverse();
        }
        Ok(())
    }
}

/// The rows of a batch with the columns of [`segment_schema`], of which a file that is older than one of those that
/// may be NULL lacks it; `None` when it is not one.
pub(crate) fn messages(batch: &RecordBatch) -> Option<Vec<Message>> {
    let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
    let number = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let (msg_id, timestamp) = (number("msgId")?, number("timestamp")?);
    let (id, kind, from) = (text("conversationId")?, text("conversationType")?, text("from")?);
    let (content, content_ref, metadata) = (text("content")?, text("contentRef"), text("metadata"));
    let some = |column: Option<&StringArray>, at: usize| {
        column.filter(|column| column.is_valid(at)).map(|column| column.value(at).to_owned())
    };
    (0..batch.num_rows())
        .map(|at| {
            Some(Message {
                msg_id: msg_id.value(at),
                conversation: ConversationKey {
                    id: ConversationId::new(id.value(at)).ok()?,
                    kind: ConversationType::parse(kind.value(at))?,
                },
                from: from.value(at).to_owned(),
                timestamp: timestamp.value(at),
                content: content.value(at).to_owned(),
                content_ref: some(content_ref, at),
                metadata: some(metadata, at),
            })
        })
        .collect()
}

/// Rows that wait to be written, column by column.
#[derive(Default)]
struct Columns {
    msg_id: Int64Builder,
    conversation_id: StringBuilder,
    conversation_type: StringBuilder,
    from: StringBuilder,
    timestamp: Int64Builder,
    content: StringBuilder,
    content_ref: StringBuilder,
    metadata: StringBuilder,
    rows: usize,
    /// Bytes of all their values.
    bytes: usize,
}

impl Columns {
    /// Adds a row; its bytes.
    fn push(&mut self, message: &Message) -> usize {
        let Message { msg_id, conversation, from, timestamp, content, content_ref, metadata } = message;
        let (id, kind) = (conversation.id.as_str(), conversation.kind.as_str());
        self.msg_id.append_value(*msg_id);
        self.conversation_id.append_value(id);
        self.conversation_type.append_value(kind);
        self.from.append_value(from);
        self.timestamp.append_value(*timestamp);
        self.content.append_value(content);
        self.content_ref.append_option(content_ref.as_deref());
        self.metadata.append_option(metadata.as_deref());
        let optional = [content_ref, metadata].into_iter().flatten().map(String::len).sum::<usize>();
        let bytes = 2 * size_of::<i64>() + id.len() + kind.len() + from.len() + content.len() + optional;
        self.rows += 1;
        self.bytes += bytes;
        bytes
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        (self.rows, self.bytes) = (0, 0);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.msg_id.finish()),
            Arc::new(self.conversation_id.finish()),
            Arc::new(self.conversation_type.finish()),
            Arc::new(self.from.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.content.finish()),
            Arc::new(self.content_ref.finish()),
            Arc::new(self.metadata.finish()),
        ];
        RecordBatch::try_new(segment_schema(), columns).map_err(|_| Error::fault("the columns of a segment differ"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(msg_id: MsgId, content: String, metadata: Option<String>) -> Message {
        Message {
            msg_id,
            conversation: ConversationKey { id: ConversationId::new("c").unwrap(), kind: ConversationType::Ai },
            from: "ann".to_owned(),
            timestamp: msg_id,
            content,
            content_ref: None,
            metadata,
        }
    }

    #[test]
    fn every_column_counts_and_no_more_than_a_bound_waits() {
        const MIB: usize = 1 << 20;
        let mut writer = SegmentWriter::new();
        for (msg_id, before) in (0..40).zip(0_u64..) {
            writer.push_message(message(msg_id, String::new(), Some("m".repeat(MIB)))).unwrap();
            assert!(writer.pending.bytes < PENDING_BYTES + MIB + 1_000, "{}", writer.pending.bytes);
            assert!(writer.decoded() > before * MIB as u64);
        }
        let mut long_from = message(40, String::new(), None);
        long_from.from = "f".repeat(MIB);
        let before = writer.size();
        writer.push_message(long_from).unwrap();
        assert!(writer.size() >= before + MIB, "`from` counts as well");
    }

    #[test]
    fn a_file_says_how_large_its_rows_become() {
        let mut writer = SegmentWriter::new();
        for msg_id in 0..1_000 {
            writer.push_message(message(msg_id, "x".repeat(1_000), Some("y".repeat(1_000)))).unwrap();
        }
        let decoded = writer.decoded();
        let file = writer.finish(String::new(), 0).unwrap().unwrap();
        assert!(file.record.bytes < decoded / 20, "it compresses well");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).unwrap();
        let said = decoded_bytes(reader.metadata());
        assert_eq!(said, decoded);
        let mut reader = SegmentReader::new(file.bytes).unwrap();
        let mut rows = 0;
        while let Some((position, row)) = reader.next().unwrap() {
            assert_eq!((position, row.msg_id, row.content.len()), (rows, MsgId::from(rows), 1_000));
            rows += 1;
        }
        assert_eq!(rows, 1_000);
    }
}
