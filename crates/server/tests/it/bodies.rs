//! Bodies of requests: how many there may be at a time, what becomes of those that are refused, do not come, or say too
//! much.
//!
//! Invariant: a client that is refused reads why, however it sends; what one user sends is never felt by another.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use kalamdb_protocol::{ErrorBody, ErrorCode};
use reqwest::Method;
use serde_json::json;

use crate::harness::{BOUNDARY, Server, eventually, form};

/// A connection on which a request's head has been sent.
fn begun(server: &Server, token: &str, path: &str, headers: &str) -> TcpStream {
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_mins(1))).expect("it can be set");
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).expect("it is sent");
    stream
}

/// The error that a connection answers, to its end.
#[track_caller]
fn refusal(mut stream: TcpStream) -> ErrorBody {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the connection is closed in order");
    let text = String::from_utf8(answer).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).expect("a status");
    let error: ErrorBody = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}"));
    assert_eq!(error.error.status().to_string(), status);
    error
}

/// A connection on which that has been sent.
fn said(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_mins(1))).expect("it can be set");
    stream.write_all(bytes).expect("all of it is taken");
    stream
}

/// Like `fetch` and other clients, it looks for the answer when all is sent.
#[track_caller]
fn refused_when_sent(server: &Server, token: &str, path: &str, headers: &str, body: &[u8]) -> ErrorBody {
    let mut stream = begun(server, token, path, &format!("{headers}Content-Length: {}\r\n", body.len()));
    stream.write_all(body).expect("all of it is taken");
    refusal(stream)
}

#[test]
fn a_refused_body_gets_its_sentence() {
    let server = Server::start();
    let token = server.token("user_john", false);
    let long = json!({ "conversationId": "c", "content": "x".repeat(34_000_000) }).to_string();
    let form_type = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n");
    let mut program = b"MZ".to_vec();
    program.resize(300_000, 0);
    let program = form(&[("file", &program), ("conversationId", b"c")]);
    let picture = form(&[("file", &vec![b'x'; 5_000_000]), ("conversationId", b"c")]);
    for _ in 0..5 {
        let told = refused_when_sent(&server, &token, "/api/v1/messages", "", long.as_bytes());
        assert_eq!(told.error, ErrorCode::PayloadTooLarge, "{}", told.message);
        let told = refused_when_sent(&server, &token, "/api/v1/media/upload", &form_type, &program);
        assert_eq!(told.error, ErrorCode::InvalidValue, "{}", told.message);
        let told = refused_when_sent(&server, "ended", "/api/v1/media/upload", &form_type, &picture);
        assert_eq!(told.error, ErrorCode::Unauthorized, "{}", told.message);
    }
    eventually("the spool is empty", || server.spooled().is_empty());
}

#[test]
fn a_body_that_does_not_come_is_a_timeout() {
    let server = Server::with(&[("server.request_timeout_seconds", "1")]);
    let token = server.token("user_john", false);
    let form_type = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n");
    for (path, headers) in
        [("/api/v1/query", ""), ("/api/v1/messages", ""), ("/api/v1/media/upload", form_type.as_str())]
    {
        let mut stream = begun(&server, &token, path, &format!("{headers}Content-Length: 100\r\n"));
        stream.write_all(b"{").expect("it is sent");
        let told = refusal(stream);
        assert_eq!(told.error, ErrorCode::RequestTimeout, "{path}: {}", told.message);
    }
}

