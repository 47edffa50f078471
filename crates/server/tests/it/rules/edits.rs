//! Edits: what may be changed, by whom, and whom it reaches.
//!
//! Invariant: see [`super`].

use kalamdb_protocol::ErrorCode;
use serde_json::json;

use super::{code, contents, group, remove};
use crate::harness::Server;

/// The columns of each table that an UPDATE may name, and how it refuses the others.
const UPDATABLE: [(&str, &[&str], ErrorCode); 5] = [
    ("messages", &["content", "metadata"], ErrorCode::InvalidValue),
    ("conversations", &["metadata", "lastMsgId", "lastReadMsgId"], ErrorCode::InvalidValue),
    ("conversationUsers", &["role", "metadata"], ErrorCode::InvalidValue),
    ("deletedMessages", &["deletedAt"], ErrorCode::InvalidValue),
    ("auditLog", &[], ErrorCode::Unsupported),
];

#[test]
fn only_the_named_columns_can_be_updated() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let john = server.client("john");
    john.say("c", "hello");
    for table in kalamdb_protocol::TABLES {
        let listed = UPDATABLE.iter().find(|(name, ..)| *name == table.name);
        let (_, updatable, refusal) = listed.expect("every table is listed");
        for column in table.columns.iter().filter(|column| !updatable.contains(&column.name)) {
            // The value it has already: the column is what is refused.
            let sql = format!("UPDATE userId.{} SET {} = {}", table.name, column.name, column.name);
            assert_eq!(code(john.write(&sql)), *refusal, "{sql}");
        }
    }
}

#[test]
fn content_and_metadata_of_ones_own_messages_change_hot_and_cold() {
    let server = Server::start();
    let john = server.client("john");
    for text in ["one", "two", "three"] {
        john.say("c", text);
    }
    john.run("INSERT INTO messages (conversationId, from, content) VALUES ('c', 'ai', 'four')");
    for cold in [false, true] {
        if cold {
            server.admin().consolidate();
        }
        assert_eq!(
            john.run("UPDATE messages SET content = content || '!', metadata = '{\"v\":1}' WHERE content LIKE 't%'"),
            2
        );
        assert_eq!(john.run("UPDATE messages SET content = content || '?' WHERE from = 'ai'"), 1);
    }
    assert_eq!(contents(&john), ["one", "two!!", "three!!", "four??"]);
    assert_eq!(john.number("SELECT COUNT(*) FROM messages WHERE metadata->>'v' = '1'"), 2);
    server.admin().consolidate();
    assert_eq!(contents(&john), ["one", "two!!", "three!!", "four??"]);
}

#[test]
fn an_edit_keeps_the_rest_of_the_row() {
    let server = Server::start();
    let john = server.client("john");
    john.run("INSERT INTO messages (msgId, conversationId, from, timestamp, content, metadata) VALUES (5, 'c', 'ai', 1699000000, 'x', '{\"k\":1}')");
    server.admin().consolidate();
    john.run("UPDATE messages SET content = 'y' WHERE msgId = 5");
    let expected = vec![
        json!(5),
        json!("c"),
        json!("ai"),
        json!("ai"),
        json!(1_699_000_000_000_000_i64),
        json!("y"),
        json!(null),
        json!("{\"k\":1}"),
    ];
    assert_eq!(john.rows("SELECT * FROM messages"), [expected]);
}

#[test]
fn in_a_group_only_the_sender_edits() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    john.say("g", "his");
    amy.say("g", "hers");
    for cold in [false, true] {
        if cold {
            server.admin().consolidate();
        }
        assert_eq!(code(amy.write("UPDATE messages SET content = 'x' WHERE from = 'john'")), ErrorCode::Forbidden);
        assert_eq!(code(john.write("UPDATE messages SET content = 'x'")), ErrorCode::Forbidden, "one of them is hers");
        assert_eq!(code(john.write("UPDATE messages SET metadata = '{}' WHERE from = 'amy'")), ErrorCode::Forbidden);
    }
    assert_eq!(contents(&john), ["his", "hers"]);
    assert_eq!(contents(&amy), ["his", "hers"]);
}

