//! The news of a commit for the subscriptions of a filter: rows before and after, judged, and the news that comes of
//! it.
//!
//! Invariant: each row is judged once and its text written once, however many owners and subscriptions share it. A
//! commit of many rows is told in parts, so that no more than a part is held.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use kalamdb_protocol::{Position, UserId};
use kalamdb_store::{Commit, Event, Message, Participant, RowChange, RowState};

use super::{
    delivery::{Audience, Delivery, cost},
    filter::{CompiledFilter, Verdict},
    frame::{Key, News},
    hub::Hub,
    lookup::{Found, Wanted, find},
    rows::{Known, LiveRow, LiveTable, OwnedRow},
};
use crate::{Error, Result};

/// A part of a commit ends here too, so that long messages do not make it much larger than others.
const PART_BYTES: usize = 4 << 20;

/// News of a commit's events, by the index of the event.
type NewsByEvent = HashMap<usize, Vec<Result<News>>>;

impl Hub {
    /// Tells a commit to those of a filter whom it concerns.
    pub(super) fn tell(&self, filter: &CompiledFilter, delivery: &mut Delivery) {
        let mut events: Vec<usize> =
            delivery.audiences.iter().flat_map(|audience| audience.events.iter().copied()).collect();
        events.sort_unstable();
        let mut rest = events.as_slice();
        while !rest.is_empty() && delivery.audiences.iter().any(|audience| !audience.subscriptions.is_empty()) {
            let (now, later) = rest.split_at(part_of(&delivery.commit, rest, filter.rows_at_a_time()));
            let told = self.told(filter, &delivery.commit, now);
            let range = now[0]..later.first().copied().unwrap_or(delivery.commit.events.len());
            for audience in &mut delivery.audiences {
                self.pass_on(filter, &delivery.commit, audience, &range, &told);
            }
            rest = later;
        }
    }

    /// Gives subscriptions what is told of their events in that range, and leaves those that have ended.
    fn pass_on(
        &self,
        filter: &CompiledFilter,
        commit: &Commit,
        audience: &mut Audience,
        range: &Range<usize>,
        told: &NewsByEvent,
    ) {
        let Audience { events, subscriptions } = audience;
        let place = |at: usize| events.partition_point(|event| *event < at);
        let (from, until) = (place(range.start), place(range.end));
        let mut news: Vec<(u32, &Result<News>)> = Vec::new();
        for at in &events[from..until] {
            news.extend(told.get(at).into_iter().flatten().map(|news| (commit.events[*at].n, news)));
        }
        if news.is_empty() {
            return;
        }
        let ends = (until == events.len()).then_some(news.len());
        let position = |index: usize, n: u32| -> Position {
            if filter.table() == LiveTable::Messages {
                return self.position(commit.seq, n);
            }
            // In these tables one change may be several rows, and several changes one row: a client that has all rows
            // of a commit goes on after it, and one that has some of them begins it again.
            let whole = ends == Some(index + 1);
            if whole { self.position(commit.seq, u32::MAX) } else { self.position(commit.seq - 1, u32::MAX) }
        };
        subscriptions.retain(|subscription| {
            let frames = news.iter().enumerate().map(|(index, (n, news))| match news {
                Ok(news) => Ok(news.frame(&subscription.id, position(index, *n))),
                Err(error) => Err(error.clone()),
            });
            let stays = subscription.session.deliver(subscription.number, commit.seq, frames);
            if !stays {
                self.forget(subscription);
            }
            stays
        });
    }

