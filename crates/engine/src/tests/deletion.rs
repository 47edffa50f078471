//! Deleting, bringing back, letting go, and what becomes of files.

use serde_json::json;

use super::*;
use crate::{read::Rows, sql};

/// Four messages of two conversations, ids 1 to 4, as statements.
const FOUR: [&str; 4] = [
    "INSERT INTO messages (msgId, conversationId, from, content) VALUES (1, 'a', 'ai', 'one')",
    "INSERT INTO messages (msgId, conversationId, from, content, metadata) VALUES (2, 'a', 'anna', 'two', '{\"k\":1}')",
    "INSERT INTO messages (msgId, conversationId, from, content) VALUES (3, 'b', 'ai', 'three')",
    "INSERT INTO messages (msgId, conversationId, from, content) VALUES (4, 'b', 'ai', 'four')",
];

const IDS: &str = "SELECT msgId FROM messages ORDER BY msgId";
const DELETED: &str = "SELECT msgId FROM deletedMessages ORDER BY msgId";
const ENDS: &str = "SELECT conversationId, firstMsgId, lastMsgId, unreadCount FROM conversations ORDER BY 1";

fn ids(ids: &[i64]) -> Vec<Vec<Value>> {
    ids.iter().map(|id| vec![json!(id)]).collect()
}

#[tokio::test]
async fn what_is_deleted_is_kept_for_its_time_and_comes_back_as_it_was() {
    for tier in TIERS {
        let world = World::with(tier, "anna", &FOUR).await;
        let before =
            (world.rows("anna", "SELECT * FROM messages ORDER BY msgId").await, world.rows("anna", ENDS).await);
        assert_eq!(world.run("anna", "DELETE FROM messages WHERE msgId IN (2, 4)").await, 2);
        assert_eq!(world.rows("anna", IDS).await, ids(&[1, 3]), "{tier:?}");
        let kept = "SELECT msgId, conversationId, conversationType, from, content, contentRef, metadata, \
                    (expiresAt - deletedAt) / 1000000 FROM deletedMessages ORDER BY msgId";
        let seconds = json!(RETENTION / 1_000_000);
        let expected = [
            vec![
                json!(2),
                json!("a"),
                json!("ai"),
                json!("anna"),
                json!("two"),
                json!(null),
                json!("{\"k\":1}"),
                seconds.clone(),
            ],
            vec![json!(4), json!("b"), json!("ai"), json!("ai"), json!("four"), json!(null), json!(null), seconds],
        ];
        assert_eq!(world.rows("anna", kept).await, expected, "{tier:?}");
        let ends = [[json!("a"), json!(1), json!(1), json!(1)], [json!("b"), json!(3), json!(3), json!(1)]];
        assert_eq!(world.rows("anna", ENDS).await, ends, "{tier:?}");

        let restore = "UPDATE deletedMessages SET deletedAt = NULL WHERE content LIKE '%o%'";
        assert_eq!(world.run("anna", restore).await, 2, "{tier:?}");
        assert_eq!(world.run("anna", restore).await, 0, "{tier:?}");
        let after = (world.rows("anna", "SELECT * FROM messages ORDER BY msgId").await, world.rows("anna", ENDS).await);
        assert_eq!(after, before, "{tier:?}");
        assert_eq!(world.rows("anna", DELETED).await, ids(&[]), "{tier:?}");
    }
}

