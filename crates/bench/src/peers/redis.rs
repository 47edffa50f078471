//! Redis: the line for what memory can do. It checks nobody, answers no SQL, and a room is one stream in memory.
//!
//! Invariant: its own generator and protocol; its log is synced for every write where the others sync too.

use std::{
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use async_trait::async_trait;

use super::{Ask, Durability, Load, Peer, Room, Running, installed, run};
use crate::{
    Failure,
    data::{History, room_id},
    load::Outcome,
};

/// Requests of the run that finds out how many fill the time.
const TRIAL: u64 = 500;

/// A server that runs.
pub(crate) struct Redis {
    running: Running,
    folder: PathBuf,
    conversations: u64,
}

impl Redis {
    /// Starts an empty one; none where Redis is not installed.
    pub(crate) fn start(place: &Path, name: &str, durability: Durability) -> Result<Option<Self>, Failure> {
        let (Some(server), Some(_)) = (installed("redis-server"), installed("redis-benchmark")) else {
            return Ok(None);
        };
        let folder = place.join(name);
        fs::create_dir_all(&folder)?;
        let sync = if durability == Durability::Sync { "always" } else { "everysec" };
        let running = Running::start(&place.join(format!("{name}.log")), |port| {
            let mut command = Command::new(&server);
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(["--appendonly", "yes", "--appendfsync", sync]).arg("--dir").arg(&folder);
            command
        })?;
        Ok(Some(Self { running, folder, conversations: 0 }))
    }

    /// The command, in which `__rand_int__` is a number of twelve digits.
    fn command(ask: Ask) -> Option<Vec<String>> {
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let text = "there will be coffee in the garden tomorrow evening";
        match ask {
            Ask::Health => words(&["PING"]),
            Ask::Send(room) => {
                let key = if let Room::Of(members) = room { room_id(members) } else { key_of("__rand_int__") };
                words(&["XADD", &key, "*", "from", "user00000000000", "content", text])
            }
            Ask::Page => words(&["XREVRANGE", &key_of("__rand_int__"), "+", "-", "COUNT", "50"]),
            Ask::Lookup | Ask::Inbox | Ask::MarkRead => None,
        }
    }

    fn benchmark(&self, command: &[String], in_flight: usize, requests: u64) -> Result<Outcome, Failure> {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args([
            "-p",
            &self.running.port.to_string(),
            "-c",
            &in_flight.to_string(),
            "-n",
            &requests.to_string(),
        ]);
        benchmark.args(["--csv", "--precision", "3", "-r", &self.conversations.max(1).to_string()]).args(command);
        outcome(&run(&mut benchmark)?, requests)
    }
}

/// Numbers come as twelve digits here.
fn key_of(number: &str) -> String {
    format!("conv{number}")
}

#[async_trait(?Send)]
impl Peer for Redis {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.running.id()]
    }

    async fn fill(&mut self, history: Option<&History>) -> Result<(), Failure> {
        // A room is there with its first message, and nobody is checked.
        let Some(history) = history else { return Ok(()) };
        let path = self.folder.join("history");
        let mut file = BufWriter::new(fs::File::create(&path)?);
        for (message, number) in history.each().zip(0..) {
            let key = key_of(&format!("{:012}", number / history.messages_each));
            write!(file, "XADD {key} * from {} content \"{}\"\r\n", message.sender, message.text)?;
        }
        file.flush()?;
        let mut pipe = Command::new("redis-cli");
        pipe.args(["-p", &self.running.port.to_string(), "--pipe"]).stdin(fs::File::open(&path)?).stdout(Stdio::null());
        let status = pipe.stderr(Stdio::null()).status()?;
        fs::remove_file(path)?;
        self.conversations = history.conversations.end;
        if status.success() { Ok(()) } else { Err(Failure::new("redis-cli did not take the history")) }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // Small numbers.
    async fn load(&self, ask: Ask, load: Load) -> Result<Option<Outcome>, Failure> {
        let Some(command) = Self::command(ask) else { return Ok(None) };
        let rate = self.benchmark(&command, load.in_flight, TRIAL)?.rate();
        let requests = (rate * load.seconds as f64) as u64;
        let run = self.benchmark(&command, load.in_flight, requests.max(TRIAL))?;
        // The trial cost processor time too.
        let requests = run.requests + TRIAL;
        Ok(Some(Outcome { requests, seconds: requests as f64 / run.rate(), ..run }))
    }
}

/// What redis-benchmark prints: a line of names, and one of figures, of which the first is the command:
/// `"XADD a","35000.00","0.020","0.008","0.015","0.039","0.071","0.207"`.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn outcome(said: &str, requests: u64) -> Result<Outcome, Failure> {
    let missing = || Failure::new("redis-benchmark told no figures");
    let (names, figures) = said.trim().rsplit_once('\n').ok_or_else(missing)?;
    let names = names.lines().last().unwrap_or_default();
    // From the end: the command may hold commas.
    let column = |name: &str| {
        let back = names.rsplit(',').position(|column| column.trim_matches('"') == name)?;
        figures.rsplit(',').nth(back)?.trim_matches('"').parse::<f64>().ok()
    };
    let rate = column("rps").filter(|rate| *rate > 0.0).ok_or_else(missing)?;
    let (p50_ms, p99_ms) = (column("p50_latency_ms"), column("p99_latency_ms"));
    Ok(Outcome { requests, seconds: requests as f64 / rate, p50_ms, p99_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_benchmark_says_is_read() {
        let said = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
            \"p99_latency_ms\",\"max_latency_ms\"\n\
            \"XADD a * one, two\",\"35000.00\",\"0.020\",\"0.008\",\"0.015\",\"0.039\",\"0.071\",\"0.207\"\n";
        let read = outcome(said, 70_000).unwrap();
        assert_eq!((read.requests, read.p50_ms, read.p99_ms), (70_000, Some(0.015), Some(0.071)));
        assert!((read.seconds - 2.0).abs() < 1e-9);
        assert!(outcome("Could not connect to Redis\n", 1).is_err());
        assert!(outcome(&said.replace("35000.00", "0.00"), 1).is_err());
    }
}
