//! Keeps conditions above what they would be wrong below.
//!
//! An aggregate that answers a row where it read none: `SELECT 1 FROM (SELECT MAX(x) AS m FROM t) AS q WHERE NOT EXISTS
//! (SELECT 1 FROM u)`. DataFusion takes a condition that names no column for one on the groups' columns, and moves it
//! below the aggregate. There it removes the aggregate's input and not its answer: a row comes where none should.
//!
//! Columns that are different each time they are computed: `SELECT r FROM (SELECT random() < 0.5 AS r FROM t) AS q WHERE
//! r`. DataFusion's physical plan moves the condition into the scan, as `random() < 0.5`, and there it is true of other
//! rows than are answered. What a sort with a LIMIT or a join knows of such a column goes the same way.
//!
//! Invariant: a fence is a LIMIT that no answer reaches, because no condition is moved through a LIMIT. Correlated
//! subqueries get none: they could not be taken apart any more.

use datafusion::{
    common::{
        Result,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, LogicalPlanBuilder, Subquery},
};

/// More rows than any plan answers within its time.
const BEYOND_ALL_ROWS: usize = 1 << 40;

/// Puts the fences where a condition may stand above.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    fence(plan, false)
}

fn fence(plan: LogicalPlan, is_below_condition: bool) -> Result<LogicalPlan> {
    let is_condition = matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Join(_) | LogicalPlan::Sort(_));
    let is_below_condition = is_below_condition || is_condition;
    let plan = plan.map_children(|child| fence(child, is_below_condition).map(Transformed::yes)).data()?;
    let plan = plan.map_subqueries(in_subquery).data()?;
    match fenced_rows(&plan) {
        Some(most) if is_below_condition => LogicalPlanBuilder::from(plan).limit(0, Some(most))?.build(),
        _ => Ok(plan),
    }
}

fn in_subquery(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Subquery(Subquery { subquery, outer_ref_columns, spans }) if outer_ref_columns.is_empty() => {
            let subquery = fence(subquery.as_ref().clone(), false)?.into();
            Ok(Transformed::yes(LogicalPlan::Subquery(Subquery { subquery, outer_ref_columns, spans })))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// For a plan that needs a fence: more rows than it answers, or as many.
fn fenced_rows(plan: &LogicalPlan) -> Option<usize> {
    match plan {
        LogicalPlan::Aggregate(Aggregate { group_expr, .. }) => match group_expr.as_slice() {
            [] => Some(1),
            [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_) | GroupingSet::GroupingSets(_))] => {
                Some(BEYOND_ALL_ROWS)
            }
            _ => None,
        },
        LogicalPlan::Projection(columns) => columns.expr.iter().any(Expr::is_volatile).then_some(BEYOND_ALL_ROWS),
        _ => None,
    }
}
