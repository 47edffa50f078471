//! What a write must not do to long texts, what its answer says, and what one user's statements leave to the others.

use std::sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, AtomicUsize},
};

use kalamdb_protocol::{Params, WriteResponse};
use kalamdb_store::{Rules, Settings as StoreSettings, Step};
use serde_json::json;

use super::*;

impl World {
    async fn write(&self, name: &str, sql: &str, params: Value, key: Option<&str>) -> Result<WriteResponse> {
        let params: Option<Params> = serde_json::from_value(params).unwrap();
        let request = QueryRequest { sql: sql.to_owned(), params };
        match self.engine.execute(&caller(name), request, key.map(str::to_owned), None).await? {
            Outcome::Written(written) => Ok(written),
            Outcome::Json(_) | Outcome::Stream(_) => panic!("it reads: {sql}"),
        }
    }

    /// A message with a text of some length, and its id.
    async fn long(&self, name: &str, conversation: &str, kind: &str) -> i64 {
        let sql = "INSERT INTO messages (conversationId, conversationType, content) VALUES ($1, $2, $3)";
        let text = format!(" {}", "long ".repeat(self.store.rules().large_message_threshold_bytes / 4));
        self.write(name, sql, json!([conversation, kind, text]), None).await.unwrap().msg_ids.unwrap()[0]
    }
}

/// Statements that would write what they compute of the first KB of a long text.
const CUTTING: [&str; 15] = [
    "UPDATE messages SET content = content",
    "UPDATE messages SET content = trim(content) WHERE conversationId = 'c'",
    "UPDATE messages m SET content = m.content || '!', metadata = '{}'",
    "UPDATE messages SET metadata = concat('{\"n\":', length(content), '}')",
    "UPDATE messages SET content = (SELECT max(content) FROM messages)",
    "UPDATE messages SET content = CASE WHEN msgId > 0 THEN upper(content) ELSE 'x' END",
    "UPDATE messages SET content = (SELECT k.content FROM messages k WHERE k.msgId = messages.msgId)",
    "UPDATE messages SET content = \
     (SELECT k.content FROM messages k WHERE k.msgId >= messages.msgId ORDER BY k.msgId LIMIT 1)",
    "INSERT INTO messages (conversationId, content) SELECT 'fork', x.content FROM conversations c, LATERAL \
     (SELECT m.content FROM messages m WHERE m.conversationId = c.conversationId ORDER BY m.msgId LIMIT 1) x",
    "INSERT INTO messages (conversationId, content) SELECT 'fork', content FROM messages",
    "INSERT INTO messages (conversationId, content) SELECT 'fork', x FROM (SELECT content AS x, msgId FROM messages) q",
    "INSERT INTO messages (conversationId, content) SELECT 'fork', string_agg(content, ' ') FROM messages",
    "INSERT INTO messages (conversationId, content) \
     SELECT 'fork', a.content FROM messages a JOIN messages b ON a.msgId = b.msgId",
    "INSERT INTO messages (conversationId, content) \
     SELECT 'fork', content FROM messages UNION ALL SELECT 'fork', 'x' FROM messages",
    "INSERT INTO messages (conversationId, content) WITH q AS (SELECT * FROM messages ORDER BY msgId LIMIT 5) \
     SELECT 'fork', first_value(content) OVER (ORDER BY msgId) FROM q",
];

#[tokio::test]
async fn a_long_text_is_not_cut_by_what_was_computed_of_its_beginning() {
    for consolidates in [false, true] {
        let world = World::new();
        let id = world.long("anna", "c", "ai").await;
        world.run("anna", "INSERT INTO messages (conversationId, content) VALUES ('c', 'short')").await;
        if consolidates {
            world.consolidate().await;
        }
        let all = "SELECT msgId, content, contentRef, metadata FROM messages ORDER BY msgId";
        let before = world.rows("anna", all).await;
        for sql in CUTTING {
            let Err(error) = world.execute("anna", sql).await else { panic!("it was not refused: {sql}") };
            assert_eq!(error.code, ErrorCode::InvalidValue, "{sql}: {error:?}");
            assert!(error.message.starts_with(&format!("The message {id} is longer")), "{sql}: {}", error.message);
        }
        assert_eq!(world.rows("anna", all).await, before, "no refused write leaves a trace");
        // What only chooses by the text, leaves long ones out, or gives a new text, is no such thing.
        for (sql, rows) in [
            ("UPDATE messages SET metadata = '{\"seen\":true}' WHERE content LIKE '%long%'", 1),
            ("UPDATE messages SET content = trim(content) WHERE contentRef IS NULL", 1),
            (
                "UPDATE messages SET content = CASE WHEN contentRef IS NULL THEN content || '!' ELSE 'new' END \
              WHERE content LIKE 's%'",
                1,
            ),
            (
                "INSERT INTO messages (conversationId, content) \
              SELECT 'd', q.c FROM (SELECT msgId AS id, conversationId AS c FROM messages) q",
                2,
            ),
            (
                "INSERT INTO messages (conversationId, content) SELECT 'd', content FROM messages WHERE length(content) < 9",
                3,
            ),
            ("UPDATE messages SET content = 'whole' WHERE conversationId = 'c' AND content LIKE '%long%'", 1),
            ("UPDATE messages SET content = content || '!' WHERE conversationId = 'c'", 2),
        ] {
            assert_eq!(world.run("anna", sql).await, rows, "{sql}");
        }
    }
}

