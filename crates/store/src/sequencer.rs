//! The one place where commits happen: a thread that takes waiting commands, applies each to an overlay, writes the
//! whole batch at once, and only then answers.
//!
//! Invariant: nothing is acknowledged before it is written, nothing is written in another order than it is
//! numbered, and a refused command leaves no trace. The thread does no I/O but RocksDB's.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
};

use kalamdb_protocol::{ErrorCode, Micros, UserId};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    MAX_PROPOSAL_BYTES,
    apply::{Aftermath, Apply},
    command::{Adopted, Command, Done},
    commit::{Idempotency, Proposal, Receipt},
    counters::Counters,
    database::{Database, Read},
    error::{Error, ErrorKind, Result},
    fatal,
    feed::{Commit, Teller, Watched},
    keys::{self, Family},
    model::Seq,
    overlay::Overlay,
    queue::{self, Weighed},
    records::{Record, RequestRecord},
    settings::{Components, Rules, Step},
};

/// Commands that may wait; beyond it senders wait for a place, which is what slows a flood down.
const QUEUE: usize = 1024;
/// Bytes of them, and of those being written: texts and rows wait in memory.
const QUEUE_BYTES: usize = 128 << 20;
/// Commands in one write: enough to share a sync among all who wait, few enough to keep the wait short.
const BATCH_COMMANDS: usize = 256;
/// Bytes of one write, after which it goes out whatever else waits.
const BATCH_BYTES: usize = 8 << 20;
const _: () = assert!(MAX_PROPOSAL_BYTES <= QUEUE_BYTES, "what passes the door fits into the queue");

/// How long a client's name for a request is remembered.
const REQUEST_MEMORY: Micros = 24 * 3_600 * 1_000_000;

/// A command and who waits for what it comes to.
type Waiting = (Command, oneshot::Sender<Result<Done>>);

