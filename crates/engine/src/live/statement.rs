//! From a statement to what is watched: whose rows of which table, which of them, and what of each is told.
//!
//! Invariant: what is accepted here can be decided on one row alone, the same at any time. Everything else is refused
//! with a sentence that says what cannot be live.

use std::sync::Arc;

use datafusion::{
    common::{
        Column, TableReference,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{Expr, LogicalPlan, TableScan, utils::split_conjunction},
    sql::sqlparser::ast,
};
use kalamdb_protocol::{ErrorCode, OWNER_COLUMN, UserId};

use super::rows::LiveTable;
use crate::{
    Error, Result,
    read::{View, check_keys},
    sql::{Read, Schema},
};

/// A statement without its owner: subscriptions that differ in nothing else share one filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LiveStatement {
    pub table: LiveTable,
    /// Whether rows come with their owner.
    pub everybody: bool,
    /// The names of the columns that are told of each row: its key first, where the statement does not ask for it.
    pub names: Vec<String>,
    pub columns: Vec<Expr>,
    /// The condition that wanted rows meet; over the table's columns by their bare names.
    pub condition: Option<Expr>,
}

/// A statement, understood.
pub(super) struct Understood {
    pub scope: Schema,
    pub statement: LiveStatement,
    pub plan: LogicalPlan,
}

/// Understands a statement.
///
/// # Errors
/// What is wrong with it; `unsupported` when it cannot be live.
pub(super) fn understand(view: &View, read: &Read) -> Result<Understood> {
    if !matches!(read.statement, ast::Statement::Query(_)) {
        return Err(not_live("EXPLAIN", "send it as a query"));
    }
    let plan = view.plan(&read.statement)?;
    if view.varies(&plan)? {
        return Err(unsupported(
            "A live query cannot depend on time or chance: put a fixed value in the place of now(), random() and the \
             like.",
        ));
    }
    let shown = view.column_names(&plan);
    check_keys(&shown)?;
    let parts = PlanParts::of(view.analysed(plan.clone())?)?;
    let (scope, table) = (parts.scope()?, parts.table()?);
    let everybody = scope == Schema::All;
    let schema = table.schema(everybody);
    let settled = |expr: Expr| view.simplified(bare(expr)?, &schema);
    let condition = parts.condition.map(settled).transpose()?;
    let mut columns = Vec::with_capacity(parts.columns.len());
    for (name, expr) in shown.into_iter().zip(parts.columns) {
        columns.push((name, settled(expr)?));
    }
    let (names, columns) = with_key(table, everybody, columns)?.into_iter().unzip();
    Ok(Understood { statement: LiveStatement { table, everybody, names, columns, condition }, scope, plan })
}

impl LiveStatement {
    /// The conditions that say something about these columns only: what must hold of a row of which nothing else is
    /// known.
    pub fn conditions_on(&self, columns: &[&str]) -> Option<Expr> {
        let known = |expr: &&Expr| expr.column_refs().iter().all(|column| columns.contains(&column.name.as_str()));
        let conditions = self.condition.iter().flat_map(split_conjunction).filter(known).cloned();
        conditions.reduce(Expr::and)
    }
}

/// A projection over a filter over a table, taken apart.
struct PlanParts {
    columns: Vec<Expr>,
    condition: Option<Expr>,
    scan: TableScan,
}

impl PlanParts {
    fn of(plan: LogicalPlan) -> Result<Self> {
        let LogicalPlan::Projection(projection) = plan else { return Err(refused(&plan)) };
        let columns = projection.expr;
        let (condition, input) = match Arc::unwrap_or_clone(projection.input) {
            LogicalPlan::Filter(filter) => (Some(filter.predicate), Arc::unwrap_or_clone(filter.input)),
            input => (None, input),
        };
        if columns.iter().chain(&condition).any(has_subquery) {
            return Err(not_live("A subquery", "give its result as a parameter"));
        }
        Ok(Self { columns, condition, scan: scan(input)? })
    }

