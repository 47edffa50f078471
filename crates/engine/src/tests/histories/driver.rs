//! Does each step to the database and to the model, and holds the two answers against each other.
//!
//! Invariant: the database is asked in SQL and through the store's calls for files, as the server asks it; what it
//! answers to a step is checked here, what it holds afterwards in `check`.

use std::{fmt::Write, ops::RangeInclusive};

use kalamdb_protocol::{ConversationType, ErrorCode, MsgId, WriteResponse};
use kalamdb_store::ErrorKind;
use serde_json::{Value, json};

use super::{
    model::{File, Key, Message, Model, Row, USERS, User},
    steps::{Edit, Step, Text},
};
use crate::{
    Caller,
    tests::{
        user,
        world::{HOUR, World, caller, key},
    },
};

/// Nothing, or what differs.
pub(super) type Checked<T = ()> = Result<T, String>;

/// The rows that a write may say it changed; `None`: it is to be refused.
type Expected = Option<RangeInclusive<u64>>;

/// How long a step takes.
const MOMENT: i64 = 1_000;

/// The database and the model of it.
pub(super) struct Driver {
    pub(super) world: World,
    pub(super) model: Model,
    /// Texts and files so far: each is another.
    made: u32,
    told: String,
}

fn exactly(rows: usize) -> RangeInclusive<u64> {
    rows as u64..=rows as u64
}

fn admin() -> Caller {
    Caller { user: user(USERS[0]), admin: true }
}

fn pick<T>(mut all: Vec<T>, nth: usize) -> Option<T> {
    if all.is_empty() { None } else { Some(all.swap_remove(nth % all.len())) }
}

fn is_refusal(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Forbidden | ErrorCode::InvalidValue | ErrorCode::Conflict | ErrorCode::NotFound)
}

/// A value as it is told: its beginning.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    let end = text.floor_char_boundary(40);
    if end < text.len() { format!("{}… ({} bytes)", &text[..end], text.len()) } else { text }
}

/// Where a conversation's files lie.
fn folder(user: User, key: Key) -> String {
    match key.kind {
        ConversationType::Ai => user.replace('C', "%43"),
        ConversationType::Group => format!("shared/conversations/{}", key.id),
    }
}

impl Driver {
    pub(super) fn new() -> Self {
        Self { world: World::new(), model: Model::default(), made: 0, told: String::new() }
    }

    pub(super) async fn stop(&mut self) {
        self.world.stop().await;
    }

