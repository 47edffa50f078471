//! `kalamdb sql`: statements from the command line, from standard input, or from a person.
//!
//! Invariant: one statement at a time, in order; when nobody watches, the first error ends the run.

mod render;
mod session;
mod shell;
mod statement;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read},
    path::{Path, PathBuf},
};

use kalamdb_protocol::UserId;

use self::session::{Next, Session};
use super::{
    connection::{ConnectionArgs, Identity},
    error::Error,
};

/// Bytes of a statement, finished or not: above what any server accepts, so that a stray quote in a large script
/// cannot fill the memory.
const MAX_STATEMENT_BYTES: u64 = 16 * 1024 * 1024;

/// `kalamdb sql`
#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Who to be [default: the operator, user `admin` with role admin]
    #[arg(long, value_name = "ID", conflicts_with_all = ["token", "token_file"])]
    user: Option<UserId>,
    /// Have the role admin, too
    #[arg(long, requires = "user")]
    admin: bool,
    /// Run these statements, or shell commands such as '\d', and exit; with an error, exit with status 1
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,
    /// Run the statements of this file and exit; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to write answers
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A table that fits the terminal
    Table,
    /// An array of objects
    Json,
    /// Comma-separated values with a header line
    Csv,
}

/// Runs statements until there are no more.
pub(super) async fn run(args: SqlArgs) -> Result<(), Error> {
    let identity = args.user.map(|user| Identity { user, admin: args.admin });
    let mut session = Session::new(args.connection.client(identity)?, args.format);
    if let Some(text) = &args.command {
        return run_script(&mut session, text.as_bytes()).await;
    }
    match &args.file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path)
                .map_err(|error| Error::Input(format!("{} cannot be read: {error}.", path.display())))?;
            run_script(&mut session, BufReader::new(file)).await
        }
        None if io::stdin().is_terminal() => shell::run(session).await,
        _ => run_script(&mut session, io::stdin().lock()).await,
    }
}

/// Runs each statement as soon as it is complete, and the shell's commands between them.
async fn run_script(session: &mut Session, mut input: impl BufRead) -> Result<(), Error> {
    let mut pending = String::new();
    loop {
        let room = MAX_STATEMENT_BYTES - pending.len() as u64;
        let read = (&mut input).take(room).read_line(&mut pending).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::Input("The statements are not UTF-8 text.".to_owned()),
            _ => Error::Input(format!("The statements cannot be read: {error}.")),
        })?;
        let (before, line) = pending.split_at(pending.len() - read);
        // Without a new semicolon nothing has ended, and looking again would take a square of the time.
        let ended = line.contains(';');
        if statement::is_blank(before)
            && let Some(next) = session.run_command(line)?
        {
            if next == Next::Quit {
                return Ok(());
            }
            pending.clear();
            continue;
        }
        while ended && let Some((sql, rest)) = statement::split_first(&pending) {
            if !statement::is_blank(sql) {
                session.run_one(sql.trim()).await?;
            }
            pending = rest.to_owned();
        }
        if pending.len() as u64 >= MAX_STATEMENT_BYTES {
            return Err(Error::Input(format!("A statement is longer than {MAX_STATEMENT_BYTES} bytes.")));
        }
        if read == 0 {
            break;
        }
    }
    if statement::is_blank(&pending) { Ok(()) } else { session.run_one(pending.trim()).await }
}
