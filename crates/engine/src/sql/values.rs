//! VALUES with a subquery among them, which the planner takes only in a SELECT.
//!
//! Invariant: the rows and their order stay what the statement says; what cannot be kept is refused.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Expr, Query, SelectItem, SetExpr, Statement, Values, VisitMut, VisitorMut, visit_expressions},
    dialect::GenericDialect,
    parser::Parser,
};

use super::forms::unsupported;
use crate::{Error, Result};

/// Makes `VALUES (…, (SELECT …))` a SELECT of the same row.
pub(super) fn settle(statement: &mut Statement) -> Result<()> {
    match statement.visit(&mut Settle) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Settle;

impl VisitorMut for Settle {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let SetExpr::Values(values) = query.body.as_mut() else { return ControlFlow::Continue(()) };
        if !has_subquery(values) {
            return ControlFlow::Continue(());
        }
        let [row] = values.rows.as_mut_slice() else {
            return ControlFlow::Break(unsupported(
                "A subquery can stand in VALUES of one row only; write several statements, or INSERT … SELECT.",
            ));
        };
        let row = std::mem::take(&mut row.content);
        match select(row) {
            Ok(select) => *query.body = select,
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

fn has_subquery(values: &Values) -> bool {
    visit_expressions(values, |expr| match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

/// `SELECT` of these expressions. The AST has many fields that a plain SELECT leaves alone; the parser knows them.
fn select(row: Vec<Expr>) -> Result<SetExpr> {
    let fault = || Error::fault("a SELECT that does not parse");
    let mut statements = Parser::parse_sql(&GenericDialect, "SELECT 1").map_err(|_| fault())?;
    let Some(Statement::Query(mut query)) = statements.pop() else { return Err(fault()) };
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(fault()) };
    // Two columns of a SELECT must not have one name, as two equal values would.
    let named = row.into_iter().enumerate().map(|(at, expr)| SelectItem::ExprWithAlias {
        expr,
        alias: datafusion::sql::sqlparser::ast::Ident::with_quote('"', format!("column{}", at + 1)),
    });
    select.projection = named.collect();
    Ok(*query.body)
}

#[cfg(test)]
mod tests {
    use kalamdb_protocol::ErrorCode;

    use super::*;

    fn settled(sql: &str) -> Result<String> {
        let mut statement = Parser::parse_sql(&GenericDialect, sql).unwrap().pop().unwrap();
        settle(&mut statement).map(|()| statement.to_string())
    }

    #[test]
    fn one_row_becomes_a_select() {
        let insert = "INSERT INTO t (a, b) VALUES ((SELECT max(x) FROM t), 'y')";
        let expected = "INSERT INTO t (a, b) SELECT (SELECT max(x) FROM t) AS \"column1\", 'y' AS \"column2\"";
        assert_eq!(settled(insert).unwrap(), expected);
        let plain = "INSERT INTO t (a, b) VALUES (1, 'y'), (2, 'z')";
        assert_eq!(settled(plain).unwrap(), plain);
    }

    #[test]
    fn several_rows_are_refused() {
        let error = settled("INSERT INTO t (a) VALUES (1), ((SELECT 2))").unwrap_err();
        assert_eq!(error.code, ErrorCode::Unsupported);
    }
}
