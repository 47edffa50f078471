//! The directory of a segment: where its conversations lie, kept in memory with the segment's footer.
//!
//! Invariant: of a file, which never changes: what of it is deleted is not said here. A segment is sorted by conversation,
//! then by message id, so a conversation of one type is one range of rows.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use datafusion::{
    arrow::{
        array::AsArray,
        datatypes::{DataType, Field, Int64Type, Schema},
    },
    error::Result,
    object_store::{ObjectStore, ObjectStoreExt, path::Path},
    parquet::{
        self,
        arrow::{
            ParquetRecordBatchStreamBuilder, ProjectionMask,
            arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
            async_reader::AsyncFileReader,
        },
        errors::ParquetError,
        file::{
            metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
            page_index::column_index::ColumnIndexMetaData,
        },
    },
};
use futures::{FutureExt, TryFutureExt, TryStreamExt, future::BoxFuture};
use kalamdb_protocol::{ConversationId, ConversationType, MsgId};
use kalamdb_store::{ConversationKey, Segment};
use moka::sync::Cache as Moka;

use super::corrupt;

/// Memory of all directories: those of about a thousand segments.
const CACHE_BYTES: u64 = 32 << 20;
/// Memory of all lists of message ids: those of some million messages.
const IDS_BYTES: u64 = 32 << 20;
/// Bytes of a conversation besides its id, about.
const ENTRY_BYTES: usize = 64;
/// The number that the next directory gets.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
/// The first read of a file fetches this much of its end: the footer and the page index of a segment.
const FOOTER_BYTES: usize = 64 * 1024;

/// The directories of the segments that were read last. Cheap to clone.
#[derive(Clone)]
pub(in crate::read) struct Directories {
    entries: Moka<String, Arc<Directory>>,
    ids: Moka<String, Arc<Ids>>,
    store: Arc<dyn ObjectStore>,
}

/// The directory of one segment.
pub(super) struct Directory {
    /// Tells it from all others, also from an earlier one of the same segment.
    pub id: u64,
    /// The footer and page index, with texts as the tables have them.
    pub metadata: ArrowReaderMetadata,
    /// The first row of each conversation, in the order of the rows.
    conversations: Vec<(ConversationKey, u32)>,
    pages: Vec<IdPage>,
    rows: u32,
}

/// The message ids of one segment, in their order, and the row of each.
pub(super) struct Ids {
    ids: Box<[MsgId]>,
    rows: Box<[u32]>,
}

impl Ids {
    async fn load(reader: SegmentFile, metadata: &ArrowReaderMetadata, rows: u32) -> Result<Self> {
        let mask = ProjectionMask::columns(metadata.parquet_schema(), ["msgId"]);
        let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata.clone())
            .with_projection(mask)
            .build()?;
        let mut ids = Vec::with_capacity(rows as usize);
        while let Some(batch) = batches.try_next().await? {
            let column = batch.column_by_name("msgId").and_then(|ids| ids.as_primitive_opt::<Int64Type>());
            ids.extend_from_slice(column.ok_or_else(|| corrupt("a segment has no ids"))?.values());
        }
        if ids.len() != rows as usize {
            return Err(corrupt("a segment has other rows"));
        }
        // There are as many as a segment says it has rows, in 32 bits.
        let mut by_id: Vec<(MsgId, u32)> = ids.into_iter().zip(0_u32..).collect();
        by_id.sort_unstable();
        let (ids, rows): (Vec<MsgId>, Vec<u32>) = by_id.into_iter().unzip();
        Ok(Self { ids: ids.into(), rows: rows.into() })
    }

    /// The rows of the ids between two, both included, in the order of the ids; deleted ones too.
    pub fn between(&self, first: MsgId, last: MsgId) -> impl DoubleEndedIterator<Item = u32> {
        let from = self.ids.partition_point(|id| *id < first);
        let to = self.ids.partition_point(|id| *id <= last).max(from);
        self.rows[from..to].iter().copied()
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.ids) + size_of_val(&*self.rows)
    }
}

/// The rows of one page of the column `msgId`, and the bounds of their ids.
struct IdPage {
    rows: Range<u32>,
    ids: (MsgId, MsgId),
}

