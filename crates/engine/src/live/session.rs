//! One client's subscriptions, and the frames on their way to it.
//!
//! Invariant: everything here is bounded, in frames and in bytes, and nobody who has news waits for the client: a
//! subscription whose frame does not fit ends, and its client is told from where to go on as soon as there is room.
//! What can wait (a subscription's answer, its replay) takes half of the room at most, so that it is not what makes
//! others lag.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use kalamdb_protocol::{ErrorCode, MAX_ID_CHARS, MsgId, Position};
use kalamdb_store::Seq;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use super::{LiveFrame, frame, subscription::Subscription};
use crate::{Error, Result};

/// A client that takes nothing for so long is gone, or as good as gone: what waits to be told to it ends.
const PATIENCE: Duration = Duration::from_mins(1);

/// A subscription's number within its session; never used again, as its id may be.
pub(super) type Number = u32;

/// Frames waiting for one client, and how far its subscriptions are.
pub(super) struct Session {
    max_frames: usize,
    max_bytes: usize,
    /// The user's share of the threads that compute what is told.
    share: Arc<Semaphore>,
    state: Mutex<State>,
    readable: Notify,
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Number, LiveFrame)>,
    queued_bytes: usize,
    /// Frames that wait for the end of a replay, of all subscriptions together.
    held: usize,
    held_bytes: usize,
    entries: Vec<SubscriptionEntry>,
    last_number: Number,
    /// Frames that the client has taken.
    taken: u64,
}

/// A subscription as its session sees it.
struct SubscriptionEntry {
    number: Number,
    id: Arc<str>,
    phase: Phase,
    /// Commits up to this one are not news.
    floor: Seq,
    /// The position that the client knows once it has taken what waits for it.
    told: Position,
    subscription: Weak<Subscription>,
}

enum Phase {
    /// The subscription answers and replays; frames of later commits are held until it is done.
    Beginning(Box<HeldFrames>),
    /// Frames of commits are queued as they come.
    Live,
    /// The subscription has ended; its last frame goes out once there is room.
    Ending(Box<LiveFrame>),
}

#[derive(Default)]
struct HeldFrames {
    /// With the commits that they are of.
    frames: VecDeque<(Seq, LiveFrame)>,
    /// More came than may wait; what came is for a later replay.
    overflowed: bool,
}

/// Why a beginning comes to no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupted {
    /// The subscription was ended, by its client or by an error.
    Gone,
    /// The client takes nothing, or too slowly.
    Stalled,
}

/// The outcome of one step of something that waits for room; `None` when more steps follow.
type StepOutcome = Option<std::result::Result<(), Interrupted>>;

impl Session {
    pub fn new(max_frames: usize, max_bytes: usize, share: Arc<Semaphore>) -> Arc<Self> {
        let (readable, room) = (Notify::new(), Notify::new());
        Arc::new(Self { max_frames, max_bytes, share, state: Mutex::default(), readable, room })
    }

    pub fn share(&self) -> &Arc<Semaphore> {
        &self.share
    }

    /// Whether a subscription is there and has not ended.
    pub fn has(&self, number: Number) -> bool {
        let state = self.state.lock();
        state.find(number).is_some_and(|at| !matches!(state.entries[at].phase, Phase::Ending(_)))
    }

