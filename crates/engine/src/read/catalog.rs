//! The planner's names: the tables of one caller, and the functions.
//!
//! Invariant: the second wall around everybody's rows. A table that its caller may not see is not refused by a
//! rule here but not built: the only ways to a table are the caller's own schema and, for an admin, a schema named
//! in full.

use std::{ops::ControlFlow, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, SchemaRef},
    catalog::{TableFunctionArgs, TableProvider},
    common::{DFSchema, TableReference},
    config::ConfigOptions,
    datasource::{cte_worktable::CteWorkTable, provider_as_source},
    error::{DataFusionError, Result},
    execution::SessionState,
    logical_expr::{
        AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF,
        planner::{ContextProvider, ExprPlanner},
        simplify::SimplifyContext,
    },
    optimizer::simplify_expressions::ExprSimplifier,
    sql::sqlparser::ast,
};
use kalamdb_protocol::{ErrorCode, SYSTEM_TABLES, TABLES, Table, TableId, UserId};

use super::{
    planner::View,
    tables::{
        DeletedMessages, DeletedOptions, MessageOptions, MessagesTable, audit_log, conversations, files, participants,
        segments, users,
    },
};
use crate::{
    Error,
    sql::{Schema, suggestions},
};

/// The schema of the server's own state.
const SYSTEM: &str = "system";
/// The schema of everybody's rows.
const EVERYBODY: &str = "*";

/// Functions that DataFusion's SQL planner knows itself.
const PLANNED_FUNCTIONS: [&str; 3] = ["unnest", "unnest_outer", "make_map"];

/// The tables of a view, by name, for the planner.
pub(super) struct Names<'a>(pub &'a View);

/// A thing that an answer depends on: when it changes, a cached answer is stale.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dependency {
    /// The rows of one schema.
    Owner(UserId),
    /// The rows of the whole server.
    Everything,
    /// The time: rows that expire go without a commit.
    Clock,
}

