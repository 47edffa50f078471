//! PocketBase: one program with SQLite in it, which is what many small chats are built on.
//!
//! Invariant: its collections and rules are those that its manual shows: a message has a relation to its room, a room to
//! its members, and the rules ask through them. It does not sync its commits, so it stands beside `durability = "os"`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Ask, Load, Peer, ROOMS, Running, USERS, load_http, run};
use crate::{
    Failure,
    data::{History, conversation_id, room_id, scatter, user_id},
    http::{Call, Target, once},
    load::{Door, Fillings, Outcome, Template},
};

const OPERATOR: &str = "operator@bench.test";
const PASSWORD: &str = "only for a measurement";

/// Records that are made in one request: as many as it is told to allow.
const BATCH: usize = 1_000;

/// Ids of messages that are asked for.
const SAMPLE: u64 = 5_000;

/// A server that runs.
pub(crate) struct PocketBase {
    running: Running,
    door: Door,
    operator: Target,
}

impl PocketBase {
    /// Starts it with nothing in it but its collections and users.
    pub(crate) async fn start(program: &Path, folder: &Path, name: &str) -> Result<Self, Failure> {
        let data = folder.join(name);
        let command = || {
            let mut command = Command::new(program);
            // It would write down how its collections came to be, for the next one here to repeat.
            command.current_dir(folder).arg("--automigrate=false").arg("--dir").arg(&data);
            command
        };
        run(command().args(["superuser", "upsert", OPERATOR, PASSWORD]))?;
        let running = Running::start(&folder.join(format!("{name}.log")), |port| {
            let mut serve = command();
            serve.args(["serve", "--http", &format!("127.0.0.1:{port}")]);
            serve
        })?;
        let address = running.address();
        let login = json!({ "identity": OPERATOR, "password": PASSWORD });
        let nobody = Target { address: address.clone(), token: String::new() };
        let path = "/api/collections/_superusers/auth-with-password";
        let token = text(&once(&nobody, &Call::post(path, &login)).await?, "token");
        let operator = Target { address: address.clone(), token };
        let door = Door { address, fillings: Fillings::default(), folder: folder.to_owned() };
        let mut pocketbase = Self { running, door, operator };
        pocketbase.set_up().await?;
        Ok(pocketbase)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        once(&self.operator, &Call::post(path, body)).await
    }

    async fn change(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        once(&self.operator, &Call { method: "PATCH", ..Call::post(path, body) }).await
    }

    async fn set_up(&mut self) -> Result<(), Failure> {
        let batch =
            json!({ "batch": { "enabled": true, "maxRequests": BATCH, "timeout": 60, "maxBodySize": 64 << 20 } });
        self.change("/api/settings", &batch).await?;
        let member = "members.id ?= @request.auth.id";
        let rooms =
            self.collection("rooms", &json!([relation("members", "_pb_users_auth_", 1_000)]), &[], member, "").await?;
        let member = format!("room.{member}");
        let messages = json!([
            relation("room", &rooms, 1),
            { "name": "sender", "type": "text" },
            { "name": "content", "type": "text" },
            { "name": "created", "type": "autodate", "onCreate": true },
        ]);
        let index = "CREATE INDEX messages_page ON messages (room, created)";
        self.collection("messages", &messages, &[index], &member, &format!("sender = @request.auth.id && {member}"))
            .await?;
        let reads = json!([{ "name": "user", "type": "text" }, { "name": "message", "type": "text" }]);
        self.collection("reads", &reads, &[], "user = @request.auth.id", "").await?;

        self.make_passwords_cheap().await?;
        let user = |id: String| {
            let email = format!("{id}@bench.test");
            ("users", json!({ "id": id, "email": email, "password": PASSWORD, "passwordConfirm": PASSWORD }))
        };
        self.make((0..USERS).map(user_id).map(user).collect()).await?;
        for id in (0..USERS).map(user_id) {
            let path = format!("/api/collections/users/impersonate/{id}");
            let token = text(&self.post(&path, &json!({ "duration": 86_400 })).await?, "token");
            self.door.fillings.users.push((id, token));
        }
        Ok(())
    }

    /// Nobody logs in by a password here, and a hundred that are hard to guess would take a minute to be stored.
    async fn make_passwords_cheap(&self) -> Result<(), Failure> {
        const PATH: &str = "/api/collections/users";
        let get = Call { method: "GET", path: PATH.to_owned(), body: None };
        let mut users = once(&self.operator, &get).await?;
        for field in users["fields"].as_array_mut().into_iter().flatten() {
            if field["type"] == "password" {
                field["cost"] = json!(4);
            }
        }
        self.change(PATH, &json!({ "fields": users["fields"] })).await?;
        Ok(())
    }