    /// The next frame, once there is one. For one reader at a time; it may give up waiting and loses nothing.
    pub async fn next(&self) -> LiveFrame {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            self.readable.notified().await;
        }
    }

    fn take(&self) -> Option<LiveFrame> {
        let mut state = self.state.lock();
        let (_, frame) = state.queue.pop_front()?;
        state.queued_bytes -= frame.text.len();
        state.taken += 1;
        if state.queue.is_empty() {
            // Memory that a burst needed is given back.
            state.queue = VecDeque::new();
        }
        self.settle(&mut state);
        if self.is_roomy(&state) {
            self.room.notify_waiters();
        }
        Some(frame)
    }

    /// Makes an entry for a subscription, under the id that the client gives it or a new one.
    ///
    /// # Errors
    /// `invalid_value`, `conflict` and `rate_limited`.
    pub fn open(&self, id: Option<String>, max: usize) -> Result<(Number, Arc<str>)> {
        let mut state = self.state.lock();
        if state.entries.len() >= max {
            let message = format!(
                "A connection may have {max} subscriptions (live.max_subscriptions_per_connection); end one first, or watch more with \
                 one statement."
            );
            return Err(Error::new(ErrorCode::RateLimited, message));
        }
        let id: Arc<str> = match id {
            Some(id) => state.checked(id)?.into(),
            None => state.new_id().into(),
        };
        state.last_number += 1;
        let number = state.last_number;
        // Most have one or two.
        state.entries.reserve_exact(1);
        state.entries.push(SubscriptionEntry {
            number,
            id: Arc::clone(&id),
            phase: Phase::Beginning(Box::default()),
            floor: 0,
            told: Position { epoch: 0, seq: 0, n: 0 },
            subscription: Weak::new(),
        });
        Ok((number, id))
    }

    /// Ties a subscription to its entry; commits up to `floor` are not news to it. False when it was ended meanwhile.
    pub fn attach(&self, subscription: &Arc<Subscription>, floor: Seq) -> bool {
        let mut state = self.state.lock();
        let Some(at) = state.find(subscription.number) else { return false };
        let entry = &mut state.entries[at];
        entry.subscription = Arc::downgrade(subscription);
        entry.floor = floor;
        true
    }

    /// A snapshot has been taken, which knows all commits up to `seq`. The client knows what is up to `told`.
    pub fn begin(&self, number: Number, seq: Seq, told: Position) {
        let mut state = self.state.lock();
        let Some(at) = state.find(number) else { return };
        let entry = &mut state.entries[at];
        (entry.floor, entry.told) = (seq, told);
        let Phase::Beginning(held) = &mut entry.phase else { return };
        let (mut old, mut old_bytes) = (0, 0);
        while let Some((_, frame)) = held.frames.pop_front_if(|(of, _)| *of <= seq) {
            old += 1;
            old_bytes += frame.text.len();
        }
        state.held -= old;
        state.held_bytes -= old_bytes;
    }

    /// Queues a frame of a beginning, once there is room. With it the client knows what is up to `told`.
    pub async fn put(&self, number: Number, frame: LiveFrame, told: Position) -> std::result::Result<(), Interrupted> {
        let mut frame = Some(frame);
        self.when_roomy(|state| {
            let Some(at) = state.find(number) else { return Some(Err(Interrupted::Gone)) };
            let entry = &mut state.entries[at];
            if !matches!(entry.phase, Phase::Beginning(_)) {
                return Some(Err(Interrupted::Gone));
            }
            entry.told = told;
            state.queue(number, frame.take());
            Some(Ok(()))
        })
        .await
    }

    /// The beginning is over: queues what waited for it, and from then on what comes. The client knows what is up to
    /// `told`; when more came than could wait, it is told to go on from there instead.
    pub async fn go_live(&self, number: Number, told: Position) -> std::result::Result<(), Interrupted> {
        let mut told = Some(told);
        self.when_roomy(|state| {
            let Some(at) = state.find(number) else { return Some(Err(Interrupted::Gone)) };
            let entry = &mut state.entries[at];
            entry.told = told.take().unwrap_or(entry.told);
            let Phase::Beginning(held) = &mut entry.phase else { return Some(Err(Interrupted::Gone)) };
            if held.overflowed {
                state.end_lagging(at, None);
                return Some(Ok(()));
            }
            let Some((_, frame)) = held.frames.pop_front() else {
                entry.phase = Phase::Live;
                return Some(Ok(()));
            };
            entry.told = frame.position.unwrap_or(entry.told);
            state.held -= 1;
            state.held_bytes -= frame.text.len();
            state.queue(number, Some(frame));
            None
        })
        .await
    }

    /// Does something by steps, each when there is room for a frame that can wait.
    async fn when_roomy(
        &self,
        mut step: impl FnMut(&mut State) -> StepOutcome,
    ) -> std::result::Result<(), Interrupted> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Notices from here on are not missed.
            room.as_mut().enable();
            let taken = {
                let mut state = self.state.lock();
                let mut done = None;
                while done.is_none() && self.is_roomy(&state) {
                    done = step(&mut state);
                }
                self.settle(&mut state);
                self.readable.notify_one();
                if let Some(done) = done {
                    return done;
                }
                state.taken
            };
            if timeout(PATIENCE, room).await.is_err() && self.state.lock().taken == taken {
                return Err(Interrupted::Stalled);
            }
        }
    }

    /// Takes what a commit means for a subscription; an error ends it. False when it has ended.
    pub fn deliver(&self, number: Number, seq: Seq, news: impl Iterator<Item = Result<LiveFrame>>) -> bool {
        let mut state = self.state.lock();
        let Some(at) = state.find(number) else { return false };
        if seq <= state.entries[at].floor {
            return true;
        }
        let mut stays = true;
        for news in news {
            stays = match news {
                Ok(frame) => self.take_in(&mut state, at, seq, frame),
                Err(error) => {
                    state.end(at, |entry| frame::failed(&entry.id, error.with("resumeAfter", json!(entry.told))))
                }
            };
            if !stays {
                break;
            }
        }
        self.settle(&mut state);
        self.readable.notify_one();
        stays
    }

    /// Takes a frame of a subscription; false when it has ended, now or before.
    fn take_in(&self, state: &mut State, at: usize, seq: Seq, frame: LiveFrame) -> bool {
        let bytes = frame.text.len();
        let fits = self.fits(state.queue.len(), state.queued_bytes, bytes);
        let may_wait = self.fits(state.held, state.held_bytes, bytes);
        let entry = &mut state.entries[at];
        match &mut entry.phase {
            Phase::Live if fits => {
                entry.told = frame.position.unwrap_or(entry.told);
                let number = entry.number;
                state.queue(number, Some(frame));
                true
            }
            Phase::Beginning(held) if may_wait && !held.overflowed => {
                held.frames.push_back((seq, frame));
                state.held += 1;
                state.held_bytes += bytes;
                true
            }
            Phase::Live | Phase::Beginning(_) => {
                state.lag(at);
                false
            }
            Phase::Ending(_) => false,
        }
    }

    /// Something is not told to a subscription: it ends, and its client learns from where to go on.
    pub fn lag(&self, number: Number) {
        self.end_with(number, State::lag);
    }

    /// Ends a subscription in the middle of its beginning; a replay by id goes on from `last_msg_id`.
    pub fn stall(&self, number: Number, last_msg_id: Option<MsgId>) {
        self.end_with(number, |state, at| state.end_lagging(at, last_msg_id));
    }

    /// Ends a subscription with an error, and says from where to go on.
    pub fn fail(&self, number: Number, error: Error) {
        self.end_with(number, |state, at| {
            state.end(at, |entry| frame::failed(&entry.id, error.with("resumeAfter", json!(entry.told))));
        });
    }

    /// Ends a subscription with a last frame.
    pub fn end(&self, number: Number, last: impl FnOnce(&str) -> LiveFrame) {
        self.end_with(number, |state, at| {
            state.end(at, |entry| last(&entry.id));
        });
    }

    fn end_with(&self, number: Number, end: impl FnOnce(&mut State, usize)) {
        let mut state = self.state.lock();
        let Some(at) = state.find(number) else { return };
        end(&mut state, at);
        self.settle(&mut state);
        self.readable.notify_one();
    }

    /// Takes an entry out, with all that waits of it.
    pub fn close(&self, number: Number) {
        let mut state = self.state.lock();
        let Some(at) = state.find(number) else { return };
        let entry = state.entries.swap_remove(at);
        state.let_go(entry.phase);
        state.queue.retain(|(of, _)| *of != number);
        state.queued_bytes = state.queue.iter().map(|(_, frame)| frame.text.len()).sum();
        self.settle(&mut state);
        self.room.notify_waiters();
    }

    /// The subscription of that id, if there is one.
    pub fn named(&self, id: &str) -> Option<(Number, Weak<Subscription>)> {
        let state = self.state.lock();
        let entry = state.entries.iter().find(|entry| entry.id.as_ref() == id)?;
        Some((entry.number, entry.subscription.clone()))
    }

    /// Takes everything out; the subscriptions that there were.
    pub fn close_all(&self) -> Vec<Arc<Subscription>> {
        let state = std::mem::take(&mut *self.state.lock());
        self.room.notify_waiters();
        state.entries.into_iter().filter_map(|entry| entry.subscription.upgrade()).collect()
    }

    /// Queues the last frames of subscriptions that have ended, as far as there is room.
    fn settle(&self, state: &mut State) {
        while self.is_roomy(state) {
            let ending = |entry: &SubscriptionEntry| matches!(entry.phase, Phase::Ending(_));
            let Some(at) = state.entries.iter().position(ending) else { return };
            let entry = state.entries.swap_remove(at);
            if let Phase::Ending(last) = entry.phase {
                state.queue(entry.number, Some(*last));
            }
        }
    }

    /// Whether there is room for a frame that can wait.
    fn is_roomy(&self, state: &State) -> bool {
        state.queue.is_empty() || (state.queue.len() < self.max_frames / 2 && state.queued_bytes < self.max_bytes / 2)
    }

    /// Whether more may wait beside these; a frame that is larger than all that may wait goes alone.
    fn fits(&self, frames: usize, bytes: usize, more_bytes: usize) -> bool {
        frames == 0 || (frames < self.max_frames && bytes + more_bytes <= self.max_bytes)
    }
}

