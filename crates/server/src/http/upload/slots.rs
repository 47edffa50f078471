//! The slots of uploads, and each user's share of them.
//!
//! Invariant: at no time are more uploads under way than there are slots, nor more of one user than their share; a
//! slot is free again when its [`UploadSlot`] is gone, however the upload ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kalamdb_protocol::{ErrorCode, UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::error::ApiError;

/// The slots are so many users' shares: an upload may take as long as its client likes, and slow ones of one user must
/// not keep everybody else out.
const USERS_WITH_A_SHARE: usize = 4;

/// The slots of all uploads, and each user's share of them.
pub struct UploadSlots {
    all: Arc<Semaphore>,
    share: usize,
    patience: Duration,
    /// Uploads of each user that has any, waiting ones too.
    users: Arc<Mutex<HashMap<UserId, usize>>>,
}

/// The slot of one upload.
pub struct UploadSlot {
    _one_of_all: OwnedSemaphorePermit,
    _one_of_share: UserShare,
}

/// A place in a user's share.
struct UserShare {
    users: Arc<Mutex<HashMap<UserId, usize>>>,
    user: UserId,
}

impl UploadSlots {
    /// So many slots, each waited for that long at most.
    pub fn new(slots: usize, patience: Duration) -> Self {
        let share = (slots / USERS_WITH_A_SHARE).max(1);
        Self { all: Arc::new(Semaphore::new(slots)), share, patience, users: Arc::default() }
    }

    /// A slot, once one is free.
    ///
    /// # Errors
    /// `rate_limited` when the user has their share already, `resource_exhausted` when no slot became free.
    pub async fn enter(&self, user: &UserId) -> Result<UploadSlot, ApiError> {
        let share = self.take_of_share(user)?;
        let one = tokio::time::timeout(self.patience, Arc::clone(&self.all).acquire_owned()).await;
        match one {
            Ok(Ok(permit)) => Ok(UploadSlot { _one_of_all: permit, _one_of_share: share }),
            // The semaphore is never closed, so the time is up.
            _ => Err(ApiError::new(
                ErrorCode::ResourceExhausted,
                "As many uploads as the server takes at a time (`media.max_concurrent_uploads`) are under way; try \
                 again.",
            )),
        }
    }

    fn take_of_share(&self, user: &UserId) -> Result<UserShare, ApiError> {
        let mut users = lock(&self.users);
        let count = users.entry(user.clone()).or_default();
        if *count >= self.share {
            let message =
                format!("{count} uploads of yours are under way, as many as one user may have; wait until one ends.");
            return Err(ApiError::new(ErrorCode::RateLimited, message));
        }
        *count += 1;
        Ok(UserShare { users: Arc::clone(&self.users), user: user.clone() })
    }
}

impl Drop for UserShare {
    fn drop(&mut self) {
        let mut users = lock(&self.users);
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

/// A panic while it is held leaves whole numbers, which are right.
fn lock(users: &Mutex<HashMap<UserId, usize>>) -> MutexGuard<'_, HashMap<UserId, usize>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[tokio::test]
    async fn one_user_has_a_quarter_and_the_others_theirs() {
        let slots = UploadSlots::new(8, Duration::ZERO);
        let (first, _second) = (slots.enter(&user("a")).await.unwrap(), slots.enter(&user("a")).await.unwrap());
        let refused = slots.enter(&user("a")).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::RateLimited);
        assert!(refused.message().starts_with("2 uploads of yours are under way"));
        drop(slots.enter(&user("b")).await.unwrap());
        drop(first);
        drop(slots.enter(&user("a")).await.unwrap());
    }

    #[tokio::test]
    async fn who_finds_no_place_is_told_to_come_back_and_leaves_no_trace() {
        let slots = UploadSlots::new(1, Duration::ZERO);
        let taken = slots.enter(&user("a")).await.unwrap();
        let refused = slots.enter(&user("b")).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
        drop(taken);
        assert!(lock(&slots.users).is_empty());
        drop(slots.enter(&user("b")).await.unwrap());
        assert!(lock(&slots.users).is_empty());
    }
}
