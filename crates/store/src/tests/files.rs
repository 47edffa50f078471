//! Large texts, uploads, who may read them, and when they go.

use std::path::Path;

use kalamdb_protocol::ErrorCode;

use super::{Fixture, HOUR, add, ai, edit, group, id, message};
use crate::{Actor, Change, Components, ErrorKind, Idempotency, NewFile, Proposal, Step, Store, StoredFile, Thumbnail};

fn large(letter: &str) -> String {
    letter.repeat(3_000)
}

impl Fixture {
    fn spooled(&self) -> usize {
        std::fs::read_dir(self.store.spool()).unwrap().count()
    }

    async fn upload(&self, owner: &str, to: &crate::ConversationKey, bytes: &[u8]) -> crate::Result<StoredFile> {
        let source = self.store.spool().join(".upload");
        std::fs::write(&source, bytes).unwrap();
        let file = NewFile {
            owner: id(owner),
            conversation: to.id.clone(),
            conversation_type: Some(to.kind),
            source: source.clone(),
            content_type: "image/png".to_owned(),
            extension: "png".to_owned(),
            thumbnail: Some(Thumbnail {
                bytes: "small".into(),
                content_type: "image/jpeg".to_owned(),
                extension: "jpg".to_owned(),
            }),
        };
        let added = self.store.add_file(&Actor { user: id(owner), admin: false }, file).await;
        std::fs::remove_file(source).unwrap();
        added.map(|added| added.file)
    }

    async fn send_file(&self, user: &str, to: &crate::ConversationKey, path: &str) -> crate::Result<i64> {
        let mut new = message(user, to, "look");
        new.content_ref = Some(path.to_owned());
        Ok(self.commit(user, vec![Change::Send(new)]).await?.sent[0].msg_id)
    }
}

