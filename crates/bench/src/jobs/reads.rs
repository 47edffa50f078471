//! What people do most: open a conversation, look one message up, see their conversations, mark them as read.
//!
//! Invariant: the answer cache is off, so that each request is computed; every peer has the same rows.

use serde_json::json;

use super::{
    Bench, Cells, Rounds, comparison,
    sends::{all, start},
};
use crate::{
    Failure,
    data::{History, scatter},
    machine::{disk_bytes, files_below},
    peers::{Ask, Durability, Load, Peer, Room, kalamdb::KalamDb},
    report::{Report, Spread, count, mebibytes, short, whole},
};

/// Pages at the same time.
const IN_FLIGHT: [usize; 2] = [1, 16];

/// Writers beside sixteen readers.
const WRITERS: usize = 4;

const POSTGRES: &str = "PostgreSQL behind HTTP";

/// Measures them on a history that is hot, then on the same in files.
pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let messages_each = bench.size.page_messages / 200;
    let history = History { owners: 0..1, conversations: 0..200, messages_each, days: 90 };
    let (ours, others) = start(bench, "reads", Durability::Os, Some(&history), report).await?;
    let messages = count(history.messages());
    if bench.wants(&["last50"]) {
        comparison(report, format!("The last 50 messages of a conversation, of {messages} that are hot"));
        measure_pages(bench, "hot", &ours, &others, report).await;
        measure_mixed(bench, &ours, &others, report).await;
    }
    if bench.wants(&["small"]) {
        comparison(report, format!("Other small questions, of {messages} messages that are hot"));
        measure_small(bench, &ours, &others, report).await;
    }
    let hot_bytes = disk_bytes(ours.server.data())?;
    ours.server.consolidate().await?;
    if bench.wants(&["last50"]) {
        comparison(report, format!("The last 50 messages of a conversation, of {messages} in files"));
        measure_pages(bench, "cold", &ours, &others, report).await;
    }
    if bench.wants(&["small"]) {
        comparison(report, format!("One message by its id, of {messages} in files"));
        let peers = behind_http(&ours, &others);
        bench.compare("lookup.cold", "lookup, 16 in flight", Ask::Lookup, 16, &peers, report).await;
    }
    report_disk(&ours, &history, hot_bytes, report)?;
    ours.server.stop()
}

/// KalamDB and PostgreSQL: the others do not change from hot to cold.
fn behind_http<'a>(ours: &'a KalamDb, others: &'a [Box<dyn Peer>]) -> Vec<&'a dyn Peer> {
    all(ours, others).into_iter().filter(|peer| ["KalamDB", POSTGRES].contains(&peer.name())).collect()
}

async fn measure_pages(bench: &Bench, tier: &str, ours: &KalamDb, others: &[Box<dyn Peer>], report: &mut Report) {
    let peers = if tier == "hot" { all(ours, others) } else { behind_http(ours, others) };
    let (times, micros) = if tier == "hot" { (1.5, 150.0) } else { (0.7, 350.0) };
    for in_flight in IN_FLIGHT {
        let what = format!("{in_flight} in flight");
        let pages =
            bench.compare(&format!("last50.{tier}.{in_flight}"), &what, Ask::Page, in_flight, &peers, report).await;
        let goal = format!("last 50, {tier}, {in_flight} in flight");
        report.at_least(format!("{goal}: times {POSTGRES}"), times, "×", pages.times(POSTGRES));
        let used = pages.ours().map(|cell| cell.processor_micros);
        report.at_most(format!("{goal}: processor time each"), micros, "µs", used);
        if tier == "cold" && in_flight == 1 {
            let p50 = pages.ours().and_then(|cell| cell.p50_ms);
            report.at_most(format!("{goal}: p50, seen by the client"), 1.0, "ms", p50);
        }
    }
}

/// Pages while others write to the same conversations.
async fn measure_mixed(bench: &Bench, ours: &KalamDb, others: &[Box<dyn Peer>], report: &mut Report) {
    let peers: Vec<&dyn Peer> = all(ours, others);
    let mut rounds: Vec<Rounds> = peers.iter().map(|_| Rounds::default()).collect();
    let mut writes: Vec<Vec<f64>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 0..bench.size.rounds {
        for ((peer, rounds), writes) in peers.iter().zip(&mut rounds).zip(&mut writes) {
            let load = |in_flight, salt| Load { in_flight, seconds: bench.size.seconds, seed: scatter(round ^ salt) };
            let turn = async |peer: &dyn Peer| {
                let pages = peer.load(Ask::Page, load(16, 0));
                let sends = peer.load(Ask::Send(Room::Any), load(WRITERS, 1 << 20));
                let (pages, Some(sends)) = futures::try_join!(pages, sends)? else { return Ok(None) };
                writes.push(sends.rate());
                Ok(pages)
            };
            rounds.take_turn(*peer, turn).await;
        }
    }
    let what = format!("16 in flight beside {WRITERS} writers");
    Cells::of_rounds("last50.mixed", &what, &peers, rounds, report);
    for (peer, writes) in peers.iter().zip(writes) {
        if let Some(writes) = Spread::of(writes) {
            report.value(format!("last50.mixed.writes.{}", peer.name()), writes.value());
            report.note(format!("{} took {} messages a second beside the pages.", peer.name(), whole(writes.median)));
        }
    }
    report.note("The processor time beside writers is that of a page and of what was written meanwhile.");
}

async fn measure_small(bench: &Bench, ours: &KalamDb, others: &[Box<dyn Peer>], report: &mut Report) {
    let peers = all(ours, others);
    for (name, what, ask) in [
        ("lookup.hot", "one message by its id", Ask::Lookup),
        ("inbox", "the 50 newest conversations", Ask::Inbox),
        ("markRead", "mark as read", Ask::MarkRead),
    ] {
        bench.compare(name, &format!("{what}, 16 in flight"), ask, 16, &peers, report).await;
    }
    report.note("Marking as read is a write, acknowledged as `os`.");
}

#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn report_disk(ours: &KalamDb, history: &History, hot_bytes: u64, report: &mut Report) -> Result<(), Failure> {
    let (cold_bytes, (parquet_bytes, files)) =
        (disk_bytes(ours.server.data())?, files_below(ours.server.data(), ".parquet")?);
    let messages = history.messages();
    let each = |bytes: u64| bytes as f64 / messages as f64;
    report.heading(format!("All of the folder, {} messages", count(messages)));
    report.value(
        "disk",
        json!({
            "messages": messages, "hotBytes": hot_bytes, "coldBytes": cold_bytes,
            "parquetBytes": parquet_bytes, "parquetFiles": files,
        }),
    );
    report.figure("hot", mebibytes(hot_bytes), format!("{} B a message", short(each(hot_bytes))));
    report.figure(
        "in files",
        mebibytes(cold_bytes),
        format!("{} B a message, of which {} B are Parquet", short(each(cold_bytes)), short(each(parquet_bytes))),
    );
    report.at_most("all of the folder, consolidated, for each message", 60.0, "B", Some(each(cold_bytes)));
    Ok(())
}
