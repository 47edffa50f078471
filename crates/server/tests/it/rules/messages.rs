//! Sending: defaults, ids, types, senders.
//!
//! Invariant: see [`super`].

use kalamdb_protocol::{ConversationType, ErrorCode, SendMessageRequest};
use serde_json::{Map, json};

use super::{add, code, contents, conversation, group};
use crate::harness::{Client, Failure, Server, message};

/// What JavaScript reads exactly.
const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

fn with_id(conversation: &str, id: i64) -> SendMessageRequest {
    SendMessageRequest { msg_id: Some(id), ..message(conversation, "with an id") }
}

#[test]
fn only_keys_are_needed_and_everything_else_defaults() {
    let server = Server::start();
    let john = server.client("user_john");
    assert_eq!(
        john.run("INSERT INTO userId.conversations (conversationId, conversationType) VALUES ('g1','group')"),
        1
    );
    john.run("INSERT INTO userId.messages (conversationId, content) VALUES ('c1', 'hi')");
    let rows = john.rows(
        "SELECT conversationType, from, contentRef, metadata, timestamp > UNIX_TIMESTAMP() - 60, \
         timestamp < UNIX_TIMESTAMP() + 60 FROM messages",
    );
    assert_eq!(rows, [vec![json!("ai"), json!("user_john"), json!(null), json!(null), json!(true), json!(true)]]);
    let rows = john.rows(
        "SELECT userId, firstMsgId, lastMsgId, metadata, lastReadMsgId, unreadCount, created = updated \
         FROM conversations WHERE conversationId = 'g1'",
    );
    assert_eq!(rows, [vec![json!(null), json!(null), json!(null), json!(null), json!(null), json!(0), json!(true)]]);
}

#[test]
fn a_generated_id_rises_in_commit_order_within_53_bits() {
    let mut server = Server::start();
    let (john, amy) = (server.client("user_john"), server.client("user_amy"));
    let mut ids = Vec::new();
    for round in 0..3 {
        for text in ["one", "two"] {
            ids.push(john.say("c", text));
            ids.push(amy.say("c", text));
        }
        let many =
            john.write("INSERT INTO messages (conversationId, content) VALUES ('c', 'a'), ('d', 'b'), ('c', 'c')");
        let many = many.expect("a write").msg_ids.expect("the ids of messages");
        assert_eq!(many.len(), 3);
        ids.extend(many);
        match round {
            0 => server.restart(),
            1 => {
                server.kill9();
                server.spawn();
            }
            _ => {}
        }
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert!(ids.iter().all(|id| (1..=MAX_SAFE_INTEGER).contains(id)), "{ids:?}");
}

#[test]
fn the_ids_of_an_insert_come_in_the_order_of_its_rows() {
    let server = Server::start();
    let john = server.client("user_john");
    let sql = "INSERT INTO messages (conversationId, content) SELECT 'c', CAST(value AS VARCHAR) AS text \
               FROM UNNEST(generate_series(1, 50)) AS numbers(value) ORDER BY value DESC";
    let ids = john.write(sql).expect("a write").msg_ids.expect("the ids of messages");
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let expected: Vec<String> = (1..=50).rev().map(|value: i32| value.to_string()).collect();
    assert_eq!(contents(&john), expected);
}

#[test]
fn a_given_id_is_kept() {
    let server = Server::start();
    let john = server.client("user_john");
    assert_eq!(john.send(&with_id("c", 7)).expect("it is free").msg_id, 7);
    let answer = john.write("INSERT INTO messages (msgId, conversationId, content) VALUES (3, 'c', 'x')");
    assert_eq!(answer.expect("it is free").msg_ids, Some(vec![3]));
    assert_eq!(john.numbers("SELECT msgId FROM messages ORDER BY msgId"), [3, 7]);
    assert!(john.say("c", "generated") > 7);
}

#[test]
fn a_given_id_is_positive_and_below_the_next_generated_one() {
    let server = Server::start();
    let john = server.client("user_john");
    let generated = john.say("c", "generated");
    // Far enough above that no clock-driven generator has come there meanwhile.
    for id in [0, -1, i64::MIN, MAX_SAFE_INTEGER, MAX_SAFE_INTEGER + 1, i64::MAX] {
        assert_eq!(code(john.send(&with_id("c", id))), ErrorCode::InvalidValue, "{id}");
        let sql = "INSERT INTO messages (msgId, conversationId, content) VALUES ($1, 'c', 'x')";
        assert_eq!(code(john.write_params(sql, json!([id]))), ErrorCode::InvalidValue, "{id}");
    }
    assert_eq!(john.send(&with_id("c", generated - 1)).expect("below").msg_id, generated - 1);
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 2);
}

