//! Conversation rows: what they count, what may be set, and what their deletion takes with it.
//!
//! Invariant: see [`super`].

use kalamdb_protocol::ErrorCode;
use serde_json::{Value, json};

use super::{code, contents, conversation, group};
use crate::harness::{Client, Server};

const ROW: &str = "SELECT firstMsgId, lastMsgId, unreadCount FROM conversations WHERE conversationId = 'c'";

fn from_ai(client: &Client, text: &str) -> i64 {
    let sql = "INSERT INTO messages (conversationId, from, content) VALUES ('c', 'ai', $1)";
    client.write_params(sql, json!([text])).expect("a write").msg_ids.expect("the ids of messages")[0]
}

#[test]
fn unread_are_the_messages_of_others_after_the_last_read_one() {
    let server = Server::start();
    let john = server.client("john");
    let mut answers = Vec::new();
    for number in 0..4 {
        john.say("c", "question");
        answers.push(from_ai(&john, &format!("answer {number}")));
    }
    assert_eq!(conversation(&john, "c", "unreadCount"), 4);
    for cold in [false, true] {
        if cold {
            server.admin().consolidate();
        }
        for (read, unread) in [(answers[0], 3), (answers[3], 0), (answers[1] - 1, 3), (answers[1], 2)] {
            assert_eq!(
                john.run(&format!("UPDATE conversations SET lastReadMsgId = {read} WHERE conversationId = 'c'")),
                1
            );
            assert_eq!(conversation(&john, "c", "lastReadMsgId"), read);
            assert_eq!(conversation(&john, "c", "unreadCount"), unread, "after {read}");
        }
        assert_eq!(john.run("UPDATE conversations SET lastReadMsgId = NULL WHERE conversationId = 'c'"), 1);
        assert_eq!(conversation(&john, "c", "unreadCount"), 4);
    }
    john.run(&format!("UPDATE conversations SET lastReadMsgId = {} WHERE conversationId = 'c'", answers[2]));
    from_ai(&john, "one more");
    assert_eq!(conversation(&john, "c", "unreadCount"), 2, "one cold, one hot");
}

#[test]
fn last_read_is_ones_own() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob"]);
    let id = server.client("john").say("g", "hello");
    let (amy, bob) = (server.client("amy"), server.client("bob"));
    amy.run(&format!("UPDATE conversations SET lastReadMsgId = {id} WHERE conversationId = 'g'"));
    assert_eq!(conversation(&amy, "g", "unreadCount"), 0);
    assert_eq!(
        (conversation(&bob, "g", "unreadCount"), conversation(&bob, "g", "lastReadMsgId")),
        (json!(1), Value::Null)
    );
}

#[test]
fn deleting_messages_corrects_first_last_and_unread() {
    for cold in [false, true] {
        let server = Server::start();
        let john = server.client("john");
        let ids: Vec<i64> = (0..5).map(|number| from_ai(&john, &number.to_string())).collect();
        let row = || john.rows(ROW).remove(0);
        if cold {
            server.admin().consolidate();
        }
        john.run(&format!("DELETE FROM messages WHERE msgId = {}", ids[4]));
        assert_eq!(row(), [json!(ids[0]), json!(ids[3]), json!(4)], "cold: {cold}");
        john.run(&format!("DELETE FROM messages WHERE msgId = {}", ids[0]));
        assert_eq!(row(), [json!(ids[1]), json!(ids[3]), json!(3)], "cold: {cold}");
        john.run(&format!("DELETE FROM messages WHERE msgId = {}", ids[2]));
        assert_eq!(row(), [json!(ids[1]), json!(ids[3]), json!(2)], "cold: {cold}");
        let next = from_ai(&john, "next");
        john.run(&format!("DELETE FROM messages WHERE msgId IN ({}, {})", ids[1], ids[3]));
        assert_eq!(row(), [json!(next), json!(next), json!(1)], "cold: {cold}");
        john.run("DELETE FROM messages");
        assert_eq!(row(), [json!(null), json!(null), json!(0)], "cold: {cold}");
    }
}

#[test]
fn a_last_message_that_was_set_stays_until_the_next_send_or_deletion() {
    let server = Server::start();
    let john = server.client("john");
    let first = john.say("c", "one");
    let set = "UPDATE userId.conversations SET lastMsgId = 999 WHERE conversationId = 'c'";
    assert_eq!(john.run(set), 1);
    assert_eq!(conversation(&john, "c", "lastMsgId"), 999);
    let second = john.say("c", "two");
    assert_eq!(conversation(&john, "c", "lastMsgId"), second);
    assert_eq!(john.run(set), 1);
    john.run(&format!("DELETE FROM messages WHERE msgId = {second}"));
    assert_eq!(conversation(&john, "c", "lastMsgId"), first);
}