impl Directories {
    /// An empty cache of directories of the segments in a store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        let weigh = |path: &String, directory: &Arc<Directory>| {
            u32::try_from(path.len() + directory.memory_bytes()).unwrap_or(u32::MAX)
        };
        let weigh_ids =
            |path: &String, ids: &Arc<Ids>| u32::try_from(path.len() + ids.memory_bytes()).unwrap_or(u32::MAX);
        Self {
            entries: Moka::builder().max_capacity(CACHE_BYTES).weigher(weigh).build(),
            ids: Moka::builder().max_capacity(IDS_BYTES).weigher(weigh_ids).build(),
            store,
        }
    }

    /// The message ids of a segment, read when they are not there.
    pub(super) async fn ids(&self, segment: &Segment, directory: &Directory) -> Result<Arc<Ids>> {
        if let Some(ids) = self.ids.get(&segment.path) {
            return Ok(ids);
        }
        let ids = Arc::new(Ids::load(self.reader(segment)?, &directory.metadata, segment.rows).await?);
        self.ids.insert(segment.path.clone(), Arc::clone(&ids));
        Ok(ids)
    }

    /// A segment's directory, made when it is not there: then the columns of the conversation are read once.
    pub(super) async fn get(&self, segment: &Segment) -> Result<Arc<Directory>> {
        if let Some(directory) = self.entries.get(&segment.path) {
            return Ok(directory);
        }
        let directory = Arc::new(Directory::load(self.reader(segment)?, segment.rows).await?);
        self.entries.insert(segment.path.clone(), Arc::clone(&directory));
        Ok(directory)
    }

    /// A reader of a segment's bytes.
    pub(super) fn reader(&self, segment: &Segment) -> Result<SegmentFile> {
        // The path is encoded already; making it from plain text would encode it again.
        let path = Path::parse(&segment.path).map_err(|_| corrupt("a segment's path is no object path"))?;
        Ok(SegmentFile { store: Arc::clone(&self.store), path, bytes: segment.bytes })
    }
}

/// A segment's bytes, read by ranges.
pub(super) struct SegmentFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
}

impl AsyncFileReader for SegmentFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let read = async move { self.store.get_range(&self.path, range).await };
        read.map_err(|error| ParquetError::External(Box::new(error))).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        let read = async move { self.store.get_ranges(&self.path, &ranges).await };
        read.map_err(|error| ParquetError::External(Box::new(error))).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let bytes = self.bytes;
        let read = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .with_prefetch_hint(Some(FOOTER_BYTES));
        async move { read.load_and_finish(self, bytes).await.map(Arc::new) }.boxed()
    }
}

impl Directory {
    async fn load(mut reader: SegmentFile, rows: u32) -> Result<Self> {
        let options = ArrowReaderOptions::new;
        let file = reader.get_metadata(None).await?;
        let views = with_views(ArrowReaderMetadata::try_new(Arc::clone(&file), options())?.schema());
        let metadata = ArrowReaderMetadata::try_new(file, options().with_schema(Arc::new(views)))?;
        let pages = id_pages(metadata.metadata(), rows).unwrap_or_else(|| vec![IdPage::of_all(rows)]);
        let conversations = conversations(reader, &metadata).await?;
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), metadata, conversations, pages, rows })
    }

    /// Bytes of a column in so many rows, on the average of the file; 0 where it lacks the column.
    pub fn bytes_of_rows(&self, column: &str, rows: u32) -> u64 {
        let file = self.metadata.metadata();
        let chunks = file.row_groups().iter().flat_map(RowGroupMetaData::columns);
        let of_column = chunks.filter(|chunk| chunk.column_descr().name() == column);
        let bytes: u64 = of_column.map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or_default()).sum();
        bytes.saturating_mul(u64::from(rows)) / u64::from(self.rows.max(1))
    }

    /// The type of the conversation that a row belongs to.
    pub fn kind_of(&self, row: u32) -> Option<ConversationType> {
        let after = self.conversations.partition_point(|(_, first)| *first <= row);
        self.conversations.get(after.checked_sub(1)?).map(|(key, _)| key.kind)
    }

    fn memory_bytes(&self) -> usize {
        let conversations = self.conversations.iter().map(|(key, _)| key.id.as_str().len() + ENTRY_BYTES);
        self.metadata.metadata().memory_size() + self.pages.len() * size_of::<IdPage>() + conversations.sum::<usize>()
    }

    /// The rows of a conversation whose ids may lie between two, both included, in order; there may be others among them.
    pub fn rows(&self, conversation: &ConversationKey, ids: (MsgId, MsgId)) -> Vec<Range<u32>> {
        let at = self.conversations.partition_point(|(key, _)| key < conversation);
        let Some((_, start)) = self.conversations.get(at).filter(|(key, _)| key == conversation) else {
            return Vec::new();
        };
        let end = self.conversations.get(at + 1).map_or(self.rows, |(_, next)| *next);
        let first = self.pages.partition_point(|page| page.rows.end <= *start);
        let pages = self.pages.iter().skip(first).take_while(|page| page.rows.start < end);
        let with_ids = pages.filter(|page| page.ids.0 <= ids.1 && ids.0 <= page.ids.1);
        with_ids.map(|page| page.rows.start.max(*start)..page.rows.end.min(end)).collect()
    }
}

