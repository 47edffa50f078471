//! The figures: tables for people, on the terminal and as a page; a file for programs.
//!
//! Invariant: a figure stands beside what it is to be compared with, measured in the same run; and the page says with
//! what, when and how, so that somebody else can repeat it.

use std::{fmt::Write as _, path::Path};

use serde_json::{Map, Value, json};

use crate::Failure;

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What, and with what it was measured.
    about: Vec<(String, String)>,
    /// How.
    method: Vec<String>,
    goals: Vec<Goal>,
    parts: Vec<Part>,
    failures: Vec<String>,
    values: Map<String, Value>,
}

/// A table.
#[derive(Debug)]
struct Part {
    title: String,
    notes: Vec<String>,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// What is wanted, and what is.
#[derive(Debug)]
struct Goal {
    what: String,
    wanted: String,
    found: String,
    holds: bool,
}

/// A figure's median among the rounds, and the least and the most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The one in the middle; of an even number the lower of the two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these; none of none.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let median = *figures.get(figures.len().checked_sub(1)? / 2)?;
        Some(Self { median, least: *figures.first()?, most: *figures.last()? })
    }

    /// As it goes into the file.
    pub(crate) fn value(self) -> Value {
        json!({ "median": self.median, "least": self.least, "most": self.most })
    }
}

impl Report {
    /// Says with what it is measured.
    pub(crate) fn about(&mut self, what: impl Into<String>, answer: impl Into<String>) {
        self.about.push((what.into(), answer.into()));
    }

    /// Says how it is measured.
    pub(crate) fn method(&mut self, sentences: impl Into<String>) {
        self.method.push(sentences.into());
    }

    /// Begins a table.
    pub(crate) fn table(&mut self, title: impl Into<String>, columns: &[&'static str]) {
        let title = title.into();
        println!("… {title}");
        self.parts.push(Part { title, notes: Vec::new(), columns: columns.to_vec(), rows: Vec::new() });
    }

    /// Begins a table of figures, each beside what it is compared with.
    pub(crate) fn heading(&mut self, title: impl Into<String>) {
        self.table(title, &["", "figure", "beside"]);
    }

    /// Adds a line to the table.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        if let Some(part) = self.parts.last_mut() {
            part.rows.push(cells);
        }
    }

    /// Adds a line of such a table: what, how much, and beside what.
    pub(crate) fn figure(&mut self, what: impl Into<String>, value: impl Into<String>, compared: impl Into<String>) {
        self.row(vec![what.into(), value.into(), compared.into()]);
    }

    /// Adds a sentence to the table.
    pub(crate) fn note(&mut self, sentence: impl Into<String>) {
        if let Some(part) = self.parts.last_mut() {
            part.notes.push(sentence.into());
        }
    }

    /// Says what could not be measured, and why; everything else goes on.
    pub(crate) fn failed(&mut self, what: &str, why: &str) {
        let sentence = format!("{what} failed: {why}");
        eprintln!("{sentence}");
        // What programs say may have lines; a note is one.
        self.note(sentence.replace('\n', " "));
        self.failures.push(sentence);
    }

    /// What could not be measured.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Adds a value to the file.
    pub(crate) fn value(&mut self, name: impl Into<String>, value: Value) {
        self.values.insert(name.into(), value);
    }

    /// At least so much is wanted; nothing is said of what was not measured.
    pub(crate) fn at_least(&mut self, what: impl Into<String>, wanted: f64, unit: &str, found: Option<f64>) {
        self.goal(what.into(), "at least", wanted, unit, found, |found| found >= wanted);
    }

    /// At most so much is wanted.
    pub(crate) fn at_most(&mut self, what: impl Into<String>, wanted: f64, unit: &str, found: Option<f64>) {
        self.goal(what.into(), "at most", wanted, unit, found, |found| found <= wanted);
    }

    fn goal(
        &mut self,
        what: String,
        word: &str,
        wanted: f64,
        unit: &str,
        found: Option<f64>,
        holds: impl Fn(f64) -> bool,
    ) {
        let Some(found) = found else { return };
        let (wanted, holds) = (format!("{word} {} {unit}", short(wanted)), holds(found));
        self.goals.push(Goal { what, wanted, found: format!("{} {unit}", short(found)), holds });
    }

    /// The tables, for a terminal.
    pub(crate) fn terminal(&self) -> String {
        let tables = self.parts.iter().map(|part| format!("\n{}\n{}", part.title, aligned(&part.columns, &part.rows)));
        let goals = format!("\nWhat is wanted\n{}", aligned(&GOAL_COLUMNS, &self.goal_rows()));
        tables.chain((!self.goals.is_empty()).then_some(goals)).collect()
    }

    /// The page.
    pub(crate) fn page(&self) -> String {
        let mut page = String::from(
            "# Performance\n\nMade by `make bench`, which anybody can repeat; it says below with what and how. Figures \
             depend on the machine; what stands beside a figure was measured in the same run.\n\n",
        );
        page += &markdown(&["", ""], &self.about.iter().map(|(a, b)| vec![a.clone(), b.clone()]).collect::<Vec<_>>());
        if !self.goals.is_empty() {
            let _ = write!(page, "\n## What is wanted\n\n{}", markdown(&GOAL_COLUMNS, &self.goal_rows()));
        }
        for part in &self.parts {
            let _ = write!(page, "\n## {}\n\n", part.title);
            for note in &part.notes {
                let _ = write!(page, "{note}\n\n");
            }
            page += &markdown(&part.columns, &part.rows);
        }
        page += "\n## How it is measured\n\n";
        self.method.iter().fold(page, |page, sentences| page + "- " + sentences + "\n")
    }

    fn goal_rows(&self) -> Vec<Vec<String>> {
        let row = |goal: &Goal| {
            let holds = if goal.holds { "yes" } else { "no" };
            vec![goal.what.clone(), goal.wanted.clone(), goal.found.clone(), holds.to_owned()]
        };
        self.goals.iter().map(row).collect()
    }

    /// Writes the file for programs.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut values = self.values.clone();
        values.insert("about".into(), self.about.iter().map(|(a, b)| (a.clone(), Value::from(b.as_str()))).collect());
        values.insert("failures".into(), json!(self.failures));
        let goal =
            |goal: &Goal| json!({ "what": goal.what, "wanted": goal.wanted, "found": goal.found, "holds": goal.holds });
        values.insert("goals".into(), self.goals.iter().map(goal).collect());
        let text =
            serde_json::to_string_pretty(&Value::Object(values)).map_err(|error| Failure::new(error.to_string()))?;
        Ok(std::fs::write(path, text + "\n")?)
    }
}

