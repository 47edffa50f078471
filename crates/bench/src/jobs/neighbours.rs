//! One user against the others: what a small question takes while somebody else asks for as much as they may.
//!
//! Invariant: a figure is the ratio of two measurements on one server: the same question with nobody else there, and
//! beside a user who has all their places taken.

use serde_json::json;
use tokio::task::JoinHandle;

use super::Bench;
use crate::{
    Failure,
    data::{History, user_id},
    http::{Call, Connection, Target},
    load::Outcome,
    peers::{Ask, Load, Peer as _, kalamdb::KalamDb},
    report::{Report, short},
};

/// Statements of the greedy user at the same time: more than may run.
const GREEDY: usize = 10;
/// The most that the other's slowest hundredth may grow.
const MOST: f64 = 5.0;

/// The statements of the greedy user, by what each takes most of.
const ATTACKS: [(&str, &str); 5] = [
    ("time", "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT MAX(n) FROM x"),
    (
        "joins",
        "SELECT count(*) FROM UNNEST(range(1000)) a(x), UNNEST(range(1000)) b(x), UNNEST(range(1000)) c(x), \
         UNNEST(range(1000)) d(x) WHERE a.x + b.x + c.x + d.x = 1",
    ),
    (
        "memory",
        "SELECT array_agg(a.value) FROM UNNEST(generate_series(1, 1000000)) AS a(value), \
         UNNEST(generate_series(1, 1000)) AS b(value)",
    ),
    (
        "comparisons",
        "SELECT SUM(levenshtein(repeat('a', 4000), repeat('b', 4000 + v % 2))) FROM UNNEST(generate_series(1, 200)) AS n(v)",
    ),
    (
        "windows",
        "SELECT max(x) FROM (SELECT ROW_NUMBER() OVER (ORDER BY a.value % 1009, b.value DESC) AS x \
         FROM UNNEST(generate_series(1, 1000)) AS a(value), UNNEST(generate_series(1, 1000)) AS b(value)) AS q",
    ),
];

/// Measures the other user's question alone, and beside each attack.
pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    report.heading("A page while another user asks for all they may have");
    let history =
        History { owners: 0..1, conversations: 0..50, messages_each: bench.size.page_messages / 200, days: 30 };
    let settings = [("query.enable_cache", "false"), ("query.timeout_seconds", "5")];
    let mut modest = KalamDb::of(bench.program.start("neighbours", &settings)?)?;
    modest.fill(Some(&history)).await?;
    let greedy = modest.server.target(&user_id(1))?;
    let alone = ask(bench, &modest).await?;
    report.value("neighbours.alone", json!({ "p50Ms": alone.p50_ms, "p99Ms": alone.p99_ms }));
    for (name, sql) in ATTACKS {
        let attackers: Vec<JoinHandle<()>> = (0..GREEDY).map(|_| tokio::spawn(attack(greedy.clone(), sql))).collect();
        let beside = ask(bench, &modest).await;
        attackers.iter().for_each(JoinHandle::abort);
        let beside = beside?;
        let figures = (beside.p50_ms.zip(alone.p50_ms), beside.p99_ms.zip(alone.p99_ms));
        let (Some(p50), Some(p99)) = figures else { continue };
        let ratio = p99.0 / p99.1;
        report.value(format!("neighbours.{name}"), json!({ "p50Ms": p50.0, "p99Ms": p99.0, "p99OfAlone": ratio }));
        report.figure(
            format!("beside {name}"),
            format!("{} × p99", short(ratio)),
            format!("{} ms to {} ms alone; p50 {} ms to {} ms", short(p99.0), short(p99.1), short(p50.0), short(p50.1)),
        );
        report.at_most(format!("a page's p99 beside a user who asks for too much ({name})"), MOST, "×", Some(ratio));
    }
    modest.server.stop()
}

async fn ask(bench: &Bench, modest: &KalamDb) -> Result<Outcome, Failure> {
    let load = Load { in_flight: 1, seconds: 2 * bench.size.seconds, seed: 1 };
    modest.load(Ask::Page, load).await?.ok_or_else(|| Failure::new("KalamDB has pages"))
}

/// Asks over and over, whatever the answer is.
async fn attack(greedy: Target, sql: &'static str) {
    let call = Call::post("/api/v1/query", &json!({ "sql": sql, "params": [] }));
    while let Ok(mut connection) = Connection::open(&greedy).await {
        while let Ok(request) = call.request(&greedy)
            && connection.exchange(request).await.is_ok()
        {}
    }
}
