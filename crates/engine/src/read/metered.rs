//! Memory that DataFusion's operators take without asking: windows keep all that they read, and UNNEST copies a row for
//! each value of its list, all at once.
//!
//! Invariant: below each of them stands an operator that asks the statement's memory for that first, and changes no row.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions},
        datatypes::{ArrowNativeType, DataType},
    },
    common::{
        ScalarValue,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    config::ConfigOptions,
    error::Result,
    execution::{
        SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::{
        PhysicalExpr,
        expressions::Literal,
        window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr},
    },
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        unnest::{ListUnnest, UnnestExec},
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use futures::StreamExt;

use super::through::{Pass, above};
use crate::functions::{MAX_FRAME_ROWS, logical_bytes};

/// Bytes that an UNNEST may make of a batch without a closer look.
const SMALL_EXPANSION_BYTES: usize = 8 << 20;

/// Bytes that a window holds for each value of a list that it writes, besides the value, and again for each batch read: of texts
/// in a list it keeps handles on all the memory in which the texts of its rows lie.
const HANDLE_BYTES: usize = 64;

/// Puts the operators where they belong; the last rule, so that no other moves or drops them.
#[derive(Debug)]
pub(super) struct MeterOperators;

impl PhysicalOptimizerRule for MeterOperators {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(is_for) = Use::of(&node) else { return Ok(Transformed::no(node)) };
            let inputs = node.children().into_iter().cloned();
            let inputs = inputs.map(|input| above(input, is_for.clone())).collect();
            #[expect(deprecated, reason = "its replacement wants to be told what this finds out for itself")]
            Ok(Transformed::yes(node.with_new_children(inputs)?))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "MeterOperators"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The memory that a window needs for what it reads.
#[derive(Debug, Clone)]
struct Window {
    /// The number of times that it holds what it reads: a window that looks at all of it copies it into one batch
    /// first.
    copies: usize,
    /// Whether what it makes leaves with each batch, or with the last.
    streams: bool,
    /// Bytes of constants that it writes into each row.
    constant_bytes: usize,
    /// The number of values of its input that it writes into each row.
    values: usize,
    /// Whether it makes lists of them.
    makes_lists: bool,
}

impl Window {
    fn of(node: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let (exprs, copies, streams) = if let Some(window) = node.downcast_ref::<WindowAggExec>() {
            (window.window_expr(), 2, false)
        } else {
            (node.downcast_ref::<BoundedWindowAggExec>()?.window_expr(), 1, true)
        };
        let constant_bytes = exprs.iter().flat_map(|expr| expr.expressions()).map(|expr| constant_bytes(&expr)).sum();
        let values: Vec<usize> = exprs.iter().map(values_in_a_row).collect();
        let makes_lists = values.iter().any(|values| *values > 1);
        Some(Self { copies, streams, constant_bytes, values: values.iter().sum(), makes_lists })
    }

    /// Bytes that it holds after rows of so many bytes, in batches whose largest value has so many.
    fn bytes(&self, read: &Read) -> usize {
        let rows = if self.streams { read.batch_rows } else { read.rows };
        let handles = if self.makes_lists { HANDLE_BYTES.saturating_mul(read.batches + 1) } else { 0 };
        let row = self.constant_bytes.saturating_add(self.values.saturating_mul(read.largest.saturating_add(handles)));
        read.bytes.saturating_mul(self.copies).saturating_add(rows.saturating_mul(row))
    }
}

/// The number of values of its input that a window function writes into each row, beside numbers.
fn values_in_a_row(expr: &Arc<dyn WindowExpr>) -> usize {
    let fixed = expr.field().is_ok_and(|field| field.data_type().primitive_width().is_some());
    if fixed {
        return 0;
    }
    let any = expr.as_any();
    let plain = any.downcast_ref::<PlainAggregateWindowExpr>().map(PlainAggregateWindowExpr::get_aggregate_expr);
    let sliding = any.downcast_ref::<SlidingAggregateWindowExpr>().map(SlidingAggregateWindowExpr::get_aggregate_expr);
    match plain.or(sliding).map(|aggregate| aggregate.fun().name()) {
        Some("array_agg" | "string_agg") => frame_rows(expr),
        _ => 1,
    }
}

/// The rows of a frame of ROWS; what passed the planner has no other here.
fn frame_rows(expr: &Arc<dyn WindowExpr>) -> usize {
    use datafusion::logical_expr::WindowFrameBound::{CurrentRow, Following, Preceding};
    let frame = expr.get_window_frame();
    let most = usize::try_from(MAX_FRAME_ROWS).unwrap_or(usize::MAX);
    let reach = |bound: &_| match bound {
        CurrentRow => 0,
        Preceding(ScalarValue::UInt64(Some(rows))) | Following(ScalarValue::UInt64(Some(rows))) => {
            usize::try_from(*rows).unwrap_or(most).min(most)
        }
        Preceding(_) | Following(_) => most,
    };
    reach(&frame.start_bound) + reach(&frame.end_bound) + 1
}

fn constant_bytes(expr: &Arc<dyn PhysicalExpr>) -> usize {
    let own = expr.downcast_ref::<Literal>().map_or(0, |literal| literal.value().size());
    own + expr.children().into_iter().map(constant_bytes).sum::<usize>()
}

/// The operator above, for which memory is counted.
#[derive(Debug, Clone)]
enum Use {
    /// A window.
    Window(Window),
    /// An UNNEST of these columns.
    Unnest(Lists),
}

impl Use {
    fn of(node: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        match node.downcast_ref::<UnnestExec>() {
            Some(unnest) if unnest.list_column_indices().is_empty() => None,
            Some(unnest) => Some(Self::Unnest(Lists(unnest.list_column_indices().to_vec()))),
            None => Window::of(node).map(Self::Window),
        }
    }
}

impl Pass for Use {
    const NAME: &'static str = "MeteredExec";

    fn detail(&self) -> Option<&'static str> {
        Some(match self {
            Self::Window(_) => "memory of the window",
            Self::Unnest(_) => "memory of UNNEST",
        })
    }

    fn pass(&self, batches: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream {
        let held = MemoryConsumer::new("rows of a window or UNNEST").register(context.memory_pool());
        let mut meter = Meter { is_for: self.clone(), read: Read::default(), held };
        let schema = batches.schema();
        // A window keeps this stream until it has answered, and with it what is held.
        let batches = batches.map(move |batch| batch.and_then(|batch| meter.pass(batch)));
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }
}

/// The sizes of what has passed so far.
#[derive(Debug, Default)]
struct Read {
    batches: usize,
    rows: usize,
    batch_rows: usize,
    bytes: usize,
    /// Bytes of the largest value.
    largest: usize,
}

struct Meter {
    is_for: Use,
    read: Read,
    held: MemoryReservation,
}

impl Meter {
    fn pass(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let bytes = match &self.is_for {
            Use::Unnest(lists) => lists.expansion(&batch),
            Use::Window(window) => {
                self.read.add(&batch);
                window.bytes(&self.read)
            }
        };
        self.held.try_resize(bytes)?;
        match &self.is_for {
            Use::Window(window) if window.makes_lists => compacted(&batch),
            _ => Ok(batch),
        }
    }
}

/// The batch with the texts of each column in one piece of memory: a list of such texts has a handle on each piece for each of
/// them.
fn compacted(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()) as ArrayRef,
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()) as ArrayRef,
        _ => Arc::clone(column),
    });
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &rows)?)
}

