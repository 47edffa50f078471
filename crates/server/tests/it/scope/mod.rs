//! The adversary: statements by the ten thousand from one user, and never a trace of another's rows in an answer.
//!
//! Invariant: the marker stands in the victim's rows only, in every kind of place; the same generator run by the
//! victim shows it, so that the test can fail.

mod generator;

use std::{collections::BTreeMap, thread};

use reqwest::Method;
use serde_json::{Value, json};
use sqlparser::{dialect::GenericDialect, parser::Parser};

use self::generator::{Generator, Statement};
use crate::harness::{Answer, Client, Dice, Server, message, rounds};

const VICTIM: &str = "vera";
const ATTACKER: &str = "mallory";

/// Upper and lower case do not hide it: it is looked for without regard to case.
const MARKER: &str = "qzx7marker9qzx";

/// A marker must show in none of them.
const FORMATS: [&str; 4] =
    ["application/json", "text/csv", "application/x-ndjson", "application/vnd.apache.arrow.stream"];

/// The tables, as the victim sees them.
type Rows = Vec<Vec<Vec<Value>>>;

/// A server with a victim, whose rows hold the marker in every kind of place, hot and cold, and an attacker.
fn server() -> Server {
    let server = Server::with(&[("rocksdb.durability", "os"), ("query.timeout_seconds", "10")]);
    plant(&server);
    seed(&server.client(ATTACKER));
    server
}

fn plant(server: &Server) {
    let vera = server.client(VICTIM);
    let note = |number: i64| {
        let sql = "INSERT INTO messages (msgId, conversationId, from, content, metadata) VALUES ($1, $2, $3, $4, $5)";
        let from = if number % 2 == 0 { VICTIM } else { MARKER };
        let metadata = json!({ "k": format!("secret {MARKER}") }).to_string();
        let conversation = if number % 3 == 0 { format!("conversation {MARKER}") } else { format!("{VICTIM}-notes") };
        let content = format!("secret {number} {MARKER}");
        vera.write_params(sql, json!([number, conversation, from, content, metadata])).expect("her own");
    };
    (1..=10).for_each(note);
    let group = format!("{VICTIM}-group");
    let metadata = json!({ "title": MARKER }).to_string();
    for id in [group.clone(), format!("group {MARKER}")] {
        let sql = "INSERT INTO conversations (conversationId, conversationType, metadata) VALUES ($1, 'group', $2)";
        vera.write_params(sql, json!([id, metadata])).expect("her own");
        let sql = "INSERT INTO conversationUsers (conversationId, userId) VALUES ($1, $2), ($1, 'fay')";
        vera.write_params(sql, json!([id, format!("friend {MARKER}")])).expect("her own");
        server.client("fay").say(&id, &format!("to the group {MARKER}"));
    }
    let sql = "UPDATE conversationUsers SET metadata = $1 WHERE userId = $2";
    vera.write_params(sql, json!([metadata, VICTIM])).expect("her own");
    server.admin().consolidate();
    (11..=20).for_each(note);
    server.client("fay").say(&group, &format!("hot {MARKER}"));
    // What is deleted is still hers, from either tier.
    assert_eq!(vera.run("DELETE FROM messages WHERE msgId IN (8, 9, 19, 20)"), 4);
}

/// The attacker's own rows: the same ids, so that a key that forgets the owner would show.
fn seed(mallory: &Client) {
    for number in 1..=12 {
        let sql = "INSERT INTO messages (msgId, conversationId, from, content, metadata) VALUES ($1, $2, $3, $4, '{\"k\":\"own\"}')";
        let conversation = if number % 2 == 0 { format!("{VICTIM}-notes") } else { "mine".to_owned() };
        let from = if number % 3 == 0 { "ai" } else { ATTACKER };
        mallory.write_params(sql, json!([number, conversation, from, format!("own {number}")])).expect("one's own");
    }
    assert_eq!(mallory.run("DELETE FROM messages WHERE msgId > 10"), 2);
}

fn run(client: &Client, statement: &Statement, format: &str) -> Answer {
    let mut body = json!({ "sql": statement.sql });
    if let Some(params) = &statement.params {
        body["params"] = params.clone();
    }
    let headers = [("accept", format)];
    client.request(Method::POST, "/api/v1/query", &headers, Some(&body.to_string())).expect("the server lives")
}

/// Whether the marker stands anywhere in an answer.
fn shows_marker(answer: &Answer) -> bool {
    let body = answer.text().to_lowercase();
    let mut headers = answer.headers.iter().map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
    body.contains(MARKER) || headers.any(|value| value.contains(MARKER))
}

fn parses(statement: &Statement) -> bool {
    Parser::parse_sql(&GenericDialect {}, &statement.plain).is_ok_and(|statements| statements.len() == 1)
}