fn ours(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn unknown_table(name: &str, tables: &'static [Table]) -> DataFusionError {
    let suggestions = suggestions(name, tables.iter().map(|table| table.name));
    let error = Error::new(ErrorCode::UnknownTable, format!("There is no table `{name}`."));
    ours(error.with("suggestions", suggestions))
}

impl Names<'_> {
    fn table(&self, reference: &TableReference) -> Result<Arc<dyn TableProvider>> {
        let TableReference::Partial { schema, table } = reference else {
            return Err(unknown_table(reference.table(), TABLES));
        };
        match self.schema(schema, table)? {
            Some(schema) => self.user_table(schema, table),
            None => self.system(table),
        }
    }

    /// The owners whose rows a schema's name means to the caller; `None` for the server's own tables.
    ///
    /// # Errors
    /// `scope_violation`, and `unknown_table` of the table where nobody is called like that.
    pub fn schema(&self, name: &str, table: &str) -> Result<Option<Schema>> {
        let caller = self.0.caller();
        Ok(match name {
            own if own == caller.user.as_str() => Some(Schema::Owner(caller.user.clone())),
            SYSTEM if caller.admin => None,
            EVERYBODY if caller.admin => Some(Schema::All),
            other if caller.admin => match UserId::new(other) {
                Ok(owner) => Some(Schema::Owner(owner)),
                Err(_) => return Err(unknown_table(table, TABLES)),
            },
            _ => {
                return Err(ours(Error::new(
                    ErrorCode::ScopeViolation,
                    "The statement names another user's schema; you can read your own only.",
                )));
            }
        })
    }

    fn user_table(&self, schema: Schema, name: &str) -> Result<Arc<dyn TableProvider>> {
        let Some(table) = TABLES.iter().find(|table| table.name == name) else {
            return Err(unknown_table(name, TABLES));
        };
        self.0.depends_on(match &schema {
            Schema::Owner(owner) => Dependency::Owner(owner.clone()),
            Schema::All => Dependency::Everything,
        });
        let (snapshot, hidden) = (self.0.snapshot().clone(), self.0.shows_hidden());
        match table.id {
            TableId::Messages => {
                let options = MessageOptions { hidden, ..MessageOptions::default() };
                Ok(Arc::new(MessagesTable::new(table, snapshot, schema, options)))
            }
            TableId::Conversations => conversations(table, snapshot, schema, hidden),
            TableId::ConversationUsers => participants(table, snapshot, schema, hidden),
            TableId::DeletedMessages => {
                self.0.depends_on(Dependency::Clock);
                let options = DeletedOptions { hidden, hot: true, after: self.0.now() };
                Ok(Arc::new(DeletedMessages::new(table, snapshot, schema, options)))
            }
            TableId::AuditLog => audit_log(table, snapshot, schema),
            TableId::SystemUsers | TableId::SystemSegments | TableId::SystemFiles => Err(unknown_table(name, TABLES)),
        }
    }

    fn system(&self, name: &str) -> Result<Arc<dyn TableProvider>> {
        self.0.depends_on(Dependency::Everything);
        let snapshot = self.0.snapshot().clone();
        let Some(table) = SYSTEM_TABLES.iter().find(|table| table.name == name) else {
            return Err(unknown_table(name, SYSTEM_TABLES));
        };
        match table.id {
            TableId::SystemUsers => users(table, snapshot),
            TableId::SystemSegments => segments(table, snapshot),
            TableId::SystemFiles => files(table, snapshot),
            TableId::Messages
            | TableId::Conversations
            | TableId::ConversationUsers
            | TableId::DeletedMessages
            | TableId::AuditLog => Err(unknown_table(name, SYSTEM_TABLES)),
        }
    }

    fn functions(&self) -> &SessionState {
        self.0.functions()
    }
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(self.table(&name)?))
    }

    /// `FROM generate_series(1, 10)`.
    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
        let (state, functions) = (self.0.state(), self.functions().table_functions());
        let Some(function) = functions.get(name) else {
            let known = functions.keys().map(String::as_str);
            return Err(ours(unknown_function(name, known)));
        };
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(state.config_options()))
            .with_query_execution_start_time(state.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let value = |arg| simplifier.simplify(simplifier.coerce(arg, &DFSchema::empty())?);
        let args = args.into_iter().map(value).collect::<Result<Vec<_>>>()?;
        Ok(provider_as_source(function.create_table_provider_with_args(TableFunctionArgs::new(&args, state))?))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.functions().expr_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions().scalar_functions().get(name).cloned()
    }

    /// Lambdas are refused before.
    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.functions().aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.functions().window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.0.state().config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions().scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.functions().aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.functions().window_functions().keys().cloned().collect()
    }
}

/// Refuses a statement that calls a function nobody knows: the planner would say so in text only.
pub(super) fn check_functions(statement: &ast::Statement, state: &SessionState) -> crate::Result<()> {
    let known = |name: &str| {
        PLANNED_FUNCTIONS.contains(&name)
            || state.scalar_functions().contains_key(name)
            || state.aggregate_functions().contains_key(name)
            || state.window_functions().contains_key(name)
    };
    let unknown = ast::visit_expressions(statement, |expr| match expr {
        ast::Expr::Function(function) => {
            let name = function_name(&function.name);
            if known(&name) { ControlFlow::Continue(()) } else { ControlFlow::Break(name) }
        }
        _ => ControlFlow::Continue(()),
    });
    let ControlFlow::Break(name) = unknown else { return Ok(()) };
    let names = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
    Err(unknown_function(&name, names.chain(state.window_functions().keys()).map(String::as_str)))
}

/// The name as the registries have it: in lower case unless quoted.
fn function_name(name: &ast::ObjectName) -> String {
    match name.0.as_slice() {
        [part] => match part.as_ident() {
            Some(ident) if ident.quote_style.is_none() => ident.value.to_lowercase(),
            Some(ident) => ident.value.clone(),
            None => name.to_string(),
        },
        _ => name.to_string(),
    }
}

fn unknown_function<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let suggestions = suggestions(name, known);
    let message = match suggestions.first() {
        Some(likely) => format!("There is no function `{name}`; did you mean `{likely}`?"),
        None => format!("There is no function `{name}`."),
    };
    Error::new(ErrorCode::Unsupported, message).with("suggestions", suggestions)
}
