//! Which statements there are, and what each may say.

use kalamdb_protocol::{QueryRequest, UserId};

use super::*;
use crate::{Caller, sql};

fn parse_as(admin: bool, text: &str) -> Result<Statement> {
    let caller = Caller { user: UserId::new("user_john").unwrap(), admin };
    sql::parse(&caller, &QueryRequest { sql: text.to_owned(), params: None }, 100_000)
}

#[track_caller]
fn refused(text: &str, code: ErrorCode) -> Error {
    let error = parse_as(false, text).expect_err(text);
    assert_eq!(error.code, code, "{text}: {error}");
    error
}

#[track_caller]
fn insert(admin: bool, text: &str) -> Insert {
    match parse_as(admin, text) {
        Ok(Statement::Insert(insert)) => insert,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn an_insert_names_its_columns() {
    let named = insert(false, "INSERT INTO userId.messages (MSGID, from, Content) VALUES (1, 'a', 'b'), (2, 'c', 'd')");
    assert_eq!(named.columns, ["msgId", "from", "content"]);
    assert_eq!(named.target.table.name, "messages");
    assert_eq!(named.target.schema, Schema::Owner(UserId::new("user_john").unwrap()));
    let all = insert(false, "INSERT INTO conversationUsers SELECT * FROM conversationUsers");
    assert_eq!(all.columns, ["userId", "conversationId", "role", "created", "updated", "metadata"]);
    let everybody = insert(true, "INSERT INTO *.conversationUsers SELECT * FROM *.conversationUsers");
    assert_eq!(everybody.columns[0], "owner");
    assert_eq!(everybody.target.schema, Schema::All);
    insert(true, "INSERT INTO *.messages (owner, content) VALUES ('alice', 'x')");

    let unknown = refused("INSERT INTO messages (msgId, contnet) VALUES (1, 'a')", ErrorCode::UnknownColumn);
    assert_eq!(unknown.details["suggestions"][0], "content");
    refused("INSERT INTO messages (owner) VALUES ('a')", ErrorCode::UnknownColumn);
    refused("INSERT INTO messages (content, CONTENT) VALUES ('a', 'b')", ErrorCode::InvalidValue);
}

#[test]
fn an_insert_does_nothing_besides() {
    for text in [
        "INSERT INTO messages (content) VALUES ('a') RETURNING msgId",
        "INSERT INTO messages (content) VALUES ('a') ON CONFLICT DO NOTHING",
        "INSERT INTO messages (content) VALUES ('a') ON DUPLICATE KEY UPDATE content = 'b'",
        "REPLACE INTO messages (content) VALUES ('a')",
        "INSERT OR REPLACE INTO messages (content) VALUES ('a')",
        "INSERT IGNORE INTO messages (content) VALUES ('a')",
        "INSERT OVERWRITE messages SELECT * FROM messages",
        "INSERT OVERWRITE TABLE messages SELECT * FROM messages",
        "INSERT INTO messages DEFAULT VALUES",
        "INSERT INTO messages (content) VALUES (DEFAULT)",
        "INSERT INTO messages (m.content) VALUES ('a')",
    ] {
        let error = parse_as(false, text).expect_err(text);
        assert!(matches!(error.code, ErrorCode::Unsupported | ErrorCode::SyntaxError), "{text}: {error:?}");
    }
    let error = refused("INSERT INTO messages DEFAULT VALUES", ErrorCode::Unsupported);
    assert!(error.message.contains("msgId"), "{error}");
}

#[test]
fn an_update_assigns_single_columns() {
    let text = "UPDATE messages AS m SET CONTENT = upper(m.content), metadata = NULL WHERE m.msgId IN (SELECT lastMsgId FROM conversations)";
    let Ok(Statement::Update(update)) = parse_as(false, text) else { panic!("no update") };
    assert_eq!(update.from.to_string(), r#""user_john"."messages" AS m"#);
    let columns: Vec<&str> = update.assignments.iter().map(|(column, _)| column.as_str()).collect();
    assert_eq!(columns, ["content", "metadata"]);
    assert_eq!(
        update.selection.unwrap().to_string(),
        r#"m.msgId IN (SELECT lastMsgId FROM "user_john"."conversations" AS "conversations")"#
    );
    let unknown = refused("UPDATE messages SET contents = 'a'", ErrorCode::UnknownColumn);
    assert_eq!(unknown.details["suggestions"][0], "content");
    refused("UPDATE messages SET content = 'a', Content = 'b'", ErrorCode::InvalidValue);
    for text in [
        "UPDATE messages SET content = 'a' FROM conversations",
        "UPDATE messages SET content = 'a' LIMIT 1",
        "UPDATE messages SET content = 'a' ORDER BY msgId",
        "UPDATE messages SET content = 'a' RETURNING msgId",
        "UPDATE messages JOIN conversations ON true SET content = 'a'",
        "UPDATE messages SET (content, metadata) = ('a', 'b')",
        "UPDATE messages SET content = DEFAULT",
        "UPDATE (SELECT * FROM messages) m SET content = 'a'",
        "UPDATE messages SET messages.content = 'a'",
    ] {
        refused(text, ErrorCode::Unsupported);
    }
}

#[test]
fn a_delete_names_one_table() {
    let Ok(Statement::Delete(delete)) = parse_as(true, "DELETE FROM *.messages WHERE timestamp < 5") else {
        panic!("no delete")
    };
    assert_eq!(delete.target.schema, Schema::All);
    assert_eq!(delete.from.to_string(), r#""*"."messages" AS "messages""#);
    assert_eq!(delete.selection.unwrap().to_string(), "timestamp < 5");
    for text in [
        "DELETE FROM messages USING conversations WHERE true",
        "DELETE FROM messages LIMIT 1",
        "DELETE FROM messages ORDER BY msgId LIMIT 1",
        "DELETE FROM messages RETURNING *",
        "DELETE FROM messages, conversations",
        "DELETE FROM messages JOIN conversations ON true",
        "DELETE FROM (SELECT * FROM messages) x",
    ] {
        refused(text, ErrorCode::Unsupported);
    }
}

#[test]
fn everything_else_is_not_offered() {
    for text in [
        "CREATE TABLE x (a INT)",
        "CREATE VIEW v AS SELECT * FROM messages",
        "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION 'x'",
        "DROP TABLE messages",
        "ALTER TABLE messages ADD COLUMN x INT",
        "TRUNCATE TABLE messages",
        "COPY messages TO 'x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "SHOW TABLES",
        "SHOW ALL",
        "DESCRIBE messages",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "PREPARE x AS SELECT 1",
        "EXECUTE x",
        "GRANT SELECT ON messages TO x",
        "MERGE INTO messages USING conversations ON true WHEN MATCHED THEN DELETE",
        "ANALYZE TABLE messages",
        "VACUUM",
        "EXPLAIN DELETE FROM messages",
        "EXPLAIN FORMAT JSON SELECT 1",
        "CALL x()",
        "USE x",
        "KILL 1",
    ] {
        refused(text, ErrorCode::Unsupported);
    }
}

#[test]
fn a_query_can_be_explained() {
    for text in
        ["EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT * FROM messages", "explain verbose select from from messages"]
    {
        let Ok(Statement::Read(read)) = parse_as(false, text) else { panic!("{text}") };
        assert!(matches!(read.statement, ast::Statement::Explain { .. }));
    }
    for text in [
        "VALUES (1, 'a')",
        "(SELECT 1)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "SELECT * FROM messages |> WHERE msgId > 1",
    ] {
        let Ok(Statement::Read(read)) = parse_as(false, text) else { panic!("{text}") };
        assert!(matches!(read.statement, ast::Statement::Query(_)));
    }
}
