//! Subqueries in aggregates, windows and ORDER BY, where DataFusion does not look for those that depend on the row.
//!
//! Invariant: such a subquery stands in a projection below, and is a column above it:
//! `SELECT sum(CASE WHEN EXISTS (SELECT 1 FROM u WHERE u.x = t.x) THEN 1 ELSE 0 END) FROM t`.

use std::sync::Arc;

use datafusion::{
    common::{
        Column, DFSchema, Result,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection},
    optimizer::utils::NamePreserver,
};

/// Moves them.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut names = 0;
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) => moved(node, &mut names),
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn moved(node: LogicalPlan, names: &mut usize) -> Result<Transformed<LogicalPlan>> {
    let [input] = node.inputs()[..] else { return Ok(Transformed::no(node)) };
    let (input, schema) = (input.clone(), node.schema().columns());
    let mut computed: Vec<Expr> = Vec::new();
    let saver = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = saver.save(&expr);
        let before = computed.len();
        let changed = expr.transform_down(|expr| {
            if !is_moved(&expr) {
                return Ok(Transformed::no(expr));
            }
            *names += 1;
            let name = format!("__subquery_{names}");
            computed.push(expr.alias(&name));
            Ok(Transformed::new(Expr::Column(Column::from_name(name)), true, TreeNodeRecursion::Jump))
        })?;
        Ok(if computed.len() == before { changed } else { changed.update_data(|expr| name.restore(expr)) })
    })?;
    if computed.is_empty() {
        return Ok(node);
    }
    let below = with_columns(input, &node.data, computed)?;
    let above = node.data.with_new_exprs(node.data.expressions(), vec![below])?;
    let above = if above.schema().columns() == schema {
        above
    } else {
        LogicalPlanBuilder::from(above).project(schema.into_iter().map(Expr::Column))?.build()?
    };
    Ok(Transformed::yes(above))
}

/// The input with these columns beside its own.
fn with_columns(input: LogicalPlan, above: &LogicalPlan, computed: Vec<Expr>) -> Result<LogicalPlan> {
    match input {
        // ORDER BY may depend on columns that the answer has not.
        LogicalPlan::Projection(Projection { expr, input, .. })
            if matches!(above, LogicalPlan::Sort(_)) && computed.iter().all(|one| depends_on(one, input.schema())) =>
        {
            let input = Arc::unwrap_or_clone(input);
            LogicalPlanBuilder::from(input).project(expr.into_iter().chain(computed))?.build()
        }
        input => {
            let columns = input.schema().columns().into_iter().map(Expr::Column);
            LogicalPlanBuilder::from(input).project(columns.chain(computed))?.build()
        }
    }
}

/// Whether all that a subquery takes from around it is there.
fn depends_on(subquery: &Expr, schema: &DFSchema) -> bool {
    let is_there = |outer: &Expr| matches!(outer, Expr::OuterReferenceColumn(_, column) if schema.has_column(column));
    let mut all = true;
    let walked = subquery.apply(|expr| {
        all &= match expr {
            Expr::Column(column) => schema.has_column(column),
            Expr::InSubquery(found) => found.subquery.outer_ref_columns.iter().all(is_there),
            Expr::SetComparison(compared) => compared.subquery.outer_ref_columns.iter().all(is_there),
            Expr::Exists(exists) => exists.subquery.outer_ref_columns.iter().all(is_there),
            Expr::ScalarSubquery(subquery) => subquery.outer_ref_columns.iter().all(is_there),
            _ => true,
        };
        Ok(TreeNodeRecursion::Continue)
    });
    all && walked.is_ok()
}

fn is_moved(expr: &Expr) -> bool {
    match expr {
        Expr::InSubquery(_) | Expr::SetComparison(_) => true,
        Expr::Exists(exists) => !exists.subquery.outer_ref_columns.is_empty(),
        Expr::ScalarSubquery(subquery) => !subquery.outer_ref_columns.is_empty(),
        _ => false,
    }
}
