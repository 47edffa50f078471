//! Joins that would wait for each other for ever.
//!
//! A join that collects its left side once (`CollectLeft`) tells the right side which keys there are, as soon as each of its
//! partitions has been asked for rows. A join above it never asks where its own partition has no row to join with. DataFusion
//! 55.2 minds that only where both sides are partitioned (apache/datafusion#21625, mended for those by #21666); the other
//! partitions wait until the statement's time is over.
//!
//! Invariant: a join below a join is partitioned on both sides, and so does not wait for who is gone.

use std::sync::Arc;

use datafusion::{
    common::tree_node::{Transformed, TransformedResult, TreeNode},
    config::ConfigOptions,
    error::Result,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec},
    },
};

/// The rule that chooses how joins are made; ours comes right after it, before rows are distributed.
const SETTLES_JOINS: &str = "join_selection";

/// The optimizer's rule.
#[derive(Debug)]
pub(crate) struct PartitionInnerJoins;

impl PartitionInnerJoins {
    /// Puts it in its place among the others.
    pub fn insert(rules: &mut Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>) {
        let place = rules.iter().position(|rule| rule.name() == SETTLES_JOINS).map_or(0, |place| place + 1);
        rules.insert(place, Arc::new(Self));
    }
}

impl PhysicalOptimizerRule for PartitionInnerJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        partitioned(plan, false)
    }

    fn name(&self) -> &'static str {
        "PartitionInnerJoins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn partitioned(plan: Arc<dyn ExecutionPlan>, is_below_join: bool) -> Result<Arc<dyn ExecutionPlan>> {
    let is_join = plan.is::<HashJoinExec>() || plan.is::<NestedLoopJoinExec>() || plan.is::<SortMergeJoinExec>();
    let plan = plan.map_children(|child| partitioned(child, is_below_join || is_join).map(Transformed::yes)).data()?;
    match plan.downcast_ref::<HashJoinExec>() {
        // One that minds NULLs has to see all rows of its right side at once.
        Some(join) if is_below_join && *join.partition_mode() == PartitionMode::CollectLeft && !join.null_aware => {
            Ok(Arc::new(join.builder().with_partition_mode(PartitionMode::Partitioned).build()?))
        }
        _ => Ok(plan),
    }
}
