//! Holds the database against the model: rows by SQL, files by what lies in the folder, segments by their raw rows.
//!
//! Invariant: changes nothing that anybody could see, but for [`Driver::outlive_everything`] and
//! [`Driver::clear_out`], which say so.

use std::{collections::BTreeMap, time::Duration};

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::Int64Type,
    },
    parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
};
use kalamdb_protocol::{ConversationType, MsgId};
use kalamdb_store::{FileKind, Segment, Snapshot, StoredFile};
use serde_json::{Map, Value, json};

use super::{
    driver::{Checked, Driver},
    model::{Key, Message, Row, USERS, User},
    steps::{IDS, Step},
};
use crate::{
    Caller,
    tests::{
        user,
        world::{AUDIT_RETENTION, OnDisk, PREVIEW, caller, key},
    },
};

/// Longer than everything is kept.
const FOR_EVER_HOURS: i64 = 1_000;

/// Looks at the folder before giving up. A task of a statement that has answered may hold its snapshot for a moment,
/// and with it a file that is to be removed; nothing tells of its end, so this has to look again.
const LOOKS: u32 = 400;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

const MESSAGE: &str = "msgId, conversationId, conversationType, from, content, contentRef, metadata";

fn admin() -> Caller {
    Caller { user: user("root"), admin: true }
}

fn broken(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// Fails with what differs first.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &[T], expected: &[T]) -> Checked {
    let longest = found.len().max(expected.len());
    let Some(at) = (0..longest).find(|at| found.get(*at) != expected.get(*at)) else { return Ok(()) };
    // The filling of large texts says nothing.
    let brief = |row: Option<&T>| row.map_or("nothing".to_owned(), |row| format!("{row:?}").replace("éé", ""));
    Err(format!("{what}, place {at}: there is {}\ninstead of {}", brief(found.get(at)), brief(expected.get(at))))
}

/// What a copy keeps of a text.
fn preview(message: &Message) -> &str {
    if message.is_large() { &message.text[..message.text.floor_char_boundary(PREVIEW)] } else { &message.text }
}

fn metadata(message: &Message) -> Value {
    let mut fields = Map::new();
    if let Some(metadata) = message.metadata {
        fields.insert("v".to_owned(), json!(metadata));
    }
    if message.is_large() {
        fields.insert("contentType".to_owned(), json!("text/plain"));
        fields.insert("fullSize".to_owned(), json!(message.text.len()));
    }
    fields.into()
}

/// A row of [`MESSAGE`].
fn message_row(id: MsgId, message: &Message) -> Vec<Value> {
    let Key { id: conversation, kind } = message.key;
    let (from, file) = (&message.from, &message.file);
    vec![
        json!(id),
        json!(conversation),
        json!(kind),
        json!(from),
        json!(preview(message)),
        json!(file),
        metadata(message),
    ]
}

