//! What becomes of rows, before and after, in each of the tables.

use super::*;

fn content(id: MsgId, content: &str) -> Value {
    json!({"msgId": id, "content": content})
}

#[tokio::test]
async fn a_message_comes_changes_and_goes_by_what_is_asked_for() {
    for cold in [false, true] {
        let world = World::new();
        let settle = async || {
            if cold {
                world.consolidate().await;
            }
        };
        let client = world.watch("anna", "SELECT content FROM messages WHERE content LIKE 'a%'").await;
        world.insert("anna", "c", &[(1, "a1"), (2, "b2")]).await;
        settle().await;
        world.run("anna", "UPDATE messages SET content = 'b1' WHERE msgId = 1").await;
        world.run("anna", "UPDATE messages SET content = 'a2' WHERE msgId = 2").await;
        settle().await;
        world.run("anna", "UPDATE messages SET content = 'a22' WHERE msgId = 2").await;
        world.run("anna", "UPDATE messages SET content = 'b11' WHERE msgId = 1").await;
        let expected = [
            news("message", content(1, "a1")),
            news("delete", json!({"msgId": 1})),
            news("message", content(2, "a2")),
            news("update", content(2, "a22")),
        ];
        assert_eq!(client.told(4).await, expected, "cold: {cold}");

        settle().await;
        world.run("anna", "DELETE FROM messages WHERE msgId = 1").await;
        world.run("anna", "DELETE FROM messages WHERE msgId = 2").await;
        world.run("anna", "UPDATE deletedMessages SET deletedAt = NULL WHERE msgId IN (1, 2)").await;
        world.insert("anna", "c", &[(3, "a3")]).await;
        let mut expected = vec![
            news("delete", json!({"msgId": 2})),
            news("message", content(2, "a22")),
            news("message", content(3, "a3")),
        ];
        if cold {
            // A commit does not read what it deletes in a segment, so it may have been wanted.
            expected.insert(0, news("delete", json!({"msgId": 1})));
        }
        assert_eq!(client.told(expected.len()).await, expected, "cold: {cold}");
    }
}

#[tokio::test]
async fn what_goes_elsewhere_is_not_told() {
    let world = World::new();
    let client = world.client("anna");
    let request = Subscribe { conversation_id: Some(ConversationId::new("c").unwrap()), ..Subscribe::default() };
    client.begin(request).await;
    world.insert("anna", "other", &[(1, "x"), (2, "y")]).await;
    world.consolidate().await;
    world.run("anna", "DELETE FROM messages WHERE msgId = 1").await;
    world.run("anna", "DELETE FROM conversations WHERE conversationId = 'other'").await;
    world.insert("anna", "c", &[(3, "z")]).await;
    world.consolidate().await;
    world.run("anna", "DELETE FROM conversations WHERE conversationId = 'c'").await;
    world.run("anna", "UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = 3").await;
    let told = client.told(3).await;
    assert_eq!(told[0].1["content"], "z");
    assert_eq!(told[1], news("delete", json!({"conversationId": "c", "conversationType": "ai"})));
    assert_eq!((told[2].0.as_str(), &told[2].1["content"]), ("message", &json!("z")));
}

#[tokio::test]
async fn a_conversation_comes_changes_and_goes() {
    let world = World::new();
    let client = world.watch("anna", "SELECT unreadCount FROM conversations WHERE unreadCount < 2").await;
    let key = json!({"conversationId": "c", "conversationType": "ai"});
    let row = |unread: u64| json!({"conversationId": "c", "conversationType": "ai", "unreadCount": unread});
    world.run("anna", "INSERT INTO conversations (conversationId, conversationType) VALUES ('c', 'ai')").await;
    for id in 1..=2 {
        let columns = "msgId, conversationId, from, content";
        world.run("anna", &format!("INSERT INTO messages ({columns}) VALUES ({id}, 'c', 'bot', 'hi')")).await;
    }
    world.run("anna", "UPDATE conversations SET lastReadMsgId = 2 WHERE conversationId = 'c'").await;
    world.run("anna", "UPDATE conversations SET metadata = '{}' WHERE conversationId = 'c'").await;
    world.run("anna", "DELETE FROM conversations WHERE conversationId = 'c'").await;
    let expected = [
        news("message", row(0)),
        news("update", row(1)),
        news("delete", key.clone()),
        news("message", row(0)),
        news("update", row(0)),
        news("delete", key),
    ];
    assert_eq!(client.told(6).await, expected);
}

