//! The order of owners: a queue of those who wait, and rounds over all of them.
//!
//! Invariant: the owners are read a page at a time, each page from a snapshot of its own, so that a round costs the same
//! memory for a thousand owners as for a million and keeps no old snapshot alive. Nobody waits twice.

use std::collections::{BTreeSet, VecDeque};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use kalamdb_protocol::UserId;
use kalamdb_store::{OwnerState, Snapshot, Store};

use crate::Result;

/// Owners read at a time.
const PAGE: usize = 1_000;

/// Owners waiting, first come, first served; at most as many as there are.
#[derive(Default)]
pub(super) struct OwnerQueue {
    order: VecDeque<UserId>,
    present: BTreeSet<UserId>,
}

impl OwnerQueue {
    pub(super) fn push(&mut self, owner: UserId) {
        if self.present.insert(owner.clone()) {
            self.order.push_back(owner);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The first ones, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Vec<UserId> {
        let taken: Vec<UserId> = self.order.drain(..most.min(self.order.len())).collect();
        for owner in &taken {
            self.present.remove(owner);
        }
        taken
    }
}

/// A round over all owners.
#[derive(Default)]
pub(super) struct Round {
    /// Owners of the current page who are to be worked at.
    queue: OwnerQueue,
    next: Next,
}

/// The start of the next page.
#[derive(Default)]
enum Next {
    /// The first owner.
    First,
    /// The owner after this one.
    After(UserId),
    /// There is none.
    #[default]
    Over,
}

impl Round {
    /// Begins, unless it is under way already.
    pub(super) fn begin(&mut self) {
        if self.is_over() {
            self.next = Next::First;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.queue.is_empty() && matches!(self.next, Next::Over)
    }

    /// The next owners to work at, at most so many: none when a page had none, whether or not more pages follow.
    pub(super) fn take(
        &mut self,
        store: &Store,
        most: usize,
        wanted: impl Fn(&Snapshot, &UserId, &OwnerState) -> Result<bool>,
    ) -> Result<Vec<UserId>> {
        if self.queue.is_empty() {
            let after = match std::mem::take(&mut self.next) {
                Next::First => None,
                Next::After(owner) => Some(owner),
                Next::Over => return Ok(Vec::new()),
            };
            let snapshot = store.snapshot();
            let page = snapshot.owners_after(after.as_ref(), PAGE)?;
            if page.len() == PAGE
                && let Some((last, _)) = page.last()
            {
                self.next = Next::After(last.clone());
            }
            for (owner, state) in page {
                if wanted(&snapshot, &owner, &state)? {
                    self.queue.push(owner);
                }
            }
        }
        Ok(self.queue.take(most))
    }
}

/// Every owner, by id; who comes while they are read may be among them.
pub(super) fn all(store: &Store) -> impl Stream<Item = Result<UserId>> + Send + use<> {
    let store = store.clone();
    let pages = stream::try_unfold(Next::First, move |next| {
        let page = page_after(&store, next);
        async move { page }
    });
    pages.map_ok(|page| stream::iter(page).map(Ok)).try_flatten()
}

fn page_after(store: &Store, next: Next) -> Result<Option<(Vec<UserId>, Next)>> {
    let after = match next {
        Next::First => None,
        Next::After(owner) => Some(owner),
        Next::Over => return Ok(None),
    };
    let page = store.snapshot().owners_after(after.as_ref(), PAGE)?;
    let page: Vec<UserId> = page.into_iter().map(|(owner, _)| owner).collect();
    let next = page.last().cloned().filter(|_| page.len() == PAGE).map_or(Next::Over, Next::After);
    Ok(Some((page, next)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::user;

    #[test]
    fn nobody_stands_in_line_twice() {
        let mut queue = OwnerQueue::default();
        for name in ["b", "a", "b", "c"] {
            queue.push(user(name));
        }
        assert_eq!(queue.take(2), [user("b"), user("a")]);
        queue.push(user("b"));
        assert_eq!(queue.take(9), [user("c"), user("b")]);
        assert!(queue.is_empty() && queue.take(1).is_empty());
    }
}