    /// Makes a collection; answers its id.
    async fn collection(
        &self,
        name: &str,
        fields: &Value,
        indexes: &[&str],
        read: &str,
        create: &str,
    ) -> Result<String, Failure> {
        let create = (!create.is_empty()).then_some(create);
        let made = json!({
            "name": name, "type": "base", "fields": fields, "indexes": indexes,
            "listRule": read, "viewRule": read, "updateRule": read, "createRule": create,
        });
        Ok(text(&self.post("/api/collections", &made).await?, "id"))
    }

    /// Makes records, many in one request.
    async fn make(&self, records: Vec<(&'static str, Value)>) -> Result<(), Failure> {
        for records in records.chunks(BATCH) {
            let request = |(collection, body): &(&str, Value)| json!({ "method": "POST", "url": format!("/api/collections/{collection}/records"), "body": body });
            let requests: Vec<Value> = records.iter().map(request).collect();
            self.post("/api/batch", &json!({ "requests": requests })).await?;
        }
        Ok(())
    }

    fn template(ask: Ask) -> Option<Template> {
        const MESSAGES: &str = "/api/collections/messages/records";
        match ask {
            Ask::Health => Some(Template::get("/api/health")),
            Ask::Send(room) => {
                let body = format!(r#"{{"room":"{}","sender":"{{user}}","content":"{{text}}"}}"#, room.id());
                Some(Template { among: room.members(), ..Template::with_body("POST", MESSAGES, body) })
            }
            Ask::Page => Some(Template::get(format!(
                "{MESSAGES}?perPage=50&skipTotal=1&sort=-created&filter=room%3D%22{{conversation}}%22"
            ))),
            Ask::Lookup => Some(Template::get(format!("{MESSAGES}/{{message}}"))),
            // Its rooms do not know their last message: that would be a hook in JavaScript.
            Ask::Inbox => None,
            Ask::MarkRead => Some(Template::with_body(
                "PATCH",
                "/api/collections/reads/records/{its conversation}",
                r#"{"message":"{message}"}"#,
            )),
        }
    }
}

fn relation(name: &str, collection: &str, most: u32) -> Value {
    json!({ "name": name, "type": "relation", "collectionId": collection, "maxSelect": most, "required": true })
}

fn text(answer: &Value, name: &str) -> String {
    answer[name].as_str().unwrap_or_default().to_owned()
}

fn message_id(number: u64) -> String {
    format!("mesg{number:011}")
}

/// The program in the folder of Python's programs, where its package puts it.
pub(crate) fn program(python: Option<&str>) -> Option<PathBuf> {
    let beside = python.map(|python| Path::new(python).with_file_name("pocketbase")).filter(|path| path.is_file());
    beside.or_else(|| super::installed("pocketbase"))
}

#[async_trait(?Send)]
impl Peer for PocketBase {
    fn name(&self) -> &'static str {
        "PocketBase"
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.running.id()]
    }

    async fn fill(&mut self, history: Option<&History>) -> Result<(), Failure> {
        let room = |members: u64| {
            let users: Vec<String> = (0..members).map(user_id).collect();
            ("rooms", json!({ "id": room_id(members), "members": users }))
        };
        self.make(ROOMS.into_iter().map(room).collect()).await?;
        let Some(history) = history else { return Ok(()) };
        let own = |n: u64| {
            let (id, user) = (conversation_id(n), user_id(0));
            let read = ("reads", json!({ "id": id, "user": user }));
            [("rooms", json!({ "id": id, "members": [user] })), read]
        };
        self.make(history.conversations.clone().flat_map(own).collect()).await?;
        let mut records = Vec::new();
        let mut conversations = Vec::new();
        for (message, number) in history.each().zip(0..) {
            let (room, content) = (&message.conversation, &message.text);
            let body = json!({ "id": message_id(number), "room": room, "sender": message.sender, "content": content });
            records.push(("messages", body));
            conversations.push(message.conversation);
            if records.len() == BATCH {
                self.make(std::mem::take(&mut records)).await?;
            }
        }
        self.make(records).await?;
        let pick = |n: u64| {
            let place = scatter(n) % conversations.len() as u64;
            Some((message_id(place), conversations.get(usize::try_from(place).ok()?)?.clone()))
        };
        self.door.fillings.messages = (0..SAMPLE).filter_map(pick).collect();
        self.door.fillings.conversations = history.conversations.end;
        self.door.fillings.messages_each = history.messages_each;
        Ok(())
    }

    async fn load(&self, ask: Ask, load: Load) -> Result<Option<Outcome>, Failure> {
        let Some(template) = Self::template(ask) else { return Ok(None) };
        load_http(&self.door, &template, "/items", ask, load).await
    }
}
