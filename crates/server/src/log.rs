//! The log: lines on standard error, so that standard output stays for answers.
//!
//! Invariant: our own lines by `log.level`, the libraries' only when they warn: at lower levels some of them
//! print statements and rows.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry::Registry,
    util::SubscriberInitExt as _,
};

use crate::settings::{Log, LogFormat, LogLevel};

/// The crates whose lines are ours.
const OURS: [&str; 4] = ["kalamdb", "kalamdb_engine", "kalamdb_store", "kalamdb_protocol"];

/// Starts logging; once per process.
pub fn start(settings: &Log) {
    let lines = match settings.format {
        LogFormat::Text => {
            fmt::layer().with_writer(io::stderr).with_ansi(io::IsTerminal::is_terminal(&io::stderr())).boxed()
        }
        LogFormat::Json => fmt::layer().with_writer(io::stderr).json().boxed(),
    };
    let lines = match EnvFilter::try_from_default_env() {
        Ok(filter) => lines.with_filter(filter).boxed(),
        Err(_) => lines.with_filter(ours(level(settings.level))).boxed(),
    };
    Registry::default().with(lines).init();
}

fn ours(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        // This target warns, at every query, of every column that a segment has no bounds for, which is most of them.
        .with_target("datafusion_common::pruning", LevelFilter::ERROR.min(level))
        .with_targets(OURS.map(|target| (target, level)))
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
