//! Reading content files: large texts and uploads, whole and in parts, and by nobody who may not.
//!
//! Invariant: what one may not read and what never was are told apart by nothing: one status, one body.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use kalamdb_protocol::{ErrorCode, SendMessageRequest};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Client, Server, eventually, message};

/// A text of some 200 KB, each line another, with characters of two bytes.
fn long_text() -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for line in 0..5_000 {
        writeln!(text, "Zeile {line}: ein Stück des Ganzen, für später.").expect("a String takes it");
    }
    text
}

/// Content, `contentRef` and metadata of the only message of a client.
fn row(client: &Client) -> (String, Option<String>, Value) {
    let rows = client.rows("SELECT content, contentRef, metadata FROM userId.messages");
    let [row] = <[Vec<Value>; 1]>::try_from(rows).expect("one message");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let metadata = text(&row[2]).map_or(Value::Null, |text| serde_json::from_str(&text).expect("JSON"));
    (text(&row[0]).expect("a text"), text(&row[1]), metadata)
}

/// The only message is the beginning of `whole`, and its reference leads to all of it.
#[track_caller]
fn is_large(client: &Client, whole: &str, also: &Value) -> String {
    let (content, content_ref, metadata) = row(client);
    assert!(content.len() <= 1024 && content.len() > 1020 && whole.starts_with(&content), "{content}");
    let mut expected = json!({ "contentType": "text/plain", "fullSize": whole.len() });
    for (name, value) in also.as_object().into_iter().flatten() {
        expected[name] = value.clone();
    }
    assert_eq!(metadata, expected);
    let content_ref = content_ref.expect("a reference");
    let read = client.content(&content_ref);
    assert_eq!(read.status, 200, "{}", read.text());
    assert!(read.body == whole.as_bytes(), "it comes back as it was");
    assert_eq!(read.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(read.header("content-disposition"), "inline");
    content_ref
}

/// The content files of a folder below the base path.
fn files(server: &Server, folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(server.data().join(folder)) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("batch-")).collect();
    names.sort();
    names
}

/// It is refused as what never was is.
#[track_caller]
fn is_nothing(client: &Client, content_ref: &str) {
    let (refused, nothing) = (client.content(content_ref), client.content("user_nobody/media-1.jpg"));
    assert_eq!(refused.refusal().error.error, ErrorCode::NotFound, "{content_ref}");
    assert_eq!(refused.body, nothing.body, "{content_ref}");
}

// --- large texts

#[test]
fn a_large_text_comes_back_whole_however_it_was_sent() {
    let server = Server::start();
    let whole = long_text();
    let (john, alice) = (server.client("user_john"), server.client("user_alice"));
    let metadata = json!({ "role": "user" });
    let sent = SendMessageRequest { metadata: metadata.as_object().cloned(), ..message("c", &whole) };
    let msg_id = john.send(&sent).expect("it is sent").msg_id;
    assert_eq!(is_large(&john, &whole, &metadata), format!("user_john/msg-{msg_id}.bin"));
    alice
        .write_params("INSERT INTO messages (conversationId, content) VALUES ('c', $1)", json!([whole]))
        .expect("it is sent");
    is_large(&alice, &whole, &Value::Null);
    // Cold as well as hot.
    server.admin().consolidate();
    is_large(&john, &whole, &metadata);
}

#[test]
fn a_text_moves_across_the_threshold_by_edits() {
    let server = Server::start();
    let john = server.client("user_john");
    let whole = long_text();
    john.say("c", "short");
    let edit = |text: &str| {
        let edited = john.write_params("UPDATE userId.messages SET content = $1", json!([text])).expect("it is edited");
        assert_eq!(edited.rows_affected, 1);
    };
    edit(&whole);
    let first = is_large(&john, &whole, &Value::Null);
    let other = whole.replace("Stück", "Teil");
    edit(&other);
    let second = is_large(&john, &other, &Value::Null);
    assert_ne!(first, second, "a file is written once");
    is_nothing(&john, &first);
    edit("short again");
    assert_eq!(row(&john), ("short again".to_owned(), None, Value::Null));
    is_nothing(&john, &second);
    eventually("its files are removed", || files(&server, "user_john").is_empty());
    edit(&whole);
    is_large(&john, &whole, &Value::Null);
}

