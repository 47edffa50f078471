//! The short way: a page of one conversation, and one message by its id, read without the planner.
//!
//! Applications ask these all the time, and to plan one takes ten times as long as to read its rows. Everything else goes
//! through the planner, and so does EXPLAIN of these.
//!
//! Invariant: what is taken here is answered as the planner would have it answered, in every column, type and order (a
//! test gives both the same statements), from the same snapshot, under the same two walls, within the same memory.

mod directory;
mod form;

use std::{io, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array},
        compute::interleave,
        datatypes::{Field, Int64Type, Schema, SchemaRef},
    },
    common::internal_err,
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
    portions::own,
    tables::{message_column, schema_of, store_error},
};
use crate::sql;

/// Rows that are read at a time, so that the statement's memory is asked before long ones are all there.
const BATCH_ROWS: usize = 64;

/// A file that is not what was written: to the client its storage fails.
fn corrupt(what: &'static str) -> DataFusionError {
    tracing::error!(what, "a segment cannot be read");
    DataFusionError::IoError(io::Error::new(io::ErrorKind::InvalidData, what))
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
        let table = schema_of(TableId::Messages.table().columns, false, []);
        let named = page.columns.iter().map(|(index, name)| table.field(*index).clone().with_name(name));
        let schema = Arc::new(Schema::new(named.collect::<Vec<Field>>()));
        let pool: Arc<dyn MemoryPool> = self.memory();
        let mut reading = Reading {
            columns: page.columns.iter().map(|(index, _)| table.field(*index).name().clone()).collect(),
            table,
            schema: Arc::clone(&schema),
            wanted: page.wanted,
            directories: self.directories().clone(),
            held: MemoryConsumer::new("a page of messages").register(&pool),
            found: Found::default(),
        };
        reading.read_hot(self.snapshot(), &owner)?;
        if reading.wanted.conversation.is_none() && reading.found.order.is_empty() && !cold.is_empty() {
            // A segment is not sorted by id alone: finding one takes the bloom filters that the planner's way reads.
            return Ok(None);
        }
        self.depends_on(Dependency::Owner(owner));
        let rows = stream::once(async move { reading.rows(cold).await });
        Ok(Some(Box::pin(RecordBatchStreamAdapter::new(schema, rows))))
    }
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
    found: Found,
}

/// The rows found so far.
#[derive(Default)]
struct Found {
    /// The answer's columns of the rows, in parts.
    parts: Vec<Vec<ArrayRef>>,
    /// The rows of the answer as far as it is known: message id, part and row in it, the best first.
    order: Vec<(MsgId, usize, usize)>,
}

impl Reading {
    /// Adds the hot rows, as many as are wanted at most.
    fn read_hot(&mut self, snapshot: &Snapshot, owner: &UserId) -> Result<()> {
        let Some(conversation) = self.wanted.conversation.clone() else {
            let found = snapshot.hot_message(owner, self.wanted.first).map_err(store_error)?;
            let found = found.filter(|row| self.wanted.kinds.contains(&row.message.conversation.kind));
            return found.map_or(Ok(()), |row| self.add_hot(&[row]));
        };
        for kind in self.wanted.kinds.clone() {
            let range = MessageRange {
                conversation: Some(ConversationKey { id: conversation.clone(), kind }),
                min_msg_id: (self.wanted.first > MsgId::MIN).then_some(self.wanted.first),
                max_msg_id: (self.wanted.last < MsgId::MAX).then_some(self.wanted.last),
                newest_first: self.wanted.newest_first,
            };
            let mut rows = snapshot.messages(owner, &range).map_err(store_error)?.take(self.wanted.rows);
            loop {
                let some = rows.by_ref().take(BATCH_ROWS).collect::<kalamdb_store::Result<Vec<_>>>();
                let some = some.map_err(store_error)?;
                if some.is_empty() {
                    break;
                }
                self.add_hot(&some)?;
            }
        }
        self.found.order.sort_by_key(|(id, ..)| self.wanted.rank(*id));
        self.found.order.truncate(self.wanted.rows);
        Ok(())
    }

    fn add_hot(&mut self, rows: &[HotMessage]) -> Result<()> {
        let column = |name: &String| message_column(name, rows.iter().map(|row| &row.message));
        let columns: Option<Vec<ArrayRef>> = self.columns.iter().map(column).collect();
        let Some(columns) = columns else { return internal_err!("a message lacks a column of its table") };
        self.held.try_grow(columns.iter().map(Array::get_array_memory_size).sum())?;
        let part = self.found.parts.len();
        self.found.order.extend(rows.iter().enumerate().map(|(at, row)| (row.message.msg_id, part, at)));
        self.found.parts.push(columns);
        Ok(())
    }

