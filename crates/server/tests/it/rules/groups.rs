//! Groups: roles, joining, leaving, succession, who sees what.
//!
//! Invariant: see [`super`].

use kalamdb_protocol::ErrorCode;
use serde_json::json;

use super::{add, code, contents, conversation, group, remove};
use crate::harness::{Client, Server};

fn roles(client: &Client, group: &str) -> Vec<(String, String)> {
    let sql = format!("SELECT userId, role FROM conversationUsers WHERE conversationId = '{group}' ORDER BY userId");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    client.rows(&sql).iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

fn role(client: &Client, group: &str, user: &str) -> Option<String> {
    roles(client, group).into_iter().find(|(name, _)| name == user).map(|(_, role)| role)
}

fn set_role(by: &Client, group: &str, user: &str, role: &str) -> Result<u64, crate::harness::Failure> {
    let sql =
        format!("UPDATE conversationUsers SET role = '{role}' WHERE conversationId = '{group}' AND userId = '{user}'");
    by.write(&sql).map(|answer| answer.rows_affected)
}

#[test]
fn the_creator_is_the_owner() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let expected = [("amy".to_owned(), "member".to_owned()), ("john".to_owned(), "owner".to_owned())];
    assert_eq!(roles(&server.client("john"), "g"), expected);
    assert_eq!(roles(&server.client("amy"), "g"), expected, "a participant sees all participants");
}

#[test]
fn owner_and_admins_add_and_remove_participants() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob"]);
    let (john, amy, bob) = (server.client("john"), server.client("amy"), server.client("bob"));
    let add_carol = "INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'carol')";
    assert_eq!(code(amy.write(add_carol)), ErrorCode::Forbidden);
    assert_eq!(code(remove(&amy, "g", "bob")), ErrorCode::Forbidden);
    assert_eq!(code(remove(&amy, "g", "john")), ErrorCode::Forbidden);
    set_role(&john, "g", "amy", "admin").expect("the owner may");
    assert_eq!(amy.run(add_carol), 1);
    assert_eq!(remove(&amy, "g", "bob").expect("an admin may"), 1);
    assert_eq!(roles(&bob, "g"), [], "who is out sees no participants");
    assert_eq!(roles(&john, "g").len(), 3);
}

#[test]
fn nobody_adds_themself() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let carol = server.client("carol");
    for role in ["member", "admin", "owner"] {
        let sql =
            format!("INSERT INTO conversationUsers (conversationId, userId, role) VALUES ('g', 'carol', '{role}')");
        assert_eq!(code(carol.write(&sql)), ErrorCode::Forbidden, "{role}");
    }
    let sql = "INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')";
    assert!(matches!(code(carol.write(sql)), ErrorCode::Conflict | ErrorCode::Forbidden));
    assert_eq!(carol.number("SELECT COUNT(*) FROM conversationUsers"), 0);
    assert_eq!(roles(&server.client("john"), "g").len(), 2);
}

#[test]
fn anyone_may_leave() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob"]);
    let amy = server.client("amy");
    assert_eq!(remove(&amy, "g", "amy").expect("anyone may"), 1);
    assert_eq!(roles(&server.client("bob"), "g").len(), 2);
    assert_eq!(remove(&amy, "g", "amy").expect("nothing is left to remove"), 0);
}

#[test]
fn when_the_owner_leaves_the_oldest_admin_follows() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob", "carol"]);
    let john = server.client("john");
    // Carol is an admin first, but Bob is the older participant.
    for user in ["carol", "bob"] {
        set_role(&john, "g", user, "admin").expect("the owner may");
    }
    assert_eq!(remove(&john, "g", "john").expect("anyone may leave"), 1);
    let amy = server.client("amy");
    assert_eq!(role(&amy, "g", "bob").as_deref(), Some("owner"));
    assert_eq!(role(&amy, "g", "carol").as_deref(), Some("admin"));
}