#[tokio::test]
async fn counts_and_extremes_of_the_trash_are_right() {
    for tier in TIERS {
        let world = World::with(tier, "anna", &FOUR).await;
        let sql = "SELECT COUNT(*), MIN(msgId), MAX(msgId), MIN(conversationId), COUNT(DISTINCT deletedAt), \
                   MIN(deletedAt) > 0 AND MAX(expiresAt) > MAX(deletedAt) FROM deletedMessages";
        let answer = |number: i64, least: i64, most: i64, conversation: &str, times: i64| {
            [[json!(number), json!(least), json!(most), json!(conversation), json!(times), json!(true)]]
        };
        world.run("anna", "DELETE FROM messages WHERE msgId = 3").await;
        assert_eq!(world.rows("anna", sql).await, answer(1, 3, 3, "b", 1), "{tier:?}");
        // Another deletion in the same segment; then all of its rows are deleted, by three.
        world.clock.advance(1_000_000);
        world.run("anna", "DELETE FROM messages WHERE msgId IN (2, 4)").await;
        assert_eq!(world.rows("anna", sql).await, answer(3, 2, 4, "a", 2), "{tier:?}");
        world.clock.advance(1_000_000);
        world.run("anna", "DELETE FROM messages").await;
        assert_eq!(world.rows("anna", sql).await, answer(4, 1, 4, "a", 3), "{tier:?}");
        let filtered =
            "SELECT COUNT(*) FROM deletedMessages WHERE deletedAt = (SELECT MIN(deletedAt) FROM deletedMessages)";
        assert_eq!(world.rows("anna", filtered).await, [[1]], "{tier:?}");
        assert_eq!(world.rows("anna", "SELECT content FROM deletedMessages WHERE msgId = 3").await, [["three"]]);
        assert_eq!(
            world.rows("anna", "SELECT msgId FROM deletedMessages ORDER BY msgId DESC LIMIT 2").await,
            ids(&[4, 3])
        );
        assert_eq!(world.rows("anna", "SELECT COUNT(*) FROM messages").await, [[0]], "{tier:?}");
    }
    // All rows of a segment by one deletion: then its own numbers are exact.
    let world = World::with(Tier::Cold, "anna", &FOUR).await;
    world.run("anna", "DELETE FROM messages").await;
    let sql = "SELECT COUNT(*), MIN(msgId), MAX(msgId), MIN(timestamp) = MAX(timestamp) FROM deletedMessages";
    assert_eq!(world.rows("anna", sql).await[0][..3], [json!(4), json!(1), json!(4)]);
}

#[tokio::test]
async fn what_has_expired_is_gone_before_anybody_sweeps_it() {
    for tier in TIERS {
        let world = World::with(tier, "anna", &FOUR).await;
        world.run("anna", "DELETE FROM messages WHERE msgId = 1").await;
        world.clock.advance(RETENTION / 2);
        world.run("anna", "DELETE FROM messages WHERE msgId = 3").await;
        assert_eq!(world.rows("anna", DELETED).await, ids(&[1, 3]), "{tier:?}");
        world.clock.advance(RETENTION / 2);
        // The same question again: its answer did not change by a commit, and is another.
        assert_eq!(world.rows("anna", DELETED).await, ids(&[3]), "{tier:?}");
        assert_eq!(world.rows("anna", "SELECT COUNT(*) FROM deletedMessages").await, [[1]], "{tier:?}");
        assert_eq!(world.run("anna", "UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = 1").await, 0);
        assert_eq!(world.run("anna", "DELETE FROM deletedMessages WHERE msgId = 1").await, 0);
        assert_eq!(world.run("anna", "UPDATE deletedMessages SET deletedAt = NULL").await, 1, "{tier:?}");
        assert_eq!(world.rows("anna", IDS).await, ids(&[2, 3, 4]), "{tier:?}");
    }
}

#[tokio::test]
async fn what_is_purged_is_gone_and_its_id_free() {
    for tier in TIERS {
        let world = World::with(tier, "anna", &FOUR).await;
        world.run("anna", "DELETE FROM messages WHERE msgId < 4").await;
        let again = "INSERT INTO messages (msgId, conversationId, content) VALUES (1, 'a', 'again')";
        assert_eq!(world.code("anna", again).await, ErrorCode::Conflict, "{tier:?}");
        assert_eq!(world.run("anna", "DELETE FROM deletedMessages WHERE conversationId = 'a'").await, 2, "{tier:?}");
        assert_eq!(world.rows("anna", DELETED).await, ids(&[3]), "{tier:?}");
        assert_eq!(world.run("anna", "UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = 1").await, 0);
        assert_eq!(world.run("anna", again).await, 1, "{tier:?}");
        assert_eq!(world.rows("anna", IDS).await, ids(&[1, 4]), "{tier:?}");
    }
}

