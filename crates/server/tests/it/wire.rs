//! The HTTP contract, byte for byte where bytes matter: routes, formats, limits, idempotency.
//!
//! Invariant: snapshots hold what a client would see, with nothing taken out but times and generated ids.

use std::fmt::Write as _;

use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Server, by_name, message};

/// Replaces what differs from run to run by what it is.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "executionTimeMs" | "timestamp" | "uptime" | "version" => *field = json!(format!("[{name}]")),
                    "msgId" => *field = json!("[generated]"),
                    "contentRef" => *field = json!("[contentRef]"),
                    "msgIds" => *field = json!(["[generated]"]),
                    _ => redact(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// An answer as text: what was asked, the status, the content type, the body.
fn shown(title: &str, answer: &Answer) -> String {
    let mut body = answer.json();
    redact(&mut body);
    format!("{title}\n{} {}\n{body:#}\n\n", answer.status, answer.header("content-type"))
}

fn sql(client: &Client, sql: &str) -> Answer {
    let body = json!({ "sql": sql }).to_string();
    client.request(Method::POST, "/api/v1/query", &[], Some(&body)).expect("an answer")
}

fn get(client: &Client, path: &str) -> Answer {
    client.request(Method::GET, path, &[], None).expect("an answer")
}

fn post(client: &Client, path: &str, body: &str) -> Answer {
    client.request(Method::POST, path, &[], Some(body)).expect("an answer")
}

#[test]
fn each_route_succeeds_as_it_did() {
    let server = Server::start();
    let (john, admin) = (server.client("user_john"), server.admin());
    let mut text = String::new();
    let mut show = |title: &str, answer: Answer| text += &shown(title, &answer);
    show(
        "POST /api/v1/messages",
        post(&john, "/api/v1/messages", r#"{"conversationId":"c","content":"hi","metadata":{"role":"user"}}"#),
    );
    show(
        "POST /api/v1/query: INSERT of messages",
        sql(&john, "INSERT INTO userId.messages (conversationId, from, content) VALUES ('c', 'ai', 'hello')"),
    );
    show(
        "POST /api/v1/query: INSERT of a conversation",
        sql(&john, "INSERT INTO userId.conversations (conversationId, conversationType) VALUES ('g', 'group')"),
    );
    show(
        "POST /api/v1/query: SELECT",
        sql(
            &john,
            "SELECT conversationId, conversationType, from, content, contentRef, metadata, msgId > 0 AS positive, \
             1.5 AS half FROM userId.messages ORDER BY msgId",
        ),
    );
    show("POST /api/v1/query: no rows", sql(&john, "SELECT content FROM userId.messages WHERE false"));
    let file: [(&str, &[u8]); 2] = [("file", b"bread, milk\n"), ("conversationId", b"c")];
    show("POST /api/v1/media/upload", john.post_form(&file).expect("an answer"));
    show("POST /api/admin/compact: no files yet", post(&admin, "/api/admin/compact", "{}"));
    show("POST /api/admin/consolidate", post(&admin, "/api/admin/consolidate", "{}"));
    show("POST /api/v1/query: UPDATE", sql(&john, "UPDATE userId.messages SET content = 'x' WHERE from = 'ai'"));
    show("POST /api/v1/query: DELETE", sql(&john, "DELETE FROM userId.messages"));
    show("GET /api/v1/health", get(&john, "/api/v1/health"));
    show("GET /api/v1/health/ready", get(&john, "/api/v1/health/ready"));
    insta::assert_snapshot!("routes", text);
}

/// One example of every code that this server can give.
#[test]
fn each_error_code_answers_as_it_did() {
    let server = Server::with(&[
        ("query.timeout_seconds", "1"),
        ("message.large_message_threshold_bytes", "1024"),
        ("message.max_size_bytes", "2048"),
    ]);
    let (john, nobody) = (server.client("user_john"), server.client_with_token(None));
    john.run("INSERT INTO userId.messages (msgId, conversationId, content) VALUES (1, 'c', 'one')");
    server
        .client("user_alice")
        .run("INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')");
    let too_large = serde_json::to_string(&message("c", &"x".repeat(2049))).expect("it can be written");
    let large = john.say("c", &"x".repeat(1500));
    let range = [("range", "bytes=1500-")];
    let examples = [
        (ErrorCode::SyntaxError, sql(&john, "SELECT from\nFROM messages WHERE )")),
        (ErrorCode::UnknownTable, sql(&john, "SELECT * FROM userId.mesages")),
        (ErrorCode::UnknownColumn, sql(&john, "SELECT contents FROM userId.messages")),
        (ErrorCode::InvalidValue, sql(&john, "UPDATE messages SET msgId = 9")),
        (ErrorCode::Unsupported, sql(&john, "CREATE TABLE t (a INT)")),
        (ErrorCode::Unauthorized, sql(&nobody, "SELECT 1")),
        (ErrorCode::ScopeViolation, sql(&john, "SELECT * FROM user_alice.messages")),
        (
            ErrorCode::Forbidden,
            post(&john, "/api/v1/messages", r#"{"conversationId":"g","conversationType":"group","content":"hi"}"#),
        ),
        (ErrorCode::NotFound, get(&john, "/api/v1/nothing")),
        (ErrorCode::MethodNotAllowed, get(&john, "/api/v1/query")),
        (ErrorCode::Conflict, sql(&john, "INSERT INTO messages (msgId, conversationId, content) VALUES (1, 'c', 'x')")),
        (ErrorCode::Gone, get(&john, "/api/v1/messages?conversationId=conv_123&limit=100")),
        (ErrorCode::PayloadTooLarge, post(&john, "/api/v1/messages", &too_large)),
        (
            ErrorCode::UnsupportedMediaType,
            john.request(Method::POST, "/api/v1/query", &[("content-encoding", "gzip")], Some("{}"))
                .expect("an answer"),
        ),
        (ErrorCode::RangeNotSatisfiable, john.content_with(Method::GET, &format!("user_john/msg-{large}.bin"), &range)),
        (ErrorCode::QueryTooLarge, sql(&john, "SELECT repeat('x', 2000000000)")),
        (
            ErrorCode::QueryTimeout,
            sql(&john, "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT MAX(n) FROM x"),
        ),
    ];
    let mut text = String::new();
    for (code, answer) in examples {
        assert_eq!(answer.refusal().error.error, code, "{}", answer.text());
        text += &shown(code.as_str(), &answer);
    }
    insta::assert_snapshot!("errors", text);
}

#[test]
fn version_one_is_gone_and_says_what_replaces_it() {
    let server = Server::start();
    let john = server.client("user_john");
    let mut text = String::new();
    for (method, path) in [
        (Method::GET, "/api/v1/messages?conversationId=conv_123&limit=100"),
        (Method::GET, "/api/v1/messages"),
        (Method::DELETE, "/api/v1/messages/123456789"),
        (Method::GET, "/api/v1/conversations"),
        (Method::GET, "/api/v1/conversations/conv_123"),
        (Method::DELETE, "/api/v1/conversations/conv_123"),
        (Method::GET, "/api/v1/conversationUsers?conversationId=conv_123"),
        (Method::DELETE, "/api/v1/conversationUsers/conv_123/user_bob"),
        (Method::GET, "/api/v1/messages?conversationId=it's'%3B%20DELETE%20FROM%20messages"),
    ] {
        let answer = john.request(method.clone(), path, &[], None).expect("an answer");
        let refusal = answer.refusal();
        assert_eq!(refusal.error.error, ErrorCode::Gone, "{method} {path}");
        let replacement = refusal.error.details.get("sql").and_then(Value::as_str).expect("the SQL");
        writeln!(text, "{method} {path}\n    {replacement}").expect("a String takes it");
        // It runs as it stands, whatever stood in the path.
        assert_eq!(sql(&john, replacement).status, 200, "{replacement}");
    }
    insta::assert_snapshot!("gone", text);
}

/// What a call of version 1 said in its body goes into parameters, and the answer says which.
#[test]
fn what_replaces_a_change_of_version_one_runs_with_the_parameters_that_it_names() {
    let server = Server::start();
    let john = server.client("user_john");
    let id = john.say("c", "one");
    john.make_group("g", &[]);
    let value = |column: &str| match column {
        "conversationId" => json!("g"),
        "conversationType" => json!("group"),
        "userId" => json!("user_bob"),
        "role" => json!("member"),
        "content" => json!("two"),
        "msgId" | "lastMsgId" => json!(id),
        other => panic!("{other} has no value"),
    };
    for (method, path) in [
        (Method::PUT, format!("/api/v1/messages/{id}")),
        (Method::POST, "/api/v1/conversationUsers".to_owned()),
        (Method::PUT, "/api/v1/conversationUsers/g/user_bob".to_owned()),
        (Method::PUT, "/api/v1/conversations".to_owned()),
        (Method::PATCH, "/api/v1/conversations/c".to_owned()),
        (Method::DELETE, "/api/v1/messages".to_owned()),
    ] {
        let told = john.request(method.clone(), &path, &[], Some("{}")).expect("an answer").refusal().error;
        let named = told.details["params"].as_array().expect("names").iter().filter_map(Value::as_str);
        let body = json!({ "sql": told.details["sql"], "params": named.map(value).collect::<Vec<_>>() }).to_string();
        let done = post(&john, "/api/v1/query", &body);
        assert_eq!((done.status, &done.json()["rowsAffected"]), (200, &json!(1)), "{method} {path}: {}", done.text());
    }
    assert_eq!(john.number("SELECT COUNT(*) FROM messages WHERE conversationId = 'c'"), 0);
}

// --- bodies

#[test]
fn a_body_is_json_whatever_its_content_type_says() {
    let server = Server::start();
    let john = server.client("user_john");
    for content_type in ["application/json", "application/x-www-form-urlencoded", "text/plain", "nonsense"] {
        let headers = [("content-type", content_type)];
        let answer = john.request(Method::POST, "/api/v1/query", &headers, Some(r#"{"sql":"SELECT 1"}"#));
        assert_eq!(answer.expect("an answer").status, 200, "{content_type}");
    }
}

#[test]
fn a_body_that_is_not_what_it_should_be_is_refused_by_name() {
    let server = Server::start();
    let john = server.client("user_john");
    for (path, body) in [
        ("/api/v1/query", ""),
        ("/api/v1/query", "{"),
        ("/api/v1/query", "[]"),
        ("/api/v1/query", "{}"),
        ("/api/v1/query", r#"{"sql":1}"#),
        ("/api/v1/query", r#"{"sql":"SELECT 1","param":[1]}"#),
        ("/api/v1/query", r#"{"sql":"SELECT 1","params":7}"#),
        ("/api/v1/query", r#"{"sql":"SELECT 1"} trailing"#),
        ("/api/v1/messages", r#"{"content":"x"}"#),
        ("/api/v1/messages", r#"{"conversationId":"c"}"#),
        ("/api/v1/messages", r#"{"conversationId":"","content":"x"}"#),
        ("/api/v1/messages", r#"{"conversationId":"a\u0000b","content":"x"}"#),
        ("/api/v1/messages", r#"{"conversationId":"c","content":"x","metadata":[1]}"#),
        ("/api/v1/messages", r#"{"conversationId":"c","content":"x","metadata":"{}"}"#),
        ("/api/v1/messages", r#"{"conversationId":"c","content":"x","conversationType":"crowd"}"#),
        ("/api/v1/messages", r#"{"conversationId":"c","content":"x","msgId":"1"}"#),
        ("/api/v1/messages", r#"{"conversationId":"c","content":"x","unknown":true}"#),
    ] {
        let answer = post(&john, path, body);
        assert_eq!(answer.refusal().error.error, ErrorCode::InvalidValue, "{path} {body}");
    }
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 0);
}

#[test]
fn deep_json_is_refused_and_does_no_harm() {
    let server = Server::start();
    let john = server.client("user_john");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let body = format!(r#"{{"sql":"SELECT 1","params":{deep}}}"#);
    assert!((400..500).contains(&post(&john, "/api/v1/query", &body).status));
    let body = format!(r#"{{"conversationId":"c","content":"x","metadata":{{"a":{deep}}}}}"#);
    assert!((400..500).contains(&post(&john, "/api/v1/messages", &body).status));
    assert_eq!(john.number("SELECT 1"), 1);
}

#[test]
fn an_oversized_body_is_too_large() {
    let server = Server::start();
    let john = server.client("user_john");
    let body = json!({ "sql": format!("SELECT '{}'", "x".repeat(60 << 20)) }).to_string();
    let answer = john.request(Method::POST, "/api/v1/query", &[], Some(&body)).expect("an answer");
    assert_eq!(answer.refusal().error.error, ErrorCode::PayloadTooLarge);
    assert_eq!(john.number("SELECT 1"), 1);
}

// --- answers

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

// --- routes

#[test]
fn every_unknown_path_and_method_answers_in_kind() {
    let server = Server::start();
    let john = server.client("user_john");
    for path in ["/api/v1/nothing", "/api/v2/query", "/api/", "/nothing", "/api/v1/query/"] {
        assert_eq!(get(&john, path).refusal().error.error, ErrorCode::NotFound, "{path}");
    }
    for (method, path) in [
        (Method::GET, "/api/v1/query"),
        (Method::PUT, "/api/v1/query"),
        (Method::POST, "/api/v1/health"),
        (Method::GET, "/api/admin/consolidate"),
        (Method::GET, "/api/admin/compact"),
        (Method::GET, "/api/v1/media/upload"),
        (Method::POST, "/api/v1/content/user_john/media-1.jpg"),
    ] {
        let answer = server.admin().request(method.clone(), path, &[], None).expect("an answer");
        assert_eq!(answer.refusal().error.error, ErrorCode::MethodNotAllowed, "{method} {path}");
    }
    for (method, path, allowed) in [
        (Method::GET, "/api/v1/query", "POST"),
        (Method::PUT, "/api/v1/messages", "DELETE,GET,HEAD,POST"),
        (Method::TRACE, "/api/v1/messages", "DELETE,GET,HEAD,POST"),
        (Method::TRACE, "/api/v1/conversations", "DELETE,GET,HEAD,PATCH,POST,PUT"),
        (Method::TRACE, "/api/v1/messages/1", "DELETE,GET,HEAD,PATCH,POST,PUT"),
        (Method::DELETE, "/api/v1/health", "GET,HEAD"),
    ] {
        let answer = john.request(method.clone(), path, &[], None).expect("an answer");
        assert_eq!(answer.status, 405, "{method} {path}");
        let mut named: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        named.sort_unstable();
        assert_eq!(named.join(","), allowed, "{method} {path}");
    }
}

#[test]
fn admin_routes_are_for_admins() {
    let server = Server::start();
    let john = server.client("user_john");
    let nobody = server.client_with_token(None);
    for route in ["/api/admin/consolidate", "/api/admin/compact"] {
        assert_eq!(post(&john, route, "{}").refusal().error.error, ErrorCode::Forbidden, "{route}");
        assert_eq!(post(&nobody, route, "{}").refusal().error.error, ErrorCode::Unauthorized, "{route}");
    }
}

#[test]
fn consolidation_can_be_asked_for_one_user() {
    let server = Server::start();
    for user in ["user_john", "user_alice"] {
        server.client(user).say("c", "hello");
    }
    let answer = post(&server.admin(), "/api/admin/consolidate", r#"{"userId":"user_john"}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let files = server.segment_files();
    assert!(files.len() == 1 && files[0].starts_with("user_john/"), "{files:?}");
    assert_eq!(server.client("user_alice").texts("SELECT content FROM messages"), ["hello"]);
}

#[test]
fn metrics_are_prometheus_text() {
    let server = Server::start();
    let admin = server.admin();
    admin.query("SELECT 1").expect("a read");
    let answer = get(&admin, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain"), "{}", answer.header("content-type"));
    let text = answer.text();
    let counted = |line: &str| assert!(text.lines().any(|has| has == line), "no {line} in:\n{text}");
    counted(r#"kalamdb_http_requests_total{route="/api/v1/query",method="POST",status="200"} 1"#);
    counted(r#"kalamdb_statements_total{kind="read"} 1"#);
    assert!(text.lines().any(|line| line.starts_with("kalamdb_http_connections ")), "{text}");
    for stage in ["waiting", "deciding", "writing", "publishing"] {
        let name = format!("kalamdb_commit_microseconds_total{{stage=\"{stage}\"}} ");
        assert!(text.lines().any(|line| line.starts_with(&name)), "{text}");
    }
    assert!(text.lines().all(|line| line.starts_with('#') || line.is_empty() || line.contains(' ')), "{text}");
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

#[test]
fn browsers_of_the_named_origins_are_let_in() {
    let server = Server::with(&[("server.cors_origins", "https://app.example")]);
    let nobody = server.client_with_token(None);
    let preflight = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization, content-type, idempotency-key, range, if-none-match"),
        ];
        nobody.request(Method::OPTIONS, "/api/v1/query", &headers, None).expect("an answer")
    };
    let welcome = preflight("https://app.example");
    assert_eq!(welcome.header("access-control-allow-origin"), "https://app.example");
    let allowed = welcome.header("access-control-allow-headers").to_lowercase();
    assert!(allowed.contains("authorization") && allowed.contains("range"), "{allowed}");
    assert_eq!(preflight("https://evil.example").header("access-control-allow-origin"), "");
    // What version 1 could do, so that a page sees what replaces it.
    let methods = welcome.header("access-control-allow-methods");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        assert!(methods.contains(method), "{methods}");
    }
    let headers = [("origin", "https://app.example")];
    let gone = server.client("user_john").request(Method::DELETE, "/api/v1/messages/1", &headers, None);
    let gone = gone.expect("an answer");
    assert_eq!((gone.status, gone.header("access-control-allow-origin")), (410, "https://app.example"));
    let exposed = gone.header("access-control-expose-headers").to_lowercase();
    for header in ["x-kalamdb-truncated", "retry-after", "etag", "content-range", "allow", "www-authenticate"] {
        assert!(exposed.contains(header), "{exposed}");
    }
}

#[test]
fn who_reads_the_metrics_is_a_setting() {
    for (access, nobody, john, admin) in [("open", 200, 200, 200), ("admin", 401, 403, 200), ("off", 404, 404, 404)] {
        let server = Server::with(&[("server.metrics", access)]);
        let status = |client: &Client| get(client, "/metrics").status;
        assert_eq!(status(&server.client_with_token(None)), nobody, "{access}");
        assert_eq!(status(&server.client("user_john")), john, "{access}");
        assert_eq!(status(&server.admin()), admin, "{access}");
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

/// A client has to know what it may do, and in what to trust a cache.
#[test]
fn a_refused_token_is_told_apart_from_none() {
    let server = Server::start();
    let challenge = |token: Option<&str>| {
        let answer = sql(&server.client_with_token(token), "SELECT 1");
        (answer.status, answer.header("www-authenticate").to_owned())
    };
    assert_eq!(challenge(None), (401, "Bearer".to_owned()));
    assert_eq!(challenge(Some("x.y.z")), (401, r#"Bearer error="invalid_token""#.to_owned()));
}