impl State {
    fn find(&self, number: Number) -> Option<usize> {
        self.entries.iter().position(|entry| entry.number == number)
    }

    fn queue(&mut self, number: Number, frame: Option<LiveFrame>) {
        if let Some(frame) = frame {
            self.queued_bytes += frame.text.len();
            self.queue.push_back((number, frame));
        }
    }

    fn is_taken(&self, id: &str) -> bool {
        self.entries.iter().any(|entry| entry.id.as_ref() == id)
    }

    /// An id that a client gives.
    fn checked(&self, id: String) -> Result<String> {
        if id.is_empty() || id.chars().count() > MAX_ID_CHARS {
            let message = format!("A subscription's id has 1 to {MAX_ID_CHARS} characters.");
            return Err(Error::new(ErrorCode::InvalidValue, message));
        }
        if self.is_taken(&id) {
            let message = "There is a subscription of this id already; end it first, or use another id.";
            return Err(Error::new(ErrorCode::Conflict, message));
        }
        Ok(id)
    }

    /// An id that no entry has: among one more candidates than entries there is one.
    fn new_id(&self) -> String {
        let mut candidate = u64::from(self.last_number) + 1;
        while self.is_taken(&format!("s{candidate}")) {
            candidate += 1;
        }
        format!("s{candidate}")
    }