#[test]
fn an_id_is_taken_once_by_each_owner() {
    let server = Server::start();
    let (john, amy) = (server.client("user_john"), server.client("user_amy"));
    john.send(&with_id("c", 7)).expect("it is free");
    server.admin().consolidate();
    assert_eq!(code(john.send(&with_id("c", 7))), ErrorCode::Conflict, "it lies in a segment");
    assert_eq!(code(john.send(&with_id("other", 7))), ErrorCode::Conflict, "it is another conversation's");
    let generated = john.say("c", "generated");
    assert_eq!(code(john.send(&with_id("c", generated))), ErrorCode::Conflict);
    assert_eq!(amy.send(&with_id("c", 7)).expect("it is free for her").msg_id, 7);
    let sql =
        "INSERT INTO messages (msgId, conversationId, content) VALUES (8, 'c', 'x'), (9, 'new', 'x'), (7, 'c', 'x')";
    assert_eq!(code(john.write(sql)), ErrorCode::Conflict);
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 2, "a refused write leaves no trace");
    assert_eq!(john.number("SELECT COUNT(*) FROM conversations"), 1, "a refused write leaves no trace");
}

#[test]
fn in_a_group_only_admins_give_an_id() {
    let server = Server::start();
    group(&server, "g", &["user_john", "user_amy"]);
    let to_group = SendMessageRequest { conversation_type: Some(ConversationType::Group), ..with_id("g", 7) };
    assert_eq!(code(server.client("user_john").send(&to_group)), ErrorCode::Forbidden);
    let sql = "INSERT INTO user_john.messages (msgId, conversationId, conversationType, from, content) \
               VALUES (7, 'g', 'group', 'user_john', 'x')";
    assert_eq!(server.admin().run(sql), 1);
    assert_eq!(server.client("user_amy").numbers("SELECT msgId FROM messages"), [7]);
}

/// An id that is free for the sender may be taken by another participant; then nobody gets the message.
#[test]
fn an_id_in_a_group_is_free_for_every_participant() {
    let server = Server::start();
    group(&server, "g", &["user_john", "user_amy"]);
    server.client("user_amy").send(&with_id("c", 7)).expect("it is free");
    let sql = "INSERT INTO user_john.messages (msgId, conversationId, conversationType, from, content) \
               VALUES (7, 'g', 'group', 'user_john', 'x')";
    assert_eq!(code(server.admin().write(sql)), ErrorCode::Conflict);
    assert_eq!(server.client("user_john").number("SELECT COUNT(*) FROM messages"), 0);
}

#[test]
fn an_absent_type_is_the_callers_group_else_their_ai_conversation_else_the_default() {
    let server = Server::start();
    group(&server, "x", &["user_john", "user_amy"]);
    let kind = |client: &Client, id: i64| {
        client.value(&format!("SELECT conversationType FROM messages WHERE msgId = {id}")).as_str().map(str::to_owned)
    };
    let (john, carol) = (server.client("user_john"), server.client("user_carol"));
    assert_eq!(kind(&john, john.say("x", "to the group")).as_deref(), Some("group"));
    assert_eq!(kind(&carol, carol.say("x", "she is not in it")).as_deref(), Some("ai"));
    assert_eq!(kind(&john, john.say("new", "nothing of that id")).as_deref(), Some("ai"));
    assert_eq!(kind(&john, john.say("new", "again")).as_deref(), Some("ai"));
    // Both exist for him now: the group comes first.
    let ai = SendMessageRequest { conversation_type: Some(ConversationType::Ai), ..message("x", "to the assistant") };
    john.send(&ai).expect("an AI conversation beside the group");
    assert_eq!(kind(&john, john.say("x", "to the group again")).as_deref(), Some("group"));
    assert_eq!(server.client("user_amy").number("SELECT COUNT(*) FROM messages"), 2);
}

