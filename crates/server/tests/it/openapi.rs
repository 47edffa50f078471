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
        example(Method::POST, "/api/v1/messages", Some(json!([{ "conversationId": "c", "content": "y" }])), 201),
        Example {
            body: Some(String::from_utf8(form(&[("file", b"hello"), ("conversationId", b"c")])).expect("it is text")),
            ..example(Method::POST, "/api/v1/media/upload", None, 201)
        },
        Example { documented: "/api/v1/content/{contentRef}", ..example(Method::GET, CONTENT, None, 200) },
        example(Method::POST, "/api/v1/content/link", Some(json!({ "contentRef": "root/msg-1.bin" })), 200),
        example(Method::GET, "/api/v1/live", None, 200),
        Example { headers: UPGRADE, ..example(Method::GET, "/api/v1/ws", None, 101) },
        example(Method::GET, "/api/v1/health", None, 200),
        example(Method::GET, "/api/v1/health/ready", None, 200),
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
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
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
    if let Some(parts) = schema["allOf"].as_array() {
        return mismatch_of_all(document, parts, value);
    }
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

/// Parts that describe one object together: each field is one of theirs.
fn mismatch_of_all(document: &Value, parts: &[Value], value: &Value) -> Option<String> {
    let (mut properties, mut required) = (serde_json::Map::new(), Vec::new());
    for part in parts.iter().map(|part| resolved(document, part)) {
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        required.extend(part["required"].as_array().cloned().unwrap_or_default());
    }
    mismatch(document, &json!({ "properties": properties, "required": required }), value)
}

