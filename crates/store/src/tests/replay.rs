//! The log decides everything: the entries of a random history, applied in another folder, make the same database.
//!
//! Invariant: what is compared is bytes, of every family. Nothing of the second folder comes from a clock, a setting or
//! a file: it has the entries only.

use std::{cell::RefCell, collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc};

use futures::future::join_all;
use kalamdb_protocol::{AuditAction, ConversationType, MsgId, Role};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

use super::{DAY, Fixture, HOUR, add, ai, delete, edit, group, id, message, settings};
use crate::{
    Actor, Change, ColdSummary, ConversationKey, Idempotency, Message, MessageRange, NewFile, NewMessage, Place,
    Proposal, Watching,
    apply::{self, State},
    command::{AddFile, Entry, ReserveSegment, Spooled, Upload},
    database::{Database, Read},
    feed::Watched,
    horizon::Horizon,
    keys::Family,
    overlay::Overlay,
    segment,
};

/// Rows of [`Family::Meta`] that belong to one folder, and no commit is decided by: its format, how often it was opened
/// after a crash, whether a server runs on it, how far back its change log reaches, and when commits had come how far.
const LOCAL: [&str; 5] = ["format", "epoch", "running", "changes_below", "moment"];

/// Which of those a key is one of.
pub(super) fn local(key: &[u8]) -> Option<&'static str> {
    LOCAL.into_iter().find(|name| key == name.as_bytes() || (*name == "moment" && key.starts_with(b"moment")))
}

pub(super) const USERS: [&str; 3] = ["ann", "bob", "cat"];

/// What happens next; the numbers beside it choose among those that it may happen to.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Send,
    SendLarge,
    SendGiven,
    SendUntyped,
    SendAgain,
    Burst,
    Edit,
    Delete,
    DeleteConversation,
    Restore,
    Purge,
    SetConversation,
    Join,
    Leave,
    Promote,
    AdminStatement,
    Upload,
    Attach,
    Consolidate,
    Compact,
    Sweep,
    Later,
    ClockBack,
    Rules,
    Crash,
}

pub(super) type Op = (What, u8, u8);

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    use What::*;
    let often = vec![Send, SendLarge, Burst, Edit, Delete, Restore, Join, Consolidate, Attach, Later];
    let rarely = vec![
        SendGiven,
        SendUntyped,
        SendAgain,
        DeleteConversation,
        Purge,
        SetConversation,
        Leave,
        Promote,
        AdminStatement,
        Upload,
        Compact,
        Sweep,
        ClockBack,
        Rules,
        Crash,
    ];
    let what = prop_oneof![3 => select(often), 2 => select(rarely)];
    proptest::collection::vec((what, any::<u8>(), any::<u8>()), 10..60)
}

/// How every history ends, so that every command comes up in it: but the trimming of the audit log.
pub(super) const END: [Op; 9] = [
    (What::Send, 0, 0),
    (What::Consolidate, 0, 0),
    (What::Send, 0, 0),
    (What::Consolidate, 0, 0),
    (What::Compact, 0, 0),
    (What::Upload, 0, 0),
    (What::Later, 0, u8::MAX),
    (What::Sweep, 0, 0),
    (What::Crash, 0, 0),
];

fn pick<T: Clone>(from: &[T], by: u8) -> Option<T> {
    from.get(usize::from(by).checked_rem(from.len())?).cloned()
}

/// A store that writes down the log of what it does.
pub(super) struct History {
    pub(super) fixture: Fixture,
    entries: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Everybody is watched: that must not change what is written.
    _watching: Watching,
}

impl History {
    pub(super) async fn new() -> Self {
        let entries: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let log = Arc::clone(&entries);
        let fixture = Fixture::recorded(move |entry| log.lock().push(entry.to_vec()));
        let watching = fixture.store.watch(None).await.unwrap();
        Self { fixture, entries, _watching: watching }
    }

    async fn reopen(self, change: impl FnOnce(&mut crate::Rules)) -> Self {
        let Self { mut fixture, entries, .. } = self;
        change(&mut fixture.settings.rules);
        let fixture = fixture.reopen();
        let watching = fixture.store.watch(None).await.unwrap();
        Self { fixture, entries, _watching: watching }
    }

    /// What is refused leaves no trace: in the log, too, there is nothing of it.
    pub(super) async fn commit(&self, user: &str, changes: Vec<Change>) {
        drop(self.fixture.commit(user, changes).await);
    }

