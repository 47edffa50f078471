//! How long and deep a statement may be.

use super::{
    super::{syntax, tokens},
    *,
};

fn check(sql: &str) -> Result<()> {
    let mut tokens = tokens::read(sql).unwrap();
    tokens::rewrite(&mut tokens);
    check_shape(&tokens)?;
    syntax::parse(tokens).map(drop)
}

#[track_caller]
fn refused(sql: &str) {
    let start: String = sql.chars().take(60).collect();
    assert_eq!(check(sql).map_err(|error| error.code), Err(ErrorCode::QueryTooLarge), "{start}");
}

fn allowed(sql: &str) {
    if let Err(error) = check(sql) {
        panic!("{error}: {}", sql.chars().take(100).collect::<String>());
    }
}

#[test]
fn the_text_has_a_limit() {
    assert!(check_bytes("SELECT 1", 8).is_ok());
    assert_eq!(check_bytes("SELECT 11", 8).unwrap_err().code, ErrorCode::PayloadTooLarge);
}

#[test]
fn what_is_explained_step_by_step_is_short() {
    let explained = |sql: &str| check_explained(&tokens::read(sql).and_then(syntax::parse).unwrap());
    let list = vec!["17"; 5_000].join(",");
    let long = format!("SELECT 1 FROM messages WHERE msgId IN ({list})");
    for fine in
        ["EXPLAIN VERBOSE SELECT * FROM messages WHERE msgId = 1".to_owned(), format!("EXPLAIN {long}"), long.clone()]
    {
        assert!(explained(&fine).is_ok());
    }
    for refused in [format!("EXPLAIN VERBOSE {long}"), format!("EXPLAIN VERBOSE SELECT '{}'", "x".repeat(70_000))] {
        assert_eq!(explained(&refused).unwrap_err().code, ErrorCode::QueryTooLarge);
    }
}

#[test]
fn wide_statements_pass() {
    let row = "(1, 'c', 'ai', 'user_john', 1699000000, 'it''s a text', NULL, '{}')";
    let rows = vec![row; 5_000].join(", ");
    allowed(&format!(
        "INSERT INTO messages (msgId, conversationId, conversationType, from, timestamp, content, contentRef, metadata) VALUES {rows}"
    ));
    let list = vec!["-17"; 9_000].join(",");
    allowed(&format!("SELECT * FROM messages WHERE msgId IN ({list}) AND content LIKE '%x%'"));
    let terms = vec!["a = 1"; 200].join(" OR ");
    allowed(&format!("SELECT * FROM messages WHERE {terms}"));
    let whens = vec!["WHEN a = 1 AND b = 2 THEN c + 1"; 400].join(" ");
    allowed(&format!("SELECT CASE {whens} ELSE 0 END FROM messages"));
    let selects = vec!["SELECT a FROM t WHERE b = 1 AND c = 2"; 200].join(" UNION ALL ");
    allowed(&selects);
    let columns = vec!["a + b * c AS d"; 1_000].join(", ");
    allowed(&format!("SELECT {columns} FROM t"));
    allowed(&format!("SELECT {}1{} FROM t", "(".repeat(200), ")".repeat(200)));
    allowed("SELECT * FROM ((((((a JOIN b ON x) JOIN c ON x) JOIN d ON x) JOIN e ON x) JOIN f ON x) JOIN g ON x)");
}

#[test]
fn deep_statements_are_refused_before_they_are_parsed() {
    for term in [
        "1+",
        "1||",
        "a AND ",
        "a OR ",
        "1 = ",
        "- ",
        "NOT ",
        "a -> ",
        "1 IS DISTINCT FROM ",
        "x::int + ",
        "(",
        "[",
        "CASE WHEN ",
        "f(",
        "(SELECT ",
        "a LIKE ",
        "a IN (1) OR ",
        "x AT TIME ZONE 'UTC' AT TIME ZONE ",
        "~ ",
        "{",
    ] {
        refused(&format!("SELECT {}1", term.repeat(20_000)));
        refused(&format!("SELECT * FROM messages WHERE x = {}1", term.repeat(20_000)));
    }
    refused(&vec!["SELECT 1"; 5_000].join(" UNION ALL "));
    refused(&format!("SELECT x {}", "COLLATE c ".repeat(5_000)));
    refused(&format!("SELECT x{}", "::int".repeat(5_000)));
}

