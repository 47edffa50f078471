//! Cold messages: the owners' segments, read by DataFusion's Parquet reader; and among them those that were deleted
//! and can be brought back.
//!
//! Invariant: a row whose position is in a deletion vector is never read, but as one of a deletion that was asked for.
//! Numbers that are declared exact count only what is read.

use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    catalog::Session,
    common::{ColumnStatistics, Statistics, pruning::PrunableStatistics, stats::Precision},
    config::TableParquetOptions,
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfigBuilder, ParquetSource,
            parquet::{CachedParquetFileReaderFactory, ParquetRowSelection},
        },
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    error::{DataFusionError, Result},
    execution::object_store::ObjectStoreUrl,
    object_store::path::Path,
    parquet::arrow::{
        RowNumber,
        arrow_reader::{RowSelection, RowSelector},
    },
    physical_expr::PhysicalExpr,
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::ExecutionPlan,
    scalar::ScalarValue,
};
use kalamdb_protocol::{Micros, UserId};
use kalamdb_store::{ColdTrash, Segment, Seq};
use roaring::RoaringBitmap;

use super::{OWNER, count, segment_source::SegmentSource};
use crate::read::SEGMENTS_URL;

/// The first read of a file fetches this much of its end: the footer and the page index of a segment.
const FOOTER_BYTES: usize = 64 * 1024;

/// A batch of rows should not be much larger than this when decoded…
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// …where text decodes to about so many times its size in the file.
const COMPRESSION: u64 = 5;
/// Smaller batches cost more than they save.
const MIN_BATCH_ROWS: usize = 64;

/// The columns of a segment that are not in the file.
pub(super) const SEGMENT: &str = "_segment";
pub(super) const POSITION: &str = "_position";
pub(super) const VERSION: &str = "_version";
pub(super) const DELETION: &str = "_deletion";
const DELETED_AT: &str = "deletedAt";
const EXPIRES_AT: &str = "expiresAt";

/// The segment number of rows that lie in none.
pub(super) const HOT: i64 = -1;

/// The hidden columns, as both tiers declare them.
pub(super) fn hidden_fields() -> [Field; 3] {
    [
        Field::new(SEGMENT, DataType::Int64, false),
        Field::new(POSITION, DataType::Int64, false).with_extension_type(RowNumber),
        Field::new(VERSION, DataType::Int64, false),
    ]
}

/// Segments to read.
pub(super) struct ColdScan {
    /// All columns of the table.
    pub schema: SchemaRef,
    /// The files, and positions of theirs that count as deleted.
    pub files: Vec<File>,
}

/// A segment of one owner.
pub(super) struct File {
    owner: UserId,
    segment: Segment,
    /// Only what this deletion took of it is read; `None`: all but what is deleted.
    deletion: Option<Deletion>,
}

/// The rows that one deletion took, and what they have in common.
struct Deletion {
    number: Seq,
    positions: RoaringBitmap,
    deleted_at: Micros,
    expires_at: Micros,
}

impl ColdScan {
    /// Drops what holds no row that could match, before any file is opened.
    pub fn prune(&mut self, condition: Option<&Arc<dyn PhysicalExpr>>) {
        self.files.retain(|file| file.live_rows() > 0);
        let bounds = self.files.iter().map(|file| Arc::new(file.bounds(&self.schema))).collect();
        let mut keep = prune(condition, &self.schema, bounds).into_iter();
        self.files.retain(|_| keep.next().unwrap_or(true));
    }

