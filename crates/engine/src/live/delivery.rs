//! The queues of commits that filters have not told yet: one for each filter, so that a costly filter keeps nobody
//! waiting but those who asked for it.
//!
//! Invariant: commits leave in the order in which they came, one at a time. What waits is bounded; a queue with nothing
//! to do has no thread.

use std::{collections::VecDeque, sync::Arc};

use kalamdb_store::{Commit, Event, RowChange, RowState};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{rows::text_bytes, subscription::Subscription};

/// Commits that may wait in a queue: some seconds of a busy server's.
const DELIVERIES: usize = 4_096;
/// Bytes of rows that may wait with them.
const DELIVERIES_BYTES: usize = 16 << 20;

/// The commits that wait until one filter has told them.
#[derive(Default)]
pub(super) struct DeliveryQueue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// Whether a task is working on the queue.
    running: bool,
}

/// A commit, and the subscriptions of one filter that are told of it.
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

/// The outcome of adding a delivery to a queue.
pub(super) enum Entered {
    /// The delivery waits, and a task is working on the queue.
    Waits,
    /// The delivery waits, and no task is working on the queue: the caller must start one.
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

    /// The share of threads that the delivery uses: of several users with the same filter, the first one's.
    pub fn share(&self) -> Option<Arc<Semaphore>> {
        self.subscriptions().next().map(|subscription| Arc::clone(subscription.session.share()))
    }

    pub fn leave_out_ended(&mut self) {
        for audience in &mut self.audiences {
            audience.subscriptions.retain(|subscription| subscription.session.has(subscription.number));
        }
        self.audiences.retain(|audience| !audience.subscriptions.is_empty());
    }

    /// Whether no subscription is left that it concerns.
    pub fn is_empty(&self) -> bool {
        self.audiences.is_empty()
    }
}

impl DeliveryQueue {
    pub fn enter(&self, delivery: Delivery) -> Entered {
        let mut waiting = self.0.lock();
        // A delivery larger than the bound waits alone.
        let fits = waiting.deliveries.len() < DELIVERIES && waiting.bytes + delivery.bytes <= DELIVERIES_BYTES;
        if !waiting.deliveries.is_empty() && !fits {
            return Entered::Full(delivery);
        }
        waiting.bytes += delivery.bytes;
        waiting.deliveries.push_back(delivery);
        if std::mem::replace(&mut waiting.running, true) { Entered::Waits } else { Entered::First }
    }

    /// The next delivery; with none left, the task that asked must end, and the queue counts as idle.
    pub fn next(&self) -> Option<Delivery> {
        let mut waiting = self.0.lock();
        let Some(delivery) = waiting.deliveries.pop_front() else {
            // Memory that a burst needed is given back.
            *waiting = Waiting::default();
            return None;
        };
        waiting.bytes -= delivery.bytes;
        Some(delivery)
    }
}

/// The cost of judging an event.
pub(super) struct Cost {
    pub rows: usize,
    pub bytes: usize,
}

/// The cost of an event: the text of messages counts, everything else is small.
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