#[test]
fn a_compressed_body_is_of_an_unsupported_type() {
    let server = Server::start();
    let john = server.client("user_john");
    let headers = [("content-encoding", "gzip")];
    for path in ["/api/v1/query", "/api/v1/messages", "/api/v1/media/upload"] {
        let answer = john.request(Method::POST, path, &headers, Some(r#"{"sql":"SELECT 1"}"#)).expect("an answer");
        let told = answer.refusal().error;
        assert_eq!(told.error, ErrorCode::UnsupportedMediaType, "{path}");
        assert!(told.message.contains("Content-Encoding"), "{}", told.message);
    }
}

fn peak_memory_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
}

/// One user's bodies wait for each other, unread; somebody else's do not wait for them.
#[test]
fn bodies_in_flight_are_bounded() {
    const BODY_BYTES: usize = 8 << 20;
    const CONNECTIONS: usize = 60;
    let server = Server::with(&[("server.max_body_bytes", "8388608"), ("server.max_bodies_mb", "32")]);
    let (mallory, john) = (server.token("mallory", false), server.client("user_john"));
    john.say("c", "hello");
    let before = peak_memory_mib(&server);
    thread::scope(|scope| {
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut stream =
                    begun(&server, &mallory, "/api/v1/query", &format!("Content-Length: {BODY_BYTES}\r\n"));
                let sending = stream.try_clone().expect("a second handle");
                // All but the end: the server has to hold what it has read.
                let sender = scope.spawn(move || stream.write_all(&vec![b' '; BODY_BYTES - 1]).is_ok());
                (sending, sender)
            })
            .collect();
        for _ in 0..20 {
            assert_eq!(john.texts("SELECT content FROM messages"), ["hello"]);
        }
        // The first one is read to its end; the others stand in the way of nothing but themselves.
        eventually("a body has arrived", || senders.iter().any(|(_, sender)| sender.is_finished()));
        assert_eq!(john.texts("SELECT content FROM messages"), ["hello"]);
        for (sending, _) in &senders {
            sending.shutdown(std::net::Shutdown::Both).ok();
        }
    });
    let grown = peak_memory_mib(&server) - before;
    assert!(grown < 100, "{grown} MiB more, of {} that were sent", (CONNECTIONS * BODY_BYTES) >> 20);
    eventually("the room is free again", || server.client("mallory").query("SELECT 1").is_ok());
}

/// Two bytes of a body become a value of thirty-two.
#[test]
fn values_are_counted_before_they_are_there() {
    let server = Server::start();
    let mallory = server.client("mallory");
    let before = peak_memory_mib(&server);
    let zeros = format!("[0{}]", ",0".repeat(15 << 20));
    let mut nested = format!(r#"{{"sql":"SELECT $1","params":[{zeros}]}}"#);
    for body in [format!(r#"{{"sql":"SELECT 1","params":{zeros}}}"#), std::mem::take(&mut nested)] {
        let told = mallory.request(Method::POST, "/api/v1/query", &[], Some(&body)).expect("an answer").refusal().error;
        assert_eq!(told.error, ErrorCode::InvalidValue);
        assert!(told.message.contains("there are more than 262144 values"), "{}", told.message);
    }
    let body = format!(r#"{{"conversationId":"c","content":"x","metadata":{{"a":{zeros}}}}}"#);
    let told = mallory.request(Method::POST, "/api/v1/messages", &[], Some(&body)).expect("an answer").refusal().error;
    assert_eq!(told.error, ErrorCode::InvalidValue, "{}", told.message);
    let grown = peak_memory_mib(&server) - before;
    assert!(grown < 150, "{grown} MiB more for bodies of 30");
}

/// What hyper refuses by itself, without a body.
#[test]
fn what_is_no_request_gets_a_sentence_too() {
    let server = Server::start();
    let with = |headers: &str| format!("GET /api/v1/health HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    for bad in ["GARBAGE\r\n\r\n", "G@T / HTTP/1.1\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET \u{1} HTTP/1.1\r\n\r\n"] {
        assert_eq!(refusal(said(&server, bad.as_bytes())).error, ErrorCode::InvalidValue, "{bad}");
    }
    assert_eq!(refusal(said(&server, with("no colon\r\n").as_bytes())).error, ErrorCode::InvalidValue);
    let long = with(&format!("X-Long: {}\r\n", "x".repeat(200_000)));
    assert_eq!(refusal(said(&server, long.as_bytes())).error, ErrorCode::HeadTooLarge);
    let line = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000));
    assert_eq!(refusal(said(&server, line.as_bytes())).error, ErrorCode::HeadTooLarge);
    let many = with(&"X-Many: x\r\n".repeat(101));
    assert_eq!(refusal(said(&server, many.as_bytes())).error, ErrorCode::HeadTooLarge);
    let cookies = with(&format!("Cookie: {}\r\nConnection: close\r\n", "x".repeat(60_000)));
    let mut answer = String::new();
    said(&server, cookies.as_bytes()).read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    // Behind a request that was answered.
    let mut kept = said(&server, with("").as_bytes());
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut byte = [0];
        kept.read_exact(&mut byte).expect("it is answered");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    kept.write_all(b"GARBAGE\r\n\r\n").expect("the connection is open");
    assert_eq!(refusal(kept).error, ErrorCode::InvalidValue);
}
