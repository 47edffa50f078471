//! Links to content: addresses that read one file without a token, as `<img>` and `<video>` do.
//!
//! Invariant: whoever reads here by a link has no token, but where a test says so.

use std::time::{SystemTime, UNIX_EPOCH};

use image::{ImageFormat, RgbImage};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use kalamdb_protocol::{ContentLinkResponse, ErrorCode, SendMessageRequest};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Browser, Client, Events, Failure, Server, eventually, message};

const LIST: &[u8] = b"bread, milk";

/// A link to that file, for ten minutes.
#[track_caller]
fn link(client: &Client, content_ref: &str) -> String {
    let link = ask(client, json!({ "contentRef": content_ref })).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(link.url.starts_with("/api/v1/content/"), "{}", link.url);
    link.url
}

#[allow(clippy::needless_pass_by_value)] // So that a call reads `ask(client, json!({…}))`.
fn ask(client: &Client, body: Value) -> Result<ContentLinkResponse, Failure> {
    client.post("/api/v1/content/link", &body)
}

/// What somebody without a token gets at that address.
fn get(server: &Server, url: &str) -> Answer {
    get_with(server, Method::GET, url, &[])
}

fn get_with(server: &Server, method: Method, url: &str, headers: &[(&str, &str)]) -> Answer {
    server.client_with_token(None).request(method, url, headers, None).expect("an answer")
}

#[track_caller]
fn is_refused(answer: &Answer, code: ErrorCode, reason: Option<&str>) {
    let error = answer.refusal().error;
    assert_eq!(error.error, code, "{}", error.message);
    assert_eq!(error.details.get("reason").and_then(Value::as_str), reason, "{}", error.message);
}

fn picture() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::new(320, 240).write_to(&mut bytes, ImageFormat::Png).expect("a picture");
    bytes.into_inner()
}

#[test]
fn a_link_reads_its_file_as_a_token_does() {
    let server = Server::start();
    // Whose folder holds what an address cannot.
    let zoe = server.client("auth0|Zoë/1");
    let content_ref = zoe.upload(LIST, "c d").expect("it is taken").content_ref;
    let url = link(&zoe, &content_ref);
    let (by_token, by_link) = (zoe.content(&content_ref), get(&server, &url));
    assert_eq!((by_link.status, by_link.body.as_slice()), (200, LIST));
    for name in ["content-type", "content-disposition", "content-length", "etag", "accept-ranges", "last-modified"] {
        assert_eq!(by_link.header(name), by_token.header(name), "{name}");
    }
    for answer in [&by_token, &by_link] {
        assert_eq!(answer.header("cache-control"), "private, no-cache");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    // As a player and a browser's cache ask.
    let part = get_with(&server, Method::GET, &url, &[("range", "bytes=7-10")]);
    assert_eq!((part.status, part.body.as_slice()), (206, &LIST[7..]));
    assert_eq!(part.header("content-range"), "bytes 7-10/11");
    let outside = get_with(&server, Method::GET, &url, &[("range", "bytes=11-")]);
    is_refused(&outside, ErrorCode::RangeNotSatisfiable, None);
    let known = get_with(&server, Method::GET, &url, &[("if-none-match", by_link.header("etag"))]);
    assert_eq!((known.status, known.body.len()), (304, 0));
    let head = get_with(&server, Method::HEAD, &url, &[]);
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, "11"));
    // Its slashes as some clients write them.
    let (path, query) = url["/api/v1/content/".len()..].split_once('?').expect("a link");
    let encoded = format!("/api/v1/content/{}?{query}", path.replace('/', "%2F"));
    assert_eq!(get(&server, &encoded).body, LIST);
}

#[test]
fn large_texts_pictures_and_their_thumbnails_have_links() {
    let server = Server::start();
    let (alice, bob) = (server.client("user_alice"), server.client("user_bob"));
    alice.make_group("g|1", &["user_bob"]);
    let uploaded = alice.upload(&picture(), "g|1").expect("it is taken");
    let thumbnail = uploaded.metadata.thumbnail_ref.expect("a thumbnail");
    let sent = SendMessageRequest { content_ref: Some(uploaded.content_ref.clone()), ..message("g|1", "look") };
    alice.send(&sent).expect("it is sent");
    let text = "a long text, ".repeat(20_000);
    let msg_id = alice.say("g|1", &text);
    let text_ref = bob.texts(&format!("SELECT contentRef FROM messages WHERE msgId = {msg_id}")).remove(0);
    for client in [&alice, &bob] {
        assert_eq!(get(&server, &link(client, &uploaded.content_ref)).header("content-type"), "image/png");
        assert!(get(&server, &link(client, &thumbnail)).header("content-type").starts_with("image/"));
        assert_eq!(get(&server, &link(client, &text_ref)).text(), text);
    }
}

