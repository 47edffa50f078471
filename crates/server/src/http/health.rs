//! `GET /api/v1/health` and `GET /api/v1/health/ready`: whether the server answers at all, and whether it takes writes.
//!
//! Invariant: needs no token, says nothing about users, and answers soon, whatever the disk does: whoever asks gives up
//! after a second or two.

use std::time::Duration;

use axum::{Json, extract::State};
use kalamdb_protocol::{ErrorCode, Health};

use super::{
    App,
    error::{ApiError, failures},
};

/// The time that the store may take to say that it is ready; one that takes longer is not.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says that the server is alive, and whether it is ready.
///
/// Always 200: a server that is not alive does not answer. `ready` is false while writes cannot be made, because the disk
/// is full or does not answer; starting the server anew does not help then.
#[utoipa::path(
    get,
    path = "/api/v1/health",
    tag = "operation",
    security(()),
    responses((status = 200, description = "The server is alive", body = Health))
)]
pub async fn health(State(app): State<App>) -> Json<Health> {
    let ready = in_time(PATIENCE, app.engine().ready()).await.is_ok();
    Json(told(&app, ready))
}

failures! {
    /// The answer of a server that is alive and not ready.
    NotReady: StorageUnavailable
}

/// Says whether the server is ready: whether a write would be made now.
///
/// For whoever sends requests here or elsewhere by the status.
#[utoipa::path(
    get,
    path = "/api/v1/health/ready",
    tag = "operation",
    security(()),
    responses((status = 200, description = "The server takes writes", body = Health), NotReady)
)]
pub async fn ready(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    in_time(PATIENCE, app.engine().ready()).await?;
    Ok(Json(told(&app, true)))
}

fn told(app: &App, ready: bool) -> Health {
    Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: app.uptime().as_secs(),
        ready,
    }
}

async fn in_time(patience: Duration, ready: impl Future<Output = kalamdb_engine::Result<()>>) -> Result<(), ApiError> {
    let late = || {
        let message = "The server's disk does not answer, so that nothing can be written now; try again.";
        Err(kalamdb_engine::Error::new(ErrorCode::StorageUnavailable, message))
    };
    let found = tokio::time::timeout(patience, ready).await.unwrap_or_else(|_| late());
    found.map_err(|error| ApiError::from(error).with("ready", false))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[tokio::test]
    async fn who_cannot_write_is_not_ready() {
        assert!(in_time(Duration::from_mins(1), async { Ok(()) }).await.is_ok());
        let full = kalamdb_engine::Error::new(ErrorCode::StorageUnavailable, "The disk is full.");
        let refused = in_time(Duration::from_mins(1), async { Err(full) }).await.unwrap_err();
        assert_eq!(refused.message(), "The disk is full.");
        let answer = refused.into_response();
        assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].as_bytes()), (503, &b"10"[..]));
        let body = axum::body::to_bytes(answer.into_body(), 1024).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["details"]["ready"], false);
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_is_not_waited_for() {
        let refused = in_time(Duration::from_millis(1), std::future::pending()).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::StorageUnavailable);
    }
}