/// The sequencer's handle.
pub(crate) struct Sequencer {
    crowd: Arc<Crowd>,
    litter: Arc<Notify>,
    queue: Mutex<Option<queue::Sender<Waiting>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sequencer {
    /// Starts the thread.
    pub(crate) fn start(
        database: Arc<Database>,
        rules: Rules,
        components: Components,
        litter: Arc<Notify>,
        watched: Arc<Watched>,
        teller: Teller,
    ) -> Result<Self> {
        let counters = Counters::load(&*database)?;
        let (queue, waiting) = queue::channel(QUEUE, QUEUE_BYTES);
        let crowd = Arc::new(Crowd::default());
        let (to_crowd, to_litter) = (Arc::clone(&crowd), Arc::clone(&litter));
        let mut work =
            Work { database, rules, components, counters, crowd: to_crowd, litter: to_litter, watched, teller };
        let thread = std::thread::Builder::new()
            .name("sequencer".to_owned())
            .spawn(move || {
                // What it was deciding is not known to be right any more, nor is what it would decide next.
                if catch_unwind(AssertUnwindSafe(|| work.run(waiting))).is_err() {
                    fatal::end("the thread that decides every write has panicked");
                }
            })
            .map_err(|_| Error::new(ErrorKind::Unavailable, "The server cannot start a thread."))?;
        Ok(Self { crowd, litter, queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// Commits a command; returns once it is durable.
    pub(crate) async fn commit(&self, command: Command) -> Result<Done> {
        let queue = self.queue.lock().clone().ok_or_else(Error::stopped)?;
        let (reply, answer) = oneshot::channel();
        let bytes = command.bytes();
        queue.send((command, reply), bytes).await.ok_or_else(Error::stopped)?;
        answer.await.map_err(|_| Error::stopped())?
    }

    /// Waits until somebody has many hot messages; who that is.
    pub(crate) async fn crowded(&self) -> BTreeSet<UserId> {
        loop {
            let owners = std::mem::take(&mut *self.crowd.owners.lock());
            if !owners.is_empty() {
                return owners;
            }
            self.crowd.grown.notified().await;
        }
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

/// Owners with many hot messages, until somebody asks: at most as many as there are owners.
#[derive(Default)]
struct Crowd {
    owners: Mutex<BTreeSet<UserId>>,
    grown: Notify,
}

impl Crowd {
    fn add(&self, owners: Vec<UserId>) {
        if !owners.is_empty() {
            self.owners.lock().extend(owners);
            self.grown.notify_one();
        }
    }
}

struct Work {
    database: Arc<Database>,
    rules: Rules,
    components: Components,
    counters: Counters,
    crowd: Arc<Crowd>,
    litter: Arc<Notify>,
    watched: Arc<Watched>,
    teller: Teller,
}

/// What the commits of a batch mean for others, once they are written.
#[derive(Default)]
struct News {
    crowded: Vec<UserId>,
    litters: bool,
    told: Vec<Commit>,
}

impl Work {
    fn run(&mut self, mut waiting: mpsc::Receiver<Weighed<Waiting>>) {
        let mut batch = Vec::with_capacity(BATCH_COMMANDS);
        while waiting.blocking_recv_many(&mut batch, BATCH_COMMANDS) > 0 {
            let mut rest = batch.drain(..).peekable();
            while rest.peek().is_some() {
                self.commit_batch(&mut rest);
            }
        }
    }

    /// Applies commands until the batch is full, writes them, and answers.
    fn commit_batch(&mut self, commands: &mut impl Iterator<Item = Weighed<Waiting>>) {
        let database = Arc::clone(&self.database);
        let mut overlay = Overlay::new(&database);
        let mut counters = self.counters;
        let mut answers = Vec::new();
        let mut news = News::default();
        while overlay.bytes() < BATCH_BYTES
            && let Some(Weighed { item: (command, reply), share }) = commands.next()
        {
            let result = self.apply(&mut overlay, &mut counters, command, &mut news);
            answers.push((reply, result, share));
        }
        let Counters { seq, last_msg_id } = self.counters;
        assert!(counters.seq >= seq && counters.last_msg_id >= last_msg_id, "numbers only rise");
        let written = self.write(&overlay, counters);
        if written.is_ok() {
            self.counters = counters;
            self.crowd.add(news.crowded);
            if news.litters {
                self.litter.notify_one();
            }
            for commit in news.told {
                self.teller.tell(commit);
            }
        }
        for (reply, result, _share) in answers {
            let answer = match &written {
                Ok(()) => result,
                // A refusal was decided on earlier commands of the batch, which are not there now.
                Err(error) => Err(error.clone()),
            };
            // Whoever asked may have gone; the commit stands all the same.
            if reply.send(answer).is_err() {
                tracing::debug!("nobody waits for this commit any more");
            }
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

    /// Applies one command whole, or not at all.
    fn apply(
        &self,
        overlay: &mut Overlay<'_>,
        counters: &mut Counters,
        command: Command,
        news: &mut News,
    ) -> Result<Done> {
        let now = self.components.clock.now();
        let mut next = Counters { seq: counters.seq + 1, ..*counters };
        let result = self.decide(overlay, &mut next, now, command, news);
        if result.is_err() {
            overlay.discard();
        } else if overlay.keep() {
            *counters = next;
        }
        result
    }

    fn decide(
        &self,
        overlay: &mut Overlay<'_>,
        next: &mut Counters,
        now: Micros,
        command: Command,
        news: &mut News,
    ) -> Result<Done> {
        let seq = next.seq;
        match command {
            Command::Write { proposal, texts } => {
                if let Some(idempotency) = &proposal.idempotency
                    && let Some(receipt) = repeated(overlay, &proposal.actor.user, idempotency, now)?
                {
                    return Ok(Done::Write { receipt, adopted: Vec::new() });
                }
                let mut apply = Apply::new(overlay, &self.rules, next, now, Some(&proposal.actor), &self.watched);
                let receipt = apply.proposal(&proposal, &texts)?;
                let adopted = news.add(apply.finish()?, seq);
                remember(overlay, &proposal, &receipt, now)?;
                Ok(Done::Write { receipt, adopted })
            }
            Command::AddFile { actor, upload } => {
                let mut apply = Apply::new(overlay, &self.rules, next, now, Some(&actor), &self.watched);
                let uploaded = apply.add_file(&actor, &upload)?;
                Ok(Done::FileAdded { uploaded, adopted: news.add(apply.finish()?, seq) })
            }
            Command::Barrier => Ok(Done::Finished),
            Command::ReleaseIntent { path } => {
                overlay.delete(Family::Intents, path.into_bytes());
                Ok(Done::Finished)
            }
            command => {
                let mut apply = Apply::new(overlay, &self.rules, next, now, None, &self.watched);
                let done = keep_house(&mut apply, command)?;
                news.add(apply.finish()?, seq);
                Ok(done)
            }
        }
    }
}

impl News {
    /// Takes in what one commit means; gives back what is its sender's to do.
    fn add(&mut self, aftermath: Aftermath, seq: Seq) -> Vec<Adopted> {
        self.told.push(aftermath.told.into_commit(seq));
        self.crowded.extend(aftermath.crowded);
        self.litters |= aftermath.litters;
        aftermath.adopted
    }
}

/// What nobody asked for.
fn keep_house(apply: &mut Apply<'_, '_>, command: Command) -> Result<Done> {
    match command {
        Command::ReserveSegment { owner } => {
            let (number, path) = apply.reserve_segment(&owner)?;
            return Ok(Done::Reserved { number, path });
        }
        Command::Expire { entries } => {
            let (messages, uploads) = apply.expire(&entries)?;
            return Ok(Done::Expired { messages, uploads });
        }
        Command::PublishSegment { owner, number, segment, rows } => {
            apply.publish_segment(&owner, number, &segment, &rows)?;
        }
        Command::PublishCompaction { owner, inputs, output } => {
            apply.publish_compaction(&owner, &inputs, output.as_ref())?;
        }
        Command::Moved { paths } => apply.settle_moves(&paths)?,
        Command::Forget { paths } => apply.forget_files(&paths),
        Command::TrimAudit { owner, ids } => apply.trim_audit(&owner, &ids)?,
        Command::Write { .. } | Command::AddFile { .. } | Command::ReleaseIntent { .. } | Command::Barrier => {}
    }
    Ok(Done::Finished)
}

/// The first answer, if the client has asked this before.
pub(crate) fn repeated(
    read: &impl Read,
    user: &UserId,
    idempotency: &Idempotency,
    now: Micros,
) -> Result<Option<Receipt>> {
    let Some(bytes) = read.get(Family::Requests, &keys::request(user, &idempotency.key))? else { return Ok(None) };
    let request = RequestRecord::decode(&bytes)?;
    if request.expires < now {
        Ok(None)
    } else if request.request_hash == idempotency.request_hash {
        Ok(Some(request.receipt))
    } else {
        Err(Error::refused(
            ErrorCode::Conflict,
            "This Idempotency-Key was used for another request; use a new key for each request.",
        ))
    }
}

fn remember(overlay: &mut Overlay<'_>, proposal: &Proposal, receipt: &Receipt, now: Micros) -> Result<()> {
    let Some(idempotency) = &proposal.idempotency else { return Ok(()) };
    let record = RequestRecord {
        expires: now + REQUEST_MEMORY,
        request_hash: idempotency.request_hash,
        receipt: receipt.clone(),
    };
    overlay.put(Family::Requests, keys::request(&proposal.actor.user, &idempotency.key), record.encode()?);
    Ok(())
}
