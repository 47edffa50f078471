//! Around every request: its log line, its counts, and a net for panics.
//!
//! Invariant: logs the route's template, never the path; no header, body, statement or panic's text, because
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

use super::{error::ApiError, metrics};

/// What stands for the route when no route matched.
const NO_ROUTE: &str = "none";

/// Logs and counts a request; a panic in its handler becomes `internal`.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let response = answer.unwrap_or_else(|_| ApiError::internal().into_response());

    let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let code = response.extensions().get::<ErrorCode>().copied();
    metrics::count_request(route, &method, response.status().as_u16(), started.elapsed(), code);
    log(&method, route, &response, code, started);
    response
}

fn log(method: &Method, route: &str, response: &Response, code: Option<ErrorCode>, started: Instant) {
    // Successes are many; an operator who wants to see them asks for them.
    let level = match response.status().as_u16() {
        500.. => Level::WARN,
        400.. => Level::INFO,
        _ => Level::DEBUG,
    };
    macro_rules! event {
        ($level:expr) => {
            tracing::event!(
                $level,
                %method,
                route,
                status = response.status().as_u16(),
                code = code.map(ErrorCode::as_str),
                user = response.extensions().get::<Caller>().map(|caller| caller.user.as_str()),
                duration_us = started.elapsed().as_micros(),
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

/// Keeps a panic's text, which may hold what a user wrote, out of the log; its place is what we need.
pub fn hush_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(place, %backtrace, "a fault of ours: something panicked");
    }));
}
