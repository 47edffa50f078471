//! Measures KalamDB from outside, as ratios to what the same machine can do at all: `make bench`.
//!
//! Invariant: a client. It knows the program's command line and the HTTP contract, nothing of its insides; and
//! every measurement has an end, in requests and in time.

mod data;
mod http;
mod live;
mod neighbours;
mod reads;
mod report;
mod sends;
mod server;
mod sizes;
mod storage;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{data::RealData, report::Report, server::Program};

/// Measures a built `kalamdb`.
#[derive(Debug, Parser)]
#[command(name = "kalamdb-bench", version)]
struct Arguments {
    /// The program to measure [default: the `kalamdb` beside this one]
    #[arg(long, env = "KALAMDB_BIN", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the servers get their folders: on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where the figures go
    #[arg(long, value_name = "FILE", default_value = "bench.json")]
    out: PathBuf,
    /// The folder of real conversations, for sizes; left out if it is not there
    #[arg(long, env = "KALAMDB_TEST_DATA", value_name = "DIR", default_value = "crates/server/tests/data")]
    test_data: PathBuf,
    /// A Python that has DuckDB, to compare with
    #[arg(long, env = "KALAMDB_PYTHON", value_name = "FILE")]
    python: Option<String>,
    /// A fiftieth of everything: to see that it works, not how fast it is
    #[arg(long)]
    quick: bool,
}

/// The size of everything that is done.
#[derive(Debug, Clone, Copy)]
struct Scale(u64);

impl Scale {
    /// The part of `number` that this scale means, at least 1.
    fn of(self, number: u64) -> u64 {
        (number / self.0).max(1)
    }

    /// Whether it is only to see that it works.
    fn is_quick(self) -> bool {
        self.0 > 1
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

// One thread: a load generator that took both cores would measure itself.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(sentence)) => {
            eprintln!("kalamdb-bench: {sentence}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let path = match arguments.binary {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("kalamdb"),
    };
    let path =
        path.canonicalize().map_err(|_| Failure::new(format!("there is no {}; build it first", path.display())))?;
    std::fs::create_dir_all(&arguments.dir)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&arguments.dir)?;
    let program = Program { path, folder: folder.path().canonicalize()? };
    let scale = Scale(if arguments.quick { 50 } else { 1 });
    let mut report = Report::default();
    report.value("cores", std::thread::available_parallelism()?.get().into());
    report.value("quick", arguments.quick.into());

    sends::measure(&program, scale, &mut report).await?;
    reads::measure_pages(&program, scale, &mut report).await?;
    reads::measure_aggregates(&program, scale, arguments.python.as_deref(), &mut report).await?;
    live::measure(&program, scale, &mut report).await?;
    neighbours::measure(&program, scale, &mut report).await?;
    match RealData::find(&arguments.test_data)? {
        Some(data) => {
            sizes::measure(&program, &data, &mut report).await?;
            storage::measure(&program, &data, scale, &mut report).await?;
        }
        None => println!("no real conversations in {}: no sizes", arguments.test_data.display()),
    }
    println!("{}", report.table());
    report.write(&arguments.out)?;
    println!("The figures are in {}.", arguments.out.display());
    folder.close()?;
    Ok(())
}
