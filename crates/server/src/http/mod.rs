//! The HTTP API: one file per endpoint, and what they share.
//!
//! Invariant: decides nothing about data: a handler turns a request into one call of the engine and its result
//! into an answer. Every answer that is not a success has the shape of `error.rs`, also that to what is no
//! request (`unasked.rs`).

mod accept;
mod body;
mod caller;
mod compact;
mod consolidate;
mod content;
mod error;
mod flight;
mod gone;
mod health;
pub mod listen;
mod live;
mod messages;
pub mod metrics;
mod observe;
mod openapi;
mod peers;
mod query;
mod socket;
#[cfg(test)]
mod tests;
mod unasked;
mod upload;
mod ws;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use kalamdb_engine::Engine;
use kalamdb_protocol::ErrorCode;
use kalamdb_store::Store;
use metrics_exporter_prometheus::PrometheusHandle;
pub use observe::hush_panics;
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{Predicate, SizeAbove},
    },
    cors::{AllowOrigin, CorsLayer},
};

use self::error::ApiError;
use crate::{
    auth::{Links, Verifier},
    media::{self, Inspector},
    settings::{MetricsAccess, Settings},
};

/// Bytes in the unit of the settings that end in `_mb`.
const MIB: usize = 1024 * 1024;

/// Answers that are smaller go out as they are.
const MIN_COMPRESSED_BYTES: u64 = 1024;

/// The time that a browser may remember what another origin is allowed.
const CORS_MAX_AGE: Duration = Duration::from_hours(1);

/// The state that the handlers share: cheap to clone.
#[derive(Clone)]
pub struct App(Arc<AppState>);

struct AppState {
    engine: Engine,
    /// The store, for content files, which need no SQL.
    store: Store,
    verifier: Verifier,
    links: Links,
    counts: PrometheusHandle,
    limits: body::Limits,
    flight: flight::Flight,
    media: media::Limits,
    uploads: upload::UploadSlots,
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
        links: Links,
        counts: PrometheusHandle,
        settings: &Settings,
    ) -> Self {
        let server = &settings.server;
        let timeout = Duration::from_secs(server.request_timeout_seconds);
        Self(Arc::new(AppState {
            engine,
            store,
            verifier,
            links,
            counts,
            limits: body::Limits { max_bytes: server.max_body_bytes, timeout },
            flight: flight::Flight::new(server.max_bodies_mb * MIB, server.max_body_bytes, timeout),
            media: settings.media(),
            uploads: upload::UploadSlots::new(settings.media.max_concurrent_uploads, timeout),
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

    fn links(&self) -> &Links {
        &self.0.links
    }

    fn limits(&self) -> body::Limits {
        self.0.limits
    }

    fn flight(&self) -> &flight::Flight {
        &self.0.flight
    }

    fn media(&self) -> media::Limits {
        self.0.media
    }

    fn uploads(&self) -> &upload::UploadSlots {
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
        .route("/api/v1/query", post(query::query).layer(compression()))
        .route("/api/v1/messages", post(messages::send).get(gone::gone).delete(gone::gone))
        .route("/api/v1/media/upload", post(upload::upload))
        .route("/api/v1/content/link", post(content::link::link))
        .route("/api/v1/messages/{*rest}", gone::routes())
        .route("/api/v1/conversations", gone::routes())
        .route("/api/v1/conversations/{*rest}", gone::routes())
        .route("/api/v1/conversationUsers", gone::routes())
        .route("/api/v1/conversationUsers/{*rest}", gone::routes())
        .route("/api/admin/compact", post(compact::compact))
        .route("/api/admin/consolidate", post(consolidate::consolidate))
        .method_not_allowed_fallback(wrong_method)
        .route_layer(from_fn_with_state(app.clone(), caller::authenticate));
    let linked = Router::new()
        .route("/api/v1/content/{*contentRef}", get(content::content))
        .method_not_allowed_fallback(wrong_method)
        .route_layer(from_fn_with_state(app.clone(), content::link::admit));
    let open = Router::new()
        .route("/api/v1/health", get(health::health))
        .route("/api/v1/health/ready", get(health::ready))
        .route("/api/openapi.json", get(openapi::document).layer(compression()))
        .route("/metrics", get(metrics::metrics))
        // Live routes take tokens in more ways than a header, and check them themselves.
        .route("/api/v1/live", get(live::live))
        .route("/api/v1/ws", get(ws::ws))
        .method_not_allowed_fallback(wrong_method);
    let all =
        protected.merge(linked).merge(open).fallback(unknown_route).layer(from_fn(observe::observe)).with_state(app);
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
        // The methods of version 1 are let in too: a page that still calls it is to see what replaces the call, not a
        // failure without words.
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
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
            header::ALLOW,
            header::WWW_AUTHENTICATE,
        ])
        .max_age(CORS_MAX_AGE)
}

/// Compresses JSON that is worth it, for clients that take it. Streams are left alone, whose parts would wait for each
/// other, and so are answers that are one packet either way.
fn compression() -> CompressionLayer<impl Predicate> {
    let is_json = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        headers.get(header::CONTENT_TYPE).is_some_and(|name| name == "application/json")
    };
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(MIN_COMPRESSED_BYTES).and(is_json))
}

async fn unknown_route() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "There is no such route; GET /api/openapi.json lists them.")
}

async fn wrong_method() -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, "This route takes other methods; the header `Allow` names them.")
}
