//! `GET /metrics`: what the server counts, as Prometheus text.
//!
//! Invariant: labels come from closed sets (routes, methods, statuses, codes), so that no client can make the
//! number of series grow; no user, statement or message is in any of them.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, Method, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use kalamdb_engine::WriteStages;
use kalamdb_protocol::ErrorCode;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use super::{
    App, caller,
    error::{ApiError, failures},
    unknown_route,
};
use crate::settings::MetricsAccess;

const REQUESTS: &str = "kalamdb_http_requests_total";
const DURATION: &str = "kalamdb_http_request_duration_seconds";
const CONNECTIONS: &str = "kalamdb_http_connections";
const LIVE_CONNECTIONS: &str = "kalamdb_live_connections";
const ERRORS: &str = "kalamdb_errors_total";
const STATEMENTS: &str = "kalamdb_statements_total";
const SENT: &str = "kalamdb_messages_sent_total";
const COMMITS: &str = "kalamdb_commits_total";
const COMMIT_BATCHES: &str = "kalamdb_commit_batches_total";
const COMMIT_BYTES: &str = "kalamdb_commit_bytes_total";
const COMMIT_TIME: &str = "kalamdb_commit_microseconds_total";
const UPTIME: &str = "kalamdb_uptime_seconds";
const MEMORY: &str = "process_resident_memory_bytes";

/// From a hot point query to the longest that a query may run by default.
const DURATION_BUCKETS_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The interval at which samples are folded into their buckets; between two foldings they pile up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Starts counting; once per process.
///
/// # Errors
/// When the process already counts elsewhere.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().set_buckets(&DURATION_BUCKETS_SECONDS)?.install_recorder()?;
    describe_counter!(REQUESTS, "Requests answered, by route, method and status.");
    describe_histogram!(DURATION, "Time from a request's head to its answer's head, by route.");
    describe_gauge!(CONNECTIONS, "Connections open now.");
    describe_gauge!(LIVE_CONNECTIONS, "Of them, those that see live rows: WebSockets and event streams.");
    describe_counter!(
        ERRORS,
        "Requests not answered with a success, and answers that broke off after their head, by error code."
    );
    describe_counter!(STATEMENTS, "SQL statements that ran, reads and writes.");
    describe_counter!(SENT, "Messages stored, a group's once.");
    describe_counter!(COMMITS, "Commits decided: written, or refused.");
    describe_counter!(COMMIT_BATCHES, "Writes that they went in, each with one sync where commits are synced.");
    describe_counter!(COMMIT_BYTES, "Bytes of the rows in them.");
    describe_counter!(
        COMMIT_TIME,
        "Time of commits by stage: all commits' waiting together, and each batch's deciding, writing and publishing."
    );
    describe_gauge!(UPTIME, "Seconds since the start.");
    describe_gauge!(MEMORY, "Memory of the process that is in RAM.");
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// Counts one answered request.
pub fn count_request(route: &str, method: &Method, status: u16, duration: Duration, code: Option<ErrorCode>) {
    let (route, method) = (route.to_owned(), method_label(method));
    histogram!(DURATION, "route" => route.clone()).record(duration.as_secs_f64());
    counter!(REQUESTS, "route" => route, "method" => method, "status" => status.to_string()).increment(1);
    if let Some(code) = code {
        counter!(ERRORS, "code" => code.as_str()).increment(1);
    }
}

/// Counts an error after an answer's head: its last record, or the end that the format has no record for.
pub fn count_late_error(code: ErrorCode) {
    counter!(ERRORS, "code" => code.as_str()).increment(1);
}

/// Counts a read.
pub fn count_read() {
    counter!(STATEMENTS, "kind" => "read").increment(1);
}

/// Counts a write, with the messages that it sent.
pub fn count_write(sent: usize) {
    counter!(STATEMENTS, "kind" => "write").increment(1);
    count_sent(sent as u64);
}

/// Counts messages that were sent.
pub fn count_sent(messages: u64) {
    counter!(SENT).increment(messages);
}

/// A connection that is open for as long as this is held.
pub struct OpenConnection(());

impl OpenConnection {
    /// Counts a connection that has opened.
    pub fn new() -> Self {
        gauge!(CONNECTIONS).increment(1);
        Self(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1);
    }
}

/// A live connection that is open for as long as this is held.
pub struct LiveConnection(());

impl LiveConnection {
    /// Counts a live connection that has opened.
    pub fn new() -> Self {
        gauge!(LIVE_CONNECTIONS).increment(1);
        Self(())
    }
}

impl Drop for LiveConnection {
    fn drop(&mut self) {
        gauge!(LIVE_CONNECTIONS).decrement(1);
    }
}

/// Methods are the client's to invent; labels are not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

failures! {
    /// Failures of reading the metrics.
    MetricsFailures: Unauthorized, Forbidden, NotFound
}

/// Answers what the server has counted, as Prometheus text.
///
/// Who may read it is `server.metrics`: everybody, admins, or nobody.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    security((), ("token" = [])),
    responses((status = 200, description = "The counts", body = String, content_type = "text/plain"), MetricsFailures)
)]
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    match app.metrics_access() {
        MetricsAccess::Open => {}
        MetricsAccess::Off => return Err(unknown_route().await),
        MetricsAccess::Admin if caller::authenticated(&app, &headers)?.admin => {}
        MetricsAccess::Admin => {
            return Err(ApiError::new(ErrorCode::Forbidden, "Only a token with the role `admin` may read this."));
        }
    }
    gauge!(UPTIME).set(app.uptime().as_secs_f64());
    if let Some(bytes) = resident_memory_bytes() {
        gauge!(MEMORY).set(bytes);
    }
    set_write_stages(&app.engine().write_stages());
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.counts()).into_response())
}

/// The store counts by itself, and from the same start.
fn set_write_stages(stages: &WriteStages) {
    counter!(COMMITS).absolute(stages.commits);
    counter!(COMMIT_BATCHES).absolute(stages.batches);
    counter!(COMMIT_BYTES).absolute(stages.bytes);
    for (stage, time) in [
        ("waiting", stages.waiting),
        ("deciding", stages.deciding),
        ("writing", stages.writing),
        ("publishing", stages.publishing),
    ] {
        counter!(COMMIT_TIME, "stage" => stage).absolute(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Linux tells it in a file; elsewhere the gauge is not there.
fn resident_memory_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
