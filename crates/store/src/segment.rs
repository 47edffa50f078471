//! Messages as one Parquet file: writing it, and reading it whole.
//!
//! Invariant: plain Parquet with the columns of the table `messages` and nothing else, sorted by conversation, then
//! by id, laid out so that "the last 50 of one conversation" reads a few pages.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Builder, RecordBatch, StringArray, StringBuilder},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use bytes::Bytes;
use kalamdb_protocol::{ConversationId, ConversationType, Micros, MsgId};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReader},
    basic::{Compression, ZstdLevel},
    file::{
        metadata::SortingColumn,
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

fn properties() -> Result<WriterProperties> {
    let sorted_by = [1, 2, 0].map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: false });
    Ok(WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(WRITE_BATCH_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(sorted_by.to_vec()))
        .set_column_bloom_filter_enabled(ColumnPath::from("msgId"), true)
        .set_column_bloom_filter_enabled(ColumnPath::from("conversationId"), true)
        .set_column_dictionary_enabled(ColumnPath::from("msgId"), false)
        .set_column_dictionary_enabled(ColumnPath::from("timestamp"), false)
        .set_column_dictionary_enabled(ColumnPath::from("content"), false)
        // Texts are long and never compared by order: their statistics would only fill the footer.
        .set_column_statistics_enabled(ColumnPath::from("content"), EnabledStatistics::None)
        .set_column_statistics_enabled(ColumnPath::from("metadata"), EnabledStatistics::None)
        .build())
}

/// A batch of messages on its way into a file.
pub(crate) struct SegmentWriter {
    writer: ArrowWriter<Vec<u8>>,
    columns: Columns,
    /// Rows so far.
    len: usize,
    /// Of those that are hot: what they were.
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
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            writer: ArrowWriter::try_new(Vec::new(), segment_schema(), Some(properties()?))?,
            columns: Columns::default(),
            len: 0,
            rows: Vec::new(),
            conversations: None,
            msg_ids: (MsgId::MAX, MsgId::MIN),
            timestamps: (Micros::MAX, Micros::MIN),
        })
    }

    /// Adds the next message in key order.
    pub(crate) fn push(&mut self, hot: HotMessage) -> Result<()> {
        let HotMessage { message, version } = hot;
        self.rows.push(RowVersion { conversation: message.conversation.clone(), msg_id: message.msg_id, version });
        self.push_message(message)
    }

    /// The same, for one that was in a segment before.
    pub(crate) fn push_message(&mut self, message: Message) -> Result<()> {
        self.msg_ids = (self.msg_ids.0.min(message.msg_id), self.msg_ids.1.max(message.msg_id));
        self.timestamps = (self.timestamps.0.min(message.timestamp), self.timestamps.1.max(message.timestamp));
        self.columns.msg_id.append_value(message.msg_id);
        self.columns.conversation_id.append_value(message.conversation.id.as_str());
        self.columns.conversation_type.append_value(message.conversation.kind.as_str());
        self.columns.from.append_value(&message.from);
        self.columns.timestamp.append_value(message.timestamp);
        self.columns.content.append_value(&message.content);
        self.columns.content_ref.append_option(message.content_ref);
        self.columns.metadata.append_option(message.metadata);
        self.conversations = match self.conversations.take() {
            None => Some((message.conversation.clone(), message.conversation)),
            Some((first, _)) => Some((first, message.conversation)),
        };
        self.len += 1;
        if self.len.is_multiple_of(ROW_GROUP_ROWS) {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let batch = self.columns.finish()?;
        Ok(self.writer.write(&batch)?)
    }

    /// Rows so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the file holds so far, roughly.
    pub(crate) fn size(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size() + self.columns.content.values_slice().len()
    }

    /// The file; `None` when there is no row in it.
    pub(crate) fn finish(mut self, path: String, created: Micros) -> Result<Option<WrittenSegment>> {
        self.flush()?;
        let bytes = Bytes::from(self.writer.into_inner()?);
        let Some(conversations) = self.conversations else { return Ok(None) };
        let record = SegmentRecord {
            path,
            rows: u32::try_from(self.len).map_err(|_| Error::corrupt("segment"))?,
            bytes: bytes.len() as u64,
            created,
            msg_ids: self.msg_ids,
            timestamps: self.timestamps,
            conversations,
        };
        Ok(Some(WrittenSegment { bytes, record, rows: self.rows }))
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
    /// At the first row.
    pub(crate) fn new(batches: ParquetRecordBatchReader) -> Result<Self> {
        let mut reader = Self { batches, rows: Vec::new(), position: 0 };
        reader.fill()?;
        Ok(reader)
    }

    /// The row that comes next.
    pub(crate) fn current(&self) -> Option<&Message> {
        self.rows.last()
    }

    /// That row and its position, and on to the one after it.
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

/// The rows of a batch with the columns of [`segment_schema`]; `None` when it is not one.
fn messages(batch: &RecordBatch) -> Option<Vec<Message>> {
    let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
    let number = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let (msg_id, timestamp) = (number("msgId")?, number("timestamp")?);
    let (id, kind, from) = (text("conversationId")?, text("conversationType")?, text("from")?);
    let (content, content_ref, metadata) = (text("content")?, text("contentRef")?, text("metadata")?);
    let some = |column: &StringArray, at: usize| column.is_valid(at).then(|| column.value(at).to_owned());
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
}

impl Columns {
    fn finish(&mut self) -> Result<RecordBatch> {
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
        RecordBatch::try_new(segment_schema(), columns).map_err(|_| Error::corrupt("message"))
    }
}
