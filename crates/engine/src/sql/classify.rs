//! The step from a parsed statement to one of the four kinds that there are, its columns checked.
//!
//! Invariant: a write names its table and its columns once each, and does nothing besides: no RETURNING, no LIMIT, no
//! second table.

use datafusion::sql::sqlparser::ast::{
    self, AssignmentTarget, Expr, FromTable, ObjectName, SetExpr, TableFactor, TableObject,
};
use kalamdb_protocol::{ErrorCode, OWNER_COLUMN, Table};

use super::{
    Delete, Insert, Read, Schema, Statement, Target, Update,
    forms::{self, refuse_if, unsupported},
    names::suggestions,
    outputs,
    scope::{self, Scope},
};
use crate::{Error, Result};

const NO_RETURNING: &str = "RETURNING is not offered; the answer of an INSERT has the ids of its messages.";

/// Classifies, checks and scopes a statement.
pub(super) fn classify(statement: ast::Statement, scope: Scope) -> Result<Statement> {
    match statement {
        ast::Statement::Query(query) => read(*query, scope, true, ast::Statement::Query),
        ast::Statement::Explain {
            statement,
            describe_alias,
            analyze,
            verbose,
            query_plan,
            estimate,
            format,
            options,
        } => {
            let plain = !query_plan && !estimate && format.is_none() && options.is_none();
            refuse_if(!plain, "EXPLAIN takes ANALYZE and VERBOSE and nothing else.")?;
            let ast::Statement::Query(query) = *statement else {
                return Err(unsupported("Only a SELECT can be explained."));
            };
            // VERBOSE prints statistics: how many rows there are, and the first and last id of each segment.
            read(*query, scope, analyze || verbose, |query| ast::Statement::Explain {
                statement: Box::new(ast::Statement::Query(query)),
                describe_alias,
                analyze,
                verbose,
                query_plan,
                estimate,
                format,
                options,
            })
        }
        ast::Statement::Insert(insert) => classify_insert(insert, scope).map(Statement::Insert),
        ast::Statement::Update(update) => classify_update(update, scope).map(Statement::Update),
        ast::Statement::Delete(delete) => classify_delete(delete, scope).map(Statement::Delete),
        other => Err(forms::other_statement(&other)),
    }
}

/// A read; `tells` says whether its answer tells of rows, and not of its plan alone.
fn read(
    mut query: ast::Query,
    mut scope: Scope,
    tells: bool,
    statement: impl FnOnce(Box<ast::Query>) -> ast::Statement,
) -> Result<Statement> {
    scope.resolve(&mut query)?;
    outputs::tell_apart(&mut query);
    scope::shorten(&scope, &mut query);
    let foreign = if tells { scope.foreign() } else { Vec::new() };
    Ok(Statement::Read(Read { statement: statement(Box::new(query)), foreign }))
}

fn classify_insert(insert: ast::Insert, mut scope: Scope) -> Result<Insert> {
    check_insert_form(&insert)?;
    let TableObject::TableName(mut name) = insert.table else {
        return Err(unsupported("INSERT INTO names a table."));
    };
    let (schema, table) = scope.target(&mut name)?;
    let target = Target { schema, table };
    let columns = target.insert_columns(&insert.columns)?;
    let Some(mut source) = insert.source else {
        let key = table.key.join(" and ");
        let message = format!("An INSERT needs rows; give at least {key}, and the rest takes its default.");
        return Err(Error::new(ErrorCode::Unsupported, message));
    };
    refuse_defaults(&source.body)?;
    scope.resolve(&mut source)?;
    outputs::tell_apart(&mut source);
    scope::shorten(&scope, &mut source);
    Ok(Insert { target, columns, source, foreign: scope.foreign() })
}

fn check_insert_form(insert: &ast::Insert) -> Result<()> {
    refuse_if(insert.returning.is_some() || insert.output.is_some(), NO_RETURNING)?;
    let upsert = insert.on.is_some() || insert.or.is_some() || insert.ignore || insert.replace_into;
    refuse_if(upsert, "ON CONFLICT and REPLACE are not offered; a key that is taken is a conflict: use UPDATE.")?;
    let unusual = insert.overwrite
        || insert.partitioned.is_some()
        || insert.has_table_keyword
        || insert.table_alias.is_some()
        || insert.priority.is_some()
        || insert.insert_alias.is_some()
        || insert.settings.is_some()
        || insert.format_clause.is_some()
        || insert.multi_table_insert_type.is_some()
        || !insert.assignments.is_empty()
        || !insert.after_columns.is_empty()
        || !insert.optimizer_hints.is_empty();
    refuse_if(unusual, "Write INSERT INTO table (columns) and then VALUES (…) or a SELECT.")
}

/// DEFAULT as a value, which only an INSERT without that column can mean.
fn refuse_defaults(body: &SetExpr) -> Result<()> {
    let SetExpr::Values(values) = body else { return Ok(()) };
    let is_default = |value: &Expr| matches!(value, Expr::Identifier(name) if is_default(name));
    let any = values.rows.iter().any(|row| row.content.iter().any(is_default));
    refuse_if(any, "To give a column its default, leave it out.")
}

fn is_default(name: &ast::Ident) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default")
}

