//! Answers: their formats, their bounds and how they are cut; and the one answer that a repeated request gets.
//!
//! Invariant: bytes are held where they matter to a program that reads them (CSV, lines, Arrow).

use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Answer, Client, Server, by_name},
    wire::{get, sql},
};

#[test]
fn an_answer_past_max_rows_is_cut_and_says_so() {
    let server = Server::with(&[("query.max_rows", "5")]);
    let john = server.client("user_john");
    let all = "SELECT value FROM UNNEST(generate_series(1, 6)) AS numbers(value) ORDER BY value";
    let answer = john.query(all).expect("a read");
    assert_eq!((answer.row_count, answer.truncated), (5, true));
    assert_eq!(answer.rows.last(), Some(&vec![json!(5)]));
    let exact = john.query("SELECT value FROM UNNEST(generate_series(1, 5)) AS numbers(value)").expect("a read");
    assert_eq!((exact.row_count, exact.truncated), (5, false));
    // A limit of its own is no truncation, and an aggregate sees every row.
    let limited = john.query(&format!("{all} LIMIT 3")).expect("a read");
    assert_eq!((limited.row_count, limited.truncated), (3, false));
    assert_eq!(john.number("SELECT COUNT(*) FROM UNNEST(generate_series(1, 6)) AS numbers(value)"), 6);
    for (format, lines) in [("text/csv", 6), ("application/x-ndjson", 5)] {
        let cut = formatted(&john, format, all);
        assert_eq!((cut.header("x-kalamdb-truncated"), cut.text().lines().count()), ("true", lines), "{format}");
        let whole = formatted(&john, format, "SELECT 1 AS one");
        assert_ne!(whole.header("x-kalamdb-truncated"), "true", "{format}");
    }
    // Writes are not answers: all rows are written.
    let many = "INSERT INTO messages (conversationId, content) SELECT 'c', 'x' FROM UNNEST(generate_series(1, 8)) AS numbers(value)";
    assert_eq!(john.run(many), 8);
    assert_eq!(john.run("DELETE FROM messages"), 8);
}

fn formatted(client: &Client, format: &str, sql: &str) -> Answer {
    let body = json!({ "sql": sql }).to_string();
    client.request(Method::POST, "/api/v1/query", &[("accept", format)], Some(&body)).expect("an answer")
}

const AWKWARD: &str = "SELECT msgId, content, contentRef FROM userId.messages ORDER BY msgId";

fn awkward_messages(client: &Client) {
    let contents = json!(["plain", "a \"quoted\", comma", "two\nlines", "emoji 🙂 ünï", ""]);
    let sql = "INSERT INTO userId.messages (msgId, conversationId, content) VALUES (1,'c',$1), (2,'c',$2), (3,'c',$3), (4,'c',$4), (5,'c',$5)";
    client.write_params(sql, contents).expect("they can be sent");
}

#[test]
fn csv_quotes_what_has_to_be_quoted() {
    let server = Server::start();
    let john = server.client("user_john");
    awkward_messages(&john);
    let answer = formatted(&john, "text/csv", AWKWARD);
    assert!(answer.header("content-type").starts_with("text/csv"), "{}", answer.header("content-type"));
    let mut reader = csv::Reader::from_reader(answer.body.as_slice());
    assert_eq!(reader.headers().expect("a header"), vec!["msgId", "content", "contentRef"]);
    let contents: Vec<String> = reader.records().map(|record| record.expect("a record")[1].to_owned()).collect();
    assert_eq!(contents, ["plain", "a \"quoted\", comma", "two\nlines", "emoji 🙂 ünï", ""]);
}

#[test]
fn ndjson_is_an_object_per_line() {
    let server = Server::start();
    let john = server.client("user_john");
    awkward_messages(&john);
    let answer = formatted(&john, "application/x-ndjson", AWKWARD);
    assert!(answer.header("content-type").starts_with("application/x-ndjson"));
    let text = answer.text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[2], json!({ "msgId": 3, "content": "two\nlines", "contentRef": null }));
    let as_json = by_name(&john.query(AWKWARD).expect("a read"));
    assert_eq!(
        lines.into_iter().map(|line| line.as_object().cloned().expect("an object")).collect::<Vec<_>>(),
        as_json
    );
}

