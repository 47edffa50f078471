//! The disk that the database takes beside the messages.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use super::{Fixture, ai, id, message, settings};
use crate::{Change, database::Database, horizon::Horizon, keys::Family};

/// Bytes that the disk gives for a folder's files whose name ends so.
fn disk_bytes(folder: &Path, ending: &str) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata() {
            Ok(file) if file.is_dir() => disk_bytes(&entry.path(), ending),
            Ok(file) if entry.file_name().to_string_lossy().ends_with(ending) => file.blocks() * 512,
            // Of another name, or RocksDB has just removed it.
            _ => 0,
        })
        .sum()
}

#[tokio::test]
async fn an_empty_folder_is_small() {
    let fixture = Fixture::new();
    fixture.send("ann", &ai("c"), "hello").await.unwrap();
    let bytes = disk_bytes(fixture.folder.path(), "");
    assert!(bytes < 1 << 20, "{bytes}");
}

#[tokio::test]
async fn rows_that_have_moved_leave_nothing_in_the_database_but_the_change_log() {
    let fixture = Fixture::new();
    let rocksdb = fixture.folder.path().join(".kalamdb/rocksdb");
    let text = "a text of some length, so that the log of a thousand of them is not to be overlooked ".repeat(4);
    let send = |messages| fixture.commit("ann", vec![Change::Send(message("ann", &ai("c"), &text)); messages]);
    send(999).await.unwrap();
    fixture.store.consolidate(&id("ann")).await.unwrap().unwrap();
    let log = disk_bytes(&rocksdb, ".log");
    assert!(log > 400_000, "{log}");
    // Few rows are not worth the files that it takes.
    fixture.store.flush_moved().await.unwrap();
    assert_eq!(disk_bytes(&rocksdb, ".log"), log);

    send(1).await.unwrap();
    fixture.store.consolidate(&id("ann")).await.unwrap().unwrap();
    fixture.send("ann", &ai("c"), "still hot").await.unwrap();
    let before = fixture.messages("ann");
    assert_eq!(before.len(), 1_001);
    fixture.store.flush_moved().await.unwrap();
    // Marks that an older snapshot may need go with the end of the next one.
    assert_eq!(fixture.messages("ann"), before);
    let messages = fixture.store.inner.database.settled_bytes(Family::Messages);
    assert!(messages < 4_000, "one message, and no marks of a thousand others: {messages}");
    let log = disk_bytes(&rocksdb, ".log");
    assert!(log < 50_000, "{log}");
    assert_eq!(fixture.reopen().messages("ann"), before);
}

#[tokio::test]
async fn the_cache_of_blocks_is_one_for_all_and_as_large_as_the_setting_says() {
    let fixture = Fixture::new();
    let database = &fixture.store.inner.database;
    for family in Family::ALL {
        assert_eq!(database.block_cache_bytes(family), 8 << 20, "{}", family.name());
    }
}

/// A file's index may be larger than what the cache takes in one piece: then it is read from the file each time, all of it.
#[test]
fn a_row_of_a_large_file_that_was_read_is_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), &settings(folder.path()), &Arc::new(Horizon::default())).unwrap();
    // Keys that differ at their ends alone make an index of a few thousand rows that is as large as that of millions.
    let key = |number: u32| [&[b'k'; 1_000][..], &number.to_be_bytes()].concat();
    let keys: Vec<_> = (0..4_000).map(key).collect();
    let value = [b'v'; 2_500];
    database.write(keys.iter().map(|key| (Family::Messages, key.as_slice(), Some(&value[..]))), false).unwrap();
    database.compact(Family::Messages);
    for at in [0, 1_000, 2_000, 3_999] {
        let reads: Vec<_> = (0..2).map(|_| database.blocks_read(Family::Messages, &keys[at])).collect();
        assert!(reads[0] > 0, "it lies in a file: {reads:?}");
        assert_eq!(reads[1], 0, "{reads:?}");
    }
}
