//! The budget of rules that write a part of the statement down more than once.
//!
//! Invariant: it is asked before the copies are made, and counts every node of them, be it of a plan or of an expression:
//! `coalesce(…) IN (a + 1, b + 1, …)` with a thousand values on each side would become a million nodes, which is gigabytes.

use datafusion::{
    common::{
        Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan},
};

use crate::functions::TooLarge;

/// Nodes that may be written down once more in one statement: some ten megabytes.
const MAX_COPIED_NODES: usize = 50_000;

/// The rest of [`MAX_COPIED_NODES`].
pub(super) struct Copies(usize);

impl Copies {
    /// The whole budget, for one rule over one statement.
    pub fn new() -> Self {
        Self(MAX_COPIED_NODES)
    }

    /// Pays for one more copy of a plan.
    ///
    /// # Errors
    /// `query_too_large`.
    pub fn pay_plan(&mut self, plan: &LogicalPlan) -> Result<()> {
        self.pay(nodes_of_plan(plan)?)
    }

    /// Pays for so many more copies of an expression.
    ///
    /// # Errors
    /// `query_too_large`.
    pub fn pay_expr(&mut self, expr: &Expr, times: usize) -> Result<()> {
        self.pay(nodes_of_expr(expr)?.saturating_mul(times))
    }

    fn pay(&mut self, nodes: usize) -> Result<()> {
        self.0 = self.0.checked_sub(nodes).ok_or(TooLarge::Expressions)?;
        Ok(())
    }
}

fn nodes_of_plan(plan: &LogicalPlan) -> Result<usize> {
    let mut nodes = 0;
    plan.apply_with_subqueries(|node| {
        nodes += 1;
        node.apply_expressions(|expr| {
            expr.apply(|_| {
                nodes += 1;
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(nodes)
}

fn nodes_of_expr(expr: &Expr) -> Result<usize> {
    let mut nodes = 0;
    expr.apply(|expr| {
        nodes += 1;
        nodes += match expr {
            Expr::ScalarSubquery(subquery) => nodes_of_plan(&subquery.subquery)?,
            Expr::Exists(exists) => nodes_of_plan(&exists.subquery.subquery)?,
            Expr::InSubquery(found) => nodes_of_plan(&found.subquery.subquery)?,
            _ => 0,
        };
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(nodes)
}
