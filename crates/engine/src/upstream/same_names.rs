//! Keeps conditions above operators whose columns share names, while DataFusion moves conditions down.
//!
//! `SELECT … FROM messages a RIGHT JOIN messages b ON … WHERE a.timestamp < b.timestamp`: the joined rows have two
//! columns `timestamp`. DataFusion looks a condition's columns up by their names on the way down, takes both for the first
//! one, and hands `timestamp < timestamp` to one side of the join.
//!
//! Invariant: fences stand during that rule only, so that no other rule sees them.

use std::{collections::HashSet, fmt, sync::Arc};

use datafusion::{
    common::{
        internal_err,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    config::ConfigOptions,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties},
};

/// DataFusion's rule, once before rows are distributed and sorted, and once after.
const RULE: &str = "FilterPushdown";

/// Puts fences up, or takes them away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SameNames {
    Fence,
    Unfence,
}

impl SameNames {
    /// Surrounds DataFusion's rule, wherever it stands among these.
    pub(crate) fn insert(rules: &mut Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>) {
        let all = std::mem::take(rules);
        for rule in all {
            if rule.name().starts_with(RULE) {
                rules.extend([Arc::new(Self::Fence) as _, rule, Arc::new(Self::Unfence) as _]);
            } else {
                rules.push(rule);
            }
        }
    }
}

impl PhysicalOptimizerRule for SameNames {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| match (self, node.downcast_ref::<Fence>()) {
            (Self::Unfence, Some(fence)) => Ok(Transformed::yes(Arc::clone(&fence.0))),
            (Self::Fence, None) if has_same_names(&node) => Ok(Transformed::yes(Arc::new(Fence(node)))),
            _ => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "SameNames"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn has_same_names(node: &Arc<dyn ExecutionPlan>) -> bool {
    let schema = node.schema();
    let mut names = HashSet::new();
    !schema.fields().iter().all(|field| names.insert(field.name()))
}

/// A node that no condition passes: an operator takes none unless it says so.
#[derive(Debug)]
struct Fence(Arc<dyn ExecutionPlan>);

impl DisplayAs for Fence {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FenceExec")
    }
}

impl ExecutionPlan for Fence {
    fn name(&self) -> &'static str {
        "FenceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.0]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if let (Some(input), true) = (children.pop(), children.is_empty()) {
            Ok(Arc::new(Self(input)))
        } else {
            internal_err!("FenceExec has one input")
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

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.0.execute(partition, context)
    }
}
