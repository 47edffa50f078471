//! The rules of a write.

use std::sync::atomic::Ordering;

use kalamdb_protocol::{ErrorCode, MAX_MICROS, Role};
use proptest::prelude::*;

use super::{Fixture, HOUR, NOW, add, ai, group, id, message};
use crate::{Actor, Change, ErrorKind, Expect, Idempotency, Place, Proposal};

#[tokio::test]
async fn ids_rise_whatever_the_clock_does() {
    let fixture = Fixture::new();
    let mut last = 0;
    for jump in [0, 5, -1_000_000, 0, 1] {
        fixture.clock.0.fetch_add(jump, Ordering::SeqCst);
        let sent = fixture.send("ann", &ai("c"), "hello").await.unwrap();
        assert!(sent > last && sent <= MAX_MICROS);
        last = sent;
    }
    let fixture = fixture.reopen();
    fixture.clock.0.store(1, Ordering::SeqCst);
    assert!(fixture.send("ann", &ai("c"), "again").await.unwrap() > last);
}

#[tokio::test]
async fn an_id_that_was_given_is_not_generated_again() {
    let fixture = Fixture::new();
    let first = fixture.send("ann", &ai("c"), "first").await.unwrap();
    fixture.later(1_000_000);
    let mut given = message("ann", &ai("c"), "given");
    given.msg_id = Some(first + 5);
    fixture.commit("ann", vec![Change::Send(given)]).await.unwrap();
    fixture.later(-super::HOUR);
    for _ in 0..7 {
        assert!(fixture.send("ann", &ai("c"), "later").await.unwrap() > first + 5);
    }
    assert_eq!(fixture.messages("ann").len(), 9);
    assert_eq!(fixture.hot("ann", first + 5).message.content, "given");
    assert_eq!(fixture.store.snapshot().owner(&id("ann")).unwrap().hot_messages, 9);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the clock does and whichever ids are given, no message takes the place of another, and generated ids
    /// rise above all that were there.
    #[test]
    fn no_id_is_taken_twice(
        steps in proptest::collection::vec((-2_000_000_i64..2_000_000, proptest::option::of(-40_i64..40)), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new();
            let mut ids = std::collections::BTreeSet::new();
            for (jump, given) in steps {
                fixture.later(jump);
                let mut new = message("ann", &ai("c"), "x");
                let highest = ids.last().copied().unwrap_or(NOW);
                new.msg_id = given.map(|offset| highest + offset);
                match fixture.commit("ann", vec![Change::Send(new)]).await {
                    Ok(receipt) => {
                        let msg_id = receipt.sent[0].msg_id;
                        let above = ids.last().is_none_or(|highest| msg_id > *highest);
                        assert!(given.is_some() || above, "{msg_id} is not above {highest}");
                        assert!(ids.insert(msg_id), "{msg_id} was there");
                    }
                    // It is taken, or not below the next one.
                    Err(error) => assert!(given.is_some(), "{error}"),
                }
            }
            assert_eq!(fixture.messages("ann").into_keys().collect::<std::collections::BTreeSet<_>>(), ids);
        });
    }
}