#[test]
fn a_link_reads_no_other_file() {
    let server = Server::start();
    let (john, amy) = (server.client("user_john"), server.client("user_amy"));
    let [one, other] = [LIST, b"another list"].map(|file| john.upload(file, "c").expect("it is taken").content_ref);
    let hers = amy.upload(LIST, "c").expect("it is taken").content_ref;
    let url = link(&john, &one);
    let (_, query) = url.split_once('?').expect("a link");
    let nothing = john.content("user_john/media-1.jpg");
    for path in [&other, &hers, "user_john/media-1.jpg"] {
        let answer = get(&server, &format!("/api/v1/content/{path}?{query}"));
        is_refused(&answer, ErrorCode::NotFound, None);
        assert_eq!(answer.body, nothing.body, "{path}");
    }
    // Nothing else is let in by it.
    for path in ["/api/v1/conversations", "/api/v1/messages", "/api/v1/live", "/api/v1/content/link"] {
        is_refused(&get(&server, &format!("{path}?{query}")), ErrorCode::Unauthorized, Some("missing"));
    }
    // Where there is a token, it is the token that counts: hers does not read his file, and a bad one reads nothing.
    is_refused(&amy.request(Method::GET, &url, &[], None).expect("an answer"), ErrorCode::NotFound, None);
    let bad = server.client_with_token(Some("bad")).request(Method::GET, &url, &[], None).expect("an answer");
    is_refused(&bad, ErrorCode::Unauthorized, Some("malformed"));
    assert_eq!(john.request(Method::GET, &url, &[], None).expect("an answer").body, LIST);
}

#[test]
fn what_is_no_link_of_this_server_is_refused() {
    let server = Server::start();
    let john = server.client("user_john");
    let content_ref = john.upload(LIST, "c").expect("it is taken").content_ref;
    let url = link(&john, &content_ref);
    let (path, good) = url.split_once("?link=").expect("a link");
    let stranger = Server::start();
    let theirs = stranger.client("user_john");
    let foreign = link(&theirs, &theirs.upload(LIST, "c").expect("it is taken").content_ref);
    let foreign = foreign.split_once("?link=").expect("a link").1;
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    let token = server.token("user_john", false);
    let bad = [
        token.clone(),
        server.token("admin", true),
        foreign.to_owned(),
        signed.to_owned(),
        format!("{signed}."),
        format!("{signed}.{}", signature.chars().rev().collect::<String>()),
        format!("{good}x"),
        "x".to_owned(),
        "x".repeat(20_000),
    ];
    for bad in bad {
        is_refused(&get(&server, &format!("{path}?link={bad}")), ErrorCode::Unauthorized, Some("signature"));
    }
    for none in ["", "?link=", "?Link=x"] {
        is_refused(&get(&server, &format!("{path}{none}")), ErrorCode::Unauthorized, Some("missing"));
    }
    // A link is no token, wherever one may stand; nor does a token stand in the address here.
    let by_link = server.client_with_token(Some(good));
    is_refused(&by_link.content(&content_ref), ErrorCode::Unauthorized, Some("signature"));
    assert_eq!(by_link.query("SELECT 1").expect_err("it is no token").code(), Some(ErrorCode::Unauthorized));
    let live = Events::refused(&server.client_with_token(None), &format!("/api/v1/live?token={good}"), &[]);
    is_refused(&live, ErrorCode::Unauthorized, Some("signature"));
    is_refused(&get(&server, &format!("{path}?token={token}")), ErrorCode::Unauthorized, Some("missing"));
}

#[test]
fn a_link_ends_when_it_says_and_with_its_token() {
    const SECRET: &str = "a secret of at least thirty-two bytes, for tests";
    let server = Server::with(&[("server.jwt_secret", SECRET)]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
    let token_end = now + 7_000;
    let claims = json!({ "sub": "user_john", "exp": token_end });
    let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()));
    let john = server.client_with_token(Some(&token.expect("a token")));
    let content_ref = john.upload(LIST, "c").expect("it is taken").content_ref;
    let end = |seconds: Option<u64>| {
        let mut body = json!({ "contentRef": content_ref });
        if let Some(seconds) = seconds {
            body["ttlSeconds"] = json!(seconds);
        }
        ask(&john, body).expect("a link").expires_at
    };
    let micros = |seconds: u64| i64::try_from(seconds).expect("seconds fit") * 1_000_000;
    assert_eq!(end(Some(14_400)), micros(token_end));
    // Asked for between `now` and the token's end, however slow the machine is.
    for (asked, seconds) in [(None, 600), (Some(60), 60)] {
        assert!((micros(now + seconds)..=micros(token_end)).contains(&end(asked)), "{asked:?}");
    }
    let short = ask(&john, json!({ "contentRef": content_ref, "ttlSeconds": 1 })).expect("a link").url;
    eventually("it ends", || get(&server, &short).status == 401);
    is_refused(&get(&server, &short), ErrorCode::Unauthorized, Some("expired"));
}

