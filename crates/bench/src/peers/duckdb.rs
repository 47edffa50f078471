//! DuckDB, on the very Parquet files that KalamDB has written.
//!
//! Invariant: its time is that of the query alone, in a process that has the files open already.

use std::{path::Path, process::Command};

use serde_json::{Map, Value};

use super::run;
use crate::Failure;

const SCRIPT: &str = include_str!("../../../../scripts/duckdb_times.py");

/// The median time of each query over the table `messages`, in milliseconds, by name.
pub(crate) fn median_ms(
    python: &str,
    files: &Path,
    queries: &Map<String, Value>,
    repeats: u64,
) -> Result<Map<String, Value>, Failure> {
    let queries = Value::Object(queries.clone()).to_string();
    let said = run(Command::new(python).args(["-c", SCRIPT]).arg(files).args([&repeats.to_string(), &queries]))?;
    serde_json::from_str(&said).map_err(|error| Failure::new(format!("DuckDB's times: {error}")))
}

/// Its version; none where that Python has no DuckDB.
pub(crate) fn version(python: &str) -> Option<String> {
    let said = run(Command::new(python).args(["-c", "import duckdb; print(duckdb.__version__)"]));
    said.ok().map(|version| format!("DuckDB {}", version.trim()))
}
