//! Segments rewritten: what is gone is gone from the files, what can come back still can.

use std::sync::{Arc, OnceLock};

use super::{DAY, Fixture, ai, delete, file_rows, id};
use crate::{Actor, Change, ColdSummary, Compacted, Place, Proposal, Step, Store};

async fn delete_cold(store: &Store, of: &str, at: &[(u64, u32, i64)], left: Option<(i64, i64)>) {
    let delete = |(segment, position, msg_id): &(u64, u32, i64)| {
        delete("ann", "ann", &ai(of), *msg_id, Place::Cold { segment: *segment, position: *position })
    };
    let ends = Change::Cold(ColdSummary { owner: id("ann"), conversation: ai(of), msg_ids: left });
    let changes = at.iter().map(delete).chain([ends]).collect();
    let actor = Actor { user: id("ann"), admin: false };
    store.commit(Proposal { actor, idempotency: None, expect: Vec::new(), changes }).await.unwrap();
}

impl Fixture {
    fn paths(&self) -> Vec<String> {
        let segments = self.store.snapshot().segments(&id("ann")).unwrap();
        segments.into_iter().map(|segment| segment.path).collect()
    }

    fn rows(&self) -> Vec<String> {
        self.paths().iter().flat_map(|path| file_rows(self.folder.path(), path)).map(|row| row.2).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_segments_become_one_in_order() {
    let fixture = Fixture::new();
    fixture.send_cold("ann", &ai("b"), &["b0", "b1"]).await;
    fixture.send_cold("ann", &ai("a"), &["a0"]).await;
    fixture.send_cold("ann", &ai("b"), &["b2"]).await;
    let before = fixture.messages("ann");
    assert_eq!(fixture.store.compact(&id("ann"), false).await.unwrap(), Compacted::default(), "three are too few");
    let done = fixture.store.compact(&id("ann"), true).await.unwrap();
    assert_eq!(done, Compacted { replaced: 3, written: 1, dropped_rows: 0 });
    assert_eq!(fixture.rows(), ["a0", "b0", "b1", "b2"]);
    assert_eq!(fixture.messages("ann"), before);
    assert_eq!(fixture.store.sweep().await.unwrap().removed_files, 3);
    assert_eq!(fixture.files(), ["ann/".to_owned(), fixture.paths().remove(0)]);
    assert_eq!(fixture.store.compact(&id("ann"), true).await.unwrap(), Compacted::default(), "nothing to do");
    let fixture = fixture.reopen();
    assert_eq!(fixture.messages("ann"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_gone_leave_the_files_and_others_do_not() {
    let fixture = Fixture::with_trash();
    let ids = fixture.send_cold("ann", &ai("c"), &["0", "1", "2", "3"]).await;
    delete_cold(&fixture.store, "c", &[(1, 1, ids[1])], Some((ids[0], ids[3]))).await;
    fixture.later(DAY);
    delete_cold(&fixture.store, "c", &[(1, 2, ids[2])], Some((ids[0], ids[3]))).await;
    assert_eq!(fixture.store.compact(&id("ann"), true).await.unwrap(), Compacted::default(), "both can come back");
    fixture.later(9 * DAY);
    assert_eq!(fixture.store.sweep().await.unwrap().purged_messages, 1);
    let done = fixture.store.compact(&id("ann"), false).await.unwrap();
    assert_eq!(done, Compacted { replaced: 1, written: 1, dropped_rows: 1 });
    assert_eq!(fixture.rows(), ["0", "2", "3"]);
    assert_eq!(fixture.messages("ann").into_values().collect::<Vec<_>>(), ["0", "3"]);
    let trash = fixture.store.snapshot().cold_trash(&id("ann")).unwrap().remove(0);
    assert_eq!((trash.segment.number, trash.positions.iter().collect::<Vec<_>>()), (2, vec![1]));
    let place = Place::TrashedCold { deletion: trash.deletion, segment: 2, position: 1 };
    let restore =
        Change::Restore { owner: id("ann"), msg_id: ids[2], conversation: ai("c"), from: "ann".to_owned(), place };
    fixture.commit("ann", vec![restore]).await.unwrap();
    assert_eq!(fixture.messages("ann").into_values().collect::<Vec<_>>(), ["0", "2", "3"]);
    fixture.later(10 * DAY);
    assert_eq!(fixture.store.sweep().await.unwrap().purged_messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trash_that_moved_expires_where_it_is() {
    let fixture = Fixture::with_trash();
    let ids = fixture.send_cold("ann", &ai("c"), &["0", "1"]).await;
    fixture.send_cold("ann", &ai("d"), &["2"]).await;
    delete_cold(&fixture.store, "c", &[(1, 0, ids[0]), (1, 1, ids[1])], None).await;
    fixture.store.compact(&id("ann"), true).await.unwrap();
    assert_eq!(fixture.rows(), ["0", "1", "2"]);
    fixture.later(10 * DAY);
    assert_eq!(fixture.store.sweep().await.unwrap().purged_messages, 2);
    fixture.store.compact(&id("ann"), true).await.unwrap();
    assert_eq!(fixture.rows(), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_meanwhile_is_carried_over() {
    let shared: Arc<OnceLock<(Store, Vec<i64>)>> = Arc::default();
    let hook = Arc::clone(&shared);
    let fixture = Fixture::with_steps(move |step| {
        let (Step::SegmentWritten, Some((store, ids))) = (step, hook.get()) else { return };
        let (store, ids) = (store.clone(), ids.clone());
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(delete_cold(
                &store,
                "c",
                &[(2, 0, ids[2])],
                Some((ids[0], ids[3])),
            ));
        });
    });
    let mut ids = fixture.send_cold("ann", &ai("c"), &["0", "1"]).await;
    ids.extend(fixture.send_cold("ann", &ai("c"), &["2", "3"]).await);
    delete_cold(&fixture.store, "c", &[(1, 1, ids[1])], Some((ids[0], ids[3]))).await;
    assert!(shared.set((fixture.store.clone(), ids)).is_ok());
    fixture.store.compact(&id("ann"), true).await.unwrap();
    assert_eq!(fixture.rows(), ["0", "2", "3"]);
    assert_eq!(fixture.messages("ann").into_values().collect::<Vec<_>>(), ["0", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_an_old_segment_finishes_first() {
    let fixture = Fixture::new();
    fixture.send_cold("ann", &ai("c"), &["0"]).await;
    fixture.send_cold("ann", &ai("c"), &["1"]).await;
    let reader = fixture.store.snapshot();
    fixture.store.compact(&id("ann"), true).await.unwrap();
    assert_eq!(fixture.store.sweep().await.unwrap().removed_files, 0);
    for segment in reader.segments(&id("ann")).unwrap() {
        assert_eq!(file_rows(fixture.folder.path(), &segment.path).len(), 1);
    }
    drop(reader);
    fixture.store.litter().await;
    assert_eq!(fixture.store.sweep().await.unwrap().removed_files, 2);
    assert_eq!(fixture.files().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_rows_are_gone_no_file_is_left() {
    let fixture = Fixture::new();
    let ids = fixture.send_cold("ann", &ai("c"), &["0", "1"]).await;
    delete_cold(&fixture.store, "c", &[(1, 0, ids[0]), (1, 1, ids[1])], None).await;
    let done = fixture.store.compact(&id("ann"), false).await.unwrap();
    assert_eq!(done, Compacted { replaced: 1, written: 0, dropped_rows: 2 });
    fixture.store.sweep().await.unwrap();
    assert!(fixture.files().is_empty(), "{:?}", fixture.files());
}
