//! Rows without columns on their way to a join that keeps them: `SELECT count(*) FROM a, b, c` needs nothing of a row but
//! that it is there.
//!
//! Invariant: what is kept of such rows is their number. A join keeps its first input as batches and asks for the memory of
//! their columns; those that have none it keeps by the million, each some hundred bytes that nobody counts.

use std::sync::Arc;

use datafusion::{
    arrow::array::{RecordBatch, RecordBatchOptions},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{
        ExecutionPlan, Partitioning,
        joins::{CrossJoinExec, NestedLoopJoinExec},
        repartition::RepartitionExec,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{TryStreamExt, stream};

use super::through::{Pass, above};

/// A plan's input of that number, as the plan keeps it: one batch, if it has no columns and the plan keeps it until it
/// has all of it.
pub(super) fn kept(
    plan: &Arc<dyn ExecutionPlan>,
    number: usize,
    input: Arc<dyn ExecutionPlan>,
) -> Arc<dyn ExecutionPlan> {
    let is_kept = number == 0 && (plan.is::<CrossJoinExec>() || plan.is::<NestedLoopJoinExec>());
    if is_kept && has_no_columns(&input) { above(input, Counted) } else { input }
}

/// Whether an operator spreads rows without columns over the threads: a queue for each, as long as one of them is slow,
/// and nothing to do with a row but to count it.
pub(super) fn spreads_nothing(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let spread = plan.downcast_ref::<RepartitionExec>();
    spread
        .is_some_and(|spread| matches!(spread.partitioning(), Partitioning::RoundRobinBatch(_)) && has_no_columns(plan))
}

fn has_no_columns(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.schema().fields().is_empty()
}

/// The operator's work.
#[derive(Debug, Clone)]
struct Counted;

impl Pass for Counted {
    const NAME: &'static str = "CountedExec";

    fn pass(&self, batches: SendableRecordBatchStream, _: &TaskContext) -> SendableRecordBatchStream {
        let schema = batches.schema();
        let all = whole(batches);
        Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(all)))
    }
}

async fn whole(mut batches: SendableRecordBatchStream) -> Result<RecordBatch> {
    let mut rows = 0_usize;
    while let Some(batch) = batches.try_next().await? {
        // More than 64 bits can count take longer than any statement may.
        rows += batch.num_rows();
        // They may come for as long as the statement runs, and others want the thread.
        tokio::task::consume_budget().await;
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(batches.schema(), Vec::new(), &options)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;

    use super::*;

    #[tokio::test]
    async fn of_rows_without_columns_their_number_is_kept() {
        let schema = Arc::new(Schema::empty());
        let batch = |rows| {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), Vec::new(), &options)?)
        };
        for (many, each, expected) in [(100_000, 8_192, 819_200_000), (1, 1, 1), (0, 0, 0)] {
            let batches = stream::iter((0..many).map(|_| batch(each)).collect::<Vec<_>>());
            let batches = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), batches));
            let passed = Counted.pass(batches, &TaskContext::default());
            let passed: Vec<RecordBatch> = passed.try_collect().await.unwrap();
            assert_eq!(passed.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [expected]);
        }
    }
}