#[test]
fn a_group_s_large_text_is_stored_once() {
    let server = Server::start();
    let (alice, bob) = (server.client("user_alice"), server.client("user_bob"));
    alice.make_group("g", &["user_bob", "user_carol"]);
    let whole = long_text();
    let msg_id = alice.say("g", &whole);
    let carol = server.client("user_carol");
    for client in [&alice, &bob, &carol] {
        assert_eq!(is_large(client, &whole, &Value::Null), format!("shared/conversations/g/msg-{msg_id}.bin"));
    }
    assert_eq!(files(&server, "shared/conversations/g"), [format!("msg-{msg_id}.bin")]);
    for user in ["user_alice", "user_bob", "user_carol"] {
        assert_eq!(files(&server, user), [""; 0], "{user}");
    }
    // An edit by its sender reaches them all.
    let other = whole.replace("Stück", "Teil");
    alice.write_params("UPDATE messages SET content = $1", json!([other])).expect("it is hers");
    for client in [&alice, &bob, &carol] {
        is_large(client, &other, &Value::Null);
    }
}

#[test]
fn a_large_text_takes_no_other_file() {
    let server = Server::start();
    let john = server.client("user_john");
    let content_ref = john.upload(b"bread, milk", "c").expect("it is taken").content_ref;
    let both = SendMessageRequest { content_ref: Some(content_ref.clone()), ..message("c", &long_text()) };
    assert_eq!(john.send(&both).expect_err("one of them").code(), Some(ErrorCode::InvalidValue));
    let sql = "INSERT INTO messages (conversationId, content, contentRef) VALUES ('c', $1, $2)";
    let refused = john.write_params(sql, json!([long_text(), content_ref])).expect_err("one of them");
    assert_eq!(refused.code(), Some(ErrorCode::InvalidValue));
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 0);
    assert_eq!(server.spooled(), [""; 0]);
}

// --- parts, and what a client has already

#[test]
fn a_part_is_read_as_http_has_it() {
    let server = Server::start();
    let john = server.client("user_john");
    let whole: Vec<u8> = (0..10_000).flat_map(|line| format!("{line:04}\n").into_bytes()).collect();
    let content_ref = john.upload(&whole, "c").expect("it is taken").content_ref;
    let ask = |headers: &[(&str, &str)]| john.content_with(Method::GET, &content_ref, headers);
    let all = ask(&[]);
    assert_eq!((all.status, all.header("accept-ranges"), all.header("content-length")), (200, "bytes", "50000"));
    assert!(all.header("last-modified").ends_with(" GMT"), "{}", all.header("last-modified"));
    assert_eq!(all.header("cache-control"), "private, no-cache");
    for (range, part) in [("bytes=0-4", 0..5), ("bytes=49995-", 49_995..50_000), ("bytes=-5", 49_995..50_000)] {
        let answer = ask(&[("range", range)]);
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.body, whole[part.clone()], "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {}-{}/50000", part.start, part.end - 1));
        assert_eq!(answer.header("content-length"), "5");
    }
    for range in ["bytes=0-4,10-14", "bytes=nonsense", "lines=1-2"] {
        let answer = ask(&[("range", range)]);
        assert!(answer.status == 200 && answer.body == whole, "{range}");
    }
    let outside = ask(&[("range", "bytes=50000-")]);
    assert_eq!(outside.refusal().error.error, ErrorCode::RangeNotSatisfiable);
    assert_eq!(outside.header("content-range"), "bytes */50000");

    let tag = all.header("etag");
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    assert_eq!(ask(&[("range", "bytes=0-4"), ("if-range", tag)]).status, 206);
    assert_eq!(ask(&[("range", "bytes=0-4"), ("if-range", "\"another\"")]).status, 200);
}

#[test]
fn a_client_that_has_a_file_is_not_sent_it_again() {
    let server = Server::start();
    let john = server.client("user_john");
    let content_ref = john.upload(b"bread, milk", "c").expect("it is taken").content_ref;
    let first = john.content(&content_ref);
    let tag = first.header("etag");
    let again = john.content_with(Method::GET, &content_ref, &[("if-none-match", tag)]);
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, tag));
    assert_eq!(john.content_with(Method::GET, &content_ref, &[("if-none-match", "\"another\"")]).status, 200);
    let other = john.upload(b"bread, milk", "c").expect("it is taken").content_ref;
    assert_ne!(john.content(&other).header("etag"), tag);
}

