//! The caller of a request: the token of every protected route, before its handler runs, and that of a live connection.
//!
//! Invariant: a handler that takes a `Caller` runs for nobody else; a token goes nowhere but to the verifier.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    extract::{FromRequestParts, Query, Request, State},
    http::{HeaderMap, Uri, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::Response,
};
use kalamdb_engine::Caller;
use kalamdb_protocol::ErrorCode;
use tokio::time::Instant;

use super::{App, error::ApiError};
use crate::auth::{self, Denied};

/// Lets the request through with its caller, or answers `unauthorized`.
pub async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let token = bearer(request.headers()).ok_or(Denied::Missing)?;
    let (caller, end) = app.verifier().verify_until(token, auth::now_seconds())?;
    request.extensions_mut().insert(TokenEnd(end));
    Ok(run_as(caller, request, next).await)
}

/// Lets the request through with that caller.
pub async fn run_as(caller: Caller, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    // The log sees responses only.
    response.extensions_mut().insert(caller);
    response
}

/// The end of the caller's token, in seconds since the Unix epoch: what a token begets ends with it.
#[derive(Clone, Copy)]
pub struct TokenEnd(pub u64);

/// Lets a handler run for admins only, before its body is read.
pub struct Admin;

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // A request that came past `authenticate` has a caller; without one nobody is an admin.
        if parts.extensions.get::<Caller>().is_some_and(|caller| caller.admin) {
            return Ok(Self);
        }
        Err(ApiError::new(ErrorCode::Forbidden, "Only a token with the role `admin` may do this."))
    }
}

/// The caller whose token the headers have.
pub fn authenticated(app: &App, headers: &HeaderMap) -> Result<Caller, Denied> {
    app.verifier().verify(bearer(headers).ok_or(Denied::Missing)?, auth::now_seconds())
}

/// The caller of a live connection, and until when the token lasts.
pub struct Admitted {
    pub caller: Caller,
    /// The token's end.
    pub until: Instant,
}

/// The longest that a connection is thought to last; a token's end may be past what a clock can count.
const LONGEST: Duration = Duration::from_hours(24 * 365 * 30);

/// Lets a live connection in.
pub fn admit(app: &App, token: &str) -> Result<Admitted, Denied> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (caller, end) = app.verifier().verify_until(token, now.as_secs())?;
    let left = Duration::from_secs(end).saturating_sub(now).min(LONGEST);
    Ok(Admitted { caller, until: Instant::now() + left })
}

/// The token of a live connection: browsers cannot set a header there, so it may stand in the query string too.
pub fn live_token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    bearer(headers).map(str::to_owned).or_else(|| in_query(uri, "token"))
}

/// The parameter of that name in the query string, unless it is empty.
pub fn in_query(uri: &Uri, wanted: &str) -> Option<String> {
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    parameters.into_iter().find_map(|(name, value)| (name == wanted && !value.is_empty()).then_some(value))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_is_one() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("abc", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers), expected, "{value:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn a_live_connection_s_token_may_stand_in_the_query_string() {
        let none = HeaderMap::new();
        for (uri, expected) in [
            ("/api/v1/ws?token=abc", Some("abc")),
            ("/api/v1/ws?x=1&token=a%2Bc", Some("a+c")),
            ("/api/v1/ws?token=", None),
            ("/api/v1/ws?Token=abc", None),
            ("/api/v1/ws", None),
        ] {
            assert_eq!(live_token(&none, &uri.parse().unwrap()).as_deref(), expected, "{uri}");
        }
        let header = HeaderMap::from_iter([(AUTHORIZATION, "Bearer first".parse().unwrap())]);
        assert_eq!(live_token(&header, &Uri::from_static("/api/v1/ws?token=second")).as_deref(), Some("first"));
    }
}
