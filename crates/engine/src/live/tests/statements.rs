//! What can be watched, and what is refused.

use kalamdb_protocol::{ConversationType, Params};

use super::*;

#[tokio::test]
async fn projections_and_filters_are_those_of_a_query() {
    let world = World::new();
    let cases = [
        ("SELECT content FROM messages", json!([]), json!({"msgId": 7, "content": "Hello"})),
        ("SELECT content, msgId FROM userId.messages", json!([]), json!({"content": "Hello", "msgId": 7})),
        (
            "SELECT upper(content) AS loud, metadata->>'role' AS role FROM messages WHERE metadata->>'role' = 'user'",
            json!([]),
            json!({"msgId": 7, "loud": "HELLO", "role": "user"}),
        ),
        ("SELECT metadata->'n' AS n FROM messages", json!([]), json!({"msgId": 7, "n": 3})),
        ("SELECT from FROM messages WHERE from = 'bot'", json!([]), json!({"msgId": 7, "from": "bot"})),
        (
            "SELECT timestamp FROM messages WHERE timestamp = 1700000000 AND timestamp < 1700000000001",
            json!([]),
            json!({"msgId": 7, "timestamp": 1_700_000_000_000_000_i64}),
        ),
        (
            "SELECT content FROM messages WHERE conversationId = $1 AND timestamp >= $2",
            json!(["c", 1_700_000_000]),
            json!({"msgId": 7, "content": "Hello"}),
        ),
        (
            "SELECT conversationType FROM messages WHERE content IN ($text, 'other')",
            json!({"text": "Hello"}),
            json!({"msgId": 7, "conversationType": "ai"}),
        ),
        (
            "SELECT m.msgId AS id, coalesce(m.contentRef, 'none') AS ref FROM messages AS m WHERE m.msgId BETWEEN 5 AND 9",
            json!([]),
            json!({"msgId": 7, "id": 7, "ref": "none"}),
        ),
    ];
    let mut clients = Vec::new();
    for (statement, params, expected) in cases {
        let params: Params = serde_json::from_value(params).unwrap();
        let client = world.client("anna");
        client.begin(Subscribe { params: Some(params), ..sql(statement) }).await;
        clients.push((client, statement, expected));
        if clients.len() == 8 {
            tell(&world, &mut clients).await;
        }
    }
    tell(&world, &mut clients).await;
}

/// Sends the message that all of these want, and takes it back.
async fn tell(world: &World, clients: &mut Vec<(Client, &str, Value)>) {
    let columns = "msgId, conversationId, from, timestamp, content, metadata";
    let row = r#"(7, 'c', 'bot', 1700000000, 'Hello', '{"role": "user", "n": 3}')"#;
    world.run("anna", &format!("INSERT INTO messages ({columns}) VALUES {row}")).await;
    for (client, statement, expected) in clients.drain(..) {
        assert_eq!(client.told(1).await, [news("message", expected)], "{statement}");
    }
    world.run("anna", "DELETE FROM messages WHERE msgId = 7").await;
    world.run("anna", "DELETE FROM deletedMessages WHERE msgId = 7").await;
}

#[tokio::test]
async fn without_sql_one_sees_everything_or_a_conversation() {
    let world = World::new();
    world.group("c", &["anna"]).await;
    let (all, one) = (world.client("anna"), world.client("anna"));
    all.begin(Subscribe::default()).await;
    let conversation_id = ConversationId::new("c").ok();
    let kind = Some(ConversationType::Group);
    one.begin(Subscribe { conversation_id, conversation_type: kind, ..Subscribe::default() }).await;
    let columns = "conversationId, conversationType, content";
    world.run("anna", &format!("INSERT INTO messages ({columns}) VALUES ('c', 'ai', 'to the assistant')")).await;
    world.say("anna", "c", "to the group").await;
    let told = all.told(2).await;
    let names: Vec<_> = told[0].1.as_object().unwrap().keys().map(String::as_str).collect();
    for column in kalamdb_protocol::TableId::Messages.table().columns {
        assert!(names.contains(&column.name), "{names:?}");
    }
    assert_eq!(told[1].1["content"], "to the group");
    assert_eq!(one.told(1).await[0].1["content"], "to the group");
}