#[tokio::test]
async fn a_deleted_conversation_comes_back_with_its_messages() {
    for tier in TIERS {
        let world = World::with(tier, "anna", &FOUR).await;
        assert_eq!(world.run("anna", "DELETE FROM conversations WHERE conversationId = 'a'").await, 1);
        assert_eq!(world.rows("anna", DELETED).await, ids(&[1, 2]), "{tier:?}");
        assert_eq!(world.rows("anna", "SELECT conversationId FROM conversations").await, [["b"]], "{tier:?}");
        let restore =
            "UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = (SELECT MAX(msgId) FROM deletedMessages)";
        assert_eq!(world.run("anna", restore).await, 1, "{tier:?}");
        assert_eq!(world.rows("anna", IDS).await, ids(&[2, 3, 4]), "{tier:?}");
        let ends = [[json!("a"), json!(2), json!(2), json!(0)], [json!("b"), json!(3), json!(4), json!(2)]];
        assert_eq!(world.rows("anna", ENDS).await, ends, "{tier:?}");
    }
}

#[tokio::test]
async fn an_edit_reaches_the_copies_in_the_trash() {
    for cold in [false, true] {
        let world = World::new();
        world.run("anna", "INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')").await;
        world
            .run("anna", "INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'ben'), ('g', 'carl')")
            .await;
        world
            .run("anna", "INSERT INTO messages (conversationId, content) VALUES ('g', 'first'), ('g', 'second')")
            .await;
        if cold {
            world.consolidate().await;
        }
        world.run("ben", "DELETE FROM messages WHERE content = 'first'").await;
        assert_eq!(world.run("anna", "UPDATE messages SET content = 'edited' WHERE content = 'first'").await, 1);
        assert_eq!(world.rows("carl", "SELECT content FROM messages ORDER BY msgId").await, [["edited"], ["second"]]);
        assert_eq!(world.rows("ben", "SELECT content FROM messages").await, [["second"]], "cold: {cold}");
        assert_eq!(world.rows("ben", "SELECT content FROM deletedMessages").await, [["edited"]], "cold: {cold}");
        assert_eq!(world.run("ben", "UPDATE deletedMessages SET deletedAt = NULL").await, 1, "cold: {cold}");
        assert_eq!(world.rows("ben", "SELECT content FROM messages ORDER BY msgId").await, [["edited"], ["second"]]);
    }
}

#[tokio::test]
async fn the_trash_is_written_by_restoring_and_purging_alone() {
    let world = World::with(Tier::Hot, "anna", &FOUR).await;
    world.run("anna", "DELETE FROM messages").await;
    for (sql, code) in [
        ("UPDATE deletedMessages SET deletedAt = 1699000000", ErrorCode::InvalidValue),
        ("UPDATE deletedMessages SET deletedAt = deletedAt WHERE false", ErrorCode::InvalidValue),
        ("UPDATE deletedMessages SET expiresAt = NULL", ErrorCode::InvalidValue),
        ("UPDATE deletedMessages SET deletedAt = NULL, content = 'x'", ErrorCode::InvalidValue),
        ("INSERT INTO deletedMessages SELECT * FROM deletedMessages WHERE false", ErrorCode::Unsupported),
        ("SELECT * FROM ben.deletedMessages", ErrorCode::ScopeViolation),
        ("DELETE FROM ben.deletedMessages", ErrorCode::ScopeViolation),
    ] {
        assert_eq!(world.code("anna", sql).await, code, "{sql}");
    }
    assert_eq!(world.rows("anna", DELETED).await, ids(&[1, 2, 3, 4]));
    assert_eq!(world.rows("ben", DELETED).await, ids(&[]));
    let all = "SELECT owner, COUNT(*) FROM *.deletedMessages WHERE owner <> 'ben' GROUP BY owner";
    assert_eq!(world.rows("root", all).await, [[json!("anna"), json!(4)]]);
    assert_eq!(world.run("root", "UPDATE *.deletedMessages SET deletedAt = NULL WHERE msgId = 1").await, 1);
    assert_eq!(world.run("root", "DELETE FROM anna.deletedMessages WHERE msgId = 2").await, 1);
    assert_eq!(world.rows("anna", IDS).await, ids(&[1]));
    assert_eq!(world.rows("anna", DELETED).await, ids(&[3, 4]));
}

