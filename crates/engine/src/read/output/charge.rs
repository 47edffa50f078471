//! Bytes of an answer on their way out, charged to the statement's memory.
//!
//! Invariant: what was charged is given back when the bytes themselves are gone, not when they are computed: a client
//! that takes its time holds its own share of the memory, and no more.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::{
    error::Result,
    execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
};

use super::Batches;

/// The account of one answer; empty itself.
pub(super) struct Charge(MemoryReservation);

/// Bytes that are paid for.
struct Paid {
    bytes: Vec<u8>,
    _held: MemoryReservation,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Charge {
    /// The account of the statement that these rows are of.
    pub fn new(batches: &Batches) -> Self {
        let pool: Arc<dyn MemoryPool> = Arc::clone(&batches.held.memory) as _;
        Self(MemoryConsumer::new("answer").register(&pool))
    }

    /// Sees to it that so many bytes are paid for, while they are still being written.
    ///
    /// # Errors
    /// The statement holds too much.
    pub fn grow_to(&self, bytes: usize) -> Result<()> {
        self.0.try_resize(bytes)
    }

    /// The bytes, which are paid for until the last clone of them is gone.
    ///
    /// # Errors
    /// The statement holds too much.
    pub fn bytes(&self, bytes: Vec<u8>) -> Result<Bytes> {
        // The charge for bytes while they were written goes with them.
        self.0.try_resize(bytes.capacity())?;
        let held = self.0.split(bytes.capacity());
        Ok(Bytes::from_owner(Paid { bytes, _held: held }))
    }
}