#[test]
fn arrow_is_a_stream_of_batches() {
    let server = Server::start();
    let john = server.client("user_john");
    awkward_messages(&john);
    let answer = formatted(&john, "application/vnd.apache.arrow.stream", AWKWARD);
    assert!(answer.header("content-type").starts_with("application/vnd.apache.arrow.stream"));
    let reader = arrow_ipc::reader::StreamReader::try_new(answer.body.as_slice(), None).expect("an Arrow stream");
    let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["msgId", "content", "contentRef"]);
    let rows: usize = reader.map(|batch| batch.expect("a batch").num_rows()).sum();
    assert_eq!(rows, 5);
}

#[test]
fn columns_may_have_the_same_name_where_rows_are_no_objects() {
    let server = Server::start();
    let john = server.client("user_john");
    awkward_messages(&john);
    let twice = "SELECT content, content, CAST(msgId AS VARCHAR), m.* FROM messages m WHERE msgId = 1";
    let names = ["content", "content", "msgId"];
    let json = john.query(twice).expect("a read");
    assert_eq!(json.columns[..3], names);
    assert_eq!(json.rows[0][..3], [json!("plain"), json!("plain"), json!("1")]);
    let again = john.query(twice).expect("the same from the cache");
    assert_eq!(again.columns, json.columns);
    let answer = formatted(&john, "text/csv", twice);
    let mut reader = csv::Reader::from_reader(answer.body.as_slice());
    assert_eq!(reader.headers().expect("a header").iter().take(3).collect::<Vec<_>>(), names);
    let answer = formatted(&john, "application/vnd.apache.arrow.stream", twice);
    let reader = arrow_ipc::reader::StreamReader::try_new(answer.body.as_slice(), None).expect("an Arrow stream");
    let fields: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(fields[..3], names);
    assert_eq!(reader.map(|batch| batch.expect("a batch").num_rows()).sum::<usize>(), 1);
    let refused = formatted(&john, "application/x-ndjson", twice).refusal();
    assert_eq!(refused.error.error, ErrorCode::InvalidValue);
    assert!(refused.error.message.contains("`content`"), "{}", refused.error.message);
}

#[test]
fn writes_and_errors_are_json_in_every_format() {
    let server = Server::start();
    let john = server.client("user_john");
    for format in ["text/csv", "application/x-ndjson", "application/vnd.apache.arrow.stream", "*/*", "text/html"] {
        let written = formatted(&john, format, "INSERT INTO messages (conversationId, content) VALUES ('c', 'x')");
        assert_eq!(written.json()["rowsAffected"], 1, "{format}");
        let refused = formatted(&john, format, "SELECT nothing FROM messages");
        assert_eq!(refused.refusal().error.error, ErrorCode::UnknownColumn, "{format}");
    }
}

#[test]
fn an_answer_and_a_statement_have_their_size() {
    let server = Server::with(&[("query.max_response_mb", "1"), ("query.max_statement_bytes", "1000")]);
    let john = server.client("user_john");
    let large = "SELECT repeat('x', 1000) FROM UNNEST(generate_series(1, 2000)) AS numbers(value)";
    let refused = sql(&john, large).refusal().error;
    assert_eq!(refused.error, ErrorCode::PayloadTooLarge, "{}", refused.message);
    assert!(refused.message.contains("1 MiB") && refused.message.contains("x-ndjson"), "{}", refused.message);
    assert_eq!(formatted(&john, "application/x-ndjson", large).text().lines().count(), 2000);
    let long = format!("SELECT '{}'", "x".repeat(1000));
    assert_eq!(sql(&john, &long).refusal().error.error, ErrorCode::PayloadTooLarge);
    assert_eq!(sql(&john, &long[..900].replace("SELECT '", "SELECT 1 -- ")).status, 200);
}

/// The head has said 200 long before, so that only the count says what came of it.
#[test]
fn an_answer_that_breaks_off_is_counted_by_its_code() {
    let server = Server::start();
    let admin = server.admin();
    let sql = "SELECT repeat('x', 1000), 10 / (v - 5000) FROM UNNEST(range(6000)) AS n(v)";
    for (answered, format) in ["text/csv", "application/x-ndjson"].into_iter().enumerate() {
        let answer = formatted(&admin, format, sql);
        assert_eq!(answer.status, 200);
        assert!(answer.text().len() > 1 << 20, "its head was out");
        let line = format!(r#"kalamdb_errors_total{{code="invalid_value"}} {}"#, answered + 1);
        let text = get(&admin, "/metrics").text();
        assert!(text.lines().any(|has| has == line), "no {line} in:\n{text}");
    }
}

// --- idempotency

fn send_with_key(client: &Client, key: &str, body: &Value) -> Answer {
    let headers = [("idempotency-key", key)];
    client.request(Method::POST, "/api/v1/messages", &headers, Some(&body.to_string())).expect("an answer")
}

#[test]
fn a_repeated_send_gets_the_first_answer() {
    let mut server = Server::start();
    let john = server.client("user_john");
    let body = json!({ "conversationId": "c", "content": "once", "metadata": { "a": 1, "b": 2 } });
    let first = send_with_key(&john, "key-1", &body);
    assert_eq!(first.status, 201);
    assert_eq!(send_with_key(&john, "key-1", &body).json(), first.json());
    server.kill9();
    server.spawn();
    server.admin().consolidate();
    let again = send_with_key(&john, "key-1", &body);
    assert_eq!((again.status, again.json()), (201, first.json()));
    assert_eq!(john.texts("SELECT content FROM messages"), ["once"]);
    // It stays answered when the message itself is gone.
    john.run("DELETE FROM messages");
    assert_eq!(send_with_key(&john, "key-1", &body).json(), first.json());
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 0);
}

