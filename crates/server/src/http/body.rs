//! Reads the JSON body of a request, within its limits, whatever `Content-Type` it claims: `curl -d` sends a
//! form's.
//!
//! Invariant: no more than `server.max_body_bytes` of a body is ever held, for no longer than
//! `server.request_timeout_seconds`; a complaint names the place in the body, not what stands there.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, header::CONTENT_LENGTH},
};
use futures::StreamExt as _;
use kalamdb_protocol::ErrorCode;
use serde::de::DeserializeOwned;

use super::{App, error::ApiError};

/// How much of a body is taken, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `server.max_body_bytes`.
    pub max_bytes: usize,
    /// `server.request_timeout_seconds`.
    pub timeout: Duration,
}

/// A body that is JSON of that shape.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        parse(&read(&parts.headers, body, app.limits()).await?).map(Self)
    }
}

/// A body that may be missing.
pub struct OptionalJsonBody<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<App> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, app.limits()).await?;
        if bytes.trim_ascii().is_empty() { Ok(Self(T::default())) } else { parse(&bytes).map(Self) }
    }
}

/// Memory set aside for a body that is only announced: a client may announce much and send nothing.
const MAX_ADVANCE_BYTES: usize = 64 * 1024;

async fn read(headers: &HeaderMap, body: Body, limits: Limits) -> Result<Vec<u8>, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limits.max_bytes) {
        return Err(too_large(limits));
    }
    let whole = async {
        let mut bytes = Vec::with_capacity(announced.unwrap_or_default().min(MAX_ADVANCE_BYTES));
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk =
                chunk.map_err(|_| ApiError::new(ErrorCode::InvalidValue, "The body broke off; send it again."))?;
            if bytes.len() + chunk.len() > limits.max_bytes {
                return Err(too_large(limits));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    tokio::time::timeout(limits.timeout, whole).await.unwrap_or_else(|_| {
        let seconds = limits.timeout.as_secs();
        let message = format!("The body did not arrive within {seconds} seconds (`server.request_timeout_seconds`).");
        Err(ApiError::new(ErrorCode::InvalidValue, message))
    })
}

fn too_large(limits: Limits) -> ApiError {
    let max = limits.max_bytes;
    ApiError::new(ErrorCode::PayloadTooLarge, format!("A body may hold {max} bytes at most (`server.max_body_bytes`)."))
        .with("maxBytes", max)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let place = error.path().to_string();
        explain("body", &place, &error.into_inner())
    })?;
    deserializer.end().map_err(|error| explain("body", ".", &error))?;
    Ok(value)
}

/// The JSON library's error as a sentence. Its own text repeats the value that it did not like, which may be
/// anything and any size; what it expected instead comes last in that text and is ours. `what` is what could not be
/// read, in one word.
pub fn explain(what: &str, place: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&position).unwrap_or(&text);
    let message = if error.is_data() {
        let place = shorten(place);
        let subject = if place == "." { format!("The {what}") } else { format!("The {what}'s `{place}`") };
        match (text.strip_prefix("unknown field"), text.rsplit_once(", expected ")) {
            (Some(_), Some((_, expected))) => {
                format!("The {what} has no field `{place}`; it has {}.", expected.trim_start_matches("one of "))
            }
            (_, Some((_, expected))) => format!("{subject} must be {}.", plain(expected)),
            _ => format!("{subject} cannot be used: {text}."),
        }
    } else {
        format!("The {what} is not JSON: {text}{position}.")
    };
    let error_at = ApiError::new(ErrorCode::InvalidValue, message);
    // What was taken apart before it did not fit has no lines.
    if error.line() == 0 { error_at } else { error_at.with("line", error.line()).with("column", error.column()) }
}

/// Rust's names of types, in words.
fn plain(expected: &str) -> &str {
    match expected {
        "i64" | "u64" => "a whole number",
        "a string" => "a text",
        "a map" => "an object",
        "a sequence" => "an array",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// A path in somebody's body, cut so that an error stays a sentence.
fn shorten(place: &str) -> String {
    place.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use kalamdb_protocol::{QueryRequest, SendMessageRequest};

    use super::*;

    fn complaint<T: DeserializeOwned>(body: &str) -> String {
        parse::<T>(body.as_bytes()).err().unwrap().message().to_owned()
    }

    #[test]
    fn a_complaint_names_the_place_and_what_is_wanted() {
        let send = complaint::<SendMessageRequest>;
        insta::assert_snapshot!(
            [
                send(""),
                send("sql=SELECT"),
                send(r#"{"conversationId": "c1"}"#),
                send(r#"{"conversationId": "c1", "content": "x"} y"#),
                send(r#"{"conversationId": "c1", "contents": "x"}"#),
                send(r#"{"conversationId": "c1", "content": 5}"#),
                send(r#"{"conversationId": "", "content": "x"}"#),
                send(r#"{"conversationId": "c1", "content": "x", "msgId": "the secret, expected nothing"}"#),
                send(r#"{"conversationId": "c1", "content": "x", "msgId": 99999999999999999999}"#),
                send(r#"{"conversationId": "c1", "content": "x", "metadata": "the secret"}"#),
                send(r#"{"conversationId": "c1", "content": "x", "conversationType": "the secret"}"#),
                send(r#"{"conversationId": "c1", "content": "x", "content": "x"}"#),
                send("[]"),
                complaint::<QueryRequest>(r#"{"sql": ["the secret"]}"#),
            ]
            .join("\n")
        );
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let limits = Limits { max_bytes: 4, timeout: Duration::from_mins(1) };
        let chunks = |parts: &[&'static str]| {
            let parts: Vec<_> = parts.iter().map(|part| Ok::<_, std::io::Error>(*part)).collect();
            Body::from_stream(futures::stream::iter(parts))
        };
        assert_eq!(read(&HeaderMap::new(), chunks(&["ab", "cd"]), limits).await.unwrap(), b"abcd");
        let error = read(&HeaderMap::new(), chunks(&["ab", "cd", "e"]), limits).await.unwrap_err();
        assert_eq!(error.message(), "A body may hold 4 bytes at most (`server.max_body_bytes`).");
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, "5".parse().unwrap())]);
        assert!(read(&announced, chunks(&[]), limits).await.is_err());
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
        let limits = Limits { max_bytes: 4, timeout: Duration::ZERO };
        let never = Body::from_stream(futures::stream::pending::<Result<&'static str, std::io::Error>>());
        let error = read(&HeaderMap::new(), never, limits).await.unwrap_err();
        assert!(error.message().starts_with("The body did not arrive within 0 seconds"));
    }
}
