//! The reach of derived rows into the past: the change log, and receipts of requests. What is behind the horizon may be
//! forgotten, and RocksDB's compactions do that.
//!
//! Invariant: the horizon only moves on, is written before anything behind it can go, and is found again at each start:
//! which commits are old is known from rows, not from how long this process has been running.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use kalamdb_protocol::Micros;

use crate::{
    counters::{self, Counters},
    database::{Database, Read},
    error::{Error, Result},
    keys::Family,
    model::Seq,
};

/// Begins the keys that say how far commits had come at some time: `moment`, the time in eight bytes → the commit.
const MOMENT: &[u8] = b"moment";

/// Moments that are kept of the time that the change log reaches back: its end is exact to this part of it.
const MOMENTS: Micros = 1_440;

/// The limits below which RocksDB's compaction may drop rows of the change log and receipts.
#[derive(Debug, Default)]
pub(crate) struct Horizon {
    /// Change log entries below this commit.
    changes_below: AtomicU64,
    /// Receipts that expired before this time.
    requests_before: AtomicI64,
}

impl Horizon {
    /// Whether the change log may lose an entry of that commit.
    pub(crate) fn is_past_change(&self, seq: Seq) -> bool {
        seq < self.changes_below.load(Ordering::Relaxed)
    }

    /// Whether a receipt that expired at that time may go.
    pub(crate) fn is_past_request(&self, expires: Micros) -> bool {
        expires < self.requests_before.load(Ordering::Relaxed)
    }

    /// Goes on from where an earlier process had come.
    pub(crate) fn load(&self, read: &impl Read) -> Result<()> {
        self.changes_below.fetch_max(counters::changes_below(read)?, Ordering::Relaxed);
        Ok(())
    }

    /// Moves on to what is older than `reach`, and notes how far commits have come now.
    pub(crate) fn advance(&self, database: &Database, now: Micros, reach: Micros) -> Result<()> {
        // Commits ask their own time, so what goes by the last one's was gone for every later one.
        self.requests_before.fetch_max(Counters::load(database)?.time, Ordering::Relaxed);
        let before = counters::changes_below(database)?;
        let (mut below, mut newest, mut gone) = (before, None, Vec::new());
        for (at, seq) in moments(database)? {
            if at <= now.saturating_sub(reach) {
                below = below.max(seq);
                gone.push(key(at));
            } else if at > now {
                // The clock has jumped back: this one would come round again only much later.
                gone.push(key(at));
            } else {
                newest = Some((at, seq));
            }
        }
        // While nothing is committed there is nothing to note, and an idle server leaves its disk alone.
        let seq = counters::seq(database)?;
        let due = newest.is_none_or(|(at, noted)| seq > noted && now - at >= reach / MOMENTS);
        let (moment, seq, mark) = (key(now), seq.to_be_bytes(), counters::changes_below_entry(below));
        let mut entries: Vec<_> = gone.iter().map(|key| (Family::Meta, key.as_slice(), None)).collect();
        entries.extend(due.then_some((Family::Meta, moment.as_slice(), Some(seq.as_slice()))));
        entries.extend((below > before).then_some((Family::Meta, mark.0, Some(mark.1.as_slice()))));
        if !entries.is_empty() {
            // Whoever asks for what is gone must be told so, after a power loss too.
            database.write(entries, true)?;
        }
        self.changes_below.fetch_max(below, Ordering::Relaxed);
        Ok(())
    }
}

fn key(at: Micros) -> Vec<u8> {
    [MOMENT, &u64::try_from(at).unwrap_or(0).to_be_bytes()].concat()
}

/// The noted moments, each a time and the last commit at that time.
fn moments(read: &impl Read) -> Result<Vec<(Micros, Seq)>> {
    let corrupt = || Error::corrupt("moment");
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    let mut moments = Vec::new();
    let end = crate::keys::after_prefix(MOMENT);
    read.scan(Family::Meta, MOMENT, &end, false, &mut |key, value| {
        let at = number(&key[MOMENT.len()..]).and_then(|at| Micros::try_from(at).ok()).ok_or_else(corrupt)?;
        moments.push((at, number(value).ok_or_else(corrupt)?));
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(moments)
}
