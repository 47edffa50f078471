//! Live connections, as clients have them: what comes, in which order, once.
//!
//! Invariant: a test ends with something that comes (a frame, a close, an answer), never with time that passes. That
//! something does not come is shown by what comes after it.

mod auth;
mod browser;
mod errors;
mod groups;
mod limits;
mod protocol;
mod random;
mod replay;
mod slow;
mod sse;
mod view;

use serde_json::{Value, json};

use crate::harness::{Client, Live, Server};

/// A server without syncs: what is proved here is not durability.
fn server() -> Server {
    Server::with(&[("rocksdb.durability", "os")])
}

/// A group of these users; the first owns it.
fn group(server: &Server, id: &str, users: &[&str]) {
    let owner = server.client(users[0]);
    owner.run(&format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('{id}', 'group')"));
    for user in &users[1..] {
        owner.run(&format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('{id}', '{user}')"));
    }
}

/// A user's WebSocket that sees all of that user's messages, from now on.
fn watching(client: &Client) -> Live {
    let mut live = Live::connect(client);
    live.subscribe(json!({ "id": "all" }));
    live
}

/// The next frame's row, which must be a message that came.
#[track_caller]
fn next_message(live: &mut Live) -> Value {
    live.expect("message")["message"].clone()
}

/// The texts of the next so many messages.
#[track_caller]
fn next_texts(live: &mut Live, number: usize) -> Vec<String> {
    (0..number).map(|_| next_message(live)["content"].as_str().expect("a text").to_owned()).collect()
}

/// A position, to be compared: positions of later changes are greater.
#[track_caller]
fn place(position: &Value) -> (u64, u64, u64) {
    let part = |name: &str| position[name].as_u64().unwrap_or_else(|| panic!("no position: {position}"));
    (part("epoch"), part("seq"), part("n"))
}