impl Read {
    fn add(&mut self, batch: &RecordBatch) {
        self.batches += 1;
        self.rows += batch.num_rows();
        self.batch_rows = self.batch_rows.max(batch.num_rows());
        self.bytes = batch.columns().iter().map(logical_bytes).fold(self.bytes, usize::saturating_add);
        let largest = batch.columns().iter().map(largest_value).max().unwrap_or(0);
        self.largest = self.largest.max(largest);
    }
}

/// The columns that an UNNEST takes apart.
#[derive(Debug, Clone)]
struct Lists(Vec<ListUnnest>);

impl Lists {
    /// Bytes that the rows of a batch become at most at a time: DataFusion takes as many rows together as make a batch
    /// of usual size, but one row at least; and lists of lists all at once.
    fn expansion(&self, batch: &RecordBatch) -> usize {
        let nested = self.0.iter().any(|list| list.depth > 1);
        let whole = self.copies(batch).saturating_mul(self.row_bytes(batch));
        if nested || whole <= SMALL_EXPANSION_BYTES {
            return whole;
        }
        let mut largest = 0;
        for row in 0..batch.num_rows() {
            let row = batch.slice(row, 1);
            largest = largest.max(self.copies(&row).saturating_mul(self.row_bytes(&row)));
        }
        largest
    }

