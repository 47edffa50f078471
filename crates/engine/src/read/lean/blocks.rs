//! Short runs of rows of segments, decoded, kept in memory: who opens a conversation reads the same ones again, and to
//! read and decompress a page for fifty rows takes longer than all else.
//!
//! Invariant: of files, which never change: what of them is deleted is not said here, so nothing is ever stale.

use std::{ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, new_null_array},
        compute::concat,
        datatypes::{Field, SchemaRef},
    },
    error::Result,
    parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask},
};
use futures::TryStreamExt;
use kalamdb_store::Segment;
use moka::sync::Cache as Moka;

use super::{
    corrupt,
    directory::{Directories, Directory},
    page::selection,
};

/// Rows of a block: those of a page, as segments are written, so that a block decodes one page of a column.
pub(super) const BLOCK_ROWS: u32 = 512;
/// Memory of all blocks.
const CACHE_BYTES: u64 = 32 << 20;
/// Bytes of a column's block, about, beyond which its rows are read by themselves: long messages would push out the rest.
const MAX_BLOCK_BYTES: u64 = 256 << 10;

/// The blocks that were read last, by directory, number and column. Cheap to clone.
#[derive(Clone)]
pub(in crate::read) struct Blocks(Moka<(u64, u32, usize), ArrayRef>);

impl Blocks {
    pub fn new() -> Self {
        let weigh = |_: &_, column: &ArrayRef| u32::try_from(column.get_array_memory_size()).unwrap_or(u32::MAX);
        Self(Moka::builder().max_capacity(CACHE_BYTES).weigher(weigh).build())
    }

    /// Whether rows of these columns are kept.
    pub(super) fn keep(directory: &Directory, columns: &[String]) -> bool {
        columns.iter().all(|column| directory.bytes_of_rows(column, BLOCK_ROWS) <= MAX_BLOCK_BYTES)
    }

    /// A block's columns, read where they are not there.
    pub(super) async fn get(
        &self,
        directories: &Directories,
        (segment, directory): (&Segment, &Directory),
        block: u32,
        table: &SchemaRef,
        columns: &[usize],
    ) -> Result<Vec<ArrayRef>> {
        let found: Vec<Option<ArrayRef>> =
            columns.iter().map(|column| self.0.get(&(directory.id, block, *column))).collect();
        let missing: Vec<usize> =
            columns.iter().zip(&found).filter_map(|(column, found)| found.is_none().then_some(*column)).collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        let rows = rows_of(block, segment.rows);
        let fields: Vec<&Field> = missing.iter().map(|column| table.field(*column)).collect();
        let read = read(directories, (segment, directory), rows, &fields).await?;
        let mut read = missing.into_iter().zip(read).inspect(|(column, values)| {
            self.0.insert((directory.id, block, *column), Arc::clone(values));
        });
        Ok(found.into_iter().filter_map(|found| found.or_else(|| read.next().map(|(_, values)| values))).collect())
    }
}

/// The rows of a block.
fn rows_of(block: u32, all: u32) -> Range<u32> {
    let first = block * BLOCK_ROWS;
    first..first.saturating_add(BLOCK_ROWS).min(all)
}

/// The columns of a segment's rows.
async fn read(
    directories: &Directories,
    (segment, directory): (&Segment, &Directory),
    rows: Range<u32>,
    fields: &[&Field],
) -> Result<Vec<ArrayRef>> {
    let names = fields.iter().map(|field| field.name().as_str());
    let mask = ProjectionMask::columns(directory.metadata.parquet_schema(), names);
    let number = rows.len();
    let batches =
        ParquetRecordBatchStreamBuilder::new_with_metadata(directories.reader(segment)?, directory.metadata.clone())
            .with_projection(mask)
            .with_row_selection(selection(&rows.collect::<Vec<u32>>(), segment.rows))
            .with_batch_size(BLOCK_ROWS as usize)
            .build()?;
    let batches: Vec<_> = batches.try_collect().await?;
    let column = |field: &&Field| {
        let parts: Option<Vec<&ArrayRef>> = batches.iter().map(|batch| batch.column_by_name(field.name())).collect();
        let column = match parts.as_deref() {
            // A file that is older than a column lacks it: it is NULL in all its rows.
            None | Some([]) if field.is_nullable() => new_null_array(field.data_type(), number),
            None | Some([]) => return Err(corrupt("a segment lacks a column")),
            Some([part]) => Arc::clone(part),
            Some(parts) => concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?,
        };
        if column.len() == number { Ok(column) } else { Err(corrupt("a segment has other rows")) }
    };
    fields.iter().map(column).collect()
}
