//! A long history: how the small questions grow with it, the start after a kill, and sums over all of it beside DuckDB on
//! the same files.
//!
//! Invariant: one history of one user, imported part by part and hot until it is asked to move, so that each step differs
//! from the one before in its length alone.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{Bench, Cells, comparison};
use crate::{
    Failure,
    data::History,
    http::{Call, once},
    load::Template,
    machine::files_below,
    peers::{
        Ask, Durability, Room, duckdb,
        kalamdb::{HOT, KalamDb, Server},
    },
    report::{Report, Spread, count, mebibytes, short, whole},
};

/// Messages in a conversation: so few that the shortest history has as many conversations as an inbox shows.
const EACH: u64 = 100;

/// Queries of DuckDB in each round.
const REPEATS: u64 = 5;

/// How much more the longest history may take of what the shortest takes.
const FLAT: f64 = 1.3;

/// The sums and searches, by name, and as DuckDB says the same. How each is named in the report.
const QUERIES: [(&str, &str, &str, &str); 4] = [
    (
        "perConversation",
        "count by conversation",
        "SELECT conversationId, COUNT(*) AS messages FROM userId.messages GROUP BY conversationId",
        "SELECT conversationId, count(*) FROM messages GROUP BY conversationId",
    ),
    (
        "perDay",
        "count by day",
        "SELECT DATE(timestamp) AS day, COUNT(*) AS messages FROM userId.messages GROUP BY DATE(timestamp)",
        "SELECT CAST(make_timestamp(\"timestamp\") AS DATE), count(*) FROM messages GROUP BY 1",
    ),
    (
        "search",
        "count what holds a text (LIKE)",
        "SELECT COUNT(*) FROM userId.messages WHERE content LIKE '%garden music%'",
        "SELECT count(*) FROM messages WHERE content LIKE '%garden music%'",
    ),
    (
        "newestThatMatch",
        "the newest 20 that hold a text",
        "SELECT msgId, content FROM userId.messages WHERE content LIKE '%garden music%' ORDER BY msgId DESC LIMIT 20",
        "SELECT msgId, content FROM messages WHERE content LIKE '%garden music%' ORDER BY msgId DESC LIMIT 20",
    ),
];

/// What is asked at each length.
const SMALL: [(&str, Ask); 4] = [
    ("last 50", Ask::Page),
    ("one message by its id", Ask::Lookup),
    ("inbox", Ask::Inbox),
    ("a send", Ask::Send(Room::Any)),
];

/// Measures it.
pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let settings = [&HOT[..], &[("rocksdb.durability", Durability::Os.word())]].concat();
    let mut ours = KalamDb::of(bench.program.start("history", &settings)?)?;
    comparison(report, "Growth with one user's history, hot, one in flight");
    let (mut there, mut first, mut last) = (0, Vec::new(), Vec::new());
    for messages in bench.size.history.clone() {
        let conversations = messages / EACH;
        import(&ours.server, there..conversations, report)?;
        there = conversations;
        ours.take_sample(conversations, EACH).await?;
        last = measure_small(bench, &ours, "hot", messages, report).await;
        if first.is_empty() {
            first.clone_from(&last);
        }
    }
    report_growth(&first, &last, "history", report);
    ours = restart(bench, ours, &settings, report).await?;
    ours.take_sample(there, EACH).await?;
    ours.server.consolidate().await?;
    let messages = there * EACH;
    comparison(report, format!("The small questions, of {} messages in files, one in flight", count(messages)));
    measure_small(bench, &ours, "cold", messages, report).await;
    measure_queries(bench, &ours, messages, report).await?;
    ours.server.stop()
}

fn import(server: &Server, conversations: std::ops::Range<u64>, report: &mut Report) -> Result<(), Failure> {
    let history = History { owners: 0..1, conversations, messages_each: EACH, days: 365 };
    let file = server.data().with_extension("ndjson");
    history.write(&file)?;
    let started = Instant::now();
    server.import(std::slice::from_ref(&file))?;
    #[allow(clippy::cast_precision_loss)] // Far below 2^53.
    let rate = history.messages() as f64 / started.elapsed().as_secs_f64();
    report.value(format!("import.{}", history.conversations.end * EACH), json!(rate));
    report.note(format!("`kalamdb import` took {} messages, {} a second.", count(history.messages()), whole(rate)));
    std::fs::remove_file(file)?;
    Ok(())
}

async fn measure_small(bench: &Bench, ours: &KalamDb, tier: &str, messages: u64, report: &mut Report) -> Vec<Growing> {
    let mut all = Vec::new();
    for (what, ask) in SMALL {
        let name = format!("history.{tier}.{messages}.{what}");
        let cells = bench.look(&name, &format!("{} messages, {what}", count(messages)), ask, ours, report).await;
        all.extend(Growing::of(what, &cells));
    }
    all
}

