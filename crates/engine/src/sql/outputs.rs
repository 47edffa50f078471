//! Columns of an answer that have the same name: the planner wants each to have its own, SQL does not.
//!
//! Invariant: only what a name would be taken twice for changes. Who refers to the name means the first of them, in ORDER BY
//! and in a query around. [`shown`] says what such a column is really called.

use std::{collections::HashSet, ops::ControlFlow};

use datafusion::{
    logical_expr::{Cast, Expr as Planned, TryCast},
    sql::sqlparser::ast::{Expr, Ident, Query, Select, SelectItem, SetExpr, visit_expressions},
};

/// The beginning of the planner's name of such a column; its number follows, and its own name if it was given one.
pub(super) const MARK: &str = "(column ";

/// Gives columns of the outermost SELECT that the planner would confuse a name of their own.
pub(super) fn tell_apart(query: &mut Query) {
    in_query(query, Place { within: None, alone: true });
}

/// The same in the query that is the `number`th within others.
pub(super) fn tell_apart_within(query: &mut Query, number: usize) {
    in_query(query, Place { within: Some(number), alone: true });
}

/// Where a SELECT stands.
#[derive(Clone, Copy)]
struct Place {
    /// The number of the query within others; `None` for the outermost.
    within: Option<usize>,
    /// Whether it is no part of a UNION or the like, whose ORDER BY knows the columns by their names only.
    alone: bool,
}

fn in_query(query: &mut Query, place: Place) {
    // With pipes it is not the SELECT that names the answer's columns.
    if query.pipe_operators.is_empty() {
        in_body(&mut query.body, place);
    }
}

fn in_body(body: &mut SetExpr, place: Place) {
    match body {
        SetExpr::Select(select) => in_select(select, place),
        SetExpr::Query(query) => in_query(query, place),
        SetExpr::SetOperation { left, right, .. } => {
            let place = Place { alone: false, ..place };
            in_body(left, place);
            in_body(right, place);
        }
        _ => {}
    }
}

fn in_select(select: &mut Select, place: Place) {
    let all = select.projection.iter().any(is_wildcard);
    // A query around knows a CAST by the name of its column.
    let distinct = select.distinct.is_some() || !place.alone || place.within.is_some();
    let mut taken = HashSet::new();
    for (number, item) in select.projection.iter_mut().enumerate() {
        let mark = match place.within {
            Some(query) => format!("{MARK}{}.{query})", number + 1),
            None => format!("{MARK}{})", number + 1),
        };
        match item {
            SelectItem::UnnamedExpr(expr) => {
                // A column beside a `*` is one of those already. A CAST would be called as what it is of, which ORDER BY
                // may mean; with DISTINCT that is no matter.
                let confused = all && is_column(expr) || is_cast(expr) && !distinct;
                if !taken.insert(name_of(expr, distinct)) || confused {
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', mark) };
                }
            }
            SelectItem::ExprWithAlias { alias, .. } if !taken.insert(alias.value.clone()) => {
                alias.value = format!("{mark} {}", alias.value);
                alias.quote_style = Some('"');
            }
            _ => {}
        }
    }
}

fn is_wildcard(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn is_cast(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => is_cast(inner),
        expr => matches!(expr, Expr::Cast { .. }),
    }
}

/// Whether a query stands in an expression. The planner calls all of them `<subquery>`.
fn has_subquery(expr: &Expr) -> bool {
    let is_subquery = |expr: &Expr| match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    visit_expressions(expr, is_subquery).is_break()
}

