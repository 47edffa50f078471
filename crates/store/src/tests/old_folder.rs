//! A folder that the store of commit 73096fd wrote: this one says the same of it, and goes on with it.
//!
//! Invariant: `data/folder-73096fd` and the answers beside it come from that store, and nobody edits them. It has format
//! 2 and the first version of every record: hot and cold rows, both in the trash, edits and restores of both, a deleted
//! conversation, a group, large texts, uploads, a receipt; some of it in RocksDB's log and some in its files.

use std::{fmt::Write as _, path::Path};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{DAY, Fixture, ai, edit, group, id};
use crate::{Change, Conversation, HotMessage, Idempotency, Message, MessageRange, Place, Segment, Store};

const USERS: [&str; 3] = ["ann", "Bob", "cat"];

const SAID: &str = include_str!("data/folder-73096fd.txt");

fn request() -> Idempotency {
    Idempotency { key: "k".to_owned(), request_hash: [7; 32], rows_affected: 1 }
}

/// Everything that a store says of these users, one thing a line.
async fn all(store: &Store, base_path: &Path) -> String {
    let snapshot = store.snapshot();
    let mut said = String::new();
    for user in USERS {
        let (owner, say) = (id(user), &mut said);
        writeln!(say, "{user} {:?}", snapshot.owner(&owner).unwrap()).unwrap();
        for row in snapshot.messages(&owner, &MessageRange::default()).unwrap() {
            let HotMessage { message, version } = row.unwrap();
            writeln!(say, "{user} hot {version} {}", text(&message)).unwrap();
        }
        for segment in snapshot.segments(&owner).unwrap() {
            let Segment { number, path, rows, bytes, created, msg_ids, timestamps, conversations, deleted } = segment;
            let (first, last) = conversations;
            let deleted: Vec<u32> = deleted.iter().collect();
            write!(say, "{user} segment {number} {path} {rows} {bytes} {created} {msg_ids:?} {timestamps:?} ").unwrap();
            writeln!(say, "{first:?} {last:?} {deleted:?}").unwrap();
            cold_rows(say, &base_path.join(&path));
        }
        for row in snapshot.conversations(&owner).unwrap() {
            let row: Conversation = row.unwrap();
            writeln!(say, "{user} {row:?}").unwrap();
        }
        for row in snapshot.trash(&owner).unwrap() {
            let row = row.unwrap();
            writeln!(say, "{user} trash {} {} {} {}", row.version, row.deleted_at, row.expires_at, text(&row.message))
                .unwrap();
        }
        for row in snapshot.cold_trash(&owner).unwrap() {
            let positions: Vec<u32> = row.positions.iter().collect();
            writeln!(
                say,
                "{user} cold trash {} {} {positions:?} {} {}",
                row.deletion, row.segment.number, row.deleted_at, row.expires_at
            )
            .unwrap();
        }
        for row in snapshot.audit(&owner).unwrap() {
            writeln!(say, "{user} {:?}", row.unwrap()).unwrap();
        }
        for row in snapshot.changes(&owner, 0, 0).unwrap().unwrap() {
            writeln!(say, "{user} {:?}", row.unwrap()).unwrap();
        }
    }
    for row in snapshot.participants(&group("g").id).unwrap() {
        writeln!(said, "{row:?}").unwrap();
    }
    for file in snapshot.files().unwrap() {
        let file = file.unwrap();
        let bytes = store.read_file(&file, 0..file.bytes).await.unwrap().unwrap();
        let bytes: Vec<_> = bytes.try_collect().await.unwrap();
        writeln!(said, "{file:?} {:?}", String::from_utf8(bytes.concat()).unwrap().split_at(5)).unwrap();
    }
    let receipt = store.earlier_receipt(&id("ann"), &request()).unwrap().unwrap();
    let sent: Vec<_> = receipt.sent.iter().map(|sent| (sent.msg_id, &sent.conversation, sent.timestamp)).collect();
    writeln!(said, "receipt {} {sent:?}", receipt.seq).unwrap();
    said
}

fn text(message: &Message) -> String {
    format!("{message:?}")
}

/// The rows of a segment's file, as any reader shows them.
fn cold_rows(say: &mut String, path: &Path) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let options = FormatOptions::default().with_null("NULL");
    for batch in reader {
        let batch = batch.unwrap();
        for row in 0..batch.num_rows() {
            let cells = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options).unwrap().value(row).to_string());
            writeln!(say, "  {:?}", cells.collect::<Vec<_>>()).unwrap();
        }
    }
}

/// Copies a folder, so that the one in the repository stays as it is.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_read_as_it_was_left_and_goes_on() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/data/folder-73096fd");
    let fixture = Fixture::over(|to| copy(&folder, to));
    let said = all(&fixture.store, fixture.folder.path()).await;
    for (now, then) in said.lines().zip(SAID.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(said.len(), SAID.len());
    let texts: Vec<_> = USERS.map(|user| fixture.messages(user)).into();
    assert!(texts.iter().map(std::collections::BTreeMap::len).min() > Some(3), "the folder holds a history");

    // The rows move, and the files are written anew.
    for user in USERS {
        fixture.store.consolidate(&id(user)).await.unwrap();
        fixture.store.compact(&id(user), true).await.unwrap();
    }
    fixture.store.sweep().await.unwrap();
    let fixture = fixture.reopen();
    let again: Vec<_> = USERS.map(|user| fixture.messages(user)).into();
    assert_eq!(again, texts);
    let metadata = |user: &str, key| fixture.conversation(user, &key).unwrap().metadata.unwrap();
    assert_eq!(
        (metadata("ann", ai("c")), metadata("cat", group("g"))),
        ("{\"about\":\"c\"}".into(), "{\"title\":\"Trip\"}".into())
    );

    // What was there is changed as what is new.
    let sent = fixture.send("cat", &group("g"), "new").await.unwrap();
    assert!(texts.iter().flat_map(|texts| texts.keys()).all(|msg_id| *msg_id < sent));
    let new = fixture.hot("cat", sent).message;
    let copies = ["ann", "cat"].map(|user| (id(user), fixture.place(user, sent))).into();
    fixture.commit("cat", vec![edit("cat", new, "edited", copies)]).await.unwrap();
    for trash in fixture.store.snapshot().trash(&id("ann")).unwrap().map(Result::unwrap) {
        let Message { msg_id, conversation, from, .. } = trash.message;
        let place = Place::TrashedHot { version: trash.version };
        let back = Change::Restore { owner: id("ann"), msg_id, conversation, from, place };
        fixture.commit("ann", vec![back]).await.unwrap();
    }
    assert!(fixture.messages("ann").values().any(|text| text == "hot and deleted"));
    fixture.later(11 * DAY);
    assert!(fixture.store.sweep().await.unwrap().purged_messages > 0, "what was not brought back goes in time");
    assert!(fixture.store.snapshot().cold_trash(&id("ann")).unwrap().is_empty());
}
