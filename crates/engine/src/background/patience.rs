//! Patience with owners whose files could not be written: they are left alone for a while, longer each time.
//!
//! Invariant: each failure in a row doubles the wait, up to a bound; a success ends it. It is one owner's, and holds up
//! nobody else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kalamdb_protocol::UserId;

/// The wait after a first failure. A full disk is seldom cleared sooner, and an attempt encodes a whole segment.
const SHORTEST: Duration = Duration::from_secs(5);
/// The wait after many failures: an operator who has mended something waits no longer than this.
const LONGEST: Duration = Duration::from_hours(1);
/// Owners remembered, so that a broken disk costs a bounded amount of memory: of more, the one whose wait ends first is
/// tried too early.
const MOST: usize = 10_000;

/// Owners who wait after failures.
#[derive(Default)]
pub(super) struct Patience {
    waiting: BTreeMap<UserId, Wait>,
}

struct Wait {
    failures: u32,
    until: Instant,
}

impl Patience {
    /// Whether it is the owner's turn again.
    pub(super) fn allows(&self, owner: &UserId, now: Instant) -> bool {
        self.waiting.get(owner).is_none_or(|wait| wait.until <= now)
    }

    /// Notes a failure; returns how long the owner waits now.
    pub(super) fn failed(&mut self, owner: &UserId, now: Instant) -> Duration {
        if self.waiting.len() >= MOST && !self.waiting.contains_key(owner) {
            let first = self.waiting.iter().min_by_key(|(_, wait)| wait.until).map(|(owner, _)| owner.clone());
            first.map(|owner| self.waiting.remove(&owner));
        }
        let failures = self.waiting.get(owner).map_or(0, |wait| wait.failures);
        let wait = SHORTEST.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST);
        let until = now + wait;
        self.waiting.insert(owner.clone(), Wait { failures: failures.saturating_add(1), until });
        wait
    }

    /// Notes a success: the owner waits no more.
    pub(super) fn succeeded(&mut self, owner: &UserId) {
        self.waiting.remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn who_fails_waits_longer_each_time_and_nobody_else_does() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let waits: Vec<u64> = (0..12).map(|_| patience.failed(&user("ann"), now).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]);
        assert!(!patience.allows(&user("ann"), now) && patience.allows(&user("bob"), now));
        assert!(patience.allows(&user("ann"), now + LONGEST));
        patience.succeeded(&user("ann"));
        assert_eq!(patience.failed(&user("ann"), now), SHORTEST);
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        for number in 0..MOST + 5 {
            patience.failed(&user(&format!("u{number}")), start + Duration::from_nanos(number as u64));
        }
        assert_eq!(patience.waiting.len(), MOST);
        assert!(patience.allows(&user("u0"), start) && !patience.allows(&user("u10"), start), "the oldest made room");
    }
}
