//! A session of statements: its server and user, the form of its answers, and the shell's own commands.
//!
//! Invariant: a command is done here and never sent to the server; what it changes holds until the session ends.

use std::{
    io::{self, Write},
    time::Instant,
};

use super::{Format, render, statement};
use crate::cli::{
    client::{Answer, Client},
    error::Error,
    text::printable,
};

/// The shell's commands, for `\?`.
const HELP: &str = "\
Statements end with ; and may span lines.
  \\d          the tables         \\d NAME    the columns of one
  \\x          rows one below the other, column by column, or in a table again
  \\timing     how long each statement takes from here, or not any more
  \\?, help    this help          \\q, quit, exit, Ctrl-D    leave
  Ctrl-C      stop the statement that runs, or drop the line
Your own tables: messages, conversations, conversationUsers, deletedMessages, auditLog. Admins name any user's
(user_john.messages), everybody's with a leading owner column (*.messages), and the server's own (system.users,
system.segments, system.files).";

/// A session of statements with one server.
pub(super) struct Session {
    /// The server, and who asks it.
    pub client: Client,
    /// The format of answers.
    pub format: Format,
    expanded: bool,
    timing: bool,
}

/// The step after one of the shell's own commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The next line.
    GoOn,
    /// The end of the session.
    Quit,
}

impl Session {
    /// A session in which nothing has been set yet.
    pub fn new(client: Client, format: Format) -> Self {
        Self { client, format, expanded: false, timing: false }
    }

    /// The text before each statement: `admin@127.0.0.1=# `, or `user_john@127.0.0.1=> ` for a user who is no admin.
    pub fn prompt(&self) -> String {
        let who = self.client.who();
        let name = who.map_or("kalamdb", |who| who.user.as_str());
        let mark = if who.is_some_and(|who| who.admin) { '#' } else { '>' };
        format!("{}@{}={mark} ", printable(name), self.client.host())
    }

    /// Says where one is, and who.
    pub fn greeting(&self) -> String {
        let who = match self.client.who() {
            Some(who) if who.admin => format!(", as {}, an admin", who.user),
            Some(who) => format!(", as {}", who.user),
            None => String::new(),
        };
        format!("KalamDB at {}{}. \\? for help, \\q to quit.", self.client.url(), printable(&who))
    }

    /// Runs one statement and writes its answer.
    ///
    /// # Errors
    /// The statement's, or the output's.
    pub async fn run_one(&self, sql: &str) -> Result<(), Error> {
        let started = Instant::now();
        let answer = self.client.execute(sql, Vec::new()).await?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = match &answer {
            Answer::Rows(rows) if self.expanded && self.format == Format::Table => render::expanded(rows, &mut out),
            answer => render::answer(answer, self.format, &mut out, &mut io::stderr()),
        };
        written.map_err(Error::Output)?;
        if self.timing {
            let time = render::milliseconds(started.elapsed().as_secs_f64() * 1_000.0);
            writeln!(out, "Time: {time}").map_err(Error::Output)?;
        }
        out.flush().map_err(Error::Output)
    }

    /// Runs one of the shell's own commands, if the line is one.
    ///
    /// # Errors
    /// The output's.
    pub fn run_command(&mut self, line: &str) -> Result<Option<Next>, Error> {
        let Some(command) = command(line) else { return Ok(None) };
        self.obey(command, &mut io::stdout()).map(Some).map_err(Error::Output)
    }

    fn obey(&mut self, command: &str, out: &mut impl Write) -> io::Result<Next> {
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let argument = argument.trim().trim_end_matches(';');
        match name {
            "q" => return Ok(Next::Quit),
            "d" if !render::describe(argument, out)? => writeln!(out, "No such table; \\d lists them.")?,
            "d" => {}
            "x" => {
                self.expanded = !self.expanded;
                writeln!(out, "Rows come {}.", if self.expanded { "one below the other" } else { "in a table" })?;
            }
            "timing" => {
                self.timing = !self.timing;
                writeln!(out, "Times are {}.", if self.timing { "shown" } else { "not shown" })?;
            }
            "?" => writeln!(out, "{HELP}")?,
            _ => writeln!(out, "No such command; \\? lists them.")?,
        }
        Ok(Next::GoOn)
    }
}

