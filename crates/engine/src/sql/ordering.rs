//! ORDER BY where a column of the answer is called like one that is read.
//!
//! Invariant: an item that is a name alone means the column of the answer, and goes by its number within a subquery, where
//! the planner may take it for a column of the query around. A name with its table means the column that is read: the
//! planner finds two of one name in `SELECT upper(t.a) AS a FROM t ORDER BY t.a`, so the answer's gets another name, which
//! nobody sees.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        Expr, Ident, OrderByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Value,
        VisitMut, VisitorMut, visit_expressions,
    },
    dialect::GenericDialect,
    parser::Parser,
};

use super::outputs::MARK;
use crate::{Error, Result};

/// What a query is called that is put into another one, which gives its columns their names back.
const ORDERED: &str = "(ordered)";

/// Tells the answers' columns from those that are read, in each ORDER BY.
pub(super) fn settle(statement: &mut Statement) -> Result<()> {
    let is_shown = matches!(statement, Statement::Query(_) | Statement::Explain { .. });
    match statement.visit(&mut Settle { around: usize::from(!is_shown) }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Settle {
    /// How many queries are around.
    around: usize,
}

impl VisitorMut for Settle {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.around += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.around -= 1;
        let is_outermost = self.around == 0;
        let names = tell_apart(query, is_outermost);
        match names.filter(|_| !is_outermost).map(|names| renamed(query, &names)).transpose() {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

/// Renames columns that ORDER BY would confuse; the names that all had, if any was.
fn tell_apart(query: &mut Query, is_outermost: bool) -> Option<Vec<Ident>> {
    if !query.pipe_operators.is_empty() {
        return None;
    }
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let OrderByKind::Expressions(items) = &mut query.order_by.as_mut()?.kind else { return None };
    let names = names(&select.projection)?;
    let confused: Vec<usize> = (0..names.len()).filter(|at| is_confused(select, items, *at)).collect();
    if !is_outermost || !confused.is_empty() {
        number(items, &names);
    }
    let is_elsewhere = |at: &usize| is_used(select, items, &names[*at]);
    if confused.is_empty() || select.distinct.is_some() || confused.iter().any(is_elsewhere) {
        return None;
    }
    for at in confused {
        if let SelectItem::ExprWithAlias { alias, .. } = &mut select.projection[at] {
            *alias = Ident::with_quote('"', format!("{MARK}{}) {}", at + 1, alias.value));
        }
    }
    Some(names)
}

/// What the columns are called; `None` when the text does not tell.
fn names(projection: &[SelectItem]) -> Option<Vec<Ident>> {
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().cloned(),
        _ => None,
    };
    projection.iter().map(name).collect()
}

/// Whether ORDER BY names a column of a table that is called like this one and is not it.
fn is_confused(select: &Select, items: &[OrderByExpr], at: usize) -> bool {
    let SelectItem::ExprWithAlias { expr, alias } = &select.projection[at] else { return false };
    items.iter().any(|item| {
        visit_expressions(item, |part| match part {
            Expr::CompoundIdentifier(parts) if part != expr && parts.last().is_some_and(|last| last == alias) => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })
        .is_break()
    })
}

/// Has items that are a name alone go by the number of the column that they mean.
fn number(items: &mut [OrderByExpr], names: &[Ident]) {
    for item in items {
        let Expr::Identifier(name) = &item.expr else { continue };
        let mut meant = names.iter().enumerate().filter(|(_, own)| own.value == name.value);
        if let (Some((at, _)), None) = (meant.next(), meant.next()) {
            item.expr = Expr::value(Value::Number((at + 1).to_string(), false));
        }
    }
}

/// Whether the name alone stands where it may mean the column of the answer.
fn is_used(select: &Select, items: &[OrderByExpr], name: &Ident) -> bool {
    let is_it = |expr: &Expr| match expr {
        Expr::Identifier(used) if used.value == name.value => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    visit_expressions(&select.group_by, is_it).is_break()
        || visit_expressions(&select.having, is_it).is_break()
        || visit_expressions(&select.qualify, is_it).is_break()
        || items.iter().any(|item| visit_expressions(item, is_it).is_break())
}

/// Puts a query whose columns were renamed into one that gives them these names.
fn renamed(query: &mut Query, names: &[Ident]) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(()) };
    let Some(inside) = self::names(&select.projection) else { return Ok(()) };
    let quoted = |name: &Ident| Ident::with_quote('"', &name.value);
    let columns: Vec<String> = inside
        .iter()
        .zip(names)
        .map(|(inside, outside)| format!("\"{ORDERED}\".{} AS {}", quoted(inside), quoted(outside)))
        .collect();
    let sql = format!("SELECT {} FROM (SELECT 1) AS \"{ORDERED}\"", columns.join(", "));
    let fault = || Error::fault("a SELECT that does not parse");
    let mut statements = Parser::parse_sql(&GenericDialect, &sql).map_err(|_| fault())?;
    let Some(Statement::Query(mut outside)) = statements.pop() else { return Err(fault()) };
    let SetExpr::Select(select) = outside.body.as_mut() else { return Err(fault()) };
    let Some(TableFactor::Derived { subquery, .. }) = select.from.first_mut().map(|from| &mut from.relation) else {
        return Err(fault());
    };
    std::mem::swap(subquery.as_mut(), query);
    *query = *outside;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&GenericDialect, sql).unwrap().remove(0);
        settle(&mut statement).unwrap();
        statement.to_string()
    }

    #[test]
    fn what_nobody_confuses_stays() {
        for sql in [
            "SELECT a, b AS c FROM t ORDER BY t.a, c",
            "SELECT t.a AS a FROM t ORDER BY t.a",
            "SELECT upper(a) AS a FROM t ORDER BY a",
            "SELECT *, upper(a) AS a FROM t ORDER BY t.a",
            "SELECT DISTINCT upper(a) AS a FROM t ORDER BY t.a",
            "SELECT count(*) AS a FROM t GROUP BY a ORDER BY t.a",
        ] {
            assert_eq!(settled(sql), sql);
        }
    }

    #[test]
    fn a_column_of_the_answer_makes_way_for_the_one_that_is_read() {
        for (sql, apart) in [
            (
                "SELECT upper(t.a) AS a, b FROM t ORDER BY t.a, a DESC, b",
                r#"SELECT upper(t.a) AS "(column 1) a", b FROM t ORDER BY t.a, 1 DESC, 2"#,
            ),
            (
                "SELECT s.a FROM (SELECT 'x' AS a FROM t ORDER BY t.a LIMIT 2) AS s",
                r#"SELECT s.a FROM (SELECT "(ordered)"."(column 1) a" AS "a" FROM (SELECT 'x' AS "(column 1) a" FROM t ORDER BY t.a LIMIT 2) AS "(ordered)") AS s"#,
            ),
        ] {
            assert_eq!(settled(sql), apart);
        }
    }

    #[test]
    fn within_a_subquery_a_name_alone_is_a_number() {
        assert_eq!(
            settled("SELECT a FROM t WHERE a IN (SELECT u.b AS a FROM u ORDER BY a LIMIT 2) ORDER BY a"),
            "SELECT a FROM t WHERE a IN (SELECT u.b AS a FROM u ORDER BY 1 LIMIT 2) ORDER BY a"
        );
    }
}