#[tokio::test]
async fn one_learns_of_being_added_to_a_group_and_of_leaving_it() {
    let world = World::new();
    let statement = "SELECT role FROM conversationUsers";
    let (anna, ben) = (world.watch("anna", statement).await, world.watch("ben", statement).await);
    let key = |name: &str| json!({"userId": name, "conversationId": "g"});
    let row = |name: &str, role: &str| json!({"userId": name, "conversationId": "g", "role": role});
    world.group("g", &["anna", "ben"]).await;
    world.run("anna", "UPDATE conversationUsers SET role = 'admin' WHERE userId = 'ben'").await;
    world.run("ben", "DELETE FROM conversationUsers WHERE userId = 'ben' AND conversationId = 'g'").await;
    let expected = [
        news("message", row("anna", "owner")),
        news("message", row("ben", "member")),
        news("update", row("ben", "admin")),
        news("delete", key("ben")),
    ];
    assert_eq!(anna.told(4).await, expected);
    let expected = [
        news("message", row("anna", "owner")),
        news("message", row("ben", "member")),
        news("update", row("ben", "admin")),
        news("delete", key("anna")),
        news("delete", key("ben")),
    ];
    assert_eq!(ben.told(5).await, expected);
}

#[tokio::test]
async fn who_has_seen_some_rows_of_a_change_begins_with_it_again() {
    let world = World::new();
    let client = world.watch("ben", "SELECT * FROM conversationUsers").await;
    world.group("g", &["anna", "ben"]).await;
    let (first, second) = (position(&client.next().await), position(&client.next().await));
    assert_eq!((first.seq, first.n), (second.seq - 1, u32::MAX));
    assert_eq!(second.n, u32::MAX);

    let again = Client { session: world.engine.live(&caller("ben")).unwrap() };
    again.begin(Subscribe { after: Some(first), ..sql("SELECT * FROM conversationUsers") }).await;
    assert_eq!(again.told(1).await, [news("delete", json!({"conversationId": "g"}))]);
    let rows = again.told(2).await;
    assert_eq!(rows.iter().map(|(_, row)| &row["userId"]).collect::<Vec<_>>(), ["anna", "ben"]);
    assert_eq!(again.next().await["type"], "replay_complete");
}

#[tokio::test]
async fn the_rows_of_one_commit_come_in_order() {
    let world = World::new();
    let client = world.watch("anna", "SELECT msgId FROM messages").await;
    let messages: Vec<(MsgId, &str)> = (1..=50).map(|id| (id, "x")).collect();
    world.insert("anna", "c", &messages).await;
    let mut last: Option<Position> = None;
    for id in 1..=50 {
        let frame = client.next().await;
        assert_eq!(frame["message"], json!({"msgId": id}));
        let position = position(&frame);
        if let Some(last) = last {
            assert_eq!(position.seq, last.seq);
            assert!(position.n > last.n);
        }
        last = Some(position);
    }
}

#[tokio::test]
async fn who_leaves_a_group_is_told_nothing_of_it_any_more() {
    let world = World::new();
    world.group("g", &["anna", "ben"]).await;
    let statement = "SELECT content FROM messages";
    let (anna, ben) = (world.watch("anna", statement).await, world.watch("ben", statement).await);
    world.say("anna", "g", "both").await;
    world.run("ben", "DELETE FROM conversationUsers WHERE userId = 'ben' AND conversationId = 'g'").await;
    world.say("anna", "g", "alone").await;
    world.insert("ben", "mine", &[(1, "elsewhere")]).await;
    let contents = |told: Vec<(String, Value)>| {
        told.into_iter().map(|(_, row)| row["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(contents(anna.told(2).await), ["both", "alone"]);
    assert_eq!(contents(ben.told(2).await), ["both", "elsewhere"]);
}
