//! How much memory the operators of a statement may hold: its own share, and its part of everybody's.
//!
//! Invariant: what a statement holds is always within both limits as far as operators ask first, and is given back
//! in full when the statement is gone. Which of the two said no is remembered here, so that nobody has to read it
//! out of a message.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use datafusion::{
    common::resources_err,
    error::Result,
    execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation},
};

/// What all statements together hold.
#[derive(Debug)]
pub(super) struct TotalMemory {
    limit: usize,
    used: AtomicUsize,
}

/// What one statement holds.
#[derive(Debug)]
pub(super) struct QueryMemory {
    limit: usize,
    used: AtomicUsize,
    total: Arc<TotalMemory>,
    refused: AtomicU8,
}

/// Which limit was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The statement's own share.
    Share,
    /// Everybody's.
    Total,
}

const BY_SHARE: u8 = 1;
const BY_TOTAL: u8 = 2;

impl TotalMemory {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// A statement's own pool.
    pub fn share(self: &Arc<Self>, limit: usize) -> Arc<QueryMemory> {
        Arc::new(QueryMemory { limit, used: AtomicUsize::new(0), total: Arc::clone(self), refused: AtomicU8::new(0) })
    }
}

impl QueryMemory {
    /// Which limit refused the last request that was refused.
    pub fn refused(&self) -> Option<Refused> {
        match self.refused.load(Ordering::Acquire) {
            BY_SHARE => Some(Refused::Share),
            BY_TOTAL => Some(Refused::Total),
            _ => None,
        }
    }

    fn refuse(&self, by: u8) -> Result<()> {
        self.refused.store(by, Ordering::Release);
        resources_err!("the statement's memory is used up")
    }
}

/// Adds `more` unless that is more than `limit`.
fn take(used: &AtomicUsize, more: usize, limit: usize) -> bool {
    used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| used.checked_add(more).filter(|sum| *sum <= limit))
        .is_ok()
}

fn give_back(used: &AtomicUsize, less: usize) {
    // The closure always has a value, so this cannot fail.
    used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| Some(used.saturating_sub(less))).ok();
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &'static str {
        "query"
    }

    fn grow(&self, _reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::AcqRel);
        self.total.used.fetch_add(additional, Ordering::AcqRel);
    }

    fn shrink(&self, _reservation: &MemoryReservation, shrink: usize) {
        give_back(&self.used, shrink);
        give_back(&self.total.used, shrink);
    }

    fn try_grow(&self, _reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if !take(&self.used, additional, self.limit) {
            return self.refuse(BY_SHARE);
        }
        if !take(&self.total.used, additional, self.total.limit) {
            give_back(&self.used, additional);
            return self.refuse(BY_TOTAL);
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query({} of {} bytes)", self.reserved(), self.limit)
    }
}

impl Drop for QueryMemory {
    /// An operator that was dropped in the middle may not have given everything back.
    fn drop(&mut self) {
        give_back(&self.total.used, *self.used.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    #[test]
    fn each_limit_says_no_in_its_own_name() {
        let total = TotalMemory::new(150);
        let one = total.share(100);
        let other = total.share(100);
        let held = MemoryConsumer::new("a").register(&(Arc::clone(&one) as Arc<dyn MemoryPool>));
        let wanted = MemoryConsumer::new("b").register(&(Arc::clone(&other) as Arc<dyn MemoryPool>));

        held.try_grow(90).unwrap();
        assert!(held.try_grow(20).is_err());
        assert_eq!(one.refused(), Some(Refused::Share));

        assert!(wanted.try_grow(70).is_err());
        assert_eq!(other.refused(), Some(Refused::Total));
        assert_eq!(other.reserved(), 0, "what the total refused is not held");

        drop((held, one));
        wanted.try_grow(70).unwrap();
    }

    #[test]
    fn a_statement_that_is_gone_holds_nothing() {
        let total = TotalMemory::new(100);
        let pool = total.share(100);
        // Grown behind the reservation's back: as if an operator had lost count.
        let nobody = MemoryConsumer::new("a").register(&(Arc::clone(&pool) as Arc<dyn MemoryPool>));
        pool.grow(&nobody, 60);
        drop((nobody, pool));
        assert_eq!(total.used.load(Ordering::Acquire), 0);
    }
}