#[test]
fn head_answers_what_get_would_without_the_bytes() {
    let server = Server::start();
    let john = server.client("user_john");
    let content_ref = john.upload(b"bread, milk", "c").expect("it is taken").content_ref;
    let (get, head) = (john.content(&content_ref), john.content_with(Method::HEAD, &content_ref, &[]));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-type", "content-length", "content-disposition", "etag", "accept-ranges", "last-modified"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
        assert_ne!(head.header(name), "", "{name}");
    }
    let part = john.content_with(Method::HEAD, &content_ref, &[("range", "bytes=0-1")]);
    assert_eq!((part.status, part.header("content-length")), (200, "11"));
    let known = john.content_with(Method::HEAD, &content_ref, &[("if-none-match", get.header("etag"))]);
    assert_eq!(known.status, 304);
    assert_eq!(john.content_with(Method::HEAD, "user_john/media-1.jpg", &[]).status, 404);
}

// --- names

/// Sends a request target as it is, which an HTTP library would tidy up first; answers status and body.
fn raw(server: &Server, user: &str, target: &str) -> (u16, String) {
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).expect("the server listens");
    let head = format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        server.token(user, false)
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

#[test]
fn a_name_leads_to_its_file_however_it_is_encoded() {
    let server = Server::start();
    for user in ["auth0|123", "a/b", "Zoë", "user_john"] {
        let client = server.client(user);
        let taken = client.upload(b"bread, milk", "c d").expect("it is taken").content_ref;
        let slashes = taken.replace('/', "%2F");
        let all = slashes.replace('%', "%25").replace("%252F", "%2F");
        for name in [&taken, &slashes, &all, &taken.replace('%', "%25")] {
            let (status, body) = raw(&server, user, &format!("/api/v1/content/{name}"));
            assert_eq!((status, body.as_str()), (200, "bread, milk"), "{name}");
        }
    }
}

#[test]
fn no_name_leads_out_of_ones_own_files() {
    let server = Server::start();
    let (john, alice) = (server.client("user_john"), server.client("user_alice"));
    let hers = alice.upload(b"bread, milk", "c").expect("it is taken").content_ref;
    let his = john.upload(b"bread, milk", "c").expect("it is taken").content_ref;
    let (folder, name) = his.split_once('/').expect("a folder");
    server.admin().consolidate();
    let (status, nothing) = raw(&server, "user_john", "/api/v1/content/user_nobody/media-1.jpg");
    assert_eq!(status, 404);
    let secret = ".kalamdb/secret";
    let mut names = vec![
        hers.clone(),
        format!("{folder}/../{hers}"),
        format!("{folder}/%2e%2e/{hers}"),
        format!("{folder}/%2E%2E%2F{hers}"),
        format!("{folder}/..%5c{hers}"),
        format!("{folder}/./{name}"),
        format!("{folder}//{name}"),
        format!("/{his}"),
        format!("./{his}"),
        format!("{his}/"),
        format!("{his}%00"),
        format!("{his}%00.jpg"),
        his.to_uppercase(),
        folder.to_owned(),
        "%ff%fe".to_owned(),
        "/etc/passwd".to_owned(),
        "%2fetc%2fpasswd".to_owned(),
        "file:///etc/passwd".to_owned(),
        secret.to_owned(),
        "shared/conversations/".to_owned(),
    ];
    for depth in 1..12 {
        names.push(format!("{}etc/passwd", "../".repeat(depth)));
        names.push(format!("{}etc%2fpasswd", "%2e%2e%2f".repeat(depth)));
        names.push(format!("{}etc%252fpasswd", "%252e%252e%252f".repeat(depth)));
        names.push(format!("{folder}/{}{secret}", "../".repeat(depth)));
    }
    names.push(server.data().join(&his).to_string_lossy().into_owned());
    for name in names {
        let answer = raw(&server, "user_john", &format!("/api/v1/content/{name}"));
        assert_eq!(answer, (404, nothing.clone()), "{name}");
    }
    assert_eq!(raw(&server, "user_john", &format!("/api/v1/content/{his}")).0, 200);
}

