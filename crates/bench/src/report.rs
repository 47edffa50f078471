//! The figures: a table for people, a file for programs.
//!
//! Invariant: a figure stands beside what it is to be compared with, measured in the same run.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Failure, http::Load};

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
    values: Map<String, Value>,
}

#[derive(Debug)]
enum Line {
    Heading(String),
    Figure { what: String, value: String, compared: String },
}

impl Report {
    /// Begins a part of the table.
    pub(crate) fn heading(&mut self, text: &str) {
        println!("… {text}");
        self.lines.push(Line::Heading(text.to_owned()));
    }

    /// Adds a line of the table: what, how much, and beside what.
    pub(crate) fn figure(&mut self, what: impl Into<String>, value: impl Into<String>, compared: impl Into<String>) {
        self.lines.push(Line::Figure { what: what.into(), value: value.into(), compared: compared.into() });
    }

    /// Adds a value to the file.
    pub(crate) fn value(&mut self, name: impl Into<String>, value: Value) {
        self.values.insert(name.into(), value);
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let width =
            |pick: fn(&Line) -> &str| self.lines.iter().map(|line| pick(line).chars().count()).max().unwrap_or(0);
        let first = width(|line| if let Line::Figure { what, .. } = line { what } else { "" });
        let second = width(|line| if let Line::Figure { value, .. } = line { value } else { "" });
        let lines = self.lines.iter().map(|line| match line {
            Line::Heading(text) => format!("\n{text}\n"),
            Line::Figure { what, value, compared } => format!("  {what:first$}  {value:>second$}  {compared}\n"),
        });
        lines.collect()
    }

    /// Writes the file.
    pub(crate) fn write(self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&Value::Object(self.values))
            .map_err(|error| Failure::new(error.to_string()))?;
        Ok(std::fs::write(path, text + "\n")?)
    }
}

/// A load as it goes into the file.
pub(crate) fn load_value(load: &Load) -> Value {
    let mut value = json!({
        "requests": load.requests,
        "perSecond": load.rate(),
        "p50Ms": quantile_ms(&load.latency, 0.5),
        "p99Ms": quantile_ms(&load.latency, 0.99),
    });
    if !load.in_server.is_empty() {
        value["inServerP50Ms"] = quantile_ms(&load.in_server, 0.5).into();
        value["inServerP99Ms"] = quantile_ms(&load.in_server, 0.99).into();
    }
    value
}

/// A quantile of a histogram of microseconds, in milliseconds.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(crate) fn quantile_ms(histogram: &hdrhistogram::Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}

/// `12,345`
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A figure to look at.
pub(crate) fn whole(number: f64) -> String {
    let digits = (number.round() as u64).to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// `12.3 MiB`
#[allow(clippy::cast_precision_loss)] // A figure to look at.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let mut report = Report::default();
        report.heading("Sends");
        report.figure("one", "1", "of 2");
        report.figure("thirty", whole(31_234.4), "");
        assert_eq!(report.table(), "\nSends\n  one          1  of 2\n  thirty  31,234  \n");
        assert_eq!(mebibytes(1 << 20), "1.0 MiB");
        assert_eq!((whole(0.0), whole(999.0), whole(1_000_000.0)), ("0".into(), "999".into(), "1,000,000".into()));
    }
}
