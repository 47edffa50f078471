//! Bounds: who does not keep up, who is not kept waiting, and what ends.

use super::*;
use crate::live::{
    LiveFrame,
    session::{Interrupted, Session},
};

const ALL: &str = "SELECT content FROM messages";

fn small() -> LiveSettings {
    LiveSettings { queue_frames: 4, ..live_settings() }
}

fn lagged(frame: &Value) -> Position {
    assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("lagged")), "{frame}");
    serde_json::from_value(frame["details"]["resumeAfter"].clone()).unwrap()
}

#[tokio::test]
async fn who_does_not_read_is_told_where_to_go_on_and_nobody_else_notices() {
    let world = World::with(small());
    let (slow, quick) = (world.watch("anna", ALL).await, world.watch("anna", ALL).await);
    for id in 1..=20 {
        world.insert("anna", "c", &[(id, "x")]).await;
        assert_eq!(quick.told(1).await[0].1["msgId"], id);
    }
    let mut last = None;
    for id in 1..=4 {
        let frame = slow.next().await;
        assert_eq!(frame["message"]["msgId"], id);
        last = Some(position(&frame));
    }
    let resume = lagged(&slow.next().await);
    assert_eq!(Some(resume), last);

    slow.begin(Subscribe { after: Some(resume), ..sql(ALL) }).await;
    for id in 5..=20 {
        assert_eq!(slow.told(1).await[0].1["msgId"], id);
    }
    assert_eq!(slow.next().await["type"], "replay_complete");
    world.insert("anna", "c", &[(21, "x")]).await;
    assert_eq!(slow.told(1).await[0].1["msgId"], 21);
}

#[tokio::test]
async fn bytes_are_counted_and_a_frame_larger_than_all_goes_alone() {
    let world = World::with(LiveSettings { queue_bytes: 1_000, ..live_settings() });
    let (slow, quick) = (world.watch("anna", ALL).await, world.watch("anna", ALL).await);
    let long = "x".repeat(2_000);
    for id in 1..=3 {
        world.insert("anna", "c", &[(id, &long)]).await;
        assert_eq!(quick.told(1).await[0].1["msgId"], id);
    }
    assert_eq!(slow.told(1).await[0].1["content"], long);
    let resume = lagged(&slow.next().await);
    slow.begin(Subscribe { after: Some(resume), ..sql(ALL) }).await;
    for id in 2..=3 {
        assert_eq!(slow.told(1).await[0].1["msgId"], id);
    }
}

#[tokio::test]
async fn a_replay_is_told_to_its_end_although_more_happened_than_could_wait() {
    let world = World::with(small());
    let messages: Vec<(MsgId, &str)> = (1..=30).map(|id| (id, "x")).collect();
    world.insert("anna", "c", &messages).await;
    let (slow, quick) = (world.client("anna"), world.watch("anna", ALL).await);
    let here = slow.begin(Subscribe { last_msg_id: Some(0), ..sql(ALL) }).await;
    for id in 31..=40 {
        world.insert("anna", "c", &[(id, "x")]).await;
        assert_eq!(quick.told(1).await[0].1["msgId"], id);
    }
    for id in 1..=30 {
        assert_eq!(slow.told(1).await[0].1["msgId"], id);
    }
    assert_eq!(slow.next().await["type"], "replay_complete");
    assert_eq!(lagged(&slow.next().await), here);

    slow.begin(Subscribe { after: Some(here), ..sql(ALL) }).await;
    for id in 31..=40 {
        assert_eq!(slow.told(1).await[0].1["msgId"], id);
    }
    assert_eq!(slow.next().await["type"], "replay_complete");
}

/// A client whose replays nobody waits for: the ids that it is told until one is complete, asking each time from where
/// the last has ended. The first ends before anything is read of it.
async fn told_in_parts(world: &World, mut ask: Subscribe) -> Vec<MsgId> {
    let client = world.client("anna");
    let mut told = Vec::new();
    for part in 0.. {
        client.session.subscribe(ask.clone()).await.unwrap();
        while part == 0 && !world.engine.0.live.filters().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.next().await["type"], "subscribe_ack");
        let last = loop {
            let frame = client.next().await;
            let Some(id) = frame["message"]["msgId"].as_i64() else { break frame };
            told.push(id);
        };
        if last["type"] == "replay_complete" {
            assert!(part > 0, "the first waits for nobody");
            return told;
        }
        ask.after = Some(lagged(&last));
        ask.last_msg_id = last["details"]["lastMsgId"].as_i64();
    }
    unreachable!("the last has an end");
}

#[tokio::test]
async fn a_replay_holds_its_snapshot_for_a_time_and_goes_on_in_another() {
    let world = World::with(LiveSettings { replay_within: Duration::ZERO, queue_frames: 8, ..live_settings() });
    let before = world.client("anna").begin(sql(ALL)).await;
    let messages: Vec<(MsgId, &str)> = (1..=20).map(|id| (id, "x")).collect();
    world.insert("anna", "c", &messages).await;
    let all: Vec<MsgId> = (1..=20).collect();
    assert_eq!(told_in_parts(&world, Subscribe { last_msg_id: Some(0), ..sql(ALL) }).await, all, "by id");
    assert_eq!(told_in_parts(&world, Subscribe { after: Some(before), ..sql(ALL) }).await, all, "by the log");
}

