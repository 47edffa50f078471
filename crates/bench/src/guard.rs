//! The guard of the hot paths: how many instructions a request of each takes in the server, counted by callgrind and held
//! against a file (`make guard`). A count does not depend on how busy the machine is, so it may fail a build.
//!
//! Invariant: the program is the one that users run, asked by HTTP, in one connection and one request after the other; what
//! counts is everything that it does meanwhile, whichever of its threads does it.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use serde_json::json;

use crate::{
    Failure,
    data::History,
    http::{Call, Connection},
    peers::{
        Ask, Durability, Peer as _, Room,
        kalamdb::{HOT, KalamDb, Program},
        run,
    },
    report::count,
};

/// Requests that are counted for each path; as many are made before, so that nothing happens for the first time.
const REQUESTS: u64 = 40;

/// A path may take a third more than is written down.
const MORE: (u64, u64) = (4, 3);

/// A statement that no short way takes.
const PLANNED: &str =
    "SELECT conversationId, COUNT(*) FROM messages WHERE content LIKE '%music%' GROUP BY conversationId";

/// What the guard is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The program to watch [default: the `kalamdb` beside this one]
    #[arg(long, env = "KALAMDB_BIN", value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Where the server gets its folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// The counts that are held
    #[arg(long, value_name = "FILE", default_value = "crates/bench/guard.json")]
    pub counts: PathBuf,
    /// Writes down what is counted now, instead of comparing
    #[arg(long)]
    pub write: bool,
}

/// Instructions for each request, by path.
type Counts = BTreeMap<String, u64>;

/// A server that callgrind counts.
struct Counted {
    kalamdb: KalamDb,
    /// Where the counts are dumped: `counts.1`, `counts.2`, …
    dumps: PathBuf,
    dumped: u32,
    counts: Counts,
}

/// Counts, then compares or writes.
pub(crate) async fn guard(arguments: &Arguments, program: Program) -> Result<(), Failure> {
    let counts = measure(program).await?;
    for (path, instructions) in &counts {
        println!("{path:24} {:>12} instructions", count(*instructions));
    }
    if arguments.write {
        let text = serde_json::to_string_pretty(&counts).map_err(|error| Failure(error.to_string()))?;
        println!("They are in {}.", arguments.counts.display());
        return Ok(fs::write(&arguments.counts, text + "\n")?);
    }
    let held = fs::read_to_string(&arguments.counts).map_err(|_| {
        Failure(format!("there is no {}; `make guard ARGS=--write` makes it", arguments.counts.display()))
    })?;
    let held: Counts = serde_json::from_str(&held)
        .map_err(|error| Failure(format!("{} cannot be read: {error}", arguments.counts.display())))?;
    let crossed = judge(&held, &counts);
    if crossed.is_empty() { Ok(()) } else { Err(Failure(crossed.join("\n"))) }
}

async fn measure(mut program: Program) -> Result<Counts, Failure> {
    let dumps = program.folder.join("counts");
    let out = format!("--callgrind-out-file={}", dumps.display());
    program.under = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", &out].map(str::to_owned).to_vec();
    let settings = [&HOT[..], &[("rocksdb.durability", Durability::Os.word())]].concat();
    let mut kalamdb = KalamDb::of(program.start("guard", &settings)?)?;
    kalamdb.fill(Some(&History { owners: 0..1, conversations: 0..50, messages_each: 60, days: 30 })).await?;
    let mut counted = Counted { kalamdb, dumps, dumped: 0, counts: Counts::new() };
    counted.control("--instr=on")?;
    for (path, ask) in [
        ("send", Ask::Send(Room::Of(1))),
        ("send to a group of 10", Ask::Send(Room::Of(10))),
        ("last 50, hot", Ask::Page),
        ("lookup, hot", Ask::Lookup),
        ("inbox", Ask::Inbox),
        ("mark as read", Ask::MarkRead),
    ] {
        counted.ask(path, ask).await?;
    }
    let planned = Call::post("/api/v1/query", &json!({ "sql": PLANNED }));
    counted.count("planned statement, hot", &planned).await?;
    counted.control("--instr=off")?;
    counted.kalamdb.server.consolidate().await?;
    counted.control("--instr=on")?;
    counted.ask("last 50, cold", Ask::Page).await?;
    counted.ask("lookup, cold", Ask::Lookup).await?;
    counted.count("planned statement, cold", &planned).await?;
    counted.control("--instr=off")?;
    counted.kalamdb.server.stop()?;
    Ok(counted.counts)
}

