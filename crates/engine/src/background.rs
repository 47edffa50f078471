//! Work that nobody asked for: consolidation by count and by interval, and forgetting what has had its time.
//!
//! Invariant: one loop, one thing at a time; nothing here fails loudly: what did not work is logged and tried again.

use std::{collections::VecDeque, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use kalamdb_protocol::{Micros, UserId};
use kalamdb_store::{CONSOLIDATIONS, Seq, Store};
use tokio::{sync::watch, time::MissedTickBehavior};

use crate::{ConsolidationReport, ConsolidationSettings, Result};

/// How often the loop looks at the age of the change log.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// What the loop does next.
enum Task {
    /// Consolidate these owners, who have many hot messages.
    Crowded(Vec<UserId>),
    /// Look at everybody's hot messages.
    Interval,
    /// Let old entries of the change log go.
    Forget,
    /// End.
    Stop,
}

/// The loop's state.
pub(crate) struct Background {
    store: Store,
    settings: ConsolidationSettings,
    replay: Duration,
    /// When the change log stood where, once a minute: as many entries as `live.replay_hours` has minutes.
    history: VecDeque<(Micros, Seq)>,
}

impl Background {
    pub(crate) fn new(store: Store, settings: ConsolidationSettings, replay: Duration) -> Self {
        Self { store, settings, replay, history: VecDeque::new() }
    }

    /// Works until `stop` says so.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut interval = tokio::time::interval(self.settings.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval.reset();
        let mut forget = tokio::time::interval(FORGET_EVERY);
        loop {
            let task = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Task::Stop,
                owners = self.store.crowded() => Task::Crowded(owners.into_iter().collect()),
                _ = interval.tick() => Task::Interval,
                _ = forget.tick() => Task::Forget,
            };
            let done = match task {
                Task::Crowded(owners) => self.consolidate(owners).await,
                Task::Interval => self.consolidate_due().await,
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

    fn forget(&mut self) -> Result<()> {
        let replay = i64::try_from(self.replay.as_micros()).unwrap_or(i64::MAX);
        let old = self.store.now().saturating_sub(replay);
        let mut below = 0;
        while let Some((_, seq)) = self.history.pop_front_if(|(at, _)| *at < old) {
            below = seq;
        }
        self.history.push_back((self.store.now(), self.store.last_seq()?));
        self.store.forget(below);
        Ok(())
    }
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
