//! The facts that a write needs of messages in segments, which the sequencer does not read.
//!
//! Invariant: what is found here is good only with [`Expect::Cold`] of the same owner in the proposal.

use std::collections::{BTreeMap, HashMap};

use datafusion::{
    arrow::array::RecordBatch,
    functions_aggregate::expr_fn::{count, max, min},
    logical_expr::Expr,
    prelude::{DataFrame, lit},
};
use kalamdb_protocol::{ColumnType, MsgId, TableId, UserId};
use kalamdb_store::{Change, ColdSummary, ConversationKey, Expect, Place, Segment};
use roaring::RoaringBitmap;

use super::{
    Preparing,
    rows::{TypedRows, kind_in},
};
use crate::{Result, read::MessageOptions, sql::Schema};

/// Positions by owner and segment that a proposal is about to delete.
pub(super) type Deleted = HashMap<(UserId, u64), RoaringBitmap>;

/// The columns that say where a message lies, in `messages` and in `deletedMessages`.
const PLACE: [&str; 4] = ["msgId", "_segment", "_position", "_version"];
const TRASHED_PLACE: [&str; 5] = ["msgId", "_segment", "_position", "_version", "_deletion"];

/// Whether one of these messages can lie in the segment, going by its bounds.
fn may_hold(segment: &Segment, ids: &[MsgId]) -> bool {
    let (first, last) = segment.msg_ids;
    ids.iter().any(|id| (first..=last).contains(id))
}

/// Whether messages of this conversation can lie in the segment, going by its bounds.
fn is_within(segment: &Segment, key: &ConversationKey) -> bool {
    let (first, last) = &segment.conversations;
    (first..=last).contains(&key)
}

fn column(name: &str) -> Expr {
    datafusion::common::Column::from_name(name).into()
}

fn in_conversation(key: &ConversationKey) -> Expr {
    column("conversationId").eq(lit(key.id.as_str())).and(column("conversationType").eq(lit(key.kind.as_str())))
}

