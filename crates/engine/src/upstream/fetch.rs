//! Keeps the limit of a sort apart from the sort, and the sort where its limit is, while DataFusion moves sorts around.
//!
//! - A sort that moves below an aggregate takes its limit with it, and the aggregate sees too few rows
//!   (apache/datafusion#24927). A limit of its own stays where it is, and `LimitPushdown` puts it back into the sort later.
//! - A sort by what is no column of the answer is taken away below a limit, of which only the OFFSET shows
//!   (apache/datafusion#23534): `SELECT count(*) FROM (SELECT content FROM messages ORDER BY msgId OFFSET 1)`. A limit right
//!   above the sort keeps it.
//!
//! Invariant: the plan means the same.

use std::sync::Arc;

use datafusion::{
    common::{
        Result,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    config::ConfigOptions,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{ExecutionPlan, limit::GlobalLimitExec, projection::ProjectionExec, sorts::sort::SortExec},
};

/// The rule that moves sorts; ours comes right before it.
const MOVES_SORTS: &str = "EnsureRequirements";

/// The optimizer's rule.
#[derive(Debug)]
pub(crate) struct DetachFetch;

impl DetachFetch {
    /// Puts it in its place among the others.
    pub fn insert(rules: &mut Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>) {
        let place = rules.iter().position(|rule| rule.name() == MOVES_SORTS);
        rules.insert(place.unwrap_or_default(), Arc::new(Self));
    }
}

impl PhysicalOptimizerRule for DetachFetch {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if let Some(limit) = node.downcast_ref::<GlobalLimitExec>()
                && limit.input().is::<ProjectionExec>()
            {
                return limited(limit.input(), limit).map(Transformed::yes);
            }
            let Some(sort) = node.downcast_ref::<SortExec>() else { return Ok(Transformed::no(node)) };
            // With no other sort below there is none that could be given the limit in this one's place, and other rules
            // make use of it where it is.
            let moves = sort.input().exists(|below| Ok(below.is::<SortExec>()))?;
            let Some(fetch) = sort.fetch().filter(|_| moves && !sort.preserve_partitioning()) else {
                return Ok(Transformed::no(node));
            };
            let whole = SortExec::new(sort.expr().clone(), Arc::clone(sort.input()));
            Ok(Transformed::yes(Arc::new(GlobalLimitExec::new(Arc::new(whole), 0, Some(fetch)))))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "DetachFetch"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The limit below the projections, which make one row of each.
fn limited(input: &Arc<dyn ExecutionPlan>, limit: &GlobalLimitExec) -> Result<Arc<dyn ExecutionPlan>> {
    match input.downcast_ref::<ProjectionExec>() {
        Some(projection) => {
            let below = limited(projection.input(), limit)?;
            #[expect(deprecated, reason = "its replacement wants to be told what this finds out for itself")]
            Arc::clone(input).with_new_children(vec![below])
        }
        None => Ok(Arc::new(GlobalLimitExec::new(Arc::clone(input), limit.skip(), limit.fetch()))),
    }
}
