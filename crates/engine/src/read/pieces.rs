//! A statement's parts, for whoever evaluates them on rows of its own instead of running the plan: live queries.
//!
//! Invariant: an expression that leaves here means what it would mean in a query: its types are settled by the same
//! rules, and what can be computed once is computed here.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::SchemaRef,
    common::DFSchema,
    logical_expr::{Expr, LogicalPlan, simplify::SimplifyContext},
    optimizer::simplify_expressions::ExprSimplifier,
    physical_expr::PhysicalExpr,
};

use super::planner::View;
use crate::{Result, functions};

impl View {
    /// A plan of [`View::plan`] with its types settled.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn analysed(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let state = self.state();
        self.checked(|| state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}))
    }

    /// Whether a plan of [`View::plan`] answers differently another time.
    ///
    /// # Errors
    /// A fault of ours only.
    pub fn varies(&self, plan: &LogicalPlan) -> Result<bool> {
        self.checked(|| functions::is_volatile_read(plan))
    }

    /// The number of rows that a plan's expressions may be evaluated on at a time, at most `usual`.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn rows_at_a_time(&self, plan: &LogicalPlan, usual: usize) -> Result<usize> {
        self.checked(|| functions::batch_rows(&self.state().optimize(plan)?, usual))
    }

    /// An expression of an analysed plan over a table's columns, with everything computed that no row decides.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn simplified(&self, expr: Expr, schema: &SchemaRef) -> Result<Expr> {
        let state = self.state();
        self.checked(|| {
            let context = SimplifyContext::builder()
                .with_schema(Arc::new(DFSchema::try_from(Arc::clone(schema))?))
                .with_config_options(Arc::clone(state.config_options()))
                .with_query_execution_start_time(state.execution_props().query_execution_start_time)
                .build();
            ExprSimplifier::new(context).simplify(expr)
        })
    }

    /// Compiles a simplified expression, so that it can be evaluated.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn compiled(&self, expr: Expr, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
        self.checked(|| self.state().create_physical_expr(expr, &DFSchema::try_from(Arc::clone(schema))?))
    }
}
