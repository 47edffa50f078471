//! The number of a conversation's messages, or of all.
//!
//! Invariant: no message is read: hot ones are counted by their keys, cold ones by the directories of their segments.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Int64Array, RecordBatch},
        datatypes::{DataType, Field, Schema},
    },
    error::Result,
};
use kalamdb_protocol::{MsgId, UserId};
use kalamdb_store::{ConversationKey, Segment};

use super::{Answer, Directories, stream_of};
use crate::read::{planner::View, tables::store_error};

impl View {
    /// The answer of `SELECT COUNT(*) AS name FROM messages WHERE conversationId = …`, of the conversations in `keys`; of
    /// all where it is `None`.
    pub(super) fn count(&self, owner: &UserId, name: &str, keys: Option<Vec<ConversationKey>>) -> Answer {
        let segments = self.segments(owner)?;
        let mut hot = self.snapshot().owner(owner).map_err(store_error)?.hot_messages;
        if let Some(keys) = keys.as_ref().filter(|_| hot > 0) {
            let of = |key| self.snapshot().hot_messages(owner, key).map_err(store_error);
            hot = keys.iter().map(of).sum::<Result<u64>>()?;
        }
        let directories = self.directories().clone();
        let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, false)]));
        let of = Arc::clone(&schema);
        Ok(Some(stream_of(schema, async move {
            let cold = match keys {
                Some(keys) => cold(&segments, &directories, &keys).await?,
                None => segments.iter().map(|segment| u64::from(segment.rows) - segment.deleted.len()).sum(),
            };
            let count = i64::try_from(hot + cold).unwrap_or(i64::MAX);
            Ok(RecordBatch::try_new(of, vec![Arc::new(Int64Array::from(vec![count]))])?)
        })))
    }
}

async fn cold(segments: &[Segment], directories: &Directories, keys: &[ConversationKey]) -> Result<u64> {
    let mut count = 0;
    for segment in segments {
        let (first, last) = &segment.conversations;
        if keys.iter().all(|key| key < first || last < key) {
            continue;
        }
        let directory = directories.get(segment).await?;
        let rows = keys.iter().flat_map(|key| directory.rows(key, (MsgId::MIN, MsgId::MAX)));
        count += rows.map(|rows| rows.len() as u64 - segment.deleted.range_cardinality(rows)).sum::<u64>();
    }
    Ok(count)
}
