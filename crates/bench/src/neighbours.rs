//! One user against the others: what a small question takes while somebody else asks for as much as they may.
//!
//! Invariant: a figure is the ratio of two measurements on one server: the same question with nobody else there, and
//! beside a user who has all their places taken.

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    Failure, Scale,
    data::{History, conversation_id, scatter},
    http::{Call, Connection, Load, Target, closed_loop},
    report::{Report, load_value, quantile_ms},
    server::{Program, User},
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
pub(crate) async fn measure(program: &Program, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    report.heading("A small question while another user asks for all they may have");
    let history = History { owner: "modest", conversations: 50, messages_each: scale.of(500).max(60), days: 30 };
    let server = program.start("neighbours", &[("query.enable_cache", "false"), ("query.timeout_seconds", "5")])?;
    let file = program.folder.join("neighbours.ndjson");
    history.write(&file)?;
    server.import(&[file])?;
    let modest = server.target(&User { id: history.owner, admin: false })?;
    let greedy = server.target(&User { id: "greedy", admin: false })?;
    let alone = ask(&modest, &history, scale).await?;
    let p99 = quantile_ms(&alone.latency, 0.99);
    report.value("neighbours.alone", load_value(&alone));
    for (name, sql) in ATTACKS {
        let attackers: Vec<JoinHandle<()>> = (0..GREEDY).map(|_| tokio::spawn(attack(greedy.clone(), sql))).collect();
        let beside = ask(&modest, &history, scale).await;
        attackers.iter().for_each(JoinHandle::abort);
        let beside = beside?;
        let ratio = quantile_ms(&beside.latency, 0.99) / p99;
        report.value(format!("neighbours.{name}"), json!({ "load": load_value(&beside), "p99OfAlone": ratio }));
        report.figure(
            format!("beside {name}"),
            format!("{ratio:.1} × p99"),
            format!(
                "{:.2} ms to {p99:.2} ms alone; p50 {:.2} ms to {:.2} ms; at most {MOST} × is wanted",
                quantile_ms(&beside.latency, 0.99),
                quantile_ms(&beside.latency, 0.5),
                quantile_ms(&alone.latency, 0.5),
            ),
        );
    }
    server.stop()
}

async fn ask(modest: &Target, history: &History<'_>, scale: Scale) -> Result<Load, Failure> {
    let conversations = history.conversations;
    closed_loop(std::slice::from_ref(modest), scale.bounds(5_000, 10), move |_, n| {
        statement(
            "SELECT msgId, from, content FROM userId.messages WHERE conversationId = $1 ORDER BY msgId DESC LIMIT 50",
            &json!([conversation_id(scatter(n) % conversations)]),
        )
    })
    .await
}

/// Asks over and over, whatever the answer is.
async fn attack(greedy: Target, sql: &'static str) {
    let call = statement(sql, &json!([]));
    while let Ok(mut connection) = Connection::open(&greedy).await {
        while let Ok(request) = call.request(&greedy)
            && connection.exchange(request).await.is_ok()
        {}
    }
}

fn statement(sql: &str, params: &Value) -> Call {
    Call { path: "/api/v1/query", body: Some(json!({ "sql": sql, "params": params })) }
}
