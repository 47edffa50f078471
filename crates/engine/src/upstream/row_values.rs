//! `(a, b) = (1, 2)`: rows as values.
//!
//! Invariant: such a comparison is written out, part by part, so that it is NULL where SQL says so. DataFusion compares
//! them as structs, whose fields are equal when both are NULL: `(a, b) IN ((1, NULL))` would be true of `(1, NULL)`, and
//! false where nobody knows.

use datafusion::{
    common::{
        Result,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{
        BinaryExpr, Expr, LogicalPlan, Operator, binary_expr,
        expr::{Between, InList, ScalarFunction},
        not,
    },
    optimizer::utils::NamePreserver,
};

use super::copies::Copies;

/// Writes such comparisons out.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut copies = Copies::new();
    plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let written = expr.transform_up(|expr| written_out(expr, &mut copies))?;
            Ok(written.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

fn written_out(expr: Expr, copies: &mut Copies) -> Result<Transformed<Expr>> {
    match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (parts(left), parts(right)) {
            (Some(left), Some(right)) if left.len() == right.len() && is_comparison(*op) => {
                compared(left, *op, right, copies).map(Transformed::yes)
            }
            _ => Ok(Transformed::no(expr)),
        },
        Expr::InList(InList { expr: value, list, negated }) => {
            let Some(value) = parts(value) else { return Ok(Transformed::no(expr)) };
            let items: Option<Vec<&[Expr]>> = list.iter().map(parts).collect();
            let Some(items) = items.filter(|items| items.iter().all(|item| item.len() == value.len())) else {
                return Ok(Transformed::no(expr));
            };
            let mut any = items.into_iter().map(|item| compared(value, Operator::Eq, item, copies));
            let first = any.next().transpose()?;
            let any = any.try_fold(first, |any, one| {
                Ok::<_, datafusion::error::DataFusionError>(match any {
                    Some(any) => Some(any.or(one?)),
                    None => Some(one?),
                })
            })?;
            Ok(match any {
                Some(any) => Transformed::yes(if *negated { not(any) } else { any }),
                None => Transformed::no(expr),
            })
        }
        Expr::Between(Between { expr: value, negated, low, high }) => match (parts(value), parts(low), parts(high)) {
            (Some(value), Some(low), Some(high)) if value.len() == low.len() && value.len() == high.len() => {
                let from = compared(value, Operator::GtEq, low, copies)?;
                let within = from.and(compared(value, Operator::LtEq, high, copies)?);
                Ok(Transformed::yes(if *negated { not(within) } else { within }))
            }
            _ => Ok(Transformed::no(expr)),
        },
        _ => Ok(Transformed::no(expr)),
    }
}

/// The values of which a row is made.
fn parts(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "struct" && !args.is_empty() => {
            Some(args)
        }
        _ => None,
    }
}

fn is_comparison(op: Operator) -> bool {
    matches!(op, Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}

/// `(a, b) < (c, d)` is `a < c OR a = c AND b < d`.
fn compared(left: &[Expr], op: Operator, right: &[Expr], copies: &mut Copies) -> Result<Expr> {
    for part in left.iter().chain(right) {
        copies.pay_expr(part, 2)?;
    }
    let mut pairs = left.iter().zip(right).rev();
    let Some((last, other)) = pairs.next() else { return datafusion::common::plan_err!("A row has values.") };
    let last = binary_expr(last.clone(), op, other.clone());
    let strictly = match op {
        Operator::LtEq => Operator::Lt,
        Operator::GtEq => Operator::Gt,
        op => op,
    };
    Ok(pairs.fold(last, |rest, (one, other)| {
        let (one, other) = (one.clone(), other.clone());
        match op {
            Operator::Eq => one.eq(other).and(rest),
            Operator::NotEq => one.not_eq(other).or(rest),
            _ => binary_expr(one.clone(), strictly, other.clone()).or(one.eq(other).and(rest)),
        }
    }))
}
