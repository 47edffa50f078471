//! Moving rows to Parquet, while others change them.

use std::sync::{Arc, OnceLock};

use arrow::{
    datatypes::{DataType, Field, Schema},
    util::display::{ArrayFormatter, FormatOptions},
};
use kalamdb_protocol::{ColumnType, TableId};
use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    file::metadata::{PageIndexPolicy, ParquetMetaDataReader},
};

use super::{Fixture, ai, edit, file_rows, group, id, message};
use crate::{
    Actor, Change, ColdSummary, ErrorKind, Expect, Message, Place, Proposal, Step, Store,
    database::Read,
    keys::Family,
    segment::{DECODED_BYTES, SegmentWriter, messages, segment_schema},
};

#[tokio::test]
async fn hot_rows_become_one_sorted_file() {
    let fixture = Fixture::new();
    for (to, text) in [("b", "1"), ("a", "2"), ("b", "3"), ("a b", "4")] {
        fixture.send("ann", &ai(to), text).await.unwrap();
    }
    let before = fixture.messages("ann");
    let done = fixture.store.consolidate(&id("ann")).await.unwrap().unwrap();
    assert_eq!(done.messages, 4);
    assert_eq!(fixture.messages("ann"), before);
    let segments = fixture.store.snapshot().segments(&id("ann")).unwrap();
    let [segment] = segments.as_slice() else { panic!("{segments:?}") };
    assert_eq!(segment.path, "ann/batch-20251013-001.parquet");
    let order: Vec<_> =
        file_rows(fixture.folder.path(), &segment.path).into_iter().map(|(_, to, text)| (to, text)).collect();
    let expected = [("a", "2"), ("a b", "4"), ("b", "1"), ("b", "3")];
    assert_eq!(order, expected.map(|(to, text)| (to.to_owned(), text.to_owned())));
    assert_eq!(fixture.store.snapshot().owner(&id("ann")).unwrap().hot_messages, 0);
    assert!(fixture.store.consolidate(&id("ann")).await.unwrap().is_none());
    fixture.send("ann", &ai("c"), "5").await.unwrap();
    fixture.store.consolidate(&id("ann")).await.unwrap().unwrap();
    assert_eq!(fixture.store.snapshot().segments(&id("ann")).unwrap()[1].number, 2);
}

#[tokio::test]
async fn strange_ids_get_folders_of_their_own() {
    let fixture = Fixture::new();
    let users = ["bob", "Bob", "auth0|123", "a+b@x.org", "../up", "名前", "%42ob"];
    for user in users {
        fixture.send(user, &ai("c"), user).await.unwrap();
        fixture.store.consolidate(&id(user)).await.unwrap().unwrap();
    }
    for user in users {
        let rows = fixture.messages(user);
        assert_eq!(rows.values().collect::<Vec<_>>(), [user]);
    }
    let mut folders: Vec<_> = std::fs::read_dir(fixture.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().to_lowercase())
        .collect();
    folders.sort();
    folders.dedup();
    assert_eq!(folders.len(), users.len() + 1, "{folders:?} and the server's own");
}

#[test]
fn a_file_has_the_columns_of_the_table_messages() {
    let table = TableId::Messages.table();
    let columns = table.columns.iter().map(|column| {
        let kind = match column.kind {
            ColumnType::BigInt | ColumnType::Time => DataType::Int64,
            ColumnType::Text | ColumnType::Json => DataType::Utf8,
        };
        Field::new(column.name, kind, column.nullable)
    });
    assert_eq!(*segment_schema(), Schema::new(columns.collect::<Vec<_>>()));
}

#[tokio::test]
async fn a_file_of_one_page_has_nothing_that_says_where_to_look() {
    let fixture = Fixture::new();
    let texts = |count: usize| (0..count).map(|number| format!("message number {number}")).collect::<Vec<_>>();
    let (few, many) = (texts(17), texts(600));
    for (user, texts) in [("ann", &few), ("bob", &many)] {
        fixture.send_cold(user, &ai("c"), &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(fixture.messages(user).into_values().collect::<Vec<_>>(), *texts);
    }
    let file = |user| {
        let segment = fixture.store.snapshot().segments(&id(user)).unwrap().remove(0);
        let bytes = std::fs::read(fixture.folder.path().join(segment.path)).unwrap();
        let file = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&bytes::Bytes::from(bytes))
            .unwrap();
        let keys = file.file_metadata().key_value_metadata().into_iter().flatten().map(|entry| entry.key.clone());
        assert_eq!(keys.collect::<Vec<_>>(), [DECODED_BYTES], "of {user}");
        (segment.bytes, file.row_group(0).column(0).bloom_filter_offset().is_some(), file.offset_index().is_some())
    };
    let (bytes, bloom, index) = file("ann");
    assert!(bytes < 1_700 && !bloom && !index, "{bytes} {bloom} {index}");
    let (_, bloom, index) = file("bob");
    assert!(bloom && index, "{bloom} {index}");
}

