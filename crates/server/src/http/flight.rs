//! Bodies in flight: those that arrive, and those that are worked on.
//!
//! Invariant: no byte of a body is read before there is room for it, among all bodies and within its user's share; the
//! room is free again when its [`Room`] is gone, however the request ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kalamdb_protocol::{ErrorCode, UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// The room is so many users' shares: slow bodies of one user must not keep everybody else's out.
const USERS_WITH_A_SHARE: usize = 4;

/// Room is counted in these. The smallest body takes one, which is about what a request costs besides its body.
const UNIT_BYTES: usize = 1024;

/// Large bodies that are parsed at the same time: parsing takes several times a body's own size for a moment.
const PARSERS: usize = 2;

type Users = Arc<Mutex<HashMap<UserId, UserShare>>>;

/// The room of one user.
struct UserShare {
    room: Arc<Semaphore>,
    /// Bodies in flight.
    bodies: usize,
}

/// The room that there is.
pub struct Flight {
    all: Arc<Semaphore>,
    share: u32,
    patience: Duration,
    /// The users that have a body in flight, waiting ones too.
    users: Users,
    parsers: Semaphore,
}

/// Room for one body, and for what it becomes.
pub struct Room {
    share: u32,
    // Permits go back before the presence: with the user's last body their share is forgotten.
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
    _presence: Presence,
}

/// A body of a user's, on its way in.
struct Presence {
    users: Users,
    user: UserId,
    share: Arc<Semaphore>,
}

impl Flight {
    /// Room for so many bytes, each waited for that long at most. The largest body has room in any case.
    pub fn new(bytes: usize, largest: usize, patience: Duration) -> Self {
        let share = units(bytes / USERS_WITH_A_SHARE).max(units(largest));
        let all = units(bytes).max(share);
        Self {
            all: Arc::new(Semaphore::new(all as usize)),
            share,
            patience,
            users: Arc::default(),
            parsers: Semaphore::new(PARSERS),
        }
    }

    /// Room for so many bytes, once it is there.
    ///
    /// # Errors
    /// `rate_limited` when the user's own bodies take their share, `resource_exhausted` when everybody's take all.
    pub async fn enter(&self, user: &UserId, bytes: usize) -> Result<Room, ApiError> {
        let presence = self.come(user);
        let wanted = units(bytes).min(self.share);
        // The user's own share is taken first: who has to wait for it holds nothing of the others' meanwhile.
        let own = self.wait(&presence.share, wanted).await.ok_or_else(own_share_is_full)?;
        let all = self.wait(&self.all, wanted).await.ok_or_else(all_is_full)?;
        Ok(Room { share: self.share, own, all, _presence: presence })
    }

    /// A place to parse a large body at, once one is free.
    pub async fn parser(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.parsers.acquire().await.ok()
    }

    fn come(&self, user: &UserId) -> Presence {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let share = users
            .entry(user.clone())
            .or_insert_with(|| UserShare { room: Arc::new(Semaphore::new(self.share as usize)), bodies: 0 });
        share.bodies += 1;
        Presence { users: Arc::clone(&self.users), user: user.clone(), share: Arc::clone(&share.room) }
    }

    /// Nothing when the time is up; nobody closes the semaphores.
    async fn wait(&self, of: &Arc<Semaphore>, wanted: u32) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(of).try_acquire_many_owned(wanted) {
            return Some(permit);
        }
        tokio::time::timeout(self.patience, Arc::clone(of).acquire_many_owned(wanted)).await.ok()?.ok()
    }
}

impl Room {
    /// Sees to it that there is room for so many bytes. It does not wait: bodies that grow and wait for each other would
    /// do so for ever.
    ///
    /// # Errors
    /// As for [`Flight::enter`]; `payload_too_large` when it is more than one user may have at all.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let wanted = units(bytes);
        if wanted > self.share {
            return Err(ApiError::new(
                ErrorCode::PayloadTooLarge,
                "The body holds more values than one user has room for (`server.max_bodies_mb`); send them in parts.",
            ));
        }
        let more = wanted.saturating_sub(held(&self.own));
        if more == 0 {
            return Ok(());
        }
        let own = Arc::clone(self.own.semaphore()).try_acquire_many_owned(more).map_err(|_| own_share_is_full())?;
        let all = Arc::clone(self.all.semaphore()).try_acquire_many_owned(more).map_err(|_| all_is_full())?;
        self.own.merge(own);
        self.all.merge(all);
        Ok(())
    }

    /// Bytes that there is room for.
    pub fn bytes(&self) -> usize {
        self.own.num_permits() * UNIT_BYTES
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(share) = users.get_mut(&self.user) else { return };
        share.bodies -= 1;
        if share.bodies == 0 {
            users.remove(&self.user);
        }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX)
}

