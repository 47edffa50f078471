//! Writes that are decided but not yet in the database, laid over it: what the next write of the same batch reads.
//!
//! Invariant: a write that is refused half-way leaves the overlay as it was.

use std::{collections::BTreeMap, ops::Bound, ops::ControlFlow};

use crate::{
    database::{Database, Each, Read},
    error::Result,
    keys::Family,
};

type Entries = BTreeMap<(Family, Vec<u8>), Option<Vec<u8>>>;

/// The database with pending writes over it.
pub(crate) struct Overlay<'a> {
    database: &'a Database,
    /// Writes of earlier commits of the batch.
    decided: Entries,
    /// Writes of the current commit.
    current: Entries,
    bytes: usize,
}

impl<'a> Overlay<'a> {
    /// An overlay without pending writes.
    pub(crate) fn new(database: &'a Database) -> Self {
        Self { database, decided: Entries::new(), current: Entries::new(), bytes: 0 }
    }

    pub(crate) fn put(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.current.insert((family, key), Some(value));
    }

    pub(crate) fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.current.insert((family, key), None);
    }

    /// Keeps what the current commit wrote, and tells whether that was anything.
    pub(crate) fn keep(&mut self) -> bool {
        let current = std::mem::take(&mut self.current);
        let wrote = !current.is_empty();
        self.bytes +=
            current.iter().map(|((_, key), value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        if self.decided.is_empty() {
            self.decided = current;
        } else {
            self.decided.extend(current);
        }
        wrote
    }

    /// Forgets what the current commit wrote.
    pub(crate) fn discard(&mut self) {
        self.current.clear();
    }

    /// Bytes kept so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything kept, for one atomic write.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Family, &[u8], Option<&[u8]>)> {
        self.decided.iter().map(|((family, key), value)| (*family, key.as_slice(), value.as_deref()))
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.decided.is_empty()
    }

    /// The pending entries of a range, the current commit's over the earlier ones'.
    fn pending(&self, family: Family, from: &[u8], to: &[u8]) -> BTreeMap<&[u8], Option<&[u8]>> {
        let range = (Bound::Included((family, from.to_vec())), Bound::Excluded((family, to.to_vec())));
        let mut pending = BTreeMap::new();
        for layer in [&self.decided, &self.current] {
            pending.extend(layer.range(range.clone()).map(|((_, key), value)| (key.as_slice(), value.as_deref())));
        }
        pending
    }
}

impl Read for Overlay<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let at = (family, key.to_vec());
        match self.current.get(&at).or_else(|| self.decided.get(&at)) {
            Some(value) => Ok(value.clone()),
            None => self.database.get(family, key),
        }
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], backwards: bool, each: Each<'_>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut pending = self.pending(family, from, to);
        if pending.is_empty() {
            return self.database.scan(family, from, to, backwards, each);
        }
        let mut broke = false;
        self.database.scan(family, from, to, backwards, &mut |key, value| {
            // Pending entries before this key come first; a pending entry at it hides the stored one.
            while let Some((at, pending_value)) = next_before(&mut pending, key, backwards) {
                if let Some(pending_value) = pending_value
                    && each(at, pending_value)?.is_break()
                {
                    broke = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let flow = match pending.remove(key) {
                Some(None) => ControlFlow::Continue(()),
                Some(Some(pending_value)) => each(key, pending_value)?,
                None => each(key, value)?,
            };
            broke = flow.is_break();
            Ok(flow)
        })?;
        while !broke && let Some((at, value)) = next(&mut pending, backwards) {
            if let Some(value) = value {
                broke = each(at, value)?.is_break();
            }
        }
        Ok(())
    }
}

type Pending<'a> = BTreeMap<&'a [u8], Option<&'a [u8]>>;

fn next<'a>(pending: &mut Pending<'a>, backwards: bool) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    if backwards { pending.pop_last() } else { pending.pop_first() }
}

fn next_before<'a>(pending: &mut Pending<'a>, key: &[u8], backwards: bool) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let (first, _) = if backwards { pending.last_key_value() } else { pending.first_key_value() }?;
    let before = if backwards { *first > key } else { *first < key };
    if before { next(pending, backwards) } else { None }
}
