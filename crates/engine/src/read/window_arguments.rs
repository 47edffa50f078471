//! Window functions' arguments, and keys of their partitions, computed below the window.
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

/// Moves computed arguments and keys into a projection below their window.
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

/// The call with columns in the place of what is computed for it.
fn with_columns(call: &Expr, schema: &DFSchema, computed: &mut Vec<Expr>) -> Result<Expr> {
    call.clone()
        .transform_down(|expr| {
            let Expr::WindowFunction(mut function) = expr else { return Ok(Transformed::no(expr)) };
            let params = &mut function.params;
            for argument in params.args.iter_mut().filter(|argument| is_moved(argument, schema)) {
                move_below(argument, computed);
            }
            // Of `(SELECT msgId AS a, msgId AS b …)` the planner sorts by one for the other, and then misses the key
            // `a + 1` beside `b`.
            let keys = &mut params.partition_by;
            if keys.len() > 1 {
                keys.iter_mut().filter(|key| is_computed(key)).for_each(|key| move_below(key, computed));
            }
            Ok(Transformed::yes(Expr::WindowFunction(function)))
        })
        .data()
}

/// Puts a column in the place of an expression that is computed below. Calls of one window have their keys in common, and
/// so the columns of these.
fn move_below(expr: &mut Expr, computed: &mut Vec<Expr>) {
    let is_same = |known: &Expr| matches!(known, Expr::Alias(known) if *known.expr == *expr);
    let at = computed.iter().position(is_same);
    let column = Column::from_name(format!("__argument_{}", at.unwrap_or(computed.len())));
    let moved = std::mem::replace(expr, Expr::Column(column.clone()));
    if at.is_none() {
        computed.push(moved.alias(column.name));
    }
}

/// Whether an argument's size is known only when it is computed: numbers have one size.
fn is_moved(argument: &Expr, schema: &DFSchema) -> bool {
    let has_one_size = || argument.get_type(schema).is_ok_and(|kind| kind.primitive_width().is_some());
    is_computed(argument) && !has_one_size()
}

/// Whether it is computed for each row: what names no column is a constant when the statement runs.
fn is_computed(expr: &Expr) -> bool {
    !matches!(expr, Expr::Column(_)) && !expr.column_refs().is_empty()
}
