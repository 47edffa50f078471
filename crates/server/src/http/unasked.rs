//! Answers to what is no request, which no handler gives: a head that cannot be read, a connection too many.
//!
//! Invariant: they have the shape of every other answer that is not a success.

use axum::http::StatusCode;
use kalamdb_protocol::{ErrorBody, ErrorCode};
use serde_json::Map;

/// The start of an answer that a library gives by itself: `HTTP/1.1 431 Request Header Fields Too Large`.
const VERSION: &[u8] = b"HTTP/1.1 ";

/// An answer with that code and that sentence, after which the connection closes.
pub fn answer(code: ErrorCode, message: &str) -> Vec<u8> {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let body = ErrorBody { error: code, message: message.to_owned(), details: Map::new() };
    let body = serde_json::to_string(&body).unwrap_or_default();
    let retry = if code == ErrorCode::RateLimited { "Retry-After: 1\r\n" } else { "" };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{retry}Connection: close\r\n\r\n\
         {body}"
    )
    .into_bytes()
}

/// Our answer in the place of one that hyper gives by itself, which has no body. `head` is the start of hyper's.
pub fn instead_of(head: &[u8]) -> Option<Vec<u8>> {
    match head.strip_prefix(VERSION)?.get(..3)? {
        b"431" | b"414" => Some(answer(
            ErrorCode::HeadTooLarge,
            "The request's line and headers are too many or too long; send at most 64 KiB and 100 headers.",
        )),
        [b'4', ..] => Some(answer(
            ErrorCode::InvalidValue,
            "This is no HTTP request; send a line such as `GET /api/v1/health HTTP/1.1` and headers, as RFC 9112 has them.",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_long_it_is_and_that_it_is_the_last() {
        let text = String::from_utf8(answer(ErrorCode::RateLimited, "Too many.")).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"error":"rate_limited","message":"Too many."}"#);
        let lines: Vec<&str> = head.lines().collect();
        let length = format!("Content-Length: {}", body.len());
        let expected = [
            "HTTP/1.1 429 Too Many Requests",
            "Content-Type: application/json",
            &length,
            "Retry-After: 1",
            "Connection: close",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn only_refusals_are_replaced() {
        let code = |head: &str| {
            let text = String::from_utf8(instead_of(head.as_bytes())?).unwrap();
            let body: ErrorBody = serde_json::from_str(text.split_once("\r\n\r\n")?.1).unwrap();
            Some(body.error)
        };
        assert_eq!(code("HTTP/1.1 431 Request Header Fields Too Large\r\n"), Some(ErrorCode::HeadTooLarge));
        assert_eq!(code("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"), Some(ErrorCode::InvalidValue));
        assert_eq!(code("HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(code("HTTP/1.1 4"), None);
        assert_eq!(code("\u{81}HTTP/1.1 400"), None);
    }
}
