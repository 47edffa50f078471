//! Pages of messages, and one message by its id.
//!
//! Invariant: no more rows are held than a page has, and a batch; a segment that cannot have a row of the page is not
//! opened.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array},
        compute::interleave,
        datatypes::{Int64Type, SchemaRef},
    },
    common::internal_err,
    error::Result,
    execution::memory_pool::MemoryReservation,
    parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask, arrow_reader::RowSelection},
};
use futures::TryStreamExt;
use kalamdb_protocol::{ConversationType, MsgId, UserId};
use kalamdb_store::{ConversationKey, HotMessage, MessageRange, Segment, Snapshot};

use super::{
    blocks::{BLOCK_ROWS, Blocks},
    corrupt,
    directory::{Directories, Directory},
    form::Wanted,
};
use crate::read::{
    portions::own,
    tables::{message_column, store_error},
};

/// Rows that are scattered over more blocks than these are read by themselves.
const MAX_BLOCKS: usize = 4;
/// Rows that are read at a time, so that the statement's memory is asked before long ones are all there.
const BATCH_ROWS: usize = 64;

impl Wanted {
    /// The rank of an id: rows of lower rank come first in the wanted order.
    fn rank(&self, id: MsgId) -> MsgId {
        // `!id` is `-1 - id`, which no id overflows.
        if self.newest_first { !id } else { id }
    }

    /// The rank that no wanted row of a segment is before.
    fn best_rank(&self, segment: &Segment) -> MsgId {
        let (first, last) = segment.msg_ids;
        self.rank(if self.newest_first { last.min(self.last) } else { first.max(self.first) })
    }

