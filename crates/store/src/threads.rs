//! Work beside the caller's own: on threads that may wait for the disk, and to its end whoever waits for it.
//!
//! Invariant: a panic of such work is a fault of ours and ends that work only; work that never began, because the
//! process ends, is not called one.

use tokio::task::JoinError;

use crate::error::{Error, Result};

/// Runs work that waits for the disk where nobody else waits.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|broken| Err(ended_early(&broken)))
}

/// Runs work to its end, also when nobody waits for it any more: half of it would leave a file behind.
pub(crate) async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|broken| Err(ended_early(&broken)))
}

fn ended_early(broken: &JoinError) -> Error {
    if broken.is_panic() { Error::fault("work on files panicked") } else { Error::stopped() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[tokio::test]
    async fn a_panic_is_a_fault_and_not_a_damaged_file() {
        let error = blocking(|| -> Result<()> { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fault);
        let error = whole(async { if true { panic!("on purpose") } else { Ok(()) } }).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fault);
    }
}
