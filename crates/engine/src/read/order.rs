//! The newest rows first, through a union: each tier is asked to read in the order that a sort above them wants.
//!
//! Invariant: the sort stays and decides; a tier that reads in that order only lets its top-N stop early.
//! (DataFusion's own rule asks a single scan, but stops at a union and at a filter.)

use std::sync::Arc;

use datafusion::{
    common::tree_node::{Transformed, TransformedResult, TreeNode},
    config::ConfigOptions,
    error::Result,
    physical_expr::{PhysicalSortExpr, expressions::Column},
    physical_optimizer::{PhysicalOptimizerRule, optimizer::PhysicalOptimizer},
    physical_plan::{
        ExecutionPlan, filter::FilterExec, projection::ProjectionExec, sorts::sort::SortExec, union::UnionExec,
    },
};

use super::{metered::MeterOperators, portions::PortionOperators, stops::stoppable};
use crate::upstream::{DetachFetch, PartitionInnerJoins, SameNames, TakeBackClaims};

/// The optimizer's rule.
#[derive(Debug)]
struct SortReachesTiers;

/// DataFusion's rules, with ours where they settle the order.
pub(super) fn optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    // After it, conditions that appear while the query runs find their way down, and the plan must not change.
    let place = rules.iter().position(|rule| rule.name() == "PushdownSort").unwrap_or(rules.len());
    rules.insert(place, Arc::new(SortReachesTiers));
    TakeBackClaims::insert(&mut rules);
    PartitionInnerJoins::insert(&mut rules);
    DetachFetch::insert(&mut rules);
    SameNames::insert(&mut rules);
    rules.push(Arc::new(PortionOperators));
    rules.push(Arc::new(MeterOperators));
    stoppable(rules)
}

impl PhysicalOptimizerRule for SortReachesTiers {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|node| {
            let Some(sort) = node.downcast_ref::<SortExec>() else { return Ok(Transformed::no(node)) };
            // Without a limit every row is read whatever the order.
            if sort.fetch().is_none() || !splits(sort.input()) {
                return Ok(Transformed::no(node));
            }
            let input = ask(sort.input(), sort.expr())?;
            #[expect(deprecated, reason = "its replacement wants to be told what this finds out for itself")]
            Ok(Transformed::yes(node.with_new_children(vec![input])?))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "SortReachesTiers"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether DataFusion's own rule would stop on the way down.
fn splits(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<UnionExec>()
        || plan.is::<FilterExec>()
        || plan.downcast_ref::<ProjectionExec>().is_some_and(|projection| splits(projection.input()))
}

/// The plan with its leaves reading in that order as far as they can.
fn ask(plan: &Arc<dyn ExecutionPlan>, order: &[PhysicalSortExpr]) -> Result<Arc<dyn ExecutionPlan>> {
    let order = if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        match below(projection, order) {
            Some(order) => order,
            None => return Ok(Arc::clone(plan)),
        }
    } else if plan.is::<UnionExec>()
        || plan.downcast_ref::<FilterExec>().is_some_and(|filter| filter.projection().is_none())
    {
        order.to_vec()
    } else {
        return Ok(plan.try_pushdown_sort(order)?.into_inner().unwrap_or_else(|| Arc::clone(plan)));
    };
    let children = plan.children().into_iter().map(|child| ask(child, &order)).collect::<Result<Vec<_>>>()?;
    #[expect(deprecated, reason = "its replacement wants to be told what this finds out for itself")]
    Arc::clone(plan).with_new_children(children)
}

/// The order in terms of a projection's input, when it sorts by columns that are passed on as they are.
fn below(projection: &ProjectionExec, order: &[PhysicalSortExpr]) -> Option<Vec<PhysicalSortExpr>> {
    let below = order.iter().map(|sort| {
        let column = sort.expr.downcast_ref::<Column>()?;
        let source = &projection.expr().get(column.index())?.expr;
        source.is::<Column>().then(|| PhysicalSortExpr::new(Arc::clone(source), sort.options))
    });
    below.collect()
}
