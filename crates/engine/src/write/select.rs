//! An UPDATE or DELETE as the SELECT of the rows it means.
//!
//! Invariant: the statement's own parts are moved, never rendered to text and parsed again.

use std::sync::atomic::Ordering;

use datafusion::{
    arrow::array::{Array, ArrayRef, RecordBatch},
    common::ScalarValue,
    logical_expr::LogicalPlan,
    sql::sqlparser::{
        ast::{self, Expr, Ident, SelectItem, SetExpr, Value, ValueWithSpan},
        dialect::GenericDialect,
        parser::Parser,
    },
};
use kalamdb_protocol::{ColumnType, Table};

use super::{
    Preparing,
    rows::{TypedRows, kind_in},
    whole,
};
use crate::{
    Error, Result,
    functions::kinds,
    sql::{Insert, Schema, Target},
};

/// The name of a column's new value among the selected columns.
pub(super) fn assigned(column: &str) -> String {
    format!("set {column}")
}

/// The column that an assigned value is for.
fn assigned_column(name: &str) -> &str {
    name.strip_prefix("set ").unwrap_or(name)
}

impl Preparing<'_> {
    /// The rows that an UPDATE or DELETE means: `columns` of each, and the new values, called [`assigned`].
    pub(super) async fn select(
        &self,
        target: &Target,
        from: &ast::TableWithJoins,
        columns: &[&str],
        assignments: &[(String, Expr)],
        selection: Option<&Expr>,
    ) -> Result<TypedRows> {
        let owner = (target.schema == Schema::All).then_some("owner");
        let columns: Vec<&str> = owner.into_iter().chain(columns.iter().copied()).collect();
        let mut names: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        names.extend(assignments.iter().map(|(column, _)| assigned(column)));
        if let Some(rows) = self.keyed(target, from, &columns, assignments, selection)? {
            return typed(names, [rows.as_slice()], target.table);
        }
        let existing = columns.iter().map(|column| SelectItem::UnnamedExpr(Expr::Identifier(quoted(column))));
        let new = assignments
            .iter()
            .map(|(column, value)| SelectItem::ExprWithAlias { expr: value.clone(), alias: quoted(&assigned(column)) });
        let query = query(existing.chain(new).collect(), from.clone(), selection.cloned())?;
        self.rows(query, names, columns.len(), target.table).await
    }

    /// The same columns, of rows that are named by their key and get plain values: no planner is needed to find them.
    fn keyed(
        &self,
        target: &Target,
        from: &ast::TableWithJoins,
        columns: &[&str],
        assignments: &[(String, Expr)],
        selection: Option<&Expr>,
    ) -> Result<Option<Vec<ArrayRef>>> {
        let values = assignments.iter().map(|(_, value)| constant(value)).collect::<Option<Vec<_>>>();
        let Some(values) = values.filter(|_| target.schema != Schema::All) else { return Ok(None) };
        let Some(mut rows) = self.view.checked(|| self.view.keyed(from, selection, columns))? else { return Ok(None) };
        self.has_read.store(true, Ordering::Relaxed);
        let count = rows.first().map_or(0, Array::len);
        for value in values {
            rows.push(self.view.checked(|| value.to_array_of_size(count))?);
        }
        Ok(Some(rows))
    }

    /// The rows that an INSERT's source comes to, under the names of its columns. Times that the client gives are told
    /// apart by their size; what comes from a time column is not guessed at again.
    pub(super) async fn source(&self, insert: &Insert) -> Result<TypedRows> {
        let plan = self.planned(insert.source.as_ref().clone(), 0, insert.columns.len())?;
        let fields = plan.schema().fields().iter();
        let exact = kinds(&plan).into_iter().zip(fields);
        let exact: Vec<bool> = exact.map(|(kind, field)| kind.is_exact() || field.data_type().is_temporal()).collect();
        let rows = self.collected(plan, insert.columns.clone(), insert.target.table).await?;
        Ok(rows.in_micros(|column, name| !exact[column] && kind_in(insert.target.table, name) == ColumnType::Time))
    }

    /// The rows of a query under these names; from `first_value` on they are values to be written.
    async fn rows(
        &self,
        query: ast::Query,
        names: Vec<String>,
        first_value: usize,
        table: &Table,
    ) -> Result<TypedRows> {
        self.collected(self.planned(query, first_value, names.len())?, names, table).await
    }

    fn planned(&self, query: ast::Query, first_value: usize, columns: usize) -> Result<LogicalPlan> {
        let plan = self.view.plan(&ast::Statement::Query(Box::new(query)))?;
        let given = plan.schema().fields().len();
        if given != columns {
            return Err(super::invalid(format!("{columns} columns are named and {given} values given.")));
        }
        self.view.checked(|| whole::guard(plan, &(first_value..columns).collect()))
    }

    async fn collected(&self, plan: LogicalPlan, names: Vec<String>, table: &Table) -> Result<TypedRows> {
        self.has_read.store(true, Ordering::Relaxed);
        let batches = self.view.collect(plan).await?;
        typed(names, batches.iter().map(RecordBatch::columns), table)
    }
}

/// The rows in the types of the table's columns.
fn typed<'a>(
    names: Vec<String>,
    batches: impl IntoIterator<Item = &'a [ArrayRef]>,
    table: &Table,
) -> Result<TypedRows> {
    TypedRows::new(names, batches, |name| kind_in(table, assigned_column(name)))
}

/// The value of a plain constant: `7`, `'text'`, `NULL`.
fn constant(value: &Expr) -> Option<ScalarValue> {
    let Expr::Value(ValueWithSpan { value, .. }) = value else { return None };
    match value {
        Value::Number(digits, false) => digits.parse().ok().map(|number| ScalarValue::Int64(Some(number))),
        Value::SingleQuotedString(text) => Some(ScalarValue::Utf8View(Some(text.clone()))),
        Value::Null => Some(ScalarValue::Null),
        _ => None,
    }
}

fn quoted(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

/// `SELECT projection FROM from WHERE selection`.
fn query(projection: Vec<SelectItem>, from: ast::TableWithJoins, selection: Option<Expr>) -> Result<ast::Query> {
    let fault = || Error::fault("a SELECT that does not parse");
    // The AST has many fields that a plain SELECT leaves alone; the parser knows them all.
    let mut statements = Parser::parse_sql(&GenericDialect, "SELECT 1 FROM t").map_err(|_| fault())?;
    let Some(ast::Statement::Query(mut query)) = statements.pop() else { return Err(fault()) };
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(fault()) };
    select.projection = projection;
    select.from = vec![from];
    select.selection = selection;
    Ok(*query)
}
