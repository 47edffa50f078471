//! What is measured: KalamDB, and what people would use instead. One file for each.
//!
//! Invariant: every peer is asked the same, about the same rows, by the same generator where it speaks HTTP; each does it
//! the way its own manual would. A peer that has no such thing answers that it has none.

pub(crate) mod duckdb;
pub(crate) mod kalamdb;
pub(crate) mod pocketbase;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod thin;

use std::{
    fs,
    net::{TcpListener, TcpStream},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    Failure,
    data::{History, room_id, user_id},
    http::once,
    load::{Door, Fillings, Outcome, Template},
    tokens::token,
};

/// The sizes of the rooms that every peer has: that of one is its only member's own.
pub(crate) const ROOMS: [u64; 4] = [1, 2, 10, 100];

/// The users that every peer has.
pub(crate) const USERS: u64 = 100;

/// How often a server is started, each time at another port.
const TRIES: usize = 3;

/// The longest that a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest that a command may take: ten million messages are imported in less.
const LONGEST: Duration = Duration::from_hours(1);

/// What a peer is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Nothing, by the way that everything else goes.
    Health,
    /// To take one message, of a user who is checked.
    Send(Room),
    /// The newest 50 messages of one conversation.
    Page,
    /// One message, by its id.
    Lookup,
    /// The 50 conversations with the newest messages.
    Inbox,
    /// To note how far somebody has read.
    MarkRead,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// One of [`ROOMS`]: any of its members sends.
    Of(u64),
    /// Any conversation of the first user's history.
    Any,
}

/// How it is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests at the same time.
    pub in_flight: usize,
    /// For how long.
    pub seconds: u64,
    /// What the random choices come from.
    pub seed: u64,
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// When the disk has it.
    Sync,
    /// When the operating system has it.
    Os,
}

/// One of those that are compared.
#[async_trait(?Send)]
pub(crate) trait Peer {
    /// Its name in the report.
    fn name(&self) -> &'static str;

    /// The processes that it started; what these start is its own too.
    fn processes(&self) -> Vec<u32>;

    /// Makes the users and the rooms, and puts a history in.
    async fn fill(&mut self, history: Option<&History>) -> Result<(), Failure>;

    /// Does it for so long; none where it has no such thing.
    async fn load(&self, ask: Ask, load: Load) -> Result<Option<Outcome>, Failure>;
}

impl Ask {
    /// How many rows its answer must have.
    fn rows(self, fillings: &Fillings) -> RangeInclusive<u64> {
        match self {
            Self::Page => fillings.messages_each.min(50)..=50,
            Self::Inbox => fillings.conversations.min(50)..=50,
            _ => 1..=1,
        }
    }
}

impl Room {
    /// Its id, or the hole for it.
    pub(crate) fn id(self) -> String {
        match self {
            Self::Of(members) => room_id(members),
            Self::Any => "{conversation}".to_owned(),
        }
    }

    /// How many of the users send.
    pub(crate) fn members(self) -> usize {
        match self {
            Self::Of(members) => usize::try_from(members).unwrap_or(usize::MAX),
            Self::Any => 1,
        }
    }
}

impl Durability {
    /// The word for it, in our own settings too.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Os => "os",
        }
    }
}

/// Looks once at an answer, of which the rows stand at `rows_at`, then loads.
async fn load_http(
    door: &Door,
    template: &Template,
    rows_at: &str,
    ask: Ask,
    load: Load,
) -> Result<Option<Outcome>, Failure> {
    let answer = once(&door.target(0), &door.example(template)).await?;
    let rows = answer.pointer(rows_at).and_then(Value::as_array).map_or(1, |rows| rows.len() as u64);
    if !ask.rows(&door.fillings).contains(&rows) {
        return Err(Failure(format!("{} {} answers {rows} rows", template.method, template.path)));
    }
    door.load(template, load.in_flight, load.seconds, load.seed).await.map(Some)
}

/// The users, with the tokens that KalamDB and the thin server take.
fn users() -> Result<Vec<(String, String)>, Failure> {
    (0..USERS).map(user_id).map(|id| token(&id, false).map(|token| (id, token))).collect()
}

/// A port that nobody has now.
fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process that ends with this value.
#[derive(Debug)]
struct Running {
    child: Child,
    port: u16,
}

impl Running {
    /// Starts what is made for a port, and waits until it answers there. What it says goes to a file.
    fn start(log: &Path, make: impl Fn(u16) -> Command) -> Result<Self, Failure> {
        let mut tries = (0..TRIES).map(|_| Self::try_start(log, free_port()?, &make));
        // A port that was free may be somebody's by the time that it is listened at.
        tries.find(Result::is_ok).unwrap_or_else(|| {
            let said = fs::read_to_string(log).unwrap_or_default();
            Err(Failure(format!("{:?} does not answer: {}", make(0), said.trim())))
        })
    }

    fn try_start(log: &Path, port: u16, make: impl Fn(u16) -> Command) -> Result<Self, Failure> {
        let out = fs::File::create(log)?;
        let child = make(port).stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out).spawn()?;
        let mut running = Self { child, port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > PATIENCE || running.child.try_wait()?.is_some() {
                return Err(Failure::new("it does not answer"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    /// Host and port.
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a command to its end; answers what it prints.
pub(crate) fn run(command: &mut Command) -> Result<String, Failure> {
    run_within(command, LONGEST)
}

fn run_within(command: &mut Command, time: Duration) -> Result<String, Failure> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = started.map_err(|error| Failure(format!("{command:?} cannot be run: {error}")))?;
    let (id, (tell, told)) = (child.id(), mpsc::channel());
    // Nobody listens any more where the time is up.
    thread::spawn(move || tell.send(child.wait_with_output()).ok());
    let Ok(output) = told.recv_timeout(time) else {
        Command::new("kill").args(["-KILL", &id.to_string()]).status()?;
        return Err(Failure(format!("{command:?} does not end")));
    };
    let output = output?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// A program that can be run by that name.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_answers_what_it_prints_or_says_why_not() {
        assert_eq!(run(Command::new("echo").arg("yes")).unwrap(), "yes\n");
        let why = |command: &mut Command, time| run_within(command, time).unwrap_err().0;
        assert!(why(Command::new("ls").arg("/nowhere"), LONGEST).contains("/nowhere\" failed: "));
        assert!(why(&mut Command::new("no such program"), LONGEST).contains("cannot be run"));
        assert!(why(Command::new("sleep").arg("600"), Duration::ZERO).ends_with("does not end"));
    }
}
