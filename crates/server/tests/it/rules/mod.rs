//! The rules of a write (`docs/sql.md`): one test for each, named after it.
//!
//! Invariant: a rule is checked through SQL and through `POST /messages` alike where both can break it, and a write
//! that is refused is checked to have left no trace.

mod conversations;
mod edits;
mod groups;
mod messages;

use kalamdb_protocol::ErrorCode;
use serde_json::Value;

use crate::harness::{Client, Failure, Server};

/// The code of a refusal; the test fails when it was no refusal.
#[track_caller]
fn code<T>(result: Result<T, Failure>) -> ErrorCode {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(failure) => failure.code().expect("an answer"),
    }
}

/// A group whose owner is the first of `users`, with the others as participants.
fn group(server: &Server, id: &str, users: &[&str]) {
    let owner = server.client(users[0]);
    owner.run(&format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('{id}', 'group')"));
    for user in &users[1..] {
        add(&owner, id, user);
    }
}

/// Adds a participant, as `by`.
#[track_caller]
fn add(by: &Client, group: &str, user: &str) {
    let sql = format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('{group}', '{user}')");
    assert_eq!(by.run(&sql), 1);
}

/// Removes a participant, as `by`; the participant alone may be `by` without a role.
fn remove(by: &Client, group: &str, user: &str) -> Result<u64, Failure> {
    let sql = format!("DELETE FROM conversationUsers WHERE conversationId = '{group}' AND userId = '{user}'");
    by.write(&sql).map(|answer| answer.rows_affected)
}

/// The texts that a user has, oldest first.
fn contents(client: &Client) -> Vec<String> {
    client.texts("SELECT content FROM userId.messages ORDER BY msgId")
}

/// One column of one's conversations, by their ids.
fn conversation(client: &Client, id: &str, column: &str) -> Value {
    client.value(&format!("SELECT {column} FROM userId.conversations WHERE conversationId = '{id}'"))
}
