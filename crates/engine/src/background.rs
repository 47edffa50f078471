//! Work that nobody asked for: consolidation by count and by interval, compaction by interval, removing what nothing
//! refers to any more, and forgetting what has had its time.
//!
//! Invariant: one loop, one thing at a time, on threads of its own, where no statement waits; nothing here fails loudly:
//! what did not work is logged and tried again, later each time, and keeps nobody else's work from being done.

mod owners;
mod patience;

use std::time::{Duration, Instant};

use futures::{StreamExt, future::join_all};
use kalamdb_protocol::UserId;
use kalamdb_store::{CONSOLIDATIONS, OwnerState, Store};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior},
};

use self::{
    owners::{OwnerQueue, Round},
    patience::Patience,
};
use crate::{CompactionReport, ConsolidationReport, ConsolidationSettings, Result, Settings, workers::Threads};

/// Threads of background work: one for the loop, and one for what an admin asks for meanwhile.
const WORKERS: usize = 2;
/// Threads beside them for what computes or waits for the disk: more than can be at work at a time.
const BLOCKING: usize = 512;

/// The longest wait for running work when the server ends: a segment that is being written is given up at the next
/// start.
pub(crate) const END_WITHIN: Duration = Duration::from_secs(30);

/// The latest start of the first compaction after a start of the server: one that is restarted every night must not put
/// it off for ever.
const FIRST_COMPACTION: Duration = Duration::from_mins(10);

/// An owner with fewer messages than this has no file of their own, however old they are. Most users of a server have a
/// few: a file for each of them takes a folder, two blocks of the disk and six syncs every day, and a row in the database
/// all the same. Their bytes are bounded with them, because a large text lies in a file.
const LONG_TAIL_ROWS: u64 = 100;

/// The interval at which the loop looks at the age of the change log, and lets rows go that are in segments: a flush for
/// each consolidation of a busy server would make many small files of what goes by itself.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// The interval at which the loop looks for what has expired: by then it is invisible, and only to be removed.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Starts the threads of background work, apart from those where statements wait.
///
/// # Errors
/// When the system gives no threads.
pub(crate) fn threads() -> Result<Threads> {
    Threads::start("kalamdb-work", WORKERS, BLOCKING)
}

/// A task of the loop.
enum Task {
    /// Put these owners, who have many hot messages, into the queue.
    Crowded(Vec<UserId>),
    /// Consolidate the first of that line.
    ConsolidateCrowded,
    /// Look at everybody's hot messages.
    BeginConsolidation,
    /// Consolidate the next of that round.
    ConsolidateDue,
    /// Look at everybody's segments.
    BeginCompaction,
    /// Compact the segments of the next of that round.
    CompactNext,
    /// Remove what nothing refers to any more, and what has expired.
    Sweep,
    /// Let old entries of the change log go, and what the database still holds of rows that are in segments.
    Forget,
    /// End the loop.
    Stop,
}

/// The loop's state.
pub(crate) struct Background {
    store: Store,
    settings: ConsolidationSettings,
    compaction_interval: Duration,
    replay: Duration,
    /// Owners with many hot messages.
    crowded: OwnerQueue,
    /// Rounds go on a few owners at a time, so that other work gets its turn between.
    consolidation: Round,
    compaction: Round,
    /// Owners who are left alone for a while, because their last consolidation failed.
    patience: Patience,
    /// Whether the last sweep failed: then the next one waits for the minute, and does not ask the disk again at once.
    sweep_failed: bool,
}

impl Background {
    pub(crate) fn new(store: Store, settings: Settings) -> Self {
        let Settings { consolidation: settings, compaction_interval, replay, query: _, live: _ } = settings;
        Self {
            store,
            settings,
            compaction_interval,
            replay,
            crowded: OwnerQueue::default(),
            consolidation: Round::default(),
            compaction: Round::default(),
            patience: Patience::default(),
            sweep_failed: false,
        }
    }

