//! A process that dies at each step that matters, and what its folder holds afterwards.
//!
//! Invariant: the child says what it is about to remove before it does, and what is done only when it is
//! acknowledged; every text says which it is, so that what is found explains itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::array::{Array, AsArray};
use bytes::Bytes;
use futures::TryStreamExt;
use kalamdb_protocol::MsgId;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{DAY, ai, file_rows, group, id, message};
use crate::{
    Actor, Change, Components, FileKind, MessageRange, NewFile, NewMessage, Place, Proposal, Settings, Step, Store,
    StoredFile, Thumbnail,
};

/// How the child learns where to work and when to die.
const CHILD: &str = "KALAMDB_CRASH_CHILD";

const STEPS: [Step; 11] = [
    Step::BeforeWrite,
    Step::AfterWrite,
    Step::SegmentReserved,
    Step::SegmentSpooled,
    Step::SegmentWritten,
    Step::SegmentPublished,
    Step::FileSpooled,
    Step::FileCommitted,
    Step::FileMoved,
    Step::LitterFound,
    Step::LitterRemoved,
];

/// A child that gets this far does not die: every step comes in each round but the first ones.
const MOST_ROUNDS: u32 = 30;

/// What a large message keeps beside its file.
const PREVIEW: usize = 1_024;

/// A message's text, which tells what it is: large ones are `large` and `shared`.
fn text(round: u32, what: &str) -> String {
    let filling = if ["large", "shared"].contains(&what) { "é".repeat(2 * PREVIEW) } else { String::new() };
    format!("{round} {what} {filling}")
}

/// What lies in the file of a message.
fn file_of(round: u32, what: &str) -> Option<Vec<u8>> {
    match what {
        "large" | "shared" => Some(text(round, what).into_bytes()),
        "picture" => Some(picture(round)),
        _ => None,
    }
}

fn picture(round: u32) -> Vec<u8> {
    format!("picture {round} ").repeat(500).into_bytes()
}

fn settings(data: &Path) -> Settings {
    let mut settings = super::settings(data);
    settings.rules.trash_retention = Some(10 * DAY);
    settings
}

/// The process that dies, and what it has told.
struct Child {
    store: Store,
    data: std::path::PathBuf,
    diary: fs::File,
}

impl Child {
    fn tell(&mut self, what: &str, msg_id: MsgId) {
        writeln!(self.diary, "{what} {msg_id}").unwrap();
    }

    async fn commit(&self, changes: Vec<Change>) -> Vec<MsgId> {
        let actor = Actor { user: id("ann"), admin: false };
        let proposal = Proposal { actor, idempotency: None, expect: Vec::new(), changes };
        self.store.commit(proposal).await.unwrap().sent.into_iter().map(|sent| sent.msg_id).collect()
    }

    /// Sends messages in one proposal; answers the id of the last.
    async fn send(&mut self, messages: Vec<NewMessage>) -> MsgId {
        let sent = self.commit(messages.into_iter().map(Change::Send).collect()).await;
        for msg_id in &sent {
            self.tell("sent", *msg_id);
        }
        *sent.last().unwrap()
    }

    async fn upload(&self, round: u32) -> String {
        let source = self.store.spool().join(format!(".upload-{round}"));
        fs::write(&source, picture(round)).unwrap();
        let to = ai("c");
        let file = NewFile {
            owner: id("ann"),
            conversation: to.id,
            conversation_type: Some(to.kind),
            source: source.clone(),
            content_type: "image/png".to_owned(),
            extension: "png".to_owned(),
            thumbnail: Some(Thumbnail {
                bytes: Bytes::from_static(b"small"),
                content_type: "image/png".to_owned(),
                extension: "png".to_owned(),
            }),
        };
        let stored = self.store.add_file(&Actor { user: id("ann"), admin: false }, file).await.unwrap().file;
        fs::remove_file(source).unwrap();
        stored.path
    }

