//! The sequencer, the one place where commits happen: a thread that takes waiting commands, applies each to an overlay,
//! writes the whole batch at once, and only then answers.
//!
//! Invariant: nothing is acknowledged before it is written, nothing is written in another order than it is
//! numbered, and a refused command leaves no trace. The thread does no I/O but RocksDB's.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use kalamdb_protocol::{Micros, UserId};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    MAX_PROPOSAL_BYTES,
    apply::{self, Aftermath, State},
    cache::{self, RowCache},
    command::{Ask, Command, Done, Entry},
    counters::Counters,
    database::Database,
    error::{Error, ErrorKind, Result},
    fatal,
    feed::{Commit, FeedSender, Watched},
    keys::Family,
    model::Seq,
    overlay::Overlay,
    queue::{self, Weighed},
    settings::{Components, Step},
    stages::{Counts, WriteStages},
};

/// Commands that may wait; beyond it senders wait for a place, which is what slows a flood down.
const QUEUE: usize = 1024;
/// Bytes of them, and of those being written: texts and rows wait in memory.
const QUEUE_BYTES: usize = 128 << 20;
/// Commands in one write: enough to share a sync among all who wait, few enough to keep the wait short.
const BATCH_COMMANDS: usize = 256;
/// A clock that is behind the last commit by more than this, in microseconds, is worth a word: machines differ by less.
const CLOCK_TOLERANCE: Micros = 60 * 1_000_000;
/// Bytes of one write, after which it goes out whatever else waits.
const BATCH_BYTES: usize = 8 << 20;
const _: () = assert!(MAX_PROPOSAL_BYTES <= QUEUE_BYTES, "what passes the door fits into the queue");

/// An item of the sequencer's queue.
#[expect(clippy::large_enum_variant, reason = "nearly all that waits is commands")]
enum Waiting {
    /// A command, whom to tell what it came to, and when it was sent.
    Command(Command, oneshot::Sender<Result<Done>>, Instant),
    /// A caller who wants to know when everything before it is written.
    Barrier(oneshot::Sender<Result<()>>),
}

