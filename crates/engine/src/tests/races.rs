//! Files between two who want different things of them: each order of events is forced, by proposals that were
//! prepared before and by steps of the store that wait for something else to be done.
//!
//! Invariant: whatever the order, a file is there in every sense (a row, its bytes, a reference, a reader) or in none,
//! and whoever was told that a message was sent can read what it refers to.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use futures::StreamExt;
use kalamdb_protocol::{ConversationType, ErrorCode, MsgId};
use kalamdb_store::{
    Change, ConversationKey, ErrorKind, MessageRange, NewMessage, Place, Proposal, Receipt, Rules, Step, Store,
    StoredFile,
};
use parking_lot::Mutex;
use serde_json::json;

use super::{
    user,
    world::{LARGE, UPLOAD_TTL, World, actor, caller, key, rules},
};

/// How long a step lets go on what may be waiting for the step itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something to do when a step comes for the first time.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Option<(Step, Work)>>>);

type Work = Box<dyn FnOnce() + Send>;

impl Hook {
    fn set(&self, step: Step, work: impl FnOnce() + Send + 'static) {
        *self.0.lock() = Some((step, Box::new(work)));
    }

    fn run(&self, step: Step) {
        let due = self.0.lock().take_if(|(at, _)| *at == step);
        if let Some((_, work)) = due {
            work();
        }
    }

    fn world(&self, rules: Rules) -> World {
        let hook = self.clone();
        World::with(rules, move |step| hook.run(step))
    }

    /// Commits at a step; what came of it is sent.
    fn commit_at(&self, step: Step, store: &Store, proposal: Proposal) -> mpsc::Receiver<Answer> {
        let (told, answer) = mpsc::channel();
        let store = store.clone();
        self.set(step, move || {
            elsewhere(async move { told.send(store.commit(proposal).await).unwrap() }).join().unwrap();
        });
        answer
    }
}

type Answer = kalamdb_store::Result<Receipt>;

/// Runs something on a thread of its own, so that a step can wait for it wherever it comes.
fn elsewhere(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    std::thread::spawn(run)
}

