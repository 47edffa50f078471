//! Deleted messages: back again, or gone when their time is up.

use kalamdb_protocol::AuditAction;

use super::{DAY, Fixture, add, ai, delete, edit, group, id};
use crate::{Change, ColdSummary, ColdTrash, Place, command::Expire, due::Due};

impl Fixture {
    fn cold_trash(&self, owner: &str) -> Vec<ColdTrash> {
        self.store.snapshot().cold_trash(&id(owner)).unwrap()
    }

    fn audit(&self, owner: &str) -> Vec<(AuditAction, String, String, String)> {
        let entries = self.store.snapshot().audit(&id(owner)).unwrap();
        entries
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.action, entry.actor, entry.target, entry.details))
            .collect()
    }

    async fn delete_conversation(&self, owner: &str, key: &crate::ConversationKey, cold: Vec<(u64, Vec<(u32, u32)>)>) {
        let version = self.conversation(owner, key).unwrap().version;
        let change = Change::DeleteConversation { owner: id(owner), key: key.clone(), version, cold };
        self.commit(owner, vec![change]).await.unwrap();
    }
}

fn restore(owner: &str, of: &crate::ConversationKey, msg_id: i64, place: Place) -> Change {
    Change::Restore { owner: id(owner), msg_id, conversation: of.clone(), from: owner.to_owned(), place }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_message_goes_and_comes_back() {
    let fixture = Fixture::with_trash();
    let keep = fixture.send("ann", &ai("c"), "keep").await.unwrap();
    let gone = fixture.send("ann", &ai("c"), "gone").await.unwrap();
    fixture.delete("ann", &ai("c"), &[gone]).await;
    assert_eq!(fixture.messages("ann").len(), 1);
    assert_eq!(fixture.conversation("ann", &ai("c")).unwrap().last_msg_id, Some(keep));
    let trashed: Vec<_> = fixture.store.snapshot().trash(&id("ann")).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!((trashed.len(), trashed[0].message.content.as_str()), (1, "gone"));
    assert_eq!(trashed[0].expires_at - trashed[0].deleted_at, 10 * DAY);
    let place = fixture.trashed("ann", gone);
    fixture.commit("ann", vec![restore("ann", &ai("c"), gone, place)]).await.unwrap();
    assert_eq!(fixture.messages("ann").len(), 2);
    assert_eq!(fixture.conversation("ann", &ai("c")).unwrap().last_msg_id, Some(gone));
    assert_eq!(fixture.store.snapshot().trash(&id("ann")).unwrap().count(), 0);
    fixture.later(11 * DAY);
    assert_eq!(fixture.store.sweep().await.unwrap().purged_messages, 0);
    assert_eq!(fixture.messages("ann").len(), 2);
    let actions: Vec<_> = fixture.audit("ann").into_iter().map(|(action, _, _, details)| (action, details)).collect();
    let one = r#"{"messages":1}"#.to_owned();
    assert_eq!(actions, [(AuditAction::MessageDelete, one.clone()), (AuditAction::MessageRestore, one)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_message_stays_in_its_segment_and_comes_back_there() {
    let fixture = Fixture::with_trash();
    let ids = fixture.send_cold("ann", &ai("c"), &["0", "1", "2"]).await;
    let ends = Change::Cold(ColdSummary { owner: id("ann"), conversation: ai("c"), msg_ids: Some((ids[0], ids[1])) });
    let cold = Place::Cold { segment: 1, position: 2 };
    fixture.commit("ann", vec![delete("ann", "ann", &ai("c"), ids[2], cold), ends]).await.unwrap();
    assert_eq!(fixture.messages("ann").into_values().collect::<Vec<_>>(), ["0", "1"]);
    let trash = fixture.cold_trash("ann").remove(0);
    assert_eq!((trash.segment.number, trash.positions.iter().collect::<Vec<_>>()), (1, vec![2]));
    let place = Place::TrashedCold { deletion: trash.deletion, segment: 1, position: 2 };
    fixture.commit("ann", vec![restore("ann", &ai("c"), ids[2], place)]).await.unwrap();
    assert_eq!(fixture.messages("ann").len(), 3);
    assert!(fixture.cold_trash("ann").is_empty());
    let again = fixture.commit("ann", vec![restore("ann", &ai("c"), ids[2], place)]).await.unwrap_err();
    assert_eq!(again.kind, crate::ErrorKind::Changed);
    assert_eq!(fixture.store.snapshot().owner(&id("ann")).unwrap().hot_messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_comes_back_with_its_first_message() {
    let fixture = Fixture::with_trash();
    let create = Change::CreateConversation {
        owner: id("ann"),
        id: ai("c").id,
        kind: Some(ai("c").kind),
        created: Some(1_700_000_000_000_000),
        metadata: Some(r#"{"title":"Trip"}"#.to_owned()),
    };
    fixture.commit("ann", vec![create]).await.unwrap();
    let cold = fixture.send_cold("ann", &ai("c"), &["0", "1"]).await;
    let hot = fixture.send("ann", &ai("c"), "2").await.unwrap();
    let before = fixture.conversation("ann", &ai("c")).unwrap();
    fixture.delete_conversation("ann", &ai("c"), vec![(1, vec![(0, 2)])]).await;
    assert!(fixture.messages("ann").is_empty());
    assert!(fixture.conversation("ann", &ai("c")).is_none());
    let deletion = fixture.cold_trash("ann")[0].deletion;
    let place = Place::TrashedCold { deletion, segment: 1, position: 1 };
    fixture.commit("ann", vec![restore("ann", &ai("c"), cold[1], place)]).await.unwrap();
    let place = fixture.trashed("ann", hot);
    fixture.commit("ann", vec![restore("ann", &ai("c"), hot, place)]).await.unwrap();
    let after = fixture.conversation("ann", &ai("c")).unwrap();
    assert_eq!((after.created, &after.metadata), (before.created, &before.metadata));
    assert_eq!((after.first_msg_id, after.last_msg_id), (Some(cold[1]), Some(hot)));
    // What was not restored goes when its time is up, and nothing else.
    fixture.later(10 * DAY);
    assert_eq!(fixture.store.sweep().await.unwrap().purged_messages, 1);
    assert_eq!(fixture.messages("ann").into_values().collect::<Vec<_>>(), ["1", "2"]);
    assert!(fixture.conversation("ann", &ai("c")).is_some());
    assert!(
        fixture
            .audit("ann")
            .iter()
            .any(|(action, actor, ..)| { (*action, actor.as_str()) == (AuditAction::MessagePurge, "system") })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_lives_hidden_as_long_as_its_message_can_come_back() {
    let fixture = Fixture::with_trash();
    let text = "x".repeat(3_000);
    let cold = fixture.send_cold("ann", &ai("c"), &[&text]).await[0];
    let hot = fixture.send("ann", &ai("c"), &text).await.unwrap();
    let paths = [cold, hot].map(|msg_id| format!("ann/msg-{msg_id}.bin"));
    fixture.delete_conversation("ann", &ai("c"), vec![(1, vec![(0, 1)])]).await;
    fixture.store.sweep().await.unwrap();
    for path in &paths {
        assert_eq!(fixture.read("ann", path).await, None);
        assert!(fixture.files().contains(path));
    }
    let deletion = fixture.cold_trash("ann")[0].deletion;
    let place = Place::TrashedCold { deletion, segment: 1, position: 0 };
    fixture.commit("ann", vec![restore("ann", &ai("c"), cold, place)]).await.unwrap();
    assert_eq!(fixture.read("ann", &paths[0]).await.unwrap(), text.as_bytes());
    fixture.later(10 * DAY);
    fixture.store.sweep().await.unwrap();
    assert!(fixture.files().contains(&paths[0]) && !fixture.files().contains(&paths[1]));
    // Deleted once more, now for good.
    let position = Place::Cold { segment: 1, position: 0 };
    let none = Change::Cold(ColdSummary { owner: id("ann"), conversation: ai("c"), msg_ids: None });
    fixture.commit("ann", vec![delete("ann", "ann", &ai("c"), cold, position), none]).await.unwrap();
    let deletion = fixture.cold_trash("ann")[0].deletion;
    let place = Place::TrashedCold { deletion, segment: 1, position: 0 };
    let purge = Change::Purge { owner: id("ann"), msg_id: cold, conversation: ai("c"), place };
    fixture.commit("ann", vec![purge]).await.unwrap();
    fixture.store.compact(&id("ann"), true).await.unwrap();
    fixture.store.sweep().await.unwrap();
    assert!(fixture.files().is_empty(), "{:?}", fixture.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_copies_in_the_trash() {
    let fixture = Fixture::with_trash();
    let g = group("g");
    fixture.send("ann", &g, "hello").await.unwrap();
    fixture.commit("ann", vec![add("ann", &g, "bob"), add("ann", &g, "cat")]).await.unwrap();
    let msg_id = fixture.send("ann", &g, "old").await.unwrap();
    let old = fixture.hot("ann", msg_id).message;
    fixture.store.consolidate(&id("cat")).await.unwrap().unwrap();
    fixture.delete("bob", &g, &[msg_id]).await;
    let none = Change::Cold(ColdSummary { owner: id("cat"), conversation: g.clone(), msg_ids: None });
    let cold = Place::Cold { segment: 1, position: 0 };
    fixture.commit("cat", vec![delete("cat", "ann", &g, msg_id, cold), none]).await.unwrap();
    let deletion = fixture.cold_trash("cat")[0].deletion;
    let copies = vec![
        (id("ann"), fixture.place("ann", msg_id)),
        (id("bob"), fixture.trashed("bob", msg_id)),
        (id("cat"), Place::TrashedCold { deletion, segment: 1, position: 0 }),
    ];
    let expires = fixture.cold_trash("cat")[0].expires_at;
    fixture.later(DAY);
    let text = "n".repeat(3_000);
    fixture.commit("ann", vec![edit("ann", old, &text, copies)]).await.unwrap();
    let path = fixture.hot("ann", msg_id).message.content_ref.unwrap();
    assert!(fixture.cold_trash("cat").is_empty());
    for user in ["bob", "cat"] {
        let row = fixture.store.snapshot().trashed_message(&id(user), msg_id).unwrap().unwrap();
        assert_eq!((row.message.content.len(), row.expires_at), (1_024, expires), "{user}");
        assert_eq!(fixture.read(user, &path).await, None, "{user}");
        let place = fixture.trashed(user, msg_id);
        let back = Change::Restore { owner: id(user), msg_id, conversation: g.clone(), from: "ann".to_owned(), place };
        fixture.commit(user, vec![back]).await.unwrap();
        assert_eq!(fixture.read(user, &path).await.unwrap(), text.as_bytes(), "{user}");
        assert_eq!(fixture.conversation(user, &g).unwrap().unread_count, 1, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trash_a_deletion_is_final() {
    let fixture = Fixture::new();
    let msg_id = fixture.send("ann", &ai("c"), "gone").await.unwrap();
    fixture.delete("ann", &ai("c"), &[msg_id]).await;
    assert_eq!(fixture.store.snapshot().trash(&id("ann")).unwrap().count(), 0);
    assert_eq!(fixture.audit("ann")[0].0, AuditAction::MessagePurge);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_audit_entries_go() {
    let fixture = Fixture::with_trash();
    let msg_id = fixture.send("ann", &ai("c"), "gone").await.unwrap();
    fixture.delete("ann", &ai("c"), &[msg_id]).await;
    fixture.later(399 * DAY);
    // The message's own end is noted, and that note is new.
    assert_eq!(fixture.store.sweep().await.unwrap().audit_rows, 0);
    fixture.later(2 * DAY);
    assert_eq!(fixture.store.sweep().await.unwrap().audit_rows, 1);
    assert_eq!(fixture.audit("ann").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_what_can_come_back_is_taken_and_the_refusal_says_where_it_is() {
    let fixture = Fixture::with_trash();
    let msg_id = fixture.send("ann", &ai("c"), "gone").await.unwrap();
    fixture.delete("ann", &ai("c"), &[msg_id]).await;
    let again = crate::NewMessage { msg_id: Some(msg_id), ..super::message("ann", &ai("c"), "again") };
    let refused = fixture.commit("ann", vec![Change::Send(again.clone())]).await.unwrap_err();
    assert_eq!(refused.kind, crate::ErrorKind::Refused(kalamdb_protocol::ErrorCode::Conflict));
    assert!(refused.message.contains("deletedMessages"), "{refused}");
    let place = fixture.trashed("ann", msg_id);
    let purge = Change::Purge { owner: id("ann"), msg_id, conversation: ai("c"), place };
    fixture.commit("ann", vec![purge]).await.unwrap();
    fixture.commit("ann", vec![Change::Send(again)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_expires_before_a_commit_s_time_says_so() {
    let fixture = Fixture::with_trash();
    let msg_id = fixture.send("ann", &ai("c"), "gone").await.unwrap();
    fixture.delete("ann", &ai("c"), &[msg_id]).await;
    let trashed = fixture.store.snapshot().trashed_message(&id("ann"), msg_id).unwrap().unwrap();
    let key = Due::Trash { owner: id("ann"), msg_id }.key(trashed.expires_at);
    let early = fixture.store.command(Expire { entries: vec![key.clone()] }).await.unwrap();
    assert_eq!(early.messages, 0);
    assert!(fixture.store.snapshot().trashed_message(&id("ann"), msg_id).unwrap().is_some());
    fixture.later(10 * DAY);
    assert_eq!(fixture.store.command(Expire { entries: vec![key] }).await.unwrap().messages, 1);
    assert_eq!(fixture.store.snapshot().trash(&id("ann")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_kept_as_long_as_the_rules_said_then() {
    let fixture = Fixture::with_trash();
    let first = fixture.send("ann", &ai("c"), "gone").await.unwrap();
    let second = fixture.send("ann", &ai("c"), "gone later").await.unwrap();
    fixture.delete("ann", &ai("c"), &[first]).await;
    let seq = fixture.store.last_seq().unwrap();
    let mut fixture = fixture.reopen();
    assert_eq!(fixture.store.last_seq().unwrap(), seq, "rules that are the same are no commit");
    fixture.settings.rules.trash_retention = Some(DAY);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.last_seq().unwrap(), seq + 1, "other rules are one");
    fixture.delete("ann", &ai("c"), &[second]).await;
    let trash: Vec<_> = fixture.store.snapshot().trash(&id("ann")).unwrap().map(|row| row.unwrap()).collect();
    let kept: Vec<_> = trash.iter().map(|row| row.expires_at - row.deleted_at).collect();
    assert_eq!(kept, [10 * DAY, DAY]);
}
