//! What DataFusion makes of a subquery that depends on the outer row: it moves the conditions on that row up, out of the
//! subquery, and joins by them.
//!
//! Invariant: a subquery passes here only where they come to the same above. DataFusion does not notice what changes their
//! meaning on the way (a LIMIT, a window, an outer join), and groups an aggregate by the columns that are compared: in
//! `SELECT (SELECT count(*) FROM u WHERE CAST(u.v AS BIGINT) = t.id) FROM t` each `u.v` would be a group of its own.

use datafusion::{
    arrow::datatypes::DataType,
    common::{
        DFSchema, JoinType, Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        BinaryExpr, Distinct, Expr, ExprSchemable, LogicalPlan, Operator, utils::merge_schema, utils::split_conjunction,
    },
};

use super::subqueries::{references, refused, subquery_in};

/// Whether EXISTS or IN of these rows may become a join.
pub(super) fn check_joined(rows: &LogicalPlan) -> Result<()> {
    check_way(rows, true)
}

/// Whether their one value may.
pub(super) fn check_value(rows: &LogicalPlan) -> Result<()> {
    check_way(rows, false)?;
    check_grouped(rows)
}

fn check_way(rows: &LogicalPlan, aggregates: bool) -> Result<()> {
    rows.apply(|node| {
        for input in changed(node, aggregates) {
            if !references(input)?.is_empty() {
                return Err(refused(
                    "A subquery that depends on the outer row cannot have that condition below a LIMIT, a window, an \
                     outer join, an aggregate without GROUP BY or a ROLLUP; write it as a join, or with the condition outside.",
                ));
            }
        }
        if is_stuck(node)? {
            return Err(refused(
                "A subquery may depend on the outer row in its WHERE only, and not in a subquery of its own; write it as a \
                 join.",
            ));
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(drop)
}

/// Whether a node has conditions on the outer row that DataFusion would not move.
fn is_stuck(node: &LogicalPlan) -> Result<bool> {
    let schema = merge_schema(&node.inputs());
    let is_filter = matches!(node, LogicalPlan::Filter(_));
    let mut stuck = false;
    node.apply_expressions(|expr| {
        stuck |= !is_filter && expr.contains_outer();
        stuck |= expr.exists(|expr| {
            let Some(subquery) = subquery_in(expr) else { return Ok(false) };
            let is_further =
                |one: &Expr| matches!(one, Expr::OuterReferenceColumn(_, column) if !schema.has_column(column));
            Ok(references(&subquery.subquery)?.iter().any(is_further))
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(stuck)
}

/// DataFusion computes the aggregates for all outer rows at once, grouped by what is compared with them.
fn check_grouped(rows: &LogicalPlan) -> Result<()> {
    rows.apply(|node| match node {
        LogicalPlan::Filter(filter) if node.contains_outer_reference() => {
            let schema = filter.input.schema();
            let is_fine = |one: &&Expr| !one.contains_outer() || is_equality(one, schema);
            if split_conjunction(&filter.predicate).iter().all(is_fine) {
                return Ok(TreeNodeRecursion::Continue);
            }
            Err(refused(
                "A subquery that makes one value may depend on the outer row by equalities of a column only (a = outer.b); \
                 write it as a join with GROUP BY.",
            ))
        }
        _ => Ok(TreeNodeRecursion::Continue),
    })
    .map(drop)
}

/// Whether a condition says what a column of the subquery is for an outer row: the very value, so that a cast of the column
/// is none.
fn is_equality(condition: &Expr, schema: &DFSchema) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return false };
    let are_alike = || match (left.get_type(schema), right.get_type(schema)) {
        (Ok(one), Ok(other)) => one == other || is_text(&one) && is_text(&other),
        _ => false,
    };
    let is_column = |side: &Expr| matches!(side, Expr::Column(_));
    (is_column(left) && !right.any_column_refs() || is_column(right) && !left.any_column_refs()) && are_alike()
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The inputs of a node whose rows it changes to something that a condition could not be applied to any more, or through
/// which DataFusion moves none.
fn changed(node: &LogicalPlan, aggregates: bool) -> Vec<&LogicalPlan> {
    match node {
        LogicalPlan::Limit(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::Distinct(Distinct::On(_)) => node.inputs(),
        LogicalPlan::Aggregate(aggregate) if aggregates && aggregate.group_expr.is_empty() => node.inputs(),
        // One of the sets may be all rows, and would be no more (apache/datafusion#25519).
        LogicalPlan::Aggregate(aggregate) if matches!(aggregate.group_expr[..], [Expr::GroupingSet(_)]) => {
            node.inputs()
        }
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::Inner => Vec::new(),
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => vec![&join.right],
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => vec![&join.left],
            JoinType::Full => node.inputs(),
        },
        _ => Vec::new(),
    }
}
