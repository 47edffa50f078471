//! The short way: a page of one conversation, and one message by its id, read without the planner.
//!
//! Applications ask these all the time, and to plan one takes ten times as long as to read its rows. Everything else goes
//! through the planner, and so does EXPLAIN of these.
//!
//! Invariant: what is taken here is answered as the planner would have it answered, in every column, type and order (a
//! test gives both the same statements), from the same snapshot, under the same two walls, within the same memory.

mod directory;
mod form;

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array},
        compute::interleave,
        datatypes::{Field, Int64Type, Schema, SchemaRef},
    },
    error::{DataFusionError, Result},
    execution::{
        SendableRecordBatchStream,
        memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
    },
    parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask, arrow_reader::RowSelection},
    physical_plan::stream::RecordBatchStreamAdapter,
    sql::sqlparser::ast,
};
use futures::{TryStreamExt, stream};
use kalamdb_protocol::{MsgId, TableId, UserId};
use kalamdb_store::{ConversationKey, HotMessage, MessageRange, Segment, Snapshot};

pub(super) use self::directory::Directories;
use self::form::{Page, Wanted};
use super::{
    catalog::{Dependency, Names},
    planner::View,
    tables::{message_column, schema_of, store_error},
};
use crate::sql;

/// Rows that are decoded at a time, so that the statement's memory is asked before long ones are all there.
const BATCH_ROWS: usize = 64;
/// Bytes of a hot row besides its texts.
const ROW_BYTES: usize = size_of::<HotMessage>() + 64;

/// A file that is not what was written.
fn corrupt(what: &str) -> DataFusionError {
    tracing::error!(what, "a segment cannot be read");
    DataFusionError::External(Box::new(std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned())))
}

impl View {
    /// The rows of a statement that needs no planner; `None`: it needs one.
    ///
    /// # Errors
    /// `scope_violation`, and what the snapshot runs into.
    pub(crate) fn lean(&self, statement: &ast::Statement) -> Result<Option<SendableRecordBatchStream>> {
        let Some(page) = Page::of(statement) else { return Ok(None) };
        let Some(sql::Schema::Owner(owner)) = Names(self).schema(&page.schema, TableId::Messages.table().name)? else {
            return Ok(None);
        };
        let segments = self.segments(&owner)?;
        let is_there = |segment: &&Segment| {
            segment.msg_ids.0 <= page.wanted.last
                && page.wanted.first <= segment.msg_ids.1
                && page.wanted.conversation.as_ref().is_none_or(|id| {
                    let (first, last) = &segment.conversations;
                    first.id.as_str() <= id.as_str() && id.as_str() <= last.id.as_str()
                })
        };
        let cold: Vec<Segment> = segments.iter().filter(is_there).cloned().collect();
        let hot = hot(self.snapshot(), &owner, &page.wanted)?;
        if page.wanted.conversation.is_none() && hot.is_empty() && !cold.is_empty() {
            // A segment is not sorted by id alone: finding one takes the bloom filters that the planner's way reads.
            return Ok(None);
        }
        self.depends_on(Dependency::Owner(owner));
        let table = schema_of(TableId::Messages.table().columns, false, []);
        let named = page.columns.iter().map(|(index, name)| table.field(*index).clone().with_name(name));
        let schema = Arc::new(Schema::new(named.collect::<Vec<Field>>()));
        let pool: Arc<dyn MemoryPool> = self.memory();
        let read = Reading {
            columns: page.columns.iter().map(|(index, _)| table.field(*index).name().clone()).collect(),
            table,
            schema: Arc::clone(&schema),
            wanted: page.wanted,
            directories: self.directories().clone(),
            held: MemoryConsumer::new("a page of messages").register(&pool),
        };
        let rows = stream::once(async move { read.rows(hot, cold).await });
        Ok(Some(Box::pin(RecordBatchStreamAdapter::new(schema, rows))))
    }
}

