//! Window functions' arguments, computed below the window.
//!
//! Invariant: what a window function copies into its rows is a constant or a column that the window reads, so that
//! [`super::metered`] sees its size before the window holds it. `max(repeat(content, 100)) OVER ()` reads texts of some
//! bytes, and writes the longest into every row.

use std::sync::Arc;

use datafusion::{
    common::{
        Column, DFSchema, Result,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Window},
};

/// Moves computed arguments into a projection below their window.
pub(super) fn compute_below(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(window) => below(window),
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn below(window: Window) -> Result<Transformed<LogicalPlan>> {
    let mut computed: Vec<Expr> = Vec::new();
    let mut calls = Vec::with_capacity(window.window_expr.len());
    for call in &window.window_expr {
        calls.push(with_columns(call, window.input.schema(), &mut computed)?);
    }
    if computed.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let read = || window.input.schema().columns().into_iter().map(Expr::Column);
    // What is above knows the calls by the names that they had. An alias inside of a window would panic the planner.
    let answered = window.window_expr.iter().zip(&calls).map(|(before, now)| {
        Expr::Column(Column::from_name(now.schema_name().to_string())).alias(before.schema_name().to_string())
    });
    let answered: Vec<Expr> = read().chain(answered).collect();
    LogicalPlanBuilder::from(Arc::clone(&window.input))
        .project(read().chain(computed))?
        .window(calls)?
        .project(answered)?
        .build()
        .map(Transformed::yes)
}

/// The call with columns in the place of its computed arguments.
fn with_columns(call: &Expr, schema: &DFSchema, computed: &mut Vec<Expr>) -> Result<Expr> {
    call.clone()
        .transform_down(|expr| {
            let Expr::WindowFunction(mut function) = expr else { return Ok(Transformed::no(expr)) };
            for argument in function.params.args.iter_mut().filter(|argument| is_moved(argument, schema)) {
                let column = Column::from_name(format!("__argument_{}", computed.len()));
                computed.push(std::mem::replace(argument, Expr::Column(column.clone())).alias(column.name));
            }
            Ok(Transformed::yes(Expr::WindowFunction(function)))
        })
        .data()
}

/// Whether an argument's size is known only when it is computed: numbers have one size, and what names no column is a
/// constant when the statement runs.
fn is_moved(argument: &Expr, schema: &DFSchema) -> bool {
    let has_one_size = || argument.get_type(schema).is_ok_and(|kind| kind.primitive_width().is_some());
    !matches!(argument, Expr::Column(_)) && !argument.column_refs().is_empty() && !has_one_size()
}
