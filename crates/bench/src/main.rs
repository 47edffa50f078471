//! Measures KalamDB from outside, beside others and beside what the same machine can do at all: `make bench`.
//!
//! Invariant: a client. It knows the program's command line and the HTTP contract, nothing of its insides; and
//! every measurement has an end, in requests or in time.

mod data;
mod guard;
mod http;
mod jobs;
mod load;
mod machine;
mod peers;
mod report;
mod tokens;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tempfile::TempDir;

use crate::{
    data::RealData,
    jobs::Bench,
    machine::said,
    peers::{duckdb, installed, kalamdb::Program, pocketbase, postgres, thin},
    report::Report,
};

/// The jobs, in their order.
const JOBS: [&str; 11] =
    ["rest", "sends", "groups", "last50", "small", "history", "users", "live", "neighbours", "sizes", "storage"];

/// Measures a built `kalamdb`.
#[derive(Debug, Parser)]
#[command(name = "kalamdb-bench", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Part>,
    /// The program to measure [default: the `kalamdb` beside this one]
    #[arg(long, env = "KALAMDB_BIN", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the servers get their folders: on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where the figures go
    #[arg(long, value_name = "FILE", default_value = "bench.json")]
    out: PathBuf,
    /// Where the page goes that people read; of several the last one counts
    #[arg(long, value_name = "FILE", overrides_with = "page")]
    page: Option<PathBuf>,
    /// The folder of real conversations, for sizes; left out if it is not there
    #[arg(long, env = "KALAMDB_TEST_DATA", value_name = "DIR", default_value = "crates/server/tests/data")]
    test_data: PathBuf,
    /// A Python that has DuckDB and PocketBase, to compare with
    #[arg(long, env = "KALAMDB_PYTHON", value_name = "FILE")]
    python: Option<String>,
    /// Some of the jobs, by name
    #[arg(long, value_name = "JOB,…", value_delimiter = ',', value_parser = JOBS)]
    only: Vec<String>,
    /// As little as possible of everything: to see that it works, not how fast it is
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Ten times the history and the users, and more and longer rounds: for when nobody else needs the machine
    #[arg(long)]
    full: bool,
    /// How often the peers take turns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: Option<u64>,
    /// Seconds for each turn
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
}

/// What this program does besides.
#[derive(Debug, Subcommand)]
enum Part {
    /// Counts the instructions of the hot paths, and fails where one takes a third more than is written down
    Guard(guard::Arguments),
    /// Serves PostgreSQL by HTTP, to be compared with; the measurement starts it itself
    #[command(hide = true)]
    Thin(thin::Arguments),
}

/// How much is done.
#[derive(Debug)]
struct Size {
    /// How often the peers take turns.
    rounds: u64,
    /// For how long each.
    seconds: u64,
    /// Messages among which pages are asked for.
    page_messages: u64,
    /// The lengths of a history, one after the other.
    history: Vec<u64>,
    /// The numbers of users.
    users: Vec<u64>,
    /// Sends whose subscribers are waited for.
    sends_live: u64,
}

impl Size {
    /// As the arguments say.
    fn of(arguments: &Arguments) -> Self {
        let mut size = if arguments.quick {
            Self {
                rounds: 1,
                seconds: 1,
                page_messages: 12_000,
                history: vec![10_000, 20_000],
                users: vec![10, 100],
                sends_live: 200,
            }
        } else {
            Self {
                rounds: 3,
                seconds: 2,
                page_messages: 100_000,
                history: vec![10_000, 100_000, 1_000_000],
                users: vec![10, 1_000, 10_000],
                sends_live: 5_000,
            }
        };
        if arguments.full {
            (size.rounds, size.seconds) = (5, 5);
            size.history.push(10_000_000);
            size.users.push(100_000);
        }
        size.rounds = arguments.rounds.unwrap_or(size.rounds);
        size.seconds = arguments.seconds.unwrap_or(size.seconds);
        size
    }

    /// Whether it is only to see that it works.
    fn is_quick(&self) -> bool {
        self.page_messages < 100_000
    }
}

/// Why there are no figures, as a sentence.
#[derive(Debug)]
struct Failure(String);

