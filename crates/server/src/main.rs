//! `kalamdb`: the server and its command line in one program.
//!
//! Invariant: `main` only chooses; a command says what went wrong as an error with a sentence, and only `main`
//! prints it and ends the process.

mod auth;
mod cli;
mod commands;
mod http;
mod log;
mod media;
mod settings;

use std::{process::ExitCode, sync::LazyLock};

use clap::{Parser, Subcommand};

/// The exit code for "used wrongly": the command line, and the settings.
const EXIT_USAGE: u8 = 2;

/// `0.1.0`, and for a program of `make install` the commit that it was built from: `0.1.0 (1f0c3a9e2b7d)`. The build of
/// every day does not say, because it would be made anew with each commit.
static VERSION: LazyLock<String> = LazyLock::new(|| match option_env!("KALAMDB_COMMIT") {
    None | Some("") => env!("CARGO_PKG_VERSION").to_owned(),
    Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
});

/// Below the long help, and in the man page.
const EXAMPLES: &str = "\
Examples:
  kalamdb serve --data ./data                        serve on 127.0.0.1:8080
  kalamdb demo                                       load a small sample, print what to try
  kalamdb sql --user user_john                       a shell, as that user
  kalamdb sql -c 'SELECT * FROM system.users'        one statement, as an admin
  kalamdb token --user user_john --ttl 12h           a token for programs
  kalamdb config                                     the settings in effect";

/// A SQL-first database for chat and AI-message history.
///
/// Without a command it serves.
#[derive(Parser)]
#[command(
    name = "kalamdb",
    version = VERSION.as_str(),
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: commands::serve::Arguments,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (what happens without a command, too)
    Serve(commands::serve::Arguments),
    /// Print a token for a user, signed with this server's secret
    Token(commands::token::Arguments),
    /// Print the settings in effect and where each came from
    Config(commands::config::Arguments),
    /// Write man pages and completions, for packagers
    #[command(hide = true)]
    Generate(commands::generate::Arguments),
    #[command(flatten)]
    Client(cli::Command),
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] settings::Error),
    #[error(transparent)]
    Secret(#[from] auth::Error),
    #[error(transparent)]
    Serve(#[from] commands::serve::Error),
    #[error(transparent)]
    Token(#[from] commands::token::Error),
    #[error(transparent)]
    Client(#[from] cli::Error),
    #[error("The answer cannot be printed: {0}.")]
    Output(#[from] std::io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let result = match command_line.command {
        None => commands::serve::run(&command_line.serve).await,
        Some(Command::Serve(arguments)) => commands::serve::run(&arguments).await,
        Some(Command::Token(arguments)) => commands::token::run(&arguments),
        Some(Command::Config(arguments)) => commands::config::run(&arguments),
        Some(Command::Generate(arguments)) => commands::generate::run(&arguments),
        Some(Command::Client(command)) => cli::run(command).await.map_err(Failure::from),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `kalamdb config | head` has what it wanted.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kalamdb: {failure}");
            if matches!(failure, Failure::Settings(_)) { EXIT_USAGE.into() } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        let bare = CommandLine::try_parse_from(["kalamdb", "--port", "0"]).unwrap();
        assert!(bare.command.is_none());
        let named = CommandLine::try_parse_from(["kalamdb", "serve", "--port", "0"]).unwrap();
        assert!(matches!(named.command, Some(Command::Serve(_))));
    }
}
