//! The model: what everybody should have, as plain maps.
//!
//! Invariant: knows no SQL, no store and no tier: each method is a rule of what KalamDB promises in its simplest
//! form. A file's path is the store's to choose; the model is told it, and knows who may read it.

use std::collections::{BTreeMap, BTreeSet};

use kalamdb_protocol::{ConversationType, Micros, MsgId, Role};

use crate::tests::world::{LARGE, TRASH_RETENTION, UPLOAD_TTL};

pub(super) type User = &'static str;

/// One of them has a letter that her folder's name does not.
pub(super) const USERS: [User; 3] = ["ann", "ben", "Cem"];

/// A conversation's id and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) id: &'static str,
    pub(super) kind: ConversationType,
}

/// One user's copy of a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) key: Key,
    pub(super) from: String,
    /// All of it, however large.
    pub(super) text: String,
    /// The path of the large text or of the upload.
    pub(super) file: Option<String>,
    /// `{"v": n}`, besides what the store says of a large text.
    pub(super) metadata: Option<u32>,
}

/// A copy in the trash.
#[derive(Debug, Clone)]
pub(super) struct Trashed {
    pub(super) message: Message,
    pub(super) expires: Micros,
}

/// A content file that is not to be removed.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) key: Key,
    pub(super) owner: User,
    pub(super) bytes: Vec<u8>,
    pub(super) is_upload: bool,
    pub(super) thumbnail: Option<String>,
    /// Until when an upload waits for a message; `None` once there was one.
    pub(super) waits_until: Option<Micros>,
}

/// One user's schema.
#[derive(Debug, Default)]
struct Schema {
    messages: BTreeMap<MsgId, Message>,
    trash: BTreeMap<MsgId, Trashed>,
    /// AI conversations.
    conversations: BTreeSet<Key>,
    /// Groups that the user is in, or was.
    been_in: BTreeSet<&'static str>,
}

/// Whether a user sees the row of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    There,
    Absent,
    /// Of a group that they left, and have no message of any more: nobody promised either.
    Either,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Model {
    schemas: BTreeMap<User, Schema>,
    /// Participants in the order in which they joined; so the first is the owner.
    groups: BTreeMap<&'static str, Vec<User>>,
    files: BTreeMap<String, File>,
    /// Every path that there ever was, thumbnails' too.
    paths: BTreeSet<String>,
}

impl Default for Model {
    fn default() -> Self {
        let schemas = USERS.map(|user| (user, Schema::default())).into();
        Self { schemas, groups: BTreeMap::new(), files: BTreeMap::new(), paths: BTreeSet::new() }
    }
}

impl Message {
    pub(super) fn is_large(&self) -> bool {
        self.text.len() >= LARGE
    }
}

/// What everybody has.
impl Model {
    fn schema(&mut self, user: User) -> &mut Schema {
        self.schemas.get_mut(user).expect("every user has a schema")
    }

    pub(super) fn messages(&self, user: User) -> impl Iterator<Item = (MsgId, &Message)> {
        self.schemas[user].messages.iter().map(|(id, message)| (*id, message))
    }

    pub(super) fn message(&self, user: User, id: MsgId) -> Option<&Message> {
        self.schemas[user].messages.get(&id)
    }

    pub(super) fn trash(&self, user: User) -> impl Iterator<Item = (MsgId, &Trashed)> {
        self.schemas[user].trash.iter().map(|(id, trashed)| (*id, trashed))
    }

    /// Ids of one user's messages, or of what is in their trash, that are meant.
    pub(super) fn ids(&self, user: User, meant: impl Fn(MsgId, &Message) -> bool) -> Vec<MsgId> {
        self.messages(user).filter(|(id, message)| meant(*id, message)).map(|(id, _)| id).collect()
    }

    pub(super) fn trashed_ids(&self, user: User, meant: impl Fn(&Message) -> bool) -> Vec<MsgId> {
        self.trash(user).filter(|(_, trashed)| meant(&trashed.message)).map(|(id, _)| id).collect()
    }

