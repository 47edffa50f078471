//! The way from the text of a statement to one that is parsed, limited, bound and scoped.
//!
//! Invariant: what leaves here names no table but the caller's own, `system` and other users' for an admin; holds
//! no placeholder; and is no deeper or longer than the planner can take.

mod casts;
mod classify;
mod dialect;
mod forms;
mod grouping;
mod limits;
mod merged;
mod names;
mod ordering;
mod outputs;
mod params;
mod position;
mod qualify;
mod scope;
mod syntax;
mod tokens;
mod values;

use datafusion::sql::sqlparser::ast;
use kalamdb_protocol::{QueryRequest, Table, UserId};

pub(crate) use self::{names::suggestions, outputs::shown};
use crate::{Caller, Result};

/// A statement that may be run.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // There is one for a request, and it is moved twice.
pub(crate) enum Statement {
    /// SELECT, VALUES, or EXPLAIN of one.
    Read(Read),
    /// An INSERT.
    Insert(Insert),
    /// An UPDATE.
    Update(Update),
    /// A DELETE.
    Delete(Delete),
}

/// A read: an `ast::Statement::Query`, or an `ast::Statement::Explain` of one.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    /// The statement, its table names resolved to `"schema"."table"` (CTE names stay as they are).
    pub statement: ast::Statement,
    /// The tables of other users that it reads: none when only its plan is explained.
    pub foreign: Vec<Foreign>,
}

/// The owners whose rows a table reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Schema {
    /// This user: the caller, or any for an admin.
    Owner(UserId),
    /// `*`: everybody's, with a leading `owner` column; admins only.
    All,
}

/// A table outside the caller's own schema that an admin's statement names: what the audit log records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// The user whose audit log gets the entry: the schema's owner, or for `*` the admin.
    pub log: UserId,
    /// The table, like `alice.messages`.
    pub table: String,
    /// Whether the statement writes it.
    pub written: bool,
}

/// The table that a write names.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The owners of the rows.
    pub schema: Schema,
    /// The table.
    pub table: &'static Table,
}

/// `INSERT INTO target (columns) source`.
#[derive(Debug, Clone)]
pub(crate) struct Insert {
    /// The table that gets the rows.
    pub target: Target,
    /// Canonical names, checked and without repetition; every column of the table when the statement names none
    /// (for `*.` the first is `owner`).
    pub columns: Vec<String>,
    /// The query of the rows; scoped like a read.
    pub source: Box<ast::Query>,
    /// The tables of other users that it writes and reads.
    pub foreign: Vec<Foreign>,
}

/// `UPDATE target SET … WHERE …`.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// The table that is changed.
    pub target: Target,
    /// The target as it stands in the statement, resolved, with its alias: the FROM of a SELECT of the same rows.
    pub from: ast::TableWithJoins,
    /// Canonical column names and their new values.
    pub assignments: Vec<(String, ast::Expr)>,
    /// The WHERE clause.
    pub selection: Option<ast::Expr>,
    /// The tables of other users that it writes and reads.
    pub foreign: Vec<Foreign>,
}

/// `DELETE FROM target WHERE …`.
#[derive(Debug, Clone)]
pub(crate) struct Delete {
    /// The table that loses rows.
    pub target: Target,
    /// The target as it stands in the statement, resolved, with its alias: the FROM of a SELECT of the same rows.
    pub from: ast::TableWithJoins,
    /// The WHERE clause.
    pub selection: Option<ast::Expr>,
    /// The tables of other users that it writes and reads.
    pub foreign: Vec<Foreign>,
}

/// Parses, limits, binds and scopes one statement.
///
/// # Errors
/// `syntax_error`, `unknown_table`, `unknown_column`, `invalid_value`, `unsupported`, `scope_violation`,
/// `payload_too_large`, `query_too_large`.
pub(crate) fn parse(caller: &Caller, request: &QueryRequest, max_statement_bytes: usize) -> Result<Statement> {
    limits::check_bytes(&request.sql, max_statement_bytes)?;
    let mut tokens = tokens::read(&request.sql)?;
    let spellings = tokens::rewrite(&mut tokens);
    limits::check_shape(&tokens)?;
    let mut statement = syntax::parse(tokens)?;
    params::bind(&mut statement, request.params.as_ref())?;
    values::settle(&mut statement)?;
    merged::settle(&mut statement)?;
    casts::settle(&mut statement);
    ordering::settle(&mut statement)?;
    limits::check_explained(&statement)?;
    classify::classify(statement, scope::Scope::new(caller, &spellings))
}