/// The hot rows, in order, as many as are wanted at most.
fn hot(snapshot: &Snapshot, owner: &UserId, wanted: &Wanted) -> Result<Vec<HotMessage>> {
    let mut rows = Vec::new();
    let Some(conversation) = &wanted.conversation else {
        let found = snapshot.hot_message(owner, wanted.first).map_err(store_error)?;
        rows.extend(found.filter(|row| wanted.kinds.contains(&row.message.conversation.kind)));
        return Ok(rows);
    };
    for kind in &wanted.kinds {
        let range = MessageRange {
            conversation: Some(ConversationKey { id: conversation.clone(), kind: *kind }),
            min_msg_id: (wanted.first > MsgId::MIN).then_some(wanted.first),
            max_msg_id: (wanted.last < MsgId::MAX).then_some(wanted.last),
            newest_first: wanted.newest_first,
        };
        let of_kind = snapshot.messages(owner, &range).map_err(store_error)?.take(wanted.rows);
        rows.extend(of_kind.collect::<kalamdb_store::Result<Vec<_>>>().map_err(store_error)?);
    }
    rows.sort_by_key(|row| wanted.rank(row.message.msg_id));
    rows.truncate(wanted.rows);
    Ok(rows)
}

impl Wanted {
    /// The rank of an id: rows of lower rank come first in the wanted order.
    fn rank(&self, id: MsgId) -> MsgId {
        // `!id` is `-1 - id`, which no id overflows.
        if self.newest_first { !id } else { id }
    }

    /// The rank that no row of a segment is before.
    fn best_rank(&self, segment: &Segment) -> MsgId {
        self.rank(if self.newest_first { segment.msg_ids.1 } else { segment.msg_ids.0 })
    }

    fn has(&self, id: MsgId) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// A page that is being read.
struct Reading {
    /// The table's columns in the answer.
    columns: Vec<String>,
    table: SchemaRef,
    /// The answer's columns.
    schema: SchemaRef,
    wanted: Wanted,
    directories: Directories,
    held: MemoryReservation,
}

/// The rows found so far, in batches; [`Found::order`] says which of them are in the answer.
#[derive(Default)]
struct Found {
    /// The answer's columns of each batch.
    batches: Vec<Vec<ArrayRef>>,
    /// Message id, batch and row, the best first.
    order: Vec<(MsgId, usize, usize)>,
}

impl Reading {
    async fn rows(mut self, hot: Vec<HotMessage>, mut cold: Vec<Segment>) -> Result<RecordBatch> {
        let mut found = Found::default();
        let texts = |row: &HotMessage| row.message.content.len() + row.message.metadata.as_ref().map_or(0, String::len);
        self.held.try_grow(hot.iter().map(|row| ROW_BYTES + 2 * texts(row)).sum())?;
        if !hot.is_empty() {
            let column = |name: &String| message_column(name, hot.iter().map(|row| &row.message));
            let columns = self.columns.iter().map(|name| column(name).ok_or_else(|| corrupt("no such column")));
            found.order.extend(hot.iter().enumerate().map(|(at, row)| (row.message.msg_id, 0, at)));
            found.batches.push(columns.collect::<Result<_>>()?);
        }
        // The best ids first, so that the rest need not be opened.
        cold.sort_by_key(|segment| self.wanted.best_rank(segment));
        for segment in cold {
            if !self.wants(&found, self.wanted.best_rank(&segment)) {
                break;
            }
            self.read_segment(&segment, &mut found).await?;
        }
        found.take(&self.schema)
    }

    /// Whether a row of this rank would still be in the answer.
    fn wants(&self, found: &Found, rank: MsgId) -> bool {
        let worst = found.order.last().map(|(id, ..)| self.wanted.rank(*id));
        found.order.len() < self.wanted.rows || worst.is_some_and(|worst| rank < worst)
    }