    /// The history so far, as statements and answers.
    pub(super) fn told(&self) -> &str {
        &self.told
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.told, "{line}").unwrap();
    }

    fn next(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    fn text(&mut self, size: Text) -> String {
        size.write(self.next())
    }

    fn now(&self) -> i64 {
        self.world.store().now()
    }

    pub(super) async fn step(&mut self, step: &Step) -> Checked {
        self.world.clock.advance(MOMENT);
        match *step {
            Step::Send { user, to, assistant, text } => {
                let from = if assistant && to.kind == ConversationType::Ai { "assistant" } else { user };
                let text = self.text(text);
                self.send(user, to, from, text, None).await
            }
            Step::Upload { user, to, bytes, thumbnail } => self.upload(user, to, bytes, thumbnail).await,
            Step::SendFile { user, nth, astray, text } => self.send_file(user, nth, astray, text).await,
            Step::Edit { user, nth, edit } => self.edit(user, nth, edit).await,
            Step::Delete { user, nth } => self.delete(user, nth).await,
            Step::DeleteUpTo { user, nth } => self.delete_up_to(user, nth).await,
            Step::DeleteConversation { user, key } => self.delete_conversation(user, key).await,
            Step::Leave { user, group } => self.remove(user, user, group).await,
            Step::Add { by, user, group } => self.add(by, user, group).await,
            Step::Remove { by, user, group } => self.remove(by, user, group).await,
            Step::Restore { user, nth } => self.restore(user, nth).await,
            Step::RestoreAll { user, id } => self.restore_all(user, id).await,
            Step::Purge { user, nth } => self.purge(user, nth).await,
            Step::PurgeAll { user, kind } => self.purge_all(user, kind).await,
            Step::AdminDelete { nth } => self.admin_delete(nth).await,
            Step::AdminDeleteFrom { from } => {
                self.admin_delete_where("from", &json!(from), |_, message| message.from == from).await
            }
            Step::Consolidate { .. } | Step::Compact { .. } | Step::Sweep | Step::Wait { .. } | Step::Restart => {
                self.keep_house(step).await
            }
        }
    }

    /// What changes nothing that anybody sees, unless its time is up.
    async fn keep_house(&mut self, step: &Step) -> Checked {
        self.tell(&format!("{step:?}"));
        let failed = |error: kalamdb_store::Error| format!("{step:?}: {error:?}");
        match *step {
            Step::Consolidate { user: owner } => {
                self.world.store().consolidate(&user(owner)).await.map_err(failed)?;
            }
            Step::Compact { user: owner, all } => {
                self.world.store().compact(&user(owner), all).await.map_err(failed)?;
            }
            Step::Wait { hours } => {
                self.world.clock.advance(hours * HOUR);
                self.world.store().sweep().await.map_err(failed)?;
                self.model.expire(self.now());
            }
            Step::Restart => self.world.restart().await,
            _ => {
                self.world.store().sweep().await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Writes; `None` when it was refused, as it was to be.
    async fn write(
        &mut self,
        by: &Caller,
        sql: &str,
        params: Vec<Value>,
        expected: Expected,
    ) -> Checked<Option<WriteResponse>> {
        let values: Vec<String> = params.iter().map(brief).collect();
        let who = if by.admin { "an admin" } else { by.user.as_str() };
        let answer = self.world.write(by, sql, params).await;
        let said = match &answer {
            Ok(answer) => format!("{} rows {:?}", answer.rows_affected, answer.msg_ids.as_deref().unwrap_or_default()),
            Err(error) => format!("{}: {}", error.code.as_str(), error.message),
        };
        let line = format!("{who}: {sql} [{}] → {said}", values.join(", "));
        self.tell(&line);
        match (answer, expected) {
            (Ok(answer), Some(expected)) if expected.contains(&answer.rows_affected) => Ok(Some(answer)),
            (Err(error), None) if is_refusal(error.code) => Ok(None),
            (_, Some(expected)) => Err(format!("{line}\nbut {expected:?} rows are to change")),
            (_, None) => Err(format!("{line}\nbut it is to be refused")),
        }
    }

    async fn send(&mut self, by: User, to: Key, from: &str, text: String, file: Option<String>) -> Checked {
        let mut message = Message { key: to, from: from.to_owned(), text, file, metadata: None };
        let may_refer = |path| self.model.may_refer(by, to, path) && !message.is_large();
        let may = self.model.may_write(by, to) && message.file.as_deref().is_none_or(may_refer);
        let sql = "INSERT INTO messages (conversationId, conversationType, from, content, contentRef) \
                   VALUES ($1, $2, $3, $4, $5)";
        let params = vec![json!(to.id), json!(to.kind), json!(from), json!(message.text), json!(message.file)];
        let expected = may.then_some(1..=1);
        let Some(answer) = self.write(&caller(by), sql, params, expected).await? else { return Ok(()) };
        let id = answer.msg_ids.and_then(|ids| ids.first().copied()).ok_or("a send has an id")?;
        if message.is_large() {
            message.file = Some(self.learn_text(by, to, id, &message.text).await?);
        }
        self.model.send(by, id, &message);
        Ok(())
    }

    /// Asks where a large text went, and tells the model.
    async fn learn_text(&mut self, by: User, key: Key, id: MsgId, text: &str) -> Checked<String> {
        let sql = "SELECT contentRef FROM messages WHERE msgId = $1";
        let rows = self.world.rows(&caller(by), sql, vec![json!(id)]).await.map_err(|error| format!("{error:?}"))?;
        let path = rows.first().and_then(|row| row[0].as_str()).ok_or("a large text has a contentRef")?;
        let version = path.strip_prefix(&format!("{}/msg-{id}", folder(by, key)));
        let version = version.and_then(|rest| rest.strip_suffix(".bin"));
        if !version.is_some_and(|version| version.is_empty() || version.starts_with('-')) {
            return Err(format!("the text of {id} lies at {path}"));
        }
        self.learn_path(path)?;
        let file = File {
            key,
            owner: by,
            bytes: text.as_bytes().to_vec(),
            is_upload: false,
            thumbnail: None,
            waits_until: None,
        };
        self.model.add_file(path, file);
        Ok(path.to_owned())
    }

    fn learn_path(&self, path: &str) -> Checked {
        if self.model.paths().contains(path) { Err(format!("{path} was another file's")) } else { Ok(()) }
    }

    async fn upload(&mut self, by: User, to: Key, size: usize, thumbnail: bool) -> Checked {
        let n = self.next() as usize;
        let bytes: Vec<u8> = (n..n + size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let small = thumbnail.then_some(&bytes[..1]);
        let stored = self.world.upload(by, &key(to.id, to.kind), &bytes, small).await;
        self.tell(&format!("{by}: uploads {size} bytes to {to:?} → {stored:?}"));
        match stored {
            Ok(file) if self.model.may_write(by, to) => {
                let number = file.path.strip_prefix(&format!("{}/media-", folder(by, to)));
                let is_named_so = number.is_some_and(|rest| rest.strip_suffix(".png").is_some());
                if !is_named_so || file.thumbnail.is_some() != thumbnail {
                    return Err(format!("an upload of {by} to {to:?} became {file:?}"));
                }
                self.learn_path(&file.path)?;
                self.model.upload(by, to, &file.path, bytes, file.thumbnail, file.created);
                Ok(())
            }
            Err(error) if !self.model.may_write(by, to) => match error.kind {
                ErrorKind::Refused(code) if is_refusal(code) => Ok(()),
                _ => Err(format!("an upload is refused with {error:?}")),
            },
            stored => Err(format!("an upload of {by} to {to:?} came to {stored:?}")),
        }
    }

    async fn send_file(&mut self, by: User, nth: usize, astray: Option<Key>, text: Text) -> Checked {
        let all: Vec<(String, Key)> = if let Some(to) = astray {
            self.model.paths().iter().map(|path| (path.clone(), to)).collect()
        } else {
            let mine = self.model.files().filter(|(path, file)| self.model.may_refer(by, file.key, path));
            mine.map(|(path, file)| (path.clone(), file.key)).collect()
        };
        let Some((path, to)) = pick(all, nth) else { return Ok(()) };
        let text = self.text(text);
        self.send(by, to, by, text, Some(path)).await
    }

    async fn edit(&mut self, by: User, nth: usize, edit: Edit) -> Checked {
        let all: Vec<(MsgId, Message)> = self.model.messages(by).map(|(id, message)| (id, message.clone())).collect();
        let Some((id, old)) = pick(all, nth) else { return Ok(()) };
        let (text, metadata) = match edit {
            Edit::Content(text) => (Some(self.text(text)), None),
            Edit::Metadata => (None, Some(self.next())),
            Edit::Both(text) => (Some(self.text(text)), Some(self.next())),
        };
        let (mut sets, mut params) = (Vec::new(), vec![json!(id)]);
        if let Some(text) = &text {
            params.push(json!(text));
            sets.push(format!("content = ${}", params.len()));
        }
        if let Some(metadata) = metadata {
            params.push(json!(json!({ "v": metadata }).to_string()));
            sets.push(format!("metadata = ${}", params.len()));
        }
        let sql = format!("UPDATE messages SET {} WHERE msgId = $1", sets.join(", "));
        let expected = self.model.may_edit(by, &old, text.as_ref()).then_some(1..=1);
        if self.write(&caller(by), &sql, params, expected).await?.is_none() {
            return Ok(());
        }
        let mut new = Message { metadata: metadata.or(old.metadata), ..old.clone() };
        if let Some(text) = text {
            new.text = text;
            if new.is_large() {
                new.file = Some(self.learn_text(by, old.key, id, &new.text).await?);
            } else if old.is_large() {
                new.file = None;
            }
        }
        self.model.edit(by, id, &new);
        Ok(())
    }

    async fn delete(&mut self, by: User, nth: usize) -> Checked {
        let Some(id) = pick(self.model.ids(by, |_, _| true), nth) else { return Ok(()) };
        let sql = "DELETE FROM messages WHERE msgId = $1";
        self.write(&caller(by), sql, vec![json!(id)], Some(exactly(1))).await?;
        self.model.delete(by, &[id], self.now());
        Ok(())
    }

    async fn delete_up_to(&mut self, by: User, nth: usize) -> Checked {
        let all: Vec<(MsgId, &'static str)> =
            self.model.messages(by).map(|(id, message)| (id, message.key.id)).collect();
        let Some((last, conversation)) = pick(all, nth) else { return Ok(()) };
        let ids = self.model.ids(by, |id, message| id <= last && message.key.id == conversation);
        let sql = "DELETE FROM messages WHERE conversationId = $1 AND msgId <= $2";
        self.write(&caller(by), sql, vec![json!(conversation), json!(last)], Some(exactly(ids.len()))).await?;
        self.model.delete(by, &ids, self.now());
        Ok(())
    }

    async fn delete_conversation(&mut self, by: User, key: Key) -> Checked {
        let expected = match self.model.row(by, key) {
            Row::There => 1..=1,
            Row::Absent => 0..=0,
            Row::Either => 0..=1,
        };
        let sql = "DELETE FROM conversations WHERE conversationId = $1 AND conversationType = $2";
        self.write(&caller(by), sql, vec![json!(key.id), json!(key.kind)], Some(expected)).await?;
        self.model.delete_conversation(by, key, self.now());
        Ok(())
    }

    async fn add(&mut self, by: User, whom: User, group: &'static str) -> Checked {
        let participants = self.model.participants(group);
        let may = participants.first() == Some(&by) && !participants.contains(&whom);
        let sql = "INSERT INTO conversationUsers (conversationId, userId) VALUES ($1, $2)";
        let params = vec![json!(group), json!(whom)];
        if self.write(&caller(by), sql, params, may.then_some(1..=1)).await?.is_some() {
            self.model.join(group, whom);
        }
        Ok(())
    }

    /// Removes somebody, or leaves.
    async fn remove(&mut self, by: User, whom: User, group: &'static str) -> Checked {
        let participants = self.model.participants(group);
        let expected = if !participants.contains(&by) || !participants.contains(&whom) {
            Some(exactly(0))
        } else if by == whom || participants.first() == Some(&by) {
            Some(exactly(1))
        } else {
            None
        };
        let sql = "DELETE FROM conversationUsers WHERE conversationId = $1 AND userId = $2";
        let removed = self.write(&caller(by), sql, vec![json!(group), json!(whom)], expected).await?;
        if removed.is_some_and(|answer| answer.rows_affected == 1) {
            self.model.leave(group, whom);
        }
        Ok(())
    }

    async fn restore(&mut self, by: User, nth: usize) -> Checked {
        let Some(id) = pick(self.model.trashed_ids(by, |_| true), nth) else { return Ok(()) };
        let sql = "UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = $1";
        self.write(&caller(by), sql, vec![json!(id)], Some(exactly(1))).await?;
        self.model.restore(by, &[id]);
        Ok(())
    }

    async fn restore_all(&mut self, by: User, id: &'static str) -> Checked {
        let ids = self.model.trashed_ids(by, |message| message.key.id == id);
        let sql = "UPDATE deletedMessages SET deletedAt = NULL WHERE conversationId = $1";
        self.write(&caller(by), sql, vec![json!(id)], Some(exactly(ids.len()))).await?;
        self.model.restore(by, &ids);
        Ok(())
    }

    async fn purge(&mut self, by: User, nth: usize) -> Checked {
        let Some(id) = pick(self.model.trashed_ids(by, |_| true), nth) else { return Ok(()) };
        let sql = "DELETE FROM deletedMessages WHERE msgId = $1";
        self.write(&caller(by), sql, vec![json!(id)], Some(exactly(1))).await?;
        self.model.purge(by, &[id]);
        Ok(())
    }

    async fn purge_all(&mut self, by: User, kind: ConversationType) -> Checked {
        let ids = self.model.trashed_ids(by, |message| message.key.kind == kind);
        let sql = "DELETE FROM deletedMessages WHERE conversationType = $1";
        self.write(&caller(by), sql, vec![json!(kind)], Some(exactly(ids.len()))).await?;
        self.model.purge(by, &ids);
        Ok(())
    }

    async fn admin_delete(&mut self, nth: usize) -> Checked {
        let all = USERS.iter().flat_map(|user| self.model.ids(user, |_, _| true)).collect();
        let Some(meant) = pick(all, nth) else { return Ok(()) };
        self.admin_delete_where("msgId", &json!(meant), |id, _| id == meant).await
    }

    async fn admin_delete_where(
        &mut self,
        column: &str,
        value: &Value,
        meant: impl Fn(MsgId, &Message) -> bool + Copy,
    ) -> Checked {
        let copies: Vec<(User, Vec<MsgId>)> = USERS.map(|user| (user, self.model.ids(user, meant))).to_vec();
        let rows = copies.iter().map(|(_, ids)| ids.len()).sum();
        let sql = format!("DELETE FROM *.messages WHERE {column} = $1");
        self.write(&admin(), &sql, vec![value.clone()], Some(exactly(rows))).await?;
        for (user, ids) in copies {
            self.model.delete(user, &ids, self.now());
        }
        Ok(())
    }
}
