//! The news that a client has missed, read from a snapshot: by the change log, and by message id.
//!
//! Invariant: a row is told as the snapshot has it, not as it was in between. A row that has gone is told of only where
//! the client can have had it.

use std::{collections::HashSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, AsArray, RecordBatch},
        datatypes::Int64Type,
    },
    common::Column,
    logical_expr::Expr,
    prelude::lit,
};
use kalamdb_protocol::{ConversationType, ErrorCode, MsgId, OWNER_COLUMN, Position, UserId};
use kalamdb_store::{ChangeKind, Conversation, ConversationKey, LoggedChange, Participant, Snapshot};

use super::{
    filter::{CompiledFilter, Verdict},
    frame::{Key, News},
    lookup::{Wanted, find},
    rows::{Known, LiveRow, LiveTable, OwnedRow},
    subscription::Subscription,
};
use crate::{
    Caller, Error, Result,
    read::{MessageOptions, Reader},
};

/// Messages read together at first: about what somebody missed who was away for a while…
const FIRST_PAGE: usize = 256;
/// …and at most: each page looks through all that is left.
const LARGEST_PAGE: usize = 4_096;
const PAGE_GROWTH: usize = 4;

/// Entries of the change log, in order.
pub(super) struct Missed {
    pub entries: Vec<(UserId, LoggedChange)>,
    /// The places before the first and of the last of them.
    pub from: Position,
    pub until: Position,
    /// Messages above this id are told otherwise.
    pub above: Option<MsgId>,
}

/// News, each with the position from which a client goes on that has it, and its message's id.
pub(super) type MissedNews = Vec<(News, Position, Option<MsgId>)>;

/// The news that these entries are.
///
/// # Errors
/// When the disk or the object store fails, and what the statement runs into.
pub(super) async fn changed(
    reader: &Reader,
    snapshot: &Snapshot,
    subscription: &Subscription,
    missed: Missed,
) -> Result<MissedNews> {
    let filter = subscription.filter.as_ref();
    let news = match filter.table() {
        LiveTable::Messages => return messages(reader, snapshot, filter, &missed).await,
        LiveTable::Conversations => conversations(snapshot, filter, &missed)?,
        LiveTable::Participants => participants(snapshot, filter, &missed)?,
    };
    // Several changes are one row here, and one change is several rows: who has all of it goes on after the last.
    let count = news.len();
    let position = |index| if index + 1 == count { missed.until } else { missed.from };
    Ok(news.into_iter().enumerate().map(|(index, news)| (news, position(index), None)).collect())
}

async fn messages(
    reader: &Reader,
    snapshot: &Snapshot,
    filter: &CompiledFilter,
    missed: &Missed,
) -> Result<MissedNews> {
    let told_here = |change: &LoggedChange| change.msg_id.is_none_or(|id| missed.above.is_none_or(|above| id <= above));
    let entries = || missed.entries.iter().filter(|(_, change)| told_here(change));
    let mut wanted = Wanted::new();
    for (owner, change) in entries() {
        if let (ChangeKind::MessageSent | ChangeKind::MessageEdited | ChangeKind::MessageRestored, Some(msg_id)) =
            (change.kind, change.msg_id)
        {
            wanted.entry(owner.clone()).or_default().insert(msg_id);
        }
    }
    let found = find(reader, snapshot, filter, &wanted).await?;
    let mut told = MissedNews::new();
    for (owner, change) in entries() {
        let text = match change.msg_id {
            Some(msg_id) => found.get(&(owner.clone(), msg_id)).cloned().unwrap_or(Ok(None))?,
            None => None,
        };
        if let Some(news) = message(filter, owner, change, text) {
            let position = Position { seq: change.seq, n: change.n, ..missed.from };
            told.push((news, position, change.msg_id));
        }
    }
    Ok(told)
}

