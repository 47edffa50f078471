//! Reads the JSON body of a request, within its limits, whatever `Content-Type` it claims: `curl -d` sends a
//! form's.
//!
//! Invariant: no more than `server.max_body_bytes` of a body is ever held, for no longer than
//! `server.request_timeout_seconds`, and none of it before there is [`Room`]; a large one is parsed on no thread that
//! serves HTTP. A complaint names the place in the body, not what stands there.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{
        HeaderMap,
        header::{CONTENT_ENCODING, CONTENT_LENGTH},
    },
};
use futures::StreamExt as _;
use kalamdb_engine::Caller;
use kalamdb_protocol::{ErrorCode, Params, QueryRequest, SendMessageRequest, SendRequest, bytes_beside_text};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    App,
    error::ApiError,
    flight::{Flight, Room},
};

/// Bounds of a request's body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `server.max_body_bytes`.
    pub max_bytes: usize,
    /// `server.request_timeout_seconds`.
    pub timeout: Duration,
}

/// A request's body, with a count of what it takes besides its texts once it is read.
pub trait Said: DeserializeOwned + Send + 'static {
    /// Whether it may be an array, too. Readers of a struct take one for the fields in their order (`["SELECT 1"]`), which
    /// would then never change.
    const MAY_BE_ARRAY: bool = false;

    /// Memory that the text of the body does not cover: each `0,` of an array becomes a value.
    fn bytes_beside_text(&self) -> usize {
        0
    }
}

impl Said for QueryRequest {
    fn bytes_beside_text(&self) -> usize {
        match &self.params {
            Some(Params::Positional(values)) => values.iter().map(|value| VALUE_BYTES + bytes_beside_text(value)).sum(),
            Some(Params::Named(values)) => values.values().map(|value| VALUE_BYTES + bytes_beside_text(value)).sum(),
            None => 0,
        }
    }
}

impl Said for SendRequest {
    const MAY_BE_ARRAY: bool = true;

    fn bytes_beside_text(&self) -> usize {
        // A short message of many is more in memory than it is as text, here and on its way to be committed.
        let each = if matches!(self, Self::Many(_)) { 2 * size_of::<SendMessageRequest>() } else { 0 };
        let fields = |message: &SendMessageRequest| {
            let fields = message.metadata.iter().flatten();
            fields.map(|(_, value)| VALUE_BYTES + bytes_beside_text(value)).sum::<usize>()
        };
        self.messages().iter().map(|message| each + fields(message)).sum()
    }
}

/// Bytes of a value and its name, about.
const VALUE_BYTES: usize = 2 * (size_of::<Value>() + size_of::<String>());

/// A body that is JSON of that shape, and the room that it takes, to be kept while the request is worked on.
pub struct JsonBody<T>(pub T, pub Room);

impl<T: Said> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (bytes, mut room) = receive(request, app).await?;
        let length = bytes.len();
        let said: T = parse_where_it_belongs(bytes, app.flight()).await?;
        room.grow_to(length + said.bytes_beside_text())?;
        Ok(Self(said, room))
    }
}

/// A body that may be missing, or `null`.
pub struct OptionalJsonBody<T>(pub T);

impl<T: Said + Default> FromRequest<App> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (bytes, _room) = receive(request, app).await?;
        if matches!(bytes.trim_ascii(), b"" | b"null") {
            return Ok(Self(T::default()));
        }
        parse_where_it_belongs(bytes, app.flight()).await.map(Self)
    }
}

async fn receive(request: Request, app: &App) -> Result<(Vec<u8>, Room), ApiError> {
    let (parts, body) = request.into_parts();
    refuse_encoded(&parts.headers)?;
    // A body is read behind the token, which is where the caller comes from.
    let caller = parts.extensions.get::<Caller>().ok_or_else(ApiError::internal)?;
    read(&parts.headers, body, app.limits(), app.flight(), caller).await
}

/// Bodies are taken as they are: one that has to be unpacked first may be a thousand times its size.
pub fn refuse_encoded(headers: &HeaderMap) -> Result<(), ApiError> {
    let encoding = headers.get(CONTENT_ENCODING).map(axum::http::HeaderValue::as_bytes).unwrap_or_default();
    if encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity") {
        return Ok(());
    }
    let message = "Bodies are taken uncompressed only; send this one without `Content-Encoding`.";
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
}

/// The length of the body that the client announces.
pub fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The room that a body of unknown length gets at first; from there on it doubles.
const FIRST_BYTES: usize = 64 * 1024;