#[tokio::test]
async fn a_group_s_long_text_is_not_cut_for_anybody() {
    let world = World::new();
    world.run("anna", "INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')").await;
    world.run("anna", "INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'ben')").await;
    world.long("anna", "g", "group").await;
    let sql = "UPDATE messages SET content = trim(content) WHERE conversationId = 'g'";
    assert_eq!(world.code("anna", sql).await, ErrorCode::InvalidValue);
    assert_eq!(world.code("root", &sql.replace("messages", "*.messages")).await, ErrorCode::InvalidValue);
    for name in ["anna", "ben"] {
        assert_eq!(world.rows(name, "SELECT contentRef IS NOT NULL FROM messages").await, [[json!(true)]]);
    }
}

#[tokio::test]
async fn a_repeated_write_is_done_once_and_answered_the_same() {
    let world = World::new();
    let insert = "INSERT INTO messages (conversationId, content) VALUES ('c', $1), ('c', $1)";
    let first = world.write("anna", insert, json!(["hi"]), Some("k1")).await.unwrap();
    let again = world.write("anna", insert, json!(["hi"]), Some("k1")).await.unwrap();
    assert_eq!((first.rows_affected, &first.msg_ids), (again.rows_affected, &again.msg_ids));
    assert!(first.conversation_created && again.conversation_created);
    assert_eq!(world.rows("anna", "SELECT count(*) FROM messages").await, [[json!(2)]]);
    for (sql, params) in [(insert, json!(["ho"])), ("DELETE FROM messages WHERE content = $1", json!(["hi"]))] {
        let error = world.write("anna", sql, params, Some("k1")).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict, "{sql}");
    }
    // The key is anna's alone.
    assert!(world.write("ben", insert, json!(["ho"]), Some("k1")).await.unwrap().conversation_created);

    let update = "UPDATE messages SET content = content || '!'";
    assert_eq!(world.write("anna", update, json!(null), Some("k2")).await.unwrap().rows_affected, 2);
    assert_eq!(world.write("anna", update, json!(null), Some("k2")).await.unwrap().rows_affected, 2);
    assert_eq!(world.rows("anna", "SELECT DISTINCT content FROM messages").await, [[json!("hi!")]]);
    // One that found nothing to do does nothing later either.
    let delete = "DELETE FROM messages WHERE content = 'later'";
    assert_eq!(world.write("anna", delete, json!(null), Some("k3")).await.unwrap().rows_affected, 0);
    world.run("anna", "INSERT INTO messages (conversationId, content) VALUES ('c', 'later')").await;
    assert_eq!(world.write("anna", delete, json!(null), Some("k3")).await.unwrap().rows_affected, 0);
    assert_eq!(world.rows("anna", "SELECT count(*) FROM messages").await, [[json!(3)]]);
    // A refused one is not remembered.
    assert!(world.write("anna", "DELETE FROM nothing", json!(null), Some("k4")).await.is_err());
    assert_eq!(world.write("anna", update, json!(null), Some("k4")).await.unwrap().rows_affected, 3);
}

#[tokio::test]
async fn a_conversation_that_begins_is_told() {
    let world = World::new();
    let send = "INSERT INTO messages (conversationId, conversationType, content) VALUES ($1, $2, 'x')";
    for kind in ["ai", "group"] {
        for (id, is_new) in [("c", true), ("c", false), ("C", true)] {
            let written = world.write("anna", send, json!([id, kind]), None).await.unwrap();
            assert_eq!(written.conversation_created, is_new, "{kind} {id}");
        }
    }
    let several = "INSERT INTO messages (conversationId, content) VALUES ('c', 'x'), ('new', 'x'), ('new', 'y')";
    assert!(world.write("anna", several, json!(null), None).await.unwrap().conversation_created);
    world.run("anna", "DELETE FROM conversations WHERE conversationId = 'new'").await;
    let anew = "INSERT INTO messages (conversationId, content) VALUES ('new', 'x')";
    assert!(world.write("anna", anew, json!(null), None).await.unwrap().conversation_created);
    let update = world.write("anna", "UPDATE messages SET content = 'y'", json!(null), None).await.unwrap();
    assert!(!update.conversation_created);
}