    /// Every copy of a user's, where it lies, in the trash or not.
    fn copies(&self, user: &str, trashed: bool) -> Vec<(Message, Place)> {
        let (snapshot, owner) = (self.fixture.store.snapshot(), id(user));
        let mut copies = Vec::new();
        let mut cold = |path: &str, place: &dyn Fn(u32) -> Option<Place>| {
            let rows = (0..).zip(segment_rows(&self.fixture.folder.path().join(path)));
            copies.extend(rows.filter_map(|(position, message)| Some((message, place(position)?))));
        };
        if trashed {
            for trash in snapshot.cold_trash(&owner).unwrap() {
                let (deletion, segment) = (trash.deletion, trash.segment.number);
                cold(&trash.segment.path, &|position| {
                    let there = trash.positions.contains(position);
                    there.then_some(Place::TrashedCold { deletion, segment, position })
                });
            }
            let hot = snapshot.trash(&owner).unwrap().map(Result::unwrap);
            copies.extend(hot.map(|row| (row.message, Place::TrashedHot { version: row.version })));
        } else {
            for segment in snapshot.segments(&owner).unwrap() {
                cold(&segment.path, &|position| {
                    let there = !segment.deleted.contains(position);
                    there.then_some(Place::Cold { segment: segment.number, position })
                });
            }
            let hot = snapshot.messages(&owner, &MessageRange::default()).unwrap().map(Result::unwrap);
            copies.extend(hot.map(|row| (row.message, Place::Hot { version: row.version })));
        }
        copies
    }

    /// What lies in segments of a conversation that loses a message.
    fn cold_ends(&self, user: &str, of: &ConversationKey, but: MsgId) -> Change {
        let copies = self.copies(user, false);
        let ids = copies.iter().filter(|(message, place)| {
            matches!(place, Place::Cold { .. }) && &message.conversation == of && message.msg_id != but
        });
        let ids: Vec<_> = ids.map(|(message, _)| message.msg_id).collect();
        let msg_ids = ids.iter().min().copied().zip(ids.iter().max().copied());
        Change::Cold(ColdSummary { owner: id(user), conversation: of.clone(), msg_ids })
    }

    async fn message_op(&self, what: What, user: &str, by: u8) {
        let trashed = matches!(what, What::Restore | What::Purge);
        let Some((message, place)) = pick(&self.copies(user, trashed), by) else { return };
        let (owner, msg_id, conversation) = (id(user), message.msg_id, message.conversation.clone());
        let from = message.from.clone();
        let changes = match what {
            What::Edit => {
                let text = if by.is_multiple_of(3) { "long ".repeat(700) } else { format!("edited {by}") };
                let others = USERS.iter().filter(|other| **other != user);
                let theirs = others.filter_map(|other| {
                    let mut copies = self.copies(other, false).into_iter();
                    Some((id(other), copies.find(|(copy, _)| copy.msg_id == msg_id)?.1))
                });
                let copies = theirs.chain([(owner, place)]).collect();
                vec![edit(user, message, &text, copies)]
            }
            What::Delete => {
                let ends = self.cold_ends(user, &conversation, msg_id);
                vec![delete(user, &from, &conversation, msg_id, place), ends]
            }
            What::Restore => vec![Change::Restore { owner, msg_id, conversation, from, place }],
            _ => vec![Change::Purge { owner, msg_id, conversation, place }],
        };
        self.commit(user, changes).await;
    }

    async fn conversation_op(&self, what: What, user: &str, by: u8) {
        let snapshot = self.fixture.store.snapshot();
        let Some(conversation) =
            pick(&snapshot.conversations(&id(user)).unwrap().map(Result::unwrap).collect::<Vec<_>>(), by)
        else {
            return;
        };
        let (owner, key, version) = (id(user), conversation.key, conversation.version);
        let change = if let What::SetConversation = what {
            let last_read = by.is_multiple_of(3).then_some((conversation.last_msg_id, 0));
            let metadata = (by % 3 == 1).then(|| Some(format!("{{\"by\":{by}}}")));
            let last_msg_id = (by % 3 == 2).then_some(Some(MsgId::from(by)));
            Change::SetConversation { owner, key, version, metadata, last_msg_id, last_read }
        } else {
            let mut cold: BTreeMap<u64, Vec<(u32, u32)>> = BTreeMap::new();
            for (message, place) in self.copies(user, false) {
                if let (Place::Cold { segment, position }, true) = (place, message.conversation == key) {
                    cold.entry(segment).or_default().push((position, position + 1));
                }
            }
            Change::DeleteConversation { owner, key, version, cold: cold.into_iter().collect() }
        };
        self.commit(user, vec![change]).await;
    }

