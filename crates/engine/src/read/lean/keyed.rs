//! The rows of a write that names them by their key: to mark a conversation as read, to edit or delete one message.
//!
//! Invariant: they are those that the planner would find, in the same snapshot. A message that is not hot is the
//! planner's, because its place in a segment is to be found.

use datafusion::{
    arrow::array::ArrayRef,
    common::internal_datafusion_err,
    error::Result,
    sql::sqlparser::ast::{Expr, TableWithJoins},
};
use kalamdb_protocol::{ConversationId, ConversationType, UserId};
use kalamdb_store::{Conversation, ConversationKey, HotMessage};

use super::{
    clauses::Plain,
    form::{Key, Wanted},
};
use crate::{
    read::{
        catalog::{Dependency, Names},
        planner::View,
        tables::{conversation_with_owner_column, hot_message_column, store_error},
    },
    sql,
};

impl View {
    /// `columns`, hidden ones too, of the rows of `from` that the condition means; `None`: it needs the planner.
    ///
    /// # Errors
    /// `scope_violation`, and what the snapshot runs into.
    pub(crate) fn keyed(
        &self,
        from: &TableWithJoins,
        condition: Option<&Expr>,
        columns: &[&str],
    ) -> Result<Option<Vec<ArrayRef>>> {
        let Some(plain) = Plain::of_write(from, condition) else { return Ok(None) };
        let Some(key) = Key::of(&plain) else { return Ok(None) };
        let Some(sql::Schema::Owner(owner)) = Names(self).schema(plain.schema, plain.table.table.name)? else {
            return Ok(None);
        };
        self.depends_on(Dependency::Owner(owner.clone()));
        match key {
            Key::Conversation(id, kinds) => {
                let rows = self.conversations_of(&owner, &id, &kinds)?;
                columns_of(columns, |name| conversation_with_owner_column(name, &rows)).map(Some)
            }
            Key::Message(wanted) => {
                let Some(row) = self.hot_message_of(&owner, &wanted)? else { return Ok(None) };
                let rows = [(owner, row)];
                columns_of(columns, |name| hot_message_column(name, &rows)).map(Some)
            }
        }
    }

    /// The conversations of this id.
    fn conversations_of(
        &self,
        owner: &UserId,
        id: &ConversationId,
        kinds: &[ConversationType],
    ) -> Result<Vec<(UserId, Conversation)>> {
        let mut rows = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let key = ConversationKey { id: id.clone(), kind: *kind };
            if let Some(row) = self.snapshot().conversation(owner, &key).map_err(store_error)? {
                rows.push((owner.clone(), row));
            }
        }
        Ok(rows)
    }

    /// The message of this id, if it is hot and where the condition says.
    fn hot_message_of(&self, owner: &UserId, wanted: &Wanted) -> Result<Option<HotMessage>> {
        let is_there = |row: &HotMessage| {
            let ConversationKey { id, kind } = &row.message.conversation;
            wanted.conversation.as_ref().is_none_or(|conversation| conversation == id) && wanted.kinds.contains(kind)
        };
        Ok(self.snapshot().hot_message(owner, wanted.first).map_err(store_error)?.filter(is_there))
    }
}

fn columns_of(names: &[&str], column: impl Fn(&str) -> Option<ArrayRef>) -> Result<Vec<ArrayRef>> {
    let column = |name: &&str| column(name).ok_or_else(|| internal_datafusion_err!("no such column: {name}"));
    names.iter().map(column).collect()
}