    async fn rows(mut self, mut cold: Vec<Segment>) -> Result<RecordBatch> {
        // The best ids first, so that the rest need not be opened.
        cold.sort_by_key(|segment| self.wanted.best_rank(segment));
        for segment in cold {
            if self.worst().is_some_and(|worst| worst <= self.wanted.best_rank(&segment)) {
                break;
            }
            self.read_segment(&segment).await?;
            self.settle()?;
        }
        self.batch()
    }

    /// The rank of the last row of a page that is full.
    fn worst(&self) -> Option<MsgId> {
        let Found { order, .. } = &self.found;
        let (id, ..) = order.last().filter(|_| order.len() >= self.wanted.rows)?;
        Some(self.wanted.rank(*id))
    }

    /// Adds a segment's rows that may belong into the answer.
    async fn read_segment(&mut self, segment: &Segment) -> Result<()> {
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
                let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(
                    self.directories.reader(segment)?,
                    directory.metadata.clone(),
                )
                .with_projection(mask.clone())
                .with_row_selection(selection(&next, segment.rows))
                .with_batch_size(BATCH_ROWS)
                .build()?;
                while let Some(batch) = batches.try_next().await? {
                    left = left.saturating_sub(self.add_cold(&batch)?);
                }
            }
        }
        Ok(())
    }

    /// Adds a batch of a segment; how many of its rows have an id that is wanted.
    fn add_cold(&mut self, batch: &RecordBatch) -> Result<usize> {
        // A text keeps the whole page alive that it was read from.
        let batch = own(batch)?;
        self.held.try_grow(batch.get_array_memory_size())?;
        let ids = batch.column_by_name("msgId").and_then(|ids| ids.as_primitive_opt::<Int64Type>());
        let ids = ids.ok_or_else(|| corrupt("a segment has no ids"))?;
        let part = self.found.parts.len();
        let wanted = ids.values().iter().enumerate().filter(|(_, id)| self.wanted.has(**id));
        let before = self.found.order.len();
        self.found.order.extend(wanted.map(|(row, id)| (*id, part, row)));
        // A file that is older than a column lacks it: it is NULL in all its rows.
        let column = |name: &String| match (batch.column_by_name(name), self.table.field_with_name(name)) {
            (Some(column), _) => Ok(Arc::clone(column)),
            (None, Ok(field)) if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            (None, _) => Err(corrupt("a segment lacks a column")),
        };
        self.found.parts.push(self.columns.iter().map(column).collect::<Result<_>>()?);
        Ok(self.found.order.len() - before)
    }

    /// Keeps the best of the rows alone, as one part: however many segments have some, no more than a page is held.
    fn settle(&mut self) -> Result<()> {
        let order = &mut self.found.order;
        order.sort_by_key(|(id, ..)| self.wanted.rank(*id));
        order.truncate(self.wanted.rows);
        let batch = own(&self.batch()?)?;
        self.held.try_resize(batch.get_array_memory_size())?;
        self.found.parts = vec![batch.columns().to_vec()];
        for (row, place) in self.found.order.iter_mut().enumerate() {
            (place.1, place.2) = (0, row);
        }
        Ok(())
    }

    /// The rows in their order.
    fn batch(&self) -> Result<RecordBatch> {
        let Found { parts, order } = &self.found;
        let places: Vec<(usize, usize)> = order.iter().map(|(_, part, row)| (*part, *row)).collect();
        let is_all = |part: &[ArrayRef]| {
            part.first().is_some_and(|column| column.len() == places.len())
                && places.iter().enumerate().all(|(at, place)| *place == (0, at))
        };
        let columns = match parts.as_slice() {
            [] => self.schema.fields().iter().map(|field| new_null_array(field.data_type(), 0)).collect(),
            [part] if is_all(part) => part.clone(),
            parts => {
                let column = |index: usize| {
                    let values: Vec<&dyn Array> = parts.iter().map(|part| part[index].as_ref()).collect();
                    interleave(&values, &places)
                };
                (0..self.columns.len()).map(column).collect::<std::result::Result<_, _>>()?
            }
        };
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// The selection of these rows out of so many.
fn selection(rows: &[u32], all: u32) -> RowSelection {
    let runs = rows.chunk_by(|a, b| a + 1 == *b);
    let ranges = runs.map(|run| run[0] as usize..run[run.len() - 1] as usize + 1);
    RowSelection::from_consecutive_ranges(ranges, all as usize)
}