fn classify_update(update: ast::Update, mut scope: Scope) -> Result<Update> {
    refuse_if(update.returning.is_some() || update.output.is_some(), NO_RETURNING)?;
    refuse_if(update.from.is_some(), "UPDATE takes values of other tables by a subquery: SET x = (SELECT …).")?;
    let limited = update.limit.is_some() || !update.order_by.is_empty();
    refuse_if(limited, "UPDATE has no LIMIT or ORDER BY; choose the rows by WHERE, for instance with a subquery.")?;
    refuse_if(update.or.is_some() || !update.optimizer_hints.is_empty(), "Write UPDATE table SET … WHERE ….")?;
    let (mut from, mut selection) = (update.table, update.selection);
    let target = write_target(&mut from, &mut scope)?;
    let mut assignments = Vec::with_capacity(update.assignments.len());
    for assignment in update.assignments {
        let AssignmentTarget::ColumnName(column) = assignment.target else {
            return Err(unsupported("Set each column by itself: SET a = …, b = …."));
        };
        let column = target.column(&column)?;
        if assignments.iter().any(|(assigned, _)| *assigned == column) {
            return Err(repeated(&column));
        }
        refuse_if(
            matches!(&assignment.value, Expr::Identifier(name) if is_default(name)),
            "DEFAULT is not offered in an UPDATE; write the value.",
        )?;
        assignments.push((column, assignment.value));
    }
    for (_, value) in &mut assignments {
        scope.resolve(value)?;
    }
    scope.resolve(&mut selection)?;
    scope::shorten(&scope, &mut from);
    for (_, value) in &mut assignments {
        scope::shorten(&scope, value);
    }
    scope::shorten(&scope, &mut selection);
    Ok(Update { target, from, assignments, selection, foreign: scope.foreign() })
}

fn classify_delete(delete: ast::Delete, mut scope: Scope) -> Result<Delete> {
    refuse_if(delete.returning.is_some() || delete.output.is_some(), NO_RETURNING)?;
    let joined = delete.using.is_some() || !delete.tables.is_empty();
    refuse_if(joined, "DELETE names one table; choose the rows by WHERE, for instance with a subquery.")?;
    let limited = delete.limit.is_some() || !delete.order_by.is_empty();
    refuse_if(limited, "DELETE has no LIMIT or ORDER BY; choose the rows by WHERE, for instance with a subquery.")?;
    refuse_if(!delete.optimizer_hints.is_empty(), "Write DELETE FROM table WHERE ….")?;
    let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = delete.from;
    let Ok([mut from]) = <[ast::TableWithJoins; 1]>::try_from(tables) else {
        return Err(unsupported("DELETE names one table."));
    };
    let mut selection = delete.selection;
    let target = write_target(&mut from, &mut scope)?;
    scope.resolve(&mut selection)?;
    scope::shorten(&scope, &mut from);
    scope::shorten(&scope, &mut selection);
    Ok(Delete { target, from, selection, foreign: scope.foreign() })
}

/// The one table that an UPDATE or DELETE names.
fn write_target(from: &mut ast::TableWithJoins, scope: &mut Scope) -> Result<Target> {
    refuse_if(!from.joins.is_empty(), "A write names one table; use a subquery for the others.")?;
    forms::check_table_factor(&from.relation)?;
    let TableFactor::Table { name, alias, .. } = &mut from.relation else {
        return Err(unsupported("A write names a table."));
    };
    let renamed = alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
    refuse_if(renamed, "The columns of the table of a write keep their names.")?;
    let (schema, table) = scope.target(name)?;
    Ok(Target { schema, table })
}

impl Target {
    /// The columns that can be named, in order.
    fn columns(&self) -> impl Iterator<Item = &'static str> + use<> {
        let owner = (self.schema == Schema::All).then_some(OWNER_COLUMN.name);
        let table: &'static Table = self.table;
        owner.into_iter().chain(table.columns.iter().map(|column| column.name))
    }

    /// The columns of an INSERT in the order of its values: all of them when it names none.
    fn insert_columns(&self, named: &[ObjectName]) -> Result<Vec<String>> {
        if named.is_empty() {
            return Ok(self.columns().map(str::to_owned).collect());
        }
        let mut columns = Vec::with_capacity(named.len());
        for name in named {
            let column = self.column(name)?;
            if columns.contains(&column) {
                return Err(repeated(&column));
            }
            columns.push(column);
        }
        Ok(columns)
    }

    /// The canonical name of a column.
    fn column(&self, name: &ObjectName) -> Result<String> {
        let [ast::ObjectNamePart::Identifier(name)] = name.0.as_slice() else {
            return Err(unsupported("A column of the table that is written is named by its name alone."));
        };
        let known = self.columns().find(|column| column.eq_ignore_ascii_case(&name.value));
        known.map(str::to_owned).ok_or_else(|| self.unknown_column(&name.value))
    }

    fn unknown_column(&self, name: &str) -> Error {
        let likely = suggestions(name, self.columns());
        let advice = match likely.first() {
            Some(likely) => format!("did you mean {likely}?"),
            None => format!("it has {}.", self.columns().collect::<Vec<_>>().join(", ")),
        };
        Error::new(ErrorCode::UnknownColumn, format!("{} has no such column; {advice}", self.table.name))
            .with("suggestions", likely)
    }
}

fn repeated(column: &str) -> Error {
    Error::new(ErrorCode::InvalidValue, format!("The column {column} is given twice; give it once."))
}

#[cfg(test)]
mod tests;