impl IdPage {
    /// The one page of a file that does not say what its pages hold.
    fn of_all(rows: u32) -> Self {
        Self { rows: 0..rows, ids: (MsgId::MIN, MsgId::MAX) }
    }
}

/// A file's schema with texts as the tables have them: without copies out of the pages that are decoded.
fn with_views(file: &Schema) -> Schema {
    let fields = file.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => field.as_ref().clone().with_data_type(DataType::Utf8View),
        _ => field.as_ref().clone(),
    });
    Schema::new_with_metadata(fields.collect::<Vec<Field>>(), file.metadata().clone())
}

/// The pages of the column `msgId` over all row groups; `None` where the file has no page index.
fn id_pages(file: &ParquetMetaData, rows: u32) -> Option<Vec<IdPage>> {
    let column = file.file_metadata().schema_descr().columns().iter().position(|column| column.name() == "msgId")?;
    let (bounds, offsets) = (file.column_index()?, file.offset_index()?);
    let mut pages: Vec<IdPage> = Vec::new();
    let mut group_start = 0_u32;
    for (group, (bounds, offsets)) in file.row_groups().iter().zip(bounds.iter().zip(offsets)) {
        let ColumnIndexMetaData::INT64(bounds) = bounds.get(column)? else { return None };
        let group_end = group_start.checked_add(u32::try_from(group.num_rows()).ok()?)?;
        let locations = offsets.get(column)?.page_locations();
        for (at, location) in locations.iter().enumerate() {
            let start = group_start + u32::try_from(location.first_row_index).ok()?;
            let end = match locations.get(at + 1) {
                Some(next) => group_start + u32::try_from(next.first_row_index).ok()?,
                None => group_end,
            };
            pages.push(IdPage { rows: start..end, ids: (*bounds.min_value(at)?, *bounds.max_value(at)?) });
        }
        group_start = group_end;
    }
    (group_start == rows).then_some(pages)
}

/// The first row of each conversation.
async fn conversations(reader: SegmentFile, metadata: &ArrowReaderMetadata) -> Result<Vec<(ConversationKey, u32)>> {
    let mask = ProjectionMask::columns(metadata.parquet_schema(), ["conversationId", "conversationType"]);
    let mut batches =
        ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata.clone()).with_projection(mask).build()?;
    let mut found: Vec<(ConversationKey, u32)> = Vec::new();
    let mut row = 0_u32;
    while let Some(batch) = batches.try_next().await? {
        let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_view_opt());
        let (Some(ids), Some(kinds)) = (text("conversationId"), text("conversationType")) else {
            return Err(corrupt("a segment has no conversations"));
        };
        for at in 0..batch.num_rows() {
            let (id, kind) = (ids.value(at), kinds.value(at));
            let same = found.last().is_some_and(|(key, _)| key.id.as_str() == id && key.kind.as_str() == kind);
            if !same {
                let id = ConversationId::new(id).map_err(|_| corrupt("a segment names no conversation"))?;
                let kind = ConversationType::parse(kind).ok_or_else(|| corrupt("a segment names no type"))?;
                let key = ConversationKey { id, kind };
                if found.last().is_some_and(|(last, _)| *last >= key) {
                    return Err(corrupt("a segment is not sorted by conversation"));
                }
                found.push((key, row));
            }
            row += 1;
        }
    }
    Ok(found)
}
