//! The database against a small model of it: the same random history of sends, uploads, edits, deletions, restores,
//! memberships, consolidations, compactions and restarts is done to both.
//!
//! Invariant: both are compared after every step by counts, after the history row by row and file by file, and again
//! when all retention has passed; in the end everybody deletes everything, and then nothing is left.
//!
//! `PROPTEST_CASES` says how many histories, `PROPTEST_RNG_SEED` which. A failure shows the shortest history that
//! fails, as statements.

mod check;
mod driver;
mod model;
mod steps;

use kalamdb_protocol::ConversationType;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use self::{
    driver::Driver,
    model::{Key, USERS},
    steps::{Step, Text, history},
};

/// Histories of one run: so many take seconds.
const CASES: u32 = 64;
/// Steps of the longest history.
const STEPS: usize = 60;
/// Shorter histories that are tried when one fails; each takes as long as a case.
const MAX_SHRINKS: u32 = 500;

fn config() -> Config {
    let config = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { CASES };
    Config { cases, max_shrink_iters: MAX_SHRINKS, failure_persistence: None, ..config }
}

#[test]
fn everybody_has_what_the_model_says_and_nothing_else_is_left() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ran = TestRunner::new(config()).run(&history(STEPS), |history| {
        runtime.block_on(async {
            let mut driver = Driver::new();
            let checked = run(&mut driver, &history).await;
            driver.stop().await;
            checked.map_err(|difference| TestCaseError::fail(format!("{difference}\n\n{}", driver.told())))
        })
    });
    if let Err(failure) = ran {
        panic!("{failure}");
    }
}

async fn run(driver: &mut Driver, history: &[Step]) -> driver::Checked {
    for step in beginning().iter().chain(history) {
        driver.step(step).await?;
        driver.glance()?;
    }
    driver.compare().await?;
    driver.compare_compacted().await?;
    driver.outlive_everything().await?;
    driver.compare().await?;
    driver.compare_compacted().await?;
    driver.clear_out().await
}

/// So that there is a group from the start.
fn beginning() -> Vec<Step> {
    let [founder, participants @ ..] = USERS;
    let group = Key { id: steps::IDS[0], kind: ConversationType::Group };
    let found = Step::Send { user: founder, to: group, assistant: false, text: Text::Small };
    let add = |user| Step::Add { by: founder, user, group: group.id };
    std::iter::once(found).chain(participants.map(add)).collect()
}
