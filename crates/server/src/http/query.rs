//! `POST /api/v1/query`: one SQL statement.
//!
//! Invariant: knows nothing of SQL; the statement goes to the engine as it came, under the caller of the token.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::StreamExt as _;
use kalamdb_engine::{Caller, Outcome, RowStream};
use kalamdb_protocol::{QueryRequest, QueryResponse, WriteResponse};
use utoipa::ToSchema;

use super::{
    App, accept,
    body::JsonBody,
    error::{ApiError, failures},
    messages::idempotency_key,
    metrics,
    openapi::Binary,
};

/// Says of a streamed answer whether `query.max_rows` cut it.
pub const TRUNCATED: HeaderName = HeaderName::from_static("x-kalamdb-truncated");

/// The answer to a statement in JSON: rows for a read, a count for a write.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the document's name for what the engine writes in one of two shapes")]
pub enum QueryAnswer {
    /// The rows of a read.
    Rows(QueryResponse),
    /// The counts of a write.
    Written(WriteResponse),
}

failures! {
    /// Failures of a statement.
    QueryFailures: SyntaxError, UnknownTable, UnknownColumn, InvalidValue, Unsupported, Unauthorized, ScopeViolation,
    Forbidden, NotFound, MethodNotAllowed, RequestTimeout, Conflict, PayloadTooLarge, UnsupportedMediaType,
    QueryTooLarge, RateLimited, QueryTimeout, ResourceExhausted, StorageUnavailable, Internal
}

/// Runs one SQL statement.
///
/// `params` binds `$1`, `$2`, … when it is an array, and `$name` when it is an object. Rows are arrays in column
/// order. `Accept` also offers CSV, newline-delimited JSON (an object for each row) and an Arrow stream, which are
/// streamed. One that was cut, or failed, after its first MiB says so at its end: a last line `#truncated,…` or
/// `#error,…` of CSV, `{"truncated":true,…}` or `{"error":…}` of NDJSON; an Arrow stream breaks off.
#[utoipa::path(
    post,
    path = "/api/v1/query",
    tag = "data",
    params((
        "Idempotency-Key" = Option<String>,
        Header,
        min_length = 1,
        max_length = 255,
        description = "The client's own name for a statement that writes: for 24 hours a repetition gets the first \
                       answer, and another statement or other params under the same key are `conflict`. Reads do not \
                       look at it",
    )),
    request_body = QueryRequest,
    responses(
        (
            status = 200,
            description = "The statement ran",
            headers((
                "X-Kalamdb-Truncated" = bool,
                description = "Of a streamed answer of up to 1 MiB: whether `query.max_rows` cut it. A larger one has \
                               none, and says so at its end"
            )),
            content(
                (QueryAnswer = "application/json"),
                (String = "text/csv", example = "msgId,content\n7389405184819201,Hello\n"),
                (String = "application/x-ndjson", example = "{\"msgId\":7389405184819201,\"content\":\"Hello\"}\n"),
                (Binary = "application/vnd.apache.arrow.stream"),
            )
        ),
        QueryFailures,
    )
)]
pub async fn query(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(request, _room): JsonBody<QueryRequest>,
) -> Result<Response, ApiError> {
    let format = accept::wanted(&headers);
    match app.engine().execute(&caller, request, idempotency_key(&headers)?, format).await? {
        Outcome::Written(written) => {
            metrics::count_write(written.msg_ids.as_ref().map_or(0, Vec::len));
            Ok(Json(written).into_response())
        }
        Outcome::Json(document) => {
            metrics::count_read();
            Ok(([(CONTENT_TYPE, "application/json")], document).into_response())
        }
        Outcome::Stream(rows) => {
            metrics::count_read();
            Ok(stream(rows))
        }
    }
}

fn stream(rows: RowStream) -> Response {
    // The answer's head says 200 by then, and so does the log.
    let count_late = move |_: &_| rows.late.get().copied().into_iter().for_each(metrics::count_late_error);
    let body = Body::from_stream(rows.body.inspect(count_late));
    let mut response = ([(CONTENT_TYPE, accept::media_type(rows.format))], body).into_response();
    if let Some(truncated) = rows.truncated {
        let value = HeaderValue::from_static(if truncated { "true" } else { "false" });
        response.headers_mut().insert(TRUNCATED, value);
    }
    response
}
