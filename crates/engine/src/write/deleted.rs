//! UPDATE and DELETE of deleted messages: bringing them back, and letting them go for good.
//!
//! Invariant: only messages that are in the trash are touched here, and of those only the copies that the statement
//! selected.

use datafusion::sql::sqlparser::ast::{Expr, Value};
use kalamdb_store::Change;

use super::{Prepared, Preparing, check_updatable, invalid, rows::owner_of};
use crate::{
    Result,
    sql::{Delete, Update},
};

const COLUMNS: [&str; 8] =
    ["msgId", "conversationId", "conversationType", "from", "_segment", "_position", "_version", "_deletion"];

impl Preparing<'_> {
    pub(super) async fn restore_messages(&self, update: &Update) -> Result<Prepared> {
        check_updatable(update, &["deletedAt"])?;
        if !update.assignments.iter().all(|(_, value)| is_null(value)) {
            return Err(invalid("deletedMessages.deletedAt can be set to NULL only, which brings the message back."));
        }
        let rows = self.select(&update.target, &update.from, &COLUMNS, &[], update.selection.as_ref()).await?;
        let mut prepared = Prepared::default();
        for row in rows.iter() {
            prepared.rows_affected += 1;
            let owner = owner_of(&update.target.schema, &row)?;
            let (msg_id, place) = row.place()?;
            let from = row.need_text("from")?.to_owned();
            prepared.changes.push(Change::Restore { owner, msg_id, conversation: row.conversation()?, from, place });
        }
        Ok(prepared)
    }

    pub(super) async fn purge_messages(&self, delete: &Delete) -> Result<Prepared> {
        let rows = self.select(&delete.target, &delete.from, &COLUMNS, &[], delete.selection.as_ref()).await?;
        let mut prepared = Prepared::default();
        for row in rows.iter() {
            prepared.rows_affected += 1;
            let owner = owner_of(&delete.target.schema, &row)?;
            let (msg_id, place) = row.place()?;
            prepared.changes.push(Change::Purge { owner, msg_id, conversation: row.conversation()?, place });
        }
        Ok(prepared)
    }
}

/// Whether an expression is NULL as it is written, perhaps in parentheses or of a named type.
fn is_null(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => value.value == Value::Null,
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => is_null(inner),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};

    use super::*;

    #[test]
    fn null_is_null_however_it_is_written() {
        let is_null = |text: &str| {
            let mut parser = Parser::new(&GenericDialect {}).try_with_sql(text).unwrap();
            is_null(&parser.parse_expr().unwrap())
        };
        for text in ["NULL", "null", "(NULL)", "CAST(NULL AS BIGINT)", "NULL::BIGINT"] {
            assert!(is_null(text), "{text}");
        }
        for text in ["0", "'NULL'", "deletedAt", "COALESCE(NULL, NULL)", "(SELECT NULL)", "NOT NULL"] {
            assert!(!is_null(text), "{text}");
        }
    }
}
