//! The database against a small model of it: the same random history is done to both, and both are compared.
//!
//! Invariant: a sequential history is compared exactly, answer by answer and row by row; a concurrent one by what must
//! hold whatever the order was.

mod concurrent;
mod steps;
mod world;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::{steps::Driver, world::World};
use crate::harness::{Client, Dice, Server, assert_consistent, rounds};

const USERS: [&str; 4] = ["amy", "bob", "carol", "auth0|Dave"];

/// Compares everything that everybody sees.
fn compare(server: &Server, world: &World) {
    for user in USERS {
        let client = server.client(user);
        compare_messages(&client, world, user);
        compare_conversations(&client, world, user);
        compare_participants(&client, world, user);
    }
}

fn compare_messages(client: &Client, world: &World, user: &str) {
    let read =
        client.rows("SELECT msgId, conversationId, conversationType, from, content FROM messages ORDER BY msgId");
    let expected: Vec<Vec<Value>> = world
        .messages(user)
        .map(|(id, m)| vec![json!(id), json!(m.key.0), json!(m.key.1.as_str()), json!(m.from), json!(m.content)])
        .collect();
    for (read, expected) in read.iter().zip(&expected) {
        assert_eq!(read, expected, "a message of {user}");
    }
    assert_eq!(read.len(), expected.len(), "the messages of {user}: {read:?} instead of {expected:?}");
}

fn compare_conversations(client: &Client, world: &World, user: &str) {
    let sql =
        "SELECT conversationId, conversationType, firstMsgId, lastMsgId, lastReadMsgId, unreadCount FROM conversations";
    let rows = client.rows(sql);
    for (key, conversation) in world.conversations(user) {
        let ids: BTreeSet<i64> = world.messages(user).filter(|(_, m)| m.key == *key).map(|(id, _)| id).collect();
        let found = rows.iter().find(|row| row[0] == key.0.as_str() && row[1] == key.1.as_str());
        let row = found.unwrap_or_else(|| panic!("{user} has no {key:?} in {rows:?}"));
        assert_eq!(
            (&row[2], &row[3]),
            (&json!(ids.first()), &json!(ids.last())),
            "first and last of {key:?} of {user}"
        );
        if !conversation.left_before {
            let unread = world.unread(user, key);
            assert_eq!((&row[4], &row[5]), (&json!(conversation.last_read), &json!(unread)), "{key:?} of {user}");
        }
    }
    let groups_left = rows.iter().filter(|row| {
        let known = world.conversations(user).any(|(key, _)| row[0] == key.0.as_str() && row[1] == key.1.as_str());
        // Who left a group may see its row as long as they keep copies; an AI conversation has no such state.
        !known && row[1] != "group"
    });
    assert_eq!(groups_left.count(), 0, "{rows:?}");
}

fn compare_participants(client: &Client, world: &World, user: &str) {
    let read =
        client.rows("SELECT conversationId, userId, role FROM conversationUsers ORDER BY conversationId, userId");
    let expected: Vec<Vec<Value>> = world
        .visible_participants(user)
        .into_iter()
        .map(|(group, participant, role)| vec![json!(group), json!(participant), json!(role.as_str())])
        .collect();
    assert_eq!(read, expected, "the participants that {user} sees");
}

/// Runs one history of `steps` steps.
fn run_history(seed: u64, steps: usize) {
    println!("history {seed} of {steps} steps");
    let server = Server::with(&[("rocksdb.durability", "os"), ("query.max_rows", "100000")]);
    let mut driver = Driver::new(server, Dice::seeded(seed));
    for step in 1..=steps {
        driver.step();
        if step % 25 == 0 || step == steps {
            compare(&driver.server, &driver.world);
        }
    }
    driver.server.restart();
    compare(&driver.server, &driver.world);
    driver.server.admin().consolidate();
    compare(&driver.server, &driver.world);
    println!("{}", driver.summary());
}

#[test]
fn a_sequential_history_is_as_the_model_says() {
    let mut dice = Dice::new("model");
    for _ in 0..rounds(4) {
        let seed = u64::try_from(dice.below(usize::MAX)).expect("it fits");
        run_history(seed, 250);
    }
}

/// The rows of each conversation agree with its messages after a history, computed by one statement.
#[test]
fn conversation_rows_agree_with_messages() {
    let server = Server::with(&[("rocksdb.durability", "os"), ("query.max_rows", "100000")]);
    let mut driver = Driver::without_leaving(server, Dice::new("agreement"));
    for _ in 0..200 {
        driver.step();
    }
    for user in USERS {
        assert_consistent(&driver.server.client(user), user);
    }
}