#[test]
fn the_default_type_is_a_setting() {
    let server = Server::with(&[("conversations.default_type", "group")]);
    let john = server.client("user_john");
    john.say("x", "hello");
    assert_eq!(conversation(&john, "x", "conversationType"), "group");
    assert_eq!(john.rows("SELECT userId, role FROM conversationUsers"), [vec![json!("user_john"), json!("owner")]]);
    let ai = SendMessageRequest { conversation_type: Some(ConversationType::Ai), ..message("y", "hello") };
    john.send(&ai).expect("a message to an assistant");
    john.say("y", "again, without a type: the AI conversation is there");
    assert_eq!(john.number("SELECT COUNT(*) FROM messages WHERE conversationType = 'ai'"), 2);
}

#[test]
fn the_first_message_creates_its_conversation() {
    let server = Server::start();
    let john = server.client("user_john");
    let first = john.say("c", "one");
    let last = john.say("c", "two");
    let rows = john.rows(
        "SELECT conversationType, userId, firstMsgId, lastMsgId, storagePath FROM conversations WHERE conversationId = 'c'",
    );
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0][..4], [json!("ai"), json!("user_john"), json!(first), json!(last)]);
    assert_eq!(rows[0][4].as_str().map(|path| path.trim_matches('/')), Some("user_john"));
    let to_group = SendMessageRequest { conversation_type: Some(ConversationType::Group), ..message("g", "hello") };
    let first = john.send(&to_group).expect("a new group").msg_id;
    let rows = john
        .rows("SELECT conversationType, userId, firstMsgId, lastMsgId FROM conversations WHERE conversationId = 'g'");
    assert_eq!(rows, [vec![json!("group"), json!(null), json!(first), json!(first)]]);
    let path = conversation(&john, "g", "storagePath");
    assert_eq!(path.as_str().map(|path| path.trim_matches('/')), Some("shared/conversations/g"));
    assert_eq!(john.texts("SELECT role FROM conversationUsers WHERE conversationId = 'g'"), ["owner"]);
}

#[test]
fn both_types_of_one_id_exist_side_by_side() {
    let server = Server::start();
    group(&server, "x", &["user_john", "user_amy"]);
    let john = server.client("user_john");
    let to = |kind, text: &str| {
        john.send(&SendMessageRequest { conversation_type: Some(kind), ..message("x", text) })
            .expect("both exist")
            .msg_id
    };
    let ai = to(ConversationType::Ai, "to the assistant");
    let all = to(ConversationType::Group, "to all");
    for cold in [false, true] {
        if cold {
            server.admin().consolidate();
        }
        let rows =
            john.rows("SELECT conversationType, firstMsgId, lastMsgId FROM conversations ORDER BY conversationType");
        assert_eq!(rows, [vec![json!("ai"), json!(ai), json!(ai)], vec![json!("group"), json!(all), json!(all)]]);
        let rows = john.rows("SELECT content FROM messages WHERE conversationId = 'x' AND conversationType = 'ai'");
        assert_eq!(rows, [vec![json!("to the assistant")]]);
    }
    assert_eq!(contents(&server.client("user_amy")), ["to all"]);
    let sql = "DELETE FROM conversations WHERE conversationId = 'x' AND conversationType = 'ai'";
    assert_eq!(john.run(sql), 1);
    assert_eq!(contents(&john), ["to all"]);
}

#[test]
fn with_an_assistant_the_sender_is_free() {
    let server = Server::start();
    let john = server.client("user_john");
    for from in ["ai", "tool: search", "user_amy", "名前"] {
        let message = SendMessageRequest { from: Some(from.to_owned()), ..message("c", "hello") };
        john.send(&message).expect("the user owns both sides");
    }
    assert_eq!(john.texts("SELECT from FROM messages ORDER BY msgId"), ["ai", "tool: search", "user_amy", "名前"]);
}

