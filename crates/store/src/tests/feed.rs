//! What whoever watches is told, and what the change log remembers.

use futures::FutureExt;

use super::{DAY, Fixture, add, ai, group, id};
use crate::{Change, ChangeKind, Event, Feed, FeedItem, RowChange, RowState, database::Read, keys::Family};

/// Everything told so far.
fn told(feed: &mut Feed) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    while let Some(told) = feed.next().now_or_never().flatten() {
        match told {
            FeedItem::Commit(commit) => events.extend(commit.events.iter().map(|event| (commit.seq, event.clone()))),
            FeedItem::Missed | FeedItem::MissedOf(_) => panic!("nothing was missed"),
        }
    }
    events
}

fn text(row: &RowState<crate::Message>) -> &str {
    match row {
        RowState::Absent => "absent",
        RowState::There(message) => &message.content,
        RowState::Cold => "cold",
    }
}

/// The messages among events: owner, before, after.
fn messages(events: &[(u64, Event)]) -> Vec<(&str, &str, &str)> {
    events
        .iter()
        .filter_map(|(_, event)| match &event.change {
            RowChange::Message { before, after, .. } => Some((event.owner.as_str(), text(before), text(after))),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_watched_is_told_of() {
    let fixture = Fixture::with_trash();
    let mut feed = fixture.store.feed().unwrap();
    assert!(fixture.store.feed().is_none(), "there is one listener");
    fixture.send("ann", &ai("c"), "before").await.unwrap();
    let watching = fixture.store.watch(Some(id("ann"))).await.unwrap();
    let seq = fixture.store.snapshot().seq().unwrap();
    let msg_id = fixture.send("ann", &ai("c"), "one").await.unwrap();
    fixture.send("bob", &ai("c"), "another's").await.unwrap();
    let old = fixture.hot("ann", msg_id).message;
    let copies = vec![(id("ann"), fixture.place("ann", msg_id))];
    fixture.commit("ann", vec![super::edit("ann", old, "two", copies)]).await.unwrap();
    fixture.delete("ann", &ai("c"), &[msg_id]).await;
    let place = fixture.trashed("ann", msg_id);
    let (owner, conversation, from) = (id("ann"), ai("c"), "ann".to_owned());
    fixture.commit("ann", vec![Change::Restore { owner, msg_id, conversation, from, place }]).await.unwrap();
    drop(watching);
    fixture.send("ann", &ai("c"), "after").await.unwrap();
    let events = told(&mut feed);
    assert!(events.iter().all(|(at, _)| *at > seq) && events.is_sorted_by_key(|(seq, event)| (*seq, event.n)));
    let expected = [("absent", "one"), ("one", "two"), ("two", "absent"), ("absent", "two")];
    assert_eq!(messages(&events), expected.map(|(before, after)| ("ann", before, after)));
    let unread = |change: &RowChange| match change {
        RowChange::Conversation { before, after } => {
            Some((before.as_ref().unwrap().last_msg_id, after.as_ref().unwrap().last_msg_id))
        }
        _ => None,
    };
    let lasts: Vec<_> = events.iter().filter_map(|(_, event)| unread(&event.change)).collect();
    assert_eq!(lasts[0].1, Some(msg_id));
    assert!(lasts.windows(2).all(|pair| pair[0].1 == pair[1].0), "each begins where the last ended: {lasts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_s_copies_share_one_row_and_its_participants_are_seen_by_participants_only() {
    let fixture = Fixture::new();
    let mut feed = fixture.store.feed().unwrap();
    let _everybody = fixture.store.watch(None).await.unwrap();
    let g = group("g");
    fixture.send("ann", &g, "hello").await.unwrap();
    fixture.commit("ann", vec![add("ann", &g, "bob")]).await.unwrap();
    told(&mut feed);
    fixture.send("ann", &g, "both").await.unwrap();
    let rows: Vec<_> = told(&mut feed)
        .into_iter()
        .filter_map(|(_, event)| match event.change {
            RowChange::Message { after: RowState::There(row), .. } => Some(row),
            _ => None,
        })
        .collect();
    assert!(rows.len() == 2 && std::sync::Arc::ptr_eq(&rows[0], &rows[1]));
    let version = fixture.store.snapshot().participant(&g.id, &id("bob")).unwrap().unwrap().version;
    let remove = Change::RemoveParticipant { owner: id("ann"), group: g.id.clone(), user: id("bob"), version };
    fixture.commit("ann", vec![remove]).await.unwrap();
    let participants: Vec<_> = told(&mut feed)
        .into_iter()
        .filter_map(|(_, event)| match event.change {
            RowChange::Participants { before, after, .. } => Some((event.owner.to_string(), before.len(), after.len())),
            _ => None,
        })
        .collect();
    assert_eq!(participants, [("ann".to_owned(), 2, 1), ("bob".to_owned(), 2, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_is_told_so_and_holds_nobody_up() {
    let fixture = Fixture::new();
    let mut feed = fixture.store.feed().unwrap();
    let _watching = fixture.store.watch(Some(id("ann"))).await.unwrap();
    let text = "x".repeat(1_000);
    let changes = |n: usize| vec![Change::Send(super::message("ann", &ai("c"), &text)); n];
    // More bytes than may wait.
    for _ in 0..40 {
        fixture.commit("ann", changes(2_000)).await.unwrap();
    }
    let mut commits = 0;
    while let FeedItem::Commit(commit) = feed.next().await.unwrap() {
        assert_eq!(commit.events.len(), 2_001);
        commits += 1;
    }
    assert!(commits < 40, "and the gap is told without another commit");
    fixture.commit("ann", changes(1)).await.unwrap();
    assert!(matches!(feed.next().await, Some(FeedItem::Commit(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_s_flood_is_missed_by_that_owner_alone() {
    let fixture = Fixture::new();
    let mut feed = fixture.store.feed().unwrap();
    let (_one, _other) =
        (fixture.store.watch(Some(id("ann"))).await.unwrap(), fixture.store.watch(Some(id("bob"))).await.unwrap());
    let text = "x".repeat(1_000);
    // More bytes than one owner's may wait, and together with what comes then less than all that may.
    for _ in 0..40 {
        let changes = vec![Change::Send(super::message("ann", &ai("c"), &text)); 2_000];
        fixture.commit("ann", changes).await.unwrap();
    }
    for _ in 0..10 {
        fixture.send("bob", &ai("c"), "hi").await.unwrap();
    }
    let mut of_bob = 0;
    let missed = loop {
        match feed.next().await.unwrap() {
            FeedItem::Commit(commit) => of_bob += usize::from(commit.events[0].owner == id("bob")),
            FeedItem::MissedOf(owners) => break owners,
            FeedItem::Missed => panic!("bob has missed nothing"),
        }
    };
    assert_eq!(of_bob, 10);
    assert_eq!(missed, [id("ann")].into());
    fixture.send("ann", &ai("c"), "again").await.unwrap();
    assert!(matches!(feed.next().await, Some(FeedItem::Commit(commit)) if commit.events[0].owner == id("ann")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_what_came_after_and_how_far_back_it_reaches() {
    let fixture = Fixture::new();
    fixture.commit("ann", vec![Change::Send(super::message("ann", &ai("c"), "0")); 3]).await.unwrap();
    let seq = fixture.store.last_seq().unwrap();
    fixture.send("ann", &ai("d"), "1").await.unwrap();
    let log = |seq, n| {
        let changes = fixture.store.snapshot().changes(&id("ann"), seq, n).unwrap()?;
        Some(changes.map(|change| change.unwrap()).map(|change| (change.kind, change.n)).collect::<Vec<_>>())
    };
    let sent = ChangeKind::MessageSent;
    assert_eq!(log(seq, 0).unwrap(), [(sent, 1), (sent, 2), (sent, 0)]);
    assert_eq!(log(seq, u32::MAX).unwrap(), [(sent, 0)]);
    assert_eq!(fixture.store.snapshot().changes(&id("bob"), 0, 0).unwrap().unwrap().count(), 0);
    // The first notes how far commits have come, the second lets go what is as old as that.
    fixture.store.forget(0).unwrap();
    assert!(log(seq, 0).is_some());
    fixture.store.forget(0).unwrap();
    assert_eq!(log(seq, 0), None);
    assert_eq!(log(seq + 1, 0).unwrap(), []);
    let fixture = fixture.reopen();
    assert!(fixture.store.snapshot().changes(&id("ann"), seq, 0).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_shrinks_on_a_server_that_restarts_every_day() {
    let mut fixture = Fixture::new();
    let logged = |fixture: &Fixture| {
        let mut entries = 0;
        let count = &mut |_: &[u8], _: &[u8]| {
            entries += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        };
        fixture.store.inner.database.scan(Family::Changes, &[], &[0xff], false, count).unwrap();
        entries
    };
    let mut last = 0;
    for _ in 0..4 {
        fixture.send("ann", &ai("c"), "of the day").await.unwrap();
        last = fixture.store.last_seq().unwrap();
        fixture.store.forget(DAY).unwrap();
        fixture.later(DAY);
        fixture = fixture.reopen();
    }
    assert_eq!(logged(&fixture), 4);
    fixture.store.forget(DAY).unwrap();
    assert!(fixture.store.snapshot().changes(&id("ann"), last - 1, 0).unwrap().is_none());
    assert!(fixture.store.snapshot().changes(&id("ann"), last, 0).unwrap().is_some());
    // Another process knows the mark as well, before it has looked at the time.
    let fixture = fixture.reopen();
    fixture.store.inner.database.compact(Family::Changes);
    assert_eq!(logged(&fixture), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_keeps_the_log_bounded() {
    let fixture = Fixture::new();
    for jump in [0, 400 * DAY, -400 * DAY, DAY / 2, DAY / 2, DAY / 2] {
        fixture.later(jump);
        fixture.send("ann", &ai("c"), "x").await.unwrap();
        fixture.store.forget(DAY).unwrap();
    }
    let changes = |seq| fixture.store.snapshot().changes(&id("ann"), seq, 0).unwrap().is_some();
    let last = fixture.store.last_seq().unwrap();
    assert!(changes(last) && !changes(last - 3));
}
