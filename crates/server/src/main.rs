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

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a shell takes for "used wrongly": the command line, and the settings.
const EXIT_USAGE: u8 = 2;

/// A SQL-first database for chat and AI-message history.
///
/// Without a command it serves.
#[derive(Parser)]
#[command(name = "kalamdb", version, args_conflicts_with_subcommands = true)]
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