#[test]
fn in_a_group_the_sender_is_the_caller() {
    let server = Server::start();
    group(&server, "g", &["user_john", "user_amy"]);
    let (john, amy) = (server.client("user_john"), server.client("user_amy"));
    let from = |user: &str| SendMessageRequest { from: Some(user.to_owned()), ..message("g", "hello") };
    for user in ["user_amy", "user_nobody", "ai", ""] {
        let refused = code(john.send(&from(user)));
        assert!(refused == ErrorCode::Forbidden || user.is_empty() && refused == ErrorCode::InvalidValue, "{user}");
    }
    john.send(&from("user_john")).expect("himself");
    let sql = "INSERT INTO messages (conversationId, from, content) VALUES ('g', 'user_john', 'fine'), ('g', 'user_amy', 'not')";
    assert_eq!(code(john.write(sql)), ErrorCode::Forbidden);
    let as_amy = "INSERT INTO user_john.messages (conversationId, conversationType, from, content) \
                  VALUES ('g', 'group', 'user_amy', 'an admin may')";
    assert_eq!(server.admin().run(as_amy), 1);
    assert_eq!(amy.texts("SELECT from FROM messages ORDER BY msgId"), ["user_john", "user_amy"]);
}

#[test]
fn only_participants_send_to_a_group() {
    let server = Server::start();
    group(&server, "g", &["user_john", "user_amy"]);
    let carol = server.client("user_carol");
    let to_group = SendMessageRequest { conversation_type: Some(ConversationType::Group), ..message("g", "let me in") };
    assert_eq!(code(carol.send(&to_group)), ErrorCode::Forbidden);
    assert_eq!(carol.number("SELECT COUNT(*) FROM conversations"), 0, "a refused write leaves no trace");
    add(&server.client("user_john"), "g", "user_carol");
    carol.send(&to_group).expect("she is in it now");
    assert_eq!(contents(&server.client("user_amy")), ["let me in"]);
}

#[test]
fn a_group_send_counts_as_one_row_and_has_one_id() {
    let server = Server::start();
    group(&server, "g", &["user_john", "user_amy", "user_bob"]);
    let answer = server.client("user_amy").write("INSERT INTO messages (conversationId, content) VALUES ('g', 'hi')");
    let answer = answer.expect("a write");
    let ids = answer.msg_ids.expect("the ids of messages");
    assert_eq!((answer.rows_affected, ids.len()), (1, 1));
    for user in ["user_john", "user_amy", "user_bob"] {
        assert_eq!(server.client(user).numbers("SELECT msgId FROM messages"), ids, "{user}");
    }
}

#[test]
fn metadata_is_an_object_and_comes_back_as_it_went() {
    let server = Server::start();
    let john = server.client("user_john");
    let metadata = json!({ "role": "user", "n": 1.5, "deep": { "list": [1, null, "é 🙂"] }, "empty": {} });
    let sent = SendMessageRequest { metadata: metadata.as_object().cloned(), ..message("c", "hello") };
    john.send(&sent).expect("a message with metadata");
    let empty = SendMessageRequest { metadata: Some(Map::new()), ..message("c", "hello") };
    john.send(&empty).expect("a message with empty metadata");
    for cold in [false, true] {
        if cold {
            server.admin().consolidate();
        }
        let texts = john.texts("SELECT metadata FROM messages ORDER BY msgId");
        let read: Vec<serde_json::Value> = texts.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
        assert_eq!(read, [metadata.clone(), json!({})]);
    }
    for bad in ["[]", "1", "\"x\"", "null", "{", "{} {}"] {
        let sql = "INSERT INTO messages (conversationId, content, metadata) VALUES ('c', 'x', $1)";
        assert_eq!(code(john.write_params(sql, json!([bad]))), ErrorCode::InvalidValue, "{bad}");
    }
}

#[test]
fn a_content_file_must_be_a_live_one_of_the_conversation() {
    let server = Server::start();
    let john = server.client("user_john");
    for reference in ["user_john/media-1.jpg", "shared/conversations/c/media-1.jpg", "../secret", ""] {
        let message = SendMessageRequest { content_ref: Some(reference.to_owned()), ..message("c", "hello") };
        assert_eq!(code(john.send(&message)), ErrorCode::InvalidValue, "{reference}");
    }
    assert_eq!(john.number("SELECT COUNT(*) FROM conversations"), 0, "a refused write leaves no trace");
}

