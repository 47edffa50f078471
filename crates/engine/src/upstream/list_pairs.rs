//! Several lists of one value: `x IN ('a') AND x NOT IN ('b')`, `x NOT IN ('a') OR x NOT IN ('b')`.
//!
//! Invariant: an IN has no NULL in its list, and of several lists of a value that may be NULL DataFusion sees the first one
//! of an expression. It reckons with them as sets: what is left of `x IN (1, 2) AND x NOT IN (2, NULL)` is `x IN (1)` to
//! it, which is true of 1 where nobody knows; and an empty list is false to it, also where `x` is NULL. Before each pass,
//! so that columns that have been replaced by what they are computed from are seen too.

use datafusion::{
    common::{
        DFSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, expr::InList, utils::merge_schema},
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule, utils::NamePreserver},
};

use super::subqueries::{OPTIONAL, optional};

/// The optimizer's rule, for before all others.
#[derive(Debug)]
pub(crate) struct ListPairs;

impl OptimizerRule for ListPairs {
    fn name(&self) -> &'static str {
        "list_pairs"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let schema = match &plan {
            LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
            plan => merge_schema(&plan.inputs()),
        };
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let apart = expr.transform_up(|expr| Ok(without_null(expr)))?;
            let mut seen = Vec::new();
            let apart =
                apart.transform_data(|expr| expr.transform_down(|expr| Ok(kept_apart(expr, &schema, &mut seen))))?;
            Ok(apart.update_data(|expr| name.restore(expr)))
        })
    }
}

/// `x IN (a) OR NULL` for `x IN (a, NULL)`.
fn without_null(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::InList(list) if list.list.len() > 1 && list.list.iter().any(is_null) => {
            let InList { expr, list, negated } = list;
            let known: Vec<Expr> = list.into_iter().filter(|item| !is_null(item)).collect();
            let unknown = Expr::Literal(ScalarValue::Boolean(None), None);
            if known.is_empty() {
                return Transformed::yes(unknown);
            }
            let known = Expr::InList(InList { expr, list: known, negated });
            Transformed::yes(if negated { known.and(unknown) } else { known.or(unknown) })
        }
        other => Transformed::no(other),
    }
}

/// A list of a value of which one was `seen` before becomes opaque, where one of them may come to NULL.
fn kept_apart(expr: Expr, schema: &DFSchema, seen: &mut Vec<(Expr, bool)>) -> Transformed<Expr> {
    if matches!(&expr, Expr::ScalarFunction(call) if call.name() == OPTIONAL) {
        return Transformed::new(expr, false, TreeNodeRecursion::Jump);
    }
    let Some(lists) = Lists::of(&expr) else { return Transformed::no(expr) };
    let open = !lists.constant || lists.value.nullable(schema).unwrap_or(true);
    if seen.iter().any(|(value, was_open)| value == lists.value && (open || *was_open)) {
        return Transformed::new(optional(expr), true, TreeNodeRecursion::Jump);
    }
    seen.push((lists.value.clone(), open));
    Transformed::new(expr, false, TreeNodeRecursion::Jump)
}

fn is_null(item: &Expr) -> bool {
    match item {
        Expr::Literal(value, _) => value.is_null(),
        Expr::Cast(cast) => is_null(&cast.expr),
        _ => false,
    }
}

/// What is a list of one value, or becomes one.
struct Lists<'a> {
    value: &'a Expr,
    /// Whether all items are constants.
    constant: bool,
}

impl<'a> Lists<'a> {
    fn of(expr: &'a Expr) -> Option<Self> {
        match expr {
            Expr::InList(InList { expr, list, .. }) => {
                let constant = list.iter().all(|item| matches!(item, Expr::Literal(..)));
                Some(Self { value: expr, constant })
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                let (one, other) = (Self::of_equality(left)?, Self::of_equality(right)?);
                (one.value == other.value).then_some(one)
            }
            _ => None,
        }
    }

    /// One item of `x = 'a' OR x = 'b'`, or several.
    fn of_equality(expr: &'a Expr) -> Option<Self> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
                (value, Expr::Literal(..)) | (Expr::Literal(..), value) => Some(Self { value, constant: true }),
                _ => None,
            },
            // Of those that say NOT IN, OR makes no list.
            Expr::InList(list) if list.negated => None,
            other => Self::of(other),
        }
    }
}