#[test]
fn what_is_written_is_read_from_the_column_of_its_name() {
    let message = Message {
        msg_id: 5,
        conversation: group("g"),
        from: "bob".to_owned(),
        timestamp: 7,
        content: "hello".to_owned(),
        content_ref: Some("shared/conversations/g/media-1.png".to_owned()),
        metadata: Some("{}".to_owned()),
    };
    let mut writer = SegmentWriter::new();
    writer.push_message(message.clone()).unwrap();
    let written = writer.finish("ann/batch-20251013-001.parquet".to_owned(), 0).unwrap().unwrap();
    let rows = ParquetRecordBatchReaderBuilder::try_new(written.bytes).unwrap().build().unwrap();
    let batch = rows.map(Result::unwrap).next().unwrap();
    let options = FormatOptions::default();
    let shown =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap().value(0).to_string());
    let shown: Vec<_> = shown.collect();
    let values = ["5", "g", "group", "bob", "7", "hello", "shared/conversations/g/media-1.png", "{}"];
    assert_eq!(shown, values);
    assert_eq!(messages(&batch).unwrap(), std::slice::from_ref(&message));
    // A file from before there were uploads and metadata.
    let older = batch.project(&[0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(messages(&older).unwrap(), [Message { content_ref: None, metadata: None, ..message }]);
    assert!(messages(&batch.project(&[0, 1, 2, 3, 4]).unwrap()).is_none(), "no message is without a text");
}

/// What happens between the writing of a file and its adoption.
async fn meanwhile(store: &Store, changes: Vec<Change>) {
    let actor = Actor { user: id("ann"), admin: false };
    store.commit(Proposal { actor, idempotency: None, expect: Vec::new(), changes }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_meanwhile_is_deleted_in_the_file() {
    let shared: Arc<OnceLock<(Store, Vec<i64>)>> = Arc::default();
    let hook = Arc::clone(&shared);
    let fixture = Fixture::with_steps(move |step| {
        let (Step::SegmentWritten, Some((store, ids))) = (step, hook.get()) else { return };
        let (store, ids) = (store.clone(), ids.clone());
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async move {
                let snapshot = store.snapshot();
                let place =
                    |msg_id| Place::Hot { version: snapshot.hot_message(&id("ann"), msg_id).unwrap().unwrap().version };
                let old = snapshot.hot_message(&id("ann"), ids[0]).unwrap().unwrap().message;
                let edit = edit("ann", old, "edited", vec![(id("ann"), place(ids[0]))]);
                let delete = Change::Delete {
                    owner: id("ann"),
                    msg_id: ids[1],
                    conversation: ai("c"),
                    from: "ann".to_owned(),
                    place: place(ids[1]),
                };
                let new = Change::Send(message("ann", &ai("c"), "new"));
                meanwhile(&store, vec![edit, delete, new]).await;
            });
        });
    });
    let mut ids = Vec::new();
    for text in ["0", "1", "2"] {
        ids.push(fixture.send("ann", &ai("c"), text).await.unwrap());
    }
    assert!(shared.set((fixture.store.clone(), ids.clone())).is_ok());
    fixture.store.consolidate(&id("ann")).await.unwrap().unwrap();
    let texts: Vec<_> = fixture.messages("ann").into_values().collect();
    assert_eq!(texts, ["edited", "2", "new"]);
    let segment = &fixture.store.snapshot().segments(&id("ann")).unwrap()[0];
    assert_eq!(segment.deleted.iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(fixture.store.snapshot().owner(&id("ann")).unwrap().hot_messages, 2);
}

#[tokio::test]
async fn cold_rows_are_edited_and_deleted_by_position() {
    let fixture = Fixture::new();
    let mut ids = Vec::new();
    for text in ["0", "1", "2"] {
        ids.push(fixture.send("ann", &ai("c"), text).await.unwrap());
    }
    let old = fixture.hot("ann", ids[1]).message;
    fixture.store.consolidate(&id("ann")).await.unwrap().unwrap();
    let cold = |position| Place::Cold { segment: 1, position };
    let edit = edit("ann", old, "edited", vec![(id("ann"), cold(1))]);
    fixture.commit("ann", vec![edit.clone()]).await.unwrap();
    assert_eq!(fixture.messages("ann").into_values().collect::<Vec<_>>(), ["0", "edited", "2"]);
    assert!(fixture.commit("ann", vec![edit]).await.is_err(), "that copy is gone from there");
    let delete = vec![
        Change::Delete {
            owner: id("ann"),
            msg_id: ids[2],
            conversation: ai("c"),
            from: "ann".to_owned(),
            place: cold(2),
        },
        Change::Cold(ColdSummary { owner: id("ann"), conversation: ai("c"), msg_ids: Some((ids[0], ids[0])) }),
    ];
    let version = fixture.store.snapshot().owner(&id("ann")).unwrap().cold_version;
    let expect = vec![Expect::Cold { owner: id("ann"), version }];
    let actor = Actor { user: id("ann"), admin: false };
    fixture.store.commit(Proposal { actor, idempotency: None, expect, changes: delete }).await.unwrap();
    let conversation = fixture.store.snapshot().conversation(&id("ann"), &ai("c")).unwrap().unwrap();
    assert_eq!((conversation.first_msg_id, conversation.last_msg_id), (Some(ids[0]), Some(ids[1])));
}

#[tokio::test]
async fn a_whole_conversation_goes_hot_and_cold() {
    let fixture = Fixture::new();
    for to in ["a", "c", "d"] {
        for text in ["0", "1"] {
            fixture.send("ann", &ai(to), text).await.unwrap();
        }
    }
    fixture.store.consolidate(&id("ann")).await.unwrap().unwrap();
    fixture.send("ann", &ai("c"), "hot").await.unwrap();
    fixture.send("ann", &group("c"), "same id, another conversation").await.unwrap();
    let version = fixture.store.snapshot().conversation(&id("ann"), &ai("c")).unwrap().unwrap().version;
    let cold = vec![(1, vec![(2, 4)])];
    let delete = Change::DeleteConversation { owner: id("ann"), key: ai("c"), version, cold };
    fixture.commit("ann", vec![delete]).await.unwrap();
    assert_eq!(fixture.messages("ann").len(), 5);
    assert!(fixture.store.snapshot().conversation(&id("ann"), &ai("c")).unwrap().is_none());
    assert!(fixture.store.snapshot().conversation(&id("ann"), &group("c")).unwrap().is_some());
}

#[tokio::test]
async fn what_an_interrupted_write_left_beside_a_segment_goes_at_the_next_start() {
    let fixture = Fixture::new();
    let kept = fixture.send_cold("ann", &ai("c"), &["kept"]).await;
    let (_, path) = fixture.store.reserve_segment(&id("ann")).await.unwrap();
    for name in [path.clone(), format!("{path}#1"), format!("{path}#2")] {
        std::fs::write(fixture.folder.path().join(name), "half of a segment").unwrap();
    }
    std::fs::write(fixture.folder.path().join("ann/somebody's#1"), "unknown").unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.files(), ["ann/", "ann/batch-20251013-001.parquet", "ann/somebody's#1"]);
    assert_eq!(fixture.messages("ann").into_keys().collect::<Vec<_>>(), kept);
}

