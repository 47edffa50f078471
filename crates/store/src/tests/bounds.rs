//! Everything that a client hands over has a bound, and is stored once.

use std::{collections::BTreeMap, ops::ControlFlow};

use kalamdb_protocol::{ErrorCode, MAX_ID_CHARS};

use super::{Fixture, add, ai, group, id, message};
use crate::{
    Change, ConversationKey, Error, ErrorKind, FeedItem, Message, NewMessage, RowChange,
    command::{Command, Write},
    database::Read,
    keys::{self, Family},
    records::{ConversationRecord, Record},
};

/// The largest metadata of the tests' rules.
fn largest() -> String {
    format!("{{\"a\":\"{}\"}}", "m".repeat(4_096 - 8))
}

fn create(owner: &str, key: &ConversationKey, metadata: Option<String>) -> Change {
    Change::CreateConversation { owner: id(owner), id: key.id.clone(), kind: Some(key.kind), created: None, metadata }
}

/// The owner gives a conversation other metadata.
fn set(fixture: &Fixture, owner: &str, key: &ConversationKey, metadata: Option<String>) -> Change {
    let version = fixture.conversation(owner, key).unwrap().version;
    let (owner, key, metadata) = (id(owner), key.clone(), Some(metadata));
    Change::SetConversation { owner, key, version, metadata, last_msg_id: None, last_read: None }
}

fn set_participant(fixture: &Fixture, of: &ConversationKey, user: &str, metadata: Option<String>) -> Change {
    let version = fixture.store.snapshot().participant(&of.id, &id(user)).unwrap().unwrap().version;
    let (owner, user, metadata) = (id(user), id(user), Some(metadata));
    Change::SetParticipant { owner, group: of.id.clone(), user, version, role: None, metadata }
}

impl Fixture {
    fn metadata(&self, owner: &str, key: &ConversationKey) -> Option<String> {
        self.conversation(owner, key).unwrap().metadata
    }

    /// The families with a value that holds this text, and how many.
    fn holding(&self, text: &str) -> BTreeMap<&'static str, usize> {
        let mut found = BTreeMap::new();
        for family in Family::ALL {
            let look = &mut |_: &[u8], value: &[u8]| {
                if value.windows(text.len()).any(|part| part == text.as_bytes()) {
                    *found.entry(family.name()).or_default() += 1;
                }
                Ok(ControlFlow::Continue(()))
            };
            self.store.inner.database.scan(family, &[], &[0xff], false, look).unwrap();
        }
        found
    }
}

#[tokio::test]
async fn metadata_has_a_bound_wherever_it_is_given() {
    let fixture = Fixture::new();
    let (g, c) = (group("g"), ai("c"));
    fixture.commit("ann", vec![create("ann", &g, Some(largest()))]).await.unwrap();
    let sent =
        fixture.commit("ann", vec![Change::Send(NewMessage { metadata: Some(largest()), ..message("ann", &c, "x") })]);
    let msg_id = sent.await.unwrap().sent[0].msg_id;
    let over = || Some(largest() + " ");
    let edit = Change::Edit {
        owner: id("ann"),
        message: fixture.hot("ann", msg_id).message,
        content: None,
        metadata: Some(over()),
        copies: vec![(id("ann"), fixture.place("ann", msg_id))],
    };
    let participant =
        Change::AddParticipant { owner: id("ann"), group: g.id.clone(), user: id("bob"), role: None, metadata: over() };
    let changes = [
        Change::Send(NewMessage { metadata: over(), ..message("ann", &c, "x") }),
        edit,
        create("ann", &ai("d"), over()),
        set(&fixture, "ann", &c, over()),
        set(&fixture, "ann", &g, over()),
        participant,
        set_participant(&fixture, &g, "ann", over()),
    ];
    let seq = fixture.store.last_seq().unwrap();
    for change in changes {
        let Error { kind, message } = fixture.commit("ann", vec![change]).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused(ErrorCode::PayloadTooLarge));
        assert!(message.contains("message.max_metadata_bytes") && message.contains("4096"), "{message}");
    }
    assert_eq!(fixture.store.last_seq().unwrap(), seq);
}