#[test]
fn updated_rises_with_each_send() {
    let server = Server::start();
    let john = server.client("john");
    john.say("c", "one");
    let created = conversation(&john, "c", "created");
    let mut before = conversation(&john, "c", "updated").as_i64().expect("a time");
    for text in ["two", "three"] {
        john.say("c", text);
        let now = conversation(&john, "c", "updated").as_i64().expect("a time");
        assert!(now > before, "{now} after {before}");
        before = now;
    }
    assert_eq!(conversation(&john, "c", "created"), created);
}

#[test]
fn deleting_an_ai_conversation_takes_its_messages_hot_and_cold() {
    let server = Server::start();
    let john = server.client("john");
    john.say("c", "cold");
    john.say("other", "cold too");
    server.admin().consolidate();
    john.say("c", "hot");
    assert_eq!(john.run("DELETE FROM userId.conversations WHERE conversationId = 'c'"), 1);
    assert_eq!(contents(&john), ["cold too"]);
    assert_eq!(john.texts("SELECT conversationId FROM conversations"), ["other"]);
    server.admin().consolidate();
    assert_eq!(contents(&john), ["cold too"]);
    // Its id starts afresh.
    let id = john.say("c", "new");
    assert_eq!(john.rows(ROW), [vec![json!(id), json!(id), json!(0)]]);
    assert_eq!(john.texts("SELECT content FROM messages WHERE conversationId = 'c'"), ["new"]);
}

#[test]
fn deleting_a_group_conversation_is_leaving_it_with_ones_copies() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    john.say("g", "cold");
    server.admin().consolidate();
    john.say("g", "hot");
    assert_eq!(amy.run("DELETE FROM conversations WHERE conversationId = 'g'"), 1);
    assert_eq!(contents(&amy), Vec::<String>::new());
    assert_eq!(amy.number("SELECT COUNT(*) FROM conversations"), 0);
    assert_eq!(amy.number("SELECT COUNT(*) FROM conversationUsers"), 0);
    for user in ["john", "bob"] {
        assert_eq!(contents(&server.client(user)), ["cold", "hot"], "{user}");
    }
    john.say("g", "after");
    assert_eq!(contents(&amy), Vec::<String>::new());
    assert_eq!(john.texts("SELECT userId FROM conversationUsers ORDER BY userId"), ["bob", "john"]);
}

#[test]
fn group_metadata_is_shared_and_set_by_owner_and_admins() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let set = "UPDATE conversations SET metadata = '{\"title\":\"Team\"}' WHERE conversationId = 'g'";
    assert_eq!(server.client("john").run(set), 1);
    assert_eq!(conversation(&server.client("amy"), "g", "metadata"), "{\"title\":\"Team\"}");
    assert_eq!(code(server.client("amy").write(set)), ErrorCode::Forbidden);
}

#[test]
fn an_inserted_conversation_is_there_once() {
    let server = Server::start();
    let john = server.client("john");
    let sql = "INSERT INTO conversations (conversationId, conversationType, metadata) VALUES ('c', 'ai', '{}')";
    assert_eq!(john.run(sql), 1);
    assert_eq!(code(john.write(sql)), ErrorCode::Conflict);
    let id = john.say("c", "hello");
    assert_eq!(john.rows(ROW), [vec![json!(id), json!(id), json!(0)]]);
    assert_eq!(conversation(&john, "c", "metadata"), "{}");
}

/// An aggregate over a segment must not take its deleted rows from the file's statistics.
#[test]
fn counts_and_extremes_leave_out_deleted_cold_rows() {
    let server = Server::start();
    let john = server.client("john");
    let ids: Vec<i64> = (0..10).map(|number| from_ai(&john, &number.to_string())).collect();
    server.admin().consolidate();
    john.run(&format!("DELETE FROM messages WHERE msgId IN ({}, {}, {})", ids[0], ids[5], ids[9]));
    let row = john.rows(
        "SELECT COUNT(*), MIN(msgId), MAX(msgId), MIN(content), MAX(content), COUNT(DISTINCT content) FROM messages",
    );
    assert_eq!(row, [vec![json!(7), json!(ids[1]), json!(ids[8]), json!("1"), json!("8"), json!(7)]]);
    john.run("UPDATE messages SET content = 'z' WHERE content = '1'");
    assert_eq!(john.rows("SELECT COUNT(*), MAX(content) FROM messages"), [vec![json!(7), json!("z")]]);
}