    /// The scan; the newest files first.
    pub fn plan(
        mut self,
        session: &dyn Session,
        projection: &[usize],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.files.sort_by_key(|file| std::cmp::Reverse(file.segment.msg_ids.1));
        let layout = Layout::of(&self.schema);
        let url = ObjectStoreUrl::parse(SEGMENTS_URL)?;
        let runtime = session.runtime_env();
        let metadata = runtime.cache_manager.get_file_metadata_cache();
        let reader = CachedParquetFileReaderFactory::new(runtime.object_store(&url)?, metadata);
        let options = &session.config_options().execution.parquet;
        let source = ParquetSource::new(layout.table())
            .with_table_parquet_options(TableParquetOptions { global: options.clone(), ..Default::default() })
            .with_parquet_file_reader_factory(Arc::new(reader))
            .with_metadata_size_hint(FOOTER_BYTES);
        let files = self.files.iter().map(|file| file.partitioned(&layout)).collect::<Result<Vec<_>>>()?;
        let config = FileScanConfigBuilder::new(url, SegmentSource::wrap(Arc::new(source)))
            .with_file_group(FileGroup::new(files))
            .with_statistics(self.statistics(layout.table().table_schema()))
            .with_batch_size(Some(self.batch_rows(session.config().batch_size())))
            .with_projection_indices(Some(layout.positions(&self.schema, projection)?))?
            .with_limit(limit)
            .build();
        let scan = DataSourceExec::from_data_source(config);
        // Under a union nobody else would split it, and an aggregate over many rows wants all threads.
        let split = scan.repartitioned(session.config().target_partitions(), session.config_options())?;
        Ok(split.unwrap_or(scan))
    }

    /// The statistics of the whole table; exact only where no row of the files is deleted.
    fn statistics(&self, table: &Schema) -> Statistics {
        let rows: u64 = self.files.iter().map(File::live_rows).sum();
        let bytes: u64 = self.files.iter().map(|file| file.segment.bytes).sum();
        let whole = self.files.iter().all(|file| file.live_rows() == file.all_rows());
        let bounds = self.files.iter().map(|file| file.bounds(table));
        let columns = bounds.map(|bounds| bounds.column_statistics).reduce(|all, more| {
            let merge = |(a, b): (ColumnStatistics, ColumnStatistics)| ColumnStatistics {
                min_value: a.min_value.min(&b.min_value),
                max_value: a.max_value.max(&b.max_value),
                null_count: a.null_count.add(&b.null_count),
                ..ColumnStatistics::new_unknown()
            };
            all.into_iter().zip(more).map(merge).collect()
        });
        let statistics = Statistics {
            num_rows: Precision::Exact(usize::try_from(rows).unwrap_or(usize::MAX)),
            total_byte_size: Precision::Inexact(usize::try_from(bytes * COMPRESSION).unwrap_or(usize::MAX)),
            column_statistics: columns.unwrap_or_else(|| Statistics::unknown_column(table)),
        };
        if whole { statistics } else { statistics.to_inexact() }
    }

    /// Fewer rows at a time when they are long.
    fn batch_rows(&self, most: usize) -> usize {
        let bytes: u64 = self.files.iter().map(|file| file.segment.bytes).sum();
        let rows: u64 = self.files.iter().map(File::all_rows).sum();
        let row_bytes = (bytes * COMPRESSION / rows.max(1)).max(1);
        usize::try_from(BATCH_BYTES / row_bytes).unwrap_or(most).clamp(MIN_BATCH_ROWS.min(most), most)
    }
}

/// The containers that may hold a row that meets the condition, going by their statistics.
pub(super) fn prune(
    condition: Option<&Arc<dyn PhysicalExpr>>,
    schema: &SchemaRef,
    containers: Vec<Arc<Statistics>>,
) -> Vec<bool> {
    let number = containers.len();
    if number == 0 {
        return Vec::new();
    }
    let pruned = condition.map(|condition| {
        let predicate =
            PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).try_build(Arc::clone(condition))?;
        predicate.prune(&PrunableStatistics::new(containers, Arc::clone(schema)))
    });
    // Pruning is a help, never needed: what it cannot judge is read.
    pruned.and_then(Result::ok).unwrap_or_else(|| vec![true; number])
}

/// The statistics of an owner that need no look: the owner of each row.
pub(super) fn owner_bounds(owner: &UserId, schema: &Schema) -> Statistics {
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        OWNER => constant(text(owner.as_str())),
        _ => ColumnStatistics::new_unknown(),
    });
    Statistics { column_statistics: columns.collect(), ..Statistics::default() }
}

impl File {
    /// A segment's messages.
    pub fn messages(owner: UserId, segment: Segment) -> Self {
        Self { owner, segment, deletion: None }
    }

