//! Batches of bounded size above what repeats rows: joins, UNNEST and windows.
//!
//! Invariant: what such an operator gives out, and what operators above it make of that, comes in batches of at most
//! [`PORTION_BYTES`], each value counted where it stands, or of one row; each holds what it shows and no larger buffer; and
//! before each it is asked whether the statement is to go on. A join of 8,000 rows with one of 16 MiB makes a batch of
//! 125 GiB in which each value is there once, until something compares, hashes or copies it; and a part of an UNNEST that
//! kept the whole list would count as that list wherever memory is asked for.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array},
        compute::take,
        datatypes::DataType,
    },
    config::ConfigOptions,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        coalesce_partitions::CoalescePartitionsExec,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec},
        limit::{GlobalLimitExec, LocalLimitExec},
        projection::ProjectionExec,
        stream::RecordBatchStreamAdapter,
        union::UnionExec,
        unnest::UnnestExec,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    counted,
    stops::StopSign,
    through::{Pass, above},
};
use crate::functions::logical_bytes;

/// Bytes of a batch: some hundredths of a second for whatever is done to each of them.
const PORTION_BYTES: usize = 16 << 20;

/// Bytes that a batch may hold beside twice what it shows.
const SPARE_BYTES: usize = 64 << 10;

/// Puts the operators where they belong.
#[derive(Debug)]
pub(super) struct PortionOperators;

impl PhysicalOptimizerRule for PortionOperators {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        portioned(plan).map(|(plan, _)| plan)
    }

    fn name(&self) -> &'static str {
        "PortionOperators"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The plan with the operators in it, and whether rows are repeated in it.
fn portioned(plan: Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, bool)> {
    let mut repeats = is_repeating(&plan);
    let mut inputs = Vec::new();
    for (number, input) in plan.children().into_iter().enumerate() {
        let (input, repeats_rows) = portioned(Arc::clone(input))?;
        if repeats_rows && counted::spreads_nothing(&plan) {
            return Ok((input, true));
        }
        repeats |= repeats_rows;
        inputs.push(counted::kept(&plan, number, input));
    }
    if !repeats {
        return Ok((plan, false));
    }
    let passes_on = passes_on(&plan);
    let plan = if inputs.is_empty() {
        plan
    } else {
        #[expect(deprecated, reason = "its replacement wants to be told what this finds out for itself")]
        plan.with_new_children(inputs)?
    };
    Ok((if passes_on { plan } else { above(plan, Portions) }, true))
}

fn is_repeating(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<UnnestExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<PiecewiseMergeJoinExec>()
        || plan.is::<WindowAggExec>()
        || plan.is::<BoundedWindowAggExec>()
}

/// Whether an operator gives out a batch for each that it gets, at most as long.
fn passes_on(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<ProjectionExec>()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<UnionExec>()
        || plan.is::<CoalescePartitionsExec>()
}

/// The operator's work.
#[derive(Debug, Clone)]
struct Portions;

impl Pass for Portions {
    const NAME: &'static str = "PortionedExec";

    fn pass(&self, batches: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream {
        let (schema, sign) = (batches.schema(), StopSign::within(context.session_config().options()).cloned());
        let batches = batches
            .map_ok(move |batch| {
                let (sign, parts) = (sign.clone(), parts(&batch, PORTION_BYTES));
                stream::iter(parts).map(move |(start, rows)| {
                    sign.as_ref().map_or(Ok(()), StopSign::goes_on)?;
                    own(&batch.slice(start, rows))
                })
            })
            .try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }
}

/// The parts of a batch that come to no more than `most` bytes each: where they begin, and how many rows they have.
fn parts(batch: &RecordBatch, most: usize) -> Vec<(usize, usize)> {
    let (mut parts, mut open) = (Vec::new(), vec![(0, batch.num_rows())]);
    while let Some((start, rows)) = open.pop() {
        let part = batch.slice(start, rows);
        if rows <= 1 || part.columns().iter().map(logical_bytes).sum::<usize>() <= most {
            parts.push((start, rows));
        } else {
            let half = rows / 2;
            open.extend([(start + half, rows - half), (start, half)]);
        }
    }
    parts
}

/// The batch without what it only keeps alive.
pub(super) fn own(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(own_column).collect::<Result<Vec<_>>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &rows)?)
}

fn own_column(column: &ArrayRef) -> Result<ArrayRef> {
    if column.get_array_memory_size() <= 2 * logical_bytes(column) + SPARE_BYTES {
        return Ok(Arc::clone(column));
    }
    Ok(match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => {
            let rows = u32::try_from(column.len()).unwrap_or(u32::MAX);
            take(column, &UInt32Array::from_iter_values(0..rows), None)?
        }
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringViewArray};

    use super::*;

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("c", column)]).unwrap()
    }

    /// One value in all rows is there once, and counts for each.
    #[test]
    fn a_batch_is_parted_by_what_it_shows() {
        let one: ArrayRef = Arc::new(StringViewArray::from_iter_values(["x".repeat(1_000)]));
        let same = batch(take(&one, &UInt32Array::from_iter_values(std::iter::repeat_n(0, 100)), None).unwrap());
        let found = parts(&same, 10_000);
        assert!(found.iter().all(|(_, rows)| *rows < 10), "{found:?}");
        assert_eq!(found.iter().map(|(_, rows)| rows).sum::<usize>(), 100);
        assert!(found.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0), "{found:?}");
        assert_eq!(parts(&same, 10), (0..100).map(|row| (row, 1)).collect::<Vec<_>>());
        assert_eq!(parts(&same, 1 << 20), [(0, 100)]);
    }

    #[test]
    fn a_part_keeps_nothing_else_alive() {
        let texts = (0..100_000).map(|number| format!("a text that is not inlined, {number:010}"));
        let columns: [ArrayRef; 2] =
            [Arc::new(Int64Array::from_iter_values(0..100_000)), Arc::new(StringViewArray::from_iter_values(texts))];
        for column in columns {
            let part = batch(column.slice(500, 100));
            let own = own(&part).unwrap();
            assert_eq!(own, part);
            assert!(own.get_array_memory_size() < 100_000 && part.get_array_memory_size() > 700_000);
        }
    }
}