async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: Limits,
    flight: &Flight,
    caller: &Caller,
) -> Result<(Vec<u8>, Room), ApiError> {
    let announced = announced(headers).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if announced.is_some_and(|bytes| bytes > limits.max_bytes) {
        return Err(too_large(limits));
    }
    let mut room = flight.enter(&caller.user, announced.unwrap_or(FIRST_BYTES.min(limits.max_bytes))).await?;
    let whole = async {
        let mut bytes = Vec::with_capacity(announced.unwrap_or_default());
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| late("The body broke off; send it again."))?;
            let length = bytes.len() + chunk.len();
            if length > limits.max_bytes {
                return Err(too_large(limits));
            }
            if length > room.bytes() {
                room.grow_to(length.max(2 * room.bytes()).min(limits.max_bytes))?;
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let bytes = tokio::time::timeout(limits.timeout, whole).await.unwrap_or_else(|_| {
        let seconds = limits.timeout.as_secs();
        Err(late(format!("The body did not arrive within {seconds} seconds (`server.request_timeout_seconds`).")))
    })?;
    Ok((bytes, room))
}

/// A body that did not come in time, or not to its end.
pub fn late(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::RequestTimeout, message)
}

fn too_large(limits: Limits) -> ApiError {
    let max = limits.max_bytes;
    ApiError::new(ErrorCode::PayloadTooLarge, format!("A body may hold {max} bytes at most (`server.max_body_bytes`)."))
        .with("maxBytes", max)
}

/// Up to this size a body is parsed where it arrived: handing it over would take longer. It takes some 100 µs.
const PARSED_HERE_BYTES: usize = 32 * 1024;

async fn parse_where_it_belongs<T: Said>(bytes: Vec<u8>, flight: &Flight) -> Result<T, ApiError> {
    if bytes.len() <= PARSED_HERE_BYTES {
        return parse(&bytes);
    }
    let _place = flight.parser().await;
    // A panic is a fault of ours; nobody ends the task otherwise.
    tokio::task::spawn_blocking(move || parse(&bytes)).await.unwrap_or_else(|_| Err(ApiError::internal()))
}

