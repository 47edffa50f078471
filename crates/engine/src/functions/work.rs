//! The budget of the functions of one statement, counted where DataFusion counts nothing and where work does not yield.
//!
//! Invariant: every guarded call of a statement takes from the same allowance, and asks here whether it is to go on.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use datafusion::{common::Result, error::DataFusionError};
use parking_lot::Mutex;

use super::TooLarge;
use crate::workers::Stage;

/// Bytes that calls with constant arguments may make together in one statement; the planner evaluates and keeps them.
const MAX_CONSTANT_BYTES: u64 = 64 << 20;
/// Steps of functions whose work outgrows their bytes, in one statement: some ten seconds of one core. A step of
/// `levenshtein` compares two characters.
const MAX_STEPS: u64 = 4 << 30;

/// The budget of one statement's functions, counted while they run.
#[derive(Debug)]
pub(crate) struct Work {
    constant_bytes: AtomicU64,
    steps: AtomicU64,
    stage: Mutex<Arc<Stage>>,
}

impl Work {
    /// A statement's, which goes on as long as the stage does.
    pub fn new(stage: Arc<Stage>) -> Arc<Self> {
        let (constant_bytes, steps) = (AtomicU64::new(MAX_CONSTANT_BYTES), AtomicU64::new(MAX_STEPS));
        Arc::new(Self { constant_bytes, steps, stage: Mutex::new(stage) })
    }

    /// All of it anew, as long as that stage goes on: for what is compiled once and run again and again.
    pub fn renew(&self, stage: Arc<Stage>) {
        self.steps.store(MAX_STEPS, Ordering::Relaxed);
        *self.stage.lock() = stage;
    }

    /// Whether the statement is to go on.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> crate::Result<()> {
        self.stage.lock().goes_on()
    }

    pub(super) fn goes_on(&self) -> Result<()> {
        self.check().map_err(|error| DataFusionError::External(Box::new(error)))
    }

    pub(super) fn charge_constant(&self, bytes: u128) -> Result<()> {
        take(&self.constant_bytes, bytes, TooLarge::Constants)
    }

    pub(super) fn charge_steps(&self, steps: u128) -> Result<()> {
        take(&self.steps, steps, TooLarge::Work)
    }
}

fn take(left: &AtomicU64, amount: u128, otherwise: TooLarge) -> Result<()> {
    let amount = u64::try_from(amount).unwrap_or(u64::MAX);
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount));
    if taken.is_ok() { Ok(()) } else { Err(otherwise.into()) }
}
