//! Window functions that collect what they see, over frames that grow.
//!
//! Invariant: what passes here makes of each row at most so much as [`MAX_FRAME_ROWS`] rows hold. A running `string_agg`
//! over 20,000 messages writes 16 GB, and DataFusion's windows ask no memory pool; a running median looks at all rows
//! again for each.

use datafusion::{
    common::{
        Result, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Expr, LogicalPlan, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, expr::WindowFunction,
    },
};

use super::TooLarge;

/// Rows of a frame whose values are collected: more context than any prompt has messages.
pub(crate) const MAX_FRAME_ROWS: u64 = 1_000;

/// Aggregates whose answer, or the work for it, grows with the rows that they have seen.
const COLLECTING: [&str; 5] = ["array_agg", "string_agg", "median", "percentile_cont", "quantile_cont"];

/// Refuses windows that collect without end.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Window(window) = node {
            for expr in &window.window_expr {
                expr.apply(|expr| match expr {
                    Expr::WindowFunction(call) if collects(call) && !is_narrow(call) => Err(TooLarge::Frame.into()),
                    _ => Ok(TreeNodeRecursion::Continue),
                })?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(drop)
}

fn collects(call: &WindowFunction) -> bool {
    match &call.fun {
        // The number of different values is at hand; every other aggregate of them is computed anew for each row.
        WindowFunctionDefinition::AggregateUDF(function) => {
            COLLECTING.contains(&function.name()) || (call.params.distinct && function.name() != "count")
        }
        WindowFunctionDefinition::WindowUDF(_) => false,
    }
}

/// Whether a frame has few rows, however many there are around it.
fn is_narrow(call: &WindowFunction) -> bool {
    let frame = &call.params.window_frame;
    // DataFusion cannot take a text out of what it has joined.
    call.fun.name() != "string_agg"
        && frame.units == WindowFrameUnits::Rows
        && reach(&frame.start_bound) + reach(&frame.end_bound) < MAX_FRAME_ROWS
}

/// The number of rows that a bound is away.
fn reach(bound: &WindowFrameBound) -> u64 {
    match bound {
        WindowFrameBound::CurrentRow => 0,
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(rows)))
        | WindowFrameBound::Following(ScalarValue::UInt64(Some(rows))) => (*rows).min(MAX_FRAME_ROWS),
        // Unbounded, or of a type that is not settled yet.
        WindowFrameBound::Preceding(_) | WindowFrameBound::Following(_) => MAX_FRAME_ROWS,
    }
}
