//! One key twice in the ORDER BY of an aggregate: `first_value(a ORDER BY b, b DESC)`, `DISTINCT ON (b) … ORDER BY b, b`.
//!
//! Invariant: the second one decides nothing, and goes. DataFusion drops it for the order of the rows and not for the
//! aggregate, which then finds fewer keys than it was told of, and panics. After all simplifications, by which keys
//! become the same.

use datafusion::{
    common::{Result, tree_node::Transformed},
    logical_expr::{Aggregate, Expr, LogicalPlan, SortExpr, expr::AggregateFunction},
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

/// The optimizer's rule.
#[derive(Debug)]
pub(crate) struct UniqueOrders;

impl OptimizerRule for UniqueOrders {
    fn name(&self) -> &'static str {
        "unique_orders"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.iter().any(has_a_key_twice) => {
                let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
                let calls = aggr_expr.into_iter().map(with_each_key_once).collect();
                let aggregate = Aggregate::try_new_with_schema(input, group_expr, calls, schema)?;
                Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

fn has_a_key_twice(call: &Expr) -> bool {
    match call {
        Expr::Alias(alias) => has_a_key_twice(&alias.expr),
        Expr::AggregateFunction(call) => {
            let keys = &call.params.order_by;
            keys.iter().enumerate().any(|(place, key)| keys[..place].iter().any(|before| before.expr == key.expr))
        }
        _ => false,
    }
}

/// The call, under the name that it had.
fn with_each_key_once(call: Expr) -> Expr {
    match call {
        Expr::Alias(mut alias) => {
            *alias.expr = with_each_key_once(*alias.expr).unalias();
            Expr::Alias(alias)
        }
        call if !has_a_key_twice(&call) => call,
        call => {
            let name = call.schema_name().to_string();
            let Expr::AggregateFunction(AggregateFunction { func, mut params }) = call else { return call };
            let mut keys: Vec<SortExpr> = Vec::with_capacity(params.order_by.len());
            for key in std::mem::take(&mut params.order_by) {
                if !keys.iter().any(|before| before.expr == key.expr) {
                    keys.push(key);
                }
            }
            params.order_by = keys;
            Expr::AggregateFunction(AggregateFunction { func, params }).alias(name)
        }
    }
}