    /// The news of these events.
    fn told(&self, filter: &CompiledFilter, commit: &Commit, events: &[usize]) -> NewsByEvent {
        let mut rows = RowsToJudge { by_owner: filter.statement.everybody, ..RowsToJudge::default() };
        let cases: Vec<(usize, Case<'_>)> =
            events.iter().flat_map(|at| rows.at(&commit.events[*at]).into_iter().map(|case| (*at, case))).collect();
        let judged = Judged {
            filter,
            verdicts: filter.judge_rows(&rows.rows, &rows.asked),
            // Messages that came back and lie in segments.
            found: self.found_now(filter, &rows.cold),
        };
        let mut told = NewsByEvent::new();
        for (at, case) in cases {
            if let Some(news) = judged.news(&case).transpose() {
                told.entry(at).or_default().push(news);
            }
        }
        told
    }

    fn found_now(&self, filter: &CompiledFilter, wanted: &Wanted) -> Result<Found> {
        if wanted.is_empty() {
            return Ok(Found::new());
        }
        // Blocking is fine here: this thread has nothing else to do.
        self.wait_for(find(&self.reader, &self.store.snapshot(), filter, wanted))
    }
}

/// The number of these events that are judged together.
fn part_of(commit: &Commit, events: &[usize], most_rows: usize) -> usize {
    let (mut rows, mut bytes) = (0, 0);
    let fit = events.iter().take_while(|at| {
        let fits = rows < most_rows && bytes < PART_BYTES;
        let cost = cost(&commit.events[**at]);
        (rows, bytes) = (rows + cost.rows, bytes + cost.bytes);
        fits
    });
    fit.count()
}

/// An event of one row, or of all messages of a conversation.
enum Case<'a> {
    Row { owner: &'a UserId, key: Key<'a>, before: Seen<'a>, after: Seen<'a> },
    Gone(Known<'a>),
}

/// A row at some moment.
#[derive(Clone, Copy)]
enum Seen<'a> {
    Nowhere,
    /// The index of the row among those that are judged.
    At(usize),
    /// The row lies in a segment, which the commit did not read.
    Cold(Known<'a>),
}

/// The rows to be judged, each once.
#[derive(Default)]
struct RowsToJudge<'a> {
    rows: Vec<OwnedRow<'a>>,
    /// Whether a row's text is asked for: the row before a change is judged, but not told.
    asked: Vec<bool>,
    places: HashMap<(usize, Option<&'a UserId>), usize>,
    cold: Wanted,
    /// Whether a row that several owners share is another for each.
    by_owner: bool,
}

impl<'a> RowsToJudge<'a> {
    fn at(&mut self, event: &'a Event) -> Vec<Case<'a>> {
        let owner = &event.owner;
        match &event.change {
            RowChange::Message { msg_id, conversation, before, after } => {
                let known = Known { owner, conversation, msg_id: Some(*msg_id) };
                if matches!(after, RowState::Cold) {
                    self.cold.entry(owner.clone()).or_default().insert(*msg_id);
                }
                let (before, after) = (self.message(known, before, false), self.message(known, after, true));
                vec![Case::Row { owner, key: Key::Message(*msg_id), before, after }]
            }
            RowChange::MessagesGone { conversation } => vec![Case::Gone(Known { owner, conversation, msg_id: None })],
            RowChange::Conversation { before, after } => {
                let key = before.as_ref().or(after.as_ref()).map(|row| Key::Conversation(&row.key));
                let mut seen = |row: &'a Option<Arc<_>>, asked| match row {
                    Some(row) => self.row(owner, LiveRow::Conversation(row), asked),
                    None => Seen::Nowhere,
                };
                let (before, after) = (seen(before, false), seen(after, true));
                key.map(|key| Case::Row { owner, key, before, after }).into_iter().collect()
            }
            RowChange::Participants { group, before, after } => both(before, after)
                .into_iter()
                .filter(|(_, (before, after))| before != after)
                .map(|(user, (before, after))| {
                    let mut seen = |participant: Option<&'a Participant>, asked| match participant {
                        Some(participant) => self.row(owner, LiveRow::Participant(participant), asked),
                        None => Seen::Nowhere,
                    };
                    let (before, after) = (seen(before, false), seen(after, true));
                    Case::Row { owner, key: Key::Participant(user, group), before, after }
                })
                .collect(),
        }
    }

    fn message(&mut self, known: Known<'a>, row: &'a RowState<Message>, asked: bool) -> Seen<'a> {
        match row {
            RowState::Absent => Seen::Nowhere,
            RowState::There(message) => self.row(known.owner, LiveRow::Message(message), asked),
            RowState::Cold => Seen::Cold(known),
        }
    }

    fn row(&mut self, owner: &'a UserId, row: LiveRow<'a>, asked: bool) -> Seen<'a> {
        let next = self.rows.len();
        let place = *self.places.entry((row.address(), self.by_owner.then_some(owner))).or_insert(next);
        if place == next {
            self.rows.push((owner, row));
            self.asked.push(asked);
        } else {
            self.asked[place] |= asked;
        }
        Seen::At(place)
    }
}

/// A group's participants before and after, by user.
fn both<'a>(
    before: &'a [Participant],
    after: &'a [Participant],
) -> BTreeMap<&'a UserId, (Option<&'a Participant>, Option<&'a Participant>)> {
    let mut all: BTreeMap<_, (Option<_>, Option<_>)> = BTreeMap::new();
    for participant in before {
        all.entry(&participant.user).or_default().0 = Some(participant);
    }
    for participant in after {
        all.entry(&participant.user).or_default().1 = Some(participant);
    }
    all
}

/// The rows, judged.
struct Judged<'a> {
    filter: &'a CompiledFilter,
    verdicts: Vec<Verdict>,
    found: Result<Found>,
}

impl Judged<'_> {
    fn news(&self, case: &Case<'_>) -> Result<Option<News>> {
        match case {
            Case::Gone(known) if self.filter.may_want(known) => {
                Ok(Some(Key::Conversation(known.conversation).gone(self.filter.owner(known.owner))))
            }
            Case::Gone(_) => Ok(None),
            Case::Row { owner, key, before, after } => {
                let (had, now) = (self.had(*before), self.now(*after)?);
                Ok(match now {
                    Some(text) if had => Some(News::Update(text)),
                    Some(text) => Some(News::Message(text)),
                    None if had => Some(key.gone(self.filter.owner(owner))),
                    None => None,
                })
            }
        }
    }

    /// Whether the clients have a row, or may have it.
    fn had(&self, seen: Seen<'_>) -> bool {
        match seen {
            Seen::Nowhere => false,
            // A row that could not be judged then has ended the subscriptions of that time.
            Seen::At(place) => matches!(self.verdicts.get(place), Some(Ok(Some(_)))),
            Seen::Cold(known) => self.filter.may_want(&known),
        }
    }

    /// The text of a row that they are to have.
    fn now(&self, seen: Seen<'_>) -> Verdict {
        match seen {
            Seen::Nowhere => Ok(None),
            Seen::At(place) => self.verdicts.get(place).cloned().unwrap_or(Ok(None)),
            Seen::Cold(known) => {
                let found = self.found.as_ref().map_err(Error::clone)?;
                let key = (known.owner.clone(), known.msg_id.unwrap_or_default());
                // A row that has gone again meanwhile has news of its own.
                found.get(&key).cloned().unwrap_or(Ok(None))
            }
        }
    }
}
