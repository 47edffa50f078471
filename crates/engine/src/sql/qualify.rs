//! Lets tables go by their names alone: `"user_john"."messages"` gets the alias `messages`.
//!
//! Invariant: only for statements whose tables all lie in one schema, where the name alone tells them apart as well
//! as the full name did. It keeps `messages.*` and `userId.messages.content` working and user ids out of the names
//! of answers' columns.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableAlias, TableFactor, VisitMut, VisitorMut,
};

use super::names::canonical;

/// Gives every table of `schema` in `node` its own name as an alias, and takes the schema from the columns.
pub(super) fn drop_schema(schema: &str, node: &mut impl VisitMut) {
    // Nothing in here ends the visit early.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = node.visit(&mut DropSchema { schema });
}

struct DropSchema<'a> {
    schema: &'a str,
}

impl DropSchema<'_> {
    fn is_schema(&self, schema: &Ident, table: &Ident) -> bool {
        schema.value == self.schema && canonical(&table.value).is_some_and(|known| known == table.value)
    }

    fn wildcard(&self, name: &mut ObjectName) {
        if let [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(table)] = name.0.as_slice()
            && self.is_schema(schema, table)
        {
            name.0.remove(0);
        }
    }
}

impl VisitorMut for DropSchema<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: alias @ None, .. } = factor
            && let [_, ObjectNamePart::Identifier(table)] = name.0.as_slice()
        {
            *alias = Some(TableAlias { explicit: true, name: table.clone(), columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) = item {
                self.wildcard(name);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::CompoundIdentifier(parts) => {
                if let [schema, table, _, ..] = parts.as_slice()
                    && self.is_schema(schema, table)
                {
                    parts.remove(0);
                }
            }
            Expr::QualifiedWildcard(name, _) => self.wildcard(name),
            Expr::Function(function) => {
                if let FunctionArguments::List(list) = &mut function.args {
                    for argument in &mut list.args {
                        if let FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) = argument {
                            self.wildcard(name);
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
