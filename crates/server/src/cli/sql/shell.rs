//! The shell: a line editor with history around a [`Session`].
//!
//! Invariant: an error is shown and the shell goes on; Ctrl-C stops the statement that runs, never the shell; the
//! history is the user's own file, which nobody else can read.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustyline::{
    Config, Context, Editor, Helper, completion::Completer, error::ReadlineError, highlight::Highlighter, hint::Hinter,
    history::DefaultHistory, validate,
};

use super::{
    render::known_tables,
    session::{Next, Session, is_finished},
    statement,
};
use crate::cli::error::Error;

/// Statements that the history keeps: enough to find last month's, small enough to load at once.
const HISTORY_ENTRIES: usize = 2_000;

/// Words that statements are made of, for completion.
const KEYWORDS: &[&str] = &[
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COUNT",
    "DELETE",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "EXISTS",
    "EXPLAIN",
    "FROM",
    "GROUP",
    "HAVING",
    "IN",
    "INSERT",
    "INTO",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MAX",
    "MIN",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "SELECT",
    "SET",
    "SUM",
    "THEN",
    "UNION",
    "UPDATE",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
];

type Shell = Editor<StatementHelper, DefaultHistory>;

/// Reads and runs statements until the person leaves.
pub(super) async fn run(mut session: Session) -> Result<(), Error> {
    let config =
        Config::builder().max_history_size(HISTORY_ENTRIES)?.history_ignore_dups(true)?.history_ignore_space(true);
    let mut shell = Shell::with_config(config.build())?;
    shell.set_helper(Some(StatementHelper));
    let history = history_file();
    if let Some(file) = &history {
        shell.load_history(file)?;
    }
    println!("{}", session.greeting());
    loop {
        // The editor blocks its thread while the person types, so it goes to one where that hurts nobody.
        let line;
        (shell, line) = read_line(shell, session.prompt()).await?;
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
        match session.run_command(text)? {
            Some(Next::Quit) => break,
            Some(Next::GoOn) => {}
            None => run_statements(&session, text).await?,
        }
    }
    Ok(())
}

async fn read_line(mut shell: Shell, prompt: String) -> Result<(Shell, rustyline::Result<String>), Error> {
    let task = tokio::task::spawn_blocking(move || {
        let line = shell.readline(&prompt);
        (shell, line)
    });
    task.await.map_err(|_| Error::Input("The line editor failed.".to_owned()))
}

/// Runs what was typed; an error or Ctrl-C drops the rest of it.
async fn run_statements(session: &Session, text: &str) -> Result<(), Error> {
    for sql in statement::split_all(text) {
        // Dropping the request closes its connection, which stops the statement in the server.
        let result = tokio::select! {
            result = session.run_one(sql) => result,
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

impl Completer for StatementHelper {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(completions(&line[..at]))
    }
}

/// Names of tables and columns, and words of SQL, that go on from the last word; and where that begins.
fn completions(typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').map_or(0, |at| at + 1);
    // A character that is neither a letter nor ASCII is longer than one byte.
    let start = (start..=typed.len()).find(|at| typed.is_char_boundary(*at)).unwrap_or(typed.len());
    let found = going_on(&typed[start..]);
    match typed[start..].rfind('.') {
        // `m.cont` is a column of whatever `m` is.
        Some(dot) if found.is_empty() => (start + dot + 1, going_on(&typed[start + dot + 1..])),
        _ => (start, found),
    }
}

fn going_on(word: &str) -> Vec<String> {
    if word.is_empty() {
        return Vec::new();
    }
    let goes_on = |name: &String| name.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
    let columns = known_tables().flat_map(|(_, table)| table.columns.iter().map(|column| column.name.to_owned()));
    let tables = known_tables().map(|(name, _)| name);
    let mut names: Vec<String> = tables.chain(columns).filter(goes_on).collect();
    names.sort_unstable();
    names.dedup();
    // A word is completed in the case in which it was begun.
    let is_lower = word.chars().all(char::is_lowercase);
    let cased = |word: &&str| if is_lower { word.to_lowercase() } else { (*word).to_owned() };
    names.extend(KEYWORDS.iter().map(cased).filter(goes_on));
    names
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
    fn names_are_completed() {
        assert_eq!(
            completions("SELECT m.cont"),
            (9, ["content", "contentRef", "contentType"].map(str::to_owned).to_vec())
        );
        assert_eq!(completions("SELECT * FROM MESS"), (14, vec!["messages".to_owned()]));
        assert_eq!(completions("SELECT * FROM system.seg"), (14, vec!["system.segments".to_owned()]));
        assert_eq!(completions("SELECT * FROM sys").1, ["system.files", "system.segments", "system.users"]);
        assert_eq!((completions("sel"), completions("SEL")), ((0, vec!["select".into()]), (0, vec!["SELECT".into()])));
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
