//! Rows that every send reads, as the database has them: an owner's counters, the view of a conversation, a group.
//!
//! Invariant: holds what the last written batch left. The sequencer alone writes these families, and tells of what it
//! wrote; where a write failed, all is forgotten. Whether a row is here changes no decision.

use std::collections::HashMap;

use crate::{error::Result, keys::Family};

/// The families whose rows are kept.
pub(crate) const FAMILIES: [Family; 3] = [Family::Owners, Family::Conversations, Family::Groups];

/// Bytes of one of the two halves: some 30,000 rows, those of the users and conversations who write just now.
const HALF_BYTES: usize = 4 << 20;
/// Bytes that a row takes beside its key and value, about: two boxes, their lengths, and its place in the table.
const ROW_BYTES: usize = 64;

/// Rows by family and key; a row that is not there is known, too.
type Rows = [HashMap<Box<[u8]>, Option<Box<[u8]>>>; FAMILIES.len()];

/// Rows in two halves: what was used since the newer one was begun, and what was used before.
pub(crate) struct RowCache {
    newer: Rows,
    older: Rows,
    /// Bytes of the newer half.
    bytes: usize,
    /// Bytes at which it becomes the older one.
    half_bytes: usize,
}

impl Default for RowCache {
    fn default() -> Self {
        Self::with(HALF_BYTES)
    }
}

impl RowCache {
    fn with(half_bytes: usize) -> Self {
        Self { newer: Rows::default(), older: Rows::default(), bytes: 0, half_bytes }
    }

    /// The value of a key, which is asked of the database where it is not known.
    pub(crate) fn get(
        &mut self,
        family: Family,
        key: &[u8],
        load: impl FnOnce() -> Result<Option<Vec<u8>>>,
    ) -> Result<Option<Vec<u8>>> {
        self.view(family, key, load, |value| value.map(<[u8]>::to_vec))
    }

    /// What `see` makes of the value of a key.
    pub(crate) fn view<T>(
        &mut self,
        family: Family,
        key: &[u8],
        load: impl FnOnce() -> Result<Option<Vec<u8>>>,
        see: impl FnOnce(Option<&[u8]>) -> T,
    ) -> Result<T> {
        let Some(at) = place(family) else { return Ok(see(load()?.as_deref())) };
        if let Some(value) = self.newer[at].get(key) {
            return Ok(see(value.as_deref()));
        }
        let value = match self.older[at].remove(key) {
            Some(value) => value.map(<[u8]>::into_vec),
            None => load()?,
        };
        self.put(at, key, value.as_deref());
        Ok(see(value.as_deref()))
    }

    /// Takes in what a batch has written: rows of [`FAMILIES`], and of others, which are left.
    pub(crate) fn written<'e>(&mut self, entries: impl Iterator<Item = (Family, &'e [u8], Option<&'e [u8]>)>) {
        for (family, key, value) in entries {
            if let Some(at) = place(family) {
                self.older[at].remove(key);
                self.put(at, key, value);
            }
        }
    }

    /// Forgets everything: what is in the database is not known any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::with(self.half_bytes);
    }

    fn put(&mut self, at: usize, key: &[u8], value: Option<&[u8]>) {
        if self.bytes > self.half_bytes {
            self.older = std::mem::take(&mut self.newer);
            self.bytes = 0;
        }
        // A row that is there already counts again: then the half is begun anew a little earlier.
        self.bytes += key.len() + value.map_or(0, <[u8]>::len) + ROW_BYTES;
        match self.newer[at].get_mut(key) {
            Some(old) => *old = value.map(Box::from),
            None => drop(self.newer[at].insert(Box::from(key), value.map(Box::from))),
        }
    }
}

fn place(family: Family) -> Option<usize> {
    FAMILIES.iter().position(|kept| *kept == family)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Read(u8),
        /// A batch with these rows, which is written or is not.
        Batch(Vec<(u8, Option<u8>)>, bool),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let row = (0_u8..12, any::<Option<u8>>());
        let op = prop_oneof![
            4 => (0_u8..12).prop_map(Op::Read),
            2 => (proptest::collection::vec(row, 1..4), prop::bool::weighted(0.8))
                .prop_map(|(rows, written)| Op::Batch(rows, written)),
        ];
        proptest::collection::vec(op, 0..80)
    }

    proptest! {
        #[test]
        fn it_answers_as_the_database_does(ops in ops(), half_bytes in 0_usize..600) {
            let (mut cache, mut database) = (RowCache::with(half_bytes), BTreeMap::new());
            for op in ops {
                match op {
                    Op::Read(key) => {
                        let stored: Option<Vec<u8>> = database.get(&key).map(|value| vec![*value]);
                        let read = cache.get(Family::Owners, &[key], || Ok(stored.clone())).unwrap();
                        prop_assert_eq!(read, stored);
                    }
                    Op::Batch(rows, true) => {
                        for (key, value) in rows {
                            match value {
                                Some(value) => database.insert(key, value),
                                None => database.remove(&key),
                            };
                            let (key, value) = ([key], value.map(|value| [value]));
                            let entry = (Family::Owners, key.as_slice(), value.as_ref().map(<[u8; 1]>::as_slice));
                            cache.written(std::iter::once(entry));
                        }
                    }
                    Op::Batch(rows, false) => {
                        // A write that failed may be in the database all the same.
                        for (key, value) in rows {
                            match value {
                                Some(value) => database.insert(key, value),
                                None => database.remove(&key),
                            };
                        }
                        cache.clear();
                    }
                }
                let held = cache.newer.iter().chain(&cache.older).map(HashMap::len).sum::<usize>();
                prop_assert!(held <= 2 * (half_bytes / ROW_BYTES + 2), "{} rows", held);
            }
        }
    }

    #[test]
    fn a_row_is_asked_for_once_and_rows_of_other_families_each_time() {
        let (mut cache, asked) = (RowCache::default(), Cell::new(0));
        let mut get = |family, key: &[u8]| {
            let load = || {
                asked.set(asked.get() + 1);
                Ok(None)
            };
            assert_eq!(cache.get(family, key, load).unwrap(), None);
            asked.get()
        };
        assert_eq!([get(Family::Owners, b"a"), get(Family::Owners, b"a"), get(Family::Groups, b"a")], [1, 1, 2]);
        assert_eq!([get(Family::Messages, b"a"), get(Family::Messages, b"a")], [3, 4]);
    }
}