/// The sequencer's handle.
pub(crate) struct Sequencer {
    crowded_owners: Arc<CrowdedOwners>,
    litter: Arc<Notify>,
    counts: Arc<Counts>,
    queue: Mutex<Option<queue::Sender<Waiting>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sequencer {
    /// Commits the `first` commands of this run, and starts the thread.
    pub(crate) fn start(
        database: Arc<Database>,
        crowded_at: u64,
        components: Components,
        litter: Arc<Notify>,
        watched: Arc<Watched>,
        feed: FeedSender,
        first: Vec<Command>,
    ) -> Result<Self> {
        let state = State::load(&*database)?;
        let behind = state.counters.time.saturating_sub(components.clock.now());
        if behind > CLOCK_TOLERANCE {
            let seconds = behind / 1_000_000;
            tracing::warn!(seconds, "the clock is behind the last commit: times stand still until it has caught up");
        }
        let (queue, waiting) = queue::channel(QUEUE, QUEUE_BYTES);
        let crowded_owners = Arc::new(CrowdedOwners::default());
        let (to_crowded, to_litter) = (Arc::clone(&crowded_owners), Arc::clone(&litter));
        let counts = Arc::new(Counts::default());
        let mut work = Work {
            database,
            crowded_at,
            components,
            state,
            cache: RefCell::default(),
            crowded_owners: to_crowded,
            litter: to_litter,
            counts: Arc::clone(&counts),
            watched,
            feed,
        };
        for command in first {
            work.commit_now(command)?;
        }
        // The spool gives its names anew from here on: no row may come back that goes by one of before.
        work.database.sync()?;
        let thread = std::thread::Builder::new()
            .name("sequencer".to_owned())
            .spawn(move || {
                // Neither the batch that was being decided nor the next one can be trusted after a panic.
                if catch_unwind(AssertUnwindSafe(|| work.run(waiting))).is_err() {
                    fatal::end("the thread that decides every write has panicked");
                }
            })
            .map_err(|_| Error::new(ErrorKind::Unavailable, "The server cannot start a thread."))?;
        Ok(Self { crowded_owners, litter, counts, queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// Commits a command; returns once it is durable.
    pub(crate) async fn commit<C: Ask>(&self, command: C) -> Result<C::Answer> {
        let (reply, answer) = oneshot::channel();
        let command: Command = command.into();
        let bytes = command.bytes();
        self.send(Waiting::Command(command, reply, Instant::now()), bytes).await?;
        answer.await.map_err(|_| Error::stopped())?.map(C::answer)
    }

    /// Waits until everything that was sent before is written.
    pub(crate) async fn barrier(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Waiting::Barrier(reply), 0).await?;
        answer.await.map_err(|_| Error::stopped())?
    }

    async fn send(&self, waiting: Waiting, bytes: usize) -> Result<()> {
        let queue = self.queue.lock().clone().ok_or_else(Error::stopped)?;
        queue.send(waiting, bytes).await.ok_or_else(Error::stopped)
    }

    /// Waits until owners have many hot messages, and names them.
    pub(crate) async fn crowded(&self) -> BTreeSet<UserId> {
        loop {
            let owners = std::mem::take(&mut *self.crowded_owners.owners.lock());
            if !owners.is_empty() {
                return owners;
            }
            self.crowded_owners.grown.notified().await;
        }
    }

    /// The writes so far.
    pub(crate) fn stages(&self) -> WriteStages {
        self.counts.read()
    }

    /// Waits until a commit has left a file to remove.
    pub(crate) async fn litter(&self) {
        self.litter.notified().await;
    }

    /// Finishes what waits and ends the thread. Blocks.
    pub(crate) fn stop(&self) {
        self.queue.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of it has ended the process.
            drop(thread.join());
        }
    }
}

/// Owners with many hot messages, kept until a consolidation asks for them; at most as many as there are owners.
#[derive(Default)]
struct CrowdedOwners {
    owners: Mutex<BTreeSet<UserId>>,
    grown: Notify,
}

impl CrowdedOwners {
    fn add(&self, owners: Vec<UserId>) {
        if !owners.is_empty() {
            self.owners.lock().extend(owners);
            self.grown.notify_one();
        }
    }
}

struct Work {
    database: Arc<Database>,
    crowded_at: u64,
    components: Components,
    state: State,
    cache: RefCell<RowCache>,
    crowded_owners: Arc<CrowdedOwners>,
    litter: Arc<Notify>,
    counts: Arc<Counts>,
    watched: Arc<Watched>,
    feed: FeedSender,
}

/// The consequences of a batch of commits for others, which follow once it is written.
#[derive(Default)]
struct BatchEffects {
    crowded: Vec<UserId>,
    litters: bool,
    told: Vec<Commit>,
    /// The log's entries, gathered only where a receiver of the log is set.
    entries: Vec<Vec<u8>>,
}

impl Work {
    fn run(&mut self, mut waiting: mpsc::Receiver<Weighed<Waiting>>) {
        let mut batch = Vec::with_capacity(BATCH_COMMANDS);
        while waiting.blocking_recv_many(&mut batch, BATCH_COMMANDS) > 0 {
            let mut rest = batch.drain(..).map(|Weighed { item, share }| (item, share)).peekable();
            while rest.peek().is_some() {
                self.commit_batch(&mut rest);
            }
        }
    }

    /// Commits one command before anybody else is there.
    fn commit_now(&mut self, command: Command) -> Result<Done> {
        let (reply, mut answer) = oneshot::channel();
        self.commit_batch(&mut std::iter::once((Waiting::Command(command, reply, Instant::now()), ())));
        answer.try_recv().map_err(|_| Error::stopped())?
    }

    /// Applies commands until the batch is full, writes them, and answers. What comes with a command is kept until it
    /// is answered.
    fn commit_batch<S>(&mut self, waiting: &mut impl Iterator<Item = (Waiting, S)>) {
        let began = Instant::now();
        let database = Arc::clone(&self.database);
        let mut overlay = Overlay::new(&database, &self.cache);
        let mut state = self.state;
        let (mut answers, mut barriers) = (Vec::new(), Vec::new());
        let (mut effects, mut waited) = (BatchEffects::default(), Duration::ZERO);
        while overlay.bytes() < BATCH_BYTES
            && let Some((next, share)) = waiting.next()
        {
            match next {
                Waiting::Command(command, reply, sent) => {
                    waited += began.saturating_duration_since(sent);
                    let result = self.apply(&mut overlay, &mut state, command, &mut effects);
                    answers.push((reply, result, share));
                }
                Waiting::Barrier(reply) => barriers.push(reply),
            }
        }
        let (before, after) = (self.state.counters, state.counters);
        assert!(after.seq >= before.seq && after.last_msg_id >= before.last_msg_id, "numbers only rise");
        let (commits, decided) = (answers.len() as u64, Instant::now());
        let written = self.write(&overlay, after);
        let wrote = Instant::now();
        if written.is_ok() {
            self.state = state;
            self.cache.borrow_mut().written(overlay.entries_of(&cache::FAMILIES));
            self.publish(effects);
        } else {
            self.cache.borrow_mut().clear();
        }
        for (reply, result, _share) in answers {
            // A refusal was decided on earlier commands of the batch, which are not there when it was not written.
            answer(reply, written.clone().and(result));
        }
        for reply in barriers {
            answer(reply, written.clone());
        }
        self.counts.add(&WriteStages {
            commits,
            batches: u64::from(!overlay.is_empty()),
            bytes: overlay.bytes() as u64,
            waiting: waited,
            deciding: decided - began,
            writing: wrote - decided,
            publishing: wrote.elapsed(),
        });
    }

    /// Tells everybody else what the batch means for them.
    fn publish(&self, effects: BatchEffects) {
        if let Some(on_entry) = &self.components.on_entry {
            effects.entries.iter().for_each(|entry| on_entry(entry));
        }
        self.crowded_owners.add(effects.crowded);
        if effects.litters {
            self.litter.notify_one();
        }
        for commit in effects.told {
            self.feed.tell(commit);
        }
    }

    fn write(&self, overlay: &Overlay<'_>, counters: Counters) -> Result<()> {
        if overlay.is_empty() {
            return Ok(());
        }
        let numbers = counters.entries();
        let numbers = numbers.iter().map(|(key, value)| (Family::Meta, *key, Some(value.as_slice())));
        self.components.step(Step::BeforeWrite);
        self.database.write(overlay.entries().chain(numbers), false)?;
        self.components.step(Step::AfterWrite);
        Ok(())
    }

    /// Gives a command its number and time, and applies it whole, or not at all.
    fn apply(
        &self,
        overlay: &mut Overlay<'_>,
        state: &mut State,
        command: Command,
        effects: &mut BatchEffects,
    ) -> Result<Done> {
        let time = state.counters.next_time(self.components.clock.now())?;
        let entry = Entry { seq: state.counters.seq + 1, time, command };
        let (done, aftermath) = apply::apply(overlay, state, &self.watched, &entry)?;
        if let Some(aftermath) = aftermath {
            effects.add(aftermath, entry.seq, self.crowded_at);
            if self.components.on_entry.is_some() {
                effects.entries.push(entry.encode()?);
            }
        }
        Ok(done)
    }
}

/// Tells the sender of a command. Whoever asked may have gone; the commit stands all the same.
fn answer<T>(reply: oneshot::Sender<Result<T>>, result: Result<T>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for this commit any more");
    }
}

impl BatchEffects {
    /// Takes in what one commit means.
    fn add(&mut self, aftermath: Aftermath, seq: Seq, crowded_at: u64) {
        self.told.push(aftermath.told.into_commit(seq));
        let crowded = aftermath.hot_messages.into_iter().filter(|(_, hot_messages)| *hot_messages >= crowded_at);
        self.crowded.extend(crowded.map(|(owner, _)| owner));
        self.litters |= aftermath.litters;
    }
}
