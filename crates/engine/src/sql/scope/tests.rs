//! Whose tables a statement can name.

use kalamdb_protocol::QueryRequest;

use super::*;
use crate::sql::{self, Statement as Parsed};

fn run(user: &str, admin: bool, sql: &str) -> Result<String> {
    let caller = Caller { user: UserId::new(user).unwrap(), admin };
    let request = QueryRequest { sql: sql.to_owned(), params: None };
    sql::parse(&caller, &request, 100_000).map(|parsed| match parsed {
        Parsed::Read(read) => read.statement.to_string(),
        Parsed::Insert(insert) => {
            format!("{:?} {} {:?} {}", insert.target.schema, insert.target.table.name, insert.columns, insert.source)
        }
        Parsed::Update(update) => {
            let assignments: Vec<String> =
                update.assignments.iter().map(|(column, value)| format!("{column} = {value}")).collect();
            format!(
                "{:?} {} SET {} WHERE {:?}",
                update.target.schema,
                update.from,
                assignments.join(", "),
                update.selection.map(|e| e.to_string())
            )
        }
        Parsed::Delete(delete) => {
            format!("{:?} {} WHERE {:?}", delete.target.schema, delete.from, delete.selection.map(|e| e.to_string()))
        }
    })
}

fn john(sql: &str) -> String {
    run("user_john", false, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn admin(sql: &str) -> String {
    run("root", true, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[track_caller]
fn refused(sql: &str, code: ErrorCode) -> Error {
    let error = run("user_john", false, sql).expect_err(sql);
    assert_eq!(error.code, code, "{sql}: {error}");
    error
}

#[test]
fn own_tables_have_three_names() {
    let own = r#"SELECT * FROM "user_john"."messages" AS "messages""#;
    for name in [
        "messages",
        "MESSAGES",
        "\"Messages\"",
        "userId.messages",
        "USERID.Messages",
        "\"userId\".messages",
        "user_john.messages",
        "\"user_john\".\"messages\"",
        "`user_john`.messages",
        "userId /* x */ . -- y\n messages",
    ] {
        assert_eq!(john(&format!("SELECT * FROM {name}")), own, "{name}");
    }
    let odd = run("auth0|12\"3", false, "SELECT * FROM \"auth0|12\"\"3\".messages m").unwrap();
    assert_eq!(odd, r#"SELECT * FROM "auth0|12""3"."messages" m"#);
}

#[test]
fn a_plain_user_names_nobody_else() {
    for schema in [
        "alice",
        "\"alice\"",
        "User_John",
        "\"USERID\"",
        "\"*\"",
        "*",
        "system",
        "SYSTEM",
        "shared",
        "public",
        "datafusion",
        "\"a.b\"",
    ] {
        for sql in [
            "SELECT * FROM %.messages",
            "SELECT * FROM %.nothing",
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM %.messages)",
            "SELECT (SELECT max(content) FROM %.messages)",
            "SELECT * FROM messages m JOIN %.conversations c ON true",
            "SELECT * FROM messages, %.messages",
            "SELECT * FROM (SELECT * FROM (SELECT * FROM %.messages) a) b",
            "SELECT * FROM messages, LATERAL (SELECT * FROM %.messages) x",
            "WITH x AS (SELECT * FROM %.messages) SELECT 1",
            "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n FROM x, %.messages) SELECT * FROM x",
            "SELECT 1 UNION SELECT content FROM %.messages",
            "SELECT 1 EXCEPT (SELECT content FROM %.messages)",
            "SELECT * FROM messages ORDER BY (SELECT 1 FROM %.messages)",
            "SELECT * FROM messages LIMIT (SELECT 1 FROM %.messages)",
            "SELECT count(*) FROM messages GROUP BY (SELECT 1 FROM %.messages)",
            "SELECT count(*) FROM messages HAVING (SELECT true FROM %.messages)",
            "SELECT sum(msgId) OVER (ORDER BY (SELECT 1 FROM %.messages)) FROM messages",
            "SELECT * FROM messages JOIN conversations ON EXISTS (SELECT 1 FROM %.messages)",
            "SELECT CASE WHEN 1 IN (SELECT msgId FROM %.messages) THEN 1 END",
            "SELECT * FROM messages |> JOIN %.messages ON true",
            "SELECT * FROM messages |> UNION ALL (SELECT * FROM %.messages)",
            "VALUES ((SELECT content FROM %.messages))",
            "SELECT * FROM UNNEST((SELECT array_agg(content) FROM %.messages))",
            "SELECT * REPLACE ((SELECT 1 FROM %.messages) AS content) FROM messages",
            "SELECT %.messages.content FROM messages",
            "SELECT %.messages.* FROM messages",
            "SELECT count(%.messages.*) FROM messages",
            "SELECT * FROM a.%.messages",
            "SELECT * FROM %.userId.messages",
            "EXPLAIN SELECT * FROM %.messages",
            "EXPLAIN ANALYZE VERBOSE SELECT * FROM %.messages",
            "INSERT INTO %.messages (content) VALUES ('x')",
            "INSERT INTO messages (content) SELECT content FROM %.messages",
            "INSERT INTO messages (content) VALUES ((SELECT content FROM %.messages))",
            "INSERT INTO messages (content) WITH x AS (SELECT * FROM %.messages) SELECT content FROM x",
            "UPDATE %.messages SET content = 'x'",
            "UPDATE messages SET content = (SELECT content FROM %.messages)",
            "UPDATE messages SET content = 'x' WHERE msgId IN (SELECT msgId FROM %.messages)",
            "DELETE FROM %.messages",
            "DELETE FROM messages WHERE EXISTS (SELECT 1 FROM %.messages s WHERE s.msgId = messages.msgId)",
        ] {
            refused(&sql.replace('%', schema), ErrorCode::ScopeViolation);
        }
    }
}

#[test]
fn what_is_told_does_not_depend_on_whether_the_user_exists() {
    let one = refused("SELECT * FROM alice.messages", ErrorCode::ScopeViolation);
    let other = refused("SELECT * FROM \"no such user\".nothing", ErrorCode::ScopeViolation);
    assert_eq!(one.message, other.message);
    assert!(one.details.is_empty() && other.details.is_empty());
}

#[test]
fn an_admin_names_any_schema() {
    assert_eq!(admin("SELECT * FROM alice.messages"), r#"SELECT * FROM "alice"."messages" AS "messages""#);
    assert_eq!(admin("SELECT * FROM *.messages"), r#"SELECT * FROM "*"."messages" AS "messages""#);
    assert_eq!(admin("SELECT * FROM System.USERS"), r#"SELECT * FROM "system"."users" AS "users""#);
    assert_eq!(admin("SELECT * FROM messages"), r#"SELECT * FROM "root"."messages" AS "messages""#);
    // Ids compare exactly, whatever the statement calls its columns.
    assert_eq!(
        admin("SELECT 1 AS alice FROM ALICE.messages m JOIN Role.messages r ON true"),
        r#"SELECT 1 AS alice FROM "ALICE"."messages" m JOIN "Role"."messages" r ON true"#
    );
    assert_eq!(
        admin(
            "SELECT a.messages.content, b.messages.* FROM a.messages JOIN b.messages ON a.messages.msgId = b.messages.msgId"
        ),
        r#"SELECT "a"."messages".content AS "(column 1)", "b"."messages".* FROM "a"."messages" JOIN "b"."messages" ON "a"."messages".msgId = "b"."messages".msgId"#
    );
    for (sql, code) in [
        ("SELECT * FROM shared.messages", ErrorCode::UnknownTable),
        ("SELECT * FROM information_schema.tables", ErrorCode::UnknownTable),
        ("SELECT * FROM a.b.messages", ErrorCode::UnknownTable),
        ("SELECT * FROM system.messages", ErrorCode::UnknownTable),
        ("SELECT * FROM alice.users", ErrorCode::UnknownTable),
        ("DELETE FROM system.users", ErrorCode::Unsupported),
    ] {
        assert_eq!(run("root", true, sql).unwrap_err().code, code, "{sql}");
    }
}

/// What the audit log would get of an admin's statement: log, table and whether it is written.
fn noted(sql: &str) -> Vec<(String, String, bool)> {
    let caller = Caller { user: UserId::new("root").unwrap(), admin: true };
    let request = QueryRequest { sql: sql.to_owned(), params: None };
    let foreign = match sql::parse(&caller, &request, 100_000).unwrap_or_else(|error| panic!("{sql}: {error}")) {
        Parsed::Read(read) => read.foreign,
        Parsed::Insert(insert) => insert.foreign,
        Parsed::Update(update) => update.foreign,
        Parsed::Delete(delete) => delete.foreign,
    };
    foreign.into_iter().map(|foreign| (foreign.log.as_str().to_owned(), foreign.table, foreign.written)).collect()
}

#[test]
fn what_an_admin_names_of_others_is_known() {
    let read = |log: &str, table: &str| (log.to_owned(), table.to_owned(), false);
    let written = |log: &str, table: &str| (log.to_owned(), table.to_owned(), true);
    assert_eq!(noted("SELECT * FROM Alice.MESSAGES"), [read("Alice", "Alice.messages")]);
    assert_eq!(noted("SELECT * FROM *.auditLog"), [read("root", "*.auditLog")]);
    assert_eq!(
        noted(
            "WITH x AS (SELECT * FROM a.messages) SELECT * FROM x, a.messages, b.conversations WHERE EXISTS (SELECT 1 FROM messages)"
        ),
        [read("a", "a.messages"), read("b", "b.conversations")],
        "each once, and one's own not at all"
    );
    assert_eq!(noted("SELECT * FROM userId.messages, root.conversations, system.files"), []);
    assert_eq!(noted("EXPLAIN SELECT * FROM alice.messages"), [], "nothing is read");
    assert_eq!(noted("EXPLAIN ANALYZE SELECT * FROM alice.messages"), [read("alice", "alice.messages")]);
    assert_eq!(
        noted("INSERT INTO *.messages (owner, conversationId, content) VALUES ('a', 'c', 'x')"),
        [written("root", "*.messages")]
    );
    assert_eq!(
        noted("INSERT INTO messages (conversationId, content) SELECT 'c', content FROM alice.messages"),
        [read("alice", "alice.messages")]
    );
    assert_eq!(
        noted(
            "UPDATE a.messages SET content = (SELECT MAX(content) FROM b.messages) WHERE msgId IN (SELECT msgId FROM a.messages)"
        ),
        [written("a", "a.messages"), read("b", "b.messages")]
    );
    assert_eq!(noted("DELETE FROM a.deletedMessages"), [written("a", "a.deletedMessages")]);
}

#[test]
fn a_with_name_is_seen_in_its_own_query_only() {
    let sql = "WITH Mine AS (SELECT * FROM messages) SELECT * FROM mine";
    assert_eq!(john(sql), r#"WITH Mine AS (SELECT * FROM "user_john"."messages" AS "messages") SELECT * FROM Mine"#);
    // It shadows a table; inside itself it does not.
    let sql = "WITH messages AS (SELECT * FROM messages) SELECT * FROM messages";
    assert_eq!(
        john(sql),
        r#"WITH messages AS (SELECT * FROM "user_john"."messages" AS "messages") SELECT * FROM messages"#
    );
    // Outside, the same name is the table again.
    let sql = "SELECT * FROM (WITH messages AS (SELECT 1) SELECT * FROM messages) a, messages";
    assert_eq!(
        john(sql),
        r#"SELECT * FROM (WITH messages AS (SELECT 1) SELECT * FROM messages) a, "user_john"."messages" AS "messages""#
    );
    // A later one sees an earlier one, not the other way round.
    refused("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", ErrorCode::UnknownTable);
    john("WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b, a");
    refused("WITH x AS (SELECT * FROM x) SELECT 1", ErrorCode::UnknownTable);
    john("WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 5) SELECT * FROM x");
    john("WITH x AS (SELECT 1) SELECT * FROM messages WHERE EXISTS (SELECT 1 FROM x WHERE (SELECT true FROM x))");
    // A name used again within gets another for the planner, which takes each once.
    let sql =
        "WITH a AS (SELECT 1 AS x) SELECT a.x FROM (WITH a AS (SELECT a.x + 1 AS x FROM a) SELECT a.x FROM a) AS a";
    let inner = r#"WITH "a (2)" AS (SELECT a.x + 1 AS x FROM a) SELECT a.x FROM "a (2)" AS a"#;
    assert_eq!(john(sql), format!("WITH a AS (SELECT 1 AS x) SELECT a.x FROM ({inner}) AS a"));
    let sql = "WITH a AS (SELECT 1) SELECT * FROM a WHERE EXISTS (WITH a AS (SELECT 2) SELECT 1 FROM a b, a)";
    assert!(john(sql).contains(r#"FROM "a (2)" b, "a (2)" AS a"#));
    refused("WITH a AS (SELECT 1) SELECT * FROM (WITH a AS (SELECT * FROM x) SELECT 1)", ErrorCode::UnknownTable);
    // A name with a schema is never a WITH name.
    refused("WITH alice AS (SELECT 1) SELECT * FROM alice.messages", ErrorCode::ScopeViolation);
    refused("WITH \"alice.messages\" AS (SELECT 1) SELECT * FROM alice.messages", ErrorCode::Unsupported);
    refused("SELECT * FROM messages alice, alice.conversations", ErrorCode::ScopeViolation);
}

#[test]
fn columns_may_be_named_in_full() {
    let sql =
        "SELECT userId.messages.content, user_john.messages.from, messages.msgId, userId.messages.* FROM messages";
    assert_eq!(
        john(sql),
        r#"SELECT "messages".content AS "(column 1)", "messages"."from" AS "(column 2)", messages.msgId AS "(column 3)", "messages".* FROM "user_john"."messages" AS "messages""#
    );
    // The second time, column by column.
    let twice = john("SELECT messages.*, userId.messages.* FROM messages");
    assert!(
        twice.starts_with(r#"SELECT messages.*, "messages"."msgId" AS "(column 2)", "messages"."conversationId" AS"#)
    );
    john("SELECT m.*, alice.content FROM messages m, messages alice");
    john("DELETE FROM messages WHERE userId.messages.msgId = 1");
}

#[test]
fn an_unknown_table_comes_with_likely_ones() {
    assert_eq!(refused("SELECT * FROM mesages", ErrorCode::UnknownTable).details["suggestions"][0], "messages");
    assert_eq!(
        refused("SELECT * FROM userId.conversation", ErrorCode::UnknownTable).details["suggestions"][0],
        "conversations"
    );
    refused("SELECT * FROM information_schema.tables", ErrorCode::UnknownTable);
    refused("SELECT * FROM users", ErrorCode::UnknownTable);
    assert_eq!(
        refused("SELECT * FROM deletedMesages", ErrorCode::UnknownTable).details["suggestions"][0],
        "deletedMessages"
    );
    let error = refused("SELECT * FROM zzz", ErrorCode::UnknownTable);
    assert!(error.message.contains("deletedMessages and auditLog"), "{error}");
    let error = run("root", true, "SELECT * FROM system.zzz").unwrap_err();
    assert!(error.message.contains("users, segments and files"), "{error}");
}

#[test]
fn nothing_is_read_but_tables() {
    for sql in [
        "SELECT * FROM 'a.parquet'",
        "SELECT * FROM read_csv('x')",
        "SELECT * FROM generate_series(1, 10)",
        "SELECT * FROM range(10)",
        "SELECT * FROM messages, LATERAL f(1)",
        "SELECT * FROM TABLE(f(1))",
        "TABLE messages",
        "SELECT 1 UNION TABLE messages",
        "SELECT * INTO x FROM messages",
        "SELECT * FROM messages FOR UPDATE",
        "SELECT * FROM messages TABLESAMPLE BERNOULLI (10)",
        "SELECT * FROM messages FETCH FIRST 1 ROW ONLY",
        "SELECT * FROM messages PIVOT (sum(msgId) FOR role IN ('a'))",
        "WITH x AS (DELETE FROM messages) SELECT 1",
        "WITH x AS (INSERT INTO messages (content) VALUES ('a')) SELECT 1",
        "SELECT map([1], [2])",
        "SELECT CAST(NULL AS INT[2000000000])",
        "SELECT NULL::INT[][5]",
        "SELECT CAST(NULL AS STRUCT<a INT[7]>)",
    ] {
        let error = run("user_john", false, sql).expect_err(sql);
        assert!(matches!(error.code, ErrorCode::Unsupported | ErrorCode::SyntaxError), "{sql}: {error:?}");
    }
}

#[test]
fn doubling_by_with_is_counted() {
    let doubled = |level: i32| format!(", a{} AS (SELECT 1 AS x FROM a{level} p, a{level} q)", level + 1);
    let doublings: String = (0..39).map(doubled).collect();
    let sql = format!("WITH a0 AS (SELECT * FROM messages){doublings} SELECT * FROM a39");
    refused(&sql, ErrorCode::QueryTooLarge);
}