#[tokio::test]
async fn what_is_unsubscribed_is_not_heard_of_again() {
    let world = World::new();
    let client = world.client("anna");
    client.begin(Subscribe { id: Some("one".to_owned()), ..sql(ALL) }).await;
    // It is told after the first, so that it knows what waits there.
    let other = world.watch("anna", ALL).await;
    world.insert("anna", "c", &[(1, "x"), (2, "x")]).await;
    other.told(2).await;
    client.session.unsubscribe("one").unwrap();
    assert_eq!(client.session.unsubscribe("one").unwrap_err().code, ErrorCode::NotFound);
    client.begin(Subscribe { id: Some("two".to_owned()), ..sql(ALL) }).await;
    world.insert("anna", "c", &[(3, "x")]).await;
    let frame = client.next().await;
    assert_eq!((&frame["id"], &frame["message"]["msgId"]), (&json!("two"), &json!(3)));
}

#[tokio::test]
async fn ids_sessions_and_subscriptions_are_bounded() {
    let world = World::with(LiveSettings { max_sessions_per_user: 2, max_subscriptions: 3, ..live_settings() });
    let (one, two) = (world.client("anna"), world.client("anna"));
    let Err(error) = world.engine.live(&caller("anna")) else { panic!("a third session was opened") };
    assert_eq!(error.code, ErrorCode::RateLimited);
    drop(two);
    drop(world.client("anna"));
    world.client("ben");

    let subscribe =
        async |id: Option<&str>| one.session.subscribe(Subscribe { id: id.map(str::to_owned), ..sql(ALL) }).await;
    assert_eq!(subscribe(Some("s1")).await.unwrap(), "s1");
    assert_eq!(subscribe(Some("s1")).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(
        one.session.subscribe(sql("SELECT nothing FROM messages")).await.unwrap_err().code,
        ErrorCode::UnknownColumn
    );
    assert_eq!(subscribe(None).await.unwrap(), "s3", "the one that was refused has left no trace but its number");
    subscribe(None).await.unwrap();
    assert_eq!(subscribe(None).await.unwrap_err().code, ErrorCode::RateLimited);
    one.session.unsubscribe("s1").unwrap();
    subscribe(Some("s1")).await.unwrap();
}

fn share() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(1))
}

fn at(seq: u64) -> Position {
    Position { epoch: 1, seq, n: 0 }
}

fn frame(seq: u64) -> LiveFrame {
    LiveFrame { kind: "message", position: Some(at(seq)), text: format!("{seq:010}") }
}

async fn texts(session: &Session, count: usize) -> Vec<u64> {
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(session.next().await.text.parse().unwrap());
    }
    texts
}

#[tokio::test]
async fn what_comes_during_a_beginning_waits_for_its_end() {
    let session = Session::new(8, 1_000, share());
    let (number, _) = session.open(None, 1).unwrap();
    for seq in 5..=7 {
        assert!(session.deliver(number, seq, [Ok(frame(seq))].into_iter()));
    }
    session.begin(number, 5, at(5));
    // Late news of what the snapshot knows.
    assert!(session.deliver(number, 4, [Ok(frame(4))].into_iter()));
    session.put(number, frame(1), at(5)).await.unwrap();
    session.go_live(number, at(5)).await.unwrap();
    assert!(session.deliver(number, 8, [Ok(frame(8))].into_iter()));
    assert_eq!(texts(&session, 4).await, [1, 6, 7, 8]);
}

#[tokio::test]
async fn what_can_wait_leaves_room_for_what_cannot() {
    let session = Session::new(8, 1_000, share());
    let (number, _) = session.open(None, 2).unwrap();
    let (other, _) = session.open(None, 2).unwrap();
    session.begin(other, 0, at(0));
    session.go_live(other, at(0)).await.unwrap();
    for seq in 1..=4 {
        session.put(number, frame(seq), at(0)).await.unwrap();
    }
    let waiting = session.put(number, frame(5), at(0));
    tokio::pin!(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    for seq in 11..=14 {
        assert!(session.deliver(other, seq, [Ok(frame(seq))].into_iter()), "there is room for four");
    }
    assert_eq!(texts(&session, 5).await, [1, 2, 3, 4, 11]);
    waiting.await.unwrap();
    assert_eq!(texts(&session, 4).await, [12, 13, 14, 5]);
}

#[tokio::test]
async fn who_waits_for_room_learns_that_nobody_wants_it() {
    let session = Session::new(2, 1_000, share());
    let (number, id) = session.open(None, 1).unwrap();
    session.put(number, frame(1), at(0)).await.unwrap();
    let waiting = session.put(number, frame(2), at(0));
    tokio::pin!(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    assert_eq!(session.named(&id).map(|(number, _)| number), Some(number));
    session.close(number);
    assert_eq!(waiting.await, Err(Interrupted::Gone));
    assert!(!session.deliver(number, 9, [Ok(frame(9))].into_iter()));
    let (number, _) = session.open(None, 1).unwrap();
    session.put(number, frame(3), at(0)).await.unwrap();
    assert_eq!(texts(&session, 1).await, [3], "nothing is left of the first");
}

#[tokio::test]
async fn a_reader_may_give_up_waiting() {
    let session = Session::new(8, 1_000, share());
    let (number, _) = session.open(None, 1).unwrap();
    {
        let reading = session.next();
        tokio::pin!(reading);
        assert!(futures::poll!(reading.as_mut()).is_pending());
        session.put(number, frame(1), at(0)).await.unwrap();
    }
    assert_eq!(texts(&session, 1).await, [1]);
}