/// The news that an entry is for `messages`; `text` is the message's as it is now, if it is wanted.
fn message(filter: &CompiledFilter, owner: &UserId, change: &LoggedChange, text: Option<Arc<str>>) -> Option<News> {
    let known = Known { owner, conversation: &change.conversation, msg_id: change.msg_id };
    let gone = || {
        let key = change.msg_id.map_or(Key::Conversation(&change.conversation), Key::Message);
        filter.may_want(&known).then(|| key.gone(filter.owner(owner)))
    };
    match change.kind {
        // A message that came since then and is not wanted now was never told.
        ChangeKind::MessageSent | ChangeKind::MessageRestored => text.map(News::Message),
        ChangeKind::MessageEdited => text.map(News::Update).or_else(gone),
        ChangeKind::MessageDeleted | ChangeKind::ConversationDeleted => gone(),
        ChangeKind::ConversationChanged | ChangeKind::ParticipantChanged | ChangeKind::ParticipantRemoved => None,
    }
}

/// The conversations of these entries that `concerns` lets through, each once.
fn touched(missed: &Missed, concerns: impl Fn(&LoggedChange) -> bool) -> Vec<(&UserId, &ConversationKey)> {
    let mut seen = HashSet::new();
    let entries = missed.entries.iter().filter(|(_, change)| concerns(change));
    let keys = entries.map(|(owner, change)| (owner, &change.conversation));
    keys.filter(|key| seen.insert(*key)).collect()
}

fn conversations(snapshot: &Snapshot, filter: &CompiledFilter, missed: &Missed) -> Result<Vec<News>> {
    let keys = touched(missed, |_| true);
    let rows: Vec<Option<Conversation>> =
        keys.iter().map(|(owner, key)| snapshot.conversation(owner, key)).collect::<Result<_, _>>()?;
    let there: Vec<OwnedRow<'_>> = keys
        .iter()
        .zip(&rows)
        .filter_map(|((owner, _), row)| row.as_ref().map(|row| (*owner, LiveRow::Conversation(row))))
        .collect();
    let mut verdicts = filter.judge_rows(&there, &vec![true; there.len()]).into_iter();
    let mut news = Vec::new();
    for ((owner, conversation), row) in keys.into_iter().zip(&rows) {
        let text = match row {
            Some(_) => verdicts.next().unwrap_or(Ok(None))?,
            None => None,
        };
        match text {
            Some(text) => news.push(News::Message(text)),
            None if filter.may_want(&Known { owner, conversation, msg_id: None }) => {
                news.push(Key::Conversation(conversation).gone(filter.owner(owner)));
            }
            None => {}
        }
    }
    Ok(news)
}

fn participants(snapshot: &Snapshot, filter: &CompiledFilter, missed: &Missed) -> Result<Vec<News>> {
    let concerns = |change: &LoggedChange| {
        change.conversation.kind == ConversationType::Group
            && matches!(
                change.kind,
                ChangeKind::ParticipantChanged | ChangeKind::ParticipantRemoved | ChangeKind::ConversationDeleted
            )
    };
    let mut news = Vec::new();
    for (owner, group) in touched(missed, concerns) {
        if !filter.may_want(&Known { owner, conversation: group, msg_id: None }) {
            continue;
        }
        news.push(Key::Participants(&group.id).gone(filter.owner(owner)));
        let joined = snapshot.conversation(owner, group)?.is_some_and(|row| row.joined);
        let participants: Vec<Participant> = if joined { snapshot.participants(&group.id)? } else { Vec::new() };
        let rows: Vec<OwnedRow<'_>> =
            participants.iter().map(|participant| (owner, LiveRow::Participant(participant))).collect();
        let verdicts = filter.judge_rows(&rows, &vec![true; rows.len()]).into_iter();
        let texts = verdicts.filter_map(Verdict::transpose).collect::<Result<Vec<_>>>()?;
        news.extend(texts.into_iter().map(News::Message));
    }
    Ok(news)
}

