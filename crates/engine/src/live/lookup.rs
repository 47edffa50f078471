//! Messages by their ids, wherever they lie, and what a filter makes of them.
//!
//! Invariant: all from one snapshot; segments are opened for ids only that may be in them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::Int64Type,
    },
    common::Column,
    logical_expr::Expr,
    prelude::lit,
};
use kalamdb_protocol::{ErrorCode, MsgId, UserId};
use kalamdb_store::{HotMessage, Snapshot};

use super::{
    filter::{CompiledFilter, Verdict},
    rows::{LiveRow, OwnedRow},
};
use crate::{
    Caller, Error, Result,
    read::{MessageOptions, Reader, client_error, texts},
    sql::Schema,
};

/// Messages looked up together.
const IDS_AT_A_TIME: usize = 512;

/// The ids of messages to look up, by owner.
pub(super) type Wanted = BTreeMap<UserId, BTreeSet<MsgId>>;

/// The verdicts on the messages that were found.
pub(super) type Found = HashMap<(UserId, MsgId), Verdict>;

/// Looks them up.
///
/// # Errors
/// When the disk or the object store fails.
pub(super) async fn find(
    reader: &Reader,
    snapshot: &Snapshot,
    filter: &CompiledFilter,
    wanted: &Wanted,
) -> Result<Found> {
    let mut found = Found::new();
    for (owner, ids) in wanted {
        let ids: Vec<MsgId> = ids.iter().copied().collect();
        let mut parts: Vec<&[MsgId]> = ids.chunks(IDS_AT_A_TIME).collect();
        while let Some(part) = parts.pop() {
            match find_some(reader, snapshot, filter, owner, part).await {
                Ok(some) => found.extend(some),
                // The messages are too long to be held together.
                Err(error) if error.code == ErrorCode::QueryTooLarge && part.len() > 1 => {
                    let (one, other) = part.split_at(part.len() / 2);
                    parts.extend([one, other]);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

async fn find_some(
    reader: &Reader,
    snapshot: &Snapshot,
    filter: &CompiledFilter,
    owner: &UserId,
    ids: &[MsgId],
) -> Result<Vec<((UserId, MsgId), Verdict)>> {
    let mut hot: Vec<HotMessage> = Vec::with_capacity(ids.len());
    let mut rest = Vec::new();
    for id in ids {
        match snapshot.hot_message(owner, *id)? {
            Some(row) => hot.push(row),
            None => rest.push(*id),
        }
    }
    let rows: Vec<OwnedRow<'_>> = hot.iter().map(|row| (owner, LiveRow::Message(&row.message))).collect();
    let verdicts = filter.judge_rows(&rows, &vec![true; rows.len()]);
    let keys = hot.iter().map(|row| (owner.clone(), row.message.msg_id));
    let mut found: Vec<_> = keys.zip(verdicts).collect();
    for batch in cold(reader, snapshot, owner, &rest).await? {
        let ids = batch.column_by_name("msgId").ok_or_else(|| Error::fault("messages without ids"))?;
        let keys = ids.as_primitive::<Int64Type>().values().iter().map(|id| (owner.clone(), *id));
        let keys: Vec<_> = keys.collect();
        let batch = if filter.statement.everybody { with_owner(filter, owner, &batch)? } else { batch };
        found.extend(keys.into_iter().zip(filter.judge(&batch, &vec![true; batch.num_rows()])));
    }
    Ok(found)
}

/// The owner's messages among these that lie in segments.
async fn cold(reader: &Reader, snapshot: &Snapshot, owner: &UserId, ids: &[MsgId]) -> Result<Vec<RecordBatch>> {
    let segments = snapshot.segments(owner)?;
    let may_be_there =
        |id: &&MsgId| segments.iter().any(|segment| (segment.msg_ids.0..=segment.msg_ids.1).contains(*id));
    let ids: Vec<Expr> = ids.iter().filter(may_be_there).map(|id| lit(*id)).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let view = reader.view(&Caller { user: owner.clone(), admin: false }, snapshot.clone());
    let options = MessageOptions { hot: false, ..MessageOptions::default() };
    let frame = view.frame("messages", view.messages(&Schema::Owner(owner.clone()), options))?;
    let plan = view.built(frame.filter(Expr::Column(Column::from_name("msgId")).in_list(ids, false)))?;
    view.collect(plan).await
}

/// An owner's rows as rows of everybody's.
fn with_owner(filter: &CompiledFilter, owner: &UserId, batch: &RecordBatch) -> Result<RecordBatch> {
    let owners = texts(std::iter::repeat_n(owner.as_str(), batch.num_rows()));
    let columns = std::iter::once(owners).chain(batch.columns().iter().cloned()).collect();
    RecordBatch::try_new(Arc::clone(filter.schema()), columns).map_err(|error| client_error(&error.into(), None))
}