/// The name that the planner may give an expression: the column without its table, a cast value without the CAST, and
/// one for all that have a subquery.
fn name_of(expr: &Expr, distinct: bool) -> String {
    match expr {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => name_of(inner, distinct),
        Expr::Identifier(name) => name.value.clone(),
        // With DISTINCT an ORDER BY must find its column as it is written.
        Expr::CompoundIdentifier(parts) if !distinct => parts.last().map(|name| name.value.clone()).unwrap_or_default(),
        other if has_subquery(other) => "<subquery>".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

/// A column's name in an answer; `None` when that is the planner's name.
pub(crate) fn shown(name: &str, planned: &Planned) -> Option<String> {
    let (_, own) = name.strip_prefix(MARK)?.split_once(')')?;
    Some(match own.strip_prefix(' ') {
        Some(own) => own.to_owned(),
        None => called(planned),
    })
}

/// The name that an expression has without an alias.
fn called(planned: &Planned) -> String {
    match planned {
        Planned::Column(column) => column.name.clone(),
        Planned::Cast(Cast { expr, .. }) | Planned::TryCast(TryCast { expr, .. }) => called(expr),
        Planned::Alias(alias) => alias.name.clone(),
        other => other.schema_name().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{ast::Statement, dialect::GenericDialect, parser::Parser};

    use super::*;

    fn told_apart(sql: &str) -> String {
        let Statement::Query(mut query) = Parser::parse_sql(&GenericDialect, sql).unwrap().remove(0) else {
            panic!("{sql}")
        };
        tell_apart(&mut query);
        query.to_string()
    }

    #[test]
    fn what_has_a_name_of_its_own_keeps_it() {
        for sql in [
            "SELECT a, b, upper(a), 1, 'x' FROM t ORDER BY a",
            "SELECT *, upper(a) FROM t",
            "SELECT a AS x, b AS y FROM t",
            "SELECT DISTINCT CAST(a AS TEXT) FROM t",
            "SELECT DISTINCT m.a, n.a FROM m, n",
            "SELECT x FROM (SELECT a, a FROM t)",
            "SELECT CAST(a AS TEXT) FROM t UNION SELECT b FROM u ORDER BY a",
            "SELECT a, a FROM t |> WHERE a = 1",
            "VALUES (1, 1)",
        ] {
            assert_eq!(told_apart(sql), sql);
        }
    }

    #[test]
    fn what_would_be_called_alike_is_told_apart() {
        for (sql, apart) in [
            ("SELECT a, a FROM t", r#"SELECT a, a AS "(column 2)" FROM t"#),
            ("SELECT a AS x, b AS x FROM t", r#"SELECT a AS x, b AS "(column 2) x" FROM t"#),
            ("SELECT COUNT(*), count(*) FROM t", r#"SELECT COUNT(*), count(*) AS "(column 2)" FROM t"#),
            ("SELECT (SELECT 1), (SELECT 2)", r#"SELECT (SELECT 1), (SELECT 2) AS "(column 2)""#),
            (
                "SELECT EXISTS (SELECT 1), a, 1 + (SELECT 2) FROM t",
                r#"SELECT EXISTS (SELECT 1), a, 1 + (SELECT 2) AS "(column 3)" FROM t"#,
            ),
            ("SELECT *, a FROM t", r#"SELECT *, a AS "(column 2)" FROM t"#),
            ("SELECT CAST(a AS TEXT) FROM t ORDER BY a", r#"SELECT CAST(a AS TEXT) AS "(column 1)" FROM t ORDER BY a"#),
            ("SELECT m.a, n.a FROM m, n", r#"SELECT m.a, n.a AS "(column 2)" FROM m, n"#),
            ("SELECT 1, 1 UNION SELECT 2, 2", r#"SELECT 1, 1 AS "(column 2)" UNION SELECT 2, 2 AS "(column 2)""#),
        ] {
            assert_eq!(told_apart(sql), apart);
        }
    }

    #[test]
    fn the_answer_does_not_show_it() {
        let column = Planned::Column(datafusion::common::Column::new(Some("t"), "a"));
        assert_eq!(shown("(column 2)", &column).unwrap(), "a");
        assert_eq!(shown("(column 2) x", &column).unwrap(), "x");
        assert_eq!(shown("a", &column), None);
        let cast = datafusion::logical_expr::cast(column, datafusion::arrow::datatypes::DataType::Utf8);
        assert_eq!(shown("(column 1)", &cast).unwrap(), "a");
    }
}
