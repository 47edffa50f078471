//! The sub-commands that talk to a running server: `sql`, `import` and `demo`.
//!
//! Invariant: a client like any other. What happens here goes through the HTTP contract with a token, and nothing
//! here opens the database's folder but to find the server's address and secret (`connection.rs`).

mod client;
mod connection;
mod demo;
mod error;
mod import;
mod sql;
mod text;

pub use demo::DemoArgs;
pub use error::Error;
pub use import::ImportArgs;
pub use sql::SqlArgs;

/// A sub-command that talks to a running server.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// A shell for SQL; also runs statements given by -c or on standard input
    Sql(SqlArgs),
    /// Load conversations from newline-delimited JSON files
    Import(ImportArgs),
    /// Load a small sample, and print what to try on it
    Demo(DemoArgs),
}

/// Runs the sub-command. An error's text is meant for the person at the terminal and may have several lines.
///
/// # Errors
/// [`Error`] says what the person can do about it; a program ends with status 1.
pub async fn run(command: Command) -> Result<(), Error> {
    let result = match command {
        Command::Sql(args) => sql::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Demo(args) => demo::run(args).await,
    };
    match result {
        // `kalamdb sql -c … | head` has read what it wanted: no error.
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
