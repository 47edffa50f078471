//! The scope of a statement: every reference to a table is resolved here, before anything is planned.
//!
//! Invariant: a plain user's statement leaves here naming nobody's tables but their own, wherever in it a name
//! stands; and what it is told about another user's schema does not depend on whether that user exists.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, Statement, TableAlias, TableFactor, VisitMut, VisitorMut, With,
};
use kalamdb_protocol::{ErrorCode, SYSTEM_SCHEMA, SYSTEM_TABLES, TABLES, Table, UserId};

use super::{
    Foreign, Schema, forms,
    limits::too_large,
    names::{PLACEHOLDER_SCHEMA, enumerated, suggestions},
    outputs, qualify,
    tokens::Spellings,
    wildcards,
};
use crate::{Caller, Error, Result};

/// Tables that a statement may read, with every use of a WITH counted in full: a WITH of two of the one before it is
/// twice as much to plan, and thirty of them would be a thousand million tables.
const MAX_TABLES: usize = 256;
const INFORMATION_SCHEMA: &str = "information_schema";

/// The schema of a table, as the caller may name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SchemaName {
    /// The schemas of users.
    Users(Schema),
    /// The schema `system`.
    System,
}

impl SchemaName {
    /// The schema's name as the planner gets it.
    fn name(&self) -> &str {
        match self {
            Self::Users(Schema::Owner(user)) => user.as_str(),
            Self::Users(Schema::All) => "*",
            Self::System => SYSTEM_SCHEMA,
        }
    }

    fn tables(&self) -> &'static [Table] {
        match self {
            Self::Users(_) => TABLES,
            Self::System => SYSTEM_TABLES,
        }
    }
}

/// A table that a statement names.
struct NamedTable {
    schema: SchemaName,
    table: &'static str,
    written: bool,
}

/// A query of a WITH.
struct WithName {
    /// The tables that it stands for.
    tables: usize,
    /// The planner's name of the query: a WITH within a WITH may use a name again, which the planner does not take.
    called: String,
}

/// Resolves the names of one statement.
pub(super) struct Scope<'a> {
    caller: &'a Caller,
    spellings: &'a Spellings,
    /// For each query around the present place, the WITH names that are in scope there.
    frames: Vec<HashMap<String, WithName>>,
    /// The WITH clauses of the queries around, taken out while their bodies are visited.
    withs: Vec<Option<With>>,
    /// The number of tables to read so far.
    tables: usize,
    /// The tables named so far, each once.
    named: Vec<NamedTable>,
    /// The number of queries within others so far.
    within: usize,
}

impl<'a> Scope<'a> {
    pub(super) fn new(caller: &'a Caller, spellings: &'a Spellings) -> Self {
        Self { caller, spellings, frames: Vec::new(), withs: Vec::new(), tables: 0, named: Vec::new(), within: 0 }
    }

