//! Several `string_agg` with an order each, which DataFusion refuses as conflicting.
//!
//! Invariant: of one aggregate, all `string_agg` have one order; one of another order becomes
//! `array_to_string(array_agg(x ORDER BY y) FILTER (WHERE x IS NOT NULL), ',')`, which sorts by itself and is the same.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    common::{
        Column, Result,
        tree_node::{Transformed, TransformedResult},
    },
    functions_aggregate::array_agg::array_agg_udaf,
    functions_nested::string::array_to_string,
    logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast, expr::Sort},
};

/// Rewrites the aggregates that have several orders.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => in_aggregate(aggregate),
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn in_aggregate(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let Some(first) = aggregate.aggr_expr.iter().find_map(order) else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let first = first.to_vec();
    let is_other = |call: &Expr| order(call).is_some_and(|order| order != first);
    if !aggregate.aggr_expr.iter().any(is_other) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let keys = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
    let columns = aggregate.schema.columns();
    // What the planner adds for GROUPING it takes away itself.
    let asked = columns[..keys].iter().filter(|column| column.name != Aggregate::INTERNAL_GROUPING_ID);
    let mut answered: Vec<Expr> = asked.cloned().map(Expr::Column).collect();
    let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
    for (call, column) in aggregate.aggr_expr.iter().zip(&columns[keys..]) {
        if is_other(call) {
            let name = format!("__array_{}", calls.len());
            let (array, separator) = as_array(call)?;
            calls.push(array.alias(&name));
            let text = array_to_string(Expr::Column(Column::from_name(name)), separator);
            let kind = call.get_type(aggregate.input.schema())?;
            answered.push(cast(text, kind).alias_qualified(column.relation.clone(), &column.name));
        } else {
            calls.push(call.clone());
            answered.push(Expr::Column(column.clone()));
        }
    }
    let arrays = Aggregate::try_new(Arc::clone(&aggregate.input), aggregate.group_expr.clone(), calls)?;
    let plan = LogicalPlanBuilder::from(LogicalPlan::Aggregate(arrays)).project(answered)?.build()?;
    Ok(Transformed::yes(plan))
}

/// The order of a `string_agg` that has one.
fn order(call: &Expr) -> Option<&[Sort]> {
    match call {
        Expr::Alias(alias) => order(&alias.expr),
        Expr::AggregateFunction(call) if call.func.name() == "string_agg" && !call.params.order_by.is_empty() => {
            Some(&call.params.order_by)
        }
        _ => None,
    }
}

/// A `string_agg` as an array of its texts, and what stands between them.
fn as_array(call: &Expr) -> Result<(Expr, Expr)> {
    let Expr::AggregateFunction(mut call) = call.clone().unalias_nested().data else {
        return datafusion::common::internal_err!("a string_agg is an aggregate");
    };
    let [text, separator] = call.params.args.as_slice() else {
        return datafusion::common::plan_err!("string_agg takes a text and what stands between two of them");
    };
    let (text, separator) = (text.clone(), separator.clone());
    let there = text.clone().is_not_null();
    call.params.filter = Some(Box::new(match call.params.filter.take() {
        Some(filter) => filter.and(there),
        None => there,
    }));
    call.params.args = vec![cast(text, DataType::Utf8)];
    call.func = array_agg_udaf();
    Ok((Expr::AggregateFunction(call), separator))
}
