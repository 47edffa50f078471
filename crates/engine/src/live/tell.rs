//! What a commit means for those who have a shape: rows before and after, judged, and the news that comes of it.
//!
//! Invariant: each row is judged once and its text written once, however many owners and subscriptions share it. A
//! commit of many rows is told in parts, so that no more than a part is held.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use kalamdb_protocol::{Position, UserId};
use kalamdb_store::{Commit, Event, Member, Message, Row as Stored, RowChange};

use super::{
    frame::{Key, News},
    hub::Hub,
    lane::{Job, Part, cost},
    lookup::{Found, Wanted, find},
    rows::{Known, LiveTable, Owned, Row},
    shape::{Shape, Verdict},
};
use crate::{Error, Result};

/// A part of a commit ends here too, so that long messages do not make it much larger than others.
const PART_BYTES: usize = 4 << 20;

/// What is told of the events, by their places in the commit.
type Told = HashMap<usize, Vec<Result<News>>>;

impl Hub {
    /// Tells a commit to those of a shape whom it concerns.
    pub(super) fn tell(&self, shape: &Shape, job: &mut Job) {
        let mut events: Vec<usize> = job.parts.iter().flat_map(|part| part.events.iter().copied()).collect();
        events.sort_unstable();
        let mut rest = events.as_slice();
        while !rest.is_empty() && job.parts.iter().any(|part| !part.subscriptions.is_empty()) {
            let (now, later) = rest.split_at(part_of(&job.commit, rest, shape.rows_at_a_time()));
            let told = self.told(shape, &job.commit, now);
            let range = now[0]..later.first().copied().unwrap_or(job.commit.events.len());
            for part in &mut job.parts {
                self.pass_on(shape, &job.commit, part, &range, &told);
            }
            rest = later;
        }
    }

    /// Gives subscriptions what is told of their events in that range, and leaves those that have ended.
    fn pass_on(&self, shape: &Shape, commit: &Commit, part: &mut Part, range: &Range<usize>, told: &Told) {
        let Part { events, subscriptions } = part;
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
            if shape.table() == LiveTable::Messages {
                return self.position(commit.seq, n);
            }
            // Of these tables one change is several rows, and several changes are one row: who has all rows of a
            // commit goes on after it, and who has some of them begins with it.
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

    /// What is told of these events.
    fn told(&self, shape: &Shape, commit: &Commit, events: &[usize]) -> Told {
        let mut look = Look { by_owner: shape.form.everybody, ..Look::default() };
        let cases: Vec<(usize, Case<'_>)> =
            events.iter().flat_map(|at| look.at(&commit.events[*at]).into_iter().map(|case| (*at, case))).collect();
        let judged = Judged {
            shape,
            verdicts: shape.judge_rows(&look.rows, &look.asked),
            // Messages that came back and lie in segments.
            found: self.found_now(shape, &look.cold),
        };
        let mut told = Told::new();
        for (at, case) in cases {
            if let Some(news) = judged.news(&case).transpose() {
                told.entry(at).or_default().push(news);
            }
        }
        told
    }

    fn found_now(&self, shape: &Shape, wanted: &Wanted) -> Result<Found> {
        if wanted.is_empty() {
            return Ok(Found::new());
        }
        // This thread has nothing else to do.
        self.wait_for(find(&self.reader, &self.store.snapshot(), shape, wanted))
    }
}

/// How many of these events are looked at together.
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

/// What happened to one row, or to all of a conversation.
enum Case<'a> {
    Row { owner: &'a UserId, key: Key<'a>, before: Seen<'a>, after: Seen<'a> },
    Gone(Known<'a>),
}

/// A row at some moment.
#[derive(Clone, Copy)]
enum Seen<'a> {
    Nowhere,
    /// At this place among the rows that are judged.
    At(usize),
    /// In a segment, which the commit did not read.
    Cold(Known<'a>),
}

/// The rows to be judged, each once.
#[derive(Default)]
struct Look<'a> {
    rows: Vec<Owned<'a>>,
    /// Whether its text is asked for: what a row was before is not told.
    asked: Vec<bool>,
    places: HashMap<(usize, Option<&'a UserId>), usize>,
    cold: Wanted,
    /// Whether a row that several owners share is another for each.
    by_owner: bool,
}

impl<'a> Look<'a> {
    fn at(&mut self, event: &'a Event) -> Vec<Case<'a>> {
        let owner = &event.owner;
        match &event.change {
            RowChange::Message { msg_id, conversation, before, after } => {
                let known = Known { owner, conversation, msg_id: Some(*msg_id) };
                if matches!(after, Stored::Cold) {
                    self.cold.entry(owner.clone()).or_default().insert(*msg_id);
                }
                let (before, after) = (self.message(known, before, false), self.message(known, after, true));
                vec![Case::Row { owner, key: Key::Message(*msg_id), before, after }]
            }
            RowChange::MessagesGone { conversation } => vec![Case::Gone(Known { owner, conversation, msg_id: None })],
            RowChange::Conversation { before, after } => {
                let key = before.as_ref().or(after.as_ref()).map(|row| Key::Conversation(&row.key));
                let mut seen = |row: &'a Option<Arc<_>>, asked| match row {
                    Some(row) => self.row(owner, Row::Conversation(row), asked),
                    None => Seen::Nowhere,
                };
                let (before, after) = (seen(before, false), seen(after, true));
                key.map(|key| Case::Row { owner, key, before, after }).into_iter().collect()
            }
            RowChange::Members { group, before, after } => both(before, after)
                .into_iter()
                .filter(|(_, (before, after))| before != after)
                .map(|(user, (before, after))| {
                    let mut seen = |member: Option<&'a Member>, asked| match member {
                        Some(member) => self.row(owner, Row::Member(member), asked),
                        None => Seen::Nowhere,
                    };
                    let (before, after) = (seen(before, false), seen(after, true));
                    Case::Row { owner, key: Key::Member(user, group), before, after }
                })
                .collect(),
        }
    }

    fn message(&mut self, known: Known<'a>, row: &'a Stored<Message>, asked: bool) -> Seen<'a> {
        match row {
            Stored::Absent => Seen::Nowhere,
            Stored::There(message) => self.row(known.owner, Row::Message(message), asked),
            Stored::Cold => Seen::Cold(known),
        }
    }

