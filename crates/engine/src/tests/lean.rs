//! The short way of reading beside the planner's.
//!
//! Invariant: both answer a statement alike, column by column, whatever lies hot and cold and whatever was deleted.

use datafusion::{
    arrow::{array::RecordBatch, compute::concat_batches},
    execution::SendableRecordBatchStream,
};
use futures::TryStreamExt;
use kalamdb_store::{InboxColumn, InboxOrder};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sql;

/// What happens to anna's messages.
#[derive(Debug, Clone)]
enum Act {
    /// So many more in one conversation.
    Send { conversation: usize, messages: usize },
    /// One with an id of its own, before all that were generated.
    SendWithId { conversation: usize, msg_id: i64 },
    /// The hot ones become a segment.
    Consolidate,
    /// Of a conversation every so many-th goes.
    Delete { conversation: usize, every: i64 },
    /// A conversation shows another last message, or none.
    Show { conversation: usize, msg_id: Option<i64> },
    /// An AI conversation goes, and comes back with the next message.
    DeleteConversation { conversation: usize },
}

/// Their names are in order, and some begin alike.
const CONVERSATIONS: [(&str, &str); 4] = [("c", "ai"), ("c!", "ai"), ("c!", "group"), ("d", "group")];

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let conversation = || 0..CONVERSATIONS.len();
    let act = prop_oneof![
        4 => (conversation(), 1..60_usize).prop_map(|(conversation, messages)| Act::Send { conversation, messages }),
        2 => (conversation(), 1..1_000_i64).prop_map(|(conversation, msg_id)| Act::SendWithId { conversation, msg_id }),
        3 => Just(Act::Consolidate),
        1 => (conversation(), 1..5_i64).prop_map(|(conversation, every)| Act::Delete { conversation, every }),
        1 => (conversation(), prop::option::of(1..1_000_i64))
            .prop_map(|(conversation, msg_id)| Act::Show { conversation, msg_id }),
        1 => (0..2_usize).prop_map(|conversation| Act::DeleteConversation { conversation }),
    ];
    prop::collection::vec(act, 1..10)
}

