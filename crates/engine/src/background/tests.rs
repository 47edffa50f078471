//! The loop's work, done by hand: its parts one by one, without waiting for any interval.

use std::{path::Path, sync::Arc};

use kalamdb_protocol::{ConversationId, ConversationType, ErrorCode};
use kalamdb_store::{Actor, Change, NewMessage, Proposal};
use tempfile::TempDir;

use super::*;
use crate::tests::{Shifted, live_settings, open_store_with, query_settings, user};

const CROWDED_AT: u64 = 20;
const MIN_BATCH_ROWS: u64 = 10;
const NONE: [u32; 0] = [];

fn background(folder: &Path) -> Background {
    background_at(folder, Arc::default(), MIN_BATCH_ROWS)
}

fn background_at(folder: &Path, clock: Arc<Shifted>, min_batch_rows: u64) -> Background {
    let store = open_store_with(folder, clock, |rules| rules.crowded_at = CROWDED_AT);
    let settings = Settings {
        query: query_settings(),
        consolidation: ConsolidationSettings {
            interval: Duration::from_hours(1),
            min_batch_rows,
            max_hot_age: Duration::from_hours(1),
        },
        compaction_interval: Duration::from_hours(24),
        replay: Duration::from_hours(24),
        live: live_settings(),
    };
    Background::new(store, settings)
}

async fn send(store: &Store, name: &str, messages: u64) {
    let message = NewMessage {
        owner: user(name),
        conversation: ConversationId::new("c").unwrap(),
        kind: Some(ConversationType::Ai),
        from: None,
        msg_id: None,
        timestamp: None,
        content: "hello".to_owned(),
        content_ref: None,
        metadata: None,
    };
    let changes = (0..messages).map(|_| Change::Send(message.clone())).collect();
    let actor = Actor { user: user(name), admin: false };
    store.commit(Proposal { actor, idempotency: None, expect: Vec::new(), changes }).await.unwrap();
}

/// The rows of each of an owner's segments.
fn segments(store: &Store, name: &str) -> Vec<u32> {
    store.snapshot().segments(&user(name)).unwrap().into_iter().map(|segment| segment.rows).collect()
}

/// Nothing can be written into the folder of this owner any more.
fn block(folder: &Path, name: &str) {
    std::fs::write(folder.join(name), "a file where the folder would be").unwrap();
}

/// Does the tasks of a round until it is over.
async fn consolidate_due(background: &mut Background) {
    background.work(Task::BeginConsolidation).await.unwrap();
    while !background.consolidation.is_over() {
        background.work(Task::ConsolidateDue).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowded_owner_gets_no_crumbs() {
    let folder = TempDir::new().unwrap();
    let mut background = background(folder.path());
    let store = background.store.clone();
    send(&store, "ann", CROWDED_AT + 3).await;
    let crowd: Vec<_> = store.crowded().await.into_iter().collect();
    assert_eq!(crowd, [user("ann")]);
    background.work(Task::Crowded(crowd.clone())).await.unwrap();
    background.work(Task::ConsolidateCrowded).await.unwrap();
    assert_eq!(segments(&store, "ann"), [23]);
    // Commits that came while the file was written have named the owner again, for what is in it now.
    send(&store, "ann", 5).await;
    background.work(Task::Crowded(crowd)).await.unwrap();
    background.work(Task::ConsolidateCrowded).await.unwrap();
    assert_eq!(segments(&store, "ann"), [23]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_consolidation_fails_holds_up_nobody_and_waits() {
    let folder = TempDir::new().unwrap();
    let mut background = background(folder.path());
    let store = background.store.clone();
    for name in ["ann", "bob", "cid", "dan", "eva", "fay"] {
        send(&store, name, MIN_BATCH_ROWS).await;
    }
    block(folder.path(), "ann");
    consolidate_due(&mut background).await;
    for name in ["bob", "cid", "dan", "eva", "fay"] {
        assert_eq!(segments(&store, name), [10], "{name}");
    }
    assert_eq!(segments(&store, "ann"), NONE);
    assert!(!background.patience.allows(&user("ann"), Instant::now()), "she waits");
    // The disk is mended, but it is not her turn yet; a new message does not change that.
    std::fs::remove_file(folder.path().join("ann")).unwrap();
    send(&store, "ann", CROWDED_AT).await;
    background.work(Task::Crowded(vec![user("ann")])).await.unwrap();
    background.work(Task::ConsolidateCrowded).await.unwrap();
    assert_eq!(segments(&store, "ann"), NONE);
    background.patience.succeeded(&user("ann"));
    consolidate_due(&mut background).await;
    assert_eq!(segments(&store, "ann"), [30]);
    assert_eq!(std::fs::read_dir(store.spool()).unwrap().count(), 0, "nothing is left of what failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_long_tail_gets_no_files_however_old_it_is() {
    let (folder, clock) = (TempDir::new().unwrap(), Arc::new(Shifted::default()));
    let mut background = background_at(folder.path(), Arc::clone(&clock), 1_000);
    let store = background.store.clone();
    for (name, messages) in [("ann", LONG_TAIL_ROWS - 1), ("bob", LONG_TAIL_ROWS)] {
        send(&store, name, messages).await;
    }
    consolidate_due(&mut background).await;
    assert_eq!((segments(&store, "ann"), segments(&store, "bob")), (vec![], vec![]), "too few for their age");
    clock.advance(2 * 3_600 * 1_000_000);
    consolidate_due(&mut background).await;
    assert_eq!((segments(&store, "ann"), segments(&store, "bob")), (vec![], vec![100]));
    send(&store, "ann", 1).await;
    consolidate_due(&mut background).await;
    assert_eq!(segments(&store, "ann"), [100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_hears_of_a_failure_when_everybody_else_is_done() {
    let folder = TempDir::new().unwrap();
    let store = background(folder.path()).store;
    for name in ["ann", "bob", "cid"] {
        send(&store, name, 3).await;
    }
    block(folder.path(), "ann");
    let error = consolidate_all(&store, Whose::All).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::StorageUnavailable);
    assert_eq!((segments(&store, "bob"), segments(&store, "cid")), (vec![3], vec![3]));
    std::fs::remove_file(folder.path().join("ann")).unwrap();
    let report = consolidate_all(&store, Whose::All).await.unwrap();
    assert_eq!((report.segments, report.messages), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_takes_everybody_page_by_page() {
    let folder = TempDir::new().unwrap();
    let mut background = background(folder.path());
    let store = background.store.clone();
    // More owners than a page has; two of them are due, the last one among them.
    for number in 0..1_005 {
        send(&store, &format!("u{number:04}"), if number % 1_004 == 0 { MIN_BATCH_ROWS } else { 1 }).await;
    }
    consolidate_due(&mut background).await;
    assert_eq!((segments(&store, "u0000"), segments(&store, "u1004")), (vec![10], vec![10]));
    assert_eq!(segments(&store, "u0003"), NONE);
    let all: Vec<UserId> = owners::all(&store).map(|owner| owner.unwrap()).collect().await;
    assert!(all.len() == 1_005 && all.is_sorted());
    background.work(Task::BeginCompaction).await.unwrap();
    let mut pages = 0;
    while !background.compaction.is_over() {
        background.work(Task::CompactNext).await.unwrap();
        pages += 1;
    }
    assert_eq!(pages, 2, "one owner with segments in each page");
}