    fn row(&mut self, owner: &'a UserId, row: Row<'a>, asked: bool) -> Seen<'a> {
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
    before: &'a [Member],
    after: &'a [Member],
) -> BTreeMap<&'a UserId, (Option<&'a Member>, Option<&'a Member>)> {
    let mut all: BTreeMap<_, (Option<_>, Option<_>)> = BTreeMap::new();
    for member in before {
        all.entry(&member.user).or_default().0 = Some(member);
    }
    for member in after {
        all.entry(&member.user).or_default().1 = Some(member);
    }
    all
}

/// The rows, judged.
struct Judged<'a> {
    shape: &'a Shape,
    verdicts: Vec<Verdict>,
    found: Result<Found>,
}

impl Judged<'_> {
    fn news(&self, case: &Case<'_>) -> Result<Option<News>> {
        match case {
            Case::Gone(known) if self.shape.may_want(known) => {
                Ok(Some(Key::Conversation(known.conversation).gone(self.shape.owner(known.owner))))
            }
            Case::Gone(_) => Ok(None),
            Case::Row { owner, key, before, after } => {
                let (had, now) = (self.had(*before), self.now(*after)?);
                Ok(match now {
                    Some(text) if had => Some(News::Update(text)),
                    Some(text) => Some(News::Message(text)),
                    None if had => Some(key.gone(self.shape.owner(owner))),
                    None => None,
                })
            }
        }
    }

    /// Whether the clients have a row, or may have it.
    fn had(&self, seen: Seen<'_>) -> bool {
        match seen {
            Seen::Nowhere => false,
            // One that could not be judged has ended the subscriptions of that time.
            Seen::At(place) => matches!(self.verdicts.get(place), Some(Ok(Some(_)))),
            Seen::Cold(known) => self.shape.may_want(&known),
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
                // One that is gone again by now has its own news.
                found.get(&key).cloned().unwrap_or(Ok(None))
            }
        }
    }
}