#[test]
fn without_admins_the_oldest_participant_follows() {
    let server = Server::start();
    // Neither the order of the ids nor of the names decides.
    group(&server, "g", &["john", "zoe", "amy"]);
    remove(&server.client("john"), "g", "john").expect("anyone may leave");
    assert_eq!(role(&server.client("amy"), "g", "zoe").as_deref(), Some("owner"));
    assert_eq!(server.client("zoe").run("DELETE FROM conversations WHERE conversationId = 'g'"), 1);
    assert_eq!(role(&server.client("amy"), "g", "amy").as_deref(), Some("owner"));
}

#[test]
fn with_the_last_participant_the_group_is_gone_and_its_id_free() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    john.say("g", "hello");
    assert_eq!(john.run("DELETE FROM conversations WHERE conversationId = 'g'"), 1);
    assert_eq!(contents(&amy), ["hello"], "the others keep theirs");
    assert_eq!(amy.run("DELETE FROM conversations WHERE conversationId = 'g'"), 1);
    assert_eq!(server.admin().number("SELECT COUNT(*) FROM *.messages"), 0);
    assert_eq!(server.admin().number("SELECT COUNT(*) FROM *.conversations"), 0);
    assert_eq!(server.admin().number("SELECT COUNT(*) FROM *.conversationUsers"), 0);
    group(&server, "g", &["bob"]);
    assert_eq!(roles(&server.client("bob"), "g").len(), 1);
}

#[test]
fn only_the_owner_changes_roles() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    set_role(&john, "g", "amy", "admin").expect("the owner may");
    assert_eq!(code(set_role(&amy, "g", "bob", "admin")), ErrorCode::Forbidden);
    assert_eq!(code(set_role(&amy, "g", "amy", "owner")), ErrorCode::Forbidden);
    assert_eq!(code(set_role(&server.client("bob"), "g", "bob", "admin")), ErrorCode::Forbidden);
    assert_eq!(code(set_role(&john, "g", "bob", "king")), ErrorCode::InvalidValue);
    set_role(&john, "g", "amy", "member").expect("the owner may");
    assert_eq!(role(&amy, "g", "amy").as_deref(), Some("member"));
    let owners = john.numbers("SELECT COUNT(*) FROM conversationUsers WHERE conversationId = 'g' AND role = 'owner'");
    assert_eq!(owners, [1], "a group always has one owner");
}

#[test]
fn membership_metadata_is_ones_own() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let set = |by: &Client, user: &str| {
        by.write(&format!("UPDATE conversationUsers SET metadata = '{{\"muted\":true}}' WHERE userId = '{user}'"))
    };
    assert_eq!(set(&server.client("amy"), "amy").expect("her own").rows_affected, 1);
    assert_eq!(code(set(&server.client("john"), "amy")), ErrorCode::Forbidden);
    assert_eq!(code(set(&server.client("amy"), "john")), ErrorCode::Forbidden);
}

#[test]
fn a_newcomer_sees_what_is_sent_after_joining() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let john = server.client("john");
    john.say("g", "before");
    add(&john, "g", "bob");
    let bob = server.client("bob");
    assert_eq!(contents(&bob), Vec::<String>::new());
    assert_eq!(conversation(&bob, "g", "unreadCount"), 0);
    let after = john.say("g", "after");
    assert_eq!(contents(&bob), ["after"]);
    assert_eq!(conversation(&bob, "g", "firstMsgId"), after);
    assert_eq!(conversation(&bob, "g", "unreadCount"), 1);
}

