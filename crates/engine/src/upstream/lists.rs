//! `x IN (a, b)` where an item is computed from the row.
//!
//! Invariant: such a list is written out as `x = a OR x = b`, which is the same in all three values. DataFusion computes
//! the items of a list once, over no rows; what comes of `1 IN (CASE WHEN content LIKE '%b' THEN 1 END, 2)` there is 1, and
//! it takes that for the item of every row.

use datafusion::{
    common::{
        Result,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{Expr, LogicalPlan, expr::InList, not},
    optimizer::utils::NamePreserver,
};

use super::copies::Copies;

/// Writes such lists out.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut copies = Copies::new();
    plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let written = expr.transform_up(|expr| match expr {
                Expr::InList(list) if !list.expr.is_volatile() && list.list.iter().any(is_computed) => {
                    copies.pay_expr(&list.expr, list.list.len())?;
                    Ok(Transformed::yes(written_out(list)))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(written.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

/// Whether an item is computed from columns; a column alone has no value over no rows, which DataFusion minds.
fn is_computed(item: &Expr) -> bool {
    !matches!(item, Expr::Column(_)) && (item.any_column_refs() || item.contains_outer())
}

fn written_out(list: InList) -> Expr {
    let InList { expr, list, negated } = list;
    let mut any: Vec<Expr> = list.into_iter().map(|item| expr.as_ref().clone().eq(item)).collect();
    // In pairs, so that a long list is no deep expression.
    while any.len() > 1 {
        any = any
            .chunks(2)
            .map(|pair| match pair {
                [one, other] => one.clone().or(other.clone()),
                rest => rest[0].clone(),
            })
            .collect();
    }
    let Some(any) = any.pop() else { return datafusion::logical_expr::lit(negated) };
    if negated { not(any) } else { any }
}