#[test]
fn the_same_key_with_another_body_is_a_conflict() {
    let server = Server::start();
    let john = server.client("user_john");
    assert_eq!(send_with_key(&john, "k", &json!({ "conversationId": "c", "content": "one" })).status, 201);
    for other in [
        json!({ "conversationId": "c", "content": "two" }),
        json!({ "conversationId": "d", "content": "one" }),
        json!({ "conversationId": "c", "content": "one", "metadata": {} }),
    ] {
        assert_eq!(send_with_key(&john, "k", &other).refusal().error.error, ErrorCode::Conflict, "{other}");
    }
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 1);
}

#[test]
fn an_array_is_sent_together_and_answered_in_its_order() {
    let mut server = Server::start();
    let john = server.client("user_john");
    john.say("d", "before");
    let body = json!([
        { "conversationId": "c", "content": "Which flour is cheapest?", "metadata": { "role": "user" } },
        { "conversationId": "d", "content": "in between", "timestamp": 1_699_000_000 },
        { "conversationId": "c", "content": "x".repeat(200_000), "from": "ai" },
    ]);
    let first = send_with_key(&john, "many", &body);
    assert_eq!(first.status, 201);
    let answer = first.json();
    let sent = answer.as_array().expect("an array");
    let of = |name: &str| sent.iter().map(|sent| sent[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("conversationId"), ["c", "d", "c"]);
    assert_eq!(of("status"), ["stored"; 3]);
    assert_eq!(of("conversationCreated"), [json!(true), json!(null), json!(null)]);
    assert_eq!(sent[1]["timestamp"], 1_699_000_000_000_000_i64);
    let ids: Vec<i64> = of("msgId").iter().map(|id| id.as_i64().expect("a number")).collect();
    assert!(ids.is_sorted() && ids[0] < ids[1]);
    assert_eq!(john.numbers("SELECT msgId FROM messages WHERE content <> 'before' ORDER BY msgId"), ids);
    let rows = john.rows("SELECT from, metadata->>'role', contentRef IS NOT NULL FROM messages ORDER BY msgId");
    let row = |from: &str, role: Option<&str>, large: bool| vec![json!(from), json!(role), json!(large)];
    let (plain, large) = (row("user_john", None, false), row("ai", None, true));
    assert_eq!(rows, [plain.clone(), row("user_john", Some("user"), false), plain, large]);
    // It is one request: repeated as one, also after a crash, and another one in part.
    server.kill9();
    server.spawn();
    assert_eq!(send_with_key(&john, "many", &body).json(), answer);
    assert_eq!(send_with_key(&john, "many", &body[0]).refusal().error.error, ErrorCode::Conflict);
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 4);
    let one = send_with_key(&john, "one-of-one", &json!([{ "conversationId": "c", "content": "alone" }]));
    assert_eq!((one.status, one.json().as_array().map(Vec::len)), (201, Some(1)));
}

