//! `POST /api/admin/compact`: rewrites Parquet files without the rows that are gone, now.
//!
//! Invariant: admins only; answers when it is done, and then no file holds a purged row.

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

/// The owners whose files are to be rewritten.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompactRequest {
    /// The user's id; everybody when absent.
    #[serde(default)]
    pub user_id: Option<UserId>,
}

/// The result of a compaction.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompactResponse {
    /// Files that others replace.
    pub replaced_segments: u64,
    /// Files that replace them.
    pub written_segments: u64,
    /// Rows that are in no file any more.
    pub dropped_rows: u64,
}

impl Said for CompactRequest {}

failures! {
    /// Failures of a compaction.
    CompactFailures: InvalidValue, Unauthorized, Forbidden, MethodNotAllowed, RequestTimeout, Conflict, PayloadTooLarge,
    UnsupportedMediaType, RateLimited, ResourceExhausted, StorageUnavailable, Internal
}

/// Rewrites Parquet files without the rows that are gone, and removes what is due.
///
/// Deleted messages whose time is up, uploads that no message refers to, and files that nothing refers to any more go
/// with it.
#[utoipa::path(
    post,
    path = "/api/admin/compact",
    tag = "administration",
    request_body = Option<CompactRequest>,
    responses((status = 200, description = "Done", body = CompactResponse), CompactFailures)
)]
pub async fn compact(
    State(app): State<App>,
    _: Admin,
    OptionalJsonBody(request): OptionalJsonBody<CompactRequest>,
) -> Result<Json<CompactResponse>, ApiError> {
    let report = app.engine().compact(request.user_id.as_ref()).await?;
    Ok(Json(CompactResponse {
        replaced_segments: report.replaced_segments,
        written_segments: report.written_segments,
        dropped_rows: report.dropped_rows,
    }))
}