fn type_mismatch(schema: &Value, value: &Value) -> Option<String> {
    if let Some(allowed) = schema["enum"].as_array() {
        return (!allowed.contains(value)).then(|| format!("{value} is none of {allowed:?}"));
    }
    if schema["const"] == *value && !schema["const"].is_null() {
        return None;
    }
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

/// What a route refuses names the methods that it takes, and those are in the document.
#[test]
fn a_route_takes_the_methods_that_are_documented() {
    let server = server();
    let admin = server.admin();
    let document = document(&admin);
    let operations = operations(&document);
    let paths: BTreeSet<&str> = operations.iter().map(|(path, ..)| path.as_str()).collect();
    for path in paths {
        let mut documented: BTreeSet<String> =
            operations.iter().filter(|(of, ..)| of == path).map(|(_, method, _)| method.to_uppercase()).collect();
        if documented.contains("GET") {
            documented.insert("HEAD".to_owned());
        }
        let concrete = path.replace("{contentRef}", "root/msg-1.bin").replace("{conversationId}", "c");
        let concrete = concrete.replace("{msgId}", "1");
        let answer = admin.request(Method::TRACE, &concrete, &[], None).expect("an answer");
        assert_eq!(answer.status, 405, "{path}");
        let allowed: BTreeSet<String> = answer.header("allow").split(',').map(|one| one.trim().to_owned()).collect();
        assert_eq!(allowed, documented, "{path}");
    }
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

/// Calls `look` with every schema of the document, wherever it stands, and the place.
fn each_schema<'a>(value: &'a Value, place: &str, look: &mut impl FnMut(&str, &'a Value)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let inside = format!("{place}/{name}");
                let is_schema = matches!(name.as_str(), "schema" | "items") || place.ends_with("/properties");
                if is_schema || place.ends_with("/schemas") {
                    look(&inside, field);
                }
                // An example is data, whatever its fields are called.
                if !matches!(name.as_str(), "example" | "examples" | "default") {
                    each_schema(field, &inside, look);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_schema(item, place, look)),
        _ => {}
    }
}

/// What a program that makes a client of the document trips over.
#[test]
fn a_client_can_be_made_from_the_document() {
    let server = Server::start();
    let document = document(&server.admin());
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    assert_eq!(document["servers"][0]["url"], "/");
    let tags: Vec<&str> =
        document["tags"].as_array().expect("tags").iter().filter_map(|tag| tag["name"].as_str()).collect();
    for (path, method, operation) in operations(&document) {
        let place = format!("{method} {path}");
        assert!(operation["tags"][0].as_str().is_some_and(|tag| tags.contains(&tag)), "{place}: its tag says nothing");
        let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
        let of_its_path = parameters.iter().filter(|one| one["in"] == "path");
        let in_path: Vec<&str> = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let declared: Vec<&str> = of_its_path.filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(declared, in_path, "{place}: the parameters of its path");
        for parameter in &parameters {
            assert_eq!(parameter["required"], parameter["in"] == "path", "{place}: {}", parameter["name"]);
            assert!(!parameter["schema"].is_null() && parameter["description"].is_string(), "{place}: {parameter}");
        }
        for (status, response) in operation["responses"].as_object().expect("responses") {
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{place} {status}");
            let media = response["content"].as_object().into_iter().flatten();
            for (media_type, content) in media {
                let schema = resolved(&document, &content["schema"]);
                let is_text = media_type.starts_with("text/") || media_type == "application/x-ndjson";
                let is_json = media_type == "application/json";
                match schema["format"].as_str() {
                    Some("binary") => assert!(!is_text && !is_json, "{place} {status} {media_type}"),
                    _ => assert!(is_text || is_json, "{place} {status}: {media_type} is no text: {schema}"),
                }
            }
        }
    }
    let known = ["string", "integer", "number", "boolean", "array", "object", "null"];
    each_schema(&document, "", &mut |place, schema| {
        let types = match &schema["type"] {
            Value::String(name) => vec![name.as_str()],
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        assert!(types.iter().all(|name| known.contains(name)), "{place}: {types:?}");
        assert!(!types.contains(&"array") || !schema["items"].is_null(), "{place}: an array of nothing");
        let parts = schema["allOf"].as_array().into_iter().flatten().map(|part| resolved(&document, part));
        for part in parts {
            assert!(part["additionalProperties"] != false, "{place}: its parts exclude each other");
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required {
            assert!(schema["properties"].get(name.as_str().expect("a name")).is_some(), "{place}: {name} is required");
        }
        let example = schema.get("example").or_else(|| schema["examples"].get(0));
        let wrong = example.and_then(|example| mismatch(&document, schema, example));
        assert_eq!(wrong, None, "{place}: its example");
    });
    assert_eq!(document["components"]["schemas"]["ConversationType"]["enum"], json!(["ai", "group"]));
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    for name in schemas.keys() {
        assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name} is no name of a schema");
    }
    for name in
        ["QueryRequest", "QueryResponse", "SendMessageRequest", "UploadResponse", "ContentLinkResponse", "ErrorBody"]
    {
        let schema = &schemas[name];
        assert!(schema.get("example").is_some() || schema.get("examples").is_some(), "{name} has an example");
    }
}

/// The headers that the document names are those that come.
#[test]
fn headers_are_documented_and_sent() {
    let server = server();
    let admin = server.admin();
    let document = document(&admin);
    let operations = operations(&document);
    let documented = |path: &str, status: u16| -> BTreeSet<String> {
        let (_, _, operation) = operations.iter().find(|(of, ..)| of == path).expect("the operation");
        let headers = operation["responses"][status.to_string()]["headers"].as_object();
        headers.into_iter().flatten().map(|(name, _)| name.to_lowercase()).collect()
    };
    let get = |headers: &[(&str, &str)]| admin.request(Method::GET, CONTENT, headers, None).expect("an answer");
    let whole = get(&[]);
    let tag = whole.header("etag").to_owned();
    let nobody = server.client_with_token(None);
    for (answer, path) in [
        (get(&[("range", "bytes=0-9")]), "/api/v1/content/{contentRef}"),
        (get(&[("if-none-match", tag.as_str())]), "/api/v1/content/{contentRef}"),
        (get(&[("range", "bytes=900000-")]), "/api/v1/content/{contentRef}"),
        (whole, "/api/v1/content/{contentRef}"),
        (nobody.request(Method::POST, "/api/v1/query", &[], Some("{}")).expect("an answer"), "/api/v1/query"),
        (admin.request(Method::PUT, "/api/v1/query", &[], None).expect("an answer"), "/api/v1/query"),
    ] {
        let named = documented(path, answer.status);
        assert!(!named.is_empty(), "{path} {}", answer.status);
        for name in named {
            assert!(!answer.header(&name).is_empty(), "{path} {}: no {name}", answer.status);
        }
    }
}

/// Frames as both sides send them, held against their schemas.
#[test]
fn frames_are_documented() {
    let server = Server::start();
    let document = document(&server.admin());
    let fits = |schema: &str, frame: Value| {
        let schema = &document["components"]["schemas"][schema];
        assert_eq!(mismatch(&document, schema, &frame), None, "{frame}");
    };
    let position = json!({ "epoch": 1, "seq": 2, "n": 0 });
    for frame in [
        json!({ "type": "auth", "token": "t" }),
        json!({ "type": "subscribe", "id": "i", "sql": "SELECT * FROM messages", "params": [1], "lastMsgId": 5 }),
        json!({ "type": "subscribe", "conversationId": "c", "conversationType": "ai", "after": position }),
        json!({ "type": "unsubscribe", "id": "i" }),
        json!({ "type": "ping" }),
    ] {
        fits("ClientFrame", frame);
    }
    for frame in [
        json!({ "type": "subscribe_ack", "id": "i", "position": position }),
        json!({ "type": "replay_complete", "id": "i", "messageCount": 15, "lastMsgId": 9 }),
        json!({ "type": "error", "code": "lagged", "error": "Go on.", "details": { "resumeAfter": position } }),
        json!({ "type": "error", "id": "i", "code": "syntax_error", "error": "No." }),
        json!({ "type": "pong" }),
        json!({ "type": "server_ping" }),
    ] {
        fits("ServerFrame", frame);
    }
    for frame in [
        json!({ "type": "message", "id": "i", "position": position, "message": { "msgId": 1 } }),
        json!({ "type": "update", "id": "i", "position": position, "message": { "msgId": 1 } }),
        json!({ "type": "delete", "id": "i", "position": position, "msgId": 1 }),
        json!({ "type": "delete", "id": "i", "position": position, "conversationId": "c", "conversationType": "ai" }),
    ] {
        fits("RowFrame", frame);
    }
}
