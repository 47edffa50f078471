//! PostgreSQL: a cluster of our own in a folder of its own, behind the thin server, and by itself with `pgbench`.
//!
//! Invariant: its rows are those of a chat: members, messages, an index for pages; one row for a message, however many
//! read it. It stores no last message of a conversation and no change log, which KalamDB does in the same commit.

use std::{
    cell::Cell,
    fs,
    io::{BufWriter, Write},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use async_trait::async_trait;
use tempfile::TempDir;

use super::{
    Ask, Durability, Load, Peer, ROOMS, Room, Running, installed, load_http, run,
    thin::{NAME, STATEMENTS},
    users,
};
use crate::{
    Failure,
    data::{History, room_id, scatter, user_id},
    load::{Door, Fillings, Outcome, Template},
};

/// Ids of messages that are asked for.
const SAMPLE: u64 = 5_000;

/// Memory for its own cache: more than a small machine's default, and enough for everything here.
pub(crate) const SHARED_BUFFERS: &str = "512MB";

const TABLES: &str = "
    CREATE TABLE members (user_id text, conversation_id text, last_read_msg_id bigint,
        PRIMARY KEY (user_id, conversation_id));
    CREATE TABLE messages (msg_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, conversation_id text NOT NULL,
        sender text NOT NULL, sent_at bigint NOT NULL, content text NOT NULL, metadata text);
    CREATE INDEX messages_page ON messages (conversation_id, msg_id);
";

/// A cluster that runs.
pub(crate) struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    /// The user and the group that it runs as: PostgreSQL refuses to run as root.
    run_as: Option<(u32, u32)>,
    process: u32,
    /// Conversations of the history.
    conversations: Cell<u64>,
}

/// Behind the thin server.
pub(crate) struct Postgres {
    cluster: Rc<Cluster>,
    thin: Running,
    door: Door,
}

/// By itself: what PostgreSQL does when nobody checks tokens and nobody speaks HTTP.
pub(crate) struct Pgbench(Rc<Cluster>);