impl Failure {
    fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self(format!("the connection failed: {error}"))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Part::Thin(arguments)) => thin::serve(arguments),
        Some(Part::Guard(arguments)) => watch(arguments),
        None => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(sentence)) => {
            eprintln!("kalamdb-bench: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// The program, and a folder for its servers that goes with the second value.
fn program(binary: Option<&PathBuf>, place: &Path) -> Result<(Program, TempDir), Failure> {
    let path = match binary {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("kalamdb"),
    };
    let path =
        path.canonicalize().map_err(|_| Failure::new(format!("there is no {}; build it first", path.display())))?;
    std::fs::create_dir_all(place)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(place)?;
    Ok((Program { path, folder: folder.path().canonicalize()?, under: Vec::new() }, folder))
}

#[tokio::main(flavor = "current_thread")]
async fn watch(arguments: &guard::Arguments) -> Result<(), Failure> {
    let (program, _folder) = program(arguments.binary.as_ref(), &arguments.dir)?;
    guard::guard(arguments, program).await
}

// One thread: what watches must not take the cores of what is watched.
#[tokio::main(flavor = "current_thread")]
async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (program, folder) = program(arguments.binary.as_ref(), &arguments.dir)?;
    let bench = Bench {
        program,
        size: Size::of(arguments),
        pocketbase: pocketbase::program(arguments.python.as_deref()),
        python: arguments.python.clone(),
        only: arguments.only.clone(),
    };
    let started = std::time::Instant::now();
    let mut report = Report::default();
    describe(&bench, &mut report);
    // Not every server that was started hears of Ctrl-C; they all end with what holds them.
    tokio::select! {
        () = measure(&bench, arguments, &mut report) => {}
        _ = tokio::signal::ctrl_c() => return Err(Failure::new("stopped")),
    }
    report.about("the whole took", format!("{} minutes", started.elapsed().as_secs().div_ceil(60)));
    println!("{}", report.terminal());
    report.write(&arguments.out)?;
    println!("The figures are in {}.", arguments.out.display());
    if let Some(page) = &arguments.page {
        std::fs::write(page, report.page())?;
        println!("The page is {}.", page.display());
    }
    folder.close()?;
    let failures = report.failures();
    if failures.is_empty() { Ok(()) } else { Err(Failure(failures.join("\n"))) }
}

/// Does the jobs. One that fails is said to, and the others are done.
async fn measure(bench: &Bench, arguments: &Arguments, report: &mut Report) {
    // Those that share servers are done together.
    for jobs in JOBS.chunk_by(|one, two| [("sends", "groups"), ("last50", "small")].contains(&(*one, *two))) {
        if bench.wants(jobs)
            && let Err(Failure(why)) = measure_one(bench, jobs[0], arguments, report).await
        {
            report.failed(&format!("the job {}", jobs.join(" and ")), &why);
        }
    }
}

async fn measure_one(bench: &Bench, job: &str, arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    match job {
        "rest" => return jobs::rest::measure(bench, report),
        "sends" => return jobs::sends::measure(bench, report).await,
        "last50" => return jobs::reads::measure(bench, report).await,
        "history" => return jobs::history::measure(bench, report).await,
        "users" => return jobs::users::measure(bench, report).await,
        "live" => return jobs::live::measure(bench, report).await,
        "neighbours" => return jobs::neighbours::measure(bench, report).await,
        _ => {}
    }
    let Some(data) = RealData::find(&arguments.test_data)? else {
        println!("no real conversations in {}: no sizes", arguments.test_data.display());
        return Ok(());
    };
    match job {
        "sizes" => jobs::sizes::measure(bench, &data, report).await,
        _ => jobs::storage::measure(bench, &data, report).await,
    }
}

/// Says on which machine, when, with what and how.
fn describe(bench: &Bench, report: &mut Report) {
    let size = &bench.size;
    report.about("date", said("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]));
    report.about("source", said("git", &["describe", "--always", "--dirty", "--exclude", "*"]));
    report.about("program", said(&bench.program.path.to_string_lossy(), &["--version"]));
    for (what, answer) in machine::description(&bench.program.folder) {
        report.about(what, answer);
    }
    report.about("generator", said("dpkg-query", &["-W", "-f", "${Package} ${Version}", "wrk"]));
    let missing = |peer: &str| format!("{peer} is not here, and left out");
    let version = |peer: &str, program: Option<PathBuf>, argument: &str| {
        program.map_or_else(|| missing(peer), |program| said(&program.to_string_lossy(), &[argument]))
    };
    let peers = [
        postgres::version().unwrap_or_else(|| missing("PostgreSQL")),
        version("PocketBase", bench.pocketbase.clone(), "--version"),
        version("Redis", installed("redis-server"), "--version"),
        bench.python.as_deref().and_then(duckdb::version).unwrap_or_else(|| missing("DuckDB")),
    ];
    report.about("beside", peers.join("; "));
    report.about(
        "size",
        format!(
            "{} rounds of {} s; pages of {} messages; a history of up to {}; up to {} users{}",
            size.rounds,
            size.seconds,
            report::count(size.page_messages),
            report::count(size.history.last().copied().unwrap_or_default()),
            report::count(size.users.last().copied().unwrap_or_default()),
            if size.is_quick() { "; this only shows that it works" } else { "" },
        ),
    );
    if !bench.only.is_empty() {
        report.about("only", bench.only.join(", "));
    }
    for sentences in METHOD {
        report.method(sentences);
    }
}

/// How it is measured.
const METHOD: [&str; 7] = [
    "Everything runs on one machine, by the loopback address. The load generator is `wrk` with one thread and as many \
     connections as there are requests in flight, each of which asks again when it has its answer; so it shares the cores \
     with the server. Before each turn one answer is looked at: it has the rows that were asked for. A peer whose \
     requests are refused has no figure there.",
    "Peers take turns: a round is one turn of each, and the figure is the median of the rounds, beside the least and the \
     most. The same random choices for everybody, others in each round. What wrk tells of times holds a correction for \
     requests that a slow answer kept from being sent.",
    "Processor time is that of the server with all its processes (`/proc/PID/stat`), for each request: it does not depend on \
     who shares the cores. Background work that falls into a turn counts. Memory is `Pss`, after the last turn.",
    "KalamDB checks a token, and that the caller is a member. Its answer cache is off, and messages stay hot until they are \
     asked to move, so that what is measured is known; everything else is its default. The program is the one that \
     `make build` makes, assertions and overflow checks included.",
    "PostgreSQL is Debian's, a cluster of its own with 512 MB of shared buffers, behind an HTTP server that does as little as \
     one can: it checks the token, asks one prepared statement that checks the membership, by 32 connections over a local \
     socket, and writes the rows into JSON as they come; the compiler's flags are those of KalamDB's own server. It stores one row for a message, and neither the last message of a conversation nor a log of \
     changes, which KalamDB writes in the same commit. `pgbench` asks the same statements with neither HTTP nor tokens.",
    "PocketBase is its package of Python, with relations and rules as in its manual; it does not sync its commits. Redis is \
     Debian's, with its append-only file and its own generator: a stream for each room, nobody checked, all in memory: the \
     line for what memory can do. DuckDB reads the very Parquet files that KalamDB wrote.",
    "TrailBase is not among them: to build it takes longer than everything here.",
];
