//! A `kalamdb` process of our own, in a folder of its own.
//!
//! Invariant: what is measured is the program as users run it: started by its command line, configured by its
//! environment, reached by HTTP. It is gone when the value is.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Ask, Durability, Load, Peer, ROOMS, Room, load_http, run, users};
use crate::{
    Failure,
    data::{History, room_id, user_id},
    http::{Call, Target, once},
    load::{Door, Fillings, Outcome, Template},
    machine::memory_bytes,
    tokens::{SECRET, token},
};

/// Ids of messages that are asked for.
const SAMPLE: usize = 5_000;

/// Everything stays hot until it is asked to move, and every answer is computed.
pub(crate) const HOT: [(&str, &str); 3] = [
    ("query.enable_cache", "false"),
    ("consolidation.messages_threshold", "10000000"),
    ("consolidation.interval_seconds", "86400"),
];

const COLUMNS: &str = "SELECT msgId, from, timestamp, content FROM userId.messages";

/// The program and the folder that the servers of this run live in.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The `kalamdb` binary.
    pub path: PathBuf,
    /// The folder in which each server gets one of its own.
    pub folder: PathBuf,
    /// What runs the servers and watches them, with its arguments; nothing, as a rule.
    pub under: Vec<String>,
}

/// A server that runs.
pub(crate) struct Server {
    program: Program,
    data: PathBuf,
    child: Child,
    address: String,
}

/// KalamDB among its peers.
pub(crate) struct KalamDb {
    /// The server.
    pub server: Server,
    /// How load gets in.
    pub door: Door,
    /// Whether all users of the door ask, instead of the first.
    pub everybody_asks: bool,
}

impl Program {
    /// Starts a server on the folder of that name, with some settings changed (`rocksdb.durability`).
    pub(crate) fn start(&self, name: &str, settings: &[(&str, &str)]) -> Result<Server, Failure> {
        let data = self.folder.join(name);
        fs::create_dir_all(&data)?;
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        let mut command = self.command(&data, &self.under);
        for (key, value) in settings {
            command.env(format!("KALAMDB_{}", key.to_uppercase().replace('.', "__")), value);
        }
        let mut child = command
            .arg("serve")
            .arg("--data")
            .arg(&data)
            .args(["--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| Failure::new(format!("{} does not start: {error}", self.path.display())))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // The server writes this one line when it answers, and ends without it when it cannot.
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once(',')).map(|(address, _)| address);
        let Some(address) = address.map(str::to_owned) else {
            child.kill()?;
            child.wait()?;
            let log = fs::read_to_string(self.folder.join(format!("{name}.log")))?;
            return Err(Failure::new(format!("the server did not start: {}", log.trim())));
        };
        Ok(Server { program: self.clone(), data, child, address })
    }

    /// The program, in its folder, with nothing of our environment that it would take for a setting.
    fn command(&self, folder: &Path, under: &[String]) -> Command {
        let mut words = under.iter().map(OsStr::new).chain([self.path.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(folder);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KALAMDB_") {
                command.env_remove(name);
            }
        }
        command.env("KALAMDB_SERVER__JWT_SECRET", SECRET);
        command
    }
}

impl Server {
    /// The server as that user reaches it.
    pub(crate) fn target(&self, user: &str) -> Result<Target, Failure> {
        Ok(Target { address: self.address.clone(), token: token(user, false)? })
    }

    /// The server as an admin reaches it.
    fn operator(&self) -> Result<Target, Failure> {
        Ok(Target { address: self.address.clone(), token: token("operator", true)? })
    }

    /// Imports files with the program's own command.
    pub(crate) fn import(&self, files: &[PathBuf]) -> Result<(), Failure> {
        let url = format!("http://{}", self.address);
        let mut command = self.program.command(&self.data, &[]);
        run(command.arg("import").args(files).args(["--url", &url]).arg("--data").arg(&self.data))?;
        Ok(())
    }

    /// Moves everything hot to files.
    pub(crate) async fn consolidate(&self) -> Result<(), Failure> {
        once(&self.operator()?, &Call::post("/api/admin/consolidate", &json!({}))).await?;
        Ok(())
    }

    /// The door for these users.
    pub(crate) fn door(&self, users: Vec<(String, String)>) -> Door {
        let fillings = Fillings { users, ..Fillings::default() };
        Door { address: self.address.clone(), fillings, folder: self.program.folder.clone() }
    }

    /// The data folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory that the process has, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        memory_bytes(&[self.child.id()])
    }

    /// Ends the server as an operator would.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(Failure::new(format!("the server ended with {status}"))) }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` it is gone already, which is what both of these want.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl KalamDb {
    /// Starts it with nothing in it.
    pub(crate) fn start(program: &Program, name: &str, durability: Durability) -> Result<Self, Failure> {
        let settings = [&HOT[..], &[("rocksdb.durability", durability.word())]].concat();
        Self::of(program.start(name, &settings)?)
    }