impl Preparing<'_> {
    /// The owner's messages in segments, without those in `also_deleted`.
    fn cold_messages(&self, owner: &UserId, also_deleted: Deleted) -> Result<DataFrame> {
        let options = MessageOptions { hidden: true, hot: false, cold: true, also_deleted };
        self.view.frame("messages", self.view.messages(&Schema::Owner(owner.clone()), options))
    }

    async fn collect(&self, frame: datafusion::error::Result<DataFrame>, names: &[&str]) -> Result<TypedRows> {
        let batches = self.view.collect(self.view.built(frame)?).await?;
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        TypedRows::new(names, batches.iter().map(RecordBatch::columns), |name| {
            if name == "count" { ColumnType::BigInt } else { kind_in(TableId::Messages.table(), name) }
        })
    }

    /// The expectation that the owner's segments stay as this snapshot has them.
    pub(super) fn expect_cold(&self, owner: &UserId) -> Result<Expect> {
        Ok(Expect::Cold { owner: owner.clone(), version: self.snapshot.owner(owner)?.cold_version })
    }

    fn segments_with(&self, owner: &UserId, may: impl Fn(&Segment) -> bool) -> Result<bool> {
        Ok(self.snapshot.segments(owner)?.iter().any(may))
    }

    /// The places of an owner's copies of these messages, hot or cold, deleted or not; those that are not there are
    /// left out.
    pub(super) async fn locate(&self, owner: &UserId, ids: &[MsgId]) -> Result<HashMap<MsgId, Place>> {
        let mut places = HashMap::with_capacity(ids.len());
        for &id in ids {
            if let Some(hot) = self.snapshot.hot_message(owner, id)? {
                places.insert(id, Place::Hot { version: hot.version });
            } else if let Some(trashed) = self.snapshot.trashed_message(owner, id)? {
                places.insert(id, Place::TrashedHot { version: trashed.version });
            }
        }
        let rest: Vec<MsgId> = ids.iter().copied().filter(|id| !places.contains_key(id)).collect();
        places.extend(self.locate_cold(owner, &rest).await?);
        let rest: Vec<MsgId> = rest.into_iter().filter(|id| !places.contains_key(id)).collect();
        places.extend(self.locate_cold_trash(owner, &rest).await?);
        Ok(places)
    }

    /// The places in segments of these messages of an owner's.
    pub(super) async fn locate_cold(&self, owner: &UserId, ids: &[MsgId]) -> Result<HashMap<MsgId, Place>> {
        if !self.segments_with(owner, |segment| may_hold(segment, ids))? {
            return Ok(HashMap::new());
        }
        self.find(self.cold_messages(owner, Deleted::new())?, ids, &PLACE).await
    }

    /// The places in segments of these deleted messages of an owner's.
    pub(super) async fn locate_cold_trash(&self, owner: &UserId, ids: &[MsgId]) -> Result<HashMap<MsgId, Place>> {
        if !self.snapshot.cold_trash(owner)?.iter().any(|trash| may_hold(&trash.segment, ids)) {
            return Ok(HashMap::new());
        }
        let table = self.view.cold_trash(&Schema::Owner(owner.clone()));
        self.find(self.view.frame("deletedMessages", table)?, ids, &TRASHED_PLACE).await
    }

    /// The places of these messages in a table; `names` are the columns that say them.
    async fn find(&self, table: DataFrame, ids: &[MsgId], names: &[&str]) -> Result<HashMap<MsgId, Place>> {
        let ids = ids.iter().map(|id| lit(*id)).collect();
        let frame = table.filter(column("msgId").in_list(ids, false));
        let frame = frame.and_then(|frame| frame.select(names.iter().copied().map(column)));
        self.collect(frame, names).await?.iter().map(|row| row.place()).collect()
    }

    /// The rest in segments of these conversations of an owner's, once `deleted` is gone.
    pub(super) async fn cold_summaries(
        &self,
        owner: &UserId,
        conversations: &[ConversationKey],
        deleted: Deleted,
    ) -> Result<Vec<Change>> {
        let mut left: BTreeMap<ConversationKey, (MsgId, MsgId)> = BTreeMap::new();
        let within = |segment: &Segment| conversations.iter().any(|key| is_within(segment, key));
        if self.segments_with(owner, within)? {
            let frame = self.cold_messages(owner, deleted)?;
            // A single conversation is looked up by its pages; of many, all keys are read once.
            let frame = match conversations {
                [one] => frame.filter(in_conversation(one)),
                _ => Ok(frame),
            };
            let frame = frame.and_then(|frame| {
                frame.aggregate(
                    vec![column("conversationId"), column("conversationType")],
                    vec![min(column("msgId")), max(column("msgId"))],
                )
            });
            let rows = self.collect(frame, &["conversationId", "conversationType", "_first", "_last"]).await?;
            for row in rows.iter() {
                left.insert(row.conversation()?, (row.need_int("_first")?, row.need_int("_last")?));
            }
        }
        Ok(conversations
            .iter()
            .map(|conversation| {
                Change::Cold(ColdSummary {
                    owner: owner.clone(),
                    conversation: conversation.clone(),
                    msg_ids: left.get(conversation).copied(),
                })
            })
            .collect())
    }

    /// Messages of a conversation in segments after `after` that are from somebody else than the owner.
    pub(super) async fn cold_unread(&self, owner: &UserId, key: &ConversationKey, after: MsgId) -> Result<u64> {
        let may_hold = |segment: &Segment| is_within(segment, key) && segment.msg_ids.1 > after;
        if !self.segments_with(owner, may_hold)? {
            return Ok(0);
        }
        let unread =
            in_conversation(key).and(column("msgId").gt(lit(after))).and(column("from").not_eq(lit(owner.as_str())));
        let frame = self.cold_messages(owner, Deleted::new())?.filter(unread);
        let frame = frame.and_then(|frame| frame.aggregate(Vec::new(), vec![count(lit(1))]));
        let rows = self.collect(frame, &["count"]).await?;
        let counted = rows.iter().next().and_then(|row| row.int("count")).unwrap_or(0);
        Ok(u64::try_from(counted).unwrap_or(0))
    }

    /// Ranges of positions of a conversation's messages, by segment: they lie together in each.
    pub(super) async fn cold_ranges(
        &self,
        owner: &UserId,
        key: &ConversationKey,
    ) -> Result<Vec<(u64, Vec<(u32, u32)>)>> {
        if !self.segments_with(owner, |segment| is_within(segment, key))? {
            return Ok(Vec::new());
        }
        let frame = self.cold_messages(owner, Deleted::new())?.filter(in_conversation(key));
        let frame = frame.and_then(|frame| frame.select(PLACE.map(column)));
        let mut positions: BTreeMap<u64, RoaringBitmap> = BTreeMap::new();
        for row in self.collect(frame, &PLACE).await?.iter() {
            if let (_, Place::Cold { segment, position }) = row.place()? {
                positions.entry(segment).or_default().insert(position);
            }
        }
        Ok(positions.into_iter().map(|(segment, positions)| (segment, ranges(&positions))).collect())
    }
}

/// The runs of a set of positions, as `[start, end)`.
fn ranges(positions: &RoaringBitmap) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for position in positions {
        match ranges.last_mut() {
            Some((_, end)) if *end == position => *end += 1,
            _ => ranges.push((position, position + 1)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_become_runs() {
        assert_eq!(ranges(&RoaringBitmap::new()), []);
        assert_eq!(ranges(&[3, 4, 5, 9, 11, 12].into_iter().collect()), [(3, 6), (9, 10), (11, 13)]);
    }
}