    /// Works until `stop` says so.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut consolidation = every(self.settings.interval);
        consolidation.reset();
        let mut compaction = every(self.compaction_interval);
        compaction.reset_after(self.compaction_interval.min(FIRST_COMPACTION));
        let (mut sweep, mut forget) = (every(SWEEP_EVERY), every(FORGET_EVERY));
        let at_once = || std::future::ready(());
        loop {
            let task = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Task::Stop,
                owners = self.store.crowded() => Task::Crowded(owners.into_iter().collect()),
                () = self.store.litter(), if !self.sweep_failed => Task::Sweep,
                _ = consolidation.tick() => Task::BeginConsolidation,
                _ = compaction.tick() => Task::BeginCompaction,
                _ = sweep.tick() => Task::Sweep,
                _ = forget.tick() => Task::Forget,
                () = at_once(), if !self.crowded.is_empty() => Task::ConsolidateCrowded,
                () = at_once(), if !self.consolidation.is_over() => Task::ConsolidateDue,
                () = at_once(), if !self.compaction.is_over() => Task::CompactNext,
            };
            if matches!(task, Task::Stop) {
                return;
            }
            if let Err(error) = self.work(task).await {
                tracing::warn!(code = error.code.as_str(), %error, "background work failed and will be tried again");
            }
        }
    }

    async fn work(&mut self, task: Task) -> Result<()> {
        match task {
            Task::Crowded(owners) => owners.into_iter().for_each(|owner| self.crowded.push(owner)),
            Task::ConsolidateCrowded => {
                let (crowded, at) = (self.crowded.take(CONSOLIDATIONS), self.store.rules().crowded_at);
                // An earlier consolidation may have taken the messages for which the owner was named; the few that came
                // since can wait.
                self.consolidate(crowded, |state| state.hot_messages >= at).await;
            }
            Task::BeginConsolidation => self.consolidation.begin(),
            Task::ConsolidateDue => self.consolidate_due().await?,
            Task::BeginCompaction => self.compaction.begin(),
            Task::CompactNext => self.compact_next().await?,
            Task::Sweep => self.sweep().await?,
            Task::Forget => {
                self.store.forget(i64::try_from(self.replay.as_micros()).unwrap_or(i64::MAX))?;
                self.store.flush_moved().await?;
            }
            Task::Stop => {}
        }
        Ok(())
    }

    /// Consolidates a few owners at the same time, as long as each is as wanted; who fails is left alone for a while.
    async fn consolidate(&mut self, owners: Vec<UserId>, wanted: impl Fn(&OwnerState) -> bool) {
        let now = Instant::now();
        let owners: Vec<UserId> = owners.into_iter().filter(|owner| self.patience.allows(owner, now)).collect();
        let done = join_all(owners.iter().map(|owner| consolidate(&self.store, owner, &wanted))).await;
        for (owner, done) in owners.iter().zip(done) {
            match done {
                Ok(_) => self.patience.succeeded(owner),
                Err(error) => {
                    let (code, again_in) = (error.code.as_str(), self.patience.failed(owner, Instant::now()));
                    tracing::warn!(%owner, code, %error, ?again_in, "messages stay where they are for now");
                }
            }
        }
    }

    /// Consolidates who has enough hot messages for a file, or old ones.
    async fn consolidate_due(&mut self) -> Result<()> {
        let max_age = i64::try_from(self.settings.max_hot_age.as_micros()).unwrap_or(i64::MAX);
        let (old, enough) = (self.store.now().saturating_sub(max_age), self.settings.min_batch_rows.max(1));
        let wanted = move |state: &OwnerState| {
            let is_old = state.hot_since.is_some_and(|since| since <= old);
            state.hot_messages >= if is_old { enough.min(LONG_TAIL_ROWS) } else { enough }
        };
        let owners = self.consolidation.take(&self.store, CONSOLIDATIONS, |_, _, state| Ok(wanted(state)))?;
        self.consolidate(owners, wanted).await;
        Ok(())
    }

    /// Compacts one owner at a time, because a segment is built in memory.
    async fn compact_next(&mut self) -> Result<()> {
        let with_segments =
            |snapshot: &kalamdb_store::Snapshot, owner: &UserId, _: &OwnerState| Ok(snapshot.has_segments(owner)?);
        for owner in self.compaction.take(&self.store, 1, with_segments)? {
            self.store.compact(&owner, false).await?;
        }
        Ok(())
    }

    async fn sweep(&mut self) -> Result<()> {
        let swept = self.store.sweep().await;
        self.sweep_failed = swept.as_ref().map_or(true, |swept| swept.failed_files > 0);
        swept?;
        Ok(())
    }
}

/// Ticks at once and then every so often; a tick that was missed is not made up for.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The owners whom an admin's request is about.
pub(crate) enum Whose {
    /// This owner alone.
    One(UserId),
    /// Every owner.
    All,
}

impl Whose {
    fn owners(self, store: &Store) -> futures::stream::BoxStream<'static, Result<UserId>> {
        match self {
            Self::One(owner) => futures::stream::iter([Ok(owner)]).boxed(),
            Self::All => owners::all(store).boxed(),
        }
    }
}

/// Rewrites these owners' segments, each as far as rows in them are gone, one owner after the other: a segment is
/// built in memory. An owner for whom it fails keeps nobody else from it; the first failure is the answer.
pub(crate) async fn compact_all(store: &Store, whose: Whose) -> Result<CompactionReport> {
    let (mut report, mut failed) = (CompactionReport::default(), None);
    let mut owners = whose.owners(store);
    while let Some(owner) = owners.next().await {
        match store.compact(&owner?, true).await {
            Ok(done) => {
                report.replaced_segments += done.replaced;
                report.written_segments += done.written;
                report.dropped_rows += done.dropped_rows;
            }
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(report), |error| Err(error.into()))
}

/// Moves all messages of these owners that are hot now to segments, a few owners at a time; a failure is as
/// [`compact_all`]'s.
pub(crate) async fn consolidate_all(store: &Store, whose: Whose) -> Result<ConsolidationReport> {
    let (mut report, mut failed) = (ConsolidationReport::default(), None);
    let owners = whose.owners(store);
    let mut done =
        owners.map(async |owner| consolidate(store, &owner?, |_| true).await).buffer_unordered(CONSOLIDATIONS);
    while let Some(one) = done.next().await {
        match one {
            Ok(one) => {
                report.segments += one.segments;
                report.messages += one.messages;
            }
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    // The messages are where they shall be; what is left of them elsewhere can go a minute later, too.
    if let Err(error) = store.flush_moved().await {
        tracing::warn!(%error, "the database still holds traces of messages that are in files now");
    }
    failed.map_or(Ok(report), Err)
}

/// Moves an owner's messages that are hot now to segments, as long as its state is as wanted.
async fn consolidate(
    store: &Store,
    owner: &UserId,
    wanted: impl Fn(&OwnerState) -> bool,
) -> Result<ConsolidationReport> {
    let mut report = ConsolidationReport::default();
    let mut state = store.snapshot().owner(owner)?;
    let hot = state.hot_messages;
    // Messages that come meanwhile are for the next time: a busy owner must not keep this going for ever.
    while report.messages < hot
        && wanted(&state)
        && let Some(done) = store.consolidate(owner).await?
    {
        report.segments += 1;
        report.messages += done.messages;
        state = store.snapshot().owner(owner)?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