    pub(super) fn participants(&self, group: &str) -> &[User] {
        self.groups.get(group).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_participant(&self, group: &str, user: User) -> bool {
        self.participants(group).contains(&user)
    }

    /// All participants of the groups that a user is in, by group and name.
    pub(super) fn visible_participants(&self, user: User) -> Vec<(&'static str, User, Role)> {
        let mut visible = Vec::new();
        for (group, participants) in self.groups.iter().filter(|(_, participants)| participants.contains(&user)) {
            let role = |at| if at == 0 { Role::Owner } else { Role::Member };
            visible.extend(participants.iter().enumerate().map(|(at, participant)| (*group, *participant, role(at))));
        }
        visible.sort_by_key(|(group, participant, _)| (*group, *participant));
        visible
    }

    pub(super) fn row(&self, user: User, key: Key) -> Row {
        let has_messages = self.messages(user).any(|(_, message)| message.key == key);
        match key.kind {
            ConversationType::Group if self.is_participant(key.id, user) || has_messages => Row::There,
            ConversationType::Group if self.schemas[user].been_in.contains(key.id) => Row::Either,
            ConversationType::Ai if self.schemas[user].conversations.contains(&key) => Row::There,
            _ => Row::Absent,
        }
    }
}

/// What is said of files.
impl Model {
    pub(super) fn files(&self) -> impl Iterator<Item = (&String, &File)> {
        self.files.iter()
    }

    pub(super) fn paths(&self) -> &BTreeSet<String> {
        &self.paths
    }

    /// Copies that refer to a file, deleted ones too.
    pub(super) fn references(&self, path: &str) -> u64 {
        let refers = |message: &Message| message.file.as_deref() == Some(path);
        let count = |schema: &Schema| {
            schema.messages.values().filter(|message| refers(message)).count()
                + schema.trash.values().filter(|trashed| refers(&trashed.message)).count()
        };
        self.schemas.values().map(count).sum::<usize>() as u64
    }

    /// Who may read what lies at a path: a thumbnail is its upload's.
    pub(super) fn readers(&self, path: &str) -> Vec<User> {
        let of_thumbnail = |(_, file): &(&String, &File)| file.thumbnail.as_deref() == Some(path);
        let upload = self.files().find(of_thumbnail).map_or(path, |(upload, _)| upload);
        let Some(file) = self.files.get(upload) else { return Vec::new() };
        if file.waits_until.is_some() {
            return vec![file.owner];
        }
        let sees = |user: &User| self.messages(user).any(|(_, message)| message.file.as_deref() == Some(upload));
        USERS.into_iter().filter(sees).collect()
    }

    /// Whether a message of that conversation may refer to it.
    pub(super) fn may_refer(&self, user: User, key: Key, path: &str) -> bool {
        self.files.get(path).is_some_and(|file| {
            let is_own = key.kind == ConversationType::Group || file.owner == user;
            file.is_upload && file.key == key && is_own && self.readers(path).contains(&user)
        })
    }

    pub(super) fn add_file(&mut self, path: &str, file: File) {
        assert!(self.paths.insert(path.to_owned()), "{path} was another file's");
        if let Some(thumbnail) = &file.thumbnail {
            assert!(self.paths.insert(thumbnail.clone()), "{thumbnail} was another file's");
        }
        self.files.insert(path.to_owned(), file);
    }

    /// Files that nothing refers to any more are gone.
    fn release_files(&mut self) {
        let all: Vec<String> =
            self.files().filter(|(_, file)| file.waits_until.is_none()).map(|(path, _)| path.clone()).collect();
        for path in all {
            if self.references(&path) == 0 {
                self.files.remove(&path);
            }
        }
    }
}

/// What happens.
impl Model {
    /// Whether a user may write to a conversation; a group that is not there they found.
    pub(super) fn may_write(&self, user: User, key: Key) -> bool {
        let participants = self.participants(key.id);
        key.kind == ConversationType::Ai || participants.is_empty() || participants.contains(&user)
    }

    /// A user writes to a conversation, which is there from then on; who gets it.
    pub(super) fn write_to(&mut self, user: User, key: Key) -> Vec<User> {
        match key.kind {
            ConversationType::Ai => {
                self.schema(user).conversations.insert(key);
                vec![user]
            }
            ConversationType::Group => {
                if self.participants(key.id).is_empty() {
                    self.join(key.id, user);
                }
                self.participants(key.id).to_vec()
            }
        }
    }

