//! What the audit log says of deletions and of admins.

use serde_json::json;

use super::*;

/// Who did what, oldest first.
async fn log(world: &World, name: &str) -> Vec<Vec<Value>> {
    world.rows(name, "SELECT actor, action, target FROM auditLog ORDER BY auditId").await
}

fn entry(actor: &str, action: &str, target: &str) -> Vec<Value> {
    vec![json!(actor), json!(action), json!(target)]
}

const ONE: [&str; 1] = ["INSERT INTO messages (msgId, conversationId, content) VALUES (1, 'c', 'qzx')"];

#[tokio::test]
async fn each_read_of_an_admin_is_recorded_where_it_read() {
    let world = World::with(Tier::Hot, "anna", &ONE).await;
    for _ in 0..2 {
        assert_eq!(world.rows("root", "SELECT content FROM anna.messages").await, [["qzx"]]);
    }
    let seen = entry("root", "admin.select", "anna.messages");
    assert_eq!(log(&world, "anna").await, [seen.clone(), seen.clone()], "the second, too, which asked the same");

    world.rows("root", "EXPLAIN SELECT content FROM anna.messages").await;
    world.rows("root", "SELECT * FROM system.users").await;
    assert_eq!(world.code("root", "SELECT nothing FROM anna.messages").await, ErrorCode::UnknownColumn);
    assert_eq!(log(&world, "anna").await.len(), 2, "none of these has read a row of hers");
    world.rows("root", "EXPLAIN ANALYZE SELECT content FROM anna.messages").await;
    assert_eq!(log(&world, "anna").await.len(), 3);

    // It prints how many rows there are, and the ids of the first and last.
    world.rows("root", "EXPLAIN VERBOSE SELECT content FROM anna.messages").await;
    assert_eq!(log(&world, "anna").await.len(), 4);

    let both =
        "SELECT COUNT(*) FROM anna.messages a JOIN ben.messages b ON a.msgId = b.msgId JOIN anna.messages c ON true";
    world.rows("root", both).await;
    assert_eq!(log(&world, "anna").await.len(), 5, "once, however often it is named");
    assert!(log(&world, "ben").await.is_empty(), "who is not there has no log");
    let of_ben = entry("root", "admin.select", "ben.messages");
    assert_eq!(log(&world, "root").await, std::slice::from_ref(&of_ben), "one's own does not count");

    world.rows("root", "SELECT COUNT(*) FROM *.messages").await;
    assert_eq!(log(&world, "root").await, [of_ben, entry("root", "admin.select", "*.messages")]);
    assert_eq!(log(&world, "anna").await.len(), 5);
}

#[tokio::test]
async fn each_write_of_an_admin_is_recorded_with_what_it_changed() {
    let world = World::with(Tier::Hot, "anna", &ONE).await;
    let admins = "SELECT action, target FROM auditLog WHERE action LIKE 'admin.%' ORDER BY auditId";
    world.run("root", "INSERT INTO anna.messages (msgId, conversationId, content) VALUES (2, 'c', 'two')").await;
    world.run("root", "UPDATE anna.messages SET content = 'TWO' WHERE msgId = 2").await;
    world.run("root", "DELETE FROM anna.messages WHERE msgId = 2").await;
    let mut expected = vec![
        [json!("admin.insert"), json!("anna.messages")],
        [json!("admin.update"), json!("anna.messages")],
        [json!("admin.delete"), json!("anna.messages")],
    ];
    assert_eq!(world.rows("anna", admins).await, expected);
    world.run("root", "DELETE FROM anna.messages WHERE msgId = 4711").await;
    world.run("root", "UPDATE anna.deletedMessages SET deletedAt = NULL WHERE false").await;
    let taken = "INSERT INTO anna.messages (msgId, conversationId, content) VALUES (1, 'c', 'x')";
    assert_eq!(world.code("root", taken).await, ErrorCode::Conflict);
    assert_eq!(world.rows("anna", admins).await, expected, "what changed nothing wrote nothing");

    // What a write reads of others is a read, whatever it writes.
    let copy = "INSERT INTO messages (conversationId, content) SELECT 'copy', content FROM anna.messages WHERE content = 'qzx'";
    assert_eq!(world.run("root", copy).await, 1);
    expected.push([json!("admin.select"), json!("anna.messages")]);
    assert_eq!(world.rows("anna", admins).await, expected);
    assert_eq!(world.run("root", &copy.replace("qzx", "none")).await, 0);
    expected.push([json!("admin.select"), json!("anna.messages")]);
    assert_eq!(world.rows("anna", admins).await, expected);

    world.run("root", "UPDATE *.messages SET metadata = '{}' WHERE msgId = 1").await;
    assert_eq!(world.rows("root", admins).await, [[json!("admin.update"), json!("*.messages")]]);
    assert_eq!(world.rows("anna", admins).await, expected);
}