fn held(permit: &OwnedSemaphorePermit) -> u32 {
    u32::try_from(permit.num_permits()).unwrap_or(u32::MAX)
}

fn own_share_is_full() -> ApiError {
    ApiError::new(
        ErrorCode::RateLimited,
        "Your requests under way take as much as one user may have (a quarter of `server.max_bodies_mb`); send fewer \
         at a time.",
    )
}

fn all_is_full() -> ApiError {
    ApiError::new(
        ErrorCode::ResourceExhausted,
        "As many bytes of requests as the server takes at a time (`server.max_bodies_mb`) are under way; try again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn flight() -> Flight {
        Flight::new(64 * KIB, 8 * KIB, Duration::ZERO)
    }

    #[tokio::test]
    async fn one_user_has_a_quarter_and_the_others_theirs() {
        let flight = flight();
        let first = flight.enter(&user("a"), 10 * KIB).await.unwrap();
        let refused = flight.enter(&user("a"), 7 * KIB).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::RateLimited);
        drop(flight.enter(&user("b"), 16 * KIB).await.unwrap());
        drop(first);
        drop(flight.enter(&user("a"), 16 * KIB).await.unwrap());
        assert!(flight.users.lock().unwrap().is_empty(), "who has nothing in flight leaves no trace");
        assert_eq!(flight.all.available_permits(), 64);
    }

    /// Also when one body goes while another's end is not all done.
    #[tokio::test]
    async fn nobody_is_remembered_who_has_nothing_in_flight() {
        let flight = flight();
        let (first, second) = (flight.come(&user("a")), flight.come(&user("a")));
        let still_there = Arc::clone(&first.share);
        drop(first);
        assert_eq!(flight.users.lock().unwrap().len(), 1);
        drop(second);
        assert!(flight.users.lock().unwrap().is_empty());
        drop(still_there);
    }

    #[tokio::test]
    async fn all_together_have_no_more_than_all() {
        let flight = flight();
        let mut taken = Vec::new();
        for name in ["a", "b", "c", "d"] {
            taken.push(flight.enter(&user(name), 16 * KIB).await.unwrap());
        }
        assert_eq!(flight.enter(&user("e"), 1).await.err().unwrap().code(), ErrorCode::ResourceExhausted);
    }

    #[tokio::test]
    async fn room_is_waited_for() {
        let flight = Flight::new(64 * KIB, 8 * KIB, Duration::from_mins(1));
        let first = flight.enter(&user("a"), 16 * KIB).await.unwrap();
        let name = user("a");
        let second = flight.enter(&name, 16 * KIB);
        let freed = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        assert!(tokio::join!(second, freed).0.is_ok());
    }

    #[tokio::test]
    async fn room_grows_without_waiting() {
        let flight = Flight::new(64 * KIB, 8 * KIB, Duration::from_mins(1));
        let mut room = flight.enter(&user("a"), KIB).await.unwrap();
        room.grow_to(12 * KIB).unwrap();
        assert_eq!(room.bytes(), 12 * KIB);
        let mut other = flight.enter(&user("a"), KIB).await.unwrap();
        assert_eq!(other.grow_to(5 * KIB).unwrap_err().code(), ErrorCode::RateLimited);
        assert_eq!(other.grow_to(17 * KIB).unwrap_err().code(), ErrorCode::PayloadTooLarge);
        drop(room);
        other.grow_to(16 * KIB).unwrap();
    }

    #[tokio::test]
    async fn the_largest_body_has_room_whatever_the_setting_says() {
        let flight = Flight::new(KIB, 100 * KIB, Duration::ZERO);
        assert_eq!(flight.enter(&user("a"), 100 * KIB).await.unwrap().bytes(), 100 * KIB);
    }
}
