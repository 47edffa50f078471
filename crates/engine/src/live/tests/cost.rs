//! What is shared, and how little is kept.

use std::sync::atomic::Ordering;

use super::*;
use crate::live::{
    delivery::{Delivery, DeliveryQueue, Entered},
    log::ChangeLog,
    rows::LiveTable,
    session::Session,
    subscription::Subscription,
};
use crate::sql::Schema;

#[tokio::test]
async fn a_group_s_message_is_written_down_once_for_all_who_ask_the_same() {
    let world = World::new();
    world.group("g", &["anna", "ben", "cara"]).await;
    let mut clients = Vec::new();
    for name in ["anna", "ben", "cara"] {
        let statement = format!("SELECT content FROM {name}.messages WHERE conversationId = 'g'");
        clients.push(world.watch(name, &statement).await);
    }
    let filters = world.engine.0.live.filters();
    assert_eq!(filters.len(), 1, "the schema makes no difference");
    world.say("anna", "g", "hello").await;
    for client in &clients {
        assert_eq!(client.told(1).await[0].1["content"], "hello");
    }
    assert_eq!(filters[0].encoded.load(Ordering::Relaxed), 1);

    world.run("anna", "UPDATE messages SET content = 'hello again' WHERE conversationId = 'g'").await;
    for client in &clients {
        assert_eq!(client.told(1).await[0].0, "update");
    }
    assert_eq!(filters[0].encoded.load(Ordering::Relaxed), 2, "what a row was before is not written down");

    let another = world.watch("anna", "SELECT content FROM messages WHERE conversationId = 'h'").await;
    assert_eq!(world.engine.0.live.filters().len(), 2);
    drop(another);
    assert_eq!(world.engine.0.live.filters().len(), 1, "nobody has it any more");
}

#[test]
fn an_idle_subscription_is_small() {
    let kept = size_of::<LiveSession>() + size_of::<Session>() + size_of::<Subscription>();
    assert!(kept <= 320, "{kept}");
}

#[test]
fn tables_are_found_by_their_names() {
    let names = LiveTable::ALL.map(|table| table.description().name);
    assert_eq!(names, ["messages", "conversations", "conversationUsers"]);
    assert_eq!(LiveTable::named("conversationUsers"), Some(LiveTable::Participants));
    assert_eq!(LiveTable::named("auditLog"), None);
}

#[tokio::test]
async fn the_logs_of_all_owners_are_one_in_commit_order() {
    let world = World::new();
    let mut expected = Vec::new();
    for number in 1..=20 {
        let owner = ["anna", "ben", "cara"][number % 3];
        world.insert(owner, "c", &[(i64::try_from(number).unwrap(), "x")]).await;
        expected.push(owner.to_owned());
    }
    let snapshot = world.store.snapshot();
    for most in [1, 7, 100] {
        let mut log = ChangeLog::open(&snapshot, &Schema::All, (0, 0)).unwrap().unwrap();
        let mut seen = Vec::new();
        loop {
            let some = log.next(most).unwrap().unwrap();
            assert!(some.len() <= most);
            if some.is_empty() {
                break;
            }
            seen.extend(some.into_iter().map(|(owner, change)| (change.seq, change.n, owner.as_str().to_owned())));
        }
        assert!(seen.is_sorted());
        assert_eq!(seen.into_iter().map(|(.., owner)| owner).collect::<Vec<_>>(), expected, "{most} at a time");
    }
}

#[tokio::test]
async fn a_lane_keeps_the_order_and_takes_no_more_than_it_may() {
    let folder = TempDir::new().unwrap();
    let store = open_store(folder.path(), Arc::new(Shifted::default()));
    let mut feed = store.feed().unwrap();
    let _watching = store.watch(Some(user("anna"))).await.unwrap();
    let actor = kalamdb_store::Actor { user: user("anna"), admin: false };
    let create = kalamdb_store::Change::CreateConversation {
        owner: user("anna"),
        id: ConversationId::new("c").unwrap(),
        kind: None,
        created: None,
        metadata: None,
    };
    let proposal = kalamdb_store::Proposal { actor, idempotency: None, expect: vec![], changes: vec![create] };
    store.commit(proposal).await.unwrap();
    let Some(kalamdb_store::FeedItem::Commit(commit)) = feed.next().await else { panic!("nothing is told") };

    let queue = DeliveryQueue::default();
    let delivery = || Delivery::new(Arc::clone(&commit), Vec::new());
    assert!(matches!(queue.enter(delivery()), Entered::First));
    let mut waiting = 1;
    while matches!(queue.enter(delivery()), Entered::Waits) {
        waiting += 1;
    }
    assert!(waiting > 1);
    assert_eq!(std::iter::from_fn(|| queue.next()).count(), waiting, "the one that did not fit is not in it");
    assert!(matches!(queue.enter(delivery()), Entered::First), "there is nobody at it any more");
}
