//! `POST /api/admin/consolidate`: moves recent messages to Parquet files now.
//!
//! Invariant: admins only; answers when it is done.

use axum::{Json, extract::State};
use kalamdb_protocol::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    body::{OptionalJsonBody, Said},
    caller::Admin,
    error::{ApiError, failures},
};

/// The owners whose messages are to be moved.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsolidateRequest {
    /// The user's id; everybody when absent.
    #[serde(default)]
    pub user_id: Option<UserId>,
}

/// The result of a consolidation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConsolidateResponse {
    /// The number of files written.
    pub segments: u64,
    /// Messages in them.
    pub messages: u64,
}

impl Said for ConsolidateRequest {}

failures! {
    /// Failures of a consolidation.
    ConsolidateFailures: InvalidValue, Unauthorized, Forbidden, MethodNotAllowed, RequestTimeout, Conflict, PayloadTooLarge,
    UnsupportedMediaType, RateLimited, ResourceExhausted, StorageUnavailable, Internal
}

/// Moves recent messages to Parquet files, however few there are.
#[utoipa::path(
    post,
    path = "/api/admin/consolidate",
    tag = "administration",
    request_body = Option<ConsolidateRequest>,
    responses((status = 200, description = "Done", body = ConsolidateResponse), ConsolidateFailures)
)]
pub async fn consolidate(
    State(app): State<App>,
    _: Admin,
    OptionalJsonBody(request): OptionalJsonBody<ConsolidateRequest>,
) -> Result<Json<ConsolidateResponse>, ApiError> {
    let report = app.engine().consolidate(request.user_id.as_ref()).await?;
    Ok(Json(ConsolidateResponse { segments: report.segments, messages: report.messages }))
}