#[tokio::test]
async fn what_cannot_be_live_is_refused_with_a_sentence_that_says_so() {
    let world = World::new();
    for (statement, says) in [
        ("SELECT a.content FROM messages a JOIN messages b ON a.msgId = b.msgId", "A join"),
        ("SELECT count(*) FROM messages", "An aggregate"),
        ("SELECT conversationId FROM messages GROUP BY conversationId", "An aggregate"),
        ("SELECT DISTINCT content FROM messages", "DISTINCT"),
        ("SELECT content FROM messages ORDER BY msgId", "ORDER BY"),
        ("SELECT content FROM messages LIMIT 5", "LIMIT"),
        ("SELECT row_number() OVER () FROM messages", "A window function"),
        ("SELECT content FROM messages UNION ALL SELECT content FROM messages", "UNION"),
        ("SELECT content FROM messages WHERE msgId IN (SELECT lastMsgId FROM conversations)", "A subquery"),
        ("SELECT (SELECT max(lastMsgId) FROM conversations) AS x FROM messages", "A subquery"),
        ("SELECT content FROM (SELECT content FROM messages) AS x", "A query within the query"),
        ("WITH x AS (SELECT content FROM messages) SELECT content FROM x", "A query within the query"),
        ("SELECT 1", "watches a table"),
        ("VALUES (1)", "watches a table"),
        ("SELECT content FROM messages WHERE timestamp > now()", "time or chance"),
        ("SELECT random() AS x FROM messages", "time or chance"),
        ("SELECT unix_timestamp() AS x FROM messages", "time or chance"),
        ("SELECT content FROM deletedMessages", "deletedMessages cannot be live"),
        ("SELECT action FROM auditLog", "auditLog cannot be live"),
        ("SELECT * FROM system.users", "system.users cannot be live"),
        ("EXPLAIN SELECT content FROM messages", "EXPLAIN"),
        ("DELETE FROM messages", "is a SELECT"),
    ] {
        let error = world.refused("root", sql(statement)).await;
        assert_eq!(error.code, ErrorCode::Unsupported, "{statement}: {error}");
        assert!(error.message.contains(says), "{statement}: {error}");
    }
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused() {
    let world = World::new();
    let conversation_id = ConversationId::new("c").ok();
    let params = Some(Params::Positional(vec![json!(1)]));
    for (request, code) in [
        (sql("SELECT content AS msgId FROM messages"), ErrorCode::InvalidValue),
        // A row is an object, which has each key once.
        (sql("SELECT content, content FROM messages"), ErrorCode::InvalidValue),
        (sql("SELECT content AS x, metadata AS x FROM messages"), ErrorCode::InvalidValue),
        (sql("SELECT *, content FROM messages"), ErrorCode::InvalidValue),
        (sql("SELECT content FROM messages WHERE content ~ '('"), ErrorCode::InvalidValue),
        (sql("SELECT nothing FROM messages"), ErrorCode::UnknownColumn),
        (sql("SELECT * FROM nothing"), ErrorCode::UnknownTable),
        (sql("SELECT content FRM messages WHERE"), ErrorCode::SyntaxError),
        (Subscribe { conversation_id, ..sql("SELECT * FROM messages") }, ErrorCode::InvalidValue),
        (Subscribe { params, ..Subscribe::default() }, ErrorCode::InvalidValue),
        (Subscribe { conversation_type: Some(ConversationType::Ai), ..Subscribe::default() }, ErrorCode::InvalidValue),
        (Subscribe { last_msg_id: Some(1), ..sql("SELECT * FROM conversations") }, ErrorCode::InvalidValue),
        (Subscribe { id: Some(String::new()), ..Subscribe::default() }, ErrorCode::InvalidValue),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(world.refused("anna", request).await.code, code, "{shown}");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_judged_ends_what_asked_for_it_and_nothing_else() {
    let world = World::new();
    let statement = "SELECT content FROM messages WHERE CAST(content AS INT) > 5";
    let (anna, ben) = (world.watch("anna", statement).await, world.watch("ben", statement).await);
    world.insert("anna", "c", &[(1, "7"), (2, "seven")]).await;
    world.insert("ben", "c", &[(1, "8")]).await;
    assert_eq!(anna.told(1).await[0].1["content"], "7");
    let error = anna.next().await;
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("error"), Some("invalid_value")), "{error}");
    assert_eq!(ben.told(1).await[0].1["content"], "8");
    assert!(anna.session.unsubscribe("s1").is_err(), "it has ended");
}
