//! `system`: the server's own state, for admins.
//!
//! Invariant: numbers and names only, no row's content.

use std::sync::Arc;

use datafusion::{
    arrow::{array::ArrayRef, datatypes::Schema as ArrowSchema},
    catalog::TableProvider,
    error::Result,
};
use kalamdb_protocol::{Table, UserId};
use kalamdb_store::{OwnerState, Segment, Snapshot};

use super::{
    arrays::{ints, texts},
    count, fields,
    owner_rows::{Owned, OwnerRows},
};
use crate::sql::Schema;

/// `system.users`: what each user has.
pub(in crate::read) fn users(table: &Table, snapshot: Snapshot) -> Result<Arc<dyn TableProvider>> {
    let schema = Arc::new(ArrowSchema::new(fields(table.columns).collect::<Vec<_>>()));
    OwnerRows { schema, snapshot, owners: Schema::All, read: read_user, column: user_column }.into_table()
}

/// `system.segments`: every Parquet file.
pub(in crate::read) fn segments(table: &Table, snapshot: Snapshot) -> Result<Arc<dyn TableProvider>> {
    let schema = Arc::new(ArrowSchema::new(fields(table.columns).collect::<Vec<_>>()));
    OwnerRows { schema, snapshot, owners: Schema::All, read: Snapshot::segments, column: segment_column }.into_table()
}

struct User {
    state: OwnerState,
    segments: i64,
    cold_messages: i64,
}

fn read_user(snapshot: &Snapshot, owner: &UserId) -> kalamdb_store::Result<Vec<User>> {
    let segments = snapshot.segments(owner)?;
    let live = segments.iter().map(|segment| u64::from(segment.rows).saturating_sub(segment.deleted.len()));
    Ok(vec![User {
        state: snapshot.owner(owner)?,
        cold_messages: count(live.sum()),
        segments: count(segments.len() as u64),
    }])
}

fn user_column(name: &str, rows: &[Owned<User>]) -> Option<ArrayRef> {
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

fn segment_column(name: &str, rows: &[Owned<Segment>]) -> Option<ArrayRef> {
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
