//! The forms of SQL that parse and are not offered: each with a sentence that says what to do instead.
//!
//! Invariant: what the planner would silently ignore (a lock, a sample, a hint) is refused, so that no statement does
//! something else than it says; and nothing reads a table but by its name.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType, Expr, GroupByExpr, OrderBy, OrderByKind, Query, Select, SelectFlavor, SelectItem,
    SetExpr, Statement, TableFactor, Value,
};
use kalamdb_protocol::{ErrorCode, TABLES};

use super::{
    grouping,
    limits::{check_list, check_wildcards},
    names::enumerated,
};
use crate::{Error, Result};

/// An error of the code `unsupported`.
pub(super) fn unsupported(message: &str) -> Error {
    Error::new(ErrorCode::Unsupported, message)
}

/// Refuses when `present`.
pub(super) fn refuse_if(present: bool, message: &str) -> Result<()> {
    if present { Err(unsupported(message)) } else { Ok(()) }
}

/// The advice for a statement that is none of SELECT, INSERT, UPDATE, DELETE and EXPLAIN.
pub(super) fn other_statement(statement: &Statement) -> Error {
    unsupported(match statement {
        Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { .. }
        | Statement::Savepoint { .. }
        | Statement::ReleaseSavepoint { .. } => {
            "There are no transactions; each statement is one, and an INSERT may have many rows."
        }
        Statement::Set(_) | Statement::Use(_) | Statement::Reset(_) => {
            "There is no session to set anything in; settings are the server's configuration."
        }
        Statement::Prepare { .. } | Statement::Execute { .. } | Statement::Deallocate { .. } => {
            "There are no prepared statements; send the statement with params each time."
        }
        Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ShowSchemas { .. }
        | Statement::ShowDatabases { .. }
        | Statement::ShowVariable { .. } => {
            let tables = enumerated(TABLES);
            return unsupported(&format!(
                "To see a table's columns, run SELECT * FROM it with LIMIT 0; the tables are {tables}."
            ));
        }
        Statement::Copy { .. } | Statement::CopyIntoSnowflake { .. } | Statement::Unload { .. } => {
            "Files are not read or written by SQL; ask for text/csv in the Accept header, or use kalamdb import."
        }
        Statement::Merge(_) => "MERGE is not offered; use INSERT and UPDATE.",
        Statement::Truncate(_) => "TRUNCATE is not offered; use DELETE FROM without WHERE.",
        _ => return only_these(),
    })
}

/// The refusal of any other statement, which says what there is.
pub(super) fn only_these() -> Error {
    unsupported("Only SELECT, INSERT, UPDATE, DELETE and EXPLAIN are offered; tables are fixed.")
}

/// A WITH name with a dot would pass for a schema and a table in the planner.
pub(super) fn check_with_name(name: &str) -> Result<()> {
    refuse_if(name.contains('.'), "The name of a WITH cannot have a dot in it; choose another.")
}

pub(super) fn check_query(query: &Query) -> Result<()> {
    refuse_if(!query.locks.is_empty(), "There are no row locks; leave FOR UPDATE or FOR SHARE out.")?;
    refuse_if(query.fetch.is_some(), "FETCH is not offered; use LIMIT.")?;
    let other = query.for_clause.is_some() || query.settings.is_some() || query.format_clause.is_some();
    refuse_if(other, "FOR XML, FOR JSON, SETTINGS and FORMAT are not offered; choose a format in the Accept header.")?;
    let from = query.with.iter().flat_map(|with| &with.cte_tables).any(|cte| cte.from.is_some());
    refuse_if(from, "FROM after a WITH query is not offered.")?;
    if let Some(OrderBy { kind: OrderByKind::Expressions(expressions), .. }) = &query.order_by {
        check_list(expressions.len())?;
    }
    check_body(&query.body)
}

/// A `TABLE t` holds its name as text and would pass every check of names.
fn check_body(body: &SetExpr) -> Result<()> {
    match body {
        SetExpr::SetOperation { left, right, .. } => check_body(left).and_then(|()| check_body(right)),
        SetExpr::Table(_) => Err(unsupported("TABLE t is not offered; write SELECT * FROM t.")),
        _ => Ok(()),
    }
}

pub(super) fn check_select(select: &Select) -> Result<()> {
    refuse_if(select.into.is_some(), "SELECT INTO is not offered; use INSERT INTO … SELECT.")?;
    refuse_if(select.top.is_some(), "TOP is not offered; use LIMIT.")?;
    let unusual = select.prewhere.is_some()
        || select.exclude.is_some()
        || select.value_table_mode.is_some()
        || select.select_modifiers.is_some()
        || select.flavor != SelectFlavor::Standard
        || !select.optimizer_hints.is_empty()
        || !select.connect_by.is_empty()
        || !select.lateral_views.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty();
    refuse_if(
        unusual,
        "This SELECT has a clause that is not offered; use FROM, WHERE, GROUP BY, HAVING and ORDER BY.",
    )?;
    check_list(select.projection.len())?;
    let is_wildcard = |item: &&SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    check_wildcards(select.projection.iter().filter(is_wildcard).count())?;
    if let GroupByExpr::Expressions(expressions, _) = &select.group_by {
        check_list(expressions.len())?;
    }
    grouping::check(&select.group_by)
}

pub(super) fn check_table_factor(factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table {
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
            ..
        } => {
            refuse_if(args.is_some(), "Functions cannot stand for tables here; use VALUES or UNNEST of an array.")?;
            let plain = with_hints.is_empty()
                && version.is_none()
                && !with_ordinality
                && partitions.is_empty()
                && json_path.is_none()
                && sample.is_none()
                && index_hints.is_empty();
            refuse_if(!plain, "A table may have an alias and nothing else here: no sample, version, partition or hint.")
        }
        TableFactor::Derived { sample, .. } => refuse_if(sample.is_some(), "Samples are not offered; use LIMIT."),
        TableFactor::NestedJoin { .. } | TableFactor::UNNEST { .. } => Ok(()),
        _ => Err(unsupported("Only tables, queries, VALUES and UNNEST of an array can stand in FROM.")),
    }
}

pub(super) fn check_expr(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Lambda(_) => Err(unsupported("Functions as values (x -> …) are not offered.")),
        // The planner plans each argument of `map` twice, so that nested ones would double its work at each level.
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("map") => {
            Err(unsupported("map(…) is not offered; use make_map(key, value, …)."))
        }
        Expr::Map(_) => Err(unsupported("MAP {…} is not offered; use make_map(key, value, …).")),
        // A syntax of sqlparser's own for reading JSON, which would not be what `a:b` means elsewhere.
        Expr::JsonAccess { .. } => Err(unsupported("Read JSON by metadata->>'key'.")),
        Expr::Cast { data_type, .. } if is_sized_array(data_type) => {
            Err(unsupported("An array type has no size here; write INT[] instead of INT[3]."))
        }
        Expr::Value(value) if matches!(value.value, Value::DoubleQuotedString(_)) => {
            Err(unsupported("Text stands in single quotes."))
        }
        _ => Ok(()),
    }
}

/// `INT[2000000000]`: one NULL of that type takes as many bytes.
fn is_sized_array(data_type: &DataType) -> bool {
    match data_type {
        DataType::Array(ArrayElemTypeDef::SquareBracket(_, Some(_))) => true,
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(inner, None)
            | ArrayElemTypeDef::AngleBracket(inner)
            | ArrayElemTypeDef::Parenthesis(inner),
        ) => is_sized_array(inner),
        DataType::Struct(fields, _) => fields.iter().any(|field| is_sized_array(&field.field_type)),
        _ => false,
    }
}
