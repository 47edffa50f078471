//! `conversationUsers`: everybody in the groups that an owner is in.
//!
//! Invariant: of a group that an owner is not in (any more), not even its participants are shown.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::ArrayRef,
        datatypes::{DataType, Field},
    },
    catalog::TableProvider,
    error::Result,
};
use kalamdb_protocol::Table;
use kalamdb_store::{Participant, Snapshot};

use super::{
    OWNER,
    arrays::{ints, some_texts, texts},
    count,
    streamed::{Streamed, WithOwner, by_owner},
    table_schema,
};
use crate::sql::Schema;

/// The table; `hidden` adds `_version` for the write path.
pub(in crate::read) fn participants(
    table: &Table,
    snapshot: Snapshot,
    owners: Schema,
    hidden: bool,
) -> Result<Arc<dyn TableProvider>> {
    let extra = [Field::new("_version", DataType::Int64, false)];
    let schema = table_schema(table.columns, &owners, extra.into_iter().filter(|_| hidden));
    let open = by_owner(snapshot, owners, Snapshot::visible_participants);
    let text_bytes = |(_, row): &WithOwner<Participant>| row.metadata.as_ref().map_or(0, String::len);
    Streamed { schema, open, column, text_bytes }.into_table()
}

fn column(name: &str, rows: &[WithOwner<Participant>]) -> Option<ArrayRef> {
    Some(match name {
        OWNER => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        "_version" => ints(rows.iter().map(|(_, row)| count(row.version))),
        _ => return participant_column(name, rows.iter().map(|(_, row)| row)),
    })
}

/// A column of `conversationUsers`, of whatever holds participants.
pub(crate) fn participant_column<'a>(name: &str, rows: impl Iterator<Item = &'a Participant>) -> Option<ArrayRef> {
    Some(match name {
        "userId" => texts(rows.map(|row| row.user.as_str())),
        "conversationId" => texts(rows.map(|row| row.group.as_str())),
        "role" => texts(rows.map(|row| row.role.as_str())),
        "created" => ints(rows.map(|row| row.created)),
        "updated" => ints(rows.map(|row| row.updated)),
        "metadata" => some_texts(rows.map(|row| row.metadata.as_deref())),
        _ => return None,
    })
}
