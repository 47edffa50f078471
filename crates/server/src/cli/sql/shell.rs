//! The shell: a line editor with history around [`super::run_one`].
//!
//! Invariant: an error is shown and the shell goes on; Ctrl-C stops the statement that runs, never the shell; the
//! history is the user's own file, which nobody else can read.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use kalamdb_protocol::TABLES;
use rustyline::{
    Config, Context, Editor, Helper, completion::Completer, error::ReadlineError, highlight::Highlighter, hint::Hinter,
    history::DefaultHistory, validate,
};

use super::{Format, render, run_one, statement};
use crate::cli::{client::Client, error::Error};

/// Statements that the history keeps: enough to find last month's, small enough to load at once.
const HISTORY_ENTRIES: usize = 2_000;

const PROMPT: &str = "kalamdb> ";

const HELP: &str = "\
Statements end with ; and may span lines.
  \\d         the tables        \\d NAME    the columns of one
  \\?         this help         \\q         quit (also Ctrl-D)
  Ctrl-C     stop the statement that runs, or drop the line
In every schema: messages, conversations, conversationUsers. Admins name any user's schema
(\"user_john\".messages) or all of them with a leading owner column (*.messages).";

type Shell = Editor<StatementHelper, DefaultHistory>;

/// Reads and runs statements until the person leaves.
pub(super) async fn run(client: &Client, format: Format) -> Result<(), Error> {
    let config =
        Config::builder().max_history_size(HISTORY_ENTRIES)?.history_ignore_dups(true)?.history_ignore_space(true);
    let mut shell = Shell::with_config(config.build())?;
    shell.set_helper(Some(StatementHelper));
    let history = history_file();
    if let Some(file) = &history {
        shell.load_history(file)?;
    }
    println!("KalamDB at {}. \\? for help, \\q to quit.", client.url());
    loop {
        // The editor blocks its thread while the person types, so it goes to one where that hurts nobody.
        let line;
        (shell, line) = read_line(shell).await?;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        shell.add_history_entry(text)?;
        if let Some(file) = &history {
            shell.append_history(file)?;
        }
        match text.strip_prefix('\\') {
            Some(command) if run_command(command).map_err(Error::Output)? == Next::Quit => break,
            Some(_) => {}
            None => run_statements(client, text, format).await?,
        }
    }
    Ok(())
}

async fn read_line(mut shell: Shell) -> Result<(Shell, rustyline::Result<String>), Error> {
    let task = tokio::task::spawn_blocking(move || {
        let line = shell.readline(PROMPT);
        (shell, line)
    });
    task.await.map_err(|_| Error::Input("The line editor failed.".to_owned()))
}

/// Runs what was typed; an error or Ctrl-C drops the rest of it.
async fn run_statements(client: &Client, text: &str, format: Format) -> Result<(), Error> {
    for sql in statement::split_all(text) {
        // Dropping the request closes its connection, which stops the statement in the server.
        let result = tokio::select! {
            result = run_one(client, sql, format) => result,
            _ = tokio::signal::ctrl_c() => {
                println!("Stopped.");
                return Ok(());
            }
        };
        match result {
            Ok(()) => {}
            Err(error @ (Error::Refused(_) | Error::Server(_))) => {
                println!("{error}");
                return Ok(());
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// What comes after one of the shell's own commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The next line.
    GoOn,
    /// Nothing.
    Quit,
}

/// Runs one of the shell's own commands, given without its backslash.
pub(super) fn run_command(command: &str) -> io::Result<Next> {
    let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let argument = argument.trim().trim_end_matches(';');
    match name {
        "q" => return Ok(Next::Quit),
        "d" if !render::describe(argument, &mut io::stdout())? => println!("No such table; \\d lists them."),
        "d" => {}
        "?" => println!("{HELP}"),
        _ => println!("No such command; \\? lists them."),
    }
    Ok(Next::GoOn)
}

/// The history file, made readable for its owner only; none where there is no place for one.
fn history_file() -> Option<PathBuf> {
    let folder = state_folder()?.join("kalamdb");
    let file = folder.join("sql_history");
    match private_file(&folder, &file) {
        Ok(()) => Some(file),
        Err(error) => {
            eprintln!("No history is kept: {error}.");
            None
        }
    }
}

fn private_file(folder: &Path, file: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let opened = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    // The file may be from elsewhere, with other rights.
    opened.set_permissions(fs::Permissions::from_mode(0o600))
}

/// The folder for what programs remember, by the XDG rules.
fn state_folder() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
}

/// Tells the editor when a statement is finished, and how names go on.
struct StatementHelper;

impl validate::Validator for StatementHelper {
    fn validate(&self, context: &mut validate::ValidationContext) -> rustyline::Result<validate::ValidationResult> {
        let finished = is_finished(context.input());
        Ok(if finished { validate::ValidationResult::Valid(None) } else { validate::ValidationResult::Incomplete })
    }
}

/// Whether Enter runs the text: a command, nothing, or statements that each end.
fn is_finished(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = statement::split_first(rest) {
        rest = after;
    }
    text.trim_start().starts_with('\\') || statement::is_blank(rest)
}

impl Completer for StatementHelper {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(completions(&line[..at]))
    }
}

/// Names of tables and columns that go on from the last word, and where that begins.
fn completions(typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    // What is not a letter and not ASCII is longer than one byte.
    let start = (start..=typed.len()).find(|at| typed.is_char_boundary(*at)).unwrap_or(typed.len());
    let word = &typed[start..];
    if word.is_empty() {
        return (start, Vec::new());
    }
    let columns = TABLES.iter().flat_map(|table| table.columns.iter().map(|column| column.name));
    let mut names: Vec<String> = TABLES
        .iter()
        .map(|table| table.name)
        .chain(columns)
        .filter(|name| name.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word)))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    (start, names)
}

impl Hinter for StatementHelper {
    type Hint = String;
}

impl Highlighter for StatementHelper {}

impl Helper for StatementHelper {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_runs_what_is_finished() {
        for finished in ["", "\\d messages", "SELECT 1;", "SELECT 1; -- yes", "SELECT 1;\nSELECT ';';"] {
            assert!(is_finished(finished), "{finished:?}");
        }
        for unfinished in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT 2", "/* a;"] {
            assert!(!is_finished(unfinished), "{unfinished:?}");
        }
    }

    #[test]
    fn names_are_completed() {
        assert_eq!(completions("SELECT m.cont"), (9, vec!["content".to_owned(), "contentRef".to_owned()]));
        assert_eq!(completions("SELECT * FROM MESS"), (14, vec!["messages".to_owned()]));
        assert_eq!(completions("SELECT "), (7, Vec::new()));
        assert_eq!(completions("SELECT “mess"), (10, vec!["messages".to_owned()]));
    }

    #[test]
    fn nobody_else_reads_the_history() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/sql_history");
        private_file(&folder.path().join("state"), &file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        private_file(&folder.path().join("state"), &file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
