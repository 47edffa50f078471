//! The size of a plan's expressions once the optimizer puts them into one another.
//!
//! Invariant: nothing is optimized that would grow beyond bounds. A filter on a subquery's columns is rewritten in
//! terms of what those columns are, and some expressions (BETWEEN, COALESCE) are rewritten with a copy of an operand;
//! so twenty subqueries, or thirty COALESCE within one another, make a million copies, where no time-out can stop it.

use std::ops::ControlFlow;

use datafusion::{
    common::{
        Column, DFSchema, Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator},
};

use super::{TooLarge, times::is_comparison};

/// Nodes of one expression with everything put in.
const MAX_NODES: u64 = 200_000;
/// Levels of an expression.
const MAX_DEPTH: u64 = 2_000;
/// The copies of an operand that a regular expression of alternatives becomes.
const REGEX_COPIES: u64 = 4;

/// The growth of an expression.
#[derive(Debug, Clone, Copy)]
struct Weight {
    nodes: u64,
    depth: u64,
}

impl Weight {
    const ONE: Self = Self { nodes: 1, depth: 1 };

    /// A node above `self` and `other`.
    fn join(self, other: Self, copies: u64) -> Self {
        Self {
            nodes: self.nodes.saturating_add(other.nodes.saturating_mul(copies)),
            depth: self.depth.max(other.depth.saturating_add(1)),
        }
    }

    fn larger(self, other: Self) -> Self {
        Self { nodes: self.nodes.max(other.nodes), depth: self.depth.max(other.depth) }
    }

    fn check(self) -> Result<Self> {
        if self.nodes > MAX_NODES || self.depth > MAX_DEPTH { Err(TooLarge::Expressions.into()) } else { Ok(self) }
    }
}

/// Refuses a plan whose expressions would grow too large.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    weigh(plan).map(drop)
}

/// The weights of a plan's columns.
fn weigh(plan: &LogicalPlan) -> Result<Vec<Weight>> {
    let inputs = plan
        .inputs()
        .into_iter()
        .map(|input| Ok((input.schema().as_ref(), weigh(input)?)))
        .collect::<Result<Vec<_>>>()?;
    let inputs = Inputs(inputs);
    let mut weights = Vec::new();
    plan.apply_expressions(|expr| {
        weights.push(inputs.weigh(expr)?.check()?);
        Ok(TreeNodeRecursion::Continue)
    })?;
    let columns = plan.schema().fields().len();
    Ok(match plan {
        LogicalPlan::Projection(_) => weights,
        LogicalPlan::Aggregate(aggregate) => {
            // What is grouped by can be filtered below; an aggregate is computed here and put nowhere.
            weights.truncate(aggregate.group_expr.len());
            weights.resize(columns, Weight::ONE);
            weights
        }
        LogicalPlan::Union(_) => inputs.widest(columns),
        _ => inputs.passed_on(columns),
    })
}

struct Inputs<'a>(Vec<(&'a DFSchema, Vec<Weight>)>);

impl Inputs<'_> {
    fn weigh(&self, expr: &Expr) -> Result<Weight> {
        let mut weight = match expr {
            Expr::Column(column) => return Ok(self.column(column)),
            Expr::ScalarSubquery(query) => return weigh(&query.subquery).map(|_| Weight::ONE),
            Expr::Exists(exists) => return weigh(&exists.subquery.subquery).map(|_| Weight::ONE),
            Expr::InSubquery(query) => weigh(&query.subquery.subquery).map(|_| Weight::ONE)?,
            Expr::SetComparison(query) => weigh(&query.subquery.subquery).map(|_| Weight::ONE)?,
            _ => Weight::ONE,
        };
        let mut child_number = 0;
        expr.apply_children(|child| {
            weight = weight.join(self.weigh(child)?, copies(expr, child, child_number)).check()?;
            child_number += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(weight)
    }

    fn column(&self, column: &Column) -> Weight {
        let found = self.0.iter().try_for_each(|(schema, weights)| match schema.maybe_index_of_column(column) {
            Some(index) => ControlFlow::Break(weights.get(index).copied()),
            None => ControlFlow::Continue(()),
        });
        found.break_value().flatten().unwrap_or(Weight::ONE)
    }

    /// The larger of each position: a filter on a UNION goes to all its parts.
    fn widest(&self, columns: usize) -> Vec<Weight> {
        let mut widest = vec![Weight::ONE; columns];
        for (_, weights) in &self.0 {
            widest.iter_mut().zip(weights).for_each(|(widest, weight)| *widest = widest.larger(*weight));
        }
        widest
    }

    /// The columns of the inputs one after the other, as filters, joins and limits pass them on.
    fn passed_on(&self, columns: usize) -> Vec<Weight> {
        let all: Vec<Weight> = self.0.iter().flat_map(|(_, weights)| weights).copied().collect();
        let largest = all.iter().copied().fold(Weight::ONE, Weight::larger);
        let mut weights = match self.0.as_slice() {
            [(_, left), ..] if left.len() == columns => left.clone(),
            [_, (_, right)] if right.len() == columns => right.clone(),
            [_, _] if all.len() != columns => vec![largest; columns],
            _ => all,
        };
        weights.resize(columns, Weight::ONE);
        weights
    }
}

/// How often the optimizer may copy `child`, the `number`th of `parent`.
fn copies(parent: &Expr, child: &Expr, number: usize) -> u64 {
    match parent {
        // a BETWEEN b AND c becomes a >= b AND a <= c.
        Expr::Between(_) if number == 0 => 2,
        // COALESCE(a, b) becomes CASE WHEN a IS NOT NULL THEN a ELSE b END.
        Expr::ScalarFunction(call) if matches!(call.name(), "coalesce" | "nvl" | "ifnull") => 2,
        // date_part('year', a) = 2024 becomes a >= … AND a < ….
        Expr::BinaryExpr(BinaryExpr { op, .. }) if is_comparison(*op) && matches!(child, Expr::ScalarFunction(_)) => 2,
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch,
            ..
        }) => REGEX_COPIES,
        _ => 1,
    }
}
