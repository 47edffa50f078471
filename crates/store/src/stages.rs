//! The stages of a write, in numbers: how many commits went together, and where their time was spent.
//!
//! Invariant: counts only rise. They are added to once a batch, by the sequencer alone; nothing is decided by them.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The writes of this process so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteStages {
    /// Commands that were decided: written, or refused.
    pub commits: u64,
    /// Writes that they went in, each with one sync where commits are synced.
    pub batches: u64,
    /// Bytes of keys and values written.
    pub bytes: u64,
    /// Time that commands waited, from being sent to the start of their batch, of all of them together.
    pub waiting: Duration,
    /// Time in which batches were decided.
    pub deciding: Duration,
    /// Time in which they were written, and synced.
    pub writing: Duration,
    /// Time in which they were told to whoever watches, and to those who had sent them.
    pub publishing: Duration,
}

/// The counts behind it; times are in microseconds.
#[derive(Default)]
pub(crate) struct Counts {
    commits: AtomicU64,
    batches: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicU64,
    deciding: AtomicU64,
    writing: AtomicU64,
    publishing: AtomicU64,
}

impl Counts {
    /// Adds a batch.
    pub(crate) fn add(&self, batch: &WriteStages) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.commits.fetch_add(batch.commits, Relaxed);
        self.batches.fetch_add(batch.batches, Relaxed);
        self.bytes.fetch_add(batch.bytes, Relaxed);
        self.waiting.fetch_add(micros(batch.waiting), Relaxed);
        self.deciding.fetch_add(micros(batch.deciding), Relaxed);
        self.writing.fetch_add(micros(batch.writing), Relaxed);
        self.publishing.fetch_add(micros(batch.publishing), Relaxed);
    }

    /// What they have come to.
    pub(crate) fn read(&self) -> WriteStages {
        let time = |count: &AtomicU64| Duration::from_micros(count.load(Relaxed));
        WriteStages {
            commits: self.commits.load(Relaxed),
            batches: self.batches.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            waiting: time(&self.waiting),
            deciding: time(&self.deciding),
            writing: time(&self.writing),
            publishing: time(&self.publishing),
        }
    }
}
