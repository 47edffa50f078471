//! Writes that are decided but not yet in the database, laid over it: what the next write of the same batch reads.
//!
//! Invariant: a write that is refused half-way leaves the overlay as it was.

use std::{cell::RefCell, collections::BTreeMap, ops::Bound, ops::ControlFlow, rc::Rc};

use crate::{
    cache::RowCache,
    database::{Database, Each, Read},
    error::Result,
    keys::{Family, Key},
};

/// A value to be written. The copies of a message share theirs.
pub(crate) type Value = Rc<[u8]>;

/// What a key is to have: a value, or none.
type Decided = Option<Value>;

/// The database with pending writes over it.
pub(crate) struct Overlay<'a> {
    database: &'a Database,
    cache: &'a RefCell<RowCache>,
    /// What is decided of each family.
    pending: [BTreeMap<Key, Decided>; Family::ALL.len()],
    /// What the current commit has replaced in it, in that order: a decision of an earlier commit, or none.
    replaced: Vec<(Family, Key, Option<Decided>)>,
    /// Bytes of what earlier commits decided.
    bytes: usize,
    /// Bytes of what the current one did.
    current_bytes: usize,
}

impl<'a> Overlay<'a> {
    /// An overlay without pending writes.
    pub(crate) fn new(database: &'a Database, cache: &'a RefCell<RowCache>) -> Self {
        Self { database, cache, pending: Default::default(), replaced: Vec::new(), bytes: 0, current_bytes: 0 }
    }

    pub(crate) fn put(&mut self, family: Family, key: impl Into<Key>, value: impl Into<Value>) {
        self.decide(family, key.into(), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, family: Family, key: impl Into<Key>) {
        self.decide(family, key.into(), None);
    }

    fn decide(&mut self, family: Family, key: Key, value: Decided) {
        self.current_bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
        let replaced = self.pending[family as usize].insert(key.clone(), value);
        self.replaced.push((family, key, replaced));
    }

    /// Keeps what the current commit wrote, and tells whether that was anything.
    pub(crate) fn keep(&mut self) -> bool {
        let wrote = !self.replaced.is_empty();
        self.replaced.clear();
        self.bytes += std::mem::take(&mut self.current_bytes);
        wrote
    }

    /// Forgets what the current commit wrote.
    pub(crate) fn discard(&mut self) {
        for (family, key, replaced) in self.replaced.drain(..).rev() {
            let pending = &mut self.pending[family as usize];
            match replaced {
                Some(earlier) => pending.insert(key, earlier),
                None => pending.remove(&key),
            };
        }
        self.current_bytes = 0;
    }

    /// Bytes kept so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything kept, for one atomic write, family by family.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Family, &[u8], Option<&[u8]>)> {
        self.entries_of(&Family::ALL)
    }

    /// Those of some families.
    pub(crate) fn entries_of(&self, families: &[Family]) -> impl Iterator<Item = (Family, &[u8], Option<&[u8]>)> {
        families.iter().flat_map(|family| {
            self.pending[*family as usize].iter().map(|(key, value)| (*family, &**key, value.as_deref()))
        })
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.iter().all(BTreeMap::is_empty)
    }
}

impl Read for Overlay<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.pending[family as usize].get(key) {
            Some(value) => Ok(value.as_deref().map(<[u8]>::to_vec)),
            None => self.cache.borrow_mut().get(family, key, || self.database.get(family, key)),
        }
    }

    fn view<T>(&self, family: Family, key: &[u8], see: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        if let Some(value) = self.pending[family as usize].get(key) {
            return value.as_deref().map(see).transpose();
        }
        let load = || self.database.get(family, key);
        self.cache.borrow_mut().view(family, key, load, |value| value.map(see).transpose())?
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], backwards: bool, each: Each<'_>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut range = self.pending[family as usize].range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let next = || if backwards { range.next_back() } else { range.next() };
        let mut pending = std::iter::from_fn(next).map(|(key, value)| (&**key, value.as_deref())).peekable();
        let mut broke = false;
        self.database.scan(family, from, to, backwards, &mut |key, value| {
            // Pending entries before this key come first; a pending entry at it hides the stored one.
            while let Some((at, decided)) = pending.next_if(|(at, _)| if backwards { *at > key } else { *at < key }) {
                if let Some(decided) = decided
                    && each(at, decided)?.is_break()
                {
                    broke = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let flow = match pending.next_if(|(at, _)| *at == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(decided))) => each(key, decided)?,
                None => each(key, value)?,
            };
            broke = flow.is_break();
            Ok(flow)
        })?;
        while !broke && let Some((at, decided)) = pending.next() {
            if let Some(decided) = decided {
                broke = each(at, decided)?.is_break();
            }
        }
        Ok(())
    }
}