/// A page of a replay by id: its start and its size.
#[derive(Debug, Clone)]
pub(super) struct MessagePage {
    above: MsgId,
    /// The owner after whom a page of everybody's messages begins, among messages of the id `above`.
    owner: Option<String>,
    rows: usize,
    most: usize,
}

impl MessagePage {
    pub fn first(above: MsgId) -> Self {
        Self { above, owner: None, rows: FIRST_PAGE, most: LARGEST_PAGE }
    }

    fn smaller(self) -> Self {
        let rows = (self.rows / PAGE_GROWTH).max(1);
        Self { rows, most: rows, ..self }
    }

    /// The condition that holds for the messages from this page on.
    fn condition(&self) -> Expr {
        let (id, above) = (column("msgId"), lit(self.above));
        let later = id.clone().gt(above.clone());
        match &self.owner {
            Some(owner) => later.or(id.eq(above).and(column(OWNER_COLUMN.name).gt(lit(owner.as_str())))),
            None => later,
        }
    }
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// The messages of a page by id, with their texts, and the next page if there may be more.
///
/// # Errors
/// When the disk or the object store fails, and what the statement runs into.
pub(super) async fn page(
    reader: &Reader,
    caller: &Caller,
    snapshot: Snapshot,
    subscription: &Subscription,
    mut page: MessagePage,
) -> Result<(Vec<(MsgId, Arc<str>)>, Option<MessagePage>)> {
    let filter = &subscription.filter;
    let batches = loop {
        match read_page(reader, caller, snapshot.clone(), subscription, &page).await {
            // The messages are too long to be held together.
            Err(error) if error.code == ErrorCode::QueryTooLarge && page.rows > 1 => page = page.smaller(),
            batches => break batches?,
        }
    };
    let mut rows = Vec::new();
    for batch in &batches {
        let verdicts = filter.judge(batch, &vec![true; batch.num_rows()]);
        for (msg_id, verdict) in ids(batch)?.into_iter().zip(verdicts) {
            rows.extend(verdict?.map(|text| (msg_id, text)));
        }
    }
    let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let last = batches.iter().rfind(|batch| batch.num_rows() > 0).filter(|_| count == page.rows);
    let next = last.map(|batch| next(&page, batch)).transpose()?;
    Ok((rows, next))
}

async fn read_page(
    reader: &Reader,
    caller: &Caller,
    snapshot: Snapshot,
    subscription: &Subscription,
    page: &MessagePage,
) -> Result<Vec<RecordBatch>> {
    let view = reader.view(caller, snapshot);
    let statement = &subscription.filter.statement;
    let messages = view.frame("messages", view.messages(&subscription.scope, MessageOptions::default()))?;
    let condition = statement.condition.iter().cloned().fold(page.condition(), Expr::and);
    let mut order = vec![column("msgId").sort(true, false)];
    order.extend(statement.everybody.then(|| column(OWNER_COLUMN.name).sort(true, false)));
    let frame = messages.filter(condition).and_then(|frame| frame.sort(order)?.limit(0, Some(page.rows)));
    view.collect(view.built(frame)?).await
}

/// The page after one whose last rows these are.
fn next(page: &MessagePage, last: &RecordBatch) -> Result<MessagePage> {
    let above = ids(last)?.last().copied().unwrap_or(page.above);
    let owner = last.column_by_name(OWNER_COLUMN.name).and_then(|owners| {
        let owners = owners.as_string_view_opt()?;
        (!owners.is_empty()).then(|| owners.value(owners.len() - 1).to_owned())
    });
    Ok(MessagePage { above, owner, rows: (page.rows * PAGE_GROWTH).min(page.most), most: page.most })
}

fn ids(batch: &RecordBatch) -> Result<Vec<MsgId>> {
    let ids = batch.column_by_name("msgId").ok_or_else(|| Error::fault("messages without ids"))?;
    Ok(ids.as_primitive::<Int64Type>().values().to_vec())
}
