//! Where commits wait until a shape has told them: one lane for each shape, so that a costly filter keeps nobody
//! waiting but those who asked for it.
//!
//! Invariant: commits leave in the order in which they came, one at a time. What waits is bounded; a lane with nothing
//! to do has no thread.

use std::{collections::VecDeque, sync::Arc};

use kalamdb_store::{Commit, Event, Row, RowChange};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{hub::Subscription, rows::text_bytes};

/// Commits that may wait in a lane: some seconds of a busy server's.
const JOBS: usize = 4_096;
/// Bytes of rows that may wait with them.
const JOBS_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct Lane(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Whether somebody is at it.
    running: bool,
}

/// A commit, and who of one shape is to hear of it.
pub(super) struct Job {
    pub commit: Arc<Commit>,
    pub parts: Vec<Part>,
    bytes: usize,
}

/// Subscriptions that are told of the same events.
pub(super) struct Part {
    /// The places of the events in the commit, in order.
    pub events: Vec<usize>,
    pub subscriptions: Vec<Arc<Subscription>>,
}

/// What became of a job that came to a lane.
pub(super) enum Entered {
    /// It waits; somebody is at work.
    Waits,
    /// It waits, and whoever brought it is to see to it that it is done.
    First,
    /// There is no room for it.
    Full(Job),
}

impl Job {
    pub fn new(commit: Arc<Commit>, parts: Vec<Part>) -> Self {
        let events = parts.iter().flat_map(|part| &part.events).filter_map(|at| commit.events.get(*at));
        let bytes = events.map(|event| cost(event).bytes).sum();
        Self { commit, parts, bytes }
    }

    pub fn subscriptions(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.parts.iter().flat_map(|part| &part.subscriptions)
    }

    /// Whose threads it takes: of several users who ask the same, the first one's.
    pub fn share(&self) -> Option<Arc<Semaphore>> {
        self.subscriptions().next().map(|subscription| Arc::clone(subscription.session.share()))
    }

    pub fn leave_out_ended(&mut self) {
        for part in &mut self.parts {
            part.subscriptions.retain(|subscription| subscription.session.has(subscription.number));
        }
        self.parts.retain(|part| !part.subscriptions.is_empty());
    }

    /// Whether it concerns nobody.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

impl Lane {
    pub fn enter(&self, job: Job) -> Entered {
        let mut waiting = self.0.lock();
        // One that is larger than all that may wait goes alone.
        let fits = waiting.jobs.len() < JOBS && waiting.bytes + job.bytes <= JOBS_BYTES;
        if !waiting.jobs.is_empty() && !fits {
            return Entered::Full(job);
        }
        waiting.bytes += job.bytes;
        waiting.jobs.push_back(job);
        if std::mem::replace(&mut waiting.running, true) { Entered::Waits } else { Entered::First }
    }

    /// The next job; with none left, whoever asked is not at it any more.
    pub fn next(&self) -> Option<Job> {
        let mut waiting = self.0.lock();
        let Some(job) = waiting.jobs.pop_front() else {
            // What a burst needed is not kept for ever.
            *waiting = Waiting::default();
            return None;
        };
        waiting.bytes -= job.bytes;
        Some(job)
    }
}

/// What it takes to look at an event.
pub(super) struct Cost {
    pub rows: usize,
    pub bytes: usize,
}

/// See [`Cost`]: the text of messages counts, everything else is small.
pub(super) fn cost(event: &Event) -> Cost {
    let text = |row: &Row<_>| match row {
        Row::There(message) => text_bytes(message),
        Row::Absent | Row::Cold => 0,
    };
    match &event.change {
        RowChange::Message { before, after, .. } => Cost { rows: 2, bytes: text(before) + text(after) },
        RowChange::Members { before, after, .. } => Cost { rows: before.len() + after.len(), bytes: 0 },
        RowChange::Conversation { .. } | RowChange::MessagesGone { .. } => Cost { rows: 2, bytes: 0 },
    }
}
