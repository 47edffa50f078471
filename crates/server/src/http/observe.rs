//! Around every request: its log line, its counts, and a net for panics.
//!
//! Invariant: logs the route's template, never the path, and who is on the other end of the socket; no header, body, statement or panic's text, because
//! each may hold what a user wrote.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt as _;
use kalamdb_engine::Caller;
use kalamdb_protocol::ErrorCode;
use tracing::Level;

use super::{error::ApiError, metrics, socket::ClientAddress};

/// The route's name where no route matched.
const NO_ROUTE: &str = "none";

/// The status of a request whose client did not wait for its answer. It is on no wire; nginx's logs have it too.
pub const CLIENT_GONE: u16 = 499;

/// Logs and counts a request; a panic in its handler becomes `internal`.
pub async fn observe(request: Request, next: Next) -> Response {
    observe_with(request, next, Seen::record).await
}

/// Observes a request, with another way to record it.
pub async fn observe_with(request: Request, next: Next, record: impl Fn(&Seen)) -> Response {
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let client = request.extensions().get::<ClientAddress>().copied();
    let seen = Seen { method, matched, client, started: Instant::now(), status: CLIENT_GONE, code: None, caller: None };
    let mut seen = Recorded { seen, record };
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let response = answer.unwrap_or_else(|_| ApiError::internal().into_response());
    seen.seen.status = response.status().as_u16();
    seen.seen.code = response.extensions().get::<ErrorCode>().copied();
    seen.seen.caller = response.extensions().get::<Caller>().cloned();
    response
}

/// The facts about a request that has ended.
pub struct Seen {
    method: Method,
    matched: Option<MatchedPath>,
    client: Option<ClientAddress>,
    started: Instant,
    /// The answer's, or [`CLIENT_GONE`].
    pub status: u16,
    code: Option<ErrorCode>,
    caller: Option<Caller>,
}

/// Recorded when it is dropped: the server drops a request that is not answered yet when its client goes away.
struct Recorded<R: Fn(&Seen)> {
    seen: Seen,
    record: R,
}

impl<R: Fn(&Seen)> Drop for Recorded<R> {
    fn drop(&mut self) {
        (self.record)(&self.seen);
    }
}

impl Seen {
    /// The route's template.
    pub fn route(&self) -> &str {
        self.matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str)
    }

    fn record(&self) {
        metrics::count_request(self.route(), &self.method, self.status, self.started.elapsed(), self.code);
        self.log();
    }

    fn log(&self) {
        // Successes are many; an operator who wants to see them asks for them.
        let level = match self.status {
            500.. => Level::WARN,
            400.. => Level::INFO,
            _ => Level::DEBUG,
        };
        macro_rules! event {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    method = %self.method,
                    route = self.route(),
                    status = self.status,
                    code = self.code.map(ErrorCode::as_str),
                    client = self.client.map(|client| tracing::field::display(client.0)),
                    user = self.caller.as_ref().map(|caller| caller.user.as_str()),
                    duration_us = self.started.elapsed().as_micros(),
                    "request"
                )
            };
        }
        match level {
            Level::WARN => event!(Level::WARN),
            Level::INFO => event!(Level::INFO),
            _ => event!(Level::DEBUG),
        }
    }
}

/// Keeps a panic's text, which may hold what a user wrote, out of the log; its place is what we need.
pub fn hush_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(place, %backtrace, "a fault of ours: something panicked");
    }));
}
