//! The first of one's conversations, out of memory, beside all of them as the database has them.

use std::collections::BTreeSet;

use kalamdb_protocol::ConversationType;
use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    DAY, Fixture, ai, group, id, message,
    replay::{END, History, USERS, What, ops},
};
use crate::{Change, Conversation, InboxColumn, InboxOrder, Snapshot};

/// Conversations of each user before anything else happens, so many that some of them are the first.
const CONVERSATIONS: usize = 12;

/// Snapshots that are kept to be asked again.
const KEPT: usize = 4;

fn orders() -> impl Iterator<Item = InboxOrder> {
    let bits = [false, true];
    let columns = [InboxColumn::LastMsgId, InboxColumn::Updated];
    columns.into_iter().flat_map(move |by| {
        bits.into_iter().flat_map(move |descending| {
            bits.into_iter()
                .flat_map(move |nulls_first| (1..4).map(move |most| InboxOrder { by, descending, nulls_first, most }))
        })
    })
}

/// The value that a conversation has its place by, and where NULL is.
fn value(order: InboxOrder, row: &Conversation) -> (bool, i64) {
    let value = match order.by {
        InboxColumn::LastMsgId => row.last_msg_id,
        InboxColumn::Updated => Some(row.updated),
    };
    let sign = if order.descending { -1 } else { 1 };
    (value.is_none() != order.nulls_first, value.map_or(0, |value| sign * value))
}

/// Whether the first conversations were at hand, and then that they are the first.
fn check(snapshot: &Snapshot, user: &str, order: InboxOrder, kinds: &[ConversationType]) -> bool {
    let owner = id(user);
    let Some(first) = snapshot.first_conversations(&owner, order, kinds).unwrap() else { return false };
    let first: Vec<_> = first.map(Result::unwrap).collect();
    let all = snapshot.conversations(&owner).unwrap().map(Result::unwrap);
    let mut all: Vec<_> = all.filter(|row| kinds.contains(&row.key.kind)).collect();
    all.sort_by_key(|row| value(order, row));
    let last = all.get(order.most - 1).or(all.last()).map(|row| value(order, row));
    let keys: BTreeSet<_> = first.iter().map(|row| &row.key).collect();
    assert_eq!(keys.len(), first.len(), "none comes twice");
    for row in all.iter().filter(|row| Some(value(order, row)) <= last) {
        assert!(first.contains(row), "{row:?} is missing in {order:?} of {user}");
    }
    assert!(first.iter().all(|row| all.contains(row)), "{order:?} of {user}");
    true
}

/// Asks everybody's snapshots in each order; how often the first were at hand.
fn check_all(snapshot: &Snapshot) -> usize {
    let mut at_hand = 0;
    for user in USERS {
        for order in orders() {
            for kinds in [ConversationType::ALL, &[ConversationType::Group], &[ConversationType::Ai]] {
                at_hand += usize::from(check(snapshot, user, order, kinds));
            }
            let seen = snapshot.conversations(&id(user)).unwrap().count();
            snapshot.gather_inbox(&id(user), order, seen).unwrap();
        }
    }
    at_hand
}

/// Whatever happens, and whichever of two snapshots is asked first.
#[test]
fn the_first_conversations_are_those_of_the_snapshot() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases: 6, max_shrink_iters: 20, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&(ops(), prop::collection::vec(any::<prop::sample::Index>(), 1..8)), |(ops, asked)| {
            runtime.block_on(async {
                let mut history = History::new().await;
                for user in USERS {
                    let sends = (0..CONVERSATIONS).map(|number| {
                        let to = ai(&format!("before {number}"));
                        if number % 4 == 0 {
                            let (id, kind) = (to.id.clone(), Some(to.kind));
                            Change::CreateConversation {
                                owner: super::id(user),
                                id,
                                kind,
                                created: None,
                                metadata: None,
                            }
                        } else {
                            Change::Send(message(user, &to, "before"))
                        }
                    });
                    history.commit(user, sends.collect()).await;
                }
                let (mut kept, mut at_hand) = (Vec::new(), 0);
                for (number, op) in ops.into_iter().chain(END).enumerate() {
                    kept.push(history.fixture.store.snapshot());
                    history = match op {
                        // Snapshots belong to the store that is closed then.
                        (What::Crash | What::Rules, ..) => {
                            kept.clear();
                            history.run(op).await
                        }
                        op => history.run(op).await,
                    };
                    let snapshot = &asked[number % asked.len()];
                    let now = history.fixture.store.snapshot();
                    let snapshot = if kept.is_empty() { &now } else { snapshot.get(&kept) };
                    at_hand += check_all(snapshot) + check_all(&now);
                    kept.drain(..kept.len().saturating_sub(KEPT));
                }
                assert!(at_hand > 1_000, "{at_hand}");
            });
            Ok(())
        })
        .unwrap();
}

