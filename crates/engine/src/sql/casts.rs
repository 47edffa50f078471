//! CASTs that would be called as what is cast, in a SELECT that groups or aggregates by both.
//!
//! Invariant: the planner's names forget a CAST, and it wants each group key and each aggregate to have a name of its own.
//! Where two would be one name, each CAST becomes `coalesce(CAST(…))`, which is the same and has another name:
//! `SELECT count(DISTINCT a), count(DISTINCT CAST(a AS DATE)) FROM t`.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident,
    ObjectName, OrderBy, Query, Select, SetExpr, Statement, VisitMut, VisitorMut, visit_expressions,
};

/// Tells such CASTs from what they cast.
pub(super) fn settle(statement: &mut Statement) {
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = statement.visit(&mut Settle);
}

struct Settle;

impl VisitorMut for Settle {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        in_body(&mut query.body, &mut query.order_by);
        ControlFlow::Continue(())
    }
}

fn in_body(body: &mut SetExpr, order_by: &mut Option<OrderBy>) {
    match body {
        SetExpr::Select(select) if is_confused(select) => {
            each_part(select, &mut Wrap { depth: 0 });
            let (ControlFlow::Continue(()) | ControlFlow::Break(())) = order_by.visit(&mut Wrap { depth: 0 });
        }
        SetExpr::SetOperation { left, right, .. } => {
            in_body(left, &mut None);
            in_body(right, &mut None);
        }
        _ => {}
    }
}

/// Whether two of its calls or keys would be one without their CASTs.
fn is_confused(select: &Select) -> bool {
    let is_cast = |expr: &Expr| match expr {
        Expr::Cast { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    if visit_expressions(select, is_cast).is_continue() {
        return false;
    }
    let mut calls = Calls { depth: 0, called: HashMap::new(), confused: false };
    let mut select = select.clone();
    if let GroupByExpr::Expressions(keys, _) = &select.group_by {
        for key in keys {
            calls.add(key);
        }
    }
    each_part(&mut select, &mut calls);
    calls.confused
}

/// The parts of a SELECT that are evaluated for each row or group.
fn each_part(select: &mut Select, visitor: &mut impl VisitorMut<Break = ()>) {
    let parts = [
        select.projection.visit(visitor),
        select.group_by.visit(visitor),
        select.having.visit(visitor),
        select.qualify.visit(visitor),
    ];
    debug_assert!(parts.iter().all(ControlFlow::is_continue), "these visitors go on");
}

/// Calls of functions by their text without CASTs.
struct Calls {
    depth: usize,
    called: HashMap<String, String>,
    confused: bool,
}

impl Calls {
    fn add(&mut self, expr: &Expr) {
        let mut bare = expr.clone();
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = bare.visit(&mut Strip);
        let (bare, whole) = (bare.to_string(), expr.to_string());
        let known = self.called.entry(bare).or_insert_with(|| whole.clone());
        self.confused |= *known != whole;
    }
}

impl VisitorMut for Calls {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0 && matches!(expr, Expr::Function(_)) {
            self.add(expr);
        }
        ControlFlow::Continue(())
    }
}

/// Takes CASTs away.
struct Strip;

impl VisitorMut for Strip {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Cast { expr: inner, .. } | Expr::Nested(inner) = expr {
            *expr = inner.as_ref().clone();
        }
        ControlFlow::Continue(())
    }
}

/// Puts `coalesce` around CASTs.
struct Wrap {
    depth: usize,
}

impl VisitorMut for Wrap {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0 && matches!(expr, Expr::Cast { .. }) {
            *expr = coalesce([expr.clone()]);
        }
        ControlFlow::Continue(())
    }
}

/// `coalesce(a, b)`
pub(super) fn coalesce(values: impl IntoIterator<Item = Expr>) -> Expr {
    let args = values.into_iter().map(|value| FunctionArg::Unnamed(FunctionArgExpr::Expr(value))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new("coalesce")]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};

    use super::*;

    fn settled(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&GenericDialect, sql).unwrap().remove(0);
        settle(&mut statement);
        statement.to_string()
    }

    #[test]
    fn a_cast_is_told_from_what_it_casts_where_both_are_grouped_by() {
        for (sql, apart) in [
            ("SELECT max(a), max(CAST(a AS TEXT)) FROM t", "SELECT max(a), max(coalesce(CAST(a AS TEXT))) FROM t"),
            (
                "SELECT CAST(a AS DATE) FROM t GROUP BY CAST(a AS DATE), a ORDER BY CAST(a AS DATE)",
                "SELECT coalesce(CAST(a AS DATE)) FROM t GROUP BY coalesce(CAST(a AS DATE)), a ORDER BY coalesce(CAST(a AS DATE))",
            ),
        ] {
            assert_eq!(settled(sql), apart);
        }
        for sql in [
            "SELECT min(a), max(CAST(a AS TEXT)) FROM t",
            "SELECT CAST(a AS DATE), count(*) FROM t GROUP BY CAST(a AS DATE)",
            "SELECT a, CAST(a AS TEXT) FROM t",
        ] {
            assert_eq!(settled(sql), sql);
        }
    }
}