#[test]
fn a_link_gives_no_right() {
    let server = Server::start();
    let (alice, bob) = (server.client("user_alice"), server.client("user_bob"));
    alice.make_group("g", &["user_bob"]);
    let content_ref = alice.upload(LIST, "g").expect("it is taken").content_ref;
    let before = ask(&bob, json!({ "contentRef": content_ref })).expect_err("it is not sent yet");
    assert_eq!(before.code(), Some(ErrorCode::NotFound));
    let sent = SendMessageRequest { content_ref: Some(content_ref.clone()), ..message("g", "look") };
    let msg_id = alice.send(&sent).expect("it is sent").msg_id;
    let [of_alice, of_bob] = [&alice, &bob].map(|client| link(client, &content_ref));
    // Who leaves keeps what they have; who deletes their copy does not, until it comes back.
    bob.run("DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'user_bob'");
    assert_eq!(get(&server, &of_bob).status, 200);
    bob.run("DELETE FROM messages");
    is_refused(&get(&server, &of_bob), ErrorCode::NotFound, None);
    assert_eq!(get(&server, &of_alice).status, 200);
    bob.run(&format!("UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = {msg_id}"));
    assert_eq!(get(&server, &of_bob).status, 200);
    // Who has none gets no link, whoever they are.
    for client in [server.client("user_eve"), server.admin()] {
        let refused = ask(&client, json!({ "contentRef": content_ref })).expect_err("it is not theirs");
        assert_eq!(refused.code(), Some(ErrorCode::NotFound));
    }
    let nobody = server.client_with_token(None);
    let refused = ask(&nobody, json!({ "contentRef": content_ref })).expect_err("nobody asks");
    assert_eq!(refused.code(), Some(ErrorCode::Unauthorized));
}

#[test]
fn what_is_asked_for_has_its_form() {
    let server = Server::start();
    let john = server.client("user_john");
    let content_ref = john.upload(LIST, "c").expect("it is taken").content_ref;
    for bad in [
        json!({}),
        json!({ "contentRef": 5 }),
        json!({ "contentRef": content_ref, "ttl": 60 }),
        json!({ "contentRef": content_ref, "ttlSeconds": 0 }),
        json!({ "contentRef": content_ref, "ttlSeconds": 14_401 }),
        json!({ "contentRef": content_ref, "ttlSeconds": -1 }),
        json!({ "contentRef": content_ref, "ttlSeconds": "60" }),
    ] {
        let refused = ask(&john, bad.clone()).expect_err("it is refused");
        assert_eq!(refused.code(), Some(ErrorCode::InvalidValue), "{bad}");
    }
    let body = json!({ "contentRef": content_ref, "ttlSeconds": 14_400 }).to_string();
    let answer = john.request(Method::POST, "/api/v1/content/link", &[], Some(&body)).expect("an answer");
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
}

#[test]
fn a_link_is_in_no_log_line_and_in_no_metric() {
    let server = Server::with(&[("log.level", "trace")]);
    let john = server.client("user_john");
    let url = link(&john, &john.upload(LIST, "c").expect("it is taken").content_ref);
    assert_eq!(get(&server, &url).status, 200);
    assert_eq!(get(&server, &format!("{url}x")).status, 401);
    let metrics = get(&server, "/metrics").text();
    let log = server.log_text();
    let text = url.split_once("?link=").expect("a link").1;
    for told in [&log, &metrics] {
        assert!(told.contains("/api/v1/content/{*contentRef}"), "{told}");
        for part in text.split('.') {
            assert!(!told.contains(part), "a part of the link is told");
        }
    }
}

/// A real browser, on a page that comes from elsewhere.
#[test]
fn a_page_shows_a_picture_by_its_link() {
    let server = Server::start();
    let john = server.client("user_john");
    let content_ref = john.upload(&picture(), "c").expect("it is taken").content_ref;
    let address = |url: &str| format!("{}{url}", server.url());
    let (linked, bare) = (link(&john, &content_ref), format!("/api/v1/content/{content_ref}"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("page.html");
    let images = format!("<img src='{}'><img src='{}'>", address(&linked), address(&bare));
    std::fs::write(&page, images).expect("it is written");
    let mut page = Browser::open(&format!("file://{}", page.display()));
    let widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)");
    assert_eq!(widths, json!([320, 0]));
}
