//! `POST /api/v1/content/link`: an address that reads one content file without a token; and reading by it.
//!
//! Invariant: whoever has a link is its user for one file and for nothing else, until it ends: whether that user may still
//! read the file is asked at each use. A link is in no log line.

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::header::{AUTHORIZATION, CACHE_CONTROL},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use kalamdb_engine::Caller;
use kalamdb_protocol::{ContentLinkRequest, ContentLinkResponse, ErrorCode, Micros};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{ROUTE, not_found};
use crate::{
    auth::{self, Link},
    http::{
        App,
        body::{JsonBody, Said},
        caller::{self, TokenEnd},
        error::{ApiError, failures},
    },
};

/// The seconds for which a link is good when nobody says otherwise: a page is loaded, and looked at for a while.
const DEFAULT_SECONDS: u64 = 600;

/// The most that may be asked for: a player asks for parts of a film for as long as it runs.
const MAX_SECONDS: u64 = 4 * 60 * 60;

/// The name of the parameter that holds a link.
const PARAMETER: &str = "link";

/// The characters of a reference that an address cannot hold as they are. Its percent signs are among them.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Said for ContentLinkRequest {}

failures! {
    /// Failures of making a link.
    LinkFailures: InvalidValue, Unauthorized, NotFound, MethodNotAllowed, RequestTimeout, PayloadTooLarge,
    UnsupportedMediaType, RateLimited, ResourceExhausted, StorageUnavailable, Internal
}

/// Makes an address that reads one content file without a token, for a while.
///
/// For `<img>`, `<video>` and downloads, which cannot send a header. It reads that file and no other, as the user who
/// asked for it, for as long as they may; it ends with the token that asked, or before.
#[utoipa::path(
    post,
    path = "/api/v1/content/link",
    tag = "data",
    request_body = ContentLinkRequest,
    responses((status = 200, description = "The address", body = ContentLinkResponse), LinkFailures)
)]
pub async fn link(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(TokenEnd(token_end)): Extension<TokenEnd>,
    JsonBody(request, _room): JsonBody<ContentLinkRequest>,
) -> Result<Response, ApiError> {
    let seconds = request.ttl_seconds.unwrap_or(DEFAULT_SECONDS);
    if !(1..=MAX_SECONDS).contains(&seconds) {
        let message = format!("`ttlSeconds` must be from 1 to {MAX_SECONDS}.");
        return Err(ApiError::new(ErrorCode::InvalidValue, message));
    }
    let file = app.store().readable_file(&caller.user, &request.content_ref)?.ok_or_else(not_found)?;
    let end = auth::now_seconds().saturating_add(seconds).min(token_end);
    let link = Link { user: caller.user, content_ref: file.path, end };
    let path = utf8_percent_encode(&link.content_ref, ENCODED);
    let url = format!("{ROUTE}{path}?{PARAMETER}={}", app.links().sign(&link));
    let expires_at = Micros::try_from(end.saturating_mul(1_000_000)).unwrap_or(Micros::MAX);
    Ok(([(CACHE_CONTROL, "no-store")], Json(ContentLinkResponse { url, expires_at })).into_response())
}

/// The only file that a request may read, because it comes by a link.
#[derive(Clone)]
pub struct OnlyFile(pub String);

/// Lets a reader in by token, or by a link where there is no token.
pub async fn admit(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let has_token = request.headers().contains_key(AUTHORIZATION);
    let Some(text) = caller::in_query(request.uri(), PARAMETER).filter(|_| !has_token) else {
        return caller::authenticate(State(app), request, next).await;
    };
    let link = app.links().verify(&text, auth::now_seconds())?;
    request.extensions_mut().insert(OnlyFile(link.content_ref));
    Ok(caller::run_as(Caller { user: link.user, admin: false }, request, next).await)
}
