//! `system`: the server's own state, for admins.
//!
//! Invariant: numbers and names only, no row's content.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::ArrayRef,
        datatypes::{Schema as ArrowSchema, SchemaRef},
    },
    catalog::TableProvider,
    error::Result,
};
use kalamdb_protocol::{Table, UserId};
use kalamdb_store::{FileKind, OwnerState, Segment, Snapshot, StoredFile};

use super::{
    arrays::{ints, texts},
    count, fields,
    streamed::{RowIter, Streamed, WithOwner, by_owner},
};
use crate::sql::Schema;

/// `system.users`: what each user has.
pub(in crate::read) fn users(table: &Table, snapshot: Snapshot) -> Result<Arc<dyn TableProvider>> {
    let open = by_owner(snapshot, Schema::All, |snapshot, owner| Ok(std::iter::once(read_user(snapshot, owner))));
    Streamed { schema: schema(table), open, column: user_column, text_bytes: |_| 0 }.into_table()
}

/// `system.segments`: every Parquet file.
pub(in crate::read) fn segments(table: &Table, snapshot: Snapshot) -> Result<Arc<dyn TableProvider>> {
    let open = by_owner(snapshot, Schema::All, |snapshot, owner| Ok(snapshot.segments(owner)?.into_iter().map(Ok)));
    Streamed { schema: schema(table), open, column: segment_column, text_bytes: |_| 0 }.into_table()
}

/// `system.files`: every content file.
pub(in crate::read) fn files(table: &Table, snapshot: Snapshot) -> Result<Arc<dyn TableProvider>> {
    let open = Arc::new(move || -> RowIter<StoredFile> {
        match snapshot.files() {
            Ok(files) => Box::new(files),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    });
    Streamed { schema: schema(table), open, column: file_column, text_bytes: |_| 0 }.into_table()
}

fn schema(table: &Table) -> SchemaRef {
    Arc::new(ArrowSchema::new(fields(table.columns).collect::<Vec<_>>()))
}

struct User {
    state: OwnerState,
    segments: i64,
    cold_messages: i64,
}

fn read_user(snapshot: &Snapshot, owner: &UserId) -> kalamdb_store::Result<User> {
    let segments = snapshot.segments(owner)?;
    let live = segments.iter().map(|segment| u64::from(segment.rows).saturating_sub(segment.deleted.len()));
    Ok(User { state: snapshot.owner(owner)?, cold_messages: count(live.sum()), segments: count(segments.len() as u64) })
}

fn user_column(name: &str, rows: &[WithOwner<User>]) -> Option<ArrayRef> {
    let all = rows.iter().map(|(_, row)| row);
    Some(match name {
        "userId" => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        "hotMessages" => ints(all.map(|row| count(row.state.hot_messages))),
        "segments" => ints(all.map(|row| row.segments)),
        "coldMessages" => ints(all.map(|row| row.cold_messages)),
        "lastChange" => ints(all.map(|row| count(row.state.change))),
        _ => return None,
    })
}

fn segment_column(name: &str, rows: &[WithOwner<Segment>]) -> Option<ArrayRef> {
    let all = rows.iter().map(|(_, row)| row);
    Some(match name {
        "userId" => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        "number" => ints(all.map(|row| count(row.number))),
        "path" => texts(all.map(|row| row.path.as_str())),
        "rows" => ints(all.map(|row| i64::from(row.rows))),
        "deletedRows" => ints(all.map(|row| count(row.deleted.len()))),
        "bytes" => ints(all.map(|row| count(row.bytes))),
        "created" => ints(all.map(|row| row.created)),
        "minMsgId" => ints(all.map(|row| row.msg_ids.0)),
        "maxMsgId" => ints(all.map(|row| row.msg_ids.1)),
        _ => return None,
    })
}

fn file_column(name: &str, rows: &[StoredFile]) -> Option<ArrayRef> {
    let all = rows.iter();
    Some(match name {
        "path" => texts(all.map(|row| row.path.as_str())),
        "userId" => texts(all.map(|row| row.owner.as_str())),
        "conversationId" => texts(all.map(|row| row.conversation.id.as_str())),
        "conversationType" => texts(all.map(|row| row.conversation.kind.as_str())),
        "kind" => texts(all.map(|row| kind_name(row.kind))),
        "contentType" => texts(all.map(|row| row.content_type.as_str())),
        "bytes" => ints(all.map(|row| count(row.bytes))),
        "created" => ints(all.map(|row| row.created)),
        "references" => ints(all.map(|row| count(row.references))),
        "state" => texts(all.map(|row| if row.doomed { "doomed" } else { "live" })),
        _ => return None,
    })
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Text => "text",
        FileKind::Media => "media",
        FileKind::Thumbnail => "thumbnail",
    }
}