#[tokio::test]
async fn all_columns_of_one_schema_fit_another() {
    let world = World::with(Tier::Mixed, "anna", &FOUR).await;
    assert_eq!(world.run("root", "INSERT INTO ben.messages SELECT * FROM anna.messages WHERE msgId > 1").await, 3);
    assert_eq!(world.rows("ben", IDS).await, ids(&[2, 3, 4]));
}

/// Segments in the folder.
fn segment_files(world: &World, owner: &str) -> usize {
    let entries = std::fs::read_dir(world.folder.path().join(owner)).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".parquet")).count()
}

#[tokio::test]
async fn compaction_drops_what_is_purged_and_keeps_what_can_come_back() {
    let world = World::with(Tier::Cold, "anna", &FOUR).await;
    world.run("anna", "DELETE FROM messages WHERE msgId IN (1, 4)").await;
    world.run("anna", "DELETE FROM deletedMessages WHERE msgId = 1").await;
    let report = world.engine.compact(Some(&user("anna"))).await.unwrap();
    assert_eq!((report.replaced_segments, report.written_segments, report.dropped_rows), (1, 1, 1));
    assert_eq!(segment_files(&world, "anna"), 1, "the old file is gone");
    assert_eq!(world.rows("anna", IDS).await, ids(&[2, 3]));
    assert_eq!(world.run("anna", "UPDATE deletedMessages SET deletedAt = NULL").await, 1);
    assert_eq!(world.rows("anna", IDS).await, ids(&[2, 3, 4]));
    assert_eq!(world.engine.compact(None).await.unwrap().dropped_rows, 0, "nothing is left to drop");
}

#[tokio::test]
async fn a_statement_that_runs_keeps_its_files_and_an_answer_keeps_none() {
    let world = World::with(Tier::Cold, "anna", &FOUR).await;
    let contents = "SELECT content FROM messages ORDER BY msgId";
    let running = begun(&world, contents).await;
    world.run("anna", "DELETE FROM messages WHERE msgId = 1").await;
    world.run("anna", "DELETE FROM deletedMessages").await;
    world.engine.compact(None).await.unwrap();
    assert_eq!(rest(running).await, [["one"], ["two"], ["three"], ["four"]], "as it was when it began");
    // What is in the cache by now holds no file.
    assert_eq!(world.rows("anna", contents).await, [["two"], ["three"], ["four"]]);
    world.engine.compact(None).await.unwrap();
    assert_eq!(segment_files(&world, "anna"), 1);
}

#[tokio::test]
async fn compactions_at_the_same_time_do_no_harm() {
    let world = World::with(Tier::Cold, "anna", &FOUR).await;
    world.run("anna", "DELETE FROM messages WHERE msgId = 2").await;
    world.run("anna", "DELETE FROM deletedMessages").await;
    let anna = user("anna");
    let (one, other) = tokio::join!(world.engine.compact(None), world.engine.compact(Some(&anna)));
    assert_eq!(one.unwrap().dropped_rows + other.unwrap().dropped_rows, 1);
    assert_eq!(segment_files(&world, "anna"), 1);
    assert_eq!(world.rows("anna", IDS).await, ids(&[1, 3, 4]));
}

#[tokio::test]
async fn files_are_listed_for_admins() {
    let world = World::new();
    let threshold = world.store.rules().large_message_threshold_bytes;
    let large = QueryRequest {
        sql: "INSERT INTO messages (conversationId, content) VALUES ('c', $1)".to_owned(),
        params: Some(kalamdb_protocol::Params::Positional(vec![json!("x".repeat(threshold))])),
    };
    // A statement's text is limited, its parameters are not.
    world.engine.execute(&caller("anna"), large, None, None).await.unwrap();
    let sql = "SELECT userId, conversationId, conversationType, kind, contentType, bytes, references, state, \
               path = (SELECT MAX(contentRef) FROM anna.messages) FROM system.files";
    let expected = vec![
        json!("anna"),
        json!("c"),
        json!("ai"),
        json!("text"),
        json!("text/plain; charset=utf-8"),
        json!(threshold),
        json!(1),
        json!("live"),
        json!(true),
    ];
    assert_eq!(world.rows("root", sql).await, [expected]);
    assert_eq!(world.code("anna", "SELECT * FROM system.files").await, ErrorCode::ScopeViolation);
}

