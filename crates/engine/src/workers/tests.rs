//! Places, deadlines and panics.

use std::sync::atomic::AtomicBool;

use tokio::sync::{Notify, oneshot};

use super::*;

fn settings() -> QuerySettings {
    QuerySettings {
        timeout: Duration::from_mins(1),
        max_rows: 1,
        enable_cache: false,
        cache_bytes: 0,
        max_memory_bytes: 1,
        total_memory_bytes: 1,
        max_statement_bytes: 1,
        max_response_bytes: 1,
        max_concurrent: 2,
        max_concurrent_per_user: 1,
        threads: 1,
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Sets a flag when dropped: what stopped work leaves behind.
struct Stopped(Arc<AtomicBool>, Arc<Notify>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.notify_one();
    }
}

#[tokio::test]
async fn work_runs_on_our_threads_and_a_panic_is_an_error() {
    let workers = Workers::start(&settings()).unwrap();
    let ticket = workers.admit(&user("a")).await.unwrap();
    let name = ticket.run(async { Ok(std::thread::current().name().map(ToOwned::to_owned)) }).await.unwrap();
    assert_eq!(name.as_deref(), Some("kalamdb-engine"));
    let error = ticket.run::<()>(async { panic!("on purpose") }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(!error.message.contains("purpose"));
    assert_eq!(ticket.run(async { Ok(1) }).await.unwrap(), 1);
}

/// The niceness of the thread that asks: field 19 of `/proc/thread-self/stat`, of which the second is a name in brackets.
fn niceness() -> Option<i8> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
}

#[tokio::test]
async fn planned_statements_give_way_to_short_ones() {
    let workers = Workers::start(&settings()).unwrap();
    let ticket = workers.admit(&user("a")).await.unwrap();
    assert_eq!(ticket.run_short(async { Ok(niceness()) }).await.unwrap(), niceness());
    let planned = ticket.run(async { Ok(niceness()) }).await.unwrap();
    assert!(planned >= Some(PLANNED_NICENESS), "{planned:?}");
    // What waits for the disk or computes without a pause does so for a statement.
    let blocking = async { Ok(tokio::task::spawn_blocking(niceness).await.unwrap()) };
    assert!(ticket.run(blocking).await.unwrap() >= Some(PLANNED_NICENESS));
}

#[tokio::test]
async fn dropped_work_stops_and_gives_its_place_back() {
    let workers = Workers::start(&settings()).unwrap();
    let (flag, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let ticket = workers.admit(&user("a")).await.unwrap();
    let (begun, begins) = oneshot::channel();
    let stopped = Stopped(Arc::clone(&flag), Arc::clone(&gone));
    let work = tokio::spawn(async move {
        ticket
            .run::<()>(async move {
                let _stopped = stopped;
                begun.send(()).unwrap();
                std::future::pending().await
            })
            .await
    });
    begins.await.unwrap();
    work.abort();
    gone.notified().await;
    assert!(flag.load(Ordering::Acquire));
    // The user's only place.
    workers.admit(&user("a")).await.unwrap();
    // Nobody is remembered who is not here; the first place may be a moment behind in noting that it is free.
    while !workers.gate.users.lock().is_empty() {
        tokio::task::yield_now().await;
    }
}

/// Also when one statement goes while another's end is not all done.
#[tokio::test]
async fn nobody_is_remembered_who_is_not_here() {
    let workers = Workers::start(&settings()).unwrap();
    let name = user("a");
    let first = QueueEntry::join(&workers.gate, &name).unwrap();
    let second = QueueEntry::join(&workers.gate, &name).unwrap();
    let still_there = Arc::clone(&first.user);
    drop(first);
    assert_eq!(workers.gate.users.lock().len(), 1);
    drop(second);
    assert!(workers.gate.users.lock().is_empty());
    drop(still_there);
}

#[tokio::test]
async fn one_users_crowd_leaves_room_for_others() {
    let workers = Arc::new(Workers::start(&settings()).unwrap());
    let first = workers.admit(&user("a")).await.unwrap();
    let second = {
        let workers = Arc::clone(&workers);
        tokio::spawn(async move { workers.admit(&user("a")).await.map(|_| ()) })
    };
    // The second waits for its user's place and holds none of the common ones meanwhile.
    let other = workers.admit(&user("b")).await.unwrap();
    assert!(!second.is_finished());
    drop(first);
    second.await.unwrap().unwrap();
    drop(other);
}

#[tokio::test]
async fn a_user_has_as_many_places_as_the_settings_say() {
    let two = QuerySettings { max_concurrent: 4, max_concurrent_per_user: 2, ..settings() };
    let workers = Workers::start(&two).unwrap();
    let first = workers.admit(&user("a")).await.unwrap();
    let second = workers.admit(&user("a")).await.unwrap();
    let name = user("a");
    let third = workers.admit(&name);
    tokio::pin!(third);
    assert!(futures::poll!(third.as_mut()).is_pending(), "both places are taken");
    // There is room for others: it is this user's own places that are taken.
    let others = [workers.admit(&user("b")).await.unwrap(), workers.admit(&user("c")).await.unwrap()];
    assert!(futures::poll!(third.as_mut()).is_pending());
    drop(others);
    assert!(futures::poll!(third.as_mut()).is_pending(), "a place of somebody else's is not this user's");
    drop(first);
    third.await.unwrap();
    drop(second);
}

#[tokio::test]
async fn waiting_counts_against_the_time() {
    let hasty = QuerySettings { timeout: Duration::from_millis(1), ..settings() };
    let workers = Workers::start(&hasty).unwrap();
    let _held = workers.admit(&user("a")).await.unwrap();
    let error = workers.admit(&user("a")).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::QueryTimeout);
    assert_eq!(workers.gate.waiting.load(Ordering::Acquire), 0);
}

#[tokio::test]
async fn the_line_has_an_end() {
    let workers = Arc::new(Workers::start(&settings()).unwrap());
    let _held = workers.admit(&user("a")).await.unwrap();
    let waiting: Vec<_> = (0..MAX_WAITING_PER_USER)
        .map(|_| {
            let workers = Arc::clone(&workers);
            tokio::spawn(async move { workers.admit(&user("a")).await.map(|_| ()) })
        })
        .collect();
    while workers.gate.waiting.load(Ordering::Acquire) < MAX_WAITING_PER_USER {
        tokio::task::yield_now().await;
    }
    let error = workers.admit(&user("a")).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::RateLimited);
    workers.admit(&user("b")).await.unwrap();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn shutdown_waits_for_those_inside_and_lets_nobody_in() {
    let workers = Arc::new(Workers::start(&settings()).unwrap());
    let ticket = workers.admit(&user("a")).await.unwrap();
    let closing = {
        let workers = Arc::clone(&workers);
        tokio::spawn(async move { workers.shutdown().await })
    };
    while !workers.gate.closed.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    assert_eq!(workers.admit(&user("b")).await.err().unwrap().code, ErrorCode::ResourceExhausted);
    assert!(!closing.is_finished());
    assert_eq!(ticket.run(async { Ok(1) }).await.unwrap(), 1);
    drop(ticket);
    closing.await.unwrap();
}

/// Statements of which some are late: each is answered by what it did.
#[tokio::test]
async fn an_answer_says_what_was_done() {
    let hasty = QuerySettings { timeout: Duration::from_millis(20), max_concurrent_per_user: 2, ..settings() };
    let workers = Arc::new(Workers::start(&hasty).unwrap());
    let mut done = 0;
    for round in 0..40_u64 {
        let Ok(ticket) = workers.admit(&user("a")).await else { continue };
        let (stage, made) = (Arc::clone(ticket.stage()), Arc::new(AtomicBool::new(false)));
        let makes = Arc::clone(&made);
        let write = async move {
            // It prepares for as long as any, and commits for longer than it has.
            tokio::time::sleep(Duration::from_millis(round)).await;
            let committing = stage.commit()?;
            tokio::time::sleep(Duration::from_millis(25)).await;
            makes.store(true, Ordering::SeqCst);
            drop(committing);
            Ok(())
        };
        match ticket.run(write).await {
            Ok(()) => {
                assert!(made.load(Ordering::SeqCst));
                done += 1;
            }
            Err(error) => {
                assert_eq!(error.code, ErrorCode::QueryTimeout);
                assert!(!made.load(Ordering::SeqCst), "round {round}");
            }
        }
    }
    assert!(done > 0, "the first are in time to begin");
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_goes_to_its_end() {
    let workers = Workers::start(&settings()).unwrap();
    let ticket = workers.admit(&user("a")).await.unwrap();
    let (stage, ended) = (Arc::clone(ticket.stage()), Arc::new(Notify::new()));
    let (begun, begins) = oneshot::channel();
    let (go, goes) = oneshot::channel::<()>();
    let (ends, seen) = (Arc::clone(&ended), Arc::clone(&stage));
    let work = tokio::spawn(async move {
        ticket
            .run(async move {
                let committing = stage.commit()?;
                begun.send(()).unwrap();
                goes.await.unwrap();
                drop(committing);
                ends.notify_one();
                Ok(())
            })
            .await
    });
    begins.await.unwrap();
    work.abort();
    assert!(work.await.unwrap_err().is_cancelled());
    go.send(()).unwrap();
    ended.notified().await;
    assert!(seen.goes_on().is_err(), "it may end, and not begin again");
    assert!(seen.commit().is_err());
}

/// Work that does not yield, on as many places as one user has, keeps nobody else from a thread.
#[tokio::test]
async fn work_that_does_not_yield_leaves_threads_for_others() {
    let two = QuerySettings { max_concurrent: 4, max_concurrent_per_user: 2, ..settings() };
    let workers = Workers::start(&two).unwrap();
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let goes = Arc::new(Mutex::new(goes));
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let ticket = workers.admit(&user("a")).await.unwrap();
        let goes = Arc::clone(&goes);
        let (begun, begins) = oneshot::channel();
        stuck.push(tokio::spawn(async move {
            ticket
                .run(async move {
                    begun.send(()).unwrap();
                    goes.lock().recv().unwrap();
                    Ok(())
                })
                .await
        }));
        begins.await.unwrap();
    }
    let ticket = workers.admit(&user("b")).await.unwrap();
    assert_eq!(ticket.run(async { Ok(1) }).await.unwrap(), 1);
    // Which of them takes which is chance.
    for _ in &stuck {
        go.send(()).unwrap();
    }
    for work in stuck {
        work.await.unwrap().unwrap();
    }
}
