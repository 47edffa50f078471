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
    ) -> Cells {
        let mut rounds: Vec<Rounds> = peers.iter().map(|_| Rounds::default()).collect();
        for round in 0..self.size.rounds {
            for (peer, rounds) in peers.iter().zip(&mut rounds) {
                // The same questions for everybody, others in each round.
                let load = Load { in_flight, seconds: self.size.seconds, seed: scatter(round) };
                rounds.take_turn(*peer, async |peer| peer.load(ask, load).await).await;
            }
        }
        Cells::of_rounds(name, what, peers, rounds, report)
    }

    /// One turn after the other of ours alone, of half the length: what grows is to be seen, not who is faster.
    pub(crate) async fn look(&self, name: &str, what: &str, ask: Ask, ours: &dyn Peer, report: &mut Report) -> Cells {
        let mut rounds = Rounds::default();
        for round in 0..self.size.rounds {
            let load = Load { in_flight: 1, seconds: self.size.seconds.div_ceil(2), seed: scatter(round) };
            rounds.take_turn(ours, async |ours| ours.load(ask, load).await).await;
        }
        Cells::of_rounds(name, what, &[ours], vec![rounds], report)
    }
}

/// The turns of one peer, each with the seconds of processor time that it took; one that failed is its last.
#[derive(Debug, Default)]
struct Rounds {
    turns: Vec<(Outcome, f64)>,
    failure: Option<String>,
}

impl Rounds {
    async fn take_turn<'a>(
        &mut self,
        peer: &'a dyn Peer,
        turn: impl AsyncFnOnce(&'a dyn Peer) -> Result<Option<Outcome>, Failure>,
    ) {
        if self.failure.is_some() {
            return;
        }
        let before = processor_time(&peer.processes());
        match turn(peer).await {
            Ok(outcome) => {
                let used = processor_time(&peer.processes()).saturating_sub(before);
                self.turns.extend(outcome.map(|outcome| (outcome, used.as_secs_f64())));
            }
            Err(Failure(why)) => self.failure = Some(why),
        }
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
    /// Adds them to the report. A peer that failed has no line, but a sentence.
    fn of_rounds(name: &str, what: &str, peers: &[&dyn Peer], rounds: Vec<Rounds>, report: &mut Report) -> Self {
        let mut cells = Vec::new();
        for (peer, rounds) in peers.iter().zip(rounds) {
            match rounds.failure {
                Some(why) => report.failed(&format!("{what}: {}", peer.name()), &why),
                None => cells.extend(Cell::of(*peer, &rounds.turns)),
            }
        }
        let cells = Self(cells);
        cells.tell(name, what, report);
        cells
    }

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
