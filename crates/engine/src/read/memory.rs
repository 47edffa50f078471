//! The memory that the operators of a statement may hold: its own share, its user's, and its part of everybody's.
//!
//! Invariant: what a statement holds is always within all three limits as far as operators ask first, and is given back
//! in full when the statement is gone. One user holds half of everybody's at most, so that the others find some. Which
//! limit said no is remembered here, so that nobody has to read it out of a message.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use datafusion::{
    common::resources_err,
    error::Result,
    execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation},
};
use kalamdb_protocol::UserId;
use parking_lot::Mutex;

/// The memory of all statements together.
#[derive(Debug)]
pub(super) struct TotalMemory {
    limit: usize,
    used: AtomicUsize,
    /// The users whose statements run, and perhaps some who have just had one.
    users: Mutex<HashMap<UserId, Weak<UserMemory>>>,
}

/// The memory of all of one user's statements.
#[derive(Debug)]
struct UserMemory {
    limit: usize,
    used: AtomicUsize,
}

/// The memory of one statement.
#[derive(Debug)]
pub(super) struct QueryMemory {
    limit: usize,
    used: AtomicUsize,
    user: Arc<UserMemory>,
    total: Arc<TotalMemory>,
    refused: AtomicU8,
}

/// The limit that refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The statement's own share.
    Share,
    /// The user's share.
    User,
    /// The memory of all statements.
    Total,
}

const BY_SHARE: u8 = 1;
const BY_TOTAL: u8 = 2;
const BY_USER: u8 = 3;

/// Users are looked through for ones that have nothing running when there are as many.
const FEW_USERS: usize = 64;

impl TotalMemory {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), users: Mutex::default() })
    }

    /// The pool of a statement of the user's.
    pub fn share(self: &Arc<Self>, user: &UserId, limit: usize) -> Arc<QueryMemory> {
        Arc::new(QueryMemory {
            limit,
            used: AtomicUsize::new(0),
            user: self.user(user),
            total: Arc::clone(self),
            refused: AtomicU8::new(0),
        })
    }

    fn user(&self, user: &UserId) -> Arc<UserMemory> {
        let mut users = self.users.lock();
        if let Some(known) = users.get(user).and_then(Weak::upgrade) {
            return known;
        }
        if users.len() >= FEW_USERS {
            users.retain(|_, memory| memory.strong_count() > 0);
        }
        let memory = Arc::new(UserMemory { limit: self.limit / 2, used: AtomicUsize::new(0) });
        users.insert(user.clone(), Arc::downgrade(&memory));
        memory
    }
}

impl QueryMemory {
    /// The limit that refused the last request that was refused.
    pub fn refused(&self) -> Option<Refused> {
        match self.refused.load(Ordering::Acquire) {
            BY_SHARE => Some(Refused::Share),
            BY_TOTAL => Some(Refused::Total),
            BY_USER => Some(Refused::User),
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
        self.user.used.fetch_add(additional, Ordering::AcqRel);
        self.total.used.fetch_add(additional, Ordering::AcqRel);
    }

    fn shrink(&self, _reservation: &MemoryReservation, shrink: usize) {
        give_back(&self.used, shrink);
        give_back(&self.user.used, shrink);
        give_back(&self.total.used, shrink);
    }

    fn try_grow(&self, _reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if !take(&self.used, additional, self.limit) {
            return self.refuse(BY_SHARE);
        }
        if !take(&self.user.used, additional, self.user.limit) {
            give_back(&self.used, additional);
            // A statement that is alone has no other of its user's to wait for: the server has too little for its share.
            let alone = self.reserved() == self.user.used.load(Ordering::Acquire);
            return self.refuse(if alone { BY_TOTAL } else { BY_USER });
        }
        if !take(&self.total.used, additional, self.total.limit) {
            give_back(&self.used, additional);
            give_back(&self.user.used, additional);
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
        give_back(&self.user.used, *self.used.get_mut());
        give_back(&self.total.used, *self.used.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn one_user_leaves_half_to_the_others() {
        let total = TotalMemory::new(200);
        let [first, second] = [(); 2].map(|()| total.share(&user("a"), 80));
        let other = total.share(&user("b"), 100);
        let consumer = |name: &str, pool: &Arc<QueryMemory>| {
            MemoryConsumer::new(name).register(&(Arc::clone(pool) as Arc<dyn MemoryPool>))
        };
        let (one, two, three) = (consumer("1", &first), consumer("2", &second), consumer("3", &other));
        one.try_grow(70).unwrap();
        assert!(two.try_grow(40).is_err());
        assert_eq!(second.refused(), Some(Refused::User));
        two.try_grow(30).unwrap();
        three.try_grow(100).unwrap();
        drop((one, first));
        two.try_grow(40).unwrap();
        drop((two, second, three, other));
        assert_eq!(total.used.load(Ordering::Acquire), 0);
        assert!(total.users.lock().values().all(|memory| memory.strong_count() == 0));
    }

    #[test]
    fn each_limit_says_no_in_its_own_name() {
        let total = TotalMemory::new(200);
        let one = total.share(&user("a"), 100);
        let other = total.share(&user("b"), 100);
        let third = total.share(&user("c"), 100);
        let much = MemoryConsumer::new("c").register(&(Arc::clone(&third) as Arc<dyn MemoryPool>));
        much.try_grow(50).unwrap();
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
        let pool = total.share(&user("a"), 100);
        // Grown behind the reservation's back: as if an operator had lost count.
        let nobody = MemoryConsumer::new("a").register(&(Arc::clone(&pool) as Arc<dyn MemoryPool>));
        pool.grow(&nobody, 60);
        drop((nobody, pool));
        assert_eq!(total.used.load(Ordering::Acquire), 0);
    }
}