/// Everything that the victim sees, in a fixed order.
fn victims_rows(server: &Server) -> Rows {
    [
        "messages ORDER BY msgId",
        "conversations ORDER BY conversationId",
        "conversationUsers ORDER BY conversationId, userId",
        "deletedMessages ORDER BY msgId",
        "auditLog ORDER BY auditId",
    ]
    .map(|table| server.client(VICTIM).rows(&format!("SELECT * FROM {table}")))
    .into()
}

/// What became of the statements: how often each code, `ok` for none.
#[derive(Debug, Default)]
struct Outcome {
    codes: BTreeMap<String, usize>,
    shown: usize,
}

impl Outcome {
    fn count(&mut self, answer: &Answer) {
        let code =
            if answer.status == 200 { "ok".to_owned() } else { answer.refusal().error.error.as_str().to_owned() };
        *self.codes.entry(code).or_default() += 1;
        self.shown += usize::from(shows_marker(answer));
    }

    fn add(&mut self, other: Self) {
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        self.shown += other.shown;
    }

    fn total(&self) -> usize {
        self.codes.values().sum()
    }

    /// Statements that were planned and run, whether or not a rule or a limit stopped them then.
    fn executed(&self) -> usize {
        let later = ["ok", "conflict", "forbidden", "query_timeout", "query_too_large", "payload_too_large"];
        later.iter().filter_map(|code| self.codes.get(*code)).sum()
    }
}