    /// Ends an entry; always false, as an answer to whether it stays.
    fn end(&mut self, at: usize, last: impl FnOnce(&SubscriptionEntry) -> LiveFrame) -> bool {
        let entry = &mut self.entries[at];
        if !matches!(entry.phase, Phase::Ending(_)) {
            let last = Phase::Ending(Box::new(last(entry)));
            let phase = std::mem::replace(&mut entry.phase, last);
            self.let_go(phase);
        }
        false
    }

    fn end_lagging(&mut self, at: usize, last_msg_id: Option<MsgId>) {
        self.end(at, |entry| frame::lagged(&entry.id, entry.told, last_msg_id));
    }

    /// An entry misses something. One that begins still tells what its snapshot knows, and ends then.
    fn lag(&mut self, at: usize) {
        match &mut self.entries[at].phase {
            Phase::Live => self.end_lagging(at, None),
            phase @ Phase::Beginning(_) => {
                let overflowed = HeldFrames { frames: VecDeque::new(), overflowed: true };
                let phase = std::mem::replace(phase, Phase::Beginning(Box::new(overflowed)));
                self.let_go(phase);
            }
            Phase::Ending(_) => {}
        }
    }

    /// Takes the held frames of a phase that is over out of the count.
    fn let_go(&mut self, phase: Phase) {
        if let Phase::Beginning(held) = phase {
            self.held -= held.frames.len();
            self.held_bytes -= held.frames.iter().map(|(_, frame)| frame.text.len()).sum::<usize>();
        }
    }
}
