//! How a subscription begins: replays, and what they end in.

use super::*;

const ALL: &str = "SELECT content FROM messages";

fn complete(frame: &Value) -> (&Value, &Value) {
    assert_eq!(frame["type"], "replay_complete", "{frame}");
    (&frame["messageCount"], &frame["lastMsgId"])
}

#[tokio::test]
async fn messages_above_an_id_come_in_order_from_every_tier() {
    // More than a page, and many times what may wait.
    let world = World::with(LiveSettings { queue_frames: 16, ..live_settings() });
    for hundred in 0..6 {
        let messages: Vec<(MsgId, &str)> = (1..=100).map(|id| (100 * hundred + id, "x")).collect();
        world.insert("anna", ["a", "b"][usize::try_from(hundred % 2).unwrap()], &messages).await;
        if hundred == 3 {
            world.consolidate().await;
        }
    }
    world.run("anna", "DELETE FROM messages WHERE msgId IN (50, 550)").await;
    world.run("anna", "UPDATE messages SET content = 'y' WHERE msgId = 60").await;
    let client = world.client("anna");
    let here = client.begin(Subscribe { last_msg_id: Some(10), ..sql("SELECT content FROM messages") }).await;
    for id in (11..=600).filter(|id| ![50, 550].contains(id)) {
        let frame = client.next().await;
        assert_eq!(frame["type"], "message");
        let content = if id == 60 { "y" } else { "x" };
        assert_eq!(frame["message"], json!({"msgId": id, "content": content}));
        assert_eq!(position(&frame), here);
    }
    assert_eq!(complete(&client.next().await), (&json!(588), &json!(600)));
    world.insert("anna", "a", &[(601, "live")]).await;
    let frame = client.next().await;
    assert_eq!(frame["message"]["content"], "live");
    assert!(position(&frame) > here);
}

#[tokio::test]
async fn a_replay_has_the_statement_s_filter() {
    let world = World::new();
    world.insert("anna", "a", &[(1, "yes"), (2, "no")]).await;
    world.consolidate().await;
    world.insert("anna", "b", &[(3, "no"), (4, "yes")]).await;
    let client = world.client("anna");
    let statement = "SELECT upper(content) AS loud FROM messages WHERE content = 'yes'";
    client.begin(Subscribe { last_msg_id: Some(0), ..sql(statement) }).await;
    let expected = [1, 4].map(|id| news("message", json!({"msgId": id, "loud": "YES"})));
    assert_eq!(client.told(2).await, expected);
    assert_eq!(complete(&client.next().await), (&json!(2), &json!(4)));

    let client = world.client("anna");
    client.begin(Subscribe { last_msg_id: Some(4), ..sql(statement) }).await;
    assert_eq!(complete(&client.next().await), (&json!(0), &json!(4)));
}

#[tokio::test]
async fn what_happened_since_a_position_is_told_as_it_is_now() {
    for cold in [false, true] {
        let world = World::new();
        world.insert("anna", "c", &[(1, "one"), (2, "two"), (3, "three")]).await;
        let statement = "SELECT content FROM messages WHERE content <> 'hidden'";
        let first = world.client("anna");
        let left = first.begin(sql(statement)).await;
        drop(first);
        if cold {
            world.consolidate().await;
        }
        world.insert("anna", "c", &[(4, "four")]).await;
        world.run("anna", "UPDATE messages SET content = 'uno' WHERE msgId = 1").await;
        world.run("anna", "DELETE FROM messages WHERE msgId = 2").await;
        world.run("anna", "UPDATE messages SET content = 'hidden' WHERE msgId = 3").await;
        world.insert("anna", "c", &[(5, "hidden"), (6, "short")]).await;
        world.run("anna", "DELETE FROM messages WHERE msgId = 6").await;
        world.run("anna", "UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = 2").await;
        if cold {
            world.consolidate().await;
        }
        let expected = [
            news("message", json!({"msgId": 4, "content": "four"})),
            news("update", json!({"msgId": 1, "content": "uno"})),
            news("delete", json!({"msgId": 2})),
            news("delete", json!({"msgId": 3})),
            news("delete", json!({"msgId": 6})),
            news("message", json!({"msgId": 2, "content": "two"})),
        ];
        let client = world.client("anna");
        assert_eq!(client.begin(Subscribe { after: Some(left), ..sql(statement) }).await, left);
        assert_eq!(client.told(6).await, expected, "cold: {cold}");
        assert_eq!(complete(&client.next().await), (&json!(3), &json!(4)), "cold: {cold}");

        // From any place in between the rest is the same.
        let client = world.client("anna");
        client.begin(Subscribe { after: Some(left), ..sql(statement) }).await;
        let mut places = Vec::new();
        for _ in 0..6 {
            places.push(position(&client.next().await));
        }
        assert!(places.is_sorted());
        for (seen, place) in (1..).zip(places) {
            let client = world.client("anna");
            client.begin(Subscribe { after: Some(place), ..sql(statement) }).await;
            assert_eq!(client.told(6 - seen).await, expected[seen..], "cold: {cold}");
            assert_eq!(client.next().await["type"], "replay_complete");
        }
    }
}