    /// Deletes a message, which is neither the first nor the last of its conversation, and purges it.
    async fn remove(&mut self, msg_id: MsgId) {
        self.tell("removing", msg_id);
        let (owner, conversation) = (id("ann"), ai("c"));
        let (from, place) = ("ann".to_owned(), self.place(msg_id));
        let delete = Change::Delete { owner: owner.clone(), msg_id, conversation: conversation.clone(), from, place };
        self.commit(vec![delete]).await;
        let place = self.place(msg_id);
        self.commit(vec![Change::Purge { owner, msg_id, conversation, place }]).await;
        self.tell("removed", msg_id);
    }

    /// Where the message lies.
    fn place(&self, msg_id: MsgId) -> Place {
        let (snapshot, ann) = (self.store.snapshot(), id("ann"));
        if let Some(hot) = snapshot.hot_message(&ann, msg_id).unwrap() {
            return Place::Hot { version: hot.version };
        }
        if let Some(trashed) = snapshot.trashed_message(&ann, msg_id).unwrap() {
            return Place::TrashedHot { version: trashed.version };
        }
        let position_in = |path: &str| {
            let rows = (0_u32..).zip(file_rows(&self.data, path));
            rows.filter(|(_, (found, ..))| *found == msg_id).map(|(position, _)| position).last()
        };
        for trash in snapshot.cold_trash(&ann).unwrap() {
            if let Some(position) = position_in(&trash.segment.path).filter(|at| trash.positions.contains(*at)) {
                return Place::TrashedCold { deletion: trash.deletion, segment: trash.segment.number, position };
            }
        }
        for segment in snapshot.segments(&ann).unwrap() {
            if let Some(position) = position_in(&segment.path).filter(|at| !segment.deleted.contains(*at)) {
                return Place::Cold { segment: segment.number, position };
            }
        }
        panic!("{msg_id} is nowhere");
    }

    /// Sends everything that there is, removes a hot message and a cold one of the round before, and cleans up.
    async fn round(&mut self, round: u32, earlier: Option<MsgId>) -> MsgId {
        let (own, ann) = (ai("c"), id("ann"));
        let new = |what: &str| message("ann", &ai("c"), &text(round, what));
        self.send(vec![new("one"), new("two")]).await;
        let large = self.send(vec![new("large")]).await;
        self.send(vec![message("ann", &group(&format!("g{round}")), &text(round, "shared"))]).await;
        let content_ref = Some(self.upload(round).await);
        let picture = self.send(vec![NewMessage { content_ref, ..new("picture") }]).await;
        self.send(vec![message("ann", &own, &text(round, "last"))]).await;
        self.remove(large).await;
        self.store.consolidate(&ann).await.unwrap();
        if let Some(earlier) = earlier {
            self.remove(earlier).await;
        }
        self.store.sweep().await.unwrap();
        self.store.compact(&ann, true).await.unwrap();
        self.store.sweep().await.unwrap();
        picture
    }
}

