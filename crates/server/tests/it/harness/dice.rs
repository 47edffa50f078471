//! Randomness that a failure can be repeated with: every seed is printed, and `KALAMDB_TEST_SEED` sets it.
//!
//! Invariant: nothing random happens in a test but through here.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A seeded source of choices.
pub struct Dice(StdRng);

impl Dice {
    /// The test's dice: seeded by `KALAMDB_TEST_SEED`, else by the clock. The seed is printed, which the test
    /// runner shows when the test fails.
    pub fn new(test: &str) -> Self {
        let given = std::env::var("KALAMDB_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
            u64::from(now.subsec_nanos()) ^ now.as_secs()
        });
        println!("{test}: KALAMDB_TEST_SEED={seed}");
        Self::seeded(seed)
    }

    /// Dice with that seed.
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Other dice, which follow from these: one for each thread.
    pub fn fork(&mut self) -> Self {
        Self(StdRng::seed_from_u64(self.0.random()))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// How much of a random test to run: `usual`, times `KALAMDB_TEST_ROUNDS` when that is set.
pub fn rounds(usual: usize) -> usize {
    let factor = std::env::var("KALAMDB_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    usual * factor
}
