//! `conversations`: those of an owner, also groups they left but kept messages of.
//!
//! Invariant: an owner's view; what others have read or missed of the same group is not in it.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::ArrayRef,
        datatypes::{DataType, Field},
    },
    catalog::TableProvider,
    error::Result,
};
use kalamdb_protocol::{Table, UserId};
use kalamdb_store::{Conversation, Snapshot};

use super::{
    OWNER,
    arrays::{booleans, ints, some_ints, some_texts, texts},
    count,
    streamed::{Streamed, WithOwner, by_owner},
    table_schema,
};
use crate::sql::Schema;

/// The table; `hidden` adds `_version` and `_joined` for the write path.
pub(in crate::read) fn conversations(
    table: &Table,
    snapshot: Snapshot,
    owners: Schema,
    hidden: bool,
) -> Result<Arc<dyn TableProvider>> {
    let extra = [Field::new("_version", DataType::Int64, false), Field::new("_joined", DataType::Boolean, false)];
    let schema = table_schema(table.columns, &owners, extra.into_iter().filter(|_| hidden));
    let open = by_owner(snapshot, owners, Snapshot::conversations);
    let text_bytes = |(_, row): &WithOwner<Conversation>| row.metadata.as_ref().map_or(0, String::len);
    Streamed { schema, open, column: conversation_with_owner_column, text_bytes }.into_table()
}

/// A column of the table, hidden ones too.
pub(in crate::read) fn conversation_with_owner_column(
    name: &str,
    rows: &[WithOwner<Conversation>],
) -> Option<ArrayRef> {
    Some(match name {
        OWNER => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        "_version" => ints(rows.iter().map(|(_, row)| count(row.version))),
        "_joined" => booleans(rows.iter().map(|(_, row)| row.joined)),
        _ => return conversation_column(name, rows.iter().map(|(_, row)| row)),
    })
}

/// A column of `conversations`, of whatever holds conversations.
pub(crate) fn conversation_column<'a>(name: &str, rows: impl Iterator<Item = &'a Conversation>) -> Option<ArrayRef> {
    Some(match name {
        "conversationId" => texts(rows.map(|row| row.key.id.as_str())),
        "conversationType" => texts(rows.map(|row| row.key.kind.as_str())),
        "userId" => some_texts(rows.map(|row| row.user_id.as_ref().map(UserId::as_str))),
        "firstMsgId" => some_ints(rows.map(|row| row.first_msg_id)),
        "lastMsgId" => some_ints(rows.map(|row| row.last_msg_id)),
        "created" => ints(rows.map(|row| row.created)),
        "updated" => ints(rows.map(|row| row.updated)),
        "storagePath" => texts(rows.map(|row| row.storage_path.as_str())),
        "metadata" => some_texts(rows.map(|row| row.metadata.as_deref())),
        "lastReadMsgId" => some_ints(rows.map(|row| row.last_read_msg_id)),
        "unreadCount" => ints(rows.map(|row| count(row.unread_count))),
        _ => return None,
    })
}
