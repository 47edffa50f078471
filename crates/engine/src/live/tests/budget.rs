//! What a filter may cost: it ends when it takes too long, when nobody wants it any more, and keeps nobody else waiting.

use std::sync::atomic::Ordering;

use super::*;

/// Takes longer than any filter may for a message of some length, in steps that can each be afforded.
fn costly() -> String {
    let one = |number: usize| format!("levenshtein(repeat(content, 400), repeat('x', 4000)) < -{number}");
    format!("SELECT msgId FROM messages WHERE {}", (0..120).map(one).collect::<Vec<_>>().join(" OR "))
}

#[tokio::test]
async fn a_filter_that_takes_too_long_ends_and_nobody_else_notices() {
    let world = World::new();
    let slow = world.watch("anna", &costly()).await;
    let (own, other) = (
        world.watch("anna", "SELECT content FROM messages").await,
        world.watch("ben", "SELECT content FROM messages").await,
    );
    world.insert("anna", "c", &[(1, "hello"), (2, "there"), (4, "world")]).await;
    world.insert("ben", "c", &[(1, "hi")]).await;
    assert_eq!(other.told(1).await[0].1["content"], "hi");
    assert_eq!(own.told(3).await[2].1["content"], "world");
    let frame = slow.next().await;
    assert_eq!(frame["type"], "error", "{frame}");
    let codes = [json!("query_timeout"), json!("query_too_large")];
    assert!(codes.contains(&frame["code"]), "{frame}");
    assert!(frame["details"]["resumeAfter"].is_object(), "{frame}");
    world.insert("anna", "c", &[(3, "again")]).await;
    assert_eq!(own.told(1).await[0].1["content"], "again");
}

#[tokio::test]
async fn nothing_is_computed_for_who_has_gone() {
    let world = World::new();
    let client = world.watch("anna", "SELECT content FROM messages WHERE content <> 'x'").await;
    let filter = world.engine.0.live.filters().pop().unwrap();
    world.insert("anna", "c", &[(1, "one")]).await;
    client.told(1).await;
    let encoded = filter.encoded.load(Ordering::Relaxed);
    // All of her threads are taken, once the first delivery has given its own back, so that what comes waits in its queue.
    let threads = Arc::clone(client.session.session.share());
    let all = u32::try_from(world.engine.0.live.share).unwrap();
    let held = threads.acquire_many(all).await.unwrap();
    let root = world.watch("root", "SELECT content FROM anna.messages").await;
    world.insert("anna", "c", &[(2, "two")]).await;
    world.insert("anna", "c", &[(3, "three")]).await;
    // The third is handed out after the second has come to every queue.
    root.told(2).await;
    drop(client);
    drop(held);
    while Arc::strong_count(&filter) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(filter.encoded.load(Ordering::Relaxed), encoded, "nobody waits for it");
}
