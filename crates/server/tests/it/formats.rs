//! Answers in every format, at every size: how one that is cut says so, how one that fails late, and what is compressed.
//!
//! Invariant: no client can take a part of an answer for the whole.

use std::io::Read as _;

use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Failure, Server};

const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// Bytes that are computed before the first goes out.
const HEAD_BYTES: usize = 1 << 20;

fn asked(client: &Client, format: &str, sql: &str) -> Result<Answer, Failure> {
    let body = json!({ "sql": sql }).to_string();
    client.request(Method::POST, "/api/v1/query", &[("accept", format)], Some(&body))
}

/// So many rows of some 110 bytes.
fn numbers(rows: usize) -> String {
    format!("SELECT value, repeat('x', 100) AS padding FROM UNNEST(generate_series(1, {rows})) AS numbers(value)")
}

#[test]
fn a_large_answer_that_is_cut_says_so_at_its_end() {
    let server = Server::with(&[("query.max_rows", "20000")]);
    let john = server.client("user_john");
    let sentence =
        "The answer ends after 20000 rows (`query.max_rows`), and there are more: narrow the query, or page by a key.";

    let cut = asked(&john, NDJSON, &numbers(20_001)).expect("an answer");
    assert!(cut.body.len() > HEAD_BYTES && cut.header("x-kalamdb-truncated").is_empty());
    let (text, last) = (cut.text(), json!({ "truncated": true, "rowCount": 20_000, "message": sentence }));
    assert_eq!(serde_json::from_str::<Value>(text.lines().last().expect("a line")).expect("JSON"), last);
    assert_eq!(text.lines().count(), 20_001);

    let cut = asked(&john, CSV, &numbers(20_001)).expect("an answer");
    assert!(cut.body.len() > HEAD_BYTES && cut.header("x-kalamdb-truncated").is_empty());
    assert_eq!(cut.text().lines().last(), Some(format!("#truncated,20000,\"{sentence}\"").as_str()));

    // An Arrow stream has no place for it, and breaks off.
    assert!(matches!(asked(&john, ARROW, &numbers(20_001)), Err(Failure::NoAnswer)));

    for format in [CSV, NDJSON, ARROW] {
        let whole = asked(&john, format, &numbers(20_000)).expect("an answer");
        assert!(whole.body.len() > HEAD_BYTES && !whole.text().contains("truncated"), "{format}");
    }
}

#[test]
fn a_small_answer_that_is_cut_says_so_in_its_head() {
    let server = Server::with(&[("query.max_rows", "5")]);
    let john = server.client("user_john");
    for format in [CSV, NDJSON, ARROW] {
        for (rows, truncated) in [(6, "true"), (5, "false")] {
            let answer = asked(&john, format, &numbers(rows)).expect("an answer");
            assert_eq!((answer.status, answer.header("x-kalamdb-truncated")), (200, truncated), "{format}");
            assert!(!answer.text().contains("truncated"), "{format}");
        }
    }
}

/// A stream that has begun cannot take back its status.
#[test]
fn an_error_after_the_first_byte_is_told_in_every_format() {
    let server = Server::with(&[("query.max_rows", "1000000")]);
    let john = server.client("user_john");
    // Ten megabytes before the row that fails: whichever thread computes it has given much else before.
    let late = "SELECT 10 / (value - 99000) AS quotient, repeat('x', 100) AS padding
                FROM UNNEST(generate_series(1, 100000)) AS numbers(value)";
    let answer = asked(&john, NDJSON, late).expect("an answer");
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let last: Value = serde_json::from_str(text.lines().last().expect("a record")).expect("JSON");
    assert_eq!(last["error"], "invalid_value", "{last}");

    let answer = asked(&john, CSV, late).expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(answer.text().lines().last().expect("a record").starts_with("#error,invalid_value,"));

    assert!(matches!(asked(&john, ARROW, late), Err(Failure::NoAnswer)));

    // Before the first byte it is an answer like any other. The other batches are less than the head, so that it is not
    // full before the one that fails, whichever comes first.
    let early = late.replace("99000", "19").replace("100000", "10000");
    for format in [CSV, NDJSON, ARROW] {
        let refused = asked(&john, format, &early).expect("an answer").refusal();
        assert_eq!(refused.error.error, ErrorCode::InvalidValue, "{format}");
    }
}

#[test]
fn json_that_is_worth_it_is_compressed_and_nothing_else() {
    let server = Server::start();
    let john = server.client("user_john");
    john.say("c", &"hello ".repeat(40_000));
    let content = john.texts("SELECT contentRef FROM messages").remove(0);
    let gzip = ("accept-encoding", "gzip, deflate, br");
    let post = |sql: &str, headers: &[(&str, &str)]| {
        let body = json!({ "sql": sql }).to_string();
        john.request(Method::POST, "/api/v1/query", headers, Some(&body)).expect("an answer")
    };
    let plain = post(&numbers(1_000), &[]);
    assert_eq!(plain.header("content-encoding"), "");
    let packed = post(&numbers(1_000), &[gzip]);
    assert_eq!((packed.header("content-encoding"), packed.header("content-type")), ("gzip", "application/json"));
    assert!(packed.header("vary").to_lowercase().contains("accept-encoding"), "{}", packed.header("vary"));
    assert!(packed.body.len() * 10 < plain.body.len(), "{} of {}", packed.body.len(), plain.body.len());
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(packed.body.as_slice()).read_to_string(&mut unpacked).expect("it is gzip");
    let rows = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["rows"].clone();
    assert_eq!(rows(&unpacked), rows(&plain.text()));

    let document = john.request(Method::GET, "/api/openapi.json", &[gzip], None).expect("an answer");
    assert_eq!(document.header("content-encoding"), "gzip");
    for (what, untouched) in [
        ("a small answer", post("SELECT 1", &[gzip])),
        ("CSV", post(&numbers(1_000), &[gzip, ("accept", CSV)])),
        ("NDJSON", post(&numbers(1_000), &[gzip, ("accept", NDJSON)])),
        ("Arrow", post(&numbers(1_000), &[gzip, ("accept", ARROW)])),
        ("a file", john.content_with(Method::GET, &content, &[gzip])),
        ("events", john.head_with("/api/v1/live", &[gzip])),
    ] {
        assert_eq!((untouched.status, untouched.header("content-encoding")), (200, ""), "{what}");
    }
}
