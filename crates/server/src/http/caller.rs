//! Who asks: the token of every protected route, before its handler runs.
//!
//! Invariant: a handler that takes a `Caller` runs for nobody else; the header's value goes nowhere but to the
//! verifier.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};
use kalamdb_engine::Caller;

use super::{App, error::ApiError};
use crate::auth::{self, Denied};

/// Lets the request through with its caller, or answers `unauthorized`.
pub async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let caller = authenticated(&app, request.headers())?;
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    // For the log, which sees responses only.
    response.extensions_mut().insert(caller);
    Ok(response)
}

/// Who the headers say is asking.
pub fn authenticated(app: &App, headers: &HeaderMap) -> Result<Caller, Denied> {
    app.verifier().verify(bearer(headers).ok_or(Denied::Missing)?, auth::now_seconds())
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
}