    /// Resolves every name in `node`.
    pub(super) fn resolve(&mut self, node: &mut impl VisitMut) -> Result<()> {
        match node.visit(self) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(*error),
        }
    }

    /// Resolves the table that a write names.
    pub(super) fn target(&mut self, name: &mut ObjectName) -> Result<(Schema, &'static Table)> {
        match self.relation(name, true)? {
            (SchemaName::Users(schema), table) => Ok((schema, table)),
            (SchemaName::System, _) => Err(Error::new(
                ErrorCode::Unsupported,
                "The system tables show the server's state; they are read only.",
            )),
        }
    }

    /// The schema, when all tables named so far lie in the same one: then they go by their names alone.
    pub(super) fn only_schema(&self) -> Option<&str> {
        let (first, others) = self.named.split_first()?;
        others.iter().all(|other| other.schema == first.schema).then(|| first.schema.name())
    }

    /// The tables named so far that are not the caller's own. The server's own state is nobody's.
    pub(super) fn foreign(&self) -> Vec<Foreign> {
        let foreign = self.named.iter().filter_map(|named| {
            let log = match &named.schema {
                SchemaName::Users(Schema::Owner(owner)) if *owner != self.caller.user => owner,
                SchemaName::Users(Schema::All) => &self.caller.user,
                SchemaName::Users(Schema::Owner(_)) | SchemaName::System => return None,
            };
            let table = format!("{}.{}", named.schema.name(), named.table);
            Some(Foreign { log: log.clone(), table, written: named.written })
        });
        foreign.collect()
    }

    /// The query of a WITH that a name of one part means here.
    fn with_name(&self, name: &str) -> Option<&WithName> {
        self.frames.iter().rev().find_map(|frame| frame.get(name))
    }

    /// The query of a WITH that the planner knows by that name.
    fn with_called(&self, called: &str) -> Option<&WithName> {
        self.frames.iter().rev().flat_map(HashMap::values).find(|with| with.called == called)
    }

    /// Has a table that is a query of a WITH go by the name that the planner knows.
    fn call_with(&self, factor: &mut TableFactor) {
        if let TableFactor::Table { name, alias, .. } = factor
            && let [ObjectNamePart::Identifier(only)] = name.0.as_mut_slice()
            && only.quote_style != Some('\'')
            && let Some(with) = self.with_name(&only.value)
            && with.called != only.value
        {
            let written = only.clone();
            *only = Ident::with_quote_and_span('"', only.span, &with.called);
            alias.get_or_insert(TableAlias { explicit: true, name: written, columns: Vec::new(), at: None });
        }
    }

    /// Resolves a relation's name to `"schema"."table"`; a WITH name is left alone by whoever calls.
    fn relation(&mut self, name: &mut ObjectName, written: bool) -> Result<(SchemaName, &'static Table)> {
        let parts = identifiers(name)?;
        let (schema, table) = match parts.as_slice() {
            [table] => (self.own(), *table),
            [schema, table] => (self.schema_name(schema)?, *table),
            [qualifiers @ .., table] => {
                // Scope comes first, so that nothing is learnt about another user's tables.
                qualifiers.iter().try_for_each(|part| self.schema_name(part).map(drop))?;
                return Err(unknown_table(&table.value, None, &[]));
            }
            [] => return Err(unknown_table("", None, &[])),
        };
        let Some(known) = schema.tables().iter().find(|known| known.name.eq_ignore_ascii_case(&table.value)) else {
            return Err(self.unknown(&table.value, &schema, parts.len() == 1));
        };
        let span = table.span;
        let part = |text: &str| Ident::with_quote_and_span('"', span, text);
        *name = ObjectName::from(vec![part(schema.name()), part(known.name)]);
        if !self.named.iter().any(|named| named.schema == schema && named.table == known.name) {
            self.named.push(NamedTable { schema: schema.clone(), table: known.name, written });
        }
        Ok((schema, known))
    }

    fn own(&self) -> SchemaName {
        SchemaName::Users(Schema::Owner(self.caller.user.clone()))
    }

    /// The schema that a name means to the caller.
    fn schema_name(&self, schema: &Ident) -> Result<SchemaName> {
        let written = self.spellings.original(schema);
        // User ids compare exactly and may be any text, so a reserved word in quotes must be spelt exactly too.
        let is = |reserved: &str| match schema.quote_style {
            None => written.eq_ignore_ascii_case(reserved),
            Some(_) => written == reserved,
        };
        if written == self.caller.user.as_str() || is(PLACEHOLDER_SCHEMA) {
            return Ok(self.own());
        }
        if is(INFORMATION_SCHEMA) {
            let message = format!("There is no information_schema; the tables are {}.", enumerated(TABLES));
            return Err(Error::new(ErrorCode::UnknownTable, message));
        }
        if !self.caller.admin {
            let message = "Only your own tables can be named here: userId.messages, or just messages.";
            return Err(Error::new(ErrorCode::ScopeViolation, message));
        }
        if is("*") {
            return Ok(SchemaName::Users(Schema::All));
        }
        if is(SYSTEM_SCHEMA) {
            return Ok(SchemaName::System);
        }
        let user = UserId::new(written)
            .map_err(|error| Error::new(ErrorCode::UnknownTable, format!("The schema is no user's: {error}.")))?;
        Ok(SchemaName::Users(Schema::Owner(user)))
    }

    fn unknown(&self, name: &str, schema: &SchemaName, bare: bool) -> Error {
        let with_names = self.frames.iter().flat_map(HashMap::keys).map(String::as_str).filter(|_| bare);
        let known: Vec<&str> = schema.tables().iter().map(|table| table.name).chain(with_names).collect();
        unknown_table(name, Some(schema), &known)
    }

    fn count(&mut self, tables: usize) -> Result<()> {
        self.tables = self.tables.saturating_add(tables);
        if self.tables <= MAX_TABLES {
            return Ok(());
        }
        Err(too_large("reads too many tables, counting each use of a WITH in full; split it into several statements"))
    }

    /// Resolves the queries of a WITH, each in the scope of those before it (and of itself when recursive).
    fn with(&mut self, with: &mut With) -> Result<()> {
        for cte in &mut with.cte_tables {
            let name = cte.alias.name.value.clone();
            forms::check_with_name(&name)?;
            let around = self.frames.len().saturating_sub(1);
            let mut called = name.clone();
            if self.frames[..around].iter().any(|frame| frame.contains_key(&name)) {
                called = format!("{name} ({})", self.frames.len());
                cte.alias.name = Ident::with_quote_and_span('"', cte.alias.name.span, &called);
            }
            if with.recursive {
                self.name_query(&name, &called, 1);
            }
            let outside = std::mem::take(&mut self.tables);
            self.resolve(&mut cte.query)?;
            let inside = std::mem::replace(&mut self.tables, outside);
            // A query counts one more than it reads, so that a chain of them counts as deep as it is.
            self.name_query(&name, &called, inside.saturating_add(1));
        }
        Ok(())
    }

    fn name_query(&mut self, name: &str, called: &str, tables: usize) {
        if let Some(frame) = self.frames.last_mut() {
            frame.insert(name.to_owned(), WithName { tables, called: called.to_owned() });
        }
    }

    /// `userId.messages` in front of a column: the schema as the planner knows it.
    fn qualifier(&self, schema: &mut Ident, table: &mut Ident) -> Result<()> {
        let is_table = |tables: &[Table]| tables.iter().any(|known| known.name.eq_ignore_ascii_case(&table.value));
        if !is_table(TABLES) && !is_table(SYSTEM_TABLES) {
            return Ok(());
        }
        let named = self.schema_name(schema)?;
        *schema = Ident::with_quote_and_span('"', schema.span, named.name());
        table.quote_style = Some('"');
        Ok(())
    }

    /// `userId.messages.*`
    fn wildcard(&self, name: &mut ObjectName) -> Result<()> {
        match name.0.as_mut_slice() {
            [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(table)] => self.qualifier(schema, table),
            _ => Ok(()),
        }
    }

    fn query(&mut self, query: &mut Query) -> Result<()> {
        forms::check_query(query)?;
        self.frames.push(HashMap::new());
        let mut with = query.with.take();
        if let Some(with) = &mut with {
            self.with(with)?;
        }
        self.withs.push(with);
        Ok(())
    }

    fn select(&mut self, select: &mut Select) -> Result<()> {
        forms::check_select(select)?;
        for item in &mut select.projection {
            if let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) = item {
                self.wildcard(name)?;
            }
        }
        Ok(())
    }

    fn expr(&mut self, expr: &mut Expr) -> Result<()> {
        forms::check_expr(expr)?;
        match expr {
            Expr::CompoundIdentifier(parts) => match parts.as_mut_slice() {
                [schema, table, _, ..] => self.qualifier(schema, table),
                _ => Ok(()),
            },
            Expr::QualifiedWildcard(name, _) => self.wildcard(name),
            Expr::Function(function) => {
                let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
                for argument in &mut list.args {
                    if let FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) = argument {
                        self.wildcard(name)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The identifiers that a relation's name consists of.
fn identifiers(name: &ObjectName) -> Result<Vec<&Ident>> {
    let identifiers: Option<Vec<&Ident>> = name.0.iter().map(ObjectNamePart::as_ident).collect();
    match identifiers {
        // A table in single quotes is how other databases name files.
        Some(parts) if parts.iter().all(|part| part.quote_style != Some('\'')) => Ok(parts),
        _ => Err(Error::new(ErrorCode::Unsupported, "A table is named by its name; files and URLs cannot be read.")),
    }
}

/// An `unknown_table`, with the likely ones of `known`.
fn unknown_table(name: &str, schema: Option<&SchemaName>, known: &[&str]) -> Error {
    let likely = suggestions(name, known.iter().copied());
    let advice = match likely.first() {
        Some(likely) => format!("did you mean {likely}?"),
        None => format!("the tables are {}.", enumerated(schema.map_or(TABLES, SchemaName::tables))),
    };
    Error::new(ErrorCode::UnknownTable, format!("There is no such table; {advice}")).with("suggestions", likely)
}

fn flow(result: Result<()>) -> ControlFlow<Box<Error>> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

impl VisitorMut for Scope<'_> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        flow(self.query(query))
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.frames.pop();
        query.with = self.withs.pop().flatten();
        if let Err(error) = wildcards::write_out(&mut query.body) {
            return ControlFlow::Break(Box::new(error));
        }
        if !self.frames.is_empty() {
            self.within += 1;
            outputs::tell_apart_within(query, self.within);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        flow(self.select(select))
    }

    fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<Self::Break> {
        if let [ObjectNamePart::Identifier(only)] = name.0.as_slice()
            && only.quote_style != Some('\'')
            && let Some(with) = self.with_called(&only.value)
        {
            let tables = with.tables;
            return flow(self.count(tables));
        }
        flow(self.relation(name, false).and_then(|_| self.count(1)))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        self.call_with(factor);
        flow(forms::check_table_factor(factor))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        flow(self.expr(expr))
    }

    /// Only queries and expressions are resolved here, so this is a write within a read.
    fn pre_visit_statement(&mut self, _statement: &mut Statement) -> ControlFlow<Self::Break> {
        flow(Err(forms::unsupported("A query cannot write; send the write as a statement of its own.")))
    }
}

/// Lets the tables of `node` go by their names alone when all of them lie in one schema.
pub(super) fn shorten(scope: &Scope, node: &mut impl VisitMut) {
    if let Some(schema) = scope.only_schema() {
        qualify::drop_schema(schema, node);
    }
}

#[cfg(test)]
mod tests;
