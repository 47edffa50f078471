//! A queue that is bounded by the number of what waits in it and by its bytes: a flood waits at its door.
//!
//! Invariant: what was taken out counts until whoever took it lets go of it, so that the bytes that wait and those at
//! work are within the bound together. First come, first served, large or small.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes are counted in units of this many: a semaphore counts to 2^29 on small machines.
const UNIT: usize = 1024;

/// The sending end; cheap to clone.
pub(crate) struct Sender<T> {
    queue: mpsc::Sender<Weighed<T>>,
    units: Arc<Semaphore>,
    most: usize,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), units: Arc::clone(&self.units), most: self.most }
    }
}

/// A thing that came out, and its share of the bytes.
pub(crate) struct Weighed<T> {
    /// The thing that was sent.
    pub(crate) item: T,
    /// To be kept as long as the thing takes its bytes.
    pub(crate) share: OwnedSemaphorePermit,
}

/// A queue of at most so many things and bytes.
pub(crate) fn channel<T>(things: usize, bytes: usize) -> (Sender<T>, mpsc::Receiver<Weighed<T>>) {
    let (queue, waiting) = mpsc::channel(things);
    let most = bytes / UNIT;
    (Sender { queue, units: Arc::new(Semaphore::new(most)), most }, waiting)
}

impl<T> Sender<T> {
    /// Waits for room, and puts a thing of so many bytes in; one larger than the whole bound takes all of it. `None`
    /// when nobody takes anything out any more.
    pub(crate) async fn send(&self, item: T, bytes: usize) -> Option<()> {
        let units = u32::try_from(bytes.div_ceil(UNIT).min(self.most)).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.units).acquire_many_owned(units).await.ok()?;
        self.queue.send(Weighed { item, share }).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn bytes_wait_at_the_door_until_those_before_them_are_let_go() {
        let (sender, mut waiting) = channel(100, 10 * UNIT);
        sender.send("a", 6 * UNIT).await.unwrap();
        assert!(sender.send("b", 6 * UNIT).now_or_never().is_none(), "there is no room");
        let mut large = Box::pin(sender.send("c", 99 * UNIT));
        assert!(large.as_mut().now_or_never().is_none());
        let a = waiting.recv().await.unwrap();
        assert!(large.as_mut().now_or_never().is_none(), "what is at work counts");
        drop(a);
        large.await.unwrap();
        assert!(sender.send("d", 1).now_or_never().is_none(), "the large one has all of it");
        assert_eq!(waiting.recv().await.unwrap().item, "c");
        sender.send("d", 1).await.unwrap();
        drop(waiting);
        assert!(sender.send("e", 1).await.is_none());
    }
}
