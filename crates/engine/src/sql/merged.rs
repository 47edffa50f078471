//! What a column's name alone means after `JOIN … USING`: the one column that both sides have become.
//!
//! Invariant: no such name reaches the planner, which takes it for the left side's column (NULL in rows that only the
//! right side of a RIGHT or FULL JOIN has, apache/datafusion#22881), and within a subquery for a column of the query around.
//! `SELECT conversationId FROM a FULL JOIN b USING (conversationId)` becomes
//! `SELECT coalesce(a.conversationId, b.conversationId) AS conversationId FROM …`.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectNamePart, OrderBy, OrderByKind, Query, ReplaceSelectElement,
    ReplaceSelectItem, Select, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use kalamdb_protocol::TABLES;

use super::{casts::coalesce, forms::unsupported};
use crate::{Error, Result};

const WRITE_ON: &str = "Which table's column USING means here is not clear; write ON with the tables' names.";
const NO_NATURAL: &str = "NATURAL RIGHT JOIN and NATURAL FULL JOIN are not offered; write USING (column).";
const NAME_TABLE: &str = "Within a subquery, a column that USING has merged needs its table's name before it.";

/// Writes out what merged columns mean.
pub(super) fn settle(statement: &mut Statement) -> Result<()> {
    match statement.visit(&mut Settle) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Settle;

impl VisitorMut for Settle {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        match in_body(&mut query.body, &mut query.order_by) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn in_body(body: &mut SetExpr, order_by: &mut Option<OrderBy>) -> Result<()> {
    match body {
        SetExpr::Select(select) => in_select(select, order_by),
        SetExpr::SetOperation { left, right, .. } => {
            in_body(left, &mut None)?;
            in_body(right, &mut None)
        }
        // A query in parentheses is visited by itself.
        _ => Ok(()),
    }
}

fn in_select(select: &mut Select, order_by: &mut Option<OrderBy>) -> Result<()> {
    let mut merged = HashMap::new();
    for tables in &select.from {
        merge(tables, &mut merged)?;
    }
    if merged.is_empty() {
        return Ok(());
    }
    let mut names = Names { merged: &merged, depth: 0 };
    let mut own = |part: &mut dyn FnMut(&mut Names) -> ControlFlow<Box<Error>>| match part(&mut names) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    };
    if let Some(OrderBy { kind: OrderByKind::Expressions(items), .. }) = order_by {
        for item in items {
            // A column of the answer goes before one that is read.
            if !matches!(&item.expr, Expr::Identifier(name) if is_answered(&select.projection, &name.value)) {
                own(&mut |names| item.visit(names))?;
            }
        }
    }
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(Expr::Identifier(name)) if merged.contains_key(&name.value) => {
                let (expr, alias) = (merged[&name.value].clone(), name.clone());
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
            SelectItem::Wildcard(options) if options.opt_replace.is_none() => options.opt_replace = replaced(&merged),
            item => own(&mut |names| item.visit(names))?,
        }
    }
    for tables in &mut select.from {
        for join in &mut tables.joins {
            own(&mut |names| join.join_operator.visit(names))?;
        }
    }
    own(&mut |names| select.distinct.visit(names))?;
    own(&mut |names| select.selection.visit(names))?;
    own(&mut |names| select.group_by.visit(names))?;
    own(&mut |names| select.having.visit(names))?;
    own(&mut |names| select.named_window.visit(names))?;
    own(&mut |names| select.qualify.visit(names))
}

/// Puts the meaning in the place of the name.
struct Names<'a> {
    merged: &'a HashMap<String, Expr>,
    /// Subqueries around: a name there may be a column of the subquery's own tables.
    depth: usize,
}

impl VisitorMut for Names<'_> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let Expr::Identifier(name) = expr else { return ControlFlow::Continue(()) };
        match self.merged.get(&name.value) {
            Some(_) if self.depth > 0 => return ControlFlow::Break(Box::new(unsupported(NAME_TABLE))),
            Some(meaning) => *expr = meaning.clone(),
            None => {}
        }
        ControlFlow::Continue(())
    }
}

fn is_answered(projection: &[SelectItem], name: &str) -> bool {
    projection.iter().any(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => alias.value == name,
        SelectItem::UnnamedExpr(Expr::Identifier(column)) => column.value == name,
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().is_some_and(|last| last.value == name),
        SelectItem::Wildcard(_) => true,
        _ => false,
    })
}

fn is_wildcard(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
}

/// `* REPLACE (coalesce(a.c, b.c) AS c)`, for those that are not the left side's own.
fn replaced(merged: &HashMap<String, Expr>) -> Option<ReplaceSelectItem> {
    let of_both = merged.iter().filter(|(_, meaning)| matches!(meaning, Expr::Function(_)));
    let items: Vec<_> = of_both
        .map(|(name, meaning)| {
            Box::new(ReplaceSelectElement {
                expr: meaning.clone(),
                column_name: Ident::with_quote('"', name),
                as_keyword: true,
            })
        })
        .collect();
    (!items.is_empty()).then_some(ReplaceSelectItem { items })
}

