//! An operator that stands above another and sees the batches that pass: [`super::metered`] and [`super::portions`].
//!
//! Invariant: no row changes. Columns, partitions, order and the number of rows are those of the operator below.

use std::{fmt, sync::Arc};

use datafusion::{
    common::{internal_err, tree_node::TreeNodeRecursion},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, execution_plan::CardinalityEffect},
};

/// Work on the batches that pass.
pub(super) trait Pass: fmt::Debug + Clone + Send + Sync + 'static {
    /// The operator's name in a plan: `PortionedExec`.
    const NAME: &'static str;

    /// What EXPLAIN says besides the name: `memory of the window`.
    fn detail(&self) -> Option<&'static str> {
        None
    }

    /// The batches of one partition on their way up.
    fn pass(&self, batches: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream;
}

/// The operator.
#[derive(Debug)]
pub(super) struct Through<P> {
    input: Arc<dyn ExecutionPlan>,
    pass: P,
}

/// The operator above another.
pub(super) fn above<P: Pass>(input: Arc<dyn ExecutionPlan>, pass: P) -> Arc<dyn ExecutionPlan> {
    Arc::new(Through { input, pass })
}

impl<P: Pass> DisplayAs for Through<P> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(P::NAME)?;
        self.pass.detail().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl<P: Pass> ExecutionPlan for Through<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if let (Some(input), true) = (children.pop(), children.is_empty()) {
            Ok(above(input, self.pass.clone()))
        } else {
            internal_err!("{} has one input", P::NAME)
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = self.input.execute(partition, Arc::clone(&context))?;
        Ok(self.pass.pass(batches, &context))
    }
}
