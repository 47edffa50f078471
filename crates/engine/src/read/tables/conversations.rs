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
    streamed::{Owned, Streamed, by_owner},
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
    let open = by_owner(snapshot, owners, |snapshot, owner| Ok(snapshot.conversations(owner)?.into_iter().map(Ok)));
    Streamed { schema, open, column, text_bytes: |_| 0 }.into_table()
}

fn column(name: &str, rows: &[Owned<Conversation>]) -> Option<ArrayRef> {
    let all = rows.iter().map(|(_, row)| row);
    Some(match name {
        OWNER => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        "conversationId" => texts(all.map(|row| row.key.id.as_str())),
        "conversationType" => texts(all.map(|row| row.key.kind.as_str())),
        "userId" => some_texts(all.map(|row| row.user_id.as_ref().map(UserId::as_str))),
        "firstMsgId" => some_ints(all.map(|row| row.first_msg_id)),
        "lastMsgId" => some_ints(all.map(|row| row.last_msg_id)),
        "created" => ints(all.map(|row| row.created)),
        "updated" => ints(all.map(|row| row.updated)),
        "storagePath" => texts(all.map(|row| row.storage_path.as_str())),
        "metadata" => some_texts(all.map(|row| row.metadata.as_deref())),
        "lastReadMsgId" => some_ints(all.map(|row| row.last_read_msg_id)),
        "unreadCount" => ints(all.map(|row| count(row.unread_count))),
        "_version" => ints(all.map(|row| count(row.version))),
        "_joined" => booleans(all.map(|row| row.joined)),
        _ => return None,
    })
}