/// The command in a line, without its backslash; the words that other shells know are commands too.
pub(super) fn command(line: &str) -> Option<&str> {
    let line = line.trim();
    if let Some(command) = line.strip_prefix('\\') {
        return Some(command);
    }
    match line.trim_end_matches(';').trim_end().to_ascii_lowercase().as_str() {
        "quit" | "exit" => Some("q"),
        "help" => Some("?"),
        _ => None,
    }
}

/// Whether Enter runs the text: a command, nothing, or statements that each end.
pub(super) fn is_finished(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = statement::split_first(rest) {
        rest = after;
    }
    command(text).is_some() || statement::is_blank(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::connection::{Credentials, Identity};

    fn session(credentials: Credentials) -> Session {
        Session::new(Client::new("http://127.0.0.1:8080".to_owned(), credentials).unwrap(), Format::Table)
    }

    fn said(session: &mut Session, line: &str) -> (Next, String) {
        let mut out = Vec::new();
        let next = session.obey(command(line).unwrap(), &mut out).unwrap();
        (next, String::from_utf8(out).unwrap())
    }

    #[test]
    fn enter_runs_what_is_finished() {
        for finished in
            ["", "\\d messages", "SELECT 1;", "SELECT 1; -- yes", "SELECT 1;\nSELECT ';';", "quit", " Exit ;"]
        {
            assert!(is_finished(finished), "{finished:?}");
        }
        for unfinished in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT 2", "/* a;", "quit now"] {
            assert!(!is_finished(unfinished), "{unfinished:?}");
        }
    }

    #[test]
    fn commands_are_known_by_several_names() {
        let mut session = session(Credentials::None);
        for quit in ["\\q", "quit", "exit", "EXIT;"] {
            assert_eq!(said(&mut session, quit), (Next::Quit, String::new()), "{quit}");
        }
        for help in ["\\?", "help", "Help;"] {
            assert!(said(&mut session, help).1.contains("\\timing"), "{help}");
        }
        assert!(said(&mut session, "\\nothing").1.contains("No such command"));
        assert_eq!(command("SELECT 1"), None);
        assert_eq!(command("quit SELECT"), None);
    }

    #[test]
    fn what_is_set_is_told_and_can_be_taken_back() {
        let mut session = session(Credentials::None);
        assert_eq!(said(&mut session, "\\x").1, "Rows come one below the other.\n");
        assert_eq!(said(&mut session, "\\x").1, "Rows come in a table.\n");
        assert_eq!(said(&mut session, "\\timing").1, "Times are shown.\n");
        assert!(session.timing && !session.expanded);
    }

    #[test]
    fn one_sees_who_one_is() {
        // {"userId":"user_john","role":"user","exp":1} and {"sub":"root","role":"admin","exp":1}; nobody checks them here.
        let john = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VySWQiOiJ1c2VyX2pvaG4iLCJyb2xlIjoidXNlciIsImV4cCI6MX0.x";
        let root = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJyb290Iiwicm9sZSI6ImFkbWluIiwiZXhwIjoxfQ.x";
        for (credentials, prompt, greeted) in [
            (Credentials::given(john.to_owned()), "user_john@127.0.0.1=> ", "8080, as user_john. "),
            (Credentials::given(root.to_owned()), "root@127.0.0.1=# ", "8080, as root, an admin. "),
            (Credentials::given("no token".to_owned()), "kalamdb@127.0.0.1=> ", "8080. "),
            (Credentials::None, "kalamdb@127.0.0.1=> ", "8080. "),
        ] {
            let session = session(credentials);
            assert_eq!(session.prompt(), prompt);
            assert!(session.greeting().contains(greeted), "{}", session.greeting());
        }
        assert_eq!(Identity::operator().user.as_str(), "admin");
    }
}
