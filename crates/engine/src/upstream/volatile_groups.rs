//! Group keys that are different each time they are computed (apache/datafusion#25415).
//!
//! Invariant: a volatile key is computed once for a row, below the aggregate, and is a column there. DataFusion puts a
//! condition on a group key below the aggregate by writing the key's expression in its place, which
//! `random() < 0.5` does not survive.

use std::sync::Arc;

use datafusion::{
    common::{
        Column, Result,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder},
};

/// Moves volatile keys into a projection below their aggregate.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(Expr::is_volatile) => {
            computed_below(aggregate).map(Transformed::yes)
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn computed_below(aggregate: Aggregate) -> Result<LogicalPlan> {
    let mut keys: Vec<Expr> = Vec::new();
    let mut group = Vec::with_capacity(aggregate.group_expr.len());
    for expr in aggregate.group_expr {
        group.push(expr.transform_down(|expr| {
            // Of a ROLLUP or CUBE the keys, not the list of them.
            if matches!(expr, Expr::GroupingSet(_)) || !expr.is_volatile() {
                return Ok(Transformed::no(expr));
            }
            let name = expr.schema_name().to_string();
            if !keys.iter().any(|key| key.schema_name().to_string() == name) {
                keys.push(expr.unalias().alias(&name));
            }
            Ok(Transformed::new(Expr::Column(Column::from_name(name)), true, TreeNodeRecursion::Jump))
        })?);
    }
    let columns = aggregate.input.schema().columns().into_iter().map(Expr::Column);
    let input =
        LogicalPlanBuilder::from(Arc::unwrap_or_clone(aggregate.input)).project(columns.chain(keys))?.build()?;
    let group = group.into_iter().map(|group| group.data).collect();
    Aggregate::try_new(Arc::new(input), group, aggregate.aggr_expr).map(LogicalPlan::Aggregate)
}