    pub(super) fn send(&mut self, user: User, id: MsgId, message: &Message) {
        if let Some(file) = message.file.as_ref().and_then(|path| self.files.get_mut(path)) {
            file.waits_until = None;
        }
        for receiver in self.write_to(user, message.key) {
            let before = self.schema(receiver).messages.insert(id, message.clone());
            assert!(before.is_none(), "the id {id} was given twice");
        }
    }

    pub(super) fn upload(
        &mut self,
        user: User,
        key: Key,
        path: &str,
        bytes: Vec<u8>,
        thumbnail: Option<String>,
        now: Micros,
    ) {
        self.write_to(user, key);
        let waits_until = Some(now + UPLOAD_TTL);
        self.add_file(path, File { key, owner: user, bytes, is_upload: true, thumbnail, waits_until });
    }

    /// Whether a user may give one of their messages that text.
    pub(super) fn may_edit(&self, user: User, message: &Message, text: Option<&String>) -> bool {
        let is_writer = message.key.kind == ConversationType::Ai
            || (message.from == user && self.is_participant(message.key.id, user));
        let has_upload = message.file.is_some() && !message.is_large();
        let is_large = text.is_some_and(|text| text.len() >= LARGE);
        is_writer && !(has_upload && is_large)
    }

    /// The copies of all who take part now become like this one, deleted ones too.
    pub(super) fn edit(&mut self, user: User, id: MsgId, edited: &Message) {
        let receivers = match edited.key.kind {
            ConversationType::Ai => vec![user],
            ConversationType::Group => self.participants(edited.key.id).to_vec(),
        };
        for receiver in receivers {
            let schema = self.schema(receiver);
            let trashed = schema.trash.get_mut(&id).map(|trashed| &mut trashed.message);
            for copy in schema.messages.get_mut(&id).into_iter().chain(trashed) {
                copy.clone_from(edited);
            }
        }
        self.release_files();
    }

    pub(super) fn delete(&mut self, user: User, ids: &[MsgId], now: Micros) {
        let schema = self.schema(user);
        for id in ids {
            let message = schema.messages.remove(id).expect("it is there");
            schema.trash.insert(*id, Trashed { message, expires: now + TRASH_RETENTION });
        }
    }

    pub(super) fn delete_conversation(&mut self, user: User, key: Key, now: Micros) {
        let ids = self.ids(user, |_, message| message.key == key);
        self.delete(user, &ids, now);
        match key.kind {
            ConversationType::Ai => {
                self.schema(user).conversations.remove(&key);
                self.drop_unsent(user, key);
            }
            ConversationType::Group => self.leave(key.id, user),
        }
    }

    pub(super) fn join(&mut self, group: &'static str, user: User) {
        self.groups.entry(group).or_default().push(user);
        self.schema(user).been_in.insert(group);
    }

    pub(super) fn leave(&mut self, group: &'static str, user: User) {
        let Some(participants) = self.groups.get_mut(group) else { return };
        participants.retain(|participant| *participant != user);
        if participants.is_empty() {
            self.groups.remove(group);
        }
        self.drop_unsent(user, Key { id: group, kind: ConversationType::Group });
    }

    /// With its uploader goes what was never sent.
    fn drop_unsent(&mut self, user: User, key: Key) {
        self.files.retain(|_, file| file.key != key || file.owner != user || file.waits_until.is_none());
    }

    pub(super) fn restore(&mut self, user: User, ids: &[MsgId]) {
        let schema = self.schema(user);
        for id in ids {
            let message = schema.trash.remove(id).expect("it is in the trash").message;
            if message.key.kind == ConversationType::Ai {
                schema.conversations.insert(message.key);
            }
            schema.messages.insert(*id, message);
        }
    }

    pub(super) fn purge(&mut self, user: User, ids: &[MsgId]) {
        let schema = self.schema(user);
        schema.trash.retain(|id, _| !ids.contains(id));
        self.release_files();
    }

    /// What had its time is gone.
    pub(super) fn expire(&mut self, now: Micros) {
        for schema in self.schemas.values_mut() {
            schema.trash.retain(|_, trashed| trashed.expires > now);
        }
        self.files.retain(|_, file| file.waits_until.is_none_or(|until| until > now));
        self.release_files();
    }
}