#[tokio::test]
async fn a_write_of_an_admin_that_fails_tells_nothing_and_is_recorded_as_a_read() {
    for tier in TIERS {
        let world = World::with(tier, "anna", &ONE).await;
        for sql in [
            "DELETE FROM anna.messages WHERE msgId = 1 AND CAST(content AS BIGINT) = 1",
            "UPDATE anna.messages SET content = CAST(CAST(content AS BIGINT) AS VARCHAR)",
            "INSERT INTO messages (conversationId, content, timestamp) SELECT 'c', 'x', content FROM anna.messages",
        ] {
            let Err(error) = world.execute("root", sql).await else { panic!("it was not refused: {sql}") };
            assert_eq!(error.code, ErrorCode::InvalidValue, "{tier:?} {sql}: {error}");
            assert!(!error.message.contains("qzx"), "{tier:?} {sql}: {error}");
        }
        let read = entry("root", "admin.select", "anna.messages");
        assert_eq!(log(&world, "anna").await, [read.clone(), read.clone(), read.clone()], "{tier:?}");
        assert_eq!(world.code("root", "UPDATE anna.messages SET content = nothing").await, ErrorCode::UnknownColumn);
        let number = "INSERT INTO anna.messages (conversationId, content, timestamp) VALUES ('c', 'x', 'soon')";
        assert_eq!(world.code("root", number).await, ErrorCode::InvalidValue);
        assert_eq!(log(&world, "anna").await.len(), 3, "neither has read a row of hers");
    }
}

#[tokio::test]
async fn deletion_restoring_and_purging_are_recorded() {
    for tier in TIERS {
        let world = World::with(tier, "anna", &ONE).await;
        for sql in [
            "DELETE FROM messages",
            "UPDATE deletedMessages SET deletedAt = NULL",
            "DELETE FROM messages",
            "DELETE FROM deletedMessages",
        ] {
            assert_eq!(world.run("anna", sql).await, 1, "{tier:?}: {sql}");
        }
        let actions = "SELECT actor, action FROM auditLog ORDER BY auditId";
        let expected = ["message.delete", "message.restore", "message.delete", "message.purge"];
        assert_eq!(world.rows("anna", actions).await, expected.map(|action| vec![json!("anna"), json!(action)]));
        let content = "SELECT COUNT(*) FROM auditLog WHERE details LIKE '%qzx%' OR target LIKE '%qzx%'";
        assert_eq!(world.rows("anna", content).await, [[0]], "{tier:?}");
    }
}

#[tokio::test]
async fn the_log_is_its_owners_and_written_by_nobody() {
    let world = World::with(Tier::Hot, "anna", &ONE).await;
    world.run("anna", "DELETE FROM messages").await;
    for sql in [
        "INSERT INTO auditLog (actor) VALUES ('x')",
        "INSERT INTO auditLog SELECT * FROM auditLog WHERE false",
        "UPDATE auditLog SET actor = 'x'",
        "UPDATE auditLog SET actor = 'x' WHERE false",
        "DELETE FROM auditLog",
    ] {
        assert_eq!(world.code("anna", sql).await, ErrorCode::Unsupported, "{sql}");
        assert_eq!(world.code("root", &sql.replace("auditLog", "*.auditLog")).await, ErrorCode::Unsupported, "{sql}");
    }
    assert_eq!(world.code("ben", "SELECT * FROM anna.auditLog").await, ErrorCode::ScopeViolation);
    assert!(log(&world, "ben").await.is_empty());
    assert_eq!(log(&world, "anna").await.len(), 1);
    let all = "SELECT owner, actor FROM *.auditLog WHERE action = 'message.delete'";
    assert_eq!(world.rows("root", all).await, [[json!("anna"), json!("anna")]]);
}
