//! The parts of a statement that the short way knows.
//!
//! Invariant: every part of a statement is looked at, and one that is not known here leaves the statement to the planner:
//! nothing is overlooked. Names have the spelling that they are known by, as scoping leaves them.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, LimitClause, ObjectName,
    ObjectNamePart, OrderBy, OrderByExpr, OrderByKind, Query, Select, SelectFlavor, SelectItem, SetExpr, Statement,
    TableAlias, TableFactor, TableWithJoins, Value, ValueWithSpan,
};
use kalamdb_protocol::{Column, MsgId, TABLES, Table};

use crate::sql::Values;

/// A SELECT from one table: `SELECT projection FROM "schema"."table" WHERE condition ORDER BY order LIMIT limit`.
pub(super) struct Plain<'a> {
    pub schema: &'a str,
    pub table: Named<'a>,
    pub projection: &'a [SelectItem],
    pub condition: Option<&'a Expr>,
    pub order: &'a [OrderByExpr],
    pub limit: Option<&'a Expr>,
}

/// A table, and the name that its columns may stand behind.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub table: &'static Table,
    known_as: &'a str,
}

impl<'a> Plain<'a> {
    /// The parts of a statement; `None` when it has any other.
    pub fn of(statement: &'a Statement) -> Option<Self> {
        let Statement::Query(query) = statement else { return None };
        let (select, order, limit) = plain_query(query)?;
        let (projection, from, condition) = plain_select(select)?;
        let (schema, table) = named(from)?;
        let order = match order {
            None => &[],
            Some(OrderBy { kind: OrderByKind::Expressions(exprs), interpolate: None }) => exprs.as_slice(),
            Some(_) => return None,
        };
        let limit = match limit {
            None => None,
            Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by }) if limit_by.is_empty() => {
                Some(limit)
            }
            Some(_) => return None,
        };
        Some(Self { schema, table, projection, condition, order, limit })
    }

    /// As [`Self::of`], of the table and the condition of an UPDATE or DELETE.
    pub fn of_write(from: &'a TableWithJoins, condition: Option<&'a Expr>) -> Option<Self> {
        let TableWithJoins { relation, joins } = from;
        let (schema, table) = named(relation)?;
        joins.is_empty().then_some(Self { schema, table, projection: &[], condition, order: &[], limit: None })
    }
}