/// Two things at once while the sequencer holds up the write before: both their commits wait for the next one, in
/// this order.
async fn in_one_write<A, B>(
    hook: &Hook,
    store: &Store,
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> (A, B) {
    let (reached, at_step) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    hook.set(Step::BeforeWrite, move || {
        reached.send(()).unwrap();
        wait.recv().unwrap();
    });
    let held_up = store.clone();
    let held_up = tokio::spawn(async move { held_up.commit(send("zed", &ai(), "held up", None)).await });
    tokio::task::spawn_blocking(move || at_step.recv().unwrap()).await.unwrap();
    // Polled in this order, once, before the third lets the sequencer go on.
    let (one, other, ()) = futures::join!(one, other, async { go.send(()).unwrap() });
    held_up.await.unwrap().unwrap();
    (one, other)
}

fn ai() -> ConversationKey {
    key("c", ConversationType::Ai)
}

fn group() -> ConversationKey {
    key("g", ConversationType::Group)
}

fn proposal(by: &str, change: Change) -> Proposal {
    Proposal { actor: actor(by), idempotency: None, expect: Vec::new(), changes: vec![change] }
}

fn send(by: &str, to: &ConversationKey, text: &str, file: Option<&StoredFile>) -> Proposal {
    let message = NewMessage {
        owner: user(by),
        conversation: to.id.clone(),
        kind: Some(to.kind),
        from: None,
        msg_id: None,
        timestamp: None,
        content: text.to_owned(),
        content_ref: file.map(|file| file.path.clone()),
        metadata: None,
    };
    proposal(by, Change::Send(message))
}

/// The deletion of a hot message, as it is now.
fn delete(store: &Store, owner: &str, msg_id: MsgId) -> Proposal {
    let hot = store.snapshot().hot_message(&user(owner), msg_id).unwrap().unwrap();
    let (conversation, from) = (hot.message.conversation, hot.message.from);
    let place = Place::Hot { version: hot.version };
    proposal(owner, Change::Delete { owner: user(owner), msg_id, conversation, from, place })
}

/// The deletion of a conversation whose messages are all hot, as it is now.
fn delete_conversation(store: &Store, owner: &str, key: &ConversationKey) -> Proposal {
    let version = store.snapshot().conversation(&user(owner), key).unwrap().unwrap().version;
    proposal(owner, Change::DeleteConversation { owner: user(owner), key: key.clone(), version, cold: Vec::new() })
}

fn large(name: &str) -> String {
    format!("{name} {}", "é".repeat(LARGE))
}

impl World {
    async fn say(&self, by: &str, to: &ConversationKey, text: &str, file: Option<&StoredFile>) -> MsgId {
        let sql =
            "INSERT INTO messages (conversationId, conversationType, content, contentRef) VALUES ($1, $2, $3, $4)";
        let file = file.map(|file| &file.path);
        let params = vec![json!(to.id), json!(to.kind), json!(text), json!(file)];
        self.write(&caller(by), sql, params).await.unwrap().msg_ids.unwrap()[0]
    }

    /// Ends the engine, and with it what it does by itself; the store goes on.
    async fn quiet(&self) {
        self.engine().shutdown().await;
    }

    async fn commit(&self, proposal: Proposal) -> Answer {
        self.store().commit(proposal).await
    }

    fn readable(&self, reader: &str, path: &str) -> Option<StoredFile> {
        self.store().readable_file(&user(reader), path).unwrap()
    }

    /// The texts of an owner's hot messages, and the files that they refer to.
    fn messages(&self, owner: &str) -> Vec<(String, Option<String>)> {
        let rows = self.store().snapshot().messages(&user(owner), &MessageRange::default()).unwrap();
        rows.map(|row| row.unwrap().message).map(|message| (message.content, message.content_ref)).collect()
    }

    /// Paths and references of all files that have a row.
    fn rows_of_files(&self) -> Vec<(String, u64)> {
        let rows = self.store().snapshot().files().unwrap();
        rows.map(|file| file.unwrap()).map(|file| (file.path, file.references)).collect()
    }

    async fn assert_there(&self, reader: &str, path: &str, bytes: &[u8]) {
        let file = self.readable(reader, path).unwrap_or_else(|| panic!("{reader} cannot read {path}"));
        assert!(self.read(&file).await.as_deref() == Some(bytes), "{path} gives other bytes");
        let thumbnail = file.thumbnail.iter();
        for part in thumbnail.chain([&file.path]) {
            assert!(self.is_on_disk(part), "{part} has no file");
            assert!(self.readable(reader, part).is_some(), "{reader} cannot read {part}");
        }
    }

    fn assert_gone(&self, file: &StoredFile) {
        for path in file.thumbnail.iter().chain([&file.path]) {
            assert!(!self.is_on_disk(path), "{path} is still there");
            assert!(self.rows_of_files().iter().all(|(row, _)| row != path), "{path} still has a row");
            for reader in ["ann", "ben", "Cem"] {
                assert!(self.readable(reader, path).is_none(), "{reader} still reads {path}");
                let referring = self.messages(reader).into_iter().find(|(_, file)| file.as_ref() == Some(path));
                assert_eq!(referring, None, "a message of {reader} refers to {path}, which is gone");
            }
        }
    }
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    let kind = answer.as_ref().err().map(|error| error.kind);
    assert_eq!(kind, Some(ErrorKind::Refused(ErrorCode::InvalidValue)), "{answer:?}");
}

/// Nothing can be brought back, so that a deletion drops its reference at once.
fn without_trash() -> Rules {
    Rules { trash_retention: None, ..rules() }
}

/// A conversation of ann's with a file that one message refers to, which is neither its first nor its last.
async fn one_reference(world: &World) -> (StoredFile, MsgId) {
    world.say("ann", &ai(), "first", None).await;
    let file = world.upload("ann", &ai(), b"the picture", Some(b"small")).await.unwrap();
    let id = world.say("ann", &ai(), "look", Some(&file)).await;
    world.say("ann", &ai(), "last", None).await;
    world.quiet().await;
    (file, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_reference_is_dropped_while_another_message_takes_the_file() {
    for (dropped_first, in_one) in [(true, false), (false, false), (true, true), (false, true)] {
        let hook = Hook::default();
        let mut world = hook.world(without_trash());
        let (file, id) = one_reference(&world).await;
        let store = world.store().clone();
        // Both are prepared while the file has its reference.
        let release = store.commit(delete(&store, "ann", id));
        let take = store.commit(send("ann", &ai(), "look again", Some(&file)));
        let (dropped, taken) = match (dropped_first, in_one) {
            (true, true) => in_one_write(&hook, &store, release, take).await,
            (true, false) => (release.await, take.await),
            (false, true) => {
                let (taken, dropped) = in_one_write(&hook, &store, take, release).await;
                (dropped, taken)
            }
            (false, false) => {
                let taken = take.await;
                (release.await, taken)
            }
        };
        dropped.unwrap();
        store.sweep().await.unwrap();
        if dropped_first {
            assert_refused(&taken);
            world.assert_gone(&file);
            assert_eq!(world.messages("ann").len(), 2, "a refused send leaves no trace");
        } else {
            taken.unwrap();
            world.assert_there("ann", &file.path, b"the picture").await;
            assert!(world.rows_of_files().contains(&(file.path, 1)));
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_removed_takes_no_reference() {
    for step in [Step::LitterFound, Step::LitterRemoved] {
        let hook = Hook::default();
        let mut world = hook.world(without_trash());
        let (file, id) = one_reference(&world).await;
        let store = world.store().clone();
        let taken = hook.commit_at(step, &store, send("ann", &ai(), "look again", Some(&file)));
        world.commit(delete(&store, "ann", id)).await.unwrap();
        store.sweep().await.unwrap();
        assert_refused(&taken.try_recv().expect("the step came"));
        world.assert_gone(&file);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_text_that_is_being_read_is_read_whole_whatever_is_made_of_it() {
    for begun in [false, true] {
        let mut world = World::new();
        let (old, new) = (large("old").repeat(60), large("new"));
        let id = world.say("ann", &ai(), &old, None).await;
        let path = world.messages("ann")[0].1.clone().expect("a large text has a file");
        let file = world.readable("ann", &path).unwrap();
        assert_eq!(file.bytes, old.len() as u64);
        let mut reading = world.store().read_file(&file, 0..file.bytes).await.unwrap().unwrap();
        let mut read = Vec::new();
        if begun {
            read.extend(reading.next().await.unwrap().unwrap());
        }
        let sql = "UPDATE messages SET content = $1 WHERE msgId = $2";
        world.write(&caller("ann"), sql, vec![json!(new), json!(id)]).await.unwrap();
        world.quiet().await;
        world.store().sweep().await.unwrap();
        world.assert_gone(&file);
        while let Some(part) = reading.next().await {
            read.extend(part.unwrap());
        }
        assert!(read == old.as_bytes(), "{} bytes of the old text came, of {}", read.len(), old.len());
        let again = world.store().read_file(&file, 0..file.bytes).await.unwrap();
        assert!(again.is_none(), "who comes now is told that it is gone");
        let path = world.messages("ann")[0].1.clone().expect("the new text has a file too");
        world.assert_there("ann", &path, new.as_bytes()).await;
        world.stop().await;
    }
}

/// A group that ann and ben have left with all their messages: a large text, a file that was sent and one that was
/// not, all of them to be removed.
async fn abandoned_group(world: &World) -> Vec<StoredFile> {
    world.say("ann", &group(), &large("old"), None).await;
    let add = "INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'ben')";
    world.write(&caller("ann"), add, vec![]).await.unwrap();
    world.say("ben", &group(), &large("older"), None).await;
    let sent = world.upload("ben", &group(), b"sent", Some(b"small")).await.unwrap();
    world.say("ben", &group(), "look", Some(&sent)).await;
    world.upload("ann", &group(), b"never sent", None).await.unwrap();
    world.quiet().await;
    let files: Vec<_> = world.store().snapshot().files().unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), 5, "two texts, two uploads, one of them with a thumbnail");
    for owner in ["ann", "ben"] {
        world.commit(delete_conversation(world.store(), owner, &group())).await.unwrap();
    }
    files
}

/// The group is Cem's now, with a large text and nothing else.
async fn assert_begun_anew(world: &World, old: &[StoredFile], text: &str) {
    world.store().sweep().await.unwrap();
    for file in old {
        world.assert_gone(file);
    }
    let path = world.messages("Cem")[0].1.clone().expect("a large text has a file");
    world.assert_there("Cem", &path, text.as_bytes()).await;
    assert_eq!(world.rows_of_files(), [(path.clone(), 1)]);
    let participants = world.store().snapshot().participants(&group().id).unwrap();
    assert_eq!(participants.into_iter().map(|participant| participant.user).collect::<Vec<_>>(), [user("Cem")]);
    for other in ["ann", "ben"] {
        assert!(world.readable(other, &path).is_none(), "{other} has left");
        assert_eq!(world.messages(other), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_begins_anew_while_its_old_files_are_removed() {
    for step in [Step::LitterFound, Step::LitterRemoved] {
        let hook = Hook::default();
        let mut world = hook.world(without_trash());
        let old = abandoned_group(&world).await;
        let text = large("new");
        let sent = hook.commit_at(step, world.store(), send("Cem", &group(), &text, None));
        world.store().sweep().await.unwrap();
        sent.try_recv().expect("the step came").unwrap();
        assert_begun_anew(&world, &old, &text).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_into_a_folder_that_is_being_removed() {
    for step in [Step::FileSpooled, Step::FileCommitted] {
        let hook = Hook::default();
        let mut world = hook.world(without_trash());
        let old = abandoned_group(&world).await;
        let (begun, sweeps) = mpsc::channel();
        let store = world.store().clone();
        hook.set(step, move || {
            let (ended, end) = mpsc::channel();
            let sweep = elsewhere(async move {
                store.sweep().await.unwrap();
                ended.send(()).ok();
            });
            // A sweep that waits until the file has come is right too, and ends after this step.
            end.recv_timeout(PATIENCE).ok();
            begun.send(sweep).unwrap();
        });
        let text = large("new");
        world.commit(send("Cem", &group(), &text, None)).await.unwrap();
        sweeps.try_recv().expect("the step came").join().unwrap();
        assert_begun_anew(&world, &old, &text).await;
        world.stop().await;
    }
}

/// An upload that nothing refers to yet.
async fn unsent(world: &World) -> StoredFile {
    world.say("ann", &ai(), "first", None).await;
    let file = world.upload("ann", &ai(), b"the picture", Some(b"small")).await.unwrap();
    world.assert_there("ann", &file.path, b"the picture").await;
    world.quiet().await;
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_sent_in_time_stays_and_one_that_was_not_is_gone() {
    for in_time in [true, false] {
        let mut world = World::new();
        let file = unsent(&world).await;
        let store = world.store().clone();
        let take = store.commit(send("ann", &ai(), "look", Some(&file)));
        if in_time {
            take.await.unwrap();
            world.clock.advance(2 * UPLOAD_TTL);
            store.sweep().await.unwrap();
            world.assert_there("ann", &file.path, b"the picture").await;
        } else {
            world.clock.advance(2 * UPLOAD_TTL);
            store.sweep().await.unwrap();
            assert_refused(&take.await);
            world.assert_gone(&file);
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_expires_while_it_is_sent() {
    for (swept_first, step) in
        [(true, None), (false, None), (true, Some(Step::LitterFound)), (true, Some(Step::LitterRemoved))]
    {
        let hook = Hook::default();
        let mut world = hook.world(rules());
        let file = unsent(&world).await;
        let store = world.store().clone();
        let look = send("ann", &ai(), "look", Some(&file));
        world.clock.advance(2 * UPLOAD_TTL);
        let sent = match step {
            Some(step) => {
                let sent = hook.commit_at(step, &store, look);
                store.sweep().await.unwrap();
                sent.try_recv().expect("the step came")
            }
            None if swept_first => in_one_write(&hook, &store, store.sweep(), store.commit(look)).await.1,
            None => in_one_write(&hook, &store, store.commit(look), store.sweep()).await.0,
        };
        store.sweep().await.unwrap();
        // Exactly one of the two got the file.
        if sent.is_ok() {
            assert_eq!(step, None, "a file that is being removed takes no reference");
            world.assert_there("ann", &file.path, b"the picture").await;
            assert_eq!(world.messages("ann").len(), 2);
        } else {
            assert_refused(&sent);
            world.assert_gone(&file);
            assert_eq!(world.messages("ann").len(), 1, "a refused send leaves no trace");
        }
        world.stop().await;
    }
}