/// Metadata as objects, whatever the order of their fields; none is an empty one.
fn parse_metadata(rows: &mut [Vec<Value>]) {
    for metadata in rows.iter_mut().map(|row| &mut row[6]) {
        *metadata = match metadata.as_str() {
            Some(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            None => json!({}),
        };
    }
}

/// Rows.
impl Driver {
    async fn rows(&self, by: &Caller, sql: &str, params: Vec<Value>) -> Checked<Vec<Vec<Value>>> {
        self.world.rows(by, sql, params).await.map_err(|error| format!("{sql}: {error:?}"))
    }

    /// After each step: how much there is of everything.
    pub(super) fn glance(&self) -> Checked {
        let snapshot = self.world.store().snapshot();
        for name in USERS {
            let owner = user(name);
            let segments = snapshot.segments(&owner).map_err(broken)?;
            let cold: u64 = segments.iter().map(|segment| u64::from(segment.rows) - segment.deleted.len()).sum();
            let hot = snapshot.owner(&owner).map_err(broken)?.hot_messages;
            same(&format!("messages of {name}"), &[hot + cold], &[self.model.messages(name).count() as u64])?;
            let cold_trash = snapshot.cold_trash(&owner).map_err(broken)?;
            let cold: u64 = cold_trash.iter().map(|trash| trash.positions.len()).sum();
            let hot = snapshot.trash(&owner).map_err(broken)?.count() as u64;
            same(&format!("the trash of {name}"), &[hot + cold], &[self.model.trash(name).count() as u64])?;
        }
        self.compare_references(&snapshot)
    }

    /// Everything that everybody sees, and everything that lies on the disk.
    pub(super) async fn compare(&self) -> Checked {
        for name in USERS {
            self.compare_messages(name).await?;
            self.compare_conversations(name).await?;
            self.compare_participants(name).await?;
        }
        self.compare_all_owners().await?;
        self.compare_audit_log().await?;
        self.settle().await?;
        self.compare_readers()?;
        self.compare_contents().await
    }

    async fn compare_messages(&self, name: User) -> Checked {
        let mut rows =
            self.rows(&caller(name), &format!("SELECT {MESSAGE} FROM messages ORDER BY msgId"), vec![]).await?;
        parse_metadata(&mut rows);
        let expected: Vec<_> = self.model.messages(name).map(|(id, message)| message_row(id, message)).collect();
        same(&format!("messages of {name}"), &rows, &expected)?;

        let sql = format!("SELECT {MESSAGE}, expiresAt FROM deletedMessages ORDER BY msgId");
        let mut rows = self.rows(&caller(name), &sql, vec![]).await?;
        parse_metadata(&mut rows);
        let trash = self.model.trash(name).map(|(id, trashed)| {
            let mut row = message_row(id, &trashed.message);
            row.push(json!(trashed.expires));
            row
        });
        same(&format!("deletedMessages of {name}"), &rows, &trash.collect::<Vec<_>>())
    }

    async fn compare_conversations(&self, name: User) -> Checked {
        let sql = "SELECT conversationId, conversationType, firstMsgId, lastMsgId, unreadCount \
                   FROM conversations ORDER BY conversationId, conversationType";
        let mut rows = self.rows(&caller(name), sql, vec![]).await?;
        let mut expected = Vec::new();
        for id in IDS {
            for kind in [ConversationType::Ai, ConversationType::Group] {
                let key = Key { id, kind };
                let is_key = |row: &Vec<Value>| row[0] == id && row[1] == kind.as_str();
                match self.model.row(name, key) {
                    Row::There => expected.push(self.conversation_row(name, key)),
                    Row::Absent => {}
                    Row::Either => rows.retain(|row| !is_key(row)),
                }
            }
        }
        same(&format!("conversations of {name}"), &rows, &expected)
    }

    fn conversation_row(&self, name: User, key: Key) -> Vec<Value> {
        let ids = self.model.ids(name, |_, message| message.key == key);
        let unread = self.model.ids(name, |_, message| message.key == key && message.from != name);
        vec![json!(key.id), json!(key.kind), json!(ids.first()), json!(ids.last()), json!(unread.len())]
    }

    async fn compare_participants(&self, name: User) -> Checked {
        let sql = "SELECT conversationId, userId, role FROM conversationUsers ORDER BY conversationId, userId";
        let rows = self.rows(&caller(name), sql, vec![]).await?;
        let participants = self.model.visible_participants(name).into_iter();
        let expected: Vec<_> = participants
            .map(|(group, participant, role)| vec![json!(group), json!(participant), json!(role)])
            .collect();
        same(&format!("conversationUsers of {name}"), &rows, &expected)
    }

    /// What an admin sees of everybody.
    async fn compare_all_owners(&self) -> Checked {
        let mut names = USERS;
        names.sort_unstable();
        let sql = "SELECT owner, msgId FROM *.messages ORDER BY owner, msgId";
        let ids = |name: User| self.model.messages(name).map(move |(id, _)| vec![json!(name), json!(id)]);
        let expected: Vec<_> = names.into_iter().flat_map(ids).collect();
        same("*.messages", &self.rows(&admin(), sql, vec![]).await?, &expected)?;
        let sql = "SELECT owner, msgId FROM *.deletedMessages ORDER BY owner, msgId";
        let ids = |name: User| self.model.trash(name).map(move |(id, _)| vec![json!(name), json!(id)]);
        let expected: Vec<_> = names.into_iter().flat_map(ids).collect();
        same("*.deletedMessages", &self.rows(&admin(), sql, vec![]).await?, &expected)
    }

    /// It holds no text of a message, and nothing past its time.
    async fn compare_audit_log(&self) -> Checked {
        let oldest = self.world.store().now() - AUDIT_RETENTION;
        let sql = "SELECT * FROM *.auditLog WHERE details LIKE '%text %' OR target LIKE '%text %' OR timestamp < $1";
        same("the audit log", &self.rows(&admin(), sql, vec![json!(oldest)]).await?, &[])
    }
}

/// Files.
impl Driver {
    /// The rows of files are those of the model, with as many references.
    fn compare_references(&self, snapshot: &Snapshot) -> Checked {
        let files: Vec<StoredFile> = snapshot.files().and_then(Iterator::collect).map_err(broken)?;
        let live = || files.iter().filter(|file| !file.doomed);
        let found: BTreeMap<&str, u64> = live()
            .filter(|file| file.kind != FileKind::Thumbnail)
            .map(|file| (file.path.as_str(), file.references))
            .collect();
        let known = || self.model.files();
        let expected: BTreeMap<&str, u64> =
            known().map(|(path, _)| (path.as_str(), self.model.references(path))).collect();
        same("references", &found.into_iter().collect::<Vec<_>>(), &expected.into_iter().collect::<Vec<_>>())?;
        let mut found: Vec<&str> =
            live().filter(|file| file.kind == FileKind::Thumbnail).map(|file| file.path.as_str()).collect();
        let mut expected: Vec<&str> = known().filter_map(|(_, file)| file.thumbnail.as_deref()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        same("thumbnails", &found, &expected)
    }

    /// Sweeps until nothing is left to be removed.
    async fn settle(&self) -> Checked {
        let mut looked = Ok(());
        for _ in 0..LOOKS {
            self.world.store().sweep().await.map_err(broken)?;
            looked = self.compare_disk();
            if looked.is_ok() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        looked
    }

    /// Every file is a live segment or has a row, every segment and row has its file, and no folder is empty.
    fn compare_disk(&self) -> Checked {
        let snapshot = self.world.store().snapshot();
        let mut expected = Vec::new();
        for name in USERS {
            expected.extend(snapshot.segments(&user(name)).map_err(broken)?.into_iter().map(|segment| segment.path));
        }
        for file in snapshot.files().map_err(broken)? {
            let file = file.map_err(broken)?;
            if file.doomed {
                return Err(format!("{} is still to be removed after a sweep", file.path));
            }
            expected.push(file.path);
        }
        expected.sort_unstable();
        let OnDisk { files, mut empty_folders } = self.world.on_disk();
        same("files on disk", &files.into_iter().collect::<Vec<_>>(), &expected)?;
        // These two are nobody's.
        empty_folders.retain(|folder| folder != "shared" && folder != "shared/conversations");
        same("empty folders", &empty_folders.into_iter().collect::<Vec<_>>(), &[])?;
        let spool = std::fs::read_dir(self.world.store().spool()).map_err(broken)?;
        let left: Vec<_> = spool.filter_map(|entry| entry.ok().map(|entry| entry.file_name())).collect();
        same("the spool", &left, &[])
    }

    /// Whoever may read a file can, and nobody else.
    fn compare_readers(&self) -> Checked {
        for path in self.model.paths() {
            let expected = self.model.readers(path);
            for name in USERS.into_iter().chain(["eve"]) {
                let found = self.world.store().readable_file(&user(name), path).map_err(broken)?;
                if found.as_ref().map(|file| &file.path) != expected.contains(&name).then_some(path) {
                    return Err(format!("{name} reads {path} as {found:?}, which {expected:?} may read"));
                }
            }
        }
        Ok(())
    }

    /// Every file holds what was put in, and gives it to who may read it.
    async fn compare_contents(&self) -> Checked {
        for (path, file) in self.model.files() {
            let there = std::fs::read(self.world.folder.path().join(path)).map_err(|_| format!("no file {path}"))?;
            if there != file.bytes {
                return Err(format!("{path} holds {} other bytes than the {}", there.len(), file.bytes.len()));
            }
            let to = key(file.key.id, file.key.kind);
            for reader in self.model.readers(path) {
                let stored = self.world.store().readable_file(&user(reader), path).map_err(broken)?;
                let stored = stored.ok_or_else(|| format!("{reader} cannot read {path}"))?;
                if stored.conversation != to || self.world.read(&stored).await.as_ref() != Some(&file.bytes) {
                    return Err(format!("{reader} reads something else from {stored:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Segments.
impl Driver {
    /// After a compaction of everything: no file of Parquet holds a row that is gone.
    pub(super) async fn compare_compacted(&self) -> Checked {
        for name in USERS {
            self.world.store().compact(&user(name), true).await.map_err(broken)?;
        }
        self.glance()?;
        self.settle().await?;
        let snapshot = self.world.store().snapshot();
        for name in USERS {
            for segment in snapshot.segments(&user(name)).map_err(broken)? {
                self.compare_raw_rows(name, &segment)?;
            }
        }
        Ok(())
    }

    fn compare_raw_rows(&self, name: User, segment: &Segment) -> Checked {
        for (position, (id, content)) in (0_u32..).zip(self.raw_rows(&segment.path)) {
            let trashed =
                self.model.trash(name).find(|(trashed, _)| *trashed == id).map(|(_, trashed)| &trashed.message);
            let message = match self.model.message(name, id) {
                Some(message) if !segment.deleted.contains(position) => message,
                None if trashed.is_some() && segment.deleted.contains(position) => trashed.ok_or("it is there")?,
                _ => return Err(format!("{} of {name} still holds {id} at {position}", segment.path)),
            };
            same(&format!("{id} in {} of {name}", segment.path), &[content.as_str()], &[preview(message)])?;
        }
        Ok(())
    }

    /// The rows of a file as any other program reads them, whatever the store says of them.
    fn raw_rows(&self, path: &str) -> Vec<(MsgId, String)> {
        let file = std::fs::File::open(self.world.folder.path().join(path)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let rows = |batch: RecordBatch| {
            let ids = batch.column_by_name("msgId").unwrap().as_primitive::<Int64Type>().clone();
            let contents = batch.column_by_name("content").unwrap().as_string::<i32>().clone();
            (0..batch.num_rows()).map(|row| (ids.value(row), contents.value(row).to_owned())).collect::<Vec<_>>()
        };
        reader.flat_map(|batch| rows(batch.unwrap())).collect()
    }
}

/// Ends.
impl Driver {
    /// Lets the time of everything that has one pass.
    pub(super) async fn outlive_everything(&mut self) -> Checked {
        self.step(&Step::Wait { hours: FOR_EVER_HOURS }).await?;
        self.glance()
    }

    /// Everybody deletes everything; when its time is up, nothing is left.
    pub(super) async fn clear_out(&mut self) -> Checked {
        for user in USERS {
            for id in IDS {
                for kind in [ConversationType::Ai, ConversationType::Group] {
                    self.step(&Step::DeleteConversation { user, key: Key { id, kind } }).await?;
                }
            }
        }
        self.outlive_everything().await?;
        self.compare_compacted().await?;
        let left = self.world.on_disk().files;
        same("what is left when everything is deleted", &left.into_iter().collect::<Vec<_>>(), &[])
    }
}