    /// The one that runs there.
    pub(crate) fn of(server: Server) -> Result<Self, Failure> {
        let door = server.door(users()?);
        Ok(Self { server, door, everybody_asks: false })
    }

    /// Takes the ids of messages that are there, of the first user, who has so many conversations of so many messages.
    pub(crate) async fn take_sample(&mut self, conversations: u64, messages_each: u64) -> Result<(), Failure> {
        let sql = format!("SELECT msgId, conversationId FROM userId.messages WHERE msgId % 17 = 0 LIMIT {SAMPLE}");
        let answer = self.query(&sql).await?;
        let rows = answer["rows"].as_array().cloned().unwrap_or_default();
        let pair = |row: Value| (row[0].to_string(), row[1].as_str().unwrap_or_default().to_owned());
        self.door.fillings.messages = rows.into_iter().map(pair).collect();
        self.door.fillings.conversations = conversations;
        self.door.fillings.messages_each = messages_each;
        Ok(())
    }

    async fn query(&self, sql: &str) -> Result<Value, Failure> {
        once(&self.door.target(0), &Call::post("/api/v1/query", &json!({ "sql": sql }))).await
    }

    /// How it is asked that.
    pub(crate) fn template(ask: Ask) -> Template {
        let query = |sql: &str, params: &str| {
            let sql = Value::from(sql);
            Template::with_body("POST", "/api/v1/query", format!(r#"{{"sql":{sql},"params":[{params}]}}"#))
        };
        match ask {
            Ask::Health => Template::get("/api/v1/health"),
            Ask::Send(room) => {
                let kind = if matches!(room, Room::Any | Room::Of(1)) { "ai" } else { "group" };
                let id = room.id();
                let body = format!(r#"{{"conversationId":"{id}","conversationType":"{kind}","content":"{{text}}"}}"#);
                Template { among: room.members(), ..Template::with_body("POST", "/api/v1/messages", body) }
            }
            Ask::Page => query(
                &format!("{COLUMNS} WHERE conversationId = $1 ORDER BY msgId DESC LIMIT 50"),
                r#""{conversation}""#,
            ),
            Ask::Lookup => query(&format!("{COLUMNS} WHERE msgId = $1"), "{message}"),
            Ask::Inbox => query(
                "SELECT conversationId, lastMsgId, updated, unreadCount FROM userId.conversations \
                 ORDER BY updated DESC LIMIT 50",
                "",
            ),
            Ask::MarkRead => query(
                "UPDATE userId.conversations SET lastReadMsgId = $1 WHERE conversationId = $2",
                r#"{message},"{its conversation}""#,
            ),
        }
    }
}

#[async_trait(?Send)]
impl Peer for KalamDb {
    fn name(&self) -> &'static str {
        "KalamDB"
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.server.id()]
    }

    async fn fill(&mut self, history: Option<&History>) -> Result<(), Failure> {
        for members in ROOMS.into_iter().filter(|members| *members > 1) {
            let room = room_id(members);
            let others: Vec<String> = (1..members).map(|n| format!("('{room}', '{}')", user_id(n))).collect();
            let others = others.join(", ");
            for sql in [
                format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('{room}', 'group')"),
                format!("INSERT INTO conversationUsers (conversationId, userId) VALUES {others}"),
            ] {
                self.query(&sql).await?;
            }
        }
        let Some(history) = history else { return Ok(()) };
        let file = self.server.program.folder.join("history.ndjson");
        history.write(&file)?;
        self.server.import(&[file])?;
        self.take_sample(history.conversations.end, history.messages_each).await
    }

    async fn load(&self, ask: Ask, load: Load) -> Result<Option<Outcome>, Failure> {
        let mut template = Self::template(ask);
        if self.everybody_asks {
            template.among = self.door.fillings.users.len();
        }
        load_http(&self.door, &template, "/rows", ask, load).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_json_once_it_is_filled() {
        let fillings = Fillings {
            users: vec![("ann".into(), "token".into())],
            messages: vec![("7".into(), "conv".into())],
            ..Fillings::default()
        };
        let door = Door { address: String::new(), fillings, folder: PathBuf::new() };
        let asks = [Ask::Send(Room::Of(1)), Ask::Send(Room::Any), Ask::Page, Ask::Lookup, Ask::Inbox, Ask::MarkRead];
        for ask in asks {
            let body = door.example(&KalamDb::template(ask)).body.unwrap();
            let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{ask:?}: {body}"));
            assert!(body.get("sql").is_some() || body.get("content").is_some());
        }
        let group = KalamDb::template(Ask::Send(Room::Of(10)));
        assert_eq!((group.among, group.body.unwrap().contains("\"group\"")), (10, true));
    }
}
