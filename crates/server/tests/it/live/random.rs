//! Writers, files that are written, and clients that connect, drop and resume, all at random: in the end each client
//! knows what the table holds, and saw every message once and in order. Also with a server that is killed meanwhile.
//!
//! Invariant: a history ends with one last message for everybody, and whoever has seen it has seen all.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use kalamdb_protocol::{ConversationType, ErrorCode};
use reqwest::Method;
use serde_json::json;

use super::{
    group, server,
    view::{Gate, Log, THE_END, Table, follow},
};
use crate::harness::{Client, Dice, Failure, Server, message, rounds};

const USERS: [&str; 3] = ["amy", "bob", "carol"];

/// One user's random writes.
struct Writer<'a> {
    user: &'static str,
    client: &'a Client,
    dice: Dice,
    gate: &'a Gate,
    done: mpsc::Sender<()>,
}

impl Writer<'_> {
    fn run(&mut self, steps: usize) {
        for number in 0..steps {
            let starts = self.gate.starts();
            match self.step(number) {
                Ok(()) => {}
                Err(Failure::NoAnswer) => self.gate.wait_after(starts),
                // Somebody else, or a file that was written, got in between: then nothing was done.
                Err(failure) => assert_eq!(failure.code(), Some(ErrorCode::Conflict), "{failure}"),
            }
            self.done.send(()).ok();
        }
    }

    fn step(&mut self, number: usize) -> Result<(), Failure> {
        let text = format!("{} {number}", self.user);
        match self.dice.below(10) {
            0..4 => self.send("log", ConversationType::Ai, &text),
            4 | 5 => self.send("g", ConversationType::Group, &text),
            6 => self.write(&format!(
                "INSERT INTO messages (conversationId, conversationType, content)
                 SELECT 'many', 'ai', '{text}' FROM UNNEST(generate_series(1, 20)) AS numbers(value)"
            )),
            7 => {
                let (user, part) = (self.user, self.dice.below(7));
                self.write(&format!(
                    "UPDATE messages SET content = '{text}, edited'
                     WHERE conversationId IN ('many', 'g') AND from = '{user}' AND msgId % 7 = {part}"
                ))
            }
            8 => {
                let part = self.dice.below(5);
                self.write(&format!(
                    "DELETE FROM messages WHERE conversationId IN ('many', 'g') AND msgId % 5 = {part}"
                ))
            }
            _ if self.dice.chance(20) => self.write("DELETE FROM conversations WHERE conversationId = 'many'"),
            _ => self.send("many", ConversationType::Ai, &text),
        }
    }

    fn send(&self, conversation: &str, kind: ConversationType, text: &str) -> Result<(), Failure> {
        let mut request = message(conversation, text);
        request.conversation_type = Some(kind);
        self.client.send(&request).map(drop)
    }

    fn write(&self, sql: &str) -> Result<(), Failure> {
        self.client.write(sql).map(drop)
    }
}

/// Moves rows about under everybody, until the server is gone or nobody needs it any more.
fn maintain(admin: &Client, gate: &Gate, finished: &AtomicBool) {
    for work in ["consolidate", "consolidate", "compact"].iter().cycle() {
        if finished.load(Ordering::Relaxed) {
            return;
        }
        let starts = gate.starts();
        let done = admin.request(Method::POST, &format!("/api/admin/{work}"), &[], Some("{}"));
        if done.is_err() && !finished.load(Ordering::Relaxed) {
            gate.wait_after(starts);
        }
    }
}

/// Ends [`maintain`], also when a test fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends the last message of a user's history.
fn finish(client: &Client) {
    let mut last = message("log", THE_END);
    last.conversation_type = Some(ConversationType::Ai);
    client.send(&last).expect("it is sent");
}

/// What a user's table holds.
fn compare(client: &Client, user: &str, table: &Table, log: &Log) {
    let rows = client.rows("SELECT msgId, conversationId, content FROM messages ORDER BY msgId");
    let seen =
        table.rows.iter().map(|(id, (conversation, content))| vec![json!(id), json!(conversation), json!(content)]);
    for (row, seen) in rows.iter().zip(seen) {
        assert_eq!(*row, seen, "what the table holds, and what was seen of it, for {user}");
    }
    assert_eq!(rows.len(), table.rows.len(), "messages of {user}");
    let sql = "SELECT msgId FROM messages WHERE conversationId = 'log' AND conversationType = 'ai' ORDER BY msgId";
    assert_eq!(log.ids, client.numbers(sql), "the log of {user}");
}

/// Runs one history; the server is killed so often meanwhile.
fn history(name: &str, mut server: Server, kills: usize) {
    let mut dice = Dice::new(name);
    group(&server, "g", &USERS);
    let clients: Vec<(&'static str, Client)> = USERS.iter().map(|user| (*user, server.client(user))).collect();
    let (admin, gate, finished) = (server.admin(), Gate::default(), AtomicBool::new(false));
    let steps = rounds(150);
    let seen: Vec<(Table, Log)> = thread::scope(|scope| {
        let finish_maintenance = Finish(&finished);
        let watchers: Vec<_> = clients
            .iter()
            .map(|(_, client)| {
                let (gate, by_place, by_id) = (&gate, dice.fork(), dice.fork());
                let table = scope.spawn(move || {
                    let mut table = Table::default();
                    follow(client, &mut table, by_place, gate);
                    table
                });
                let log = scope.spawn(move || {
                    let mut log = Log::default();
                    follow(client, &mut log, by_id, gate);
                    log
                });
                (table, log)
            })
            .collect();
        let (done, doing) = mpsc::channel();
        let writers: Vec<_> = clients
            .iter()
            .map(|(user, client)| {
                let (dice, done, gate) = (dice.fork(), done.clone(), &gate);
                scope.spawn(move || Writer { user, client, dice, gate, done }.run(steps))
            })
            .collect();
        drop(done);
        scope.spawn(|| maintain(&admin, &gate, &finished));
        for _ in 0..kills {
            let before_the_next = steps * USERS.len() / (kills + 1);
            for _ in 0..before_the_next {
                doing.recv_timeout(Duration::from_mins(1)).expect("the writers go on");
            }
            server.kill9();
            server.spawn();
            gate.open();
        }
        for writer in writers {
            writer.join().expect("a writer");
        }
        drop(finish_maintenance);
        for (_, client) in &clients {
            finish(client);
        }
        let join = |(table, log): (thread::ScopedJoinHandle<'_, Table>, thread::ScopedJoinHandle<'_, Log>)| {
            (table.join().expect("a client that sees it all"), log.join().expect("a client of the log"))
        };
        watchers.into_iter().map(join).collect()
    });
    for ((user, client), (table, log)) in clients.iter().zip(&seen) {
        compare(client, user, table, log);
    }
}

#[test]
fn every_client_s_view_is_the_table() {
    history("random", server(), 0);
}

/// So little room that clients lag, and resume from where they are told.
#[test]
fn every_client_s_view_is_the_table_with_queues_that_are_full_at_once() {
    let settings = [("rocksdb.durability", "os"), ("live.queue_frames", "16"), ("live.queue_bytes", "65536")];
    history("random, little room", Server::with(&settings), 0);
}

#[test]
fn clients_resume_without_loss_when_the_server_is_killed() {
    history("killed", server(), 3);
}

#[test]
fn clients_resume_without_loss_when_a_server_that_syncs_is_killed() {
    history("killed, synced", Server::start(), 2);
}
