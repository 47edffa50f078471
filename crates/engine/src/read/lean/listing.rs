//! One's conversations, and the participants of one's groups.
//!
//! Invariant: rows are those of the tables `conversations` and `conversationUsers`, read some at a time, and held by the
//! columns that the answer and its order need.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array},
        compute::{SortColumn, SortOptions, concat, lexsort_to_indices, take},
        datatypes::SchemaRef,
    },
    common::internal_datafusion_err,
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, memory_pool::MemoryReservation},
};
use kalamdb_protocol::{ConversationId, ConversationType, TableId, UserId};
use kalamdb_store::{Conversation, ConversationKey, InboxColumn, InboxOrder, Participant, Snapshot};

use super::{answer_schema, form::Listed, stream_of};
use crate::read::{
    planner::View,
    tables::{conversation_column, participant_column, schema_of, store_error},
};

/// Rows that are read at a time: between them the statement may be stopped.
const BATCH_ROWS: usize = 256;

/// Rows as the store gives them.
type Stored<'a, R> = Box<dyn Iterator<Item = kalamdb_store::Result<R>> + 'a>;

impl View {
    /// The rows of a listing.
    pub(super) fn listing(
        &self,
        owner: &UserId,
        table: TableId,
        columns: &[(usize, String)],
        listed: &Listed,
    ) -> Result<SendableRecordBatchStream> {
        let all = schema_of(table.table().columns, false, []);
        let by = listed.order.iter().map(|(index, ..)| *index);
        let needed = Arc::new(all.project(&columns.iter().map(|(index, _)| *index).chain(by).collect::<Vec<_>>())?);
        let held = self.reservation("a list of conversations");
        let mut read = if table == TableId::Conversations {
            self.conversations(owner, listed, &needed, &held)?
        } else {
            let rows = participants(self.snapshot(), owner, listed.conversation.as_ref())?;
            self.columns(rows, &needed, &held, |name, rows: &[Participant]| participant_column(name, rows.iter()))?
        };
        let keys = read.split_off(columns.len());
        let rows = ordered(read, keys, listed)?;
        let schema = answer_schema(&all, columns);
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), rows, &RecordBatchOptions::new())?;
        Ok(stream_of(schema, async move {
            drop(held);
            Ok(batch)
        }))
    }

    /// The columns that are needed of the conversations that a listing wants: of the first ones alone where the store has
    /// them at hand, which it has after it was asked once.
    fn conversations(
        &self,
        owner: &UserId,
        listed: &Listed,
        needed: &SchemaRef,
        held: &MemoryReservation,
    ) -> Result<Vec<ArrayRef>> {
        let snapshot = self.snapshot();
        let read = |rows| {
            self.columns(rows, needed, held, |name, rows: &[Conversation]| conversation_column(name, rows.iter()))
        };
        let Some(order) = inbox_order(listed) else { return read(conversations(snapshot, owner, listed)?) };
        if let Some(first) = snapshot.first_conversations(owner, order, &listed.kinds).map_err(store_error)? {
            return read(Box::new(first));
        }
        let columns = read(conversations(snapshot, owner, listed)?)?;
        let seen = columns.first().map_or(0, Array::len);
        snapshot.gather_inbox(owner, order, seen).map_err(store_error)?;
        Ok(columns)
    }

    /// The columns that are needed of all these rows.
    fn columns<R>(
        &self,
        mut rows: Stored<R>,
        needed: &SchemaRef,
        held: &MemoryReservation,
        column: impl Fn(&str, &[R]) -> Option<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let mut parts: Vec<Vec<ArrayRef>> = vec![Vec::new(); needed.fields().len()];
        loop {
            self.work().check().map_err(|error| DataFusionError::External(Box::new(error)))?;
            let some = rows.by_ref().take(BATCH_ROWS).collect::<kalamdb_store::Result<Vec<R>>>();
            let some = some.map_err(store_error)?;
            if some.is_empty() {
                break;
            }
            for (field, parts) in needed.fields().iter().zip(&mut parts) {
                let part = column(field.name(), &some);
                let part = part.ok_or_else(|| internal_datafusion_err!("no such column: {}", field.name()))?;
                // Once as it is read, and once more in the order of the answer.
                held.try_grow(2 * part.get_array_memory_size())?;
                parts.push(part);
            }
        }
        let whole = needed.fields().iter().zip(parts).map(|(field, parts)| match parts.as_slice() {
            [] => Ok(new_null_array(field.data_type(), 0)),
            [part] => Ok(Arc::clone(part)),
            parts => Ok(concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?),
        });
        whole.collect()
    }
}

/// The owner's conversations that a listing wants.
fn conversations<'a>(snapshot: &'a Snapshot, owner: &UserId, listed: &'a Listed) -> Result<Stored<'a, Conversation>> {
    let Some(id) = &listed.conversation else {
        let all = snapshot.conversations(owner).map_err(store_error)?;
        let is_wanted = |row: &kalamdb_store::Result<Conversation>| {
            row.as_ref().map_or(true, |row| listed.kinds.contains(&row.key.kind))
        };
        return Ok(Box::new(all.filter(is_wanted)));
    };
    let owner = owner.clone();
    let of_kind = move |kind: &ConversationType| {
        snapshot.conversation(&owner, &ConversationKey { id: id.clone(), kind: *kind }).transpose()
    };
    Ok(Box::new(listed.kinds.iter().filter_map(of_kind)))
}

/// The order by which the store has conversations at hand, if it is the listing's: `ORDER BY lastMsgId DESC, …` with a LIMIT.
fn inbox_order(listed: &Listed) -> Option<InboxOrder> {
    let (&(column, descending, nulls_first), most) = (listed.order.first()?, listed.rows?);
    let by = match TableId::Conversations.table().columns[column].name {
        "lastMsgId" => InboxColumn::LastMsgId,
        "updated" => InboxColumn::Updated,
        _ => return None,
    };
    listed.conversation.is_none().then_some(InboxOrder { by, descending, nulls_first, most })
}

/// The participants of a group that the owner is in, or of all of them.
fn participants<'a>(
    snapshot: &'a Snapshot,
    owner: &UserId,
    group: Option<&ConversationId>,
) -> Result<Stored<'a, Participant>> {
    let Some(id) = group else {
        return Ok(Box::new(snapshot.visible_participants(owner).map_err(store_error)?));
    };
    let key = ConversationKey { id: id.clone(), kind: ConversationType::Group };
    let takes_part = snapshot.conversation(owner, &key).map_err(store_error)?.is_some_and(|group| group.joined);
    let rows = if takes_part { snapshot.participants(id).map_err(store_error)? } else { Vec::new() };
    Ok(Box::new(rows.into_iter().map(Ok)))
}

/// The rows of these columns in the listing's order, as many as it wants.
fn ordered(columns: Vec<ArrayRef>, keys: Vec<ArrayRef>, listed: &Listed) -> Result<Vec<ArrayRef>> {
    if keys.is_empty() {
        let first = |column: ArrayRef| column.slice(0, listed.rows.unwrap_or(usize::MAX).min(column.len()));
        return Ok(columns.into_iter().map(first).collect());
    }
    let by = keys.into_iter().zip(&listed.order).map(|(values, (_, descending, nulls_first))| SortColumn {
        values,
        options: Some(SortOptions { descending: *descending, nulls_first: *nulls_first }),
    });
    let order = lexsort_to_indices(&by.collect::<Vec<_>>(), listed.rows)?;
    Ok(columns.iter().map(|column| take(column, &order, None)).collect::<std::result::Result<_, _>>()?)
}