    /// Adds a segment's rows that belong into the answer.
    async fn read_segment(&mut self, segment: &Segment, found: &mut Found) -> Result<()> {
        let directory = self.directories.get(segment).await?;
        let names = self.columns.iter().map(String::as_str).chain(["msgId"]);
        let mask = ProjectionMask::columns(directory.metadata.parquet_schema(), names);
        for kind in self.wanted.kinds.clone() {
            let Some(id) = self.wanted.conversation.clone() else { continue };
            let ranges = directory.rows(&ConversationKey { id, kind }, (self.wanted.first, self.wanted.last));
            let live = |row: &u32| !segment.deleted.contains(*row);
            let mut rows: Vec<u32> = ranges.into_iter().flatten().filter(live).collect();
            if !self.wanted.newest_first {
                rows.reverse();
            }
            // From the best on; a page's rows at the ends may have other ids than those wanted.
            let mut left = self.wanted.rows;
            while left > 0 && !rows.is_empty() {
                let mut next = rows.split_off(rows.len().saturating_sub(left.max(BATCH_ROWS)));
                next.sort_unstable();
                let selection = selection(&next, segment.rows);
                let reader = self.directories.reader(segment)?;
                let mut batches =
                    ParquetRecordBatchStreamBuilder::new_with_metadata(reader, directory.metadata.clone())
                        .with_projection(mask.clone())
                        .with_row_selection(selection)
                        .with_batch_size(BATCH_ROWS)
                        .build()?;
                while let Some(batch) = batches.try_next().await? {
                    left = left.saturating_sub(self.add(&batch, found)?);
                }
            }
        }
        found.order.sort_by_key(|(id, ..)| self.wanted.rank(*id));
        found.order.truncate(self.wanted.rows);
        Ok(())
    }

    /// Adds a batch of a segment; how many of its rows are wanted.
    fn add(&mut self, batch: &RecordBatch, found: &mut Found) -> Result<usize> {
        self.held.try_grow(batch.get_array_memory_size())?;
        let ids = batch.column_by_name("msgId").and_then(|ids| ids.as_primitive_opt::<Int64Type>());
        let ids = ids.ok_or_else(|| corrupt("a segment has no ids"))?;
        let before = found.order.len();
        let at = found.batches.len();
        let wanted = ids.values().iter().enumerate().filter(|(_, id)| self.wanted.has(**id));
        found.order.extend(wanted.map(|(row, id)| (*id, at, row)));
        // A file that is older than a column lacks it: it is NULL in all its rows.
        let column = |name: &String| match (batch.column_by_name(name), self.table.field_with_name(name)) {
            (Some(column), _) => Ok(Arc::clone(column)),
            (None, Ok(field)) if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            (None, _) => Err(corrupt("a segment lacks a column")),
        };
        found.batches.push(self.columns.iter().map(column).collect::<Result<_>>()?);
        Ok(found.order.len() - before)
    }
}

/// The selection of these rows out of so many.
fn selection(rows: &[u32], all: u32) -> RowSelection {
    let runs = rows.chunk_by(|a, b| a + 1 == *b);
    let ranges = runs.map(|run| run[0] as usize..run[run.len() - 1] as usize + 1);
    RowSelection::from_consecutive_ranges(ranges, all as usize)
}

impl Found {
    fn take(self, schema: &SchemaRef) -> Result<RecordBatch> {
        let Self { batches, order } = self;
        let places: Vec<(usize, usize)> = order.iter().map(|(_, batch, row)| (*batch, *row)).collect();
        let whole = |columns: &[ArrayRef]| {
            columns.first().is_some_and(|column| column.len() == places.len())
                && places.iter().enumerate().all(|(at, place)| *place == (0, at))
        };
        if let [columns] = batches.as_slice()
            && whole(columns)
        {
            return Ok(RecordBatch::try_new(Arc::clone(schema), columns.clone())?);
        }
        let gathered = schema.fields().iter().enumerate().map(|(index, field)| {
            let parts: Vec<&dyn Array> = batches.iter().map(|columns| columns[index].as_ref()).collect();
            if parts.is_empty() { Ok(new_null_array(field.data_type(), 0)) } else { interleave(&parts, &places) }
        });
        Ok(RecordBatch::try_new(Arc::clone(schema), gathered.collect::<Result<_, _>>()?)?)
    }
}
