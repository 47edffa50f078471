//! `kalamdb sql`: statements from the command line, from standard input, or from a person.
//!
//! Invariant: one statement at a time, in order; when nobody watches, the first error ends the run.

mod render;
mod shell;
mod statement;

use std::io::{self, BufRead, IsTerminal, Read, Write};

use kalamdb_protocol::UserId;

use super::{
    client::Client,
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
    #[arg(long, value_name = "ID", conflicts_with = "token")]
    user: Option<UserId>,
    /// Have the role admin, too
    #[arg(long, requires = "user")]
    admin: bool,
    /// Run these statements and exit; with an error, exit with status 1
    #[arg(short, long, value_name = "SQL")]
    command: Option<String>,
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
    let identity = match args.user {
        Some(user) => Identity { user, admin: args.admin },
        None => Identity::operator(),
    };
    let client = args.connection.client(identity)?;
    if let Some(text) = &args.command {
        for sql in statement::split_all(text) {
            run_one(&client, sql, args.format).await?;
        }
        return Ok(());
    }
    if io::stdin().is_terminal() {
        return shell::run(&client, args.format).await;
    }
    run_script(&client, io::stdin().lock(), args.format).await
}

/// Runs each statement as soon as it is complete, and the shell's commands between them.
async fn run_script(client: &Client, mut input: impl BufRead, format: Format) -> Result<(), Error> {
    let mut pending = String::new();
    loop {
        let room = MAX_STATEMENT_BYTES - pending.len() as u64;
        let read = (&mut input).take(room).read_line(&mut pending).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::Input("The statements are not UTF-8 text.".to_owned()),
            _ => Error::Input(format!("The statements cannot be read: {error}.")),
        })?;
        // Without a new semicolon nothing has ended, and looking again would take a square of the time.
        let ended = pending[pending.len() - read..].contains(';');
        if statement::is_blank(&pending[..pending.len() - read])
            && let Some(command) = pending[pending.len() - read..].trim().strip_prefix('\\')
        {
            if shell::run_command(command).map_err(Error::Output)? == shell::Next::Quit {
                return Ok(());
            }
            pending.clear();
            continue;
        }
        while ended && let Some((sql, rest)) = statement::split_first(&pending) {
            if !statement::is_blank(sql) {
                run_one(client, sql.trim(), format).await?;
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
    if statement::is_blank(&pending) { Ok(()) } else { run_one(client, pending.trim(), format).await }
}

/// Runs one statement and writes its answer.
async fn run_one(client: &Client, sql: &str, format: Format) -> Result<(), Error> {
    let answer = client.execute(sql, Vec::new()).await?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    render::answer(&answer, format, &mut out, &mut io::stderr()).and_then(|()| out.flush()).map_err(Error::Output)
}