#[test]
fn a_message_has_a_largest_size() {
    let server = Server::with(&[("message.max_size_bytes", "2048")]);
    let john = server.client("user_john");
    let largest = 2_048;
    john.say("c", &"x".repeat(largest));
    assert_eq!(code(john.send(&message("c", &"x".repeat(largest + 1)))), ErrorCode::PayloadTooLarge);
    // Bytes count, not characters.
    assert_eq!(code(john.send(&message("c", &"é".repeat(largest / 2 + 1)))), ErrorCode::PayloadTooLarge);
    let sql = "INSERT INTO messages (conversationId, content) VALUES ('c', $1)";
    assert_eq!(code(john.write_params(sql, json!(["x".repeat(largest + 1)]))), ErrorCode::PayloadTooLarge);
    let sql = "UPDATE messages SET content = $1";
    assert_eq!(code(john.write_params(sql, json!(["x".repeat(largest + 1)]))), ErrorCode::PayloadTooLarge);
    assert_eq!(john.numbers("SELECT LENGTH(content) FROM messages"), [2_048]);
}

#[test]
fn metadata_and_senders_have_a_largest_size() {
    let server = Server::with(&[("message.max_metadata_bytes", "2048")]);
    let john = server.client("user_john");
    // `{"a":"…"}` of so many bytes.
    let metadata = |bytes: usize| json!({"a": "m".repeat(bytes - 8)}).as_object().unwrap().clone();
    let with = |bytes: usize| SendMessageRequest { metadata: Some(metadata(bytes)), ..message("c", "hello") };
    john.send(&with(2_048)).unwrap();
    let Err(Failure::Refused(refused)) = john.send(&with(2_049)) else { panic!("it is too large") };
    assert_eq!(refused.error.error, ErrorCode::PayloadTooLarge);
    assert!(refused.error.message.contains("message.max_metadata_bytes"), "{:?}", refused.error);
    john.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')");
    for sql in [
        "UPDATE messages SET metadata = $1",
        "UPDATE conversations SET metadata = $1 WHERE conversationId = 'c'",
        "UPDATE conversations SET metadata = $1 WHERE conversationId = 'g'",
        "UPDATE conversationUsers SET metadata = $1",
        "INSERT INTO conversations (conversationId, metadata) VALUES ('d', $1)",
        "INSERT INTO conversationUsers (conversationId, userId, metadata) VALUES ('g', 'user_alice', $1)",
        "INSERT INTO messages (conversationId, content, metadata) VALUES ('c', 'x', $1)",
    ] {
        let large = serde_json::to_string(&metadata(2_049)).unwrap();
        assert_eq!(code(john.write_params(sql, json!([large]))), ErrorCode::PayloadTooLarge, "{sql}");
    }
    let from = "INSERT INTO messages (conversationId, content, from) VALUES ('c', 'x', $1)";
    john.write_params(from, json!(["é".repeat(128)])).unwrap();
    assert_eq!(code(john.write_params(from, json!(["é".repeat(129)]))), ErrorCode::InvalidValue);
}

#[test]
fn ids_are_1_to_128_printable_characters() {
    let server = Server::start();
    for user in ["auth0|123", "a+b@x.org", "名前", "it's", "a b", "a/../b", "..", &"u".repeat(128)] {
        let client = server.client(user);
        client.say(user, "to myself");
        let rows = client.rows("SELECT from, conversationId, content FROM messages");
        assert_eq!(rows, [vec![json!(user), json!(user), json!("to myself")]], "{user}");
        let quoted = user.replace('"', "\"\"");
        assert_eq!(client.number(&format!("SELECT COUNT(*) FROM \"{quoted}\".messages")), 1, "{user}");
    }
    let john = server.client("user_john");
    for id in [String::new(), "x".repeat(129), "a\nb".to_owned(), "a\u{200b}b".to_owned()] {
        let sql = "INSERT INTO messages (conversationId, content) VALUES ($1, 'x')";
        assert_eq!(code(john.write_params(sql, json!([id]))), ErrorCode::InvalidValue, "{id:?}");
    }
    john.say(&"c".repeat(128), "the longest");
    server.admin().consolidate();
    assert_eq!(server.client("..").texts("SELECT content FROM messages"), ["to myself"]);
}
