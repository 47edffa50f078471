//! `POST /api/v1/messages`: sends one message, or several together.
//!
//! Invariant: a convenience over the same write path as SQL; no rule of a message is checked here.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
};
use kalamdb_engine::Caller;
use kalamdb_protocol::{ErrorCode, SendRequest, SendResponse};

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

/// Sends one message, or an array of them.
///
/// Only `conversationId` and `content` are needed. The answer comes once the message is stored for every
/// participant. The messages of an array are stored all together or not at all, and answered by an array in their order.
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
    request_body = SendRequest,
    responses((status = 201, description = "Stored", body = SendResponse), SendFailures)
)]
pub async fn send(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(request, _room): JsonBody<SendRequest>,
) -> Result<(StatusCode, Json<SendResponse>), ApiError> {
    let is_one = matches!(request, SendRequest::One(_));
    let mut sent = app.engine().send(&caller, request, idempotency_key(&headers)?).await?;
    metrics::count_sent(sent.len() as u64);
    let response = match sent.pop() {
        Some(response) if is_one => SendResponse::One(response),
        last => {
            sent.extend(last);
            SendResponse::Many(sent)
        }
    };
    Ok((StatusCode::CREATED, Json(response)))
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