#[test]
fn removal_keeps_the_copies_one_has_and_ends_what_comes() {
    let server = Server::start();
    group(&server, "g", &["john", "amy", "bob"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    john.say("g", "before");
    server.admin().consolidate();
    john.say("g", "just before");
    remove(&john, "g", "amy").expect("the owner may");
    john.say("g", "after");
    assert_eq!(contents(&amy), ["before", "just before"]);
    assert_eq!(contents(&server.client("bob")), ["before", "just before", "after"]);
    let sql = "INSERT INTO messages (conversationId, conversationType, content) VALUES ('g', 'group', 'I am out')";
    assert_eq!(code(amy.write(sql)), ErrorCode::Forbidden);
    // Her copies are hers to delete.
    assert_eq!(amy.run("DELETE FROM messages WHERE conversationId = 'g'"), 2);
    assert_eq!(contents(&server.client("bob")).len(), 3);
    // Added again, she sees what comes from then on.
    add(&john, "g", "amy");
    john.say("g", "welcome back");
    assert_eq!(contents(&amy), ["welcome back"]);
}

#[test]
fn a_group_holds_as_many_as_the_setting_says() {
    let server = Server::with(&[("conversations.max_group_participants", "3")]);
    group(&server, "g", &["john", "amy", "bob"]);
    let john = server.client("john");
    let sql = "INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'carol')";
    let refused = code(john.write(sql));
    assert!((400..500).contains(&refused.status()), "{refused:?}");
    assert_eq!(roles(&john, "g").len(), 3);
    remove(&john, "g", "bob").expect("the owner may");
    assert_eq!(john.run(sql), 1);
    // Many at once are counted together.
    group(&server, "h", &["john"]);
    let many = "INSERT INTO conversationUsers (conversationId, userId) VALUES ('h', 'a'), ('h', 'b'), ('h', 'c')";
    assert!(john.write(many).is_err());
    assert_eq!(roles(&john, "h").len(), 1, "a refused write leaves no trace");
}

#[test]
fn a_participant_is_added_once() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let sql = "INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'amy')";
    assert_eq!(code(server.client("john").write(sql)), ErrorCode::Conflict);
}

#[test]
fn group_ids_are_global_and_ai_ids_are_their_users() {
    let server = Server::start();
    group(&server, "g", &["john"]);
    let sql = "INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')";
    assert!(matches!(code(server.client("carol").write(sql)), ErrorCode::Conflict | ErrorCode::Forbidden));
    assert_eq!(code(server.client("john").write(sql)), ErrorCode::Conflict);
    for user in ["amy", "bob"] {
        let client = server.client(user);
        client.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('a', 'ai')");
        client.say("a", user);
        assert_eq!(contents(&client), [user]);
    }
}

#[test]
fn ai_conversations_have_no_participants() {
    let server = Server::start();
    let john = server.client("john");
    john.say("a", "hello");
    assert_eq!(john.number("SELECT COUNT(*) FROM conversationUsers"), 0);
    let sql = "INSERT INTO conversationUsers (conversationId, userId) VALUES ('a', 'amy')";
    assert!(matches!(code(john.write(sql)), ErrorCode::Forbidden | ErrorCode::InvalidValue | ErrorCode::NotFound));
}

#[test]
fn each_participants_conversation_row_is_right_in_the_same_commit() {
    let server = Server::start();
    group(&server, "g", &["john", "amy"]);
    let (john, amy) = (server.client("john"), server.client("amy"));
    let row = "SELECT firstMsgId, lastMsgId, unreadCount FROM conversations WHERE conversationId = 'g'";
    let first = john.say("g", "one");
    assert_eq!(john.rows(row), [vec![json!(first), json!(first), json!(0)]]);
    assert_eq!(amy.rows(row), [vec![json!(first), json!(first), json!(1)]]);
    let second = amy.say("g", "two");
    assert_eq!(john.rows(row), [vec![json!(first), json!(second), json!(1)]]);
    assert_eq!(amy.rows(row), [vec![json!(first), json!(second), json!(1)]]);
    let updated = "SELECT updated FROM conversations WHERE conversationId = 'g'";
    let before = amy.number(updated);
    john.say("g", "three");
    assert!(amy.number(updated) > before);
}