#[tokio::test]
async fn deletions_that_cannot_concern_a_client_are_not_replayed() {
    let world = World::new();
    world.insert("anna", "mine", &[(1, "x")]).await;
    world.insert("anna", "other", &[(2, "x"), (3, "x")]).await;
    let statement = "SELECT content FROM messages WHERE conversationId = 'mine'";
    let left = world.client("anna").begin(sql(statement)).await;
    world.run("anna", "DELETE FROM messages WHERE msgId = 2").await;
    world.run("anna", "UPDATE messages SET content = 'y' WHERE msgId = 3").await;
    world.run("anna", "DELETE FROM conversations WHERE conversationId = 'other'").await;
    world.run("anna", "DELETE FROM conversations WHERE conversationId = 'mine'").await;
    let client = world.client("anna");
    client.begin(Subscribe { after: Some(left), ..sql(statement) }).await;
    let gone = json!({"conversationId": "mine", "conversationType": "ai"});
    assert_eq!(client.told(1).await, [news("delete", gone)]);
    assert_eq!(complete(&client.next().await), (&json!(0), &json!(null)));
}

#[tokio::test]
async fn conversations_and_groups_are_replayed_as_they_are() {
    let world = World::new();
    world.insert("ben", "kept", &[(1, "x")]).await;
    world.insert("ben", "gone", &[(2, "x")]).await;
    world.group("old", &["anna", "ben"]).await;
    let statements =
        ["SELECT lastMsgId FROM conversations WHERE conversationType = 'ai'", "SELECT role FROM conversationUsers"];
    let left = world.client("ben").begin(sql(statements[0])).await;
    world.insert("ben", "kept", &[(3, "x"), (4, "x")]).await;
    world.run("ben", "DELETE FROM conversations WHERE conversationId = 'gone'").await;
    world.run("ben", "DELETE FROM conversationUsers WHERE conversationId = 'old' AND userId = 'ben'").await;
    world.group("new", &["cara", "ben"]).await;

    let client = world.client("ben");
    client.begin(Subscribe { after: Some(left), ..sql(statements[0]) }).await;
    let kept = json!({"conversationId": "kept", "conversationType": "ai", "lastMsgId": 4});
    let expected = [news("message", kept), news("delete", json!({"conversationId": "gone", "conversationType": "ai"}))];
    assert_eq!(client.told(2).await, expected);
    assert_eq!(complete(&client.next().await), (&json!(1), &json!(null)));

    let client = world.client("ben");
    client.begin(Subscribe { after: Some(left), ..sql(statements[1]) }).await;
    let participant =
        |name: &str, role: &str| news("message", json!({"userId": name, "conversationId": "new", "role": role}));
    let expected = [
        news("delete", json!({"conversationId": "old"})),
        news("delete", json!({"conversationId": "new"})),
        participant("ben", "member"),
        participant("cara", "owner"),
    ];
    assert_eq!(client.told(4).await, expected);
    assert_eq!(complete(&client.next().await), (&json!(2), &json!(null)));
}

#[tokio::test]
async fn a_replay_by_id_that_broke_off_goes_on_by_both() {
    let world = World::new();
    world.insert("anna", "c", &[(1, "one"), (2, "two"), (3, "three"), (4, "four")]).await;
    let first = world.client("anna");
    let here = first.begin(Subscribe { last_msg_id: Some(0), ..sql(ALL) }).await;
    first.told(2).await;
    drop(first);
    world.run("anna", "UPDATE messages SET content = 'uno' WHERE msgId = 1").await;
    world.run("anna", "DELETE FROM messages WHERE msgId = 2").await;
    world.run("anna", "UPDATE messages SET content = 'tre' WHERE msgId = 3").await;
    world.insert("anna", "c", &[(5, "five")]).await;

    let client = world.client("anna");
    client.begin(Subscribe { after: Some(here), last_msg_id: Some(2), ..sql(ALL) }).await;
    let expected = [
        news("update", json!({"msgId": 1, "content": "uno"})),
        news("delete", json!({"msgId": 2})),
        news("message", json!({"msgId": 3, "content": "tre"})),
        news("message", json!({"msgId": 4, "content": "four"})),
        news("message", json!({"msgId": 5, "content": "five"})),
    ];
    assert_eq!(client.told(5).await, expected);
    assert_eq!(complete(&client.next().await), (&json!(4), &json!(5)));
}

#[tokio::test]
async fn a_position_that_is_not_known_is_no_place_to_begin() {
    let world = World::new();
    world.insert("anna", "c", &[(1, "one")]).await;
    let client = world.client("anna");
    let here = client.begin(Subscribe { id: Some("first".to_owned()), ..sql(ALL) }).await;
    world.insert("anna", "c", &[(2, "two")]).await;
    let position = position(&client.next().await);
    let unknown = [
        Position { epoch: here.epoch + 1, ..here },
        Position { seq: position.seq + 100, ..here },
        // The log is let go below.
        here,
    ];
    // The first notes how far commits have come, the second lets go what is as old as that.
    world.store.forget(0).unwrap();
    world.store.forget(0).unwrap();
    for after in unknown {
        let request = Subscribe { id: Some("again".to_owned()), after: Some(after), ..sql(ALL) };
        client.session.subscribe(request).await.unwrap();
        let error = client.next().await;
        assert_eq!(error["code"], "lagged", "{after:?}: {error}");
        assert_eq!(error["details"], json!({"resync": true}));
        assert_eq!(error["id"], "again");
    }
    let request = Subscribe { id: Some("again".to_owned()), after: Some(position), ..sql(ALL) };
    assert_eq!(client.begin(request).await, position);
    assert_eq!(complete(&client.next().await), (&json!(0), &json!(null)));
}