/// Adds what each name that USING merges means after the last join.
fn merge(tables: &TableWithJoins, merged: &mut HashMap<String, Expr>) -> Result<()> {
    let mut left = vec![&tables.relation];
    let mut here: HashMap<String, Expr> = HashMap::new();
    for join in &tables.joins {
        let keeps_right = matches!(
            join.join_operator,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
        );
        match constraint(&join.join_operator) {
            Some(JoinConstraint::Natural) if keeps_right => return Err(unsupported(NO_NATURAL)),
            Some(JoinConstraint::Using(columns)) => {
                for column in columns {
                    let Some(ObjectNamePart::Identifier(name)) = column.0.last() else { continue };
                    let of_left = match here.get(&name.value) {
                        // The planner joins by the first side's column alone.
                        Some(Expr::Function(_)) => return Err(unsupported(WRITE_ON)),
                        Some(before) => before.clone(),
                        None => column_of(only_with(&left, name)?, name)?,
                    };
                    let meaning =
                        if keeps_right { coalesce([of_left, column_of(&join.relation, name)?]) } else { of_left };
                    here.insert(name.value.clone(), meaning);
                }
            }
            _ => {}
        }
        left.push(&join.relation);
    }
    merged.extend(here);
    Ok(())
}

/// The one of these that has the column.
fn only_with<'a>(tables: &[&'a TableFactor], column: &Ident) -> Result<&'a TableFactor> {
    let with = |wanted: Option<bool>| {
        let mut found = tables.iter().filter(move |table| has(table, column) == wanted);
        (found.next(), found.next())
    };
    match (with(Some(true)), with(None)) {
        ((Some(only), None), _) | ((None, _), (Some(only), None)) => Ok(only),
        _ => Err(unsupported(WRITE_ON)),
    }
}

/// Whether a relation has the column; `None` when its text does not tell.
fn has(table: &TableFactor, column: &Ident) -> Option<bool> {
    match table {
        TableFactor::Table { name, .. } => {
            let table = name.0.last().and_then(ObjectNamePart::as_ident)?;
            let known = TABLES.iter().find(|known| known.name == table.value)?;
            Some(known.columns.iter().any(|known| known.name == column.value))
        }
        TableFactor::Derived { subquery, .. } => match subquery.body.as_ref() {
            SetExpr::Select(select) if select.projection.iter().any(is_wildcard) => None,
            SetExpr::Select(select) => Some(is_answered(&select.projection, &column.value)),
            _ => None,
        },
        _ => None,
    }
}

/// `t.column`, by what the relation is called.
fn column_of(table: &TableFactor, column: &Ident) -> Result<Expr> {
    let mut parts = match table {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            vec![alias.name.clone()]
        }
        TableFactor::Table { name, alias: None, .. } => {
            name.0.iter().filter_map(ObjectNamePart::as_ident).cloned().collect()
        }
        _ => return Err(unsupported(WRITE_ON)),
    };
    parts.push(column.clone());
    Ok(Expr::CompoundIdentifier(parts))
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    use JoinOperator::{
        Anti, CrossJoin, FullOuter, Inner, Join, Left, LeftAnti, LeftOuter, LeftSemi, Right, RightAnti, RightOuter,
        RightSemi, Semi,
    };
    match operator {
        Join(on) | Inner(on) | Left(on) | LeftOuter(on) | Right(on) | RightOuter(on) | FullOuter(on)
        | CrossJoin(on) | Semi(on) | LeftSemi(on) | RightSemi(on) | Anti(on) | LeftAnti(on) | RightAnti(on) => Some(on),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};

    use super::*;

    fn settled(sql: &str) -> Result<String> {
        let mut statement = Parser::parse_sql(&GenericDialect, sql).unwrap().remove(0);
        settle(&mut statement)?;
        Ok(statement.to_string())
    }

    #[test]
    fn a_merged_column_is_that_of_the_side_that_has_it() {
        for (sql, meant) in [
            ("SELECT c FROM a JOIN b USING (c)", "SELECT a.c AS c FROM a JOIN b USING(c)"),
            (
                "SELECT c, count(*) FROM a FULL JOIN b USING (c) GROUP BY c ORDER BY c",
                "SELECT coalesce(a.c, b.c) AS c, count(*) FROM a FULL JOIN b USING(c) GROUP BY coalesce(a.c, b.c) ORDER BY c",
            ),
            (
                "SELECT b.d FROM a RIGHT JOIN b USING (c) WHERE c > 1 ORDER BY c",
                "SELECT b.d FROM a RIGHT JOIN b USING(c) WHERE coalesce(a.c, b.c) > 1 ORDER BY coalesce(a.c, b.c)",
            ),
            (
                "SELECT * FROM a FULL JOIN b USING (c)",
                r#"SELECT * REPLACE (coalesce(a.c, b.c) AS "c") FROM a FULL JOIN b USING(c)"#,
            ),
            (
                "SELECT c FROM a JOIN b USING (c) FULL JOIN d USING (c)",
                "SELECT coalesce(a.c, d.c) AS c FROM a JOIN b USING(c) FULL JOIN d USING(c)",
            ),
            (
                "SELECT 1 FROM messages m JOIN auditLog l ON TRUE JOIN b USING (msgId) WHERE msgId = 1",
                "SELECT 1 FROM messages m JOIN auditLog l ON true JOIN b USING(msgId) WHERE m.msgId = 1",
            ),
        ] {
            assert_eq!(settled(sql).unwrap(), meant);
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for sql in [
            "SELECT c FROM a JOIN d ON TRUE FULL JOIN b USING (c)",
            "SELECT c FROM a FULL JOIN b USING (c) FULL JOIN d USING (c)",
            "SELECT c FROM a NATURAL FULL JOIN b",
            "SELECT 1 FROM a FULL JOIN b USING (c) WHERE EXISTS (SELECT 1 FROM d WHERE d.e = c)",
        ] {
            assert!(settled(sql).is_err(), "{sql}");
        }
    }
}