fn code(error: &crate::Error) -> ErrorCode {
    match error.kind {
        ErrorKind::Refused(code) => code,
        kind => panic!("{kind:?}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_text_lies_in_a_file_of_its_message() {
    let fixture = Fixture::new();
    let msg_id = fixture.send("ann", &ai("c"), &large("é")).await.unwrap();
    let row = fixture.hot("ann", msg_id).message;
    let path = format!("ann/msg-{msg_id}.bin");
    assert_eq!(row.content, "é".repeat(512));
    assert_eq!(row.content_ref.as_deref(), Some(path.as_str()));
    assert_eq!(row.metadata.as_deref(), Some(r#"{"contentType":"text/plain","fullSize":6000}"#));
    assert_eq!(fixture.read("ann", &path).await.unwrap(), large("é").as_bytes());
    assert_eq!(fixture.files(), ["ann/", &path]);
    assert_eq!(fixture.spooled(), 0);
    assert_eq!(fixture.read("bob", &path).await, None);
    let fixture = fixture.reopen();
    assert_eq!(fixture.read("ann", &path).await.unwrap(), large("é").as_bytes());
    fixture.delete("ann", &ai("c"), &[msg_id]).await;
    assert_eq!(fixture.read("ann", &path).await, None);
    assert_eq!(fixture.store.sweep().await.unwrap().removed_files, 1);
    assert!(fixture.files().is_empty(), "{:?}", fixture.files());
    assert_eq!(fixture.store.snapshot().files().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_shares_one_file_until_the_last_copy_goes() {
    let fixture = Fixture::new();
    let g = group("g");
    fixture.send("ann", &g, "hello").await.unwrap();
    fixture.commit("ann", vec![add("ann", &g, "bob")]).await.unwrap();
    let msg_id = fixture.send("ann", &g, &large("x")).await.unwrap();
    fixture.commit("ann", vec![add("ann", &g, "late")]).await.unwrap();
    let path = format!("shared/conversations/g/msg-{msg_id}.bin");
    let file = fixture.store.snapshot().files().unwrap().next().unwrap().unwrap();
    assert_eq!((file.path.as_str(), file.references), (path.as_str(), 2));
    for (reader, may) in [("ann", true), ("bob", true), ("late", false), ("eve", false)] {
        assert_eq!(fixture.read(reader, &path).await.is_some(), may, "{reader}");
    }
    fixture.delete("ann", &g, &[msg_id]).await;
    fixture.store.sweep().await.unwrap();
    assert_eq!(fixture.read("ann", &path).await, None);
    assert!(fixture.read("bob", &path).await.is_some());
    fixture.delete("bob", &g, &[msg_id]).await;
    fixture.store.sweep().await.unwrap();
    assert!(fixture.files().is_empty(), "{:?}", fixture.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_moves_a_text_across_the_threshold_and_back() {
    let fixture = Fixture::new();
    let msg_id = fixture.send("ann", &ai("c"), "small").await.unwrap();
    let change = async |text: &str| {
        let old = fixture.hot("ann", msg_id);
        let edit = edit("ann", old.message, text, vec![(id("ann"), fixture.place("ann", msg_id))]);
        fixture.commit("ann", vec![edit]).await.unwrap();
        fixture.store.sweep().await.unwrap();
        fixture.hot("ann", msg_id).message
    };
    let first = change(&large("a")).await.content_ref.unwrap();
    let second = change(&large("b")).await.content_ref.unwrap();
    assert!(first.starts_with(&format!("ann/msg-{msg_id}-")) && first != second, "{first} {second}");
    assert_eq!(fixture.read("ann", &first).await, None);
    assert_eq!(fixture.read("ann", &second).await.unwrap(), large("b").as_bytes());
    assert_eq!(fixture.files(), ["ann/", &second]);
    let last = change("small again").await;
    assert_eq!((last.content.as_str(), last.content_ref, last.metadata), ("small again", None, None));
    assert!(fixture.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_not_changed_stays_in_its_file() {
    let fixture = Fixture::new();
    let msg_id = fixture.send("ann", &ai("c"), &large("a")).await.unwrap();
    let old = fixture.hot("ann", msg_id).message;
    let path = old.content_ref.clone();
    let copies = vec![(id("ann"), fixture.place("ann", msg_id))];
    let metadata = Some(Some(r#"{"read":true}"#.to_owned()));
    let edit = Change::Edit { owner: id("ann"), message: old, content: None, metadata, copies };
    fixture.commit("ann", vec![edit]).await.unwrap();
    let new = fixture.hot("ann", msg_id).message;
    assert_eq!(new.content_ref, path);
    assert_eq!(new.metadata.unwrap(), r#"{"contentType":"text/plain","fullSize":3000,"read":true}"#);
    assert!(fixture.read("ann", &path.unwrap()).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_its_uploader_s_until_a_message_shows_it() {
    let fixture = Fixture::new();
    let g = group("g");
    fixture.send("ann", &g, "hello").await.unwrap();
    fixture.commit("ann", vec![add("ann", &g, "bob")]).await.unwrap();
    let file = fixture.upload("ann", &g, b"picture").await.unwrap();
    let thumbnail = file.thumbnail.clone().unwrap();
    assert!(file.path.starts_with("shared/conversations/g/media-") && thumbnail.ends_with("-thumb.jpg"));
    assert_eq!(fixture.read("ann", &file.path).await.unwrap(), b"picture");
    assert_eq!(fixture.read("ann", &thumbnail).await.unwrap(), b"small");
    assert_eq!(fixture.read("bob", &file.path).await, None);
    assert_eq!(fixture.read("bob", &thumbnail).await, None);
    assert_eq!(code(&fixture.send_file("bob", &g, &file.path).await.unwrap_err()), ErrorCode::InvalidValue);
    let msg_id = fixture.send_file("ann", &g, &file.path).await.unwrap();
    assert_eq!(fixture.read("bob", &thumbnail).await.unwrap(), b"small");
    // Once sent it does not expire, and goes with the last copy; its uploader has no more right than others.
    fixture.later(100 * HOUR);
    assert_eq!(fixture.store.sweep().await.unwrap().expired_uploads, 0);
    fixture.delete("ann", &g, &[msg_id]).await;
    assert_eq!(fixture.read("ann", &file.path).await, None);
    fixture.delete("bob", &g, &[msg_id]).await;
    assert_eq!(code(&fixture.send_file("bob", &g, &file.path).await.unwrap_err()), ErrorCode::InvalidValue);
    fixture.store.sweep().await.unwrap();
    assert!(fixture.files().is_empty(), "{:?}", fixture.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_sends_expires() {
    let fixture = Fixture::new();
    let file = fixture.upload("ann", &ai("c"), b"picture").await.unwrap();
    assert!(fixture.conversation("ann", &ai("c")).is_some());
    fixture.later(HOUR - 1);
    assert_eq!(fixture.store.sweep().await.unwrap().expired_uploads, 0);
    fixture.later(1);
    assert_eq!(fixture.store.sweep().await.unwrap().expired_uploads, 1);
    assert_eq!(fixture.read("ann", &file.path).await, None);
    assert!(fixture.files().is_empty(), "{:?}", fixture.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_elsewhere_is_the_same_as_none() {
    let fixture = Fixture::new();
    let other = fixture.upload("ann", &ai("other"), b"picture").await.unwrap().path;
    let bobs = fixture.upload("bob", &ai("c"), b"picture").await.unwrap().path;
    let text = fixture.send("ann", &ai("c"), &large("x")).await.unwrap();
    let mut sentences = Vec::new();
    for path in [&other, &bobs, &format!("ann/msg-{text}.bin"), "ann/media-1.png", "../x", "/etc/passwd", ""] {
        let error = fixture.send_file("ann", &ai("c"), path).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::InvalidValue);
        sentences.push(error.message);
    }
    sentences.dedup();
    assert_eq!(sentences.len(), 1);
    let mut both = message("ann", &ai("other"), &large("x"));
    both.content_ref = Some(other);
    let error = fixture.commit("ann", vec![Change::Send(both)]).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::InvalidValue);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_repeated_leaves_no_file() {
    let fixture = Fixture::new();
    let g = group("g");
    fixture.send("ann", &g, "hello").await.unwrap();
    assert_eq!(code(&fixture.send("bob", &g, &large("x")).await.unwrap_err()), ErrorCode::Forbidden);
    assert_eq!(code(&fixture.upload("bob", &g, b"picture").await.unwrap_err()), ErrorCode::Forbidden);
    let proposal = Proposal {
        actor: Actor { user: id("ann"), admin: false },
        idempotency: Some(Idempotency { key: "k".to_owned(), request_hash: [1; 32], rows_affected: 1 }),
        expect: Vec::new(),
        changes: vec![Change::Send(message("ann", &ai("c"), &large("x")))],
    };
    let first = fixture.store.commit(proposal.clone()).await.unwrap();
    assert_eq!(fixture.store.commit(proposal).await.unwrap(), first);
    assert_eq!(fixture.files().len(), 2, "{:?}", fixture.files());
    assert_eq!(fixture.spooled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_can_be_read_before_it_is_moved_and_while_it_goes() {
    let at_commit: std::sync::Arc<parking_lot::Mutex<Vec<usize>>> = std::sync::Arc::default();
    let seen = std::sync::Arc::clone(&at_commit);
    let shared = std::sync::Arc::new(std::sync::OnceLock::<crate::Store>::new());
    let hook = std::sync::Arc::clone(&shared);
    let fixture = Fixture::with_steps(move |step| {
        let (Step::FileCommitted, Some(store)) = (step, hook.get()) else { return };
        let (store, seen) = (store.clone(), std::sync::Arc::clone(&seen));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async move {
                let file = store.snapshot().files().unwrap().next().unwrap().unwrap();
                let bytes = store.read_file(&file, 10..file.bytes).await.unwrap().unwrap();
                let chunks: Vec<_> = futures::TryStreamExt::try_collect(bytes).await.unwrap();
                seen.lock().push(chunks.iter().map(bytes::Bytes::len).sum());
            });
        });
    });
    assert!(shared.set(fixture.store.clone()).is_ok());
    let msg_id = fixture.send("ann", &ai("c"), &large("x")).await.unwrap();
    assert_eq!(*at_commit.lock(), [2_990]);
    let file = fixture.store.readable_file(&id("ann"), &format!("ann/msg-{msg_id}.bin")).unwrap().unwrap();
    let reading = fixture.store.read_file(&file, 0..file.bytes).await.unwrap().unwrap();
    fixture.delete("ann", &ai("c"), &[msg_id]).await;
    assert_eq!(fixture.store.sweep().await.unwrap().removed_files, 1);
    let chunks: Vec<_> = futures::TryStreamExt::try_collect(reading).await.unwrap();
    assert_eq!(chunks.concat(), large("x").as_bytes());
    assert!(fixture.store.read_file(&file, 0..file.bytes).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_begins_anew_while_its_files_are_being_removed() {
    let fixture = Fixture::new();
    let g = group("g");
    let old = fixture.send("ann", &g, &large("x")).await.unwrap();
    let unsent = fixture.upload("ann", &g, b"picture").await.unwrap();
    let version = fixture.conversation("ann", &g).unwrap().version;
    let delete = Change::DeleteConversation { owner: id("ann"), key: g.clone(), version, cold: Vec::new() };
    fixture.commit("ann", vec![delete]).await.unwrap();
    let old_path = format!("shared/conversations/g/msg-{old}.bin");
    let error = fixture.send_file("bob", &g, &old_path).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::InvalidValue);
    assert_eq!(code(&fixture.send_file("ann", &g, &unsent.path).await.unwrap_err()), ErrorCode::InvalidValue);
    let new = fixture.send("bob", &g, &large("y")).await.unwrap();
    fixture.store.sweep().await.unwrap();
    let new_path = format!("shared/conversations/g/msg-{new}.bin");
    assert_eq!(fixture.read("bob", &new_path).await.unwrap(), large("y").as_bytes());
    assert_eq!(fixture.files().into_iter().filter(|path| !path.ends_with('/')).collect::<Vec<_>>(), [new_path]);
}

/// Has a file lie where a user's folder would be, so that nothing can be moved there.
fn block(fixture: &Fixture, name: &str) -> std::path::PathBuf {
    let folder = fixture.folder.path().join(name);
    std::fs::write(&folder, "in the way").unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_moved_stops_neither_sweeps_nor_the_next_start() {
    let fixture = Fixture::new();
    let in_the_way = block(&fixture, "ann");
    let stuck = fixture.send("ann", &ai("c"), &large("a")).await.unwrap();
    let path = format!("ann/msg-{stuck}.bin");
    assert_eq!(fixture.read("ann", &path).await.unwrap(), large("a").as_bytes(), "it is read from the spool");
    // What bob leaves goes all the same.
    let gone = fixture.send("bob", &ai("c"), &large("b")).await.unwrap();
    fixture.delete("bob", &ai("c"), &[gone]).await;
    let swept = fixture.store.sweep().await.unwrap();
    assert_eq!((swept.removed_files, swept.failed_files > 0), (1, true));
    let fixture = fixture.reopen();
    assert_eq!(fixture.read("ann", &path).await.unwrap(), large("a").as_bytes(), "it is still in the spool");
    // The file that waits keeps its name there to itself.
    let other = fixture.send("bob", &ai("c"), &large("c")).await.unwrap();
    let others = format!("bob/msg-{other}.bin");
    assert_eq!(fixture.read("bob", &others).await.unwrap(), large("c").as_bytes());
    std::fs::remove_file(in_the_way).unwrap();
    assert_eq!(fixture.store.sweep().await.unwrap().failed_files, 0);
    assert_eq!(fixture.spooled(), 0);
    assert_eq!(fixture.files(), ["ann/", &path, "bob/", &others]);
    assert_eq!(fixture.read("ann", &path).await.unwrap(), large("a").as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_took_from_the_spool_is_lost_and_nothing_else() {
    let fixture = Fixture::new();
    let in_the_way = block(&fixture, "ann");
    let mut paths = Vec::new();
    for text in ["a", "b"] {
        let msg_id = fixture.send("ann", &ai("c"), &large(text)).await.unwrap();
        paths.push(format!("ann/msg-{msg_id}.bin"));
    }
    let spool = fixture.store.spool().to_owned();
    std::fs::remove_file(spool.join("1")).unwrap();
    std::fs::create_dir(spool.join("a folder of somebody's")).unwrap();
    std::fs::remove_file(in_the_way).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.read("ann", &paths[0]).await, None);
    assert_eq!(fixture.read("ann", &paths[1]).await.unwrap(), large("b").as_bytes());
    assert_eq!(fixture.messages("ann").len(), 2, "the messages are there, with what their rows keep");
    assert_eq!(fixture.store.sweep().await.unwrap(), crate::Swept::default(), "and it is not asked for again");
    // The same while the server runs.
    let in_the_way = block(&fixture, "bob");
    fixture.send("bob", &ai("c"), &large("c")).await.unwrap();
    for entry in std::fs::read_dir(&spool).unwrap() {
        drop(std::fs::remove_file(entry.unwrap().path()));
    }
    std::fs::remove_file(in_the_way).unwrap();
    assert_eq!(fixture.store.sweep().await.unwrap(), crate::Swept::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_removed_keeps_no_other_from_going() {
    let fixture = Fixture::new();
    let mut ids = Vec::new();
    for text in ["a", "b", "c"] {
        ids.push(fixture.send("ann", &ai("c"), &large(text)).await.unwrap());
    }
    let stuck = fixture.folder.path().join(format!("ann/msg-{}.bin", ids[0]));
    std::fs::remove_file(&stuck).unwrap();
    std::fs::create_dir_all(stuck.join("somebody's folder")).unwrap();
    fixture.delete("ann", &ai("c"), &ids).await;
    let swept = fixture.store.sweep().await.unwrap();
    assert_eq!((swept.removed_files, swept.failed_files > 0), (2, true));
    assert_eq!(fixture.store.snapshot().files().unwrap().count(), 1, "its row brings the work here again");
    std::fs::remove_dir_all(&stuck).unwrap();
    assert_eq!(fixture.store.sweep().await.unwrap().failed_files, 0);
    assert_eq!(fixture.store.snapshot().files().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_half_way_leaves_nothing_in_the_spool() {
    let fixture = Fixture::new();
    // The upload takes the first name, its thumbnail the second, which somebody has.
    std::fs::create_dir(fixture.store.spool().join("2")).unwrap();
    assert_eq!(fixture.upload("ann", &ai("c"), b"picture").await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(fixture.spooled(), 1, "the folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_may_lie_on_another_disk() {
    // On most machines this is memory, and the temporary folder is not; elsewhere it is a plain rename.
    let elsewhere = Path::new("/dev/shm");
    let state = match tempfile::tempdir_in(if elsewhere.is_dir() { elsewhere } else { Path::new("/tmp") }) {
        Ok(state) => state,
        Err(_) => tempfile::tempdir().unwrap(),
    };
    let base = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(state.path(), base.path().join(".kalamdb")).unwrap();
    let store = Store::open(super::settings(base.path()), Components::default()).unwrap();
    let send = async |store: &Store| {
        let changes = vec![Change::Send(message("ann", &ai("c"), &large("x")))];
        let actor = Actor { user: id("ann"), admin: false };
        let proposal = Proposal { actor, idempotency: None, expect: Vec::new(), changes };
        store.commit(proposal).await.unwrap().sent[0].msg_id
    };
    let first = send(&store).await;
    store.consolidate(&id("ann")).await.unwrap().unwrap();
    let second = send(&store).await;
    drop(store);
    let store = Store::open(super::settings(base.path()), Components::default()).unwrap();
    let mut there: Vec<String> = std::fs::read_dir(base.path().join("ann"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("batch-"))
        .collect();
    there.sort();
    assert_eq!(there, [format!("msg-{first}.bin"), format!("msg-{second}.bin")]);
    assert_eq!(super::messages(&store, base.path(), &id("ann")).len(), 2);
    assert_eq!(std::fs::read_dir(store.spool()).unwrap().count(), 0);
}
