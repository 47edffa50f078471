//! The random steps: each is done to the server and to the model, and both answers are compared.
//!
//! Invariant: a step whose outcome the contract leaves open is never taken.

use std::collections::BTreeMap;

use kalamdb_protocol::{ConversationType, ErrorCode, Role, SendMessageRequest, WriteResponse};
use serde_json::json;

use super::{
    USERS,
    world::{Key, Message, World},
};
use crate::harness::{Client, Dice, Failure, Server, message};

/// Conversation ids that are AI conversations, groups or both, depending on who asks.
const IDS: [&str; 4] = ["one", "two", "it's \"three\"", "four/4"];

/// What a step looks like in the summary, and how often it is taken.
const STEPS: [(&str, usize); 14] = [
    ("send", 30),
    ("send by SQL", 12),
    ("send many", 8),
    ("edit", 12),
    ("edit by pattern", 6),
    ("delete", 10),
    ("delete by subquery", 6),
    ("delete conversation", 2),
    ("create", 4),
    ("add", 6),
    ("remove", 3),
    ("role", 4),
    ("read mark", 8),
    ("page", 12),
];

/// The two that a step is done to.
pub struct Driver {
    pub server: Server,
    pub world: World,
    dice: Dice,
    clients: BTreeMap<&'static str, Client>,
    taken: BTreeMap<&'static str, usize>,
    texts: usize,
    may_leave: bool,
}

impl Driver {
    pub fn new(server: Server, dice: Dice) -> Self {
        let clients = USERS.iter().map(|user| (*user, server.client(user))).collect();
        Self { server, world: World::default(), dice, clients, taken: BTreeMap::new(), texts: 0, may_leave: true }
    }

    /// A history in which nobody leaves a group, so that no row of a group that was left is there.
    pub fn without_leaving(server: Server, dice: Dice) -> Self {
        Self { may_leave: false, ..Self::new(server, dice) }
    }

    /// How often each step was taken.
    pub fn summary(&self) -> String {
        format!("{:?}", self.taken)
    }