    /// The messages that a deletion took of a segment.
    pub fn deleted(owner: UserId, trash: ColdTrash) -> Self {
        let ColdTrash { deletion: number, mut segment, positions, deleted_at, expires_at } = trash;
        // There may be many deletions in one segment: none of them needs to hold all of the others.
        segment.deleted.clear();
        Self { owner, segment, deletion: Some(Deletion { number, positions, deleted_at, expires_at }) }
    }

    /// The value that a column which is not in the file has in all its rows.
    fn added(&self, name: &str) -> Option<ScalarValue> {
        let deletion = self.deletion.as_ref();
        Some(match name {
            OWNER => text(self.owner.as_str()),
            SEGMENT => int(count(self.segment.number)),
            VERSION => int(0),
            DELETION => int(count(deletion?.number)),
            DELETED_AT => int(deletion?.deleted_at),
            EXPIRES_AT => int(deletion?.expires_at),
            _ => return None,
        })
    }

    /// The number of its rows that are read.
    fn live_rows(&self) -> u64 {
        match &self.deletion {
            Some(deletion) => deletion.positions.len(),
            None => self.all_rows().saturating_sub(self.segment.deleted.len()),
        }
    }

    fn all_rows(&self) -> u64 {
        u64::from(self.segment.rows)
    }

    /// The bounds of its columns, which hold whatever is deleted: exact as bounds, for pruning only.
    fn bounds(&self, schema: &Schema) -> Statistics {
        let segment = &self.segment;
        let (first, last) = &segment.conversations;
        let columns = schema.fields().iter().map(|field| {
            let known = match field.name().as_str() {
                "msgId" => between(int(segment.msg_ids.0), int(segment.msg_ids.1)),
                "timestamp" => between(int(segment.timestamps.0), int(segment.timestamps.1)),
                "conversationId" => between(text(first.id.as_str()), text(last.id.as_str())),
                "conversationType" if first == last => constant(text(first.kind.as_str())),
                added => self.added(added).map_or_else(ColumnStatistics::new_unknown, constant),
            };
            let nulls = if field.is_nullable() { Precision::Absent } else { Precision::Exact(0) };
            known.with_null_count(nulls)
        });
        Statistics {
            num_rows: Precision::Exact(segment.rows as usize),
            total_byte_size: Precision::Absent,
            column_statistics: columns.collect(),
        }
    }

    fn partitioned(&self, layout: &Layout) -> Result<PartitionedFile> {
        let segment = &self.segment;
        let mut file = PartitionedFile::new("", segment.bytes);
        // The path is encoded already; making it from plain text would encode it again.
        file.object_meta.location = Path::parse(&segment.path).map_err(|_| missing_path())?;
        let values = layout.added.iter().map(|field| self.added(field.name()).ok_or_else(|| missing(field.name())));
        // A file's own schema says which columns it has: an older one may lack some, which are NULL in all its rows.
        let file = file
            .with_partition_values(values.collect::<Result<_>>()?)
            .with_statistics(Arc::new(self.bounds(&layout.file)));
        let selection = match &self.deletion {
            Some(deletion) => selection(segment.rows, &deletion.positions, true),
            None if segment.deleted.is_empty() => return Ok(file),
            None => selection(segment.rows, &segment.deleted, false),
        };
        Ok(file.with_extension(ParquetRowSelection::new(selection)))
    }
}

fn missing_path() -> DataFusionError {
    DataFusionError::Internal("a segment's path is no object path".to_owned())
}

fn missing(column: &str) -> DataFusionError {
    DataFusionError::Internal(format!("no such column: {column}"))
}

/// The rows at these positions are read and all others are not, or the other way round.
fn selection(rows: u32, positions: &RoaringBitmap, read: bool) -> RowSelection {
    let part = |rows: u32, read: bool| RowSelector { row_count: rows as usize, skip: !read };
    let mut selectors = Vec::new();
    let mut next = 0_u32;
    let mut runs = positions.iter();
    while let Some(run) = runs.next_range() {
        let (from, to) = (*run.start(), run.end().saturating_add(1).min(rows));
        if from >= rows {
            break;
        }
        selectors.extend((from > next).then(|| part(from - next, !read)));
        selectors.push(part(to - from, read));
        next = to;
    }
    selectors.extend((next < rows).then(|| part(rows - next, !read)));
    RowSelection::from(selectors)
}