/// `count` statements of `me` about `other`, on four connections; `each` sees every answer.
fn attack(
    server: &Server,
    me: &'static str,
    other: &'static str,
    count: usize,
    each: impl Fn(&Statement, &Answer) + Sync,
) -> Outcome {
    let mut dice = Dice::new(&format!("{me} about {other}"));
    let workers = 4;
    thread::scope(|scope| {
        let running: Vec<_> = (0..workers)
            .map(|_| {
                let (client, dice, mut forks) = (server.client(me), dice.fork(), dice.fork());
                let each = &each;
                scope.spawn(move || {
                    let mut generator = Generator::new(dice, me, other);
                    let mut outcome = Outcome::default();
                    for number in 0..count / workers {
                        let statement = generator.statement();
                        assert!(parses(&statement), "it does not parse: {}", statement.plain);
                        let answer = run(&client, &statement, forks.pick::<&str>(&FORMATS));
                        outcome.count(&answer);
                        each(&statement, &answer);
                        if number % 50 == 49 {
                            // What was copied is cleared, so that joins over it stay small.
                            for table in ["messages", "deletedMessages"] {
                                client.write(&format!("DELETE FROM userId.{table} WHERE msgId > 1000")).ok();
                            }
                        }
                    }
                    outcome
                })
            })
            .collect();
        let mut all = Outcome::default();
        for worker in running {
            all.add(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    })
}

#[test]
fn no_statement_shows_one_user_the_rows_of_another() {
    let server = server();
    let before = victims_rows(&server);
    let outcome = attack(&server, ATTACKER, VICTIM, rounds(20_000), |statement, answer| {
        assert!(!shows_marker(answer), "the marker shows in the answer to\n{}\n{}", statement.sql, answer.text());
        assert_ne!(answer.status, 500, "{}\n{}", statement.sql, answer.text());
    });
    let share = |count: usize| 100 * count / outcome.total();
    println!(
        "{} statements, of which all parse and {} % reach execution: {outcome:?}",
        outcome.total(),
        share(outcome.executed())
    );
    assert!(share(outcome.executed()) >= 50, "too few reach execution: {outcome:?}");
    assert!(share(outcome.codes.get("scope_violation").copied().unwrap_or(0)) >= 5, "too few try: {outcome:?}");
    assert_eq!(victims_rows(&server), before, "the victim's rows changed");
    server.admin().consolidate();
    assert_eq!(victims_rows(&server), before, "the victim's rows changed");
}

/// The control: what the generator makes does show the marker to the one whose it is.
#[test]
fn the_same_statements_show_the_victim_her_own_rows() {
    let server = server();
    let outcome = attack(&server, VICTIM, ATTACKER, 1_000, |_, _| {});
    assert!(outcome.shown * 10 > outcome.total(), "the marker shows too seldom to prove anything: {outcome:?}");
}

/// Counts, lengths and plans could tell what the marker cannot: whatever the victim does, the attacker's answers stay.
#[test]
fn what_the_victim_does_changes_no_answer_of_the_attacker() {
    let server = server();
    let mallory = server.client(ATTACKER);
    let mut generator = Generator::new(Dice::new("non-interference"), ATTACKER, VICTIM);
    let statements: Vec<Statement> = (0..rounds(1_000)).map(|_| generator.repeatable_read()).collect();
    let answers = |statements: &[Statement]| -> Vec<(u16, Vec<String>)> {
        statements.iter().map(|statement| essence(&run(&mallory, statement, "application/json"))).collect()
    };
    let before = answers(&statements);
    let vera = server.client(VICTIM);
    vera.run("DELETE FROM messages WHERE msgId % 2 = 0");
    vera.run("UPDATE messages SET content = content || content WHERE conversationType = 'ai'");
    (0..30).for_each(|number| _ = vera.say(&format!("{VICTIM}-notes"), &format!("more {number}")));
    vera.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('another', 'ai')");
    server.admin().consolidate();
    for ((statement, before), after) in statements.iter().zip(before).zip(answers(&statements)) {
        assert_eq!(before, after, "the answer depends on another user's rows: {}", statement.sql);
    }
}

/// The status and the rows of an answer, in no order; of an error, all of it.
fn essence(answer: &Answer) -> (u16, Vec<String>) {
    let body = answer.json();
    let mut rows: Vec<String> = match body["rows"].as_array() {
        Some(rows) => rows.iter().map(Value::to_string).collect(),
        None => vec![body.to_string()],
    };
    rows.sort();
    (answer.status, rows)
}

/// Ways in that are not SQL.
#[test]
fn no_other_route_leads_to_another_users_rows() {
    let server = server();
    let mallory = server.client(ATTACKER);
    let before = victims_rows(&server);
    let mut answers = Vec::new();
    for kind in [None, Some("ai"), Some("group")] {
        for from in [None, Some(VICTIM), Some(ATTACKER)] {
            for conversation in [format!("{VICTIM}-group"), format!("{VICTIM}-notes")] {
                let body = json!({ "conversationId": conversation, "conversationType": kind, "from": from, "content": "let me in" });
                let body = body.to_string();
                answers.push(mallory.request(Method::POST, "/api/v1/messages", &[], Some(&body)).expect("an answer"));
            }
        }
    }
    for path in [
        "/metrics",
        "/api/openapi.json",
        "/api/v1/health",
        "/api/v1/messages?conversationId=vera-notes",
        "/api/v1/content/vera/msg-1.bin",
        "/vera/batch-20251013-001.parquet",
        "/api/v1/../../vera",
    ] {
        answers.push(mallory.request(Method::GET, path, &[], None).expect("an answer"));
    }
    assert_eq!(victims_rows(&server), before);
    // The victim's idempotency key is hers: it gets nobody else her answer.
    let body = serde_json::to_string(&message("c", &format!("hers {MARKER}"))).expect("JSON");
    let headers = [("idempotency-key", "guessed")];
    let hers = server
        .client(VICTIM)
        .request(Method::POST, "/api/v1/messages", &headers, Some(&body))
        .expect("an answer")
        .json();
    let body = serde_json::to_string(&message("c", "his")).expect("JSON");
    let before = victims_rows(&server);
    let his = mallory.request(Method::POST, "/api/v1/messages", &headers, Some(&body)).expect("an answer");
    assert_ne!(his.json()["msgId"], hers["msgId"]);
    answers.push(his);
    for answer in answers {
        assert!(!shows_marker(&answer), "{}", answer.text());
    }
    assert_eq!(victims_rows(&server), before);
}

/// Whether a user exists makes no difference to one who may not see them.
#[test]
fn a_user_that_exists_answers_like_one_that_does_not() {
    let server = server();
    let mallory = server.client(ATTACKER);
    for sql in [
        "SELECT * FROM WHO.messages",
        "SELECT nothing FROM WHO.messages",
        "SELECT * FROM WHO.nothing",
        "INSERT INTO WHO.messages (msgId, conversationId, content) VALUES (1, 'c', 'x')",
        "DELETE FROM WHO.conversations WHERE conversationId = 'vera-notes'",
        "EXPLAIN SELECT * FROM WHO.conversationUsers",
    ] {
        let of = |user: &str| {
            let body = json!({ "sql": sql.replace("WHO", user) }).to_string();
            let answer = mallory.request(Method::POST, "/api/v1/query", &[], Some(&body)).expect("an answer");
            (answer.status, answer.text().replace(user, "WHO"))
        };
        assert_eq!(of(VICTIM), of("nina"), "{sql}");
        assert_eq!(of(VICTIM).0, 403, "{sql}");
    }
}

/// The generator without a server: each statement parses, and the marker is in none.
#[test]
fn every_generated_statement_parses() {
    let mut generator = Generator::new(Dice::new("parses"), ATTACKER, VICTIM);
    for _ in 0..20_000 {
        let statement = generator.statement();
        assert!(parses(&statement), "it does not parse: {}", statement.plain);
        assert!(!statement.sql.to_lowercase().contains(MARKER), "{}", statement.sql);
    }
}
