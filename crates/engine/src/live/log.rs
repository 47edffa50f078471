//! The change log of one owner, or of all of them as one.
//!
//! Invariant: entries come in the order of the commits, whoever's they are, and no more than asked for is held.

use std::{cmp::Reverse, collections::BinaryHeap};

use kalamdb_protocol::UserId;
use kalamdb_store::{LoggedChange, Seq, Snapshot};

use crate::{Result, sql::Schema};

/// A place in the log: a commit, and a change in it.
type LogPosition = (Seq, u32);

/// The rest of the log.
pub(super) struct ChangeLog {
    snapshot: Snapshot,
    /// The next entry of each owner who has one.
    heads: BinaryHeap<Reverse<(LogPosition, UserId)>>,
}

impl ChangeLog {
    /// Opens the log after that place; `None` when it does not reach back so far.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(snapshot: &Snapshot, scope: &Schema, after: LogPosition) -> Result<Option<Self>> {
        let (seq, n) = after;
        let owners = match scope {
            Schema::Owner(owner) => vec![owner.clone()],
            // Only owners with changes since then have entries.
            Schema::All => {
                let owners = snapshot.owners()?.into_iter();
                owners.filter(|(_, state)| state.change >= seq).map(|(owner, _)| owner).collect()
            }
        };
        let mut log = Self { snapshot: snapshot.clone(), heads: BinaryHeap::with_capacity(owners.len()) };
        for owner in owners {
            let Some(mut entries) = snapshot.changes(&owner, seq, n)? else { return Ok(None) };
            if let Some(first) = entries.next().transpose()? {
                log.heads.push(Reverse(((first.seq, first.n), owner)));
            }
        }
        Ok(Some(log))
    }

    /// The next entries, at most so many; none when it is at its end. `None` when it has been let go meanwhile.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn next(&mut self, most: usize) -> Result<Option<Vec<(UserId, LoggedChange)>>> {
        let mut some = Vec::new();
        while some.len() < most
            && let Some(Reverse((head, owner))) = self.heads.pop()
        {
            let (seq, n) = before(head);
            let Some(entries) = self.snapshot.changes(&owner, seq, n)? else { return Ok(None) };
            // This owner's entries, up to the first one of another owner.
            let until = self.heads.peek().map(|Reverse((at, _))| *at);
            for entry in entries {
                let entry = entry?;
                let at = (entry.seq, entry.n);
                if some.len() == most || until.is_some_and(|until| at > until) {
                    self.heads.push(Reverse((at, owner)));
                    break;
                }
                some.push((owner.clone(), entry));
            }
        }
        Ok(Some(some))
    }
}

/// The place after which an entry is the next.
fn before((seq, n): LogPosition) -> LogPosition {
    match n.checked_sub(1) {
        Some(n) => (seq, n),
        None => (seq.saturating_sub(1), u32::MAX),
    }
}
