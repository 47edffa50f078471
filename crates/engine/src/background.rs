//! Work that nobody asked for: consolidation by count and by interval, compaction by interval, removing what nothing
//! refers to any more, and forgetting what has had its time.
//!
//! Invariant: one loop, one thing at a time; nothing here fails loudly: what did not work is logged and tried again.

use std::{collections::VecDeque, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use kalamdb_protocol::{Micros, UserId};
use kalamdb_store::{CONSOLIDATIONS, Seq, Store};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior},
};

use crate::{CompactionReport, ConsolidationReport, ConsolidationSettings, Result, Settings};

/// How long after a start the first compaction begins, at the latest: a server that is restarted every night must not
/// put it off for ever.
const FIRST_COMPACTION: Duration = Duration::from_mins(10);

/// How often the loop looks at the age of the change log.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// How often it looks for what has expired: nobody sees it any more by then, and it is only to be removed.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// What the loop does next.
enum Task {
    /// Consolidate these owners, who have many hot messages.
    Crowded(Vec<UserId>),
    /// Look at everybody's hot messages.
    Interval,
    /// Look at everybody's segments.
    PlanCompaction,
    /// Compact the segments of the next owner in line.
    Compact,
    /// Remove what nothing refers to any more, and what has expired.
    Sweep,
    /// Let old entries of the change log go.
    Forget,
    /// End.
    Stop,
}

/// The loop's state.
pub(crate) struct Background {
    store: Store,
    settings: ConsolidationSettings,
    compaction_interval: Duration,
    replay: Duration,
    /// Who is still to be compacted in this round: one at a time, so that other work gets its turn between two. No
    /// longer than there are owners.
    line: VecDeque<UserId>,
    /// Whether the last sweep failed: then the disk is asked again when the minute is over, not at once.
    sweep_failed: bool,
    /// When the change log stood where, once a minute: as many entries as `live.replay_hours` has minutes.
    history: VecDeque<(Micros, Seq)>,
}

impl Background {
    pub(crate) fn new(store: Store, settings: Settings) -> Self {
        let Settings { consolidation: settings, compaction_interval, replay, query: _, live: _ } = settings;
        let (line, history) = (VecDeque::new(), VecDeque::new());
        Self { store, settings, compaction_interval, replay, line, sweep_failed: false, history }
    }

    /// Works until `stop` says so.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut consolidation = every(self.settings.interval);
        consolidation.reset();
        let mut compaction = every(self.compaction_interval);
        compaction.reset_after(self.compaction_interval.min(FIRST_COMPACTION));
        let (mut sweep, mut forget) = (every(SWEEP_EVERY), every(FORGET_EVERY));
        loop {
            let task = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Task::Stop,
                owners = self.store.crowded() => Task::Crowded(owners.into_iter().collect()),
                () = self.store.litter(), if !self.sweep_failed => Task::Sweep,
                _ = consolidation.tick() => Task::Interval,
                _ = compaction.tick() => Task::PlanCompaction,
                _ = sweep.tick() => Task::Sweep,
                _ = forget.tick() => Task::Forget,
                () = std::future::ready(()), if !self.line.is_empty() => Task::Compact,
            };
            let done = match task {
                Task::Crowded(owners) => self.consolidate(owners).await,
                Task::Interval => self.consolidate_due().await,
                Task::PlanCompaction => self.plan_compaction(),
                Task::Compact => self.compact_next().await,
                Task::Sweep => self.sweep().await,
                Task::Forget => self.forget(),
                Task::Stop => return,
            };
            if let Err(error) = done {
                tracing::warn!(code = error.code.as_str(), %error, "background work failed and will be tried again");
            }
        }
    }

    async fn consolidate(&self, owners: Vec<UserId>) -> Result<()> {
        consolidate_all(&self.store, owners).await.map(|_| ())
    }

    /// Consolidates who has enough hot messages for a file, or old ones.
    async fn consolidate_due(&self) -> Result<()> {
        let max_age = i64::try_from(self.settings.max_hot_age.as_micros()).unwrap_or(i64::MAX);
        let old = self.store.now().saturating_sub(max_age);
        let owners = self.store.snapshot().owners()?;
        let due = owners.into_iter().filter(|(_, state)| {
            state.hot_messages >= self.settings.min_batch_rows.max(1)
                || state.hot_since.is_some_and(|since| since <= old)
        });
        self.consolidate(due.map(|(owner, _)| owner).collect()).await
    }

    /// Puts everybody who has segments into the line, unless the last round is not over yet.
    fn plan_compaction(&mut self) -> Result<()> {
        if !self.line.is_empty() {
            return Ok(());
        }
        let snapshot = self.store.snapshot();
        for (owner, _) in snapshot.owners()? {
            if !snapshot.segments(&owner)?.is_empty() {
                self.line.push_back(owner);
            }
        }
        Ok(())
    }

    async fn compact_next(&mut self) -> Result<()> {
        if let Some(owner) = self.line.pop_front() {
            self.store.compact(&owner, false).await?;
        }
        Ok(())
    }

    async fn sweep(&mut self) -> Result<()> {
        let swept = self.store.sweep().await;
        self.sweep_failed = swept.is_err();
        swept?;
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        let replay = i64::try_from(self.replay.as_micros()).unwrap_or(i64::MAX);
        let old = self.store.now().saturating_sub(replay);
        let mut below = 0;
        while let Some((_, seq)) = self.history.pop_front_if(|(at, _)| *at < old) {
            below = seq;
        }
        self.history.push_back((self.store.now(), self.store.last_seq()?));
        Ok(self.store.forget(below)?)
    }
}

/// Ticks at once and then every so often; a tick that was missed is not made up for.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Rewrites these owners' segments, each as far as rows in them are gone, one owner after the other: a segment is
/// built in memory.
pub(crate) async fn compact_all(store: &Store, owners: Vec<UserId>) -> Result<CompactionReport> {
    let mut report = CompactionReport::default();
    for owner in owners {
        let done = store.compact(&owner, true).await?;
        report.replaced_segments += done.replaced;
        report.written_segments += done.written;
        report.dropped_rows += done.dropped_rows;
    }
    Ok(report)
}

/// Moves all messages of these owners that are hot now to segments, a few owners at a time.
pub(crate) async fn consolidate_all(store: &Store, owners: Vec<UserId>) -> Result<ConsolidationReport> {
    stream::iter(owners)
        .map(|owner| async move { consolidate(store, &owner).await })
        .buffer_unordered(CONSOLIDATIONS)
        .try_fold(ConsolidationReport::default(), async |all, one| {
            Ok(ConsolidationReport { segments: all.segments + one.segments, messages: all.messages + one.messages })
        })
        .await
}

/// Moves all messages of an owner that are hot now to segments.
async fn consolidate(store: &Store, owner: &UserId) -> Result<ConsolidationReport> {
    let mut report = ConsolidationReport::default();
    let hot = store.snapshot().owner(owner)?.hot_messages;
    // What comes meanwhile is for the next time: a busy owner must not keep this going for ever.
    while report.messages < hot
        && let Some(done) = store.consolidate(owner).await?
    {
        report.segments += 1;
        report.messages += done.messages;
    }
    Ok(report)
}
