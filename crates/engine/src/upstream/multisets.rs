//! INTERSECT ALL and EXCEPT ALL, which count how often a row is there.
//!
//! Invariant: rows that are there several times are told apart by a number, on both sides. DataFusion only asks whether the
//! other side has such a row: `(1, 1, 2) EXCEPT ALL (1)` would be `(2)`, and not `(1, 2)`.

use std::sync::Arc;

use datafusion::{
    common::{
        Column, JoinType, NullEquality, Result,
        tree_node::{Transformed, TransformedResult},
    },
    functions_window::row_number::row_number_udwf,
    logical_expr::{
        Distinct, Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder, WindowFunctionDefinition,
        expr::WindowFunction,
    },
};

/// The number's name on the left and on the right.
const NUMBERS: [&str; 2] = ["__number_left", "__number_right"];

/// Numbers the rows of both sides.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_of_all(&join) => with_numbers(join).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    })
    .data()
}

/// Nothing else in a statement makes a join of which NULL equals NULL; without ALL, the left side is distinct.
fn is_of_all(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(Distinct::All(_)))
}

fn with_numbers(join: Join) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let (mut left_keys, mut right_keys) = (Vec::new(), Vec::new());
    for (left, right) in &join.on {
        left_keys.extend(left.try_as_col().cloned());
        right_keys.extend(right.try_as_col().cloned());
    }
    left_keys.push(Column::from_name(NUMBERS[0]));
    right_keys.push(Column::from_name(NUMBERS[1]));
    let left = numbered(Arc::unwrap_or_clone(join.left), NUMBERS[0])?;
    let right = numbered(Arc::unwrap_or_clone(join.right), NUMBERS[1])?;
    LogicalPlanBuilder::from(left)
        .join_detailed(right, join.join_type, (left_keys, right_keys), None, join.null_equality)?
        .project(columns)?
        .build()
}

/// The rows, each with a number among those that are the same.
fn numbered(rows: LogicalPlan, name: &str) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = rows.schema().columns().into_iter().map(Expr::Column).collect();
    let number = WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number_udwf()), Vec::new());
    let number = Expr::from(number).partition_by(columns.clone()).build()?;
    let column = Expr::Column(Column::from_name(number.schema_name().to_string())).alias(name);
    LogicalPlanBuilder::from(rows).window([number])?.project(columns.into_iter().chain([column]))?.build()
}
