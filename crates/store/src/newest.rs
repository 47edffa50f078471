//! The entries of a range from the last backwards, read forwards a few at a time.
//!
//! Invariant: the entries and their order are those of a walk backwards. RocksDB's memtable is linked forwards only, so
//! that a step back searches it from its head: for a page of fifty messages that was more work than all the rest.

use crate::{
    database::Entries,
    error::Result,
    keys::{self, Key},
};

/// Entries that are read at a time, at the most.
const MOST: usize = 64;
/// Entries that are read at a time, if their numbers lie as far apart as the last two did.
const LIKELY: u64 = 32;
/// With fewer entries than these the next part is wider.
const FEW: usize = 16;

/// Entries whose keys are one prefix and a number, the highest first.
pub(crate) struct Newest<T> {
    entries: Entries,
    prefix: Key,
    /// The lowest number.
    from: u64,
    /// The number that all entries not read yet are below; `None` at the beginning.
    below: Option<u64>,
    /// The distance between the first and the last number of a part; `None` until two entries tell how far apart they
    /// are.
    span: Option<u64>,
    /// The entries that were read and not handed over, the next one last.
    part: Vec<T>,
}

impl<T> Newest<T> {
    /// The entries of `entries`, which go backwards, with the numbers from `from` on behind this prefix.
    pub(crate) fn new(entries: Entries, prefix: Key, from: u64) -> Self {
        Self { entries, prefix, from, below: None, span: None, part: Vec::new() }
    }

    /// The next entry, made by `read`; `None` at the end.
    pub(crate) fn next(&mut self, read: impl Fn(&[u8], &[u8]) -> Result<T>) -> Option<Result<T>> {
        if self.part.is_empty()
            && let Err(error) = self.fill(read)
        {
            return Some(Err(error));
        }
        self.part.pop().map(Ok)
    }

    fn key(&self, number: u64) -> Vec<u8> {
        [self.prefix.as_slice(), &number.to_be_bytes()].concat()
    }

    /// Reads the next part; there is none at the end.
    fn fill(&mut self, read: impl Fn(&[u8], &[u8]) -> Result<T>) -> Result<()> {
        if let Some(below) = self.below {
            let Some(last) = below.checked_sub(1).filter(|last| *last >= self.from) else { return Ok(()) };
            let key = self.key(last);
            self.entries.seek_back_to(&key);
        }
        let Some(top) = self.entries.here(number)? else { return Ok(()) };
        let span = match (self.span, self.below) {
            (Some(span), _) => span,
            (None, Some(below)) => (below - top).saturating_mul(LIKELY),
            (None, None) => {
                self.part.extend(self.entries.here(read)?);
                self.below = Some(top);
                return Ok(());
            }
        };
        self.fill_between(top, span, read)
    }

    /// Reads the entries up to `top`, from as far below as `span` says or as are not too many.
    fn fill_between(&mut self, top: u64, mut span: u64, read: impl Fn(&[u8], &[u8]) -> Result<T>) -> Result<()> {
        loop {
            let first = top.saturating_sub(span).max(self.from);
            let key = self.key(first);
            self.entries.seek(&key);
            while self.part.len() <= MOST
                && let Some(at) = self.entries.here(number)?
                && at <= top
            {
                self.part.extend(self.entries.here(&read)?);
                self.entries.forward();
            }
            if self.part.len() <= MOST {
                self.below = Some(first);
                self.span = Some(if self.part.len() < FEW { span.saturating_mul(8).max(1) } else { span });
                return Ok(());
            }
            // The ones before the wanted: so it ends at two entries at the latest.
            self.part.clear();
            span /= 4;
        }
    }
}

fn number(key: &[u8], _: &[u8]) -> Result<u64> {
    keys::last_number(key)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        database::{Database, DatabaseSnapshot},
        horizon::Horizon,
        keys::Family,
        tests::settings,
    };

    /// Numbers of which some lie close together and some far apart.
    fn numbers() -> impl Strategy<Value = BTreeSet<u64>> {
        let run = (0..u64::from(u32::MAX), 1..1_000_u64, 0..200_u64);
        let runs = prop::collection::vec(run, 0..6);
        runs.prop_map(|runs| {
            runs.into_iter().flat_map(|(first, step, len)| (0..len).map(move |at| first + at * step)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_newest_come_first_and_none_is_left_out(
            numbers in numbers(),
            (low, high) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let database = Database::open(folder.path(), &settings(folder.path()), &Arc::new(Horizon::default())).unwrap();
            let database = Arc::new(database);
            let key = |number: u64| [b"c".as_slice(), &number.to_be_bytes()].concat();
            // Some are gone again: they stay in the database as tombstones.
            let (kept, gone): (BTreeSet<u64>, BTreeSet<u64>) = numbers.iter().partition(|number| **number % 5 != 0);
            for (numbers, value) in [(&numbers, Some(b"v".as_slice())), (&gone, None)] {
                let keys: Vec<Vec<u8>> = numbers.iter().map(|number| key(*number)).collect();
                database.write(keys.iter().map(|key| (Family::Messages, key.as_slice(), value)), false).unwrap();
            }
            let all: Vec<u64> = numbers.iter().copied().collect();
            let at = |index: &prop::sample::Index| if all.is_empty() { 7 } else { all[index.index(all.len())] };
            let (low, high) = (at(&low).min(at(&high)), at(&low).max(at(&high)));
            for (from, to) in [(0, u64::MAX), (low, high), (low + 1, high + 1)] {
                let bounds = (key(from), if to == u64::MAX { keys::after_prefix(b"c") } else { key(to).into() });
                let snapshot = DatabaseSnapshot::new(&database);
                let entries = snapshot.iterate(Family::Messages, &bounds.0, &bounds.1, true).unwrap();
                let mut newest = Newest::new(entries, "c".into(), from);
                let read: Vec<u64> = std::iter::from_fn(|| newest.next(number)).map(Result::unwrap).collect();
                let expected: Vec<u64> = kept.range(from..to.max(from)).rev().copied().collect();
                prop_assert_eq!(read, expected);
            }
        }
    }
}