#[tokio::test]
async fn a_clock_out_of_range_is_an_error_and_not_a_wrong_id() {
    let fixture = Fixture::new();
    fixture.clock.0.store(MAX_MICROS + 1, Ordering::SeqCst);
    assert_eq!(fixture.send("ann", &ai("c"), "x").await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_clock_that_jumps_back_stands_still() {
    let fixture = Fixture::new();
    let time = |receipt: crate::Receipt| receipt.sent[0].timestamp;
    let send = || vec![Change::Send(message("ann", &ai("c"), "x"))];
    assert_eq!(time(fixture.commit("ann", send()).await.unwrap()), NOW);
    fixture.later(-HOUR);
    assert_eq!(time(fixture.commit("ann", send()).await.unwrap()), NOW);
    let fixture = fixture.reopen();
    assert_eq!(time(fixture.commit("ann", send()).await.unwrap()), NOW, "after a restart too");
    fixture.later(HOUR + 1);
    assert_eq!(time(fixture.commit("ann", send()).await.unwrap()), NOW + 1);
}

#[tokio::test]
async fn a_clock_past_the_end_is_not_remembered() {
    let fixture = Fixture::new();
    fixture.clock.0.store(MAX_MICROS + 1, Ordering::SeqCst);
    let create = || Change::CreateConversation {
        owner: id("ann"),
        id: ai("c").id,
        kind: Some(ai("c").kind),
        created: None,
        metadata: None,
    };
    assert_eq!(fixture.commit("ann", vec![create()]).await.unwrap_err().kind, ErrorKind::Unavailable);
    fixture.clock.0.store(NOW, Ordering::SeqCst);
    fixture.commit("ann", vec![create()]).await.unwrap();
    assert_eq!(fixture.conversation("ann", &ai("c")).unwrap().created, NOW);
}

#[tokio::test]
async fn a_refused_proposal_leaves_no_trace() {
    let fixture = Fixture::new();
    let seq = fixture.store.last_seq().unwrap();
    let mut large = message("ann", &ai("c"), "x");
    large.content = "x".repeat(16_385);
    let refused = fixture
        .commit("ann", vec![Change::Send(message("ann", &ai("c"), "first")), Change::Send(large)])
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused(ErrorCode::PayloadTooLarge));
    assert!(fixture.messages("ann").is_empty());
    assert!(fixture.store.snapshot().conversations(&id("ann")).unwrap().next().is_none());
    assert_eq!(fixture.store.last_seq().unwrap(), seq);
}

#[tokio::test]
async fn a_group_message_reaches_everybody_who_takes_part_then() {
    let fixture = Fixture::new();
    let to = group("g");
    fixture.send("ann", &to, "alone").await.unwrap();
    fixture.commit("ann", vec![add("ann", &to, "bob")]).await.unwrap();
    let second = fixture.send("bob", &to, "hi").await.unwrap();
    assert_eq!(fixture.messages("ann").len(), 2);
    assert_eq!(fixture.messages("bob").keys().copied().collect::<Vec<_>>(), [second]);
    let snapshot = fixture.store.snapshot();
    let of = |user: &str| snapshot.conversation(&id(user), &to).unwrap().unwrap();
    assert_eq!((of("ann").unread_count, of("bob").unread_count), (1, 0));
    assert_eq!((of("bob").first_msg_id, of("bob").last_msg_id), (Some(second), Some(second)));
    let stranger = fixture.send("eve", &to, "let me in").await.unwrap_err();
    assert_eq!(stranger.kind, ErrorKind::Refused(ErrorCode::Forbidden));
}

#[tokio::test]
async fn a_group_keeps_an_owner_and_its_size() {
    let fixture = Fixture::new();
    let to = group("g");
    fixture.send("ann", &to, "hello").await.unwrap();
    for user in ["bob", "cid"] {
        fixture.clock.0.fetch_add(1, Ordering::SeqCst);
        fixture.commit("ann", vec![add("ann", &to, user)]).await.unwrap();
    }
    let full = fixture.commit("ann", vec![add("ann", &to, "dan")]).await.unwrap_err();
    assert_eq!(full.kind, ErrorKind::Refused(ErrorCode::InvalidValue));
    let leave = |user: &str| {
        let participant = fixture.store.snapshot().participant(&to.id, &id(user)).unwrap().unwrap();
        Change::RemoveParticipant {
            owner: id(user),
            group: to.id.clone(),
            user: id(user),
            version: participant.version,
        }
    };
    let version = fixture.store.snapshot().group_version(&to.id).unwrap();
    fixture.commit("ann", vec![leave("ann")]).await.unwrap();
    let snapshot = fixture.store.snapshot();
    assert!(snapshot.group_version(&to.id).unwrap() > version);
    assert_eq!(snapshot.participant(&to.id, &id("bob")).unwrap().unwrap().role, Role::Owner);
    assert_eq!(fixture.messages("ann").len(), 1, "who leaves keeps the copies");
    assert!(!snapshot.conversation(&id("ann"), &to).unwrap().unwrap().joined);
    for user in ["bob", "cid"] {
        fixture.commit(user, vec![leave(user)]).await.unwrap();
    }
    assert_eq!(fixture.store.snapshot().group_version(&to.id).unwrap(), 0, "without participants there is no group");
}

#[tokio::test]
async fn a_proposal_on_what_has_changed_is_sent_back() {
    let fixture = Fixture::new();
    let sent = fixture.send("ann", &ai("c"), "one").await.unwrap();
    let version = fixture.store.snapshot().hot_message(&id("ann"), sent).unwrap().unwrap().version;
    let delete = |version| Change::Delete {
        owner: id("ann"),
        msg_id: sent,
        conversation: ai("c"),
        from: "ann".to_owned(),
        place: Place::Hot { version },
    };
    let stale = fixture.commit("ann", vec![delete(version + 1)]).await.unwrap_err();
    assert_eq!(stale.kind, ErrorKind::Changed);
    // The first and last message goes, and nobody said what lies in segments.
    let blind = fixture.commit("ann", vec![delete(version)]).await.unwrap_err();
    assert_eq!(blind.kind, ErrorKind::Changed);
    let actor = Actor { user: id("ann"), admin: false };
    let expect = vec![Expect::Cold { owner: id("ann"), version: 99 }];
    let cold = fixture.store.commit(Proposal { actor, idempotency: None, expect, changes: Vec::new() }).await;
    assert_eq!(cold.unwrap_err().kind, ErrorKind::Changed);
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() {
    let fixture = Fixture::new();
    let ask = |text: &str, hash: u8, user: &str| Proposal {
        actor: Actor { user: id(user), admin: false },
        idempotency: Some(Idempotency { key: "k".to_owned(), request_hash: [hash; 32], rows_affected: 1 }),
        expect: Vec::new(),
        changes: vec![Change::Send(message(user, &ai("c"), text))],
    };
    let first = fixture.store.commit(ask("once", 1, "ann")).await.unwrap();
    assert_eq!(fixture.store.commit(ask("once", 1, "ann")).await.unwrap(), first);
    let other = fixture.store.commit(ask("twice", 2, "ann")).await.unwrap_err();
    assert_eq!(other.kind, ErrorKind::Refused(ErrorCode::Conflict));
    assert_eq!(fixture.messages("ann").len(), 1);
    fixture.store.commit(ask("once", 1, "bob")).await.unwrap();
    assert_eq!(fixture.messages("bob").len(), 1, "a key is its user's own");
    fixture.clock.0.store(NOW + 25 * 3_600 * 1_000_000, Ordering::SeqCst);
    fixture.store.commit(ask("once", 1, "ann")).await.unwrap();
    assert_eq!(fixture.messages("ann").len(), 2, "after a day the key is forgotten");
    fixture.clock.0.store(NOW + 50 * HOUR, Ordering::SeqCst);
    fixture.send("bob", &ai("c"), "a commit of the next day").await.unwrap();
    fixture.clock.0.store(NOW + 30 * HOUR, Ordering::SeqCst);
    fixture.store.commit(ask("once", 1, "ann")).await.unwrap();
    assert_eq!(fixture.messages("ann").len(), 3, "what commits have forgotten, a clock does not bring back");
}

#[tokio::test]
async fn a_crowded_owner_is_named() {
    let fixture = Fixture::new();
    for _ in 0..4 {
        fixture.send("ann", &ai("c"), "x").await.unwrap();
    }
    assert_eq!(fixture.store.crowded().await, [id("ann")].into());
}

#[tokio::test]
async fn the_epoch_changes_only_when_numbers_may_have_been_lost() {
    let fixture = Fixture::new();
    fixture.send("ann", &ai("c"), "x").await.unwrap();
    let (epoch, seq) = (fixture.store.epoch(), fixture.store.last_seq().unwrap());
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.epoch(), epoch, "it was closed cleanly");
    assert_eq!(fixture.store.last_seq().unwrap(), seq);
}

#[tokio::test]
async fn a_folder_of_the_first_format_opens() {
    let fixture = Fixture::new();
    let msg_id = fixture.send("ann", &ai("c"), "old").await.unwrap();
    let first = 1_u64.to_be_bytes();
    let format = (crate::keys::Family::Meta, b"format".as_slice(), Some(first.as_slice()));
    fixture.store.inner.database.write([format], true).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.hot("ann", msg_id).message.content, "old");
}

#[tokio::test]
async fn writes_are_counted_by_their_stages() {
    let fixture = Fixture::new();
    fixture.send("ann", &ai("c"), "counted by now").await.unwrap();
    let before = fixture.store.write_stages();
    fixture.commit("bob", vec![add("bob", &group("g"), "ann")]).await.unwrap_err();
    fixture.send("ann", &ai("c"), "a message").await.unwrap();
    // A batch is counted when its senders have their answers, and before the next one is begun.
    fixture.send("ann", &ai("c"), "perhaps not yet").await.unwrap();
    let after = fixture.store.write_stages();
    let more = (after.commits - before.commits, after.batches - before.batches);
    assert!([(2, 1), (3, 2), (4, 3)].contains(&more), "{more:?}: two at the least, of which one was refused");
    assert!(after.bytes > before.bytes && after.waiting >= before.waiting);
}