fn newest(most: usize) -> InboxOrder {
    InboxOrder { by: InboxColumn::LastMsgId, descending: true, nulls_first: false, most }
}

/// Sends to so many conversations, one after the other, and has the first of them at hand.
async fn filled(conversations: usize) -> Fixture {
    let fixture = Fixture::new();
    for number in 0..conversations {
        fixture.send("ann", &ai(&number.to_string()), "text").await.unwrap();
    }
    fixture.store.snapshot().gather_inbox(&id("ann"), newest(1), conversations).unwrap();
    fixture
}

#[tokio::test]
async fn they_are_at_hand_after_they_were_asked_for_and_only_where_there_are_many() {
    let few = filled(7).await;
    assert!(few.store.snapshot().first_conversations(&id("ann"), newest(1), ConversationType::ALL).unwrap().is_none());
    let many = filled(12).await;
    let snapshot = many.store.snapshot();
    let first = |most| snapshot.first_conversations(&id("ann"), newest(most), ConversationType::ALL).unwrap();
    let names = |most| first(most).map(|rows| rows.map(|row| row.unwrap().key).collect::<Vec<_>>());
    assert_eq!(names(2), Some(vec![ai("11"), ai("10")]));
    assert_eq!(names(4), None, "of a third of all, all are read");
    assert!(snapshot.first_conversations(&id("bob"), newest(1), ConversationType::ALL).unwrap().is_none());
}

/// What the log has let go of is not missed: the rows are read anew.
#[tokio::test]
async fn a_log_that_does_not_reach_back_is_no_reason_to_be_wrong() {
    let fixture = filled(12).await;
    fixture.store.forget(0).unwrap();
    fixture.later(DAY);
    let old = fixture.store.snapshot();
    for number in [3, 5] {
        fixture.send("ann", &ai(&number.to_string()), "text").await.unwrap();
    }
    fixture.commit("ann", vec![Change::Send(message("ann", &group("g"), "text"))]).await.unwrap();
    fixture.store.forget(0).unwrap();
    fixture.later(DAY);
    fixture.store.forget(0).unwrap();
    fixture.store.inner.database.compact(crate::keys::Family::Changes);
    assert!(check(&fixture.store.snapshot(), "ann", newest(3), ConversationType::ALL));
    // An earlier reader has no log to go by: all rows are read, as if nothing were at hand.
    assert!(!check(&old, "ann", newest(3), ConversationType::ALL));
}

/// Of more conversations than are held in all inboxes none are at hand, where they are read anew and not all of them.
#[tokio::test]
async fn an_inbox_that_would_be_too_large_answers_nothing() {
    let fixture = filled(12).await;
    fixture.store.forget(0).unwrap();
    fixture.later(DAY);
    for number in 0..250 {
        fixture.send("ann", &ai(&format!("x{number}")), "text").await.unwrap();
    }
    fixture.send("ann", &ai("z"), "text").await.unwrap();
    fixture.store.forget(0).unwrap();
    fixture.later(DAY);
    fixture.store.forget(0).unwrap();
    fixture.store.inner.database.compact(crate::keys::Family::Changes);
    for _ in 0..2 {
        assert!(!check(&fixture.store.snapshot(), "ann", newest(3), ConversationType::ALL));
    }
}