    async fn group_op(&self, what: What, user: &str, by: u8) {
        let to = group("g");
        let Some(participant) = pick(&self.fixture.store.snapshot().participants(&to.id).unwrap(), by) else { return };
        let (owner, group, version) = (id(user), to.id.clone(), participant.version);
        let change = match what {
            What::Join => add(user, &to, USERS[usize::from(by) % 3]),
            What::Leave => Change::RemoveParticipant { owner, group, user: participant.user, version },
            _ => {
                let role = pick(&[Role::Owner, Role::Admin, Role::Member], by / 3);
                Change::SetParticipant { owner, group, user: participant.user, version, role, metadata: None }
            }
        };
        self.commit(user, vec![change]).await;
    }

    /// Sends under a client's name for the request, which may be an earlier one's.
    async fn send_again(&self, user: &str, by: u8) {
        let key = format!("key {}", by % 2);
        let actor = Actor { user: id(user), admin: false };
        let changes = vec![Change::Send(message(user, &ai("c"), &key))];
        let idempotency = Some(Idempotency { key, request_hash: [by % 2; 32], rows_affected: 1 });
        let proposal = Proposal { actor, idempotency, expect: Vec::new(), changes };
        self.fixture.store.commit(proposal).await.unwrap();
    }

    async fn upload(&self, user: &str, to: &ConversationKey) {
        let source = self.fixture.store.spool().join(".upload");
        std::fs::write(&source, "picture").unwrap();
        let file = NewFile {
            owner: id(user),
            conversation: to.id.clone(),
            conversation_type: Some(to.kind),
            source: source.clone(),
            content_type: "image/png".to_owned(),
            extension: "png".to_owned(),
            thumbnail: None,
        };
        drop(self.fixture.store.add_file(&Actor { user: id(user), admin: false }, file).await);
        std::fs::remove_file(source).unwrap();
    }

    /// Refers to some file; that it may is for the rules to say.
    async fn attach(&self, user: &str, by: u8) {
        let files: Vec<_> = self.fixture.store.snapshot().files().unwrap().map(Result::unwrap).collect();
        let Some(file) = pick(&files, by) else { return };
        let send = NewMessage { content_ref: Some(file.path), ..message(user, &file.conversation, "see") };
        self.commit(user, vec![Change::Send(send)]).await;
    }

    /// Ends where a crash would leave work to the next start: a file is named and not moved, a segment reserved and
    /// not written.
    async fn crash(self, user: &str) -> Self {
        let store = &self.fixture.store;
        std::fs::write(store.spool().join("left"), "left").unwrap();
        let upload = Upload {
            owner: id(user),
            conversation: ai("c").id,
            conversation_type: Some(ConversationType::Ai),
            file: Spooled { name: "left".to_owned(), bytes: 4 },
            content_type: "text/plain".to_owned(),
            extension: "txt".to_owned(),
            thumbnail: None,
        };
        let actor = Actor { user: id(user), admin: false };
        store.command(AddFile { actor, upload }).await.unwrap();
        store.command(ReserveSegment { owner: id(user) }).await.unwrap();
        self.reopen(|_| {}).await
    }

    pub(super) async fn run(self, (what, a, b): Op) -> Self {
        let user = USERS[usize::from(a) % 3];
        let to = [ai("c"), ai("d"), group("g")][usize::from(b) % 3].clone();
        let plain = message(user, &to, &format!("text {b}"));
        let send = |new| vec![Change::Send(new)];
        match what {
            What::Send => self.commit(user, send(plain)).await,
            What::SendLarge => self.commit(user, send(message(user, &to, &"large ".repeat(500)))).await,
            What::SendGiven => {
                // A number that no message has: that this is so in segments, too, is for the preparation to see.
                let free = i64::try_from(self.entries.lock().len()).unwrap();
                self.commit(user, send(NewMessage { msg_id: Some(free), ..plain })).await;
            }
            What::SendUntyped => self.commit(user, send(NewMessage { kind: None, ..plain })).await,
            What::SendAgain => self.send_again(user, b).await,
            What::Burst => {
                join_all(USERS.map(|user| self.commit(user, send(message(user, &to, "at the same time"))))).await;
            }
            What::Edit | What::Delete | What::Restore | What::Purge => self.message_op(what, user, b).await,
            What::SetConversation | What::DeleteConversation => self.conversation_op(what, user, b).await,
            What::Join | What::Leave | What::Promote => self.group_op(what, user, b).await,
            What::AdminStatement => {
                let target = format!("{user}.messages");
                let note = Change::AdminStatement { log: id(user), action: AuditAction::AdminSelect, target };
                self.commit("root", vec![note]).await;
            }
            What::Upload => self.upload(user, &to).await,
            What::Attach => self.attach(user, b).await,
            What::Consolidate => drop(self.fixture.store.consolidate(&id(user)).await.unwrap()),
            What::Compact => drop(self.fixture.store.compact(&id(user), true).await.unwrap()),
            What::Sweep => drop(self.fixture.store.sweep().await.unwrap()),
            What::Later => self.fixture.later(i64::from(b) * HOUR / 4),
            What::ClockBack => self.fixture.later(-HOUR),
            What::Rules => {
                let change = |rules: &mut crate::Rules| {
                    rules.trash_retention = (b % 3 > 0).then_some(10 * DAY);
                    rules.max_group_participants = 1 + usize::from(b % 3);
                    rules.default_type = pick(&[ConversationType::Ai, ConversationType::Group], b).unwrap();
                };
                return self.reopen(change).await;
            }
            What::Crash => return self.crash(user).await,
        }
        self
    }
}

