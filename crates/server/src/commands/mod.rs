//! The commands that need no running server: `serve`, `token`, `config`, `generate`.
//!
//! Invariant: a command loads the settings itself, once, and hands parts of them on.

pub mod config;
pub mod generate;
pub mod serve;
pub mod token;
