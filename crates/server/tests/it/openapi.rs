//! The `OpenAPI` document, held against what the server does, in both directions.
//!
//! Invariant: a route is known here by one request that succeeds; a documented route without one, or one without
//! documentation, fails the test.

use std::collections::BTreeSet;

use kalamdb_protocol::SendMessageRequest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, BOUNDARY, Client, Server, form, message};

/// A request that succeeds (or, for a route of version 1, is `gone`).
struct Example {
    method: Method,
    path: &'static str,
    /// The path as the document has it, where that differs.
    documented: &'static str,
    body: Option<String>,
    headers: &'static [(&'static str, &'static str)],
    status: u16,
}

/// A message whose text lies in a file, and that file's route.
const LARGE: i64 = 1;
const CONTENT: &str = "/api/v1/content/root/msg-1.bin";

/// What a browser sends to get a WebSocket.
const UPGRADE: &[(&str, &str)] = &[
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn example(method: Method, path: &'static str, body: Option<Value>, status: u16) -> Example {
    Example { method, path, documented: path, body: body.map(|body| body.to_string()), headers: &[], status }
}

/// Every route of this server.
fn examples() -> Vec<Example> {
    vec![
        example(Method::POST, "/api/v1/query", Some(json!({ "sql": "SELECT 1 AS one" })), 200),
        example(Method::POST, "/api/v1/messages", Some(json!({ "conversationId": "c", "content": "x" })), 201),
        Example {
            body: Some(String::from_utf8(form(&[("file", b"hello"), ("conversationId", b"c")])).expect("it is text")),
            ..example(Method::POST, "/api/v1/media/upload", None, 201)
        },
        Example { documented: "/api/v1/content/{contentRef}", ..example(Method::GET, CONTENT, None, 200) },
        example(Method::GET, "/api/v1/live", None, 200),
        Example { headers: UPGRADE, ..example(Method::GET, "/api/v1/ws", None, 101) },
        example(Method::GET, "/api/v1/health", None, 200),
        example(Method::POST, "/api/admin/compact", Some(json!({})), 200),
        example(Method::POST, "/api/admin/consolidate", Some(json!({})), 200),
        example(Method::GET, "/metrics", None, 200),
        example(Method::GET, "/api/openapi.json", None, 200),
    ]
}

/// The routes of version 1, which may be documented.
fn gone() -> Vec<Example> {
    let mut routes = Vec::new();
    for (documented, path) in [
        ("/api/v1/messages", "/api/v1/messages"),
        ("/api/v1/messages/{}", "/api/v1/messages/1"),
        ("/api/v1/conversations", "/api/v1/conversations"),
        ("/api/v1/conversations/{}", "/api/v1/conversations/c"),
        ("/api/v1/conversationUsers", "/api/v1/conversationUsers"),
        ("/api/v1/conversationUsers/{}", "/api/v1/conversationUsers/c"),
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            routes.push(Example { method, path, documented, body: None, headers: &[], status: 410 });
        }
    }
    // This one is alive.
    routes.retain(|route| (route.method.as_str(), route.path) != ("POST", "/api/v1/messages"));
    routes
}

fn ask(client: &Client, example: &Example) -> Answer {
    // Routes that take JSON take it whatever this says.
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let mut headers = vec![("content-type", content_type.as_str())];
    headers.extend(example.headers);
    let ended = || client.request(example.method.clone(), example.path, &headers, example.body.as_deref());
    match example.path {
        // Its body has no end.
        "/api/v1/live" => client.head_of(example.path),
        _ => ended().expect("an answer"),
    }
}

/// A server that has what the examples name.
fn server() -> Server {
    let server = Server::start();
    let large = SendMessageRequest { msg_id: Some(LARGE), ..message("c", &"x".repeat(200_000)) };
    server.admin().send(&large).expect("it can be sent");
    server
}

fn document(client: &Client) -> Value {
    let answer = client.request(Method::GET, "/api/openapi.json", &[], None).expect("an answer");
    assert_eq!(answer.status, 200);
    answer.json()
}

/// The document's operations: path, method, operation.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            if ["get", "post", "put", "delete", "patch", "head"].contains(&method.as_str()) {
                operations.push((path.clone(), method.clone(), operation));
            }
        }
    }
    operations
}

/// What a schema comes to, its references followed.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            resolved(document, document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")))
        }
        None => schema,
    }
}