    /// The number of rows that are made of these.
    fn copies(&self, batch: &RecordBatch) -> usize {
        let mut most = batch.num_rows();
        for list in &self.0 {
            let mut values = Arc::clone(batch.column(list.index_in_input_schema));
            for _ in 0..list.depth {
                values = flattened(&values);
            }
            most = most.max(values.len());
        }
        most
    }

    /// The bytes of the largest row, without what is taken apart.
    fn row_bytes(&self, batch: &RecordBatch) -> usize {
        let is_list = |column: usize| self.0.iter().any(|list| list.index_in_input_schema == column);
        let others = batch.columns().iter().enumerate().filter(|(column, _)| !is_list(*column));
        others.map(|(_, column)| largest_value(column)).sum()
    }
}

/// The values of lists, one after the other; what is no list is its own.
fn flattened(lists: &ArrayRef) -> ArrayRef {
    match lists.data_type() {
        DataType::List(_) => {
            let lists = lists.as_list::<i32>();
            let (first, last) = (lists.value_offsets()[0], lists.value_offsets()[lists.len()]);
            lists.values().slice(first.as_usize(), (last - first).as_usize())
        }
        DataType::LargeList(_) => {
            let lists = lists.as_list::<i64>();
            let (first, last) = (lists.value_offsets()[0], lists.value_offsets()[lists.len()]);
            lists.values().slice(first.as_usize(), (last - first).as_usize())
        }
        DataType::FixedSizeList(..) => Arc::clone(lists.as_fixed_size_list().values()),
        _ => Arc::clone(lists),
    }
}

/// The bytes of the largest value of a column; of a nested one those of the whole column.
fn largest_value(column: &ArrayRef) -> usize {
    let lengths = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    match column.data_type() {
        DataType::Utf8 => lengths(&mut column.as_string::<i32>().offsets().lengths()),
        DataType::LargeUtf8 => lengths(&mut column.as_string::<i64>().offsets().lengths()),
        DataType::Binary => lengths(&mut column.as_binary::<i32>().offsets().lengths()),
        DataType::LargeBinary => lengths(&mut column.as_binary::<i64>().offsets().lengths()),
        DataType::Utf8View => lengths(&mut column.as_string_view().lengths().map(|length| length as usize)),
        DataType::BinaryView => lengths(&mut column.as_binary_view().lengths().map(|length| length as usize)),
        fixed => fixed.primitive_width().unwrap_or_else(|| logical_bytes(column)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringArray, StringViewArray};

    use super::*;

    #[test]
    fn a_part_counts_for_itself() {
        let texts: Vec<String> = (0..1_000).map(|number| format!("{number:050}")).collect();
        let columns: [ArrayRef; 3] = [
            Arc::new(Int64Array::from_iter_values(0..1_000)),
            Arc::new(StringArray::from_iter_values(&texts)),
            Arc::new(StringViewArray::from_iter_values(&texts)),
        ];
        for column in columns {
            let parts: usize = (0..10).map(|part| logical_bytes(&column.slice(part * 100, 100))).sum();
            let whole = logical_bytes(&column);
            assert!(parts >= whole && parts < whole + whole / 10, "{}: {parts} of {whole}", column.data_type());
        }
    }
}
