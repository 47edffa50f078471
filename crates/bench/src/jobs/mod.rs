//! What is measured, one file for each job, and the rounds in which peers take turns.
//!
//! Invariant: every job has an end, in time or in requests. Peers take turns within a job, so that whatever else the
//! machine does at some moment meets all of them; the processor time of a server is counted beside its rate, because it
//! does not depend on who shares the cores.

pub(crate) mod history;
pub(crate) mod live;
pub(crate) mod neighbours;
pub(crate) mod reads;
pub(crate) mod rest;
pub(crate) mod sends;
pub(crate) mod sizes;
pub(crate) mod storage;
pub(crate) mod users;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::{
    Failure, Size,
    data::scatter,
    load::Outcome,
    machine::{memory_bytes, processor_time},
    peers::{Ask, Load, Peer, kalamdb::Program},
    report::{Report, Spread, as_mebibytes, short, whole},
};

/// What a job needs.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The program that is measured, and where its folders are.
    pub program: Program,
    /// How much is done.
    pub size: Size,
    /// A Python that may have DuckDB.
    pub python: Option<String>,
    /// PocketBase, where it is installed.
    pub pocketbase: Option<PathBuf>,
    /// The names of the jobs that are wanted; all of them, if none is named.
    pub only: Vec<String>,
}

/// The columns of a comparison.
const COLUMNS: [&str; 8] =
    ["", "per second", "least to most", "p50 ms", "p99 ms", "processor µs", "memory MiB", "KalamDB's rate"];

/// What came of the rounds of one peer.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Whose it is.
    pub peer: &'static str,
    /// Requests per second.
    pub rate: Spread,
    /// The median time of a request, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The time that one in a hundred took longer than.
    pub p99_ms: Option<f64>,
    /// Processor time of the server for a request, in microseconds.
    pub processor_micros: f64,
    /// Its memory after the last round.
    pub memory_bytes: u64,
}

/// What came of one job.
#[derive(Debug, Default)]
pub(crate) struct Cells(Vec<Cell>);

impl Bench {
    /// Whether one of these jobs is to be done.
    pub(crate) fn wants(&self, jobs: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| jobs.contains(&only.as_str()))
    }

    /// Lets the peers take turns with it, and adds a line for each to the report.
    pub(crate) async fn compare(
        &self,
        name: &str,
        what: &str,
        ask: Ask,
        in_flight: usize,
        peers: &[&dyn Peer],
        report: &mut Report,
    ) -> Result<Cells, Failure> {
        let mut rounds: Vec<Vec<(Outcome, f64)>> = peers.iter().map(|_| Vec::new()).collect();
        for round in 0..self.size.rounds {
            for (peer, outcomes) in peers.iter().zip(&mut rounds) {
                // The same questions for everybody, others in each round.
                let load = Load { in_flight, seconds: self.size.seconds, seed: scatter(round) };
                let before = processor_time(&peer.processes());
                let outcome = peer.load(ask, load).await;
                let outcome = outcome.map_err(|Failure(why)| Failure(format!("{}: {why}", peer.name())))?;
                let used = processor_time(&peer.processes()).saturating_sub(before);
                outcomes.extend(outcome.map(|outcome| (outcome, used.as_secs_f64())));
            }
        }
        let cell = |(peer, outcomes): (&&dyn Peer, &Vec<_>)| Cell::of(*peer, outcomes);
        let cells = Cells(peers.iter().zip(&rounds).filter_map(cell).collect());
        cells.tell(name, what, report);
        Ok(cells)
    }
}

impl Cell {
    #[allow(clippy::cast_precision_loss)] // No run comes near 2^53 requests.
    fn of(peer: &dyn Peer, rounds: &[(Outcome, f64)]) -> Option<Self> {
        let median = |figure: fn(&Outcome) -> Option<f64>| {
            Spread::of(rounds.iter().filter_map(|(outcome, _)| figure(outcome)).collect()).map(|spread| spread.median)
        };
        let micros = rounds.iter().map(|(outcome, seconds)| seconds * 1e6 / outcome.requests as f64).collect();
        Some(Self {
            peer: peer.name(),
            rate: Spread::of(rounds.iter().map(|(outcome, _)| outcome.rate()).collect())?,
            p50_ms: median(|outcome| outcome.p50_ms),
            p99_ms: median(|outcome| outcome.p99_ms),
            processor_micros: Spread::of(micros)?.median,
            memory_bytes: memory_bytes(&peer.processes()),
        })
    }

    fn value(&self) -> Value {
        json!({
            "perSecond": self.rate.value(),
            "p50Ms": self.p50_ms,
            "p99Ms": self.p99_ms,
            "processorMicros": self.processor_micros,
            "memoryBytes": self.memory_bytes,
        })
    }
}

impl Cells {
    /// The one of that peer.
    pub(crate) fn of(&self, peer: &str) -> Option<&Cell> {
        self.0.iter().find(|cell| cell.peer == peer)
    }

    /// KalamDB's.
    pub(crate) fn ours(&self) -> Option<&Cell> {
        self.of("KalamDB")
    }

    /// How many times that peer's rate KalamDB's is.
    pub(crate) fn times(&self, peer: &str) -> Option<f64> {
        Some(self.ours()?.rate.median / self.of(peer)?.rate.median)
    }

    fn tell(&self, name: &str, what: &str, report: &mut Report) {
        let none = || "–".to_owned();
        for cell in &self.0 {
            let times = self.times(cell.peer).filter(|_| cell.peer != "KalamDB");
            report.row(vec![
                format!("{what}: {}", cell.peer),
                whole(cell.rate.median),
                format!("{} to {}", whole(cell.rate.least), whole(cell.rate.most)),
                cell.p50_ms.map_or_else(none, short),
                cell.p99_ms.map_or_else(none, short),
                short(cell.processor_micros),
                short(as_mebibytes(cell.memory_bytes)),
                times.map_or_else(none, |times| format!("{} ×", short(times))),
            ]);
        }
        let values: Map<String, Value> = self.0.iter().map(|cell| (cell.peer.to_owned(), cell.value())).collect();
        report.value(name, Value::Object(values));
    }
}

/// Begins a table of comparisons.
fn comparison(report: &mut Report, title: impl Into<String>) {
    report.table(title, &COLUMNS);
}