/// Why `value` is not what `schema` says, or nothing.
fn mismatch(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let schema = resolved(document, schema);
    if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let reasons: Vec<String> = choices.iter().map_while(|choice| mismatch(document, choice, value)).collect();
        return (reasons.len() == choices.len()).then(|| reasons.join("; or "));
    }
    let Some(properties) = schema["properties"].as_object() else {
        let items = value.as_array().filter(|_| !schema["items"].is_null());
        let wrong_item = items.into_iter().flatten().find_map(|item| mismatch(document, &schema["items"], item));
        return type_mismatch(schema, value).or(wrong_item);
    };
    let Some(fields) = value.as_object() else { return Some(format!("{value} is no object")) };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            return Some(format!("the required {name} is missing in {value}"));
        }
    }
    fields.iter().find_map(|(name, field)| match properties.get(name) {
        Some(property) => mismatch(document, property, field).map(|reason| format!("{name}: {reason}")),
        None => Some(format!("{name} is not documented")),
    })
}

fn type_mismatch(schema: &Value, value: &Value) -> Option<String> {
    let fits = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    };
    let fitting = match &schema["type"] {
        Value::String(name) => fits(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(fits),
        _ => true,
    };
    (!fitting).then(|| format!("{value} is no {}", schema["type"]))
}

/// The schema that the document gives for an operation's JSON answer of that status.
fn answer_schema<'a>(document: &'a Value, operation: &'a Value, status: u16) -> Option<&'a Value> {
    let response = resolved(document, &operation["responses"][status.to_string()]);
    let schema = &response["content"]["application/json"]["schema"];
    (!schema.is_null()).then_some(schema)
}

#[test]
fn every_route_is_documented_and_answers_as_documented() {
    let server = server();
    let admin = server.admin();
    let document = document(&admin);
    let operations = operations(&document);
    for example in examples() {
        let method = example.method.as_str().to_lowercase();
        let operation = operations.iter().find(|(path, of, _)| path == example.documented && *of == method);
        let Some((_, _, operation)) = operation else {
            panic!("{method} {} is not documented", example.documented);
        };
        let answer = ask(&admin, &example);
        assert_eq!(answer.status, example.status, "{method} {}: {}", example.path, answer.text());
        assert!(operation["responses"].get(answer.status.to_string()).is_some(), "{method} {}", example.path);
        if let Some(schema) = answer_schema(&document, operation, answer.status) {
            let wrong = mismatch(&document, schema, &answer.json());
            assert_eq!(wrong, None, "{method} {}", example.path);
        }
    }
}

#[test]
fn every_documented_route_is_known_here() {
    let server = server();
    let admin = server.admin();
    let document = document(&admin);
    let known: Vec<Example> = examples().into_iter().chain(gone()).collect();
    for (path, method, operation) in operations(&document) {
        let example = known.iter().find(|example| {
            shape(example.documented) == shape(&path) && example.method.as_str().to_lowercase() == method
        });
        let Some(example) = example else { panic!("{method} {path} is documented; give it an example in this file") };
        let status = ask(&admin, example).status.to_string();
        assert!(operation["responses"].get(&status).is_some(), "{method} {path} answers an undocumented {status}");
    }
}

/// A path with its parameters' names taken out.
fn shape(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "{}".to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[test]
fn errors_are_documented_with_their_statuses() {
    let server = Server::start();
    let admin = server.admin();
    let document = document(&admin);
    let (_, _, query) =
        operations(&document).into_iter().find(|(path, ..)| path == "/api/v1/query").expect("the query route");
    for (sql, status) in
        [("SELEC", 400), ("SELECT * FROM user_x.messages", 403), ("SELECT repeat('x', 2000000000)", 422)]
    {
        let client = if status == 403 { server.client("user_john") } else { admin.clone() };
        let body = json!({ "sql": sql }).to_string();
        let answer = client.request(Method::POST, "/api/v1/query", &[], Some(&body)).expect("an answer");
        assert_eq!(answer.status, status, "{sql}");
        let schema = answer_schema(&document, query, status);
        let schema = schema.unwrap_or_else(|| panic!("{status} of the query route is not documented"));
        assert_eq!(mismatch(&document, schema, &answer.json()), None, "{sql}");
    }
}

#[test]
fn the_codes_in_the_document_are_the_closed_set() {
    let server = Server::start();
    let document = document(&server.admin());
    let code = &document["components"]["schemas"]["ErrorCode"]["enum"];
    let documented: BTreeSet<&str> = code.as_array().expect("the codes").iter().filter_map(Value::as_str).collect();
    let known: BTreeSet<&str> = kalamdb_protocol::ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(documented, known);
}
