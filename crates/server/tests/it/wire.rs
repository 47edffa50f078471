//! The HTTP contract: each route's answer and each error's, bodies that are taken and refused, who may ask what.
//!
//! Invariant: snapshots hold what a client would see, with nothing taken out but times and generated ids.

use std::fmt::Write as _;

use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Server, message};

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

pub fn sql(client: &Client, sql: &str) -> Answer {
    let body = json!({ "sql": sql }).to_string();
    client.request(Method::POST, "/api/v1/query", &[], Some(&body)).expect("an answer")
}

pub fn get(client: &Client, path: &str) -> Answer {
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
        ("/api/v1/query", r#"["SELECT 1"]"#),
        ("/api/v1/content/link", r#"["user_john/media-1.jpg"]"#),
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
    let wrong = post(&server.admin(), "/api/admin/consolidate", r#"["user_john"]"#);
    assert_eq!(wrong.refusal().error.error, ErrorCode::InvalidValue);
    assert_eq!(server.segment_files(), [""; 0]);
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
