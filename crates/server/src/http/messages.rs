//! `POST /api/v1/messages`: sends one message.
//!
//! Invariant: a convenience over the same write path as SQL; no rule of a message is checked here.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
};
use kalamdb_engine::Caller;
use kalamdb_protocol::{ErrorCode, SendMessageRequest, SendMessageResponse};

use super::{
    App,
    body::JsonBody,
    error::{ApiError, failures},
    metrics,
};

/// Makes a repeated send get the first one's answer.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Enough for any UUID, hash or path that clients use; each key is kept for a day.
const MAX_KEY_CHARS: usize = 255;

failures! {
    /// Failures of a send.
    SendFailures: InvalidValue, Unauthorized, Forbidden, NotFound, MethodNotAllowed, RequestTimeout, Conflict,
    PayloadTooLarge, UnsupportedMediaType, QueryTooLarge, RateLimited, QueryTimeout, ResourceExhausted,
    StorageUnavailable, Internal
}

/// Sends one message.
///
/// Only `conversationId` and `content` are needed. The answer comes once the message is stored for every
/// participant.
#[utoipa::path(
    post,
    path = "/api/v1/messages",
    tag = "data",
    params((
        "Idempotency-Key" = Option<String>,
        Header,
        min_length = 1,
        max_length = 255,
        description = "The client's own name for this send: for 24 hours a repetition gets the first answer, and \
                       another body under the same key is `conflict`",
    )),
    request_body = SendMessageRequest,
    responses((status = 201, description = "Stored", body = SendMessageResponse), SendFailures)
)]
pub async fn send(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(message, _room): JsonBody<SendMessageRequest>,
) -> Result<(StatusCode, Json<SendMessageResponse>), ApiError> {
    let sent = app.engine().send(&caller, message, idempotency_key(&headers)?).await?;
    metrics::count_sent(1);
    Ok((StatusCode::CREATED, Json(sent)))
}

/// The client's name for its request, if it gives one.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let is_key =
        |key: &&str| (1..=MAX_KEY_CHARS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match value.to_str().ok().filter(is_key) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(ApiError::new(
            ErrorCode::InvalidValue,
            format!("The header `Idempotency-Key` must hold 1 to {MAX_KEY_CHARS} visible ASCII characters."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_visible_characters() {
        let key = |value: &[u8]| {
            let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, value.try_into().unwrap())]);
            idempotency_key(&headers).map_err(|_| ())
        };
        assert_eq!(key(b"6f1e/a|b~"), Ok(Some("6f1e/a|b~".to_owned())));
        assert_eq!(key(&[b'x'; 255]).map(|key| key.map(|key| key.len())), Ok(Some(255)));
        for bad in [&b""[..], b"a b", b"a\tb", "ä".as_bytes(), &[b'x'; 256]] {
            assert_eq!(key(bad), Err(()), "{bad:?}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }
}