const GOAL_COLUMNS: [&str; 4] = ["", "wanted", "measured", "holds"];

/// Columns side by side, figures to the right.
fn aligned(columns: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |at: usize| all.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().enumerate().map(|(at, cell)| {
            let width = width(at).unwrap_or_default();
            // The last column is often a sentence.
            if at == 0 || at + 1 == columns.len() { format!("  {cell:width$}") } else { format!("  {cell:>width$}") }
        });
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    all.iter().map(line).collect()
}

fn markdown(columns: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
    };
    let head: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(columns.len()));
    rows.iter().fold(line(&head) + &rule, |text, row| text + &line(row))
}

/// A quantile of a histogram of microseconds, in milliseconds.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(crate) fn quantile_ms(histogram: &hdrhistogram::Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}

/// A figure with as many digits as one can compare: `12,345`, `12.3`, `0.12`.
pub(crate) fn short(number: f64) -> String {
    match number.abs() {
        100.0.. => whole(number),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// `12,345`
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A figure to look at.
pub(crate) fn whole(number: f64) -> String {
    let digits = (number.round() as u64).to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// `12,345`
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(crate) fn count(number: u64) -> String {
    whole(number as f64)
}

/// `12.3 MiB`
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", as_mebibytes(bytes))
}

/// The number of it.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(crate) fn as_mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Report {
        let mut report = Report::default();
        report.about("processor", "one | two");
        report.method("With care.");
        report.heading("Sends");
        report.note("Two of them.");
        report.figure("one", "1", "of 2");
        report.figure("thirty", whole(31_234.4), "");
        report.at_least("sends", 3.0, "×", Some(2.5));
        report.at_most("memory", 40.0, "MiB", Some(39.0));
        report.at_most("what was left out", 1.0, "ms", None);
        report.failed("Redis", "no\nanswer");
        report
    }

    #[test]
    fn the_tables_line_up() {
        let terminal = example().terminal();
        assert!(
            terminal.starts_with("\nSends\n          figure  beside\n  one          1  of 2\n  thirty  31,234\n"),
            "{terminal}"
        );
    }

    #[test]
    fn the_page_says_with_what_how_and_what_was_wanted() {
        let page = example().page();
        for part in [
            "| processor | one \\| two |\n",
            "| sends | at least 3.00 × | 2.50 × | no |\n",
            "| memory | at most 40.0 MiB | 39.0 MiB | yes |\n",
            "\n## Sends\n\nTwo of them.\n\nRedis failed: no answer\n\n|  | figure | beside |\n|---|---|---|\n| one | 1 | of 2 |\n",
            "\n## How it is measured\n\n- With care.\n",
        ] {
            assert!(page.contains(part), "no {part} in:\n{page}");
        }
        assert!(!page.contains("left out"));
        assert_eq!(example().failures().len(), 1);
    }

    #[test]
    fn a_spread_is_the_middle_and_both_ends() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of(vec![3.0, 1.0]).map(|spread| spread.median), Some(1.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn figures_have_the_digits_that_one_compares() {
        assert_eq!([0.123, 12.34, 1_234_567.8].map(short), ["0.12", "12.3", "1,234,568"]);
        assert_eq!((mebibytes(1 << 20), count(999)), ("1.0 MiB".into(), "999".into()));
    }
}
