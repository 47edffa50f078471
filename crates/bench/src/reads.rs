//! Reads: the page that every chat client asks for, and the sums that operators ask for.
//!
//! Invariant: the answer cache is off, so that each request is computed.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    Failure, Scale,
    data::{History, conversation_id, scatter},
    http::{Bounds, Call, Target, closed_loop, once},
    report::{Report, load_value, mebibytes, quantile_ms, whole},
    sends::health,
    server::{Program, Server, User, files_below},
};

/// Reads in flight.
const CONCURRENCY: [usize; 2] = [1, 16];

/// Runs of each aggregate.
const REPEATS: u64 = 10;

const LAST_50: &str = "SELECT msgId, from, timestamp, content FROM userId.messages \
                       WHERE conversationId = $1 ORDER BY msgId DESC LIMIT 50";

/// The aggregates, by name, and as DuckDB says the same.
const AGGREGATES: [(&str, &str, &str); 2] = [
    (
        "perConversation",
        "SELECT conversationId, COUNT(*) AS messages FROM userId.messages GROUP BY conversationId",
        "SELECT conversationId, count(*) FROM messages GROUP BY conversationId",
    ),
    (
        "perDay",
        "SELECT DATE(timestamp) AS day, COUNT(*) AS messages FROM userId.messages GROUP BY DATE(timestamp)",
        "SELECT CAST(make_timestamp(\"timestamp\") AS DATE), count(*) FROM messages GROUP BY 1",
    ),
];

const DUCKDB_SCRIPT: &str = include_str!("../../../scripts/duckdb_times.py");

/// Measures the last 50 messages of a conversation, all of them hot, then all of them cold.
pub(crate) async fn measure_pages(program: &Program, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let history = History { owner: "reader", conversations: 200, messages_each: scale.of(500).max(60), days: 90 };
    report.heading(&format!("The last 50 messages of a conversation, of {}", whole_count(history.messages())));
    // So that all messages are hot until they are asked to move.
    let settings = [
        ("query.enable_cache", "false"),
        ("consolidation.messages_threshold", "10000000"),
        ("consolidation.interval_seconds", "86400"),
    ];
    let server = program.start("pages", &settings)?;
    let file = program.folder.join("pages.ndjson");
    history.write(&file)?;
    server.import(&[file])?;
    let reader = server.target(&User { id: history.owner, admin: false })?;
    for tier in ["hot", "cold"] {
        if tier == "cold" {
            consolidate(&server).await?;
        }
        for in_flight in CONCURRENCY {
            measure_page(&reader, tier, in_flight, &history, scale, report).await?;
        }
    }
    report.figure("memory after", mebibytes(server.resident_bytes()?), "");
    server.stop()
}

async fn measure_page(
    reader: &Target,
    tier: &str,
    in_flight: usize,
    history: &History<'_>,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let targets = vec![reader.clone(); in_flight];
    let conversations = history.conversations;
    let noop = closed_loop(&targets, scale.bounds(100_000, 3), |_, _| health()).await?;
    let pages = closed_loop(&targets, scale.bounds(20_000, 10), move |worker, n| {
        let number = scatter((worker as u64) << 32 | n) % conversations;
        query(LAST_50, &json!([conversation_id(number)]))
    })
    .await?;
    report.value(
        format!("last50.{tier}.{in_flight}"),
        json!({ "pages": load_value(&pages), "health": load_value(&noop), "ofHealth": pages.rate() / noop.rate() }),
    );
    report.figure(
        format!("{tier}, {in_flight} in flight"),
        format!("{}/s", whole(pages.rate())),
        format!(
            "{:.2} of the health route's {}/s; p50 {:.2} ms, p99 {:.2} ms; in the server p50 {:.2} ms, p99 {:.2} ms",
            pages.rate() / noop.rate(),
            whole(noop.rate()),
            quantile_ms(&pages.latency, 0.5),
            quantile_ms(&pages.latency, 0.99),
            quantile_ms(&pages.in_server, 0.5),
            quantile_ms(&pages.in_server, 0.99),
        ),
    );
    Ok(())
}

