//! `SELECT *, *` and `SELECT *, m.*`: columns that a `*` names for a second time.
//!
//! Invariant: such a `*` is written out, column by column, so that [`super::outputs`] can tell its columns from those that are
//! there already. Table names are resolved by then.

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, TableFactor, WildcardAdditionalOptions,
};
use kalamdb_protocol::{OWNER_COLUMN, SYSTEM_TABLES, TABLES};

use super::{forms::unsupported, limits::check_list};
use crate::Result;

const NAME_COLUMNS: &str = "A second * here would repeat columns of a subquery, a WITH or a join by USING; name the columns \
                            that are to come twice.";

/// Writes out each `*` whose columns an earlier one has.
pub(super) fn write_out(body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::Select(select) => in_select(select),
        SetExpr::SetOperation { left, right, .. } => {
            write_out(left)?;
            write_out(right)
        }
        _ => Ok(()),
    }
}

fn in_select(select: &mut Select) -> Result<()> {
    let wildcards: Vec<Option<Ident>> = select.projection.iter().filter_map(wildcard).collect();
    if wildcards.len() < 2 {
        return Ok(());
    }
    let mut seen: Vec<Option<Ident>> = Vec::new();
    let mut items = Vec::with_capacity(select.projection.len());
    for item in std::mem::take(&mut select.projection) {
        let Some(table) = wildcard(&item) else {
            items.push(item);
            continue;
        };
        let repeats = seen.iter().any(|one| one.is_none() || table.is_none() || *one == table);
        seen.push(table.clone());
        if !repeats {
            items.push(item);
            continue;
        }
        if !is_plain(&item) {
            return Err(unsupported(NAME_COLUMNS));
        }
        items.extend(columns(select, table.as_ref())?.into_iter().map(SelectItem::UnnamedExpr));
        check_list(items.len())?;
    }
    select.projection = items;
    Ok(())
}

/// The table of `m.*`, `None` within for `*`.
#[allow(clippy::option_option)] // One says whether it is a `*`, the other whether it names a table.
fn wildcard(item: &SelectItem) -> Option<Option<Ident>> {
    match item {
        SelectItem::Wildcard(_) => Some(None),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
            Some(name.0.last().and_then(ObjectNamePart::as_ident).map(|table| Ident::new(&table.value)))
        }
        _ => None,
    }
}

/// Whether a `*` has nothing after it (EXCEPT, REPLACE, …).
fn is_plain(item: &SelectItem) -> bool {
    let (SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options)) = item else { return false };
    let plain = WildcardAdditionalOptions { wildcard_token: options.wildcard_token.clone(), ..Default::default() };
    *options == plain
}

/// The columns of one table of a SELECT, or of all of them.
fn columns(select: &Select, only: Option<&Ident>) -> Result<Vec<Expr>> {
    let mut columns = Vec::new();
    for from in &select.from {
        let joined = from.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&from.relation).chain(joined) {
            of_table(factor, only, &mut columns)?;
        }
        if from.joins.iter().any(|join| merges(&join.join_operator)) {
            return Err(unsupported(NAME_COLUMNS));
        }
    }
    if columns.is_empty() { Err(unsupported(NAME_COLUMNS)) } else { Ok(columns) }
}

fn of_table(factor: &TableFactor, only: Option<&Ident>, columns: &mut Vec<Expr>) -> Result<()> {
    let parts = match factor {
        TableFactor::Table { name: ObjectName(parts), .. } => parts.as_slice(),
        _ => &[],
    };
    let [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(table)] = parts else {
        // It may be the one that is meant.
        return Err(unsupported(NAME_COLUMNS));
    };
    let TableFactor::Table { alias, .. } = factor else { return Ok(()) };
    let called = alias.as_ref().map_or(table, |alias| &alias.name);
    if only.is_some_and(|only| only.value != called.value) {
        return Ok(());
    }
    if alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
        return Err(unsupported(NAME_COLUMNS));
    }
    let Some(known) = TABLES.iter().chain(SYSTEM_TABLES).find(|known| known.name == table.value) else {
        return Err(unsupported(NAME_COLUMNS));
    };
    let owner = (schema.value == "*").then_some(OWNER_COLUMN.name);
    for column in owner.into_iter().chain(known.columns.iter().map(|column| column.name)) {
        let column = Ident::with_quote('"', column);
        columns.push(Expr::CompoundIdentifier(match alias {
            Some(alias) => vec![alias.name.clone(), column],
            None => vec![schema.clone(), table.clone(), column],
        }));
    }
    Ok(())
}

fn merges(join: &JoinOperator) -> bool {
    let (JoinOperator::Join(constraint)
    | JoinOperator::Inner(constraint)
    | JoinOperator::Left(constraint)
    | JoinOperator::LeftOuter(constraint)
    | JoinOperator::Right(constraint)
    | JoinOperator::RightOuter(constraint)
    | JoinOperator::FullOuter(constraint)) = join
    else {
        return false;
    };
    matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural)
}