/// Forms that nest without a parenthesis or an operator.
#[test]
fn chains_of_other_kinds_are_counted_too() {
    for chain in ["[1]", "[1]+x", ".a", "!", " MEMBER OF(x)", " NATURAL JOIN t", " PIVOT (sum(a) FOR b IN (1)) "] {
        let sql = format!("SELECT 1 FROM t WHERE x{}", chain.repeat(5_000));
        let error = check(&sql).expect_err(chain);
        assert!(matches!(error.code, ErrorCode::QueryTooLarge | ErrorCode::SyntaxError), "{chain}: {error}");
    }
    refused(&format!("SELECT CAST(x AS INT{})", "[]".repeat(5_000)));
    refused(&format!("SELECT * FROM t {}", "|> WHERE a ".repeat(5_000)));
    for nesting in
        ["EXPLAIN ", "EXPLAIN ANALYZE ", "DESCRIBE ", "PREPARE x AS ", "IF 1 THEN ", "WHILE 1 ", "INSERT INTO t "]
    {
        refused(&format!("{}SELECT 1", nesting.repeat(5_000)));
    }
    allowed("SELECT a.b.c.d, m[1], ARRAY[1, 2][1], x::INT[] FROM a.b.c");
}

/// Words that look like the start of a clause and are names there must not start the count anew.
#[test]
fn a_chain_cannot_hide_behind_keywords() {
    for name in
        ["then", "by", "on", "set", "values", "where", "join", "having", "when", "else", "m.then", "m.on", "end"]
    {
        let sql = format!("SELECT {}1 FROM m", format!("{name} + ").repeat(10_000));
        refused(&sql);
    }
    refused(&format!("SELECT {}1", "f() OVER on + ".repeat(5_000)));
    refused(&format!("SELECT {}1", "x COLLATE on || ".repeat(5_000)));
    refused(&format!("SELECT {}1", "f() WITHIN GROUP (ORDER BY 1) + ".repeat(5_000)));
    refused(&format!("SELECT {}1", "f() FILTER (WHERE a) + ".repeat(5_000)));
}

#[test]
fn queries_within_queries_are_few() {
    let nested = |levels: usize| format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(levels), ") x".repeat(levels));
    allowed(&nested(20));
    refused(&nested(30));
    // What the parser reads twice at each level: a query in two parentheses, followed by a join.
    let doubled = |levels: usize| {
        format!("SELECT * FROM {}t{}", "((SELECT * FROM ".repeat(levels), ") x JOIN u ON true)".repeat(levels))
    };
    allowed(&doubled(3));
    refused(&doubled(12));
}

#[test]
fn unbalanced_statements_do_no_harm() {
    for sql in [
        "SELECT 1)))))",
        "SELECT ]]}}",
        "END END END",
        "CASE CASE )",
        ") ( ) (",
        "SELECT CASE WHEN (1 THEN 2 END",
        ";;;",
        "WHEN,,",
    ] {
        let tokens = tokens::read(sql).unwrap();
        check_shape(&tokens).unwrap();
    }
}

#[test]
fn operations_and_windows_are_few() {
    let list = |item: &str, times: usize| vec![item; times].join(", ");
    allowed(&format!("SELECT 1 IN ({})", list("a + 1", 9_000)));
    refused(&format!("SELECT 1 IN ({})", list("a + 1", 11_000)));
    refused(&format!("SELECT 1 IN ({})", list("f(a)", 11_000)));
    allowed(&format!("INSERT INTO messages (a, b) VALUES {}", list("(1, 'x')", 30_000)));
    allowed(&format!("SELECT {}", list("sum(a) OVER ()", 200)));
    refused(&format!("SELECT {}", list("sum(a) OVER ()", 300)));
}

#[test]
fn lists_have_a_limit() {
    let (few, many) = (vec!["a"; 1_000].join(", "), vec!["a"; 1_001].join(", "));
    let parsed = |sql: String| {
        let caller = crate::Caller { user: kalamdb_protocol::UserId::new("john").unwrap(), admin: false };
        let request = kalamdb_protocol::QueryRequest { sql, params: None };
        super::super::parse(&caller, &request, 1 << 20).map(drop).map_err(|error| error.code)
    };
    assert_eq!(parsed(format!("SELECT {few} FROM messages GROUP BY {few} ORDER BY {few}")), Ok(()));
    for sql in [
        format!("SELECT {many} FROM messages"),
        format!("SELECT 1 FROM messages GROUP BY {many}"),
        format!("SELECT 1 FROM messages ORDER BY {many}"),
        format!("SELECT 1 FROM (SELECT {many} FROM messages) AS q"),
        format!("SELECT {} FROM messages", vec!["*"; 17].join(", ")),
    ] {
        assert_eq!(parsed(sql), Err(ErrorCode::QueryTooLarge));
    }
}