    /// One step, sometimes with a consolidation or a restart before it.
    pub fn step(&mut self) {
        match self.dice.below(200) {
            0 => self.server.restart(),
            1 => {
                self.server.kill9();
                self.server.spawn();
            }
            2..8 => self.server.admin().consolidate(),
            8..16 => self.consolidate_one(),
            _ => {}
        }
        let total: usize = STEPS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.dice.below(total);
        let (name, _) = STEPS
            .iter()
            .find(|(_, weight)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            })
            .expect("it is below the total");
        *self.taken.entry(name).or_default() += 1;
        let user = *self.dice.pick(&USERS);
        match *name {
            "send" => self.send(user, false),
            "send by SQL" => self.send(user, true),
            "send many" => self.send_many(user),
            "edit" => self.edit(user),
            "edit by pattern" => self.edit_by_pattern(user),
            "delete" => self.delete(user),
            "delete by subquery" => self.delete_by_subquery(user),
            "delete conversation" => self.delete_conversation(user),
            "create" => self.create(user),
            "add" => self.add(user),
            "remove" => self.remove(user),
            "role" => self.role(user),
            "read mark" => self.read_mark(user),
            _ => self.page(user),
        }
    }

    fn consolidate_one(&self) {
        let body = json!({ "userId": USERS[0] });
        let _: serde_json::Value = self.server.admin().post("/api/admin/consolidate", &body).expect("an admin may");
    }

    fn client(&self, user: &str) -> &Client {
        &self.clients[user]
    }

    /// Compares the answer of a write with the model's.
    #[track_caller]
    fn agree(sql: &str, answer: Result<WriteResponse, Failure>, expected: Result<u64, ErrorCode>) {
        let answer = answer.map(|answer| answer.rows_affected).map_err(|failure| failure.code().expect("an answer"));
        assert_eq!(answer, expected, "{sql}");
    }

    fn text(&mut self) -> String {
        self.texts += 1;
        let flavour = self.dice.pick(&["plain", "it's", "two\nlines", "\"quoted\"", "🙂 ünï", "50% _off_", ""]);
        format!("{} {flavour}", self.texts)
    }

    /// A conversation that exists or not; a group that does not exist is left to `create`.
    fn key(&mut self, user: &str) -> Key {
        let id = (*self.dice.pick(&IDS)).to_owned();
        let groups: Vec<String> = self.world.groups().cloned().collect();
        match self.dice.below(3) {
            0 if !groups.is_empty() => (self.dice.pick(&groups).clone(), ConversationType::Group),
            1 => {
                let kind = self.world.resolve(user, &id);
                (id, kind)
            }
            _ => (id, ConversationType::Ai),
        }
    }

    fn send(&mut self, user: &'static str, by_sql: bool) {
        let key = self.key(user);
        let content = self.text();
        let from = if self.dice.chance(30) { "ai" } else { user };
        // The type may stay away where the rule gives the same one.
        let named = self.world.resolve(user, &key.0) != key.1 || self.dice.chance(50);
        let kind = named.then_some(key.1);
        let sent = if by_sql {
            let (column, value) =
                kind.map_or_else(Default::default, |kind| (", conversationType", format!(", '{kind}'")));
            let sql =
                format!("INSERT INTO messages (conversationId, from, content{column}) VALUES ($1, $2, $3{value})");
            let params = json!([key.0, from, content]);
            self.client(user).write_params(&sql, params).map(|answer| answer.msg_ids.expect("ids")[0])
        } else {
            let from = Some(from.to_owned());
            let request = SendMessageRequest { conversation_type: kind, from, ..message(&key.0, &content) };
            self.client(user).send(&request).map(|answer| answer.msg_id)
        };
        match (sent, self.world.may_send(user, &key, from)) {
            (Ok(id), Ok(())) => self.world.send(user, &key, id, from, &content),
            (Err(failure), Err(code)) => assert_eq!(failure.code(), Some(code), "{failure}"),
            (sent, expected) => panic!("{user} sends to {key:?} as {from}: {sent:?} instead of {expected:?}"),
        }
    }

    /// Several at once: all, or none.
    fn send_many(&mut self, user: &'static str) {
        let messages: Vec<(Key, String)> = (0..4).map(|_| (self.key(user), self.text())).collect();
        let mut params = Vec::new();
        let mut rows = Vec::new();
        for (key, content) in &messages {
            let n = params.len();
            rows.push(format!("(${}, ${}, ${})", n + 1, n + 2, n + 3));
            params.extend([json!(key.0), json!(key.1.as_str()), json!(content)]);
        }
        let sql =
            format!("INSERT INTO messages (conversationId, conversationType, content) VALUES {}", rows.join(", "));
        let sent = self.client(user).write_params(&sql, json!(params));
        let allowed = messages.iter().try_for_each(|(key, _)| self.world.may_send(user, key, user));
        match (sent, allowed) {
            (Ok(answer), Ok(())) => {
                for ((key, content), id) in messages.iter().zip(answer.msg_ids.expect("ids")) {
                    self.world.send(user, key, id, user, content);
                }
            }
            (Err(failure), Err(code)) => assert_eq!(failure.code(), Some(code), "{failure}"),
            (sent, expected) => panic!("{user} sends {messages:?}: {sent:?} instead of {expected:?}"),
        }
    }

    /// A user's messages that they may try to edit: those of a group they left are nobody's question.
    fn editable(&self, user: &str, meant: impl Fn(i64, &Message) -> bool) -> Option<Vec<(i64, String)>> {
        let rows: Vec<(i64, &Message)> =
            self.world.messages(user).filter(|(id, message)| meant(*id, message)).collect();
        let left = |message: &Message| {
            message.key.1 == ConversationType::Group && self.world.role(&message.key.0, user).is_none()
        };
        if rows.iter().any(|(_, message)| left(message)) {
            return None;
        }
        Some(rows.into_iter().map(|(id, message)| (id, message.content.clone())).collect())
    }

    fn some_ids(&mut self, user: &str, most: usize) -> Vec<i64> {
        let ids: Vec<i64> = self.world.messages(user).map(|(id, _)| id).collect();
        if ids.is_empty() {
            return vec![4711];
        }
        (0..=self.dice.below(most)).map(|_| *self.dice.pick(&ids)).collect()
    }

    fn edit(&mut self, user: &'static str) {
        let ids = self.some_ids(user, 3);
        let Some(rows) = self.editable(user, |id, _| ids.contains(&id)) else { return };
        let text = self.text();
        let sql = format!("UPDATE userId.messages SET content = $1 WHERE msgId IN ({})", list(&ids));
        let answer = self.client(user).write_params(&sql, json!([text]));
        let texts: Vec<(i64, String)> = rows.into_iter().map(|(id, _)| (id, text.clone())).collect();
        Self::agree(&sql, answer, self.world.edit(user, &texts));
    }

    fn edit_by_pattern(&mut self, user: &'static str) {
        let digit = self.dice.below(10).to_string();
        let kind = *self.dice.pick(ConversationType::ALL);
        let meant =
            |message: &Message| message.from == user && message.key.1 == kind && message.content.contains(&digit);
        let Some(rows) = self.editable(user, |_, message| meant(message)) else { return };
        let sql = format!(
            "UPDATE messages SET content = content || '+' WHERE content LIKE '%{digit}%' AND from = $1 AND conversationType = '{kind}'"
        );
        let answer = self.client(user).write_params(&sql, json!([user]));
        let texts: Vec<(i64, String)> = rows.into_iter().map(|(id, text)| (id, text + "+")).collect();
        Self::agree(&sql, answer, self.world.edit(user, &texts));
    }

    fn delete(&mut self, user: &'static str) {
        let ids = self.some_ids(user, 4);
        let sql = match self.dice.below(5) {
            0 => "DELETE FROM messages WHERE false".to_owned(),
            _ => format!("DELETE FROM userId.messages WHERE msgId IN ({})", list(&ids)),
        };
        let meant = if sql.ends_with("false") { Vec::new() } else { ids };
        Self::agree(&sql, self.client(user).write(&sql), Ok(self.world.delete(user, &meant)));
    }

    fn delete_by_subquery(&mut self, user: &'static str) {
        let messages: Vec<(i64, &Message)> = self.world.messages(user).collect();
        let (sql, meant): (&str, Vec<i64>) = match self.dice.below(3) {
            0 => {
                let mut last: BTreeMap<&Key, i64> = BTreeMap::new();
                last.extend(messages.iter().map(|(id, message)| (&message.key, *id)));
                let sql = "DELETE FROM messages WHERE msgId IN (SELECT MAX(msgId) FROM messages GROUP BY conversationId, conversationType)";
                (sql, last.into_values().collect())
            }
            1 => {
                let oldest = messages.iter().filter(|(_, message)| message.from == "ai").map(|(id, _)| *id).take(3);
                let sql = "DELETE FROM messages WHERE msgId IN (SELECT msgId FROM messages WHERE from = 'ai' ORDER BY msgId LIMIT 3)";
                (sql, oldest.collect())
            }
            _ => {
                let twice =
                    |content: &str| messages.iter().filter(|(_, message)| message.content == content).count() > 1;
                let meant = messages.iter().filter(|(_, message)| twice(&message.content)).map(|(id, _)| *id);
                let sql = "DELETE FROM messages m WHERE EXISTS (SELECT 1 FROM messages o WHERE o.content = m.content AND o.msgId <> m.msgId)";
                (sql, meant.collect())
            }
        };
        Self::agree(sql, self.client(user).write(sql), Ok(self.world.delete(user, &meant)));
    }

    fn delete_conversation(&mut self, user: &'static str) {
        let mut keys: Vec<Key> = self.world.conversations(user).map(|(key, _)| key.clone()).collect();
        keys.retain(|key| self.may_leave || key.1 == ConversationType::Ai);
        keys.push(("never was".to_owned(), ConversationType::Ai));
        let key = self.dice.pick(&keys).clone();
        let sql = "DELETE FROM userId.conversations WHERE conversationId = $1 AND conversationType = $2";
        let answer = self.client(user).write_params(sql, json!([key.0, key.1.as_str()]));
        Self::agree(sql, answer, Ok(self.world.delete_conversation(user, &key)));
    }

    fn create(&mut self, user: &'static str) {
        self.texts += 1;
        let known: Vec<String> = self.world.groups().cloned().collect();
        let (id, kind) = match self.dice.below(4) {
            0 => ((*self.dice.pick(&IDS)).to_owned(), ConversationType::Ai),
            // Its owner creates it again: taken. Anybody else's try is another rule's.
            1 if !known.is_empty() => (self.dice.pick(&known).clone(), ConversationType::Group),
            _ => (format!("group {}", self.texts), ConversationType::Group),
        };
        if kind == ConversationType::Group && known.contains(&id) && self.world.role(&id, user).is_none() {
            return;
        }
        let sql = "INSERT INTO conversations (conversationId, conversationType) VALUES ($1, $2)";
        let answer = self.client(user).write_params(sql, json!([id, kind.as_str()]));
        Self::agree(sql, answer, self.world.create(user, &(id, kind)));
    }

    fn some_group(&mut self) -> Option<String> {
        let groups: Vec<String> = self.world.groups().cloned().collect();
        (!groups.is_empty()).then(|| self.dice.pick(&groups).clone())
    }

    fn add(&mut self, by: &'static str) {
        let Some(group) = self.some_group() else { return };
        let user = *self.dice.pick(&USERS);
        let (own, other) = (self.world.role(&group, by), self.world.role(&group, user));
        // Two rules at once: either may be named.
        if other.is_some() && !matches!(own, Some(Role::Owner | Role::Admin)) {
            return;
        }
        let sql = "INSERT INTO conversationUsers (conversationId, userId) VALUES ($1, $2)";
        let answer = self.client(by).write_params(sql, json!([group, user]));
        Self::agree(sql, answer, self.world.add_participant(by, &group, user));
    }

    fn remove(&mut self, by: &'static str) {
        let Some(group) = self.some_group().filter(|_| self.may_leave) else { return };
        let user = *self.dice.pick(&USERS);
        // Whether an admin may remove the owner or another admin is left open.
        let (own, other) = (self.world.role(&group, by), self.world.role(&group, user));
        if by != user && own == Some(Role::Admin) && other != Some(Role::Member) {
            return;
        }
        let sql = "DELETE FROM conversationUsers WHERE conversationId = $1 AND userId = $2";
        let answer = self.client(by).write_params(sql, json!([group, user]));
        Self::agree(sql, answer, self.world.remove_participant(by, &group, user));
    }

    fn role(&mut self, by: &'static str) {
        let Some(group) = self.some_group() else { return };
        let user = *self.dice.pick(&USERS);
        // The owner's own role is left open.
        if self.world.role(&group, user) == Some(Role::Owner) {
            return;
        }
        let role = *self.dice.pick(&[Role::Admin, Role::Member]);
        // So is a change that changes nothing.
        if self.world.role(&group, user) == Some(role) {
            return;
        }
        let sql = "UPDATE conversationUsers SET role = $1 WHERE conversationId = $2 AND userId = $3";
        let answer = self.client(by).write_params(sql, json!([role.as_str(), group, user]));
        Self::agree(sql, answer, self.world.set_role(by, &group, user, role));
    }

    fn read_mark(&mut self, user: &'static str) {
        let keys: Vec<Key> = self.world.conversations(user).map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return;
        }
        let key = self.dice.pick(&keys).clone();
        let ids: Vec<i64> = self.world.messages(user).filter(|(_, m)| m.key == key).map(|(id, _)| id).collect();
        let read = (!ids.is_empty() && self.dice.chance(90)).then(|| *self.dice.pick(&ids));
        let sql = "UPDATE conversations SET lastReadMsgId = $1 WHERE conversationId = $2 AND conversationType = $3";
        let answer = self.client(user).write_params(sql, json!([read, key.0, key.1.as_str()]));
        self.world.set_read(user, &key, read);
        Self::agree(sql, answer, Ok(1));
    }

    /// A page, a search and a count, compared with the model.
    fn page(&mut self, user: &'static str) {
        let key = self.key(user);
        let before = self.some_ids(user, 1)[0];
        let sql = "SELECT msgId, content FROM messages WHERE conversationId = $1 AND conversationType = $2 AND msgId < $3 \
                   ORDER BY msgId DESC LIMIT 5";
        let page = self.client(user).query_params(sql, json!([key.0, key.1.as_str(), before])).expect("a page");
        let mut expected: Vec<_> = self.world.messages(user).filter(|(id, m)| m.key == key && *id < before).collect();
        expected.reverse();
        let expected: Vec<_> = expected.into_iter().take(5).map(|(id, m)| vec![json!(id), json!(m.content)]).collect();
        assert_eq!(page.rows, expected, "a page of {key:?} before {before}, for {user}");
        let digit = self.dice.below(10).to_string();
        let found = self.client(user).number(&format!("SELECT COUNT(*) FROM messages WHERE content LIKE '%{digit}%'"));
        let expected = self.world.messages(user).filter(|(_, m)| m.content.contains(&digit)).count();
        assert_eq!(usize::try_from(found), Ok(expected), "messages of {user} with a {digit}");
    }
}

fn list(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}