/// A query that is a SELECT with at most ORDER BY and LIMIT behind it.
fn plain_query(query: &Query) -> Option<(&Select, Option<&OrderBy>, Option<&LimitClause>)> {
    let Query {
        with: None,
        body,
        order_by,
        limit_clause,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = query
    else {
        return None;
    };
    let SetExpr::Select(select) = body.as_ref() else { return None };
    (locks.is_empty() && pipe_operators.is_empty()).then_some((select, order_by.as_ref(), limit_clause.as_ref()))
}

/// A SELECT of columns of one table with at most a WHERE.
fn plain_select(select: &Select) -> Option<(&[SelectItem], &TableFactor, Option<&Expr>)> {
    let Select {
        select_token: _,
        optimizer_hints,
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: _,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views,
        prewhere: None,
        selection,
        connect_by,
        group_by: GroupByExpr::Expressions(keys, modifiers),
        cluster_by,
        distribute_by,
        sort_by,
        having: None,
        named_window,
        qualify: None,
        window_before_qualify: _,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    } = select
    else {
        return None;
    };
    let [TableWithJoins { relation, joins }] = from.as_slice() else { return None };
    let plain = optimizer_hints.is_empty()
        && lateral_views.is_empty()
        && connect_by.is_empty()
        && keys.is_empty()
        && modifiers.is_empty()
        && cluster_by.is_empty()
        && distribute_by.is_empty()
        && sort_by.is_empty()
        && named_window.is_empty()
        && joins.is_empty();
    plain.then_some((projection, relation, selection.as_ref()))
}

/// The schema of `"schema"."table"`, and the table.
fn named(from: &TableFactor) -> Option<(&str, Named<'_>)> {
    let TableFactor::Table {
        name: ObjectName(name),
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = from
    else {
        return None;
    };
    let [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(table)] = name.as_slice() else { return None };
    let known_as = match alias {
        None => &table.value,
        Some(TableAlias { explicit: _, name, columns, at: None }) if columns.is_empty() => &name.value,
        Some(_) => return None,
    };
    let table = TABLES.iter().find(|known| known.name == table.value)?;
    let plain = with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty();
    plain.then_some((&schema.value, Named { table, known_as }))
}

impl Named<'_> {
    /// The table's column that an expression is, and its index.
    pub fn column(self, expr: &Expr) -> Option<(usize, &'static Column)> {
        let name = match expr {
            Expr::Identifier(name) => name,
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [of, name] if of.value == self.known_as => name,
                _ => return None,
            },
            _ => return None,
        };
        self.table.columns.iter().enumerate().find(|(_, column)| column.name == name.value)
    }

    /// The columns of an answer, as indexes of the table's, and their names.
    pub fn columns(self, projection: &[SelectItem]) -> Option<Vec<(usize, String)>> {
        if let [SelectItem::Wildcard(options)] = projection {
            let all = self.table.columns.iter().enumerate();
            let plain = options.opt_ilike.is_none()
                && options.opt_exclude.is_none()
                && options.opt_except.is_none()
                && options.opt_replace.is_none()
                && options.opt_rename.is_none()
                && options.opt_alias.is_none();
            return plain.then(|| all.map(|(index, column)| (index, column.name.to_owned())).collect());
        }
        let columns = projection.iter().map(|item| match item {
            SelectItem::UnnamedExpr(expr) => self.column(expr).map(|(index, column)| (index, column.name.to_owned())),
            SelectItem::ExprWithAlias { expr, alias } if is_a_word(&alias.value) => {
                self.column(expr).map(|(index, _)| (index, alias.value.clone()))
            }
            _ => None,
        });
        columns.collect()
    }

    /// A column that an answer is ordered by, whether from the highest on, and whether NULLs come first; `None` where it
    /// is another expression, or a name of the answer stands for another column there.
    pub fn order(self, by: &OrderByExpr, columns: &[(usize, String)]) -> Option<(usize, bool, bool)> {
        let (by, key, descending, nulls_first) = match by {
            OrderByExpr { expr, options, with_fill: None } => {
                let (index, column) = self.column(expr)?;
                let descending = options.asc == Some(false);
                (index, column, descending, options.nulls_first.unwrap_or(descending))
            }
            OrderByExpr { .. } => return None,
        };
        let shadowed = columns.iter().any(|(index, name)| name.eq_ignore_ascii_case(key.name) && *index != by);
        (!shadowed).then_some((by, descending, nulls_first))
    }
}

/// A name that is nothing else: columns that are told apart for the planner have others.
fn is_a_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The name of a projection that is `COUNT(*)` alone.
pub(super) fn count_of_rows(projection: &[SelectItem]) -> Option<String> {
    let (expr, alias) = match projection {
        [SelectItem::UnnamedExpr(expr)] => (expr, None),
        [SelectItem::ExprWithAlias { expr, alias }] if is_a_word(&alias.value) => (expr, Some(&alias.value)),
        _ => return None,
    };
    let Expr::Function(Function {
        name: ObjectName(name),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group,
    }) = expr
    else {
        return None;
    };
    let [ObjectNamePart::Identifier(name)] = name.as_slice() else { return None };
    let [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] = args.args.as_slice() else { return None };
    let plain = args.duplicate_treatment.is_none() && args.clauses.is_empty() && within_group.is_empty();
    let is_count = name.quote_style.is_none() && name.value.eq_ignore_ascii_case("count");
    (plain && is_count).then(|| alias.map_or_else(|| "count(*)".to_owned(), String::clone))
}

/// The value of a whole number that is not negative.
pub(super) fn number(expr: &Expr, values: Values) -> Option<MsgId> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, false), .. }) => digits.parse().ok(),
        Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => values.number(name),
        _ => None,
    }
}

/// The value of a text.
pub(super) fn text<'a>(expr: &'a Expr, values: Values<'a>) -> Option<&'a str> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Some(text),
        Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => values.text(name),
        _ => None,
    }
}
