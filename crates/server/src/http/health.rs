//! `GET /api/v1/health`: whether the server answers at all.
//!
//! Invariant: needs no token, touches no data, says nothing about users.

use axum::{Json, extract::State};
use kalamdb_protocol::Health;

use super::App;

/// Says that the server is up.
#[utoipa::path(
    get,
    path = "/api/v1/health",
    tag = "operation",
    security(()),
    responses((status = 200, description = "The server answers", body = Health))
)]
pub async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: app.uptime().as_secs(),
    })
}