fn parse<T: Said>(bytes: &[u8]) -> Result<T, ApiError> {
    if !T::MAY_BE_ARRAY && bytes.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::new(ErrorCode::InvalidValue, "The body must be an object."));
    }
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
    // An error without a line comes from a body that was taken apart and did not fit.
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
    use kalamdb_protocol::UserId;

    use super::*;

    fn complaint<T: Said>(body: &str) -> String {
        parse::<T>(body.as_bytes()).err().unwrap().message().to_owned()
    }

    #[test]
    fn a_complaint_names_the_place_and_what_is_wanted() {
        let send = complaint::<SendRequest>;
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
                send("5"),
                send(r#"[{"conversationId": "c1", "content": "x"}, {"conversationId": "c1", "content": 5}]"#),
                send(r#"[{"conversationId": "c1"}]"#),
                send(r#"[["c1", "x"]]"#),
                complaint::<QueryRequest>(r#"{"sql": ["the secret"]}"#),
            ]
            .join("\n")
        );
    }

    #[test]
    fn an_object_s_fields_are_told_by_name() {
        for array in ["[]", " [\"SELECT 1\"]", "\n[\"SELECT 1\", [1]]"] {
            assert_eq!(complaint::<QueryRequest>(array), "The body must be an object.", "{array}");
        }
        assert!(parse::<QueryRequest>(b" {\"sql\": \"SELECT 1\"}").is_ok());
    }

    async fn read_by_john(headers: &HeaderMap, body: Body, limits: Limits) -> Result<Vec<u8>, ApiError> {
        let flight = Flight::new(1 << 20, limits.max_bytes, limits.timeout);
        let john = Caller { user: UserId::new("user_john").unwrap(), admin: false };
        read(headers, body, limits, &flight, &john).await.map(|(bytes, _)| bytes)
    }

    fn chunks(parts: &[&'static str]) -> Body {
        let parts: Vec<_> = parts.iter().map(|part| Ok::<_, std::io::Error>(*part)).collect();
        Body::from_stream(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let limits = Limits { max_bytes: 4, timeout: Duration::from_mins(1) };
        assert_eq!(read_by_john(&HeaderMap::new(), chunks(&["ab", "cd"]), limits).await.unwrap(), b"abcd");
        let error = read_by_john(&HeaderMap::new(), chunks(&["ab", "cd", "e"]), limits).await.unwrap_err();
        assert_eq!(error.message(), "A body may hold 4 bytes at most (`server.max_body_bytes`).");
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, "5".parse().unwrap())]);
        assert!(read_by_john(&announced, chunks(&[]), limits).await.is_err());
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
        let limits = Limits { max_bytes: 4, timeout: Duration::ZERO };
        let never = Body::from_stream(futures::stream::pending::<Result<&'static str, std::io::Error>>());
        let error = read_by_john(&HeaderMap::new(), never, limits).await.unwrap_err();
        assert!(error.message().starts_with("The body did not arrive within 0 seconds"));
        assert_eq!(error.code(), ErrorCode::RequestTimeout);
        let broken = futures::stream::iter([Ok("ab"), Err(std::io::Error::other("gone"))]);
        let error = read_by_john(&HeaderMap::new(), Body::from_stream(broken), limits).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RequestTimeout);
    }

    #[tokio::test]
    async fn nothing_is_read_before_there_is_room() {
        let limits = Limits { max_bytes: 64 * 1024, timeout: Duration::ZERO };
        let flight = Flight::new(256 * 1024, limits.max_bytes, limits.timeout);
        let john = Caller { user: UserId::new("user_john").unwrap(), admin: false };
        let (_, held) = read(&head_of(65_536), chunks(&["x"]), limits, &flight, &john).await.unwrap();
        let unread = Body::from_stream(futures::stream::poll_fn(
            |_| -> std::task::Poll<Option<Result<&'static str, std::io::Error>>> { panic!("it was read") },
        ));
        let refused = read(&head_of(1), unread, limits, &flight, &john).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::RateLimited);
        drop(held);
        assert!(read(&head_of(1), chunks(&["x"]), limits, &flight, &john).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_takes_room_as_it_grows() {
        let limits = Limits { max_bytes: 1 << 20, timeout: Duration::from_mins(1) };
        let flight = Flight::new(4 << 20, limits.max_bytes, Duration::ZERO);
        let john = Caller { user: UserId::new("user_john").unwrap(), admin: false };
        let long: &'static str = "x".repeat(300 * 1024).leak();
        let (bytes, room) = read(&HeaderMap::new(), chunks(&[long, long]), limits, &flight, &john).await.unwrap();
        assert!(bytes.len() == 600 * 1024 && room.bytes() >= bytes.len(), "{}", room.bytes());
        // The share is a MiB: another one begins, and finds no room to grow.
        let (_, second) = read(&head_of(300 * 1024), chunks(&["x"]), limits, &flight, &john).await.unwrap();
        let refused = read(&HeaderMap::new(), chunks(&[long]), limits, &flight, &john).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::RateLimited);
        drop((room, second));
    }

    fn head_of(bytes: usize) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_LENGTH, bytes.into())])
    }

    #[test]
    fn what_a_request_becomes_is_counted() {
        let query = parse::<QueryRequest>(br#"{"sql": "SELECT 1", "params": [[0,0,0,0]]}"#).unwrap();
        let named = parse::<QueryRequest>(br#"{"sql": "SELECT 1", "params": {"a": [0,0,0,0]}}"#).unwrap();
        let values = bytes_beside_text(&serde_json::json!([0, 0, 0, 0]));
        assert_eq!(query.bytes_beside_text(), VALUE_BYTES + values);
        assert_eq!(named.bytes_beside_text(), VALUE_BYTES + values);
        let send = br#"{"conversationId": "c", "content": "x", "metadata": {"a": [0,0,0,0]}}"#;
        assert_eq!(parse::<SendRequest>(send).unwrap().bytes_beside_text(), VALUE_BYTES + values);
        let many = format!("[{}]", vec![r#"{"conversationId": "c", "content": ""}"#; 100].join(","));
        let many = parse::<SendRequest>(many.as_bytes()).unwrap();
        assert!(many.bytes_beside_text() >= 100 * size_of::<SendMessageRequest>());
    }

    #[test]
    fn a_compressed_body_is_refused() {
        let refused = |encoding: &str| {
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, encoding.parse().unwrap())]);
            refuse_encoded(&headers).err().map(|error| error.code())
        };
        assert_eq!(refused("gzip"), Some(ErrorCode::UnsupportedMediaType));
        assert_eq!(refused("br, gzip"), Some(ErrorCode::UnsupportedMediaType));
        assert_eq!((refused("identity"), refused("")), (None, None));
    }
}