/// Everybody's rows by one statement: each owner's go to their own trash, and a file that they share lives until nobody
/// can have it back.
#[tokio::test]
async fn an_admin_deletes_of_all_owners_and_each_has_their_own_back() {
    for tier in TIERS {
        let world = World::new();
        world.run("anna", "INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')").await;
        for name in ["ben", "cleo"] {
            let join = format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', '{name}')");
            world.run("anna", &join).await;
        }
        let large = "gone".repeat(world.store.rules().large_message_threshold_bytes);
        let request = QueryRequest {
            sql: "INSERT INTO messages (conversationId, conversationType, content) VALUES ('g', 'group', $1)"
                .to_owned(),
            params: Some(kalamdb_protocol::Params::Positional(vec![json!(large)])),
        };
        world.engine.execute(&caller("anna"), request, None, None).await.unwrap();
        if tier == Tier::Mixed {
            world.consolidate().await;
        }
        world.run("ben", "INSERT INTO messages (conversationId, content) VALUES ('b', 'gone too')").await;
        world.run("cleo", "INSERT INTO messages (conversationId, content) VALUES ('c', 'stays')").await;
        if tier == Tier::Cold {
            world.consolidate().await;
        }
        let counts = async |name: &str| {
            let sql = "SELECT (SELECT COUNT(*) FROM messages), (SELECT COUNT(*) FROM deletedMessages)";
            world.rows(name, sql).await.remove(0)
        };
        let files = "SELECT COUNT(*) FROM system.files WHERE state = 'live'";

        let everybodys = "DELETE FROM *.messages WHERE content LIKE 'gone%'";
        assert_eq!(world.run("root", everybodys).await, 4, "{tier:?}");
        assert_eq!(counts("anna").await, [0, 1], "{tier:?}");
        assert_eq!(counts("ben").await, [0, 2], "{tier:?}");
        assert_eq!(counts("cleo").await, [1, 1], "{tier:?}");
        assert_eq!(world.rows("root", files).await, [[1]], "{tier:?}: it can be had back");

        let back = "UPDATE deletedMessages SET deletedAt = NULL WHERE conversationId = 'g'";
        assert_eq!(world.run("ben", back).await, 1, "{tier:?}");
        world.clock.advance(RETENTION);
        world.store.sweep().await.unwrap();
        assert_eq!(counts("anna").await, [0, 0], "{tier:?}");
        assert_eq!(counts("ben").await, [1, 0], "{tier:?}");
        assert_eq!(world.rows("root", files).await, [[1]], "{tier:?}: ben has it");

        assert_eq!(world.run("root", everybodys).await, 1, "{tier:?}");
        world.clock.advance(RETENTION);
        world.store.sweep().await.unwrap();
        assert_eq!(world.rows("root", files).await, [[0]], "{tier:?}: nobody has it");
        assert_eq!(counts("cleo").await, [1, 0], "{tier:?}");
    }
}

/// A read of anna's whose rows are not computed yet.
async fn begun(world: &World, sql: &str) -> Rows {
    let (anna, request) = (caller("anna"), QueryRequest { sql: sql.to_owned(), params: None });
    let ticket = world.engine.0.workers.admit(&anna.user).await.unwrap();
    let Ok(sql::Statement::Read(read)) = sql::parse(&anna, &request, 4096) else { panic!("{sql}") };
    world.engine.0.reader.view(&anna, world.store.snapshot()).rows(&read, &request, &ticket).await.unwrap()
}

async fn rest(rows: Rows) -> Vec<Vec<Value>> {
    serde_json::from_slice::<QueryResponse>(&rows.into_json().await.unwrap()).unwrap().rows
}