#[test]
fn of_an_array_all_is_stored_or_nothing() {
    let server = Server::start();
    let (john, amy) = (server.client("user_john"), server.client("user_amy"));
    amy.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')");
    let good = json!({ "conversationId": "c", "content": "good" });
    let with_id = |id: i64| json!({ "conversationId": "c", "content": "good", "msgId": id });
    let to_others = json!({ "conversationId": "g", "conversationType": "group", "content": "let me in" });
    let many = json!(vec![json!({ "conversationId": "c", "content": "" }); 100_001]);
    for (body, code) in [
        (json!([good, to_others]), ErrorCode::Forbidden),
        (json!([with_id(5), good, with_id(5)]), ErrorCode::Conflict),
        (json!([good, { "conversationId": "c" }]), ErrorCode::InvalidValue),
        (json!([good, null]), ErrorCode::InvalidValue),
        (json!([good, [good]]), ErrorCode::InvalidValue),
        (json!([]), ErrorCode::InvalidValue),
        (json!("good"), ErrorCode::InvalidValue),
        (many, ErrorCode::PayloadTooLarge),
    ] {
        let refusal = send_with_key(&john, "key", &body).refusal();
        assert_eq!(refusal.error.error, code, "{}", refusal.error.message);
        assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 0, "{code:?}");
        assert_eq!(john.number("SELECT COUNT(*) FROM conversations"), 0, "{code:?}");
    }
    let sent = send_with_key(&john, "key", &json!([with_id(5), with_id(6), good]));
    assert_eq!(sent.status, 201, "a key of what was refused is free: {}", sent.text());
    server.admin().consolidate();
    let again = send_with_key(&john, "another", &json!([good, with_id(6)])).refusal();
    assert_eq!(again.error.error, ErrorCode::Conflict, "an id that lies in a file");
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 3);
}

/// A statement that writes, under a key.
fn write_with_key(client: &Client, key: &str, sql: &str, params: &Value) -> Answer {
    let (headers, body) = ([("idempotency-key", key)], json!({ "sql": sql, "params": params }).to_string());
    client.request(Method::POST, "/api/v1/query", &headers, Some(&body)).expect("an answer")
}

#[test]
fn a_repeated_statement_is_done_once() {
    let mut server = Server::start();
    let john = server.client("user_john");
    let insert = "INSERT INTO messages (conversationId, content) VALUES ('c', $1), ('c', 'two')";
    let answered = |answer: Answer| {
        let body = answer.json();
        (answer.status, body["rowsAffected"].clone(), body["msgIds"].clone(), body["conversationCreated"].clone())
    };
    let first = answered(write_with_key(&john, "k", insert, &json!(["one"])));
    assert_eq!((first.0, &first.1, &first.3), (200, &json!(2), &json!(true)));
    server.kill9();
    server.spawn();
    assert_eq!(answered(write_with_key(&john, "k", insert, &json!(["one"]))), first);
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 2);
    for (sql, params) in [(insert, json!(["three"])), ("DELETE FROM messages WHERE content = $1", json!(["one"]))] {
        let refused = write_with_key(&john, "k", sql, &params).refusal().error.error;
        assert_eq!(refused, ErrorCode::Conflict, "{sql}");
    }
    let send = json!({ "conversationId": "c", "content": "one" });
    assert_eq!(send_with_key(&john, "k", &send).refusal().error.error, ErrorCode::Conflict, "keys are of all writes");
    let append = "UPDATE messages SET content = content || $1";
    for _ in 0..2 {
        assert_eq!(write_with_key(&john, "l", append, &json!(["!"])).json()["rowsAffected"], 2);
    }
    assert_eq!(john.texts("SELECT content FROM messages ORDER BY msgId"), ["one!", "two!"]);
    // A read is read each time, and a key that is none is refused whatever it names.
    let count = "SELECT COUNT(*) FROM messages";
    for rows in [2, 3] {
        assert_eq!(write_with_key(&john, "r", count, &json!([])).json()["rows"], json!([[rows]]));
        john.say("c", "more");
    }
    let refused = write_with_key(&john, "no key", count, &json!([])).refusal().error.error;
    assert_eq!(refused, ErrorCode::InvalidValue);
}

#[test]
fn keys_are_each_users_own() {
    let server = Server::start();
    let body = json!({ "conversationId": "c", "content": "one" });
    let of = |user| send_with_key(&server.client(user), "k", &body);
    let (john, alice) = (of("user_john"), of("user_alice"));
    assert_eq!((john.status, alice.status), (201, 201));
    assert_ne!(john.json()["msgId"], alice.json()["msgId"]);
    assert_eq!(server.client("user_alice").number("SELECT COUNT(*) FROM messages"), 1);
}

#[test]
fn a_refused_send_does_not_use_up_its_key() {
    let server = Server::start();
    let (john, alice) = (server.client("user_john"), server.client("user_alice"));
    alice.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')");
    let body = json!({ "conversationId": "g", "conversationType": "group", "content": "hi" });
    assert_eq!(send_with_key(&john, "k", &body).refusal().error.error, ErrorCode::Forbidden);
    alice.run("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'user_john')");
    assert_eq!(send_with_key(&john, "k", &body).status, 201);
}