/// One copy hot, one cold, in both directions: an edit reaches either.
#[test]
fn an_edit_reaches_every_current_participants_copy() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob", "carol"]);
    let john = server.client("john");
    let first = john.say("g", "first");
    let second = john.say("g", "second");
    remove(&john, "g", "carol").expect("the owner may");
    let consolidate = |user: &str| {
        let body = json!({ "userId": user });
        let _: serde_json::Value = server.admin().post("/api/admin/consolidate", &body).expect("an admin may");
    };
    consolidate("amy");
    assert_eq!(john.run(&format!("UPDATE messages SET content = 'FIRST' WHERE msgId = {first}")), 1);
    consolidate("john");
    consolidate("bob");
    let sql =
        format!("UPDATE messages SET content = 'SECOND', metadata = '{{\"edited\":true}}' WHERE msgId = {second}");
    assert_eq!(john.run(&sql), 1);
    for cold in [false, true] {
        if cold {
            server.admin().consolidate();
        }
        for user in ["john", "amy", "bob"] {
            let client = server.client(user);
            assert_eq!(contents(&client), ["FIRST", "SECOND"], "{user}");
            assert_eq!(client.number("SELECT COUNT(*) FROM messages WHERE metadata->>'edited' = 'true'"), 1, "{user}");
        }
        assert_eq!(contents(&server.client("carol")), ["first", "second"], "who left keeps the copies they had");
    }
}

#[test]
fn an_edit_does_not_bring_back_a_deleted_copy() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    john.say("g", "one");
    server.admin().consolidate();
    amy.run("DELETE FROM messages");
    assert_eq!(john.run("UPDATE messages SET content = 'ONE'"), 1);
    assert_eq!(contents(&amy), Vec::<String>::new());
    assert_eq!(contents(&john), ["ONE"]);
    // Who brings it back gets it as it is by then.
    assert_eq!(amy.run("UPDATE deletedMessages SET deletedAt = NULL"), 1);
    assert_eq!(contents(&amy), ["ONE"]);
}

#[test]
fn an_edit_is_no_new_message() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    let id = john.say("g", "one");
    amy.run(&format!("UPDATE conversations SET lastReadMsgId = {id} WHERE conversationId = 'g'"));
    john.run("UPDATE messages SET content = 'ONE'");
    let row = amy.rows("SELECT lastMsgId, lastReadMsgId, unreadCount FROM conversations");
    assert_eq!(row, [vec![json!(id), json!(id), json!(0)]]);
}

#[test]
fn deleting_in_a_group_removes_ones_own_copy_only() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    john.say("g", "one");
    john.say("g", "two");
    assert_eq!(john.run("DELETE FROM messages WHERE content = 'one'"), 1);
    server.admin().consolidate();
    assert_eq!(john.run("DELETE FROM messages WHERE content = 'two'"), 1);
    assert_eq!(contents(&amy), ["one", "two"]);
    assert_eq!(contents(&john), Vec::<String>::new());
}

#[test]
fn an_admin_deletes_every_copy_through_star() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob"]);
    let john = server.client("john");
    john.say("g", "to be taken down");
    john.say("g", "to stay");
    server.client("amy").say("c", "to be taken down");
    assert_eq!(server.admin().run("DELETE FROM *.messages WHERE content = 'to be taken down'"), 4);
    for user in ["john", "amy", "bob"] {
        assert_eq!(contents(&server.client(user)), ["to stay"], "{user}");
    }
}

#[test]
fn an_admin_edits_in_any_schema() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    server.client("john").say("g", "one");
    server.client("john").say("c", "two");
    let admin = server.admin();
    assert_eq!(admin.run("UPDATE john.messages SET content = 'moderated' WHERE content = 'one'"), 1);
    assert_eq!(admin.run("UPDATE john.messages SET content = 'TWO' WHERE content = 'two'"), 1);
    assert_eq!(contents(&server.client("amy")), ["moderated"], "every participant's copy");
    assert_eq!(contents(&server.client("john")), ["moderated", "TWO"]);
}