    fn scope(&self) -> Result<Schema> {
        let schema = self.scan.table_name.schema().unwrap_or_default();
        if schema == "*" {
            return Ok(Schema::All);
        }
        UserId::new(schema).map(Schema::Owner).map_err(|_| self.other_table())
    }

    fn table(&self) -> Result<LiveTable> {
        LiveTable::named(self.scan.table_name.table()).ok_or_else(|| self.other_table())
    }

    fn other_table(&self) -> Error {
        let name = match &self.scan.table_name {
            TableReference::Partial { schema, table } if UserId::new(schema).is_err() => format!("{schema}.{table}"),
            reference => reference.table().to_owned(),
        };
        unsupported(format!("{name} cannot be live; messages, conversations and conversationUsers can."))
    }
}

/// The table below its alias.
fn scan(plan: LogicalPlan) -> Result<TableScan> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => scan(Arc::unwrap_or_clone(alias.input)),
        LogicalPlan::TableScan(scan) => Ok(scan),
        other => Err(refused(&other)),
    }
}

fn has_subquery(expr: &Expr) -> bool {
    let subquery = |expr: &Expr| {
        Ok(matches!(
            expr,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::ScalarSubquery(_)
                | Expr::OuterReferenceColumn(..)
        ))
    };
    // Nothing in there fails; if it did, the expression is none that is known.
    expr.exists(subquery).unwrap_or(true)
}

/// The expression under its name, its columns called by theirs alone.
fn bare(expr: Expr) -> Result<Expr> {
    let renamed = expr.unalias_nested().data.transform(|expr| {
        Ok(match expr {
            Expr::Column(Column { name, relation: Some(_), .. }) => {
                Transformed::yes(Expr::Column(Column::from_name(name)))
            }
            other => Transformed::no(other),
        })
    });
    renamed.data().map_err(|_| Error::fault("an expression that cannot be walked"))
}

/// The columns with those of the key, which must be what their names say.
fn with_key(table: LiveTable, everybody: bool, asked: Vec<(String, Expr)>) -> Result<Vec<(String, Expr)>> {
    let owner = everybody.then_some(OWNER_COLUMN.name);
    let mut columns = Vec::with_capacity(asked.len() + 1);
    for key in owner.into_iter().chain(table.description().key.iter().copied()) {
        let column = Expr::Column(Column::from_name(key));
        match asked.iter().find(|(name, _)| name == key) {
            Some((_, expr)) if *expr == column => {}
            Some(_) => {
                let message =
                    format!("{key} is a row's key, which every row comes with; call what you compute by another name.");
                return Err(Error::new(ErrorCode::InvalidValue, message));
            }
            None => columns.push((key.to_owned(), column)),
        }
    }
    columns.extend(asked);
    Ok(columns)
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unsupported, message)
}

fn not_live(what: &str, advice: &str) -> Error {
    unsupported(format!("{what} cannot be live yet: {advice}."))
}

/// The refusal of a plan that is no projection over a filter over a table: it names what the plan is instead.
fn refused(plan: &LogicalPlan) -> Error {
    let select = "watch SELECT … FROM one table WHERE …, and";
    match plan {
        LogicalPlan::Join(_) => not_live("A join", "subscribe to each table by itself"),
        LogicalPlan::Aggregate(_) => not_live("An aggregate", &format!("{select} count what comes")),
        LogicalPlan::Distinct(_) => not_live("DISTINCT", &format!("{select} leave out what you have")),
        LogicalPlan::Sort(_) => not_live("ORDER BY", "rows come in the order in which they are written"),
        LogicalPlan::Limit(_) => not_live("LIMIT", &format!("{select} stop when you have enough")),
        LogicalPlan::Window(_) => not_live("A window function", &format!("{select} compute it of what comes")),
        LogicalPlan::Union(_) => not_live("UNION", "subscribe to each part by itself"),
        LogicalPlan::Unnest(_) => not_live("UNNEST", "watch the value as it is"),
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
            unsupported("A live query watches a table: messages, conversations or conversationUsers.")
        }
        _ => not_live("A query within the query", "name the table itself"),
    }
}
