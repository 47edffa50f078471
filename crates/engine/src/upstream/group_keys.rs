//! Group keys that DataFusion does not find again.
//!
//! Invariant: a key that is different each time it is computed, and a computed key of ROLLUP, CUBE and GROUPING SETS, is
//! computed once for a row, below the aggregate, and is a column there. DataFusion puts a condition on a group key below
//! the aggregate by writing the key's expression in its place, which `random() < 0.5` does not survive
//! (apache/datafusion#25415); and it knows the keys of a ROLLUP by the names of their expressions, which change when
//! they are simplified (`GROUP BY ROLLUP (a <> NULL)`).

use std::sync::Arc;

use datafusion::{
    common::{
        Column, Result,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, LogicalPlanBuilder, expr::AggregateFunction},
};

/// Moves such keys into a projection below their aggregate.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(is_lost) => {
            computed_below(aggregate).map(Transformed::yes)
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn is_lost(key: &Expr) -> bool {
    match key {
        Expr::GroupingSet(GroupingSet::Rollup(keys) | GroupingSet::Cube(keys)) => keys.iter().any(is_computed),
        Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => sets.iter().flatten().any(is_computed),
        key => key.is_volatile(),
    }
}

fn is_computed(key: &Expr) -> bool {
    !matches!(key, Expr::Column(_))
}

fn computed_below(aggregate: Aggregate) -> Result<LogicalPlan> {
    let mut keys: Vec<Expr> = Vec::new();
    let mut group = Vec::with_capacity(aggregate.group_expr.len());
    for expr in aggregate.group_expr {
        let of_sets = matches!(expr, Expr::GroupingSet(_));
        group.push(
            expr.transform_down(|expr| {
                // Of a ROLLUP or CUBE the keys, not the list of them.
                let moves = is_computed(&expr) && (of_sets || expr.is_volatile());
                if matches!(expr, Expr::GroupingSet(_)) || !moves {
                    return Ok(Transformed::no(expr));
                }
                let name = expr.schema_name().to_string();
                if !keys.iter().any(|key| key.schema_name().to_string() == name) {
                    keys.push(expr.unalias().alias(&name));
                }
                Ok(Transformed::new(Expr::Column(Column::from_name(name)), true, TreeNodeRecursion::Jump))
            })
            .data()?,
        );
    }
    let calls: Result<Vec<Expr>> = aggregate.aggr_expr.into_iter().map(|call| with_keys(call, &keys)).collect();
    let columns = aggregate.input.schema().columns().into_iter().map(Expr::Column);
    let input =
        LogicalPlanBuilder::from(Arc::unwrap_or_clone(aggregate.input)).project(columns.chain(keys))?.build()?;
    Aggregate::try_new(Arc::new(input), group, calls?).map(LogicalPlan::Aggregate)
}

/// A call of an aggregate; `GROUPING(key)` names the key as it is called now.
fn with_keys(call: Expr, keys: &[Expr]) -> Result<Expr> {
    let name = call.schema_name().to_string();
    let changed = call.transform_down(|expr| {
        let Expr::AggregateFunction(AggregateFunction { func, mut params }) = expr else {
            return Ok(Transformed::no(expr));
        };
        let is_grouping = func.name() == "grouping";
        for arg in params.args.iter_mut().filter(|_| is_grouping) {
            let name = arg.schema_name().to_string();
            if is_computed(arg) && keys.iter().any(|key| key.schema_name().to_string() == name) {
                *arg = Expr::Column(Column::from_name(name));
            }
        }
        Ok(Transformed::new(
            Expr::AggregateFunction(AggregateFunction { func, params }),
            is_grouping,
            TreeNodeRecursion::Jump,
        ))
    })?;
    let is_same = changed.data.schema_name().to_string() == name;
    Ok(if is_same { changed.data } else { changed.data.alias(name) })
}