impl Cluster {
    /// Starts an empty one; none where PostgreSQL is not installed.
    pub(crate) fn start(place: &Path, durability: Durability) -> Result<Option<Rc<Self>>, Failure> {
        let Some(programs) = programs() else { return Ok(None) };
        let run_as = if fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0) {
            Some(postgres_user().ok_or_else(|| Failure::new("there is no user postgres to run PostgreSQL as"))?)
        } else {
            None
        };
        let folder = folder_for(place, run_as)?;
        let mut cluster = Self { folder, programs, run_as, process: 0, conversations: Cell::new(0) };
        let data = cluster.data();
        let mut initdb = cluster.program("initdb");
        run(initdb
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-U", NAME])
            .arg("-D")
            .arg(&data))?;
        let commit = if durability == Durability::Sync { "on" } else { "off" };
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c synchronous_commit={commit} \
             -c shared_buffers={SHARED_BUFFERS} -c max_connections=200",
            cluster.folder.path().display(),
        );
        let log = cluster.folder.path().join("log");
        let mut start = cluster.program("pg_ctl");
        run(start.args(["start", "-w", "-s", "-o", &options]).arg("-l").arg(log).arg("-D").arg(&data))?;
        let pid = fs::read_to_string(data.join("postmaster.pid"))?;
        cluster.process = pid.lines().next().and_then(|line| line.parse().ok()).unwrap_or_default();
        run(cluster.program("createdb").args(["-h", &cluster.host(), "-U", NAME, NAME]))?;
        cluster.psql(TABLES)?;
        Ok(Some(Rc::new(cluster)))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn host(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }

    /// One of its programs, as its user, in its folder.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path());
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        command
    }

    fn psql(&self, sql: &str) -> Result<String, Failure> {
        let mut psql = self.program("psql");
        run(psql.args(["-h", &self.host(), "-U", NAME, "-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql, NAME]))
    }

    fn fill(&self, history: Option<&History>) -> Result<(), Failure> {
        let member = |room: u64| (0..room).map(move |n| format!("('{}', '{}')", user_id(n), room_id(room)));
        let members: Vec<String> = ROOMS.into_iter().flat_map(member).collect();
        self.psql(&format!("INSERT INTO members VALUES {}", members.join(", ")))?;
        let Some(history) = history else { return Ok(()) };
        let path = self.folder.path().join("history");
        let mut file = BufWriter::new(fs::File::create(&path)?);
        for message in history.each() {
            let (conversation, micros) = (&message.conversation, message.seconds * 1_000_000);
            // The texts are words, which are not to be escaped.
            writeln!(file, "{conversation}\t{}\t{micros}\t{}", message.sender, message.text)?;
        }
        file.flush()?;
        self.psql(&format!(r"\copy messages (conversation_id, sender, sent_at, content) FROM '{}'", path.display()))?;
        let reader = user_id(0);
        self.psql(&format!("INSERT INTO members SELECT DISTINCT '{reader}', conversation_id FROM messages"))?;
        self.psql("VACUUM ANALYZE")?;
        fs::remove_file(path)?;
        self.conversations.set(history.conversations.end);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        run(stop.args(["stop", "-s", "-m", "immediate"]).arg("-D").arg(self.data())).ok();
    }
}

/// Where Debian puts its programs, those of the newest version; else wherever they are found.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some(entry.ok()?.path())).max_by_key(version);
    let newest = newest.map(|folder| folder.join("bin")).filter(|folder| folder.join("initdb").is_file());
    newest.or_else(|| Some(installed("initdb")?.parent()?.to_owned()))
}

/// The version, as its own program says it.
pub(crate) fn version() -> Option<String> {
    programs().map(|folder| crate::machine::said(&folder.join("postgres").to_string_lossy(), &["--version"]))
}

/// The numbers of the user and group that Debian's package makes.
fn postgres_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// A folder that PostgreSQL's user can get to: beside the others' where that is possible, else where all may write. A
/// checkout in the home of root is closed to it.
fn folder_for(place: &Path, run_as: Option<(u32, u32)>) -> Result<TempDir, Failure> {
    for place in [place, Path::new("/var/tmp")] {
        let folder = tempfile::Builder::new().prefix("bench-postgres-").tempdir_in(place)?;
        let Some((user, group)) = run_as else { return Ok(folder) };
        chown(folder.path(), Some(user), Some(group))?;
        if Command::new("test").arg("-w").arg(folder.path()).uid(user).gid(group).status()?.success() {
            return Ok(folder);
        }
    }
    Err(Failure::new("the user postgres may write neither beside the data nor in /var/tmp"))
}

impl Postgres {
    /// Starts the thin server before that cluster.
    pub(crate) fn start(cluster: &Rc<Cluster>, folder: &Path) -> Result<Self, Failure> {
        let (program, socket) = (std::env::current_exe()?, cluster.folder.path().join(".s.PGSQL.5432"));
        let thin = Running::start(&folder.join("thin.log"), |port| {
            let mut command = Command::new(&program);
            command.args(["thin", "--port", &port.to_string()]).arg("--socket").arg(&socket);
            command
        })?;
        let fillings = Fillings { users: users()?, ..Fillings::default() };
        let door = Door { address: thin.address(), fillings, folder: folder.to_owned() };
        Ok(Self { cluster: Rc::clone(cluster), thin, door })
    }

    fn template(ask: Ask) -> Template {
        match ask {
            Ask::Health => Template::get("/health"),
            Ask::Send(room) => {
                let body = format!(r#"{{"conversationId":"{}","content":"{{text}}"}}"#, room.id());
                Template { among: room.members(), ..Template::with_body("POST", "/messages", body) }
            }
            Ask::Page => Template::get("/conversations/{conversation}"),
            Ask::Lookup => Template::get("/messages/{message}"),
            Ask::Inbox => Template::get("/conversations"),
            Ask::MarkRead => {
                Template::with_body("POST", "/read", r#"{"conversationId":"{its conversation}","msgId":{message}}"#)
            }
        }
    }
}

#[async_trait(?Send)]
impl Peer for Postgres {
    fn name(&self) -> &'static str {
        "PostgreSQL behind HTTP"
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.cluster.process, self.thin.id()]
    }

    async fn fill(&mut self, history: Option<&History>) -> Result<(), Failure> {
        self.cluster.fill(history)?;
        let Some(history) = history else { return Ok(()) };
        // Ids are given in the order of the rows.
        let conversations: Vec<String> = history.each().map(|message| message.conversation).collect();
        let pick = |n: u64| {
            let place = scatter(n) % conversations.len() as u64;
            Some(((place + 1).to_string(), conversations.get(usize::try_from(place).ok()?)?.clone()))
        };
        self.door.fillings.messages = (0..SAMPLE).filter_map(pick).collect();
        self.door.fillings.conversations = history.conversations.end;
        self.door.fillings.messages_each = history.messages_each;
        Ok(())
    }

    async fn load(&self, ask: Ask, load: Load) -> Result<Option<Outcome>, Failure> {
        load_http(&self.door, &Self::template(ask), "/rows", ask, load).await
    }
}

impl Pgbench {
    /// On that cluster, whatever is in it.
    pub(crate) fn new(cluster: &Rc<Cluster>) -> Self {
        Self(Rc::clone(cluster))
    }

    /// The statement as a script: the user is the first, the room the one asked for.
    fn script(ask: Ask, conversations: u64) -> Option<String> {
        let user = format!("'{}'", user_id(0));
        match ask {
            Ask::Send(Room::Of(members)) => {
                let text = "'there will be coffee in the garden tomorrow evening'";
                Some(
                    STATEMENTS[0]
                        .replace("$1", &user)
                        .replace("$2", &format!("'{}'", room_id(members)))
                        .replace("$3", text)
                        + ";\n",
                )
            }
            Ask::Page => Some(format!(
                "\\set n random(0, {})\n{};\n",
                conversations.saturating_sub(1),
                STATEMENTS[1].replace("$1", &user).replace("$2", "('conv' || lpad((:n)::text, 11, '0'))")
            )),
            _ => None,
        }
    }
}

#[async_trait(?Send)]
impl Peer for Pgbench {
    fn name(&self) -> &'static str {
        "PostgreSQL by pgbench"
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.0.process]
    }

    /// The other one on the same cluster does that.
    async fn fill(&mut self, _history: Option<&History>) -> Result<(), Failure> {
        Ok(())
    }

    async fn load(&self, ask: Ask, load: Load) -> Result<Option<Outcome>, Failure> {
        let Some(script) = Self::script(ask, self.0.conversations.get()) else { return Ok(None) };
        let path = self.0.folder.path().join("script");
        fs::write(&path, script)?;
        // Its time begins before its connections are there, which may take all of it on a busy machine.
        for seconds in [1, 4, 16].map(|times| times * load.seconds) {
            let (clients, seconds) = (load.in_flight.to_string(), seconds.to_string());
            let mut pgbench = self.0.program("pgbench");
            pgbench.args(["-n", "-M", "prepared", "-j", "1", "-c", &clients, "-T", &seconds]);
            pgbench.args(["--random-seed", &load.seed.to_string(), "-h", &self.0.host(), "-U", NAME]);
            if let Some(outcome) = outcome(&run(pgbench.arg("-f").arg(&path).arg(NAME))?)? {
                return Ok(Some(outcome));
            }
        }
        Err(Failure::new("pgbench does not get its connections in time"))
    }
}