    fn has(&self, id: MsgId) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// A page that is being read.
pub(super) struct Reading {
    /// The table's columns in the answer.
    pub columns: Vec<String>,
    pub table: SchemaRef,
    /// The answer's columns.
    pub schema: SchemaRef,
    pub wanted: Wanted,
    pub directories: Directories,
    pub blocks: Blocks,
    pub held: MemoryReservation,
    pub found: Found,
}

/// The rows found so far.
#[derive(Default)]
pub(super) struct Found {
    /// The answer's columns of the rows, in parts.
    parts: Vec<Vec<ArrayRef>>,
    /// The rows of the answer as far as it is known: message id, part and row in it, the best first.
    order: Vec<(MsgId, usize, usize)>,
}

impl Reading {
    /// Adds the hot rows, as many as are wanted at most.
    pub fn read_hot(&mut self, snapshot: &Snapshot, owner: &UserId) -> Result<()> {
        // To look for what is not there takes a walk over what consolidation took away.
        if snapshot.owner(owner).map_err(store_error)?.hot_messages == 0 {
            return Ok(());
        }
        let Some(conversation) = self.wanted.conversation.clone() else {
            return self.read_hot_by_id(snapshot, owner);
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

    /// As [`Self::read_hot`], of all conversations.
    fn read_hot_by_id(&mut self, snapshot: &Snapshot, owner: &UserId) -> Result<()> {
        let Wanted { first, last, newest_first, .. } = self.wanted;
        let rows = snapshot.messages_by_id(owner, (first.max(0), last), newest_first).map_err(store_error)?;
        let kinds = self.wanted.kinds.clone();
        let is_wanted = |row: &kalamdb_store::Result<HotMessage>| {
            row.as_ref().map_or(true, |row| kinds.contains(&row.message.conversation.kind))
        };
        let mut rows = rows.filter(is_wanted).take(self.wanted.rows);
        loop {
            let some = rows.by_ref().take(BATCH_ROWS).collect::<kalamdb_store::Result<Vec<_>>>();
            let some = some.map_err(store_error)?;
            if some.is_empty() {
                return Ok(());
            }
            self.add_hot(&some)?;
        }
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

    /// The page, with what these segments have of it.
    pub async fn rows(mut self, mut cold: Vec<Segment>) -> Result<RecordBatch> {
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
        let Some(id) = self.wanted.conversation.clone() else {
            return self.read_segment_by_id(segment, &directory).await;
        };
        for kind in self.wanted.kinds.clone() {
            let ranges =
                directory.rows(&ConversationKey { id: id.clone(), kind }, (self.wanted.first, self.wanted.last));
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
                left = left.saturating_sub(self.read_rows(segment, &directory, &next).await?);
            }
        }
        Ok(())
    }

    /// As [`Self::read_segment`], of all conversations: a segment is not sorted by id alone.
    async fn read_segment_by_id(&mut self, segment: &Segment, directory: &Directory) -> Result<()> {
        let ids = self.directories.ids(segment, directory).await?;
        let of_any_kind = self.wanted.kinds == ConversationType::ALL;
        let of_kind = |row| directory.kind_of(row).is_some_and(|kind| self.wanted.kinds.contains(&kind));
        let is_wanted = |row: &u32| !segment.deleted.contains(*row) && (of_any_kind || of_kind(*row));
        let rows = ids.between(self.wanted.first, self.wanted.last).filter(is_wanted);
        let mut rows: Vec<u32> = if self.wanted.newest_first {
            rows.rev().take(self.wanted.rows).collect()
        } else {
            rows.take(self.wanted.rows).collect()
        };
        rows.sort_unstable();
        if rows.is_empty() { Ok(()) } else { self.read_rows(segment, directory, &rows).await.map(drop) }
    }

    /// Adds these rows of a segment; how many have an id that is wanted.
    async fn read_rows(&mut self, segment: &Segment, directory: &Directory, rows: &[u32]) -> Result<usize> {
        let blocks = rows.chunk_by(|a, b| a / BLOCK_ROWS == b / BLOCK_ROWS).count();
        if blocks <= MAX_BLOCKS && Blocks::keep(directory, &self.columns) {
            return self.read_blocks(segment, directory, rows).await;
        }
        let names = self.columns.iter().map(String::as_str).chain(["msgId"]);
        let mask = ProjectionMask::columns(directory.metadata.parquet_schema(), names);
        let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(
            self.directories.reader(segment)?,
            directory.metadata.clone(),
        )
        .with_projection(mask)
        .with_row_selection(selection(rows, segment.rows))
        .with_batch_size(BATCH_ROWS)
        .build()?;
        let mut wanted = 0;
        while let Some(batch) = batches.try_next().await? {
            wanted += self.add_cold(&batch)?;
        }
        Ok(wanted)
    }

    /// As [`Self::read_rows`], from the blocks that are kept.
    async fn read_blocks(&mut self, segment: &Segment, directory: &Directory, rows: &[u32]) -> Result<usize> {
        let by_name = |name: &String| self.table.index_of(name);
        let mut columns = self.columns.iter().map(by_name).collect::<std::result::Result<Vec<_>, _>>()?;
        columns.push(self.table.index_of("msgId")?);
        let before = self.found.order.len();
        for rows in rows.chunk_by(|a, b| a / BLOCK_ROWS == b / BLOCK_ROWS) {
            let block = rows[0] / BLOCK_ROWS;
            let of = (segment, directory);
            let mut part = self.blocks.get(&self.directories, of, block, &self.table, &columns).await?;
            // They may be pushed out of the cache meanwhile.
            self.held.try_grow(part.iter().map(Array::get_array_memory_size).sum())?;
            let ids = part.pop().ok_or_else(|| corrupt("a segment has no ids"))?;
            let ids = ids.as_primitive_opt::<Int64Type>().ok_or_else(|| corrupt("a segment has no ids"))?;
            let at = rows.iter().map(|row| (row % BLOCK_ROWS) as usize);
            let wanted = at.map(|row| (ids.value(row), self.found.parts.len(), row));
            self.found.order.extend(wanted.filter(|(id, ..)| self.wanted.has(*id)));
            self.found.parts.push(part);
        }
        Ok(self.found.order.len() - before)
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
pub(super) fn selection(rows: &[u32], all: u32) -> RowSelection {
    let runs = rows.chunk_by(|a, b| a + 1 == *b);
    let ranges = runs.map(|run| run[0] as usize..run[run.len() - 1] as usize + 1);
    RowSelection::from_consecutive_ranges(ranges, all as usize)
}