/// Lets commits wait before they are written.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
    arrived: tokio::sync::Notify,
    open: (Mutex<bool>, Condvar),
}

impl Gate {
    fn pass(&self) {
        if self.shut.load(Ordering::SeqCst) {
            self.arrived.notify_one();
            let open = self.open.0.lock().unwrap();
            drop(self.open.1.wait_while(open, |open| !*open).unwrap());
        }
    }

    fn open(&self) {
        self.shut.store(false, Ordering::SeqCst);
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

/// An engine whose statements have so long, over a store whose commits wait at the gate.
fn gated(folder: &Path, timeout: Duration, gate: &Arc<Gate>) -> (Engine, Store) {
    let rules = Rules { crowded_at: u64::MAX, ..open_rules() };
    let settings = StoreSettings {
        base_path: folder.to_owned(),
        durability: Durability::Os,
        write_buffer_size_mb: 8,
        block_cache_mb: 8,
        max_background_jobs: 1,
        rules,
    };
    let at_gate = Arc::clone(gate);
    let on_step = move |step| {
        if step == Step::BeforeWrite {
            at_gate.pass();
        }
    };
    let on_step = Some(Arc::new(on_step) as _);
    let components = Components { clock: Arc::new(Shifted::default()), on_step, ..Components::default() };
    let store = Store::open(settings, components).unwrap();
    let settings = Settings { query: QuerySettings { timeout, ..query_settings() }, ..quiet_settings() };
    (Engine::start(store.clone(), settings).unwrap(), store)
}

#[tokio::test]
async fn a_write_whose_commit_is_on_its_way_is_answered_truly() {
    let folder = TempDir::new().unwrap();
    let gate = Arc::new(Gate::default());
    let timeout = Duration::from_secs(2);
    let (engine, store) = gated(folder.path(), timeout, &gate);
    let anna = caller("anna");
    let write = |id: i64| {
        let sql = format!("INSERT INTO messages (msgId, conversationId, content) VALUES ({id}, 'c', 'x')");
        engine.execute(&anna, QueryRequest { sql, params: None }, None, None)
    };
    // What is computed at the first time only.
    assert!(write(1).await.is_ok());
    gate.shut.store(true, Ordering::SeqCst);
    let late = write(2);
    tokio::pin!(late);
    tokio::select! {
        answer = &mut late => panic!("it was answered before it was written: {:?}", answer.map(drop)),
        () = gate.arrived.notified() => {}
    }
    // The deadline passes; the answer is neither yes nor no as long as the commit is neither.
    assert!(tokio::time::timeout(2 * timeout, &mut late).await.is_err(), "it was answered before it was written");
    gate.open();
    assert!(matches!(late.await, Ok(Outcome::Written(_))));
    assert_eq!(store.snapshot().owner(&user("anna")).unwrap().hot_messages, 2);
}

#[tokio::test]
async fn one_user_s_statements_leave_half_of_the_memory() {
    let world = World::new();
    let hold = "SELECT array_agg(repeat('x', 1000) || value) FROM UNNEST(generate_series(1, 25000)) AS n(value)";
    let refused = AtomicUsize::new(0);
    let one = async |name: &'static str| match world.execute(name, hold).await {
        Ok(Outcome::Json(_)) => {}
        Ok(Outcome::Stream(_) | Outcome::Written(_)) => panic!("it is answered in JSON"),
        Err(error) => {
            let may = [ErrorCode::QueryTooLarge, ErrorCode::RateLimited, ErrorCode::PayloadTooLarge];
            assert!(may.contains(&error.code), "{error:?}");
            refused.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::join!(one("anna"), one("anna"), one("anna"), one("anna"));
    assert!(refused.into_inner() > 0);
    assert_eq!(world.rows("ben", "SELECT 1").await, [[json!(1)]]);
}

/// Each text of a list has a handle on the memory of all texts that were read with it: gigabytes, of some hundred thousand.
#[tokio::test]
async fn lists_of_a_window_count_for_what_they_hold() {
    let world = World::new();
    let lists = |rows: u64| {
        format!(
            "SELECT max(cardinality(z)) FROM (SELECT array_agg('a text that is not short ' || value) OVER (ORDER BY value ROWS \
             BETWEEN {rows} PRECEDING AND CURRENT ROW) AS z FROM UNNEST(generate_series(1, 20000)) AS n(value)) AS q"
        )
    };
    let Err(error) = world.execute("anna", &lists(900)).await else { panic!("it was not refused") };
    assert_eq!(error.code, ErrorCode::QueryTooLarge, "{error:?}");
    assert_eq!(world.rows("anna", &lists(1)).await, [[json!(2)]]);
}
