//! What becomes of a statement's tokens.

use proptest::prelude::*;

use super::{super::syntax, *};

fn parsed(sql: &str) -> String {
    let mut tokens = read(sql).unwrap();
    rewrite(&mut tokens);
    match syntax::parse(tokens) {
        Ok(statement) => statement.to_string(),
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// The statement as it is when every unquoted `from` that the author means as a column is quoted.
#[track_caller]
fn same(sql: &str, meant: &str) {
    assert_eq!(parsed(sql), meant);
}

#[test]
fn from_is_a_column_wherever_a_column_can_stand() {
    same("select from from t", r#"SELECT "from" FROM t"#);
    same("SELECT DISTINCT from FROM t", r#"SELECT DISTINCT "from" FROM t"#);
    same("SELECT ALL from FROM t", r#"SELECT ALL "from" FROM t"#);
    same("SELECT DISTINCT ON (from) from FROM t", r#"SELECT DISTINCT ON ("from") "from" FROM t"#);
    same("SELECT m.from FROM t m", r#"SELECT m."from" FROM t m"#);
    same("SELECT *, from FROM t", r#"SELECT *, "from" FROM t"#);
    same("SELECT m.*, from FROM t m", r#"SELECT m.*, "from" FROM t m"#);
    same("SELECT from, * FROM t", r#"SELECT "from", * FROM t"#);
    same("SELECT * EXCLUDE from FROM t", r#"SELECT * EXCLUDE "from" FROM t"#);
    same("SELECT COUNT(DISTINCT from) FROM t", r#"SELECT COUNT(DISTINCT "from") FROM t"#);
    same("SELECT from AS sender FROM t", r#"SELECT "from" AS sender FROM t"#);
    same("SELECT content AS from FROM t", r#"SELECT content AS "from" FROM t"#);
    same("SELECT 1 FROM t GROUP BY from ORDER BY from DESC", r#"SELECT 1 FROM t GROUP BY "from" ORDER BY "from" DESC"#);
    same(
        "SELECT 1 FROM t WHERE from = 'x' AND NOT from IN (from)",
        r#"SELECT 1 FROM t WHERE "from" = 'x' AND NOT "from" IN ("from")"#,
    );
    same("SELECT 1 FROM t JOIN u ON from = u.from", r#"SELECT 1 FROM t JOIN u ON "from" = u."from""#);
    same("SELECT 1 FROM t JOIN u USING (from)", r#"SELECT 1 FROM t JOIN u USING("from")"#);
    same(
        "SELECT CASE from WHEN from THEN from ELSE from END FROM t",
        r#"SELECT CASE "from" WHEN "from" THEN "from" ELSE "from" END FROM t"#,
    );
    same("SELECT 2 * from FROM t", r#"SELECT 2 * "from" FROM t"#);
    same("SELECT COUNT(*) * from FROM t", r#"SELECT COUNT(*) * "from" FROM t"#);
    same(
        "SELECT row_number() OVER (PARTITION BY from ORDER BY from) FROM t",
        r#"SELECT row_number() OVER (PARTITION BY "from" ORDER BY "from") FROM t"#,
    );
    same("INSERT INTO t (msgId, from) VALUES (1, 'a')", r#"INSERT INTO t (msgId, "from") VALUES (1, 'a')"#);
    same("UPDATE t SET from = 'a' WHERE from LIKE 'b'", r#"UPDATE t SET "from" = 'a' WHERE "from" LIKE 'b'"#);
    same("DELETE FROM t WHERE from = 'a'", r#"DELETE FROM t WHERE "from" = 'a'"#);
    same("SELECT from::varchar || from FROM t", r#"SELECT "from"::VARCHAR || "from" FROM t"#);
    same("SELECT 1 FROM t HAVING max(from) > 'a'", r#"SELECT 1 FROM t HAVING max("from") > 'a'"#);
    same("SELECT m.set FROM t m", "SELECT m.set FROM t m");
}

#[test]
fn from_keeps_its_other_meanings() {
    for sql in [
        "SELECT * FROM t",
        "SELECT m.* FROM t m",
        "SELECT COUNT(*) FROM t",
        "SELECT SUBSTRING(x FROM 2) FROM t",
        "SELECT SUBSTRING(x FROM 2 FOR 3) FROM t",
        "SELECT EXTRACT(HOUR FROM t) FROM u",
        "SELECT TRIM(BOTH 'x' FROM y) FROM t",
        "SELECT a IS DISTINCT FROM b FROM t",
        "SELECT a IS NOT DISTINCT FROM b FROM t",
        "DELETE FROM t",
        "SELECT NULL FROM t",
        "SELECT CASE WHEN a THEN b END FROM t",
        "SELECT a IS NOT NULL FROM t",
        "SELECT a AT TIME ZONE 'UTC' FROM t",
        "SELECT INTERVAL '1' DAY FROM t",
        "SELECT * EXCEPT (x) FROM t",
        "SELECT x AS set FROM t",
        "SELECT (SELECT 1) FROM t",
        "SELECT OVERLAY(x PLACING 'y' FROM 2 FOR 3) FROM t",
    ] {
        same(sql, sql);
    }
    same(
        "SELECT TRIM(BOTH FROM y), TRIM(LEADING FROM from) FROM t",
        r#"SELECT TRIM(BOTH ' ' FROM y), TRIM(LEADING ' ' FROM "from") FROM t"#,
    );
    same(
        "SELECT TRIM(FROM y), TRIM(FROM from), TRIM(FROM 'x' || from), TRIM(FROM (y)) FROM t",
        r#"SELECT TRIM(BOTH ' ' FROM y), TRIM(BOTH ' ' FROM "from"), TRIM(BOTH ' ' FROM 'x' || "from"), TRIM(BOTH ' ' FROM (y)) FROM t"#,
    );
    same(
        "SELECT TRIM(from), TRIM(from FROM x), TRIM(from || 'x'), TRIM(from COLLATE c), TRIM(from, 'x') FROM t",
        r#"SELECT TRIM("from"), TRIM("from" FROM x), TRIM("from" || 'x'), TRIM("from" COLLATE c), TRIM("from", 'x') FROM t"#,
    );
    same("SELECT SUBSTRING(from FROM 2) FROM t", r#"SELECT SUBSTRING("from" FROM 2) FROM t"#);
    same("SELECT EXTRACT(HOUR FROM from) FROM t", r#"SELECT EXTRACT(HOUR FROM "from") FROM t"#);
    same("SELECT TRIM(BOTH from FROM from) FROM t", r#"SELECT TRIM(BOTH "from" FROM "from") FROM t"#);
    same("SELECT from IS DISTINCT FROM from FROM t", r#"SELECT "from" IS DISTINCT FROM "from" FROM t"#);
}

#[test]
fn a_question_mark_after_an_operand_asks_for_a_key() {
    for sql in [
        "SELECT metadata ? 'n' FROM t",
        "SELECT * FROM t WHERE m.metadata ? $1 AND NOT (metadata -> 'a') ? 'b'",
        "SELECT CASE WHEN metadata ? lower('N') THEN 1 END FROM t",
    ] {
        same(sql, sql);
        let mut tokens = read(sql).unwrap();
        rewrite(&mut tokens);
        assert!(tokens.iter().any(|token| token.token == Token::Question), "{sql}");
    }
    // Where an operand is due it is a placeholder, of a kind that has a good answer elsewhere.
    for sql in ["SELECT ?", "SELECT * FROM t WHERE x = ?", "SELECT * FROM t LIMIT ?", "INSERT INTO t VALUES (?, ?)"] {
        let mut tokens = read(sql).unwrap();
        rewrite(&mut tokens);
        assert!(tokens.iter().all(|token| token.token != Token::Question), "{sql}");
    }
}

#[test]
fn a_star_can_be_a_schema() {
    same("SELECT * FROM *.messages", r#"SELECT * FROM "*".messages"#);
    same("SELECT *.messages.content, 2*3 FROM *.messages", r#"SELECT "*".messages.content, 2 * 3 FROM "*".messages"#);
    same("DELETE FROM * . messages", r#"DELETE FROM "*".messages"#);
}

#[test]
fn known_names_get_their_spelling_and_others_one() {
    same("SELECT MSGID, M.Content FROM USERID.Messages m", "SELECT msgId, M.content FROM userId.messages M");
    same(r#"SELECT "MSGID" FROM "Messages""#, r#"SELECT "msgId" FROM "messages""#);
    same(
        "SELECT count(*) AS msgCount FROM t GROUP BY x ORDER BY MSGCOUNT",
        "SELECT count(*) AS msgCount FROM t GROUP BY x ORDER BY msgCount",
    );
    same("SELECT Foo FROM (SELECT 1 AS fOO) FOO", "SELECT fOO FROM (SELECT 1 AS fOO) fOO");
    same(r#"SELECT "Foo", foo, FOO FROM t"#, r#"SELECT "Foo", foo, foo FROM t"#);
    same(
        r#"SELECT sum(bytes) AS "Bytes" FROM t ORDER BY "Bytes""#,
        r#"SELECT sum(bytes) AS "Bytes" FROM t ORDER BY "Bytes""#,
    );
    same("SELECT CAST(x AS Timestamp), Timestamp FROM t", "SELECT CAST(x AS TIMESTAMP), timestamp FROM t");
    same("SELECT timestamp '2024-01-01', TIMESTAMP FROM t", "SELECT TIMESTAMP '2024-01-01', timestamp FROM t");
    same(
        "SELECT Role, Rows, Path, Number, Owner, Created FROM t",
        "SELECT role, rows, path, number, owner, created FROM t",
    );
}

#[test]
fn a_users_id_is_remembered_as_it_was_written() {
    let mut tokens = read("SELECT 1 AS alice FROM ALICE.messages, Role.messages").unwrap();
    let spellings = rewrite(&mut tokens);
    let original = |value: &str, column: u64| {
        let mut ident = Ident::new(value);
        ident.span.start = Location::new(1, column);
        spellings.original(&ident).to_owned()
    };
    assert_eq!(original("alice", 24), "ALICE");
    assert_eq!(original("role", 40), "Role");
    assert_eq!(original("alice", 13), "alice");
}

#[test]
fn json_access_binds_before_what_it_is_used_in() {
    same("SELECT a->>'b' = 'c'", "SELECT a ->> 'b' = 'c'");
    for (sql, meant) in [
        ("SELECT 1 FROM t WHERE m->>'a' = 'b' AND x", "SELECT 1 FROM t WHERE (m->>'a') = 'b' AND x"),
        ("SELECT c || m->>'a'", "SELECT c || (m->>'a')"),
        ("SELECT m->'a'->>'b' LIKE 'x%'", "SELECT ((m->'a')->>'b') LIKE 'x%'"),
        ("SELECT m->'n' + 1 > 2", "SELECT ((m->'n') + 1) > 2"),
    ] {
        let bare = |sql: &str| parsed(sql).replace(['(', ')'], "");
        assert_eq!(bare(sql), bare(meant));
        // The tree of the one is that of the other, but for the parentheses.
        assert_eq!(shape(sql), shape(meant), "{sql}");
    }
}

/// The statement's tree, without parentheses and positions.
fn shape(sql: &str) -> String {
    use datafusion::sql::sqlparser::{
        ast::{Expr, VisitMut, VisitorMut},
        tokenizer::Span,
    };
    struct Bare;
    impl VisitorMut for Bare {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> std::ops::ControlFlow<()> {
            if let Expr::Nested(inner) = expr {
                *expr = (**inner).clone();
            }
            std::ops::ControlFlow::Continue(())
        }
    }
    let mut tokens = read(sql).unwrap();
    rewrite(&mut tokens);
    for token in &mut tokens {
        token.span = Span::empty();
    }
    let mut statement = syntax::parse(tokens).unwrap();
    assert!(statement.visit(&mut Bare).is_continue());
    format!("{statement:?}")
}

/// Expressions in which `@` stands for the column.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![4 => Just("@".to_owned()), 2 => Just("m.@".to_owned()), 1 => Just("x".to_owned()),
        1 => Just("1".to_owned()), 1 => Just("'s'".to_owned()), 1 => Just("NULL".to_owned()), 1 => Just("$1".to_owned())];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let three = (inner.clone(), inner.clone(), inner.clone());
        prop_oneof![
            (
                two.clone(),
                prop::sample::select(vec!["+", "-", "*", "/", "||", "=", "<>", "<", ">=", "->>", "AND", "OR"])
            )
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            (two.clone(), prop::sample::select(vec!["LIKE", "ILIKE", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]))
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            inner.clone().prop_map(|a| format!("NOT {a}")),
            inner.clone().prop_map(|a| format!("- {a}")),
            inner.clone().prop_map(|a| format!("CAST({a} AS VARCHAR)")),
            inner.clone().prop_map(|a| format!("({a})::INT")),
            inner.clone().prop_map(|a| format!("count(DISTINCT {a})")),
            inner.clone().prop_map(|a| format!("(count(*) * {a})")),
            inner.clone().prop_map(|a| format!("EXTRACT(HOUR FROM {a})")),
            inner.clone().prop_map(|a| format!("({a} IS NOT NULL)")),
            two.clone().prop_map(|(a, b)| format!("SUBSTRING({a} FROM {b})")),
            two.clone().prop_map(|(a, b)| format!("TRIM(BOTH {a} FROM {b})")),
            two.clone().prop_map(|(a, b)| format!("f({a}, {b})")),
            two.clone().prop_map(|(a, b)| format!("max({a}) OVER (PARTITION BY {b} ORDER BY {a})")),
            two.clone().prop_map(|(a, b)| format!("(SELECT {a} FROM t WHERE {b})")),
            two.clone().prop_map(|(a, b)| format!("(SELECT DISTINCT {a} FROM t GROUP BY {b})")),
            two.clone().prop_map(|(a, b)| format!("({a} IN (1, {b}, {a}))")),
            three.clone().prop_map(|(a, b, c)| format!("({a} BETWEEN {b} AND {c})")),
            three.prop_map(|(a, b, c)| format!("CASE {a} WHEN {b} THEN {c} ELSE {a} END")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn from_parses_as_any_other_column_would(
        items in prop::collection::vec(expression(), 1..4), filter in expression(), group in expression(),
    ) {
        let sql = format!("SELECT {} FROM t m WHERE {filter} GROUP BY {group} ORDER BY @, {group}", items.join(", "));
        let with_from = parsed(&sql.replace('@', "from")).replace("\"from\"", "sender");
        prop_assert_eq!(with_from, parsed(&sql.replace('@', "sender")));
    }
}

#[test]
fn a_query_is_one_item_of_a_list() {
    same("SELECT 1 IN ((SELECT 2), 3)", "SELECT 1 IN (coalesce((SELECT 2)), 3)");
    same("SELECT 1 IN ((SELECT 2))", "SELECT 1 IN ((SELECT 2))");
    same(
        "SELECT 1 IN ((SELECT max(a) FROM t WHERE a IN ((WITH x AS (SELECT 1) SELECT 2), 5)), NULL)",
        "SELECT 1 IN (coalesce((SELECT max(a) FROM t WHERE a IN (coalesce((WITH x AS (SELECT 1) SELECT 2)), 5))), NULL)",
    );
    same("SELECT 1 IN ((SELECT 2) UNION (SELECT 3))", "SELECT 1 IN ((SELECT 2) UNION (SELECT 3))");
}