async fn world(acts: &[Act]) -> World {
    let world = World::new();
    for (name, kind) in CONVERSATIONS {
        let sql = format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('{name}', '{kind}')");
        world.run("anna", &sql).await;
    }
    world.run("anna", "INSERT INTO conversationUsers (userId, conversationId) VALUES ('bert', 'c!')").await;
    world.run("bert", "INSERT INTO conversations (conversationId, conversationType) VALUES ('bob''s', 'group')").await;
    more_conversations(&world).await;
    for (number, act) in acts.iter().enumerate() {
        match act {
            Act::Send { conversation, messages } => {
                let (name, kind) = CONVERSATIONS[*conversation];
                let rows = (0..*messages).map(|at| {
                    let metadata = if at % 3 == 0 { format!(r#"'{{"n": {at}}}'"#) } else { "NULL".to_owned() };
                    format!("('{name}', '{kind}', '{number} {at} {}', {metadata})", "x".repeat(at * 7))
                });
                let rows = rows.collect::<Vec<_>>().join(", ");
                let columns = "conversationId, conversationType, content, metadata";
                world.run("anna", &format!("INSERT INTO messages ({columns}) VALUES {rows}")).await;
            }
            Act::SendWithId { conversation, msg_id } => {
                let (name, kind) = CONVERSATIONS[*conversation];
                let columns = "msgId, conversationId, conversationType, content";
                let sql = format!("INSERT INTO messages ({columns}) VALUES ({msg_id}, '{name}', '{kind}', 'given')");
                // The id may be taken.
                world.execute("anna", &sql).await.ok();
            }
            Act::Consolidate => world.consolidate().await,
            Act::Delete { conversation, every } => {
                let (name, kind) = CONVERSATIONS[*conversation];
                let of = format!("conversationId = '{name}' AND conversationType = '{kind}'");
                world.run("anna", &format!("DELETE FROM messages WHERE {of} AND msgId % {every} = 0")).await;
            }
            Act::Show { conversation, msg_id } => {
                let (name, kind) = CONVERSATIONS[*conversation];
                let of = format!("conversationId = '{name}' AND conversationType = '{kind}'");
                let last = msg_id.map_or("NULL".to_owned(), |msg_id| msg_id.to_string());
                world.run("anna", &format!("UPDATE conversations SET lastMsgId = {last} WHERE {of}")).await;
            }
            Act::DeleteConversation { conversation } => {
                let (name, kind) = CONVERSATIONS[*conversation];
                let of = format!("conversationId = '{name}' AND conversationType = '{kind}'");
                world.run("anna", &format!("DELETE FROM conversations WHERE {of}")).await;
            }
        }
    }
    world
}

/// So many conversations, of which some have messages, that the first of them are at hand once they were asked for.
async fn more_conversations(world: &World) {
    for (number, columns) in ["(conversationId)", "(conversationId, content)"].into_iter().enumerate() {
        let table = ["conversations", "messages"][number];
        let content = ["", ", 'text'"][number];
        let names = (0..300).filter(|at| at % 3 == number).map(|at| format!("('n{at}'{content})"));
        let rows = names.collect::<Vec<_>>().join(", ");
        world.run("anna", &format!("INSERT INTO {table} {columns} VALUES {rows}")).await;
    }
    let sent = (0..150).map(|at| format!("('m{at}', 'text')")).collect::<Vec<_>>().join(", ");
    world.run("anna", &format!("INSERT INTO messages (conversationId, content) VALUES {sent}")).await;
    let anna = caller("anna").user;
    let order = InboxOrder { by: InboxColumn::Updated, descending: true, nulls_first: true, most: 9 };
    let at_hand = || {
        let snapshot = world.store.snapshot();
        snapshot.first_conversations(&anna, order, ConversationType::ALL).unwrap().is_some()
    };
    assert!(!at_hand());
    world.rows("anna", "SELECT conversationId FROM conversations ORDER BY lastMsgId DESC LIMIT 9").await;
    assert!(at_hand());
}

/// Statements about conversations and groups that the short way takes. Their orders leave nothing open.
const LISTS: [&str; 18] = [
    "SELECT conversationId, lastMsgId FROM conversations ORDER BY lastMsgId DESC, conversationId, conversationType LIMIT 5",
    "SELECT * FROM conversations ORDER BY lastMsgId DESC NULLS LAST, conversationType, conversationId DESC LIMIT 40",
    "SELECT conversationId FROM conversations ORDER BY lastMsgId, conversationId, conversationType LIMIT 9",
    "SELECT conversationId FROM conversations ORDER BY lastMsgId NULLS FIRST, conversationId DESC, conversationType LIMIT 9",
    "SELECT conversationId FROM conversations WHERE conversationType = 'group' ORDER BY updated DESC, conversationId LIMIT 2",
    "SELECT updated, conversationId FROM conversations ORDER BY updated, conversationId, conversationType LIMIT 30",
    "SELECT * FROM conversations ORDER BY conversationId, conversationType",
    "SELECT conversationId, lastMsgId AS last FROM conversations ORDER BY lastMsgId DESC NULLS LAST, conversationId LIMIT 3",
    "SELECT unreadCount FROM conversations ORDER BY updated DESC, conversationId, conversationType DESC LIMIT 2",
    "SELECT * FROM conversations WHERE conversationId = 'c!' ORDER BY conversationType DESC",
    "SELECT metadata FROM conversations WHERE conversationId = 'c!' AND conversationType = 'group'",
    "SELECT created FROM conversations WHERE conversationType = 'ai' ORDER BY conversationId LIMIT 1000000",
    "SELECT * FROM conversations WHERE conversationId = 'nobody'",
    "SELECT * FROM conversationUsers ORDER BY conversationId, userId",
    "SELECT role, userId FROM conversationUsers WHERE conversationId = 'c!' ORDER BY userId DESC LIMIT 1",
    "SELECT metadata FROM conversationUsers WHERE conversationId = 'd' ORDER BY created, userId",
    "SELECT * FROM conversationUsers WHERE conversationId = 'c'",
    "SELECT * FROM conversationUsers WHERE conversationId = 'bob''s'",
];

/// Statements that the short way takes, about ids that are there and others.
fn statements(ids: &[i64]) -> Vec<String> {
    let part = |part: usize| ids.get(part * ids.len() / 7).copied().unwrap_or(5);
    let mut statements = Vec::new();
    statements.extend(LISTS.map(str::to_owned));
    for name in ["c", "c!", "d", "nobody"] {
        statements.push(format!("SELECT COUNT(*) FROM messages WHERE conversationId = '{name}'"));
        let of_type = "conversationType = 'group'";
        statements.push(format!("SELECT count(*) AS n FROM messages WHERE {of_type} AND conversationId = '{name}'"));
        for (at, order) in ["", " ASC", " DESC"].into_iter().enumerate() {
            for limit in [1, 7, 1000] {
                let (low, high) = (part(at), part(at + 3));
                let end = format!("ORDER BY msgId{order} LIMIT {limit}");
                let from = format!("FROM messages WHERE conversationId = '{name}'");
                statements.push(format!("SELECT * {from} {end}"));
                statements.push(format!("SELECT content AS c, contentRef, from {from} AND msgId < {high} {end}"));
                statements.push(format!("SELECT msgId, timestamp {from} AND msgId >= {low} AND msgId <= {high} {end}"));
                statements
                    .push(format!("SELECT metadata {from} AND conversationType = 'group' AND msgId > {low} {end}"));
            }
        }
    }
    for order in ["", " DESC"] {
        for (limit, low) in [(1, part(0)), (9, part(2)), (100, part(4)), (1000, 0)] {
            let end = format!("ORDER BY msgId{order} LIMIT {limit}");
            statements.push(format!("SELECT msgId, conversationId, content FROM messages {end}"));
            statements.push(format!("SELECT * FROM messages WHERE msgId > {low} {end}"));
            statements.push(format!("SELECT * FROM messages WHERE msgId <= {low} {end}"));
            statements.push(format!("SELECT * FROM messages WHERE msgId > {low} AND msgId < {low} {end}"));
            statements.push(format!("SELECT * FROM messages WHERE msgId < 0 {end}"));
            // The planner's: of one type there may be few among many.
            statements.push(format!("SELECT * FROM messages WHERE conversationType = 'ai' AND msgId <= {low} {end}"));
        }
    }
    statements.push("SELECT COUNT(*) FROM messages".to_owned());
    for id in ids.iter().step_by(ids.len() / 5 + 1).copied().chain([1, i64::MAX]) {
        statements.push(format!("SELECT * FROM messages m WHERE m.msgId = {id}"));
        statements.push(format!("SELECT content FROM messages WHERE msgId = {id} AND conversationId = 'c!'"));
    }
    statements
}

async fn all(stream: SendableRecordBatchStream) -> RecordBatch {
    let schema = stream.schema();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    concat_batches(&schema, &batches).unwrap()
}

/// How many of the statements went both ways.
async fn both_answer_alike(acts: &[Act]) -> usize {
    let world = world(acts).await;
    let anna = caller("anna");
    let ids = world.rows("anna", "SELECT msgId FROM messages ORDER BY msgId LIMIT 1000").await;
    let ids: Vec<i64> = ids.iter().filter_map(|row| row[0].as_i64()).collect();
    let mut taken = 0;
    for sql in statements(&ids) {
        let request = QueryRequest { sql: sql.clone(), params: None };
        let Ok(sql::Statement::Read(read)) = sql::parse(&anna, &request, 4096) else { panic!("{sql}") };
        let view = || world.engine.0.reader.view(&anna, world.store.snapshot());
        let Some(lean) = view().lean(&read.statement).unwrap() else { continue };
        let (planned, same_again) = view().planned(&read.statement).await.unwrap();
        let (lean, planned) = (all(lean).await, all(planned).await);
        assert!(same_again);
        assert_eq!(lean, planned, "{sql}\nafter {acts:?}");
        // And once more without being parsed.
        if let Some(shape) = sql::Shape::of(&sql) {
            let template = sql::template(&shape).unwrap();
            let again = view().lean_again(&template, &shape, None).unwrap().unwrap();
            assert_eq!(all(again).await, lean, "{sql}\nagain, after {acts:?}");
        }
        taken += 1;
    }
    taken
}

/// Conditions of a write: keys, and after them what only the planner understands.
fn keys(ids: &[i64]) -> (Vec<String>, Vec<String>) {
    let mut keys = Vec::new();
    for (name, kind) in CONVERSATIONS.into_iter().chain([("nobody", "ai")]) {
        keys.push(format!("conversations WHERE conversationId = '{name}'"));
        keys.push(format!("conversations AS x WHERE x.conversationType = '{kind}' AND (x.conversationId = '{name}')"));
    }
    for id in ids.iter().step_by(ids.len() / 5 + 1).chain(&[i64::MAX]) {
        keys.push(format!("messages WHERE msgId = {id}"));
        keys.push(format!("messages WHERE msgId = {id} AND conversationId = 'c!' AND conversationType = 'group'"));
    }
    let others = ["conversations", "conversations WHERE conversationType = 'ai'", "messages WHERE msgId > 7"];
    (keys, others.map(str::to_owned).to_vec())
}

/// How many writes named a row by its key.
async fn keys_find_what_the_planner_finds(acts: &[Act]) -> usize {
    let world = world(acts).await;
    let anna = caller("anna");
    let ids = world.rows("anna", "SELECT msgId FROM messages ORDER BY msgId LIMIT 1000").await;
    let ids: Vec<i64> = ids.iter().filter_map(|row| row[0].as_i64()).collect();
    let view = || world.engine.0.reader.view(&anna, world.store.snapshot()).with_hidden();
    let parsed = |sql: String| sql::parse(&anna, &QueryRequest { sql, params: None }, 4096).unwrap();
    let found = async |of: &str| {
        let sql::Statement::Delete(delete) = parsed(format!("DELETE FROM {of}")) else { panic!("{of}") };
        let hidden: &[&str] = if of.starts_with("messages") { &["_segment", "_position"] } else { &[] };
        let own = delete.target.table.columns.iter().map(|column| column.name);
        let columns: Vec<&str> = own.chain(hidden.iter().copied()).chain(["_version"]).collect();
        let keyed = view().keyed(&delete.from, delete.selection.as_ref(), &columns).unwrap();
        let quoted: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
        let sql::Statement::Read(read) = parsed(format!("SELECT {} FROM {of}", quoted.join(", "))) else {
            panic!("{of}")
        };
        let (planned, _) = view().planned(&read.statement).await.unwrap();
        (keyed, all(planned).await)
    };
    let (keys, others) = keys(&ids);
    let mut taken = 0;
    for of in &keys {
        let (keyed, planned) = found(of).await;
        match keyed {
            Some(columns) => {
                assert_eq!(columns, planned.columns(), "{of}\nafter {acts:?}");
                taken += 1;
            }
            // A message in a segment, or nowhere.
            None => assert!(of.starts_with("messages"), "{of}"),
        }
    }
    for of in others {
        assert!(found(&of).await.0.is_none(), "{of}");
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_write_finds_by_key_what_the_planner_finds(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let taken = runtime.block_on(keys_find_what_the_planner_finds(&acts));
        assert!(taken >= 2 * (CONVERSATIONS.len() + 1), "{taken}");
    }
}

/// Statements that find their rows by key have the effect of those that do not.
#[tokio::test]
async fn writes_by_key_do_what_others_do() {
    for tier in TIERS {
        let world = World::new();
        let sent = (0..9).map(|number| format!("('c', 'text {number}', 'x')")).collect::<Vec<_>>().join(", ");
        world.run("anna", &format!("INSERT INTO messages (conversationId, content, from) VALUES {sent}")).await;
        if tier != Tier::Hot {
            world.consolidate().await;
        }
        if tier != Tier::Cold {
            world.run("anna", &format!("INSERT INTO messages (conversationId, content, from) VALUES {sent}")).await;
        }
        let ids = world.rows("anna", "SELECT msgId FROM messages ORDER BY msgId").await;
        let marks = "SELECT lastReadMsgId, unreadCount, metadata FROM conversations";
        for mark in [ids[0][0].to_string(), ids[ids.len() - 2][0].to_string(), "NULL".to_owned(), "'7'".to_owned()] {
            let update = format!("UPDATE conversations SET lastReadMsgId = {mark}, metadata = '{{\"a\": 1}}'");
            world.run("anna", &format!("{update} WHERE conversationId = 'c'")).await;
            let by_key = world.rows("anna", marks).await;
            world.run("anna", "UPDATE conversations SET lastReadMsgId = 1, metadata = NULL WHERE 1 = 1").await;
            world.run("anna", &format!("{update} WHERE lower(conversationId) = 'c'")).await;
            assert_eq!(world.rows("anna", marks).await, by_key, "{mark} {tier:?}");
        }
        let last = &ids[ids.len() - 1][0];
        world.run("anna", &format!("UPDATE messages SET content = 'edited' WHERE msgId = {last}")).await;
        let read = format!("SELECT content FROM messages WHERE msgId = {last}");
        assert_eq!(world.rows("anna", &read).await, [[json!("edited")]], "{tier:?}");
        world.run("anna", &format!("DELETE FROM messages WHERE msgId = {last} AND conversationId = 'c'")).await;
        assert_eq!(world.rows("anna", &read).await.len(), 0, "{tier:?}");
        assert_eq!(world.rows("anna", "SELECT 1 FROM deletedMessages").await.len(), 1, "{tier:?}");
        assert_eq!(world.rows("anna", "SELECT lastMsgId FROM conversations").await, [[ids[ids.len() - 2][0].clone()]]);
        for wrong in ["'x'", "-1.5", "true"] {
            let update = format!("UPDATE conversations SET lastReadMsgId = {wrong} WHERE conversationId = 'c'");
            assert_eq!(world.code("anna", &update).await, ErrorCode::InvalidValue, "{wrong}");
        }
        let others = "UPDATE bert.conversations SET lastReadMsgId = 7 WHERE conversationId = 'c'";
        assert_eq!(world.code("anna", others).await, ErrorCode::ScopeViolation);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_short_way_answers_what_the_planner_s_does(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let taken = runtime.block_on(both_answer_alike(&acts));
        // All pages, counts and lists, whatever lies where; of single messages those that need no long search.
        assert!(taken >= 4 * 3 * 3 * 4 + 4 * 2 + 2 * 4 * 5 + 1 + LISTS.len(), "{taken}");
    }
}

/// Long rows are held only as far as the answer has their columns, however many are read, and within the memory.
#[tokio::test]
async fn a_page_of_long_rows_is_held_by_its_columns() {
    for tier in TIERS {
        let row = format!("('c', '{}')", "x".repeat(90_000));
        let insert = format!("INSERT INTO messages (conversationId, content) VALUES {}", vec![row; 10].join(", "));
        let settings = QuerySettings { max_statement_bytes: 1 << 20, ..query_settings() };
        let world = World::with_settings(settings);
        for batch in 0..90 {
            if tier == Tier::Cold && batch == 60 || tier == Tier::Mixed && batch == 30 {
                world.consolidate().await;
            }
            world.run("anna", &insert).await;
        }
        if tier == Tier::Cold {
            world.consolidate().await;
        }
        let page = |columns: &str| {
            format!("SELECT {columns} FROM messages WHERE conversationId = 'c' ORDER BY msgId DESC LIMIT 1000")
        };
        assert_eq!(world.rows("anna", &page("msgId, from")).await.len(), 900);
        assert_eq!(world.code("anna", &page("content")).await, ErrorCode::QueryTooLarge, "{tier:?}");
        assert_eq!(world.rows("anna", &page("content").replace("1000", "20")).await.len(), 20);
    }
}

/// The future of a statement is moved a dozen times on its way to the engine's threads: what it holds is on the heap.
#[tokio::test]
async fn a_statement_s_future_is_small() {
    let world = World::new();
    let request = QueryRequest { sql: "SELECT content FROM messages WHERE msgId = 7".to_owned(), params: None };
    let anna = caller("anna");
    let read = world.engine.execute(&anna, request, None, None);
    assert!(size_of_val(&read) < 2 * 1024, "{} bytes", size_of_val(&read));
    read.await.unwrap();
}

/// Who opens a conversation again reads it from memory, and so does who asks for fewer columns or rows of it.
#[tokio::test]
async fn a_cold_page_that_was_read_needs_no_file() {
    let world = World::with_settings(QuerySettings { enable_cache: false, ..query_settings() });
    let rows = (0..100).map(|number| format!("('c', 'text {number}')")).collect::<Vec<_>>().join(", ");
    world.run("anna", &format!("INSERT INTO messages (conversationId, content) VALUES {rows}")).await;
    world.consolidate().await;
    let page = |columns: &str, limit: usize| {
        format!("SELECT {columns} FROM messages WHERE conversationId = 'c' ORDER BY msgId DESC LIMIT {limit}")
    };
    let read = world.rows("anna", &page("content, msgId", 50)).await;
    let segments = world.store.snapshot().segments(&caller("anna").user).unwrap();
    assert_eq!(segments.len(), 1);
    std::fs::remove_file(world.folder.path().join(&segments[0].path)).unwrap();
    assert_eq!(world.rows("anna", &page("content, msgId", 50)).await, read);
    let fewer: Vec<_> = read.iter().take(3).map(|row| vec![row[0].clone()]).collect();
    assert_eq!(world.rows("anna", &page("content", 3)).await, fewer);
    assert_eq!(world.code("anna", &page("metadata", 3)).await, ErrorCode::StorageUnavailable);
}

/// A statement that was parsed for one user means the tables of whoever sends it again, with their values, and is refused
/// as it would be the first time.
#[tokio::test]
async fn a_statement_that_was_parsed_is_everybody_s() {
    let world = World::with_settings(QuerySettings { enable_cache: false, ..query_settings() });
    for user in ["anna", "bert", "nobody"] {
        let rows = (0..3).map(|number| format!("('c{number}', '{user} {number}')")).collect::<Vec<_>>().join(", ");
        world.run(user, &format!("INSERT INTO messages (conversationId, content) VALUES {rows}")).await;
    }
    let end = "ORDER BY msgId DESC LIMIT 5";
    for user in ["anna", "bert", "nobody", "anna"] {
        for number in 0..3 {
            for schema in ["", "userId.", &format!("{user}.")] {
                let sql = format!("SELECT content FROM {schema}messages WHERE conversationId = 'c{number}' {end}");
                assert_eq!(world.rows(user, &sql).await, [[json!(format!("{user} {number}"))]], "{sql}");
            }
        }
        let other = if user == "anna" { "bert" } else { "anna" };
        let sql = format!("SELECT content FROM {other}.messages WHERE conversationId = 'c0' {end}");
        assert_eq!(world.code(user, &sql).await, ErrorCode::ScopeViolation);
    }
    let sql = format!("SELECT content FROM messages WHERE conversationId = $1 {end}");
    let run = async |params: serde_json::Value| {
        let request = QueryRequest { sql: sql.clone(), params: serde_json::from_value(params).unwrap() };
        world.engine.execute(&caller("anna"), request, None, None).await.map(|_| ()).map_err(|error| error.code)
    };
    assert_eq!(run(json!(["c1"])).await, Ok(()));
    assert_eq!(run(json!(["c2"])).await, Ok(()));
    for wrong in [json!(["c1", 2]), json!([]), json!({"a": 1}), json!(null)] {
        assert_eq!(run(wrong.clone()).await, Err(ErrorCode::InvalidValue), "{wrong}");
    }
}
