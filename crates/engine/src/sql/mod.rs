//! The way from the text of a statement to one that is parsed, limited, bound and scoped.
//!
//! Invariant: what leaves here names no table but the caller's own, `system` and other users' for an admin; holds
//! no placeholder, unless it is a template; and is no deeper or longer than the planner can take.

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
mod shape;
mod syntax;
mod tokens;
mod values;
mod wildcards;
mod windows;

use datafusion::sql::sqlparser::ast;
use kalamdb_protocol::{Params, QueryRequest, Table, UserId};

use self::shape::Used;
pub(crate) use self::{
    names::suggestions,
    outputs::shown,
    shape::{Shape, Values},
};
use crate::{Caller, Result};

/// The user in whose place everybody stands in a [`Template`].
pub(crate) const NOBODY: &str = "nobody";

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

/// A read that is parsed once for many requests: its values are placeholders still, and its tables are [`NOBODY`]'s, in
/// the place of whoever asks.
pub(crate) struct Template {
    /// The statement, as in [`Read`].
    pub statement: ast::Statement,
    used: Used,
}

impl Template {
    /// Whether a request gives the parameters that it uses, and no others.
    pub fn takes(&self, params: Option<&Params>) -> bool {
        self.used.is_given(params)
    }
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
    read(&request.sql, caller, |statement| params::bind(statement, request.params.as_ref()))
}

/// Parses the shape of a read, for all users who may send such a statement about their own tables; `None` where a
/// statement of this shape has to be parsed by itself.
pub(crate) fn template(shape: &Shape) -> Option<Template> {
    // A schema that is named must be a user's: who names this one does not mean a table of their own.
    if shape.text.contains(NOBODY) {
        return None;
    }
    let nobody = Caller { user: UserId::new(NOBODY).ok()?, admin: false };
    let Ok(Statement::Read(Read { statement, .. })) = read(&shape.text, &nobody, |_| Ok(())) else { return None };
    let used = Used::by(&statement);
    Some(Template { statement, used })
}

fn read(sql: &str, caller: &Caller, bind: impl FnOnce(&mut ast::Statement) -> Result<()>) -> Result<Statement> {
    let mut tokens = tokens::read(sql)?;
    let spellings = tokens::rewrite(&mut tokens);
    limits::check_shape(&tokens)?;
    let mut statement = syntax::parse(tokens)?;
    bind(&mut statement)?;
    values::settle(&mut statement)?;
    windows::settle(&mut statement)?;
    merged::settle(&mut statement)?;
    casts::settle(&mut statement);
    ordering::settle(&mut statement)?;
    limits::check_explained(&statement)?;
    classify::classify(statement, scope::Scope::new(caller, &spellings))
}