/// Works until the step comes for the n-th time, and dies there.
#[tokio::main(flavor = "current_thread")]
async fn child(folder: &Path, step: Step, n: usize) {
    let seen = AtomicUsize::new(0);
    let on_step = move |now: Step| {
        if now == step && seen.fetch_add(1, Ordering::SeqCst) + 1 == n {
            std::process::abort();
        }
    };
    let components = Components { on_step: Some(Arc::new(on_step)), ..Components::default() };
    let data = folder.join("data");
    let store = Store::open(settings(&data), components).unwrap();
    let mut child = Child { store, data, diary: fs::File::create(folder.join("diary")).unwrap() };
    let mut earlier = None;
    for round in 0..MOST_ROUNDS {
        earlier = Some(child.round(round, earlier).await);
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_left_behind() {
    if let Ok(order) = std::env::var(CHILD) {
        let mut words = order.splitn(3, ' ');
        let (step, n) = (words.next().unwrap().parse::<usize>().unwrap(), words.next().unwrap().parse().unwrap());
        child(Path::new(words.next().unwrap()), STEPS[step], n);
        return;
    }
    for (index, step) in STEPS.into_iter().enumerate() {
        for n in [1, 2, 5] {
            let folder = tempfile::tempdir().unwrap();
            let died = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::crash::nothing_acknowledged_is_lost_and_nothing_is_left_behind"])
                .env(CHILD, format!("{index} {n} {}", folder.path().display()))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&died.stdout);
            assert_eq!(died.status.code(), None, "the child was to be killed at {step:?}, and said {said}");
            println!("killed at {step:?} when it came for the {n}. time");
            check(folder.path());
        }
    }
}

/// What the child told: ids of what it sent, and of what it removed or was about to.
#[derive(Default)]
struct Diary {
    sent: BTreeSet<MsgId>,
    removing: BTreeSet<MsgId>,
    removed: BTreeSet<MsgId>,
}

impl Diary {
    fn read(folder: &Path) -> Self {
        let mut diary = Self::default();
        for line in fs::read_to_string(folder.join("diary")).unwrap_or_default().lines() {
            let (what, msg_id) = line.split_once(' ').unwrap();
            let list = match what {
                "sent" => &mut diary.sent,
                "removing" => &mut diary.removing,
                _ => &mut diary.removed,
            };
            list.insert(msg_id.parse().unwrap());
        }
        diary
    }
}

/// A folder that a child left behind, opened again.
struct Remains {
    store: Store,
    data: std::path::PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn check(folder: &Path) {
    let (diary, data) = (Diary::read(folder), folder.join("data"));
    let remains = Remains { store: Store::open(settings(&data), Components::default()).unwrap(), data };
    assert_eq!(remains.store.epoch(), 2, "numbers may have been lost");
    assert_eq!(fs::read_dir(remains.store.spool()).unwrap().count(), 0, "the spool is empty after a start");

    let copies = remains.copies();
    for msg_id in &diary.sent - &diary.removing {
        assert!(copies.contains_key(&msg_id), "{msg_id} was acknowledged");
    }
    for msg_id in &diary.removed {
        assert!(!copies.contains_key(msg_id), "{msg_id} was removed");
    }
    let count = |what: &str| copies.values().filter(|(content, _)| content.ends_with(what)).count();
    assert_eq!(count(" one "), count(" two "), "a proposal is applied whole or not at all");
    for (content, file) in copies.values() {
        remains.check_content(content, file.as_deref()).await;
    }
    for file in remains.files().iter().filter(|file| !file.doomed) {
        assert!(remains.data.join(&file.path).exists(), "{} has a row and no file", file.path);
    }
    remains.check_cleaned_up(&copies, &diary).await;
}

impl Remains {
    /// All that ann has, by id: text and file; fails if one is there twice.
    fn copies(&self) -> BTreeMap<MsgId, (String, Option<String>)> {
        let (snapshot, ann) = (self.store.snapshot(), id("ann"));
        let mut all = BTreeMap::new();
        for row in snapshot.messages(&ann, &MessageRange::default()).unwrap() {
            let message = row.unwrap().message;
            assert!(all.insert(message.msg_id, (message.content, message.content_ref)).is_none());
        }
        for segment in snapshot.segments(&ann).unwrap() {
            for (position, (msg_id, content, file)) in (0_u32..).zip(self.raw_rows(&segment.path)) {
                if !segment.deleted.contains(position) {
                    assert!(all.insert(msg_id, (content, file)).is_none(), "{msg_id} is hot and cold");
                }
            }
        }
        all
    }

    /// The rows of a segment's file, deleted ones too: id, text and file.
    fn raw_rows(&self, path: &str) -> Vec<(MsgId, String, Option<String>)> {
        let file = fs::File::open(self.data.join(path)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let mut files = Vec::new();
        for batch in reader {
            let batch = batch.unwrap();
            let refs = batch.column_by_name("contentRef").unwrap().as_string::<i32>();
            files.extend((0..refs.len()).map(|row| refs.is_valid(row).then(|| refs.value(row).to_owned())));
        }
        let rows = file_rows(&self.data, path).into_iter().zip(files);
        rows.map(|((msg_id, _, content), file)| (msg_id, content, file)).collect()
    }

    fn files(&self) -> Vec<StoredFile> {
        self.store.snapshot().files().unwrap().map(|file| file.unwrap()).collect()
    }

    /// A message holds what it says, and so does its file.
    async fn check_content(&self, content: &str, file: Option<&str>) {
        let mut words = content.split(' ');
        let (round, what) = (words.next().unwrap().parse().unwrap(), words.next().unwrap());
        let whole = text(round, what);
        let expected = if whole.len() > PREVIEW { &whole[..whole.floor_char_boundary(PREVIEW)] } else { &whole };
        assert_eq!(content, expected);
        let Some(path) = file else {
            assert_eq!(file_of(round, what), None, "{round} {what} has no file");
            return;
        };
        let stored = self.store.readable_file(&id("ann"), path).unwrap();
        let stored = stored.unwrap_or_else(|| panic!("the file of {round} {what} cannot be read"));
        let bytes = self.store.read_file(&stored, 0..stored.bytes).await.unwrap().expect("it has its file");
        let bytes: Vec<Bytes> = bytes.try_collect().await.unwrap();
        assert!(Some(bytes.concat()) == file_of(round, what), "the file of {round} {what} holds something else");
    }

    /// After what the crash kept from being done: everything is as it was, and nothing else lies there.
    async fn check_cleaned_up(&self, copies: &BTreeMap<MsgId, (String, Option<String>)>, diary: &Diary) {
        self.store.sweep().await.unwrap();
        self.store.compact(&id("ann"), true).await.unwrap();
        self.store.sweep().await.unwrap();
        assert_eq!(&self.copies(), copies, "cleaning up changes nothing");

        let files = self.files();
        assert!(files.iter().all(|file| !file.doomed), "a doomed file is still there: {files:?}");
        let segments = self.store.snapshot().segments(&id("ann")).unwrap();
        let known = segments.iter().map(|segment| &segment.path).chain(files.iter().map(|file| &file.path));
        let mut on_disk = BTreeSet::new();
        walk(&self.data, "", &mut on_disk);
        assert_eq!(on_disk, known.cloned().collect(), "every file has a row, and every row a file");

        // The crash may have come before an upload was sent, or while a message was in the trash; not both.
        let referred_to: BTreeSet<&String> = copies.values().filter_map(|(_, file)| file.as_ref()).collect();
        let (thumbnails, originals): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.kind == FileKind::Thumbnail);
        let left_over = originals.iter().filter(|file| !referred_to.contains(&file.path));
        assert!(left_over.count() <= 1, "{originals:?} for {referred_to:?}");
        let named: BTreeSet<&String> = originals.iter().filter_map(|file| file.thumbnail.as_ref()).collect();
        assert_eq!(thumbnails.into_iter().map(|file| &file.path).collect::<BTreeSet<_>>(), named);

        let in_the_trash = &diary.removing - &diary.removed;
        for segment in segments {
            for (msg_id, ..) in self.raw_rows(&segment.path) {
                let may_be_there = copies.contains_key(&msg_id) || in_the_trash.contains(&msg_id);
                assert!(may_be_there, "{} still holds {msg_id}", segment.path);
            }
        }
    }
}

/// Files below a folder, relative to the base; without the server's own.
fn walk(base: &Path, folder: &str, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(base.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if !entry.file_type().unwrap().is_dir() {
            files.insert(path);
        } else if path != ".kalamdb" {
            walk(base, &path, files);
        }
    }
}