/// Measures aggregates over a long cold history, beside DuckDB on the same files if there is one.
pub(crate) async fn measure_aggregates(
    program: &Program,
    scale: Scale,
    duckdb: Option<&str>,
    report: &mut Report,
) -> Result<(), Failure> {
    let history = History { owner: "analyst", conversations: 2_000, messages_each: scale.of(500).max(5), days: 365 };
    report.heading(&format!("Aggregates over {} cold messages", whole_count(history.messages())));
    let server = program.start("aggregates", &[("query.enable_cache", "false")])?;
    let file = program.folder.join("aggregates.ndjson");
    let json_bytes = history.write(&file)?;
    let started = std::time::Instant::now();
    server.import(&[file])?;
    report_import(report, history.messages(), started.elapsed());
    consolidate(&server).await?;
    let (bytes, files) = files_below(server.data(), ".parquet")?;
    report.value("aggregates.files", json!({ "count": files, "bytes": bytes, "jsonBytes": json_bytes }));
    report.figure(
        "files",
        whole_count(files),
        format!("{} of Parquet for {} of JSON", mebibytes(bytes), mebibytes(json_bytes)),
    );

    let analyst = server.target(&User { id: history.owner, admin: false })?;
    let peer = match duckdb {
        Some(python) => duckdb_times(python, &server, history.owner)?,
        None => Value::Null,
    };
    for (name, sql, _) in AGGREGATES {
        let bounds = Bounds { requests: REPEATS, time: Duration::from_mins(2) };
        let load = closed_loop(std::slice::from_ref(&analyst), bounds, move |_, _| query(sql, &json!([]))).await?;
        let ours = quantile_ms(&load.latency, 0.5);
        let theirs = peer.get(name).and_then(Value::as_f64);
        report.value(
            format!("aggregates.{name}"),
            json!({ "kalamdb": load_value(&load), "duckdbP50Ms": theirs, "ofDuckdb": theirs.map(|time| ours / time) }),
        );
        let beside = match theirs {
            Some(time) => format!("{:.2} of DuckDB's {time:.1} ms on the same files", ours / time),
            None => "no DuckDB to compare with".to_owned(),
        };
        report.figure(name, format!("{ours:.1} ms"), beside);
    }
    report.figure("memory after", mebibytes(server.resident_bytes()?), "");
    server.stop()
}

fn report_import(report: &mut Report, messages: u64, time: Duration) {
    #[allow(clippy::cast_precision_loss)] // Far below 2^53.
    let rate = messages as f64 / time.as_secs_f64();
    report.value("import.messagesPerSecond", json!(rate));
    report.figure("import", format!("{}/s", whole(rate)), "messages, by `kalamdb import`, with every commit synced");
}

/// Moves everything hot to files.
pub(crate) async fn consolidate(server: &Server) -> Result<(), Failure> {
    let admin = server.target(&User { id: "operator", admin: true })?;
    once(&admin, &Call { path: "/api/admin/consolidate", body: Some(json!({})) }).await?;
    Ok(())
}

fn query(sql: &str, params: &Value) -> Call {
    Call { path: "/api/v1/query", body: Some(json!({ "sql": sql, "params": params })) }
}

/// The median time of each aggregate in DuckDB, in milliseconds, by name.
fn duckdb_times(python: &str, server: &Server, owner: &str) -> Result<Value, Failure> {
    let files = server.data().join(owner).join("batch-*.parquet");
    let queries: Value = AGGREGATES.iter().map(|(name, _, sql)| ((*name).to_owned(), Value::from(*sql))).collect();
    let output = Command::new(python)
        .args(["-c", DUCKDB_SCRIPT])
        .arg(files)
        .args([REPEATS.to_string(), queries.to_string()])
        .output()?;
    if !output.status.success() {
        return Err(Failure::new(format!("DuckDB failed: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Failure::new(format!("DuckDB's times: {error}")))
}

#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn whole_count(number: u64) -> String {
    whole(number as f64)
}