/// What may grow with a history or with users.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growing {
    what: &'static str,
    processor_micros: f64,
}

impl Growing {
    /// Of our own cell.
    pub(super) fn of(what: &'static str, cells: &Cells) -> Option<Self> {
        cells.ours().map(|cell| Self { what, processor_micros: cell.processor_micros })
    }
}

/// Compares the longest with the shortest.
pub(super) fn report_growth(first: &[Growing], last: &[Growing], with: &str, report: &mut Report) {
    for (first, last) in first.iter().zip(last) {
        let times = last.processor_micros / first.processor_micros;
        report.at_most(format!("growth with the {with}: processor time of {}", first.what), FLAT, "×", Some(times));
    }
}

/// Kills it, and times the start until it answers a page.
async fn restart(
    bench: &Bench,
    ours: KalamDb,
    settings: &[(&str, &str)],
    report: &mut Report,
) -> Result<KalamDb, Failure> {
    let messages = bench.size.history.last().copied().unwrap_or_default();
    ours.server.kill()?;
    let started = Instant::now();
    let again = KalamDb::of(bench.program.start("history", settings)?)?;
    let listens = started.elapsed();
    let page = Template::with_body(
        "POST",
        "/api/v1/query",
        r#"{"sql":"SELECT msgId FROM messages WHERE conversationId = 'conv00000000000' ORDER BY msgId DESC LIMIT 50"}"#,
    );
    once(&again.door.target(0), &again.door.example(&page)).await?;
    let answers = started.elapsed();
    report.heading(format!("The start after a kill, with {} messages hot", count(messages)));
    report.figure("listens", milliseconds(listens), "from the program's start");
    report.figure("has answered a page", milliseconds(answers), "the same");
    report.value("restart", json!({ "messages": messages, "seconds": answers.as_secs_f64() }));
    report.at_most(format!("start after a kill, {} hot", count(messages)), 0.2, "s", Some(answers.as_secs_f64()));
    Ok(again)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

async fn measure_queries(bench: &Bench, ours: &KalamDb, messages: u64, report: &mut Report) -> Result<(), Failure> {
    report.heading(format!(
        "Search and sums over {} messages in files, beside DuckDB on the same files",
        count(messages)
    ));
    let (bytes, files) = files_below(ours.server.data(), ".parquet")?;
    report.note(format!("{} files of {} in all.", count(files), mebibytes(bytes)));
    let queries: Map<String, Value> =
        QUERIES.iter().map(|(name, _, _, sql)| ((*name).to_owned(), Value::from(*sql))).collect();
    let folder = ours.server.data().join(crate::data::user_id(0)).join("batch-*.parquet");
    let duckdb = bench.python.as_deref().filter(|python| duckdb::version(python).is_some());
    let mut theirs: Map<String, Value> = Map::new();
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); QUERIES.len()];
    let mut their_rounds = rounds.clone();
    for _ in 0..bench.size.rounds {
        if let Some(python) = duckdb {
            theirs = duckdb::median_ms(python, &folder, &queries, REPEATS)?;
        }
        for (at, (name, _, sql, _)) in QUERIES.iter().enumerate() {
            their_rounds[at].extend(theirs.get(*name).and_then(Value::as_f64));
            rounds[at].push(median_ms(ours, sql).await?);
        }
    }
    for (at, (name, what, _, _)) in QUERIES.iter().enumerate() {
        let ours = Spread::of(rounds[at].clone()).map_or(0.0, |spread| spread.median);
        let theirs = Spread::of(their_rounds[at].clone()).map(|spread| spread.median);
        report.value(format!("queries.{name}"), json!({ "kalamdbMs": ours, "duckdbMs": theirs }));
        let beside = theirs.map_or_else(
            || "no DuckDB to compare with".to_owned(),
            |theirs| format!("{} of DuckDB's {} ms", short(ours / theirs), short(theirs)),
        );
        report.figure(*what, format!("{} ms", short(ours)), beside);
        report.at_most(format!("{what}: of DuckDB's time"), 1.0, "×", theirs.map(|theirs| ours / theirs));
    }
    Ok(())
}

/// The median of some answers, from the request to the last byte.
async fn median_ms(ours: &KalamDb, sql: &str) -> Result<f64, Failure> {
    let call = Call::post("/api/v1/query", &json!({ "sql": sql }));
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let started = Instant::now();
        once(&ours.door.target(0), &call).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::of(times).map_or(0.0, |spread| spread.median))
}