#[tokio::test]
async fn a_sender_is_no_longer_than_an_id() {
    let fixture = Fixture::new();
    let from =
        |chars: usize| Change::Send(NewMessage { from: Some("é".repeat(chars)), ..message("ann", &ai("c"), "x") });
    fixture.commit("ann", vec![from(MAX_ID_CHARS)]).await.unwrap();
    for chars in [MAX_ID_CHARS + 1, 1 << 20] {
        let error = fixture.commit("ann", vec![from(chars)]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused(ErrorCode::InvalidValue));
    }
}

#[test]
fn every_text_of_every_change_counts() {
    const MIB: usize = 1 << 20;
    let long = || "x".repeat(MIB);
    let some = || Some(long());
    let (owner, key, place) = (id("ann"), ai("c"), crate::Place::Hot { version: 1 });
    let (conversation, group, user) = (key.clone(), key.id.clone(), id("bob"));
    let old = Message {
        msg_id: 1,
        conversation: key.clone(),
        from: String::new(),
        timestamp: 1,
        content: String::new(),
        content_ref: None,
        metadata: None,
    };
    let edit = |message: Message, content, metadata| Change::Edit {
        owner: id("ann"),
        message,
        content,
        metadata,
        copies: Vec::new(),
    };
    let new = || message("ann", &ai("c"), "");
    let changes = [
        Change::Send(NewMessage { content: long(), ..new() }),
        Change::Send(NewMessage { from: some(), ..new() }),
        Change::Send(NewMessage { content_ref: some(), ..new() }),
        Change::Send(NewMessage { metadata: some(), ..new() }),
        edit(old.clone(), some(), None),
        edit(old.clone(), None, Some(some())),
        edit(Message { content: long(), ..old.clone() }, None, None),
        edit(Message { metadata: some(), ..old }, None, None),
        Change::Delete { owner: owner.clone(), msg_id: 1, conversation: conversation.clone(), from: long(), place },
        Change::Restore { owner: owner.clone(), msg_id: 1, conversation, from: long(), place },
        create("ann", &key, some()),
        Change::SetConversation {
            owner: owner.clone(),
            key: key.clone(),
            version: 1,
            metadata: Some(some()),
            last_msg_id: None,
            last_read: None,
        },
        Change::DeleteConversation { owner: owner.clone(), key, version: 1, cold: vec![(1, vec![(0, 1); MIB / 8])] },
        Change::AddParticipant {
            owner: owner.clone(),
            group: group.clone(),
            user: user.clone(),
            role: None,
            metadata: some(),
        },
        Change::SetParticipant { owner, group, user, version: 1, role: None, metadata: Some(some()) },
    ];
    for change in changes {
        let actor = crate::Actor { user: id("ann"), admin: false };
        let proposal = crate::Proposal { actor, idempotency: None, expect: Vec::new(), changes: vec![change] };
        let bytes = Command::from(Write { proposal, texts: BTreeMap::new() }).bytes();
        assert!((MIB..MIB + 2_000).contains(&bytes), "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_s_metadata_is_stored_once_and_seen_by_all() {
    let fixture = Fixture::new();
    let g = group("g");
    fixture.commit("ann", vec![create("ann", &g, Some(r#"{"n":1}"#.to_owned()))]).await.unwrap();
    fixture.send("ann", &g, "hello").await.unwrap();
    for user in ["bob", "cid"] {
        fixture.commit("ann", vec![add("ann", &g, user)]).await.unwrap();
        assert_eq!(fixture.metadata(user, &g).as_deref(), Some(r#"{"n":1}"#), "as it was when {user} came");
    }
    let before = fixture.conversation("bob", &g).unwrap();
    fixture.later(1);
    fixture.commit("ann", vec![set(&fixture, "ann", &g, Some(largest()))]).await.unwrap();
    for _ in 0..3 {
        fixture.send("bob", &g, "hi").await.unwrap();
    }
    assert_eq!(fixture.holding(&largest()), [("groups", 1)].into());
    for user in ["ann", "bob", "cid"] {
        assert_eq!(fixture.metadata(user, &g), Some(largest()), "{user}");
    }
    let after = fixture.conversation("bob", &g).unwrap();
    assert!(after.version > before.version && after.updated > before.updated, "bob's view of it has changed");
    assert_eq!(
        fixture.store.snapshot().conversations(&id("cid")).unwrap().next().unwrap().unwrap().metadata,
        Some(largest())
    );
    let refused = fixture.commit("bob", vec![set(&fixture, "bob", &g, None)]).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused(ErrorCode::Forbidden));
    fixture.commit("ann", vec![set(&fixture, "ann", &g, None)]).await.unwrap();
    assert_eq!((fixture.metadata("ann", &g), fixture.metadata("cid", &g)), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_a_group_keeps_its_metadata_as_it_was() {
    let fixture = Fixture::new();
    let g = group("g");
    let metadata = |n: u32| Some(format!("{{\"n\":{n}}}"));
    fixture.commit("ann", vec![create("ann", &g, metadata(1))]).await.unwrap();
    fixture.commit("ann", vec![add("ann", &g, "bob")]).await.unwrap();
    fixture.send("ann", &g, "hello").await.unwrap();
    let leave = |user: &str| {
        let version = fixture.store.snapshot().participant(&g.id, &id(user)).unwrap().unwrap().version;
        Change::RemoveParticipant { owner: id(user), group: g.id.clone(), user: id(user), version }
    };
    fixture.commit("bob", vec![leave("bob")]).await.unwrap();
    fixture.commit("ann", vec![set(&fixture, "ann", &g, metadata(2))]).await.unwrap();
    assert_eq!((fixture.metadata("ann", &g), fixture.metadata("bob", &g)), (metadata(2), metadata(1)));
    fixture.commit("ann", vec![add("ann", &g, "bob")]).await.unwrap();
    assert_eq!(fixture.metadata("bob", &g), metadata(2));
    assert_eq!(fixture.holding(r#"{"n":1}"#), BTreeMap::new(), "his own went when he came back");
    // With the last one the group goes; each still knows how it was.
    fixture.commit("ann", vec![leave("ann")]).await.unwrap();
    fixture.commit("bob", vec![set(&fixture, "bob", &g, metadata(3))]).await.unwrap();
    fixture.commit("bob", vec![leave("bob")]).await.unwrap();
    assert_eq!((fixture.metadata("ann", &g), fixture.metadata("bob", &g)), (metadata(2), metadata(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_an_ai_conversation_is_not_written_with_each_message() {
    let fixture = Fixture::with_trash();
    let c = ai("c");
    fixture.commit("ann", vec![create("ann", &c, Some(largest()))]).await.unwrap();
    let msg_id = fixture.send("ann", &c, "hello").await.unwrap();
    assert_eq!(fixture.holding(&largest()), [("conversation_metadata", 1)].into());
    assert_eq!(fixture.metadata("ann", &c), Some(largest()));
    // It goes with the conversation, and comes back with it.
    let version = fixture.conversation("ann", &c).unwrap().version;
    let delete = Change::DeleteConversation { owner: id("ann"), key: c.clone(), version, cold: Vec::new() };
    fixture.commit("ann", vec![delete]).await.unwrap();
    assert_eq!(fixture.holding(&largest()), [("trash_conversations", 1)].into());
    let place = fixture.trashed("ann", msg_id);
    let (owner, conversation, from) = (id("ann"), c.clone(), "ann".to_owned());
    fixture.commit("ann", vec![Change::Restore { owner, msg_id, conversation, from, place }]).await.unwrap();
    assert_eq!(fixture.metadata("ann", &c), Some(largest()));
    assert_eq!(fixture.holding(&largest()), [("conversation_metadata", 1)].into());
    fixture.commit("ann", vec![set(&fixture, "ann", &c, None)]).await.unwrap();
    assert_eq!(fixture.metadata("ann", &c), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_told_how_metadata_was_and_is() {
    let fixture = Fixture::new();
    let mut feed = fixture.store.feed().unwrap();
    let (g, c) = (group("g"), ai("c"));
    let metadata = |n: u32| Some(format!("{{\"n\":{n}}}"));
    fixture.commit("ann", vec![create("ann", &g, metadata(1)), create("ann", &c, metadata(1))]).await.unwrap();
    fixture.commit("ann", vec![add("ann", &g, "bob")]).await.unwrap();
    let _watching = fixture.store.watch(None).await.unwrap();
    let mut told = async || {
        let FeedItem::Commit(commit) = feed.next().await.unwrap() else { panic!("nothing was missed") };
        let changes = commit.events.iter().filter_map(|event| match &event.change {
            RowChange::Conversation { before, after } => {
                let of =
                    |row: &Option<std::sync::Arc<crate::Conversation>>| row.as_ref().map(|row| row.metadata.clone());
                Some((event.owner.as_str().to_owned(), of(before), of(after)))
            }
            _ => None,
        });
        let mut changes: Vec<_> = changes.collect();
        changes.sort();
        changes
    };
    let change = |user: &str, before, after| (user.to_owned(), before, after);
    fixture.commit("ann", vec![set(&fixture, "ann", &g, metadata(2))]).await.unwrap();
    let both = (Some(metadata(1)), Some(metadata(2)));
    assert_eq!(
        told().await,
        [change("ann", both.0.clone(), both.1.clone()), change("bob", both.0.clone(), both.1.clone())]
    );
    fixture.commit("ann", vec![set(&fixture, "ann", &c, metadata(2))]).await.unwrap();
    assert_eq!(told().await, [change("ann", both.0, both.1)]);
    let version = fixture.store.snapshot().participant(&g.id, &id("bob")).unwrap().unwrap().version;
    let leave = Change::RemoveParticipant { owner: id("bob"), group: g.id.clone(), user: id("bob"), version };
    fixture.commit("bob", vec![leave]).await.unwrap();
    assert_eq!(told().await, [change("bob", Some(metadata(2)), None)]);
    let version = fixture.conversation("ann", &g).unwrap().version;
    let delete = Change::DeleteConversation { owner: id("ann"), key: g.clone(), version, cold: Vec::new() };
    fixture.commit("ann", vec![delete]).await.unwrap();
    assert_eq!(told().await, [change("ann", Some(metadata(2)), None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_a_folder_of_format_2_is_read_where_it_lies() {
    let fixture = Fixture::new();
    let (g, left, c) = (group("g"), group("left"), ai("c"));
    let old = || Some(r#"{"of":"format 2"}"#.to_owned());
    for key in [&g, &left, &c] {
        fixture.commit("ann", vec![create("ann", key, old())]).await.unwrap();
        fixture.send("ann", key, "hello").await.unwrap();
    }
    // As format 2 had it: in each view, joined or not, and nowhere else but in the group's row.
    let database = &fixture.store.inner.database;
    for (key, joined) in [(&g, true), (&left, false), (&c, true)] {
        let at = keys::conversation(&id("ann"), key);
        let mut view = ConversationRecord::decode(&database.get(Family::Conversations, &at).unwrap().unwrap()).unwrap();
        (view.metadata, view.joined) = (old(), joined);
        let view = view.encode().unwrap();
        let entries = [
            (Family::Conversations, at.as_slice(), Some(view.as_slice())),
            (Family::ConversationMetadata, at.as_slice(), None),
        ];
        database.write(entries, true).unwrap();
    }
    database.write([(Family::Groups, left.id.as_str().as_bytes(), None)], true).unwrap();
    let fixture = fixture.reopen();
    for key in [&g, &left, &c] {
        assert_eq!(fixture.metadata("ann", key), old(), "{key:?}");
    }
    fixture.send("ann", &g, "new").await.unwrap();
    fixture.send("ann", &c, "new").await.unwrap();
    fixture.commit("ann", vec![set(&fixture, "ann", &left, old())]).await.unwrap();
    for key in [&g, &left, &c] {
        assert_eq!(fixture.metadata("ann", key), old(), "{key:?}");
    }
    assert_eq!(fixture.holding("format 2"), [("groups", 1), ("conversation_metadata", 2)].into());
}