/// What pgbench prints: how many, and at which rate; nothing, if its time was up before it began.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn outcome(said: &str) -> Result<Option<Outcome>, Failure> {
    let after = |key: &str| said.lines().find_map(|line| line.strip_prefix(key));
    let first = |text: &str| text.split([' ', '/', '(']).find(|word| !word.is_empty()).map(str::to_owned);
    let requests = after("number of transactions actually processed:").and_then(first);
    if requests.as_deref() == Some("0") {
        return Ok(None);
    }
    let failed = after("number of failed transactions:").and_then(first);
    let (requests, rate) = (requests.and_then(|n| n.parse::<u64>().ok()), after("tps =").and_then(first));
    let (Some(requests), Some(rate)) = (requests, rate.and_then(|rate| rate.parse::<f64>().ok())) else {
        return Err(Failure(format!("pgbench told no figures: {said}")));
    };
    if failed.is_some_and(|failed| failed != "0") || rate <= 0.0 {
        return Err(Failure::new("transactions of pgbench failed"));
    }
    Ok(Some(Outcome { requests, seconds: requests as f64 / rate, p50_ms: None, p99_ms: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "pgbench (15.14 (Debian 15.14-0+deb12u1))\ntransaction type: script\nscaling factor: 1\n\
        query mode: prepared\nnumber of clients: 64\nduration: 2 s\n\
        number of transactions actually processed: 24690\nnumber of failed transactions: 0 (0.000%)\n\
        latency average = 5.184 ms\ninitial connection time = 50.123 ms\n\
        tps = 12345.000000 (without initial connection time)\n";

    #[test]
    fn what_pgbench_says_is_read() {
        let read = outcome(SAID).unwrap().unwrap();
        assert_eq!((read.requests, read.p50_ms), (24_690, None));
        assert!((read.seconds - 2.0).abs() < 1e-9);
        assert_eq!(outcome("number of transactions actually processed: 0\n").unwrap(), None);
    }

    #[test]
    fn failed_transactions_are_a_failure() {
        assert!(outcome(&SAID.replace("transactions: 0", "transactions: 3")).is_err());
        assert!(outcome("pgbench: error: connection failed").is_err());
    }

    #[test]
    fn a_script_has_no_parameters_left() {
        for ask in [Ask::Send(Room::Of(2)), Ask::Page] {
            let script = Pgbench::script(ask, 200).unwrap();
            assert!(!script.contains('$') && script.ends_with(";\n"), "{script}");
        }
        assert!(Pgbench::script(Ask::Inbox, 200).is_none());
    }
}