/// The columns that all rows of a file have the same value in.
const ADDED: [&str; 6] = [OWNER, SEGMENT, VERSION, DELETION, DELETED_AT, EXPIRES_AT];

/// The sources of the columns of a segment's scan: the file, values added to all of a file's rows, or the reader's
/// numbering. DataFusion wants them in that order.
struct Layout {
    file: SchemaRef,
    added: Vec<FieldRef>,
    numbered: Vec<FieldRef>,
}

impl Layout {
    fn of(schema: &Schema) -> Self {
        let fields = || schema.fields().iter().cloned();
        let is_added = |field: &FieldRef| ADDED.contains(&field.name().as_str());
        let is_numbered = |field: &FieldRef| field.name() == POSITION;
        let in_file = fields().filter(|field| !is_added(field) && !is_numbered(field));
        Self {
            file: Arc::new(Schema::new(in_file.collect::<Vec<_>>())),
            added: fields().filter(is_added).collect(),
            numbered: fields().filter(is_numbered).collect(),
        }
    }

    fn table(&self) -> TableSchema {
        TableSchema::builder(Arc::clone(&self.file))
            .with_table_partition_cols(self.added.clone())
            .with_virtual_columns(self.numbered.clone())
            .build()
    }

    /// The table's columns in the scan's order.
    fn positions(&self, schema: &Schema, projection: &[usize]) -> Result<Vec<usize>> {
        let names = self.file.fields().iter().chain(&self.added).chain(&self.numbered);
        let places: HashMap<_, _> = names.enumerate().map(|(place, field)| (field.name(), place)).collect();
        let place = |index: &usize| {
            let name = schema.field(*index).name();
            places.get(name).copied().ok_or_else(|| missing(name))
        };
        projection.iter().map(place).collect()
    }
}

fn between(min: ScalarValue, max: ScalarValue) -> ColumnStatistics {
    ColumnStatistics::new_unknown().with_min_value(Precision::Exact(min)).with_max_value(Precision::Exact(max))
}

fn constant(value: ScalarValue) -> ColumnStatistics {
    between(value.clone(), value).with_null_count(Precision::Exact(0))
}

fn int(value: i64) -> ScalarValue {
    ScalarValue::Int64(Some(value))
}

fn text(value: &str) -> ScalarValue {
    ScalarValue::Utf8View(Some(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rows: u32, positions: &[u32], read: bool) -> Vec<(bool, usize)> {
        let selection = selection(rows, &positions.iter().copied().collect(), read);
        let selectors: Vec<RowSelector> = selection.into();
        assert_eq!(selectors.iter().map(|selector| selector.row_count).sum::<usize>(), rows as usize);
        selectors.into_iter().map(|selector| (!selector.skip, selector.row_count)).collect()
    }

    #[test]
    fn a_deletion_vector_becomes_a_selection_of_all_rows() {
        assert_eq!(shown(5, &[], false), [(true, 5)]);
        assert_eq!(shown(5, &[0, 1, 4], false), [(false, 2), (true, 2), (false, 1)]);
        assert_eq!(shown(5, &[2], false), [(true, 2), (false, 1), (true, 2)]);
        assert_eq!(shown(3, &[0, 1, 2], false), [(false, 3)]);
        // A position past the end says nothing about the rows before.
        assert_eq!(shown(3, &[1, 7], false), [(true, 1), (false, 1), (true, 1)]);
    }

    #[test]
    fn the_rows_of_a_deletion_become_a_selection_of_those_alone() {
        assert_eq!(shown(5, &[0, 1, 4], true), [(true, 2), (false, 2), (true, 1)]);
        assert_eq!(shown(5, &[2], true), [(false, 2), (true, 1), (false, 2)]);
        assert_eq!(shown(3, &[0, 1, 2], true), [(true, 3)]);
    }
}