/// Segments lie in one's own folder, and are no content.
#[test]
fn only_content_is_content() {
    let server = Server::start();
    let john = server.client("user_john");
    john.say("c", "hello");
    server.admin().consolidate();
    let segments = server.segment_files();
    assert_eq!(segments.len(), 1);
    is_nothing(&john, &segments[0]);
}

// --- who may read

#[test]
fn a_group_s_files_are_for_those_who_have_the_message() {
    let server = Server::start();
    let (alice, bob) = (server.client("user_alice"), server.client("user_bob"));
    alice.make_group("g", &["user_bob"]);
    let uploaded = alice.upload(b"bread, milk", "g").expect("it is taken").content_ref;
    let with_file = SendMessageRequest { content_ref: Some(uploaded.clone()), ..message("g", "look") };
    alice.send(&with_file).expect("it is sent");
    let text = format!("shared/conversations/g/msg-{}.bin", alice.say("g", &long_text()));

    alice.run("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'user_late')");
    let (late, eve) = (server.client("user_late"), server.client("user_eve"));
    for content_ref in [&uploaded, &text] {
        assert_eq!((alice.content(content_ref).status, bob.content(content_ref).status), (200, 200));
        is_nothing(&late, content_ref);
        is_nothing(&eve, content_ref);
    }
    // An admin reads messages with SQL; a file is for who has it, and an admin has none.
    is_nothing(&server.admin(), &text);

    // Who leaves keeps what they have; who deletes their copy does not.
    bob.run("DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'user_bob'");
    assert_eq!(bob.content(&text).status, 200);
    bob.run("DELETE FROM messages");
    for content_ref in [&uploaded, &text] {
        is_nothing(&bob, content_ref);
        assert_eq!(alice.content(content_ref).status, 200);
    }
}

#[test]
fn a_deleted_message_s_file_comes_back_with_it() {
    let server = Server::start();
    let john = server.client("user_john");
    let msg_id = john.say("c", &long_text());
    let text = format!("user_john/msg-{msg_id}.bin");
    let tag = john.content(&text).header("etag").to_owned();
    john.run("DELETE FROM messages");
    is_nothing(&john, &text);
    // What a browser has kept is not shown either: it asks first.
    assert_eq!(john.content_with(Method::GET, &text, &[("if-none-match", &tag)]).status, 404);
    john.run(&format!("UPDATE userId.deletedMessages SET deletedAt = NULL WHERE msgId = {msg_id}"));
    assert_eq!(john.content(&text).status, 200);
    john.run("DELETE FROM messages");
    john.run("DELETE FROM userId.deletedMessages");
    is_nothing(&john, &text);
    eventually("the file is removed", || files(&server, "user_john").is_empty());
}

#[test]
fn what_is_deleted_for_good_is_gone_at_once() {
    let server = Server::with(&[("deletion.soft_delete_enabled", "false")]);
    let john = server.client("user_john");
    let hot = john.say("c", "short");
    let text = format!("user_john/msg-{}.bin", john.say("c", &long_text()));
    assert_eq!(john.content(&text).status, 200);
    assert_eq!(john.run("DELETE FROM messages"), 2);
    assert_eq!(john.number("SELECT COUNT(*) FROM deletedMessages"), 0);
    let back = format!("UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = {hot}");
    assert_eq!(john.run(&back), 0);
    is_nothing(&john, &text);
    eventually("the file is removed", || files(&server, "user_john").is_empty());
}

#[test]
fn a_token_is_needed() {
    let server = Server::start();
    let content_ref = server.client("user_john").upload(b"bread, milk", "c").expect("it is taken").content_ref;
    let nobody = server.client_with_token(None);
    assert_eq!(nobody.content(&content_ref).refusal().error.error, ErrorCode::Unauthorized);
    let form = nobody.post_form(&[("file", b"bread"), ("conversationId", b"c")]).expect("an answer");
    assert_eq!(form.refusal().error.error, ErrorCode::Unauthorized);
}