fn segment_rows(path: &Path) -> Vec<Message> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    reader.flat_map(|batch| segment::messages(&batch.unwrap()).unwrap()).collect()
}

type Rows = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// All rows that commits decide.
fn rows(database: &Database) -> Rows {
    let mut rows = Rows::new();
    for family in Family::ALL {
        database
            .scan(family, &[], &[u8::MAX], false, &mut |key, value| {
                if family != Family::Meta || local(key).is_none() {
                    rows.insert((family, key.to_vec()), value.to_vec());
                }
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
    }
    rows
}

/// What the entries make of an empty folder.
fn applied(entries: &[Vec<u8>]) -> Rows {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), &settings(folder.path()), &Arc::new(Horizon::default())).unwrap();
    let mut state = State::load(&database).unwrap();
    for bytes in entries {
        let entry = Entry::decode(bytes).unwrap();
        assert_eq!(&entry.encode().unwrap(), bytes);
        // Where the entries were recorded, rows that had been read or written before were in memory; here none is.
        let nothing_cached = RefCell::default();
        let mut overlay = Overlay::new(&database, &nothing_cached);
        let (_, changed) = apply::apply(&mut overlay, &mut state, &Watched::default(), &entry).unwrap();
        assert!(changed.is_some(), "an entry that changes nothing: {:?}", entry.command);
        let numbers = state.counters.entries();
        let numbers = numbers.iter().map(|(key, value)| (Family::Meta, *key, Some(value.as_slice())));
        database.write(overlay.entries().chain(numbers), false).unwrap();
    }
    rows(&database)
}

#[test]
fn a_recorded_history_makes_the_same_database_elsewhere() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases: 16, max_shrink_iters: 30, failure_persistence: None, ..Default::default() };
    let seen: Mutex<BTreeMap<String, usize>> = Mutex::default();
    TestRunner::new(config)
        .run(&ops(), |ops| {
            let (there, entries) = runtime.block_on(async {
                let mut history = History::new().await;
                for op in ops.into_iter().chain(END) {
                    history = history.run(op).await;
                }
                let there = rows(&history.fixture.store.inner.database);
                let entries = history.entries.lock().clone();
                (there, entries)
            });
            for bytes in &entries {
                let command = format!("{:?}", Entry::decode(bytes).unwrap().command);
                let name = command.split(['(', ' ']).next().unwrap_or_default().to_owned();
                *seen.lock().entry(name).or_default() += 1;
            }
            let here = applied(&entries);
            for (at, value) in &there {
                prop_assert_eq!(here.get(at), Some(value), "{:?}", at);
            }
            prop_assert_eq!(here.len(), there.len());
            Ok(())
        })
        .unwrap();
    let seen: Vec<_> = seen.lock().keys().cloned().collect();
    let commands = [
        "AddFile",
        "Expire",
        "Forget",
        "Moved",
        "PublishCompaction",
        "PublishSegment",
        "ReleaseIntents",
        "ReserveSegment",
        "SetRules",
        "Write",
    ];
    assert_eq!(seen, commands);
}

/// Audit entries are kept for a year, which no random history lasts.
#[tokio::test(flavor = "multi_thread")]
async fn old_audit_entries_go_by_the_log_too() {
    let history = History::new().await;
    let history = history.reopen(|rules| rules.audit_retention = DAY).await;
    let sent = history.fixture.send("ann", &ai("c"), "gone").await.unwrap();
    history.fixture.delete("ann", &ai("c"), &[sent]).await;
    history.fixture.later(2 * DAY);
    assert_eq!(history.fixture.store.sweep().await.unwrap().audit_rows, 1);
    let entries = history.entries.lock().clone();
    assert_eq!(applied(&entries), rows(&history.fixture.store.inner.database));
}
