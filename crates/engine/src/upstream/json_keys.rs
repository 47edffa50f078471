//! `json_contains(metadata, key)` and `metadata ? key`, where the key may be NULL.
//!
//! Invariant: NULL for such a key. The function answers NULL where keys come as a column and false where the key is one
//! constant for all rows, and which of the two `coalesce(…)` makes depends on the rows that happen to come together.

use datafusion::{
    common::{
        Result, ScalarValue,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{Expr, LogicalPlan, expr::ScalarFunction, when},
    optimizer::utils::NamePreserver,
};

use super::copies::Copies;

/// Asks for NULL first.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut copies = Copies::new();
    plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let asked = expr.transform_up(|expr| match open_key(&expr) {
                Some(key) => {
                    copies.pay_expr(key, 1)?;
                    let unknown = Expr::Literal(ScalarValue::Boolean(None), None);
                    when(key.clone().is_null(), unknown).otherwise(expr).map(Transformed::yes)
                }
                None => Ok(Transformed::no(expr)),
            })?;
            Ok(asked.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

/// The key, where it may be NULL and is the same each time.
fn open_key(expr: &Expr) -> Option<&Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    match args.as_slice() {
        [_, key] if func.name() == "json_contains" && !key.is_volatile() => match key {
            Expr::Literal(value, _) if !value.is_null() => None,
            key => Some(key),
        },
        _ => None,
    }
}
