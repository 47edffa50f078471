//! Where commits wait until a filter has told them: one queue for each filter, so that a costly filter keeps nobody
//! waiting but those who asked for it.
//!
//! Invariant: commits leave in the order in which they came, one at a time. What waits is bounded; a queue with nothing
//! to do has no thread.

use std::{collections::VecDeque, sync::Arc};

use kalamdb_store::{Commit, Event, RowChange, RowState};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{hub::Subscription, rows::text_bytes};

/// Commits that may wait in a queue: some seconds of a busy server's.
const DELIVERIES: usize = 4_096;
/// Bytes of rows that may wait with them.
const DELIVERIES_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct DeliveryQueue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// Whether somebody is at it.
    running: bool,
}

/// A commit, and who of one filter is to hear of it.
pub(super) struct Delivery {
    pub commit: Arc<Commit>,
    pub audiences: Vec<Audience>,
    bytes: usize,
}

/// Subscriptions that are told of the same events.
pub(super) struct Audience {
    /// The places of the events in the commit, in order.
    pub events: Vec<usize>,
    pub subscriptions: Vec<Arc<Subscription>>,
}

/// What became of a delivery that came to a queue.
pub(super) enum Entered {
    /// It waits; somebody is at work.
    Waits,
    /// It waits, and whoever brought it is to see to it that it is done.
    First,
    /// There is no room for it.
    Full(Delivery),
}

impl Delivery {
    pub fn new(commit: Arc<Commit>, audiences: Vec<Audience>) -> Self {
        let events = audiences.iter().flat_map(|audience| &audience.events).filter_map(|at| commit.events.get(*at));
        let bytes = events.map(|event| cost(event).bytes).sum();
        Self { commit, audiences, bytes }
    }

    pub fn subscriptions(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.audiences.iter().flat_map(|audience| &audience.subscriptions)
    }

    /// Whose threads it takes: of several users who ask the same, the first one's.
    pub fn share(&self) -> Option<Arc<Semaphore>> {
        self.subscriptions().next().map(|subscription| Arc::clone(subscription.session.share()))
    }

    pub fn leave_out_ended(&mut self) {
        for audience in &mut self.audiences {
            audience.subscriptions.retain(|subscription| subscription.session.has(subscription.number));
        }
        self.audiences.retain(|audience| !audience.subscriptions.is_empty());
    }

    /// Whether it concerns nobody.
    pub fn is_empty(&self) -> bool {
        self.audiences.is_empty()
    }
}

impl DeliveryQueue {
    pub fn enter(&self, delivery: Delivery) -> Entered {
        let mut waiting = self.0.lock();
        // One that is larger than all that may wait goes alone.
        let fits = waiting.deliveries.len() < DELIVERIES && waiting.bytes + delivery.bytes <= DELIVERIES_BYTES;
        if !waiting.deliveries.is_empty() && !fits {
            return Entered::Full(delivery);
        }
        waiting.bytes += delivery.bytes;
        waiting.deliveries.push_back(delivery);
        if std::mem::replace(&mut waiting.running, true) { Entered::Waits } else { Entered::First }
    }

    /// The next delivery; with none left, whoever asked is not at it any more.
    pub fn next(&self) -> Option<Delivery> {
        let mut waiting = self.0.lock();
        let Some(delivery) = waiting.deliveries.pop_front() else {
            // What a burst needed is not kept for ever.
            *waiting = Waiting::default();
            return None;
        };
        waiting.bytes -= delivery.bytes;
        Some(delivery)
    }
}

/// What it takes to look at an event.
pub(super) struct Cost {
    pub rows: usize,
    pub bytes: usize,
}

/// See [`Cost`]: the text of messages counts, everything else is small.
pub(super) fn cost(event: &Event) -> Cost {
    let text = |row: &RowState<_>| match row {
        RowState::There(message) => text_bytes(message),
        RowState::Absent | RowState::Cold => 0,
    };
    match &event.change {
        RowChange::Message { before, after, .. } => Cost { rows: 2, bytes: text(before) + text(after) },
        RowChange::Participants { before, after, .. } => Cost { rows: before.len() + after.len(), bytes: 0 },
        RowChange::Conversation { .. } | RowChange::MessagesGone { .. } => Cost { rows: 2, bytes: 0 },
    }
}
