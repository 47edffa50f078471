//! The log: lines on standard error, so that standard output stays for answers.
//!
//! Invariant: our own lines by `log.level`, the libraries' only when they warn: at lower levels some of them
//! print statements and rows.

use std::{env, io};

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
    // Set to nothing is not set.
    let chosen = env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.trim().is_empty());
    let by_setting = ours(level(settings.level));
    let (lines, said) = match chosen.map(EnvFilter::try_new) {
        Some(Ok(filter)) => (lines.with_filter(filter).boxed(), Some(CHOSEN)),
        Some(Err(_)) => (lines.with_filter(by_setting).boxed(), Some(NOT_UNDERSTOOD)),
        None => (lines.with_filter(by_setting).boxed(), None),
    };
    Registry::default().with(lines).init();
    if let Some(said) = said {
        tracing::warn!("{said}");
    }
}

const CHOSEN: &str = "the environment variable RUST_LOG says what is logged, and not `log.level`: below warnings, libraries \
                      may print statements and rows";
const NOT_UNDERSTOOD: &str = "the environment variable RUST_LOG is no filter, so that `log.level` says what is logged";

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