#[tokio::test]
async fn an_intent_that_cannot_be_cleared_waits_for_the_start_after() {
    let fixture = Fixture::new();
    fixture.send_cold("ann", &ai("c"), &["kept"]).await;
    let (_, path) = fixture.store.reserve_segment(&id("ann")).await.unwrap();
    let stuck = fixture.folder.path().join(path);
    std::fs::create_dir(&stuck).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.messages("ann").len(), 1, "it starts all the same");
    std::fs::remove_dir(&stuck).unwrap();
    std::fs::write(&stuck, "half of a segment").unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.files(), ["ann/", "ann/batch-20251013-001.parquet"]);
}

#[tokio::test]
async fn a_segment_that_cannot_be_written_leaves_nothing_behind() {
    let fixture = Fixture::new();
    fixture.send("ann", &ai("c"), "hot").await.unwrap();
    let folder = fixture.folder.path().join("ann");
    std::fs::write(&folder, "in the way").unwrap();
    assert_eq!(fixture.store.consolidate(&id("ann")).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(std::fs::read_dir(fixture.store.spool()).unwrap().count(), 0);
    let mut intents = 0;
    let count = &mut |_: &[u8], _: &[u8]| {
        intents += 1;
        Ok(std::ops::ControlFlow::Continue(()))
    };
    fixture.store.inner.database.scan(Family::Intents, &[], &[0xff], false, count).unwrap();
    assert_eq!(intents, 0);
    std::fs::remove_file(&folder).unwrap();
    assert_eq!(fixture.store.consolidate(&id("ann")).await.unwrap().unwrap().messages, 1);
}