impl Counted {
    async fn ask(&mut self, path: &str, ask: Ask) -> Result<(), Failure> {
        let call = self.kalamdb.door.example(&KalamDb::template(ask));
        self.count(path, &call).await
    }

    async fn count(&mut self, path: &str, call: &Call) -> Result<(), Failure> {
        let target = self.kalamdb.door.target(0);
        let mut connection = Connection::open(&target).await?;
        for counted in [false, true] {
            if counted {
                self.control("--zero")?;
            }
            for _ in 0..REQUESTS {
                let answer = connection.exchange(call.request(&target)?).await;
                answer.map_err(|Failure(why)| Failure(format!("{path}: {why}")))?;
            }
        }
        self.control("--dump")?;
        self.dumped += 1;
        let dump = self.dumps.with_extension(self.dumped.to_string());
        let total = total(&fs::read_to_string(&dump)?).ok_or_else(|| Failure::new("callgrind told no total"))?;
        self.counts.insert(path.to_owned(), total / REQUESTS);
        Ok(())
    }

    fn control(&self, what: &str) -> Result<(), Failure> {
        let process = self.kalamdb.server.id().to_string();
        let mut control = Command::new("callgrind_control");
        match what.split_once('=') {
            Some((what, value)) => run(control.args([what, value, &process])),
            None => run(control.args([what, &process])),
        }
        .map(drop)
    }
}

/// The total of a dump: a line `totals: 3826745`.
fn total(dump: &str) -> Option<u64> {
    dump.lines().rev().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok())
}

/// What takes more than it may, as sentences.
fn judge(held: &Counts, now: &Counts) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = held.keys().chain(now.keys()).collect();
    let sentence = |path: &String| match (held.get(path), now.get(path)) {
        (Some(held), Some(now)) if now * MORE.1 > held * MORE.0 => Some(format!(
            "{path}: {} instructions a request, more than a third above the {} that are written down",
            count(*now),
            count(*held)
        )),
        (Some(_), Some(_)) => None,
        _ => Some(format!("{path}: it is counted or written down, not both; `make guard ARGS=--write` writes it down")),
    };
    names.into_iter().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(path, count)| ((*path).to_owned(), *count)).collect()
    }

    #[test]
    fn a_third_more_is_too_much_and_names_the_path_and_both_figures() {
        let held = counts(&[("send", 300_000), ("page", 900)]);
        assert!(judge(&held, &counts(&[("send", 400_000), ("page", 10)])).is_empty());
        assert_eq!(
            judge(&held, &counts(&[("send", 400_001), ("page", 900)])),
            ["send: 400,001 instructions a request, more than a third above the 300,000 that are written down"]
        );
    }

    #[test]
    fn a_path_without_a_count_does_not_pass() {
        for (held, now) in [(vec![("send", 1), ("page", 1)], vec![("send", 1)]), (vec![], vec![("page", 1)])] {
            let said = judge(&counts(&held), &counts(&now));
            assert!(said.len() == 1 && said[0].starts_with("page: "), "{said:?}");
        }
    }

    #[test]
    fn a_total_is_the_last_line_of_a_dump() {
        assert_eq!(total("version: 1\nsummary: 5\n\nfn=(1) f\n1 5\ntotals: 7\n"), Some(7));
        assert_eq!(total("version: 1\n"), None);
    }
}
