//! The HTTP API: one file per endpoint, and what they share.
//!
//! Invariant: decides nothing about data: a handler turns a request into one call of the engine and its result
//! into an answer. Every answer that is not a success has the shape of `error.rs`.

mod accept;
mod body;
mod caller;
mod compact;
mod consolidate;
mod content;
mod error;
mod gone;
mod health;
pub mod listen;
mod live;
mod messages;
pub mod metrics;
mod observe;
mod openapi;
mod query;
#[cfg(test)]
mod tests;
mod upload;
mod ws;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{HeaderValue, Method, header},
    middleware::{from_fn, from_fn_with_state},
    routing::{any, get, post},
};
use kalamdb_engine::Engine;
use kalamdb_protocol::ErrorCode;
use kalamdb_store::Store;
use metrics_exporter_prometheus::PrometheusHandle;
pub use observe::hush_panics;
use tower_http::cors::{AllowOrigin, CorsLayer};

use self::error::ApiError;
use crate::{
    auth::Verifier,
    media::{self, Inspector},
    settings::{MetricsAccess, Settings},
};

/// How long a browser may remember what another origin is allowed.
const CORS_MAX_AGE: Duration = Duration::from_hours(1);

/// What the handlers share: cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

struct Parts {
    engine: Engine,
    /// For content files, which need no SQL.
    store: Store,
    verifier: Verifier,
    counts: PrometheusHandle,
    limits: body::Limits,
    media: media::Limits,
    uploads: upload::Places,
    inspector: Inspector,
    metrics: MetricsAccess,
    started: Instant,
}

impl App {
    /// Puts it together.
    pub fn new(
        engine: Engine,
        store: Store,
        verifier: Verifier,
        counts: PrometheusHandle,
        settings: &Settings,
    ) -> Self {
        let server = &settings.server;
        let timeout = Duration::from_secs(server.request_timeout_seconds);
        Self(Arc::new(Parts {
            engine,
            store,
            verifier,
            counts,
            limits: body::Limits { max_bytes: server.max_body_bytes, timeout },
            media: settings.media(),
            uploads: upload::Places::new(settings.media.max_concurrent_uploads, timeout),
            inspector: Inspector::new(),
            metrics: server.metrics,
            started: Instant::now(),
        }))
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    fn verifier(&self) -> &Verifier {
        &self.0.verifier
    }

    fn limits(&self) -> body::Limits {
        self.0.limits
    }

    fn media(&self) -> media::Limits {
        self.0.media
    }

    fn uploads(&self) -> &upload::Places {
        &self.0.uploads
    }

    fn inspector(&self) -> &Inspector {
        &self.0.inspector
    }

    fn metrics_access(&self) -> MetricsAccess {
        self.0.metrics
    }

    fn counts(&self) -> String {
        self.0.counts.render()
    }

    fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }
}

/// All routes.
pub fn router(app: App, cors_origins: &[String]) -> Router {
    let protected = Router::new()
        .route("/api/v1/query", post(query::query))
        .route("/api/v1/messages", post(messages::send).fallback(gone::messages))
        .route("/api/v1/media/upload", post(upload::upload))
        .route("/api/v1/content/{*contentRef}", get(content::content))
        .route("/api/v1/messages/{*rest}", any(gone::gone))
        .route("/api/v1/conversations", any(gone::gone))
        .route("/api/v1/conversations/{*rest}", any(gone::gone))
        .route("/api/v1/conversationUsers", any(gone::gone))
        .route("/api/v1/conversationUsers/{*rest}", any(gone::gone))
        .route("/api/admin/compact", post(compact::compact))
        .route("/api/admin/consolidate", post(consolidate::consolidate))
        .method_not_allowed_fallback(wrong_method)
        .route_layer(from_fn_with_state(app.clone(), caller::authenticate));
    let open = Router::new()
        .route("/api/v1/health", get(health::health))
        .route("/api/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics::metrics))
        // These two take their tokens in more ways than a header, and see to it themselves.
        .route("/api/v1/live", get(live::live))
        .route("/api/v1/ws", get(ws::ws))
        .method_not_allowed_fallback(wrong_method);
    let all = protected.merge(open).fallback(unknown_route).layer(from_fn(observe::observe)).with_state(app);
    if cors_origins.is_empty() { all } else { all.layer(cors(cors_origins)) }
}

/// Lets browser pages of those origins call the API. Tokens travel in a header that the page sets itself, so
/// that no origin can ride on another's login.
fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::ACCEPT,
            header::RANGE,
            header::IF_RANGE,
            header::IF_NONE_MATCH,
            messages::IDEMPOTENCY_KEY,
            live::LAST_EVENT_ID,
        ])
        .expose_headers([
            query::TRUNCATED,
            header::RETRY_AFTER,
            header::ETAG,
            header::ACCEPT_RANGES,
            header::CONTENT_RANGE,
            header::CONTENT_DISPOSITION,
        ])
        .max_age(CORS_MAX_AGE)
}

async fn unknown_route() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "There is no such route; GET /api/openapi.json lists them.")
}

async fn wrong_method() -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, "This route takes other methods; the header `Allow` names them.")
}
