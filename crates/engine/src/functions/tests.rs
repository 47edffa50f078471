//! What a statement may compute, and where it ends.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use datafusion::{
    arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringArray, StringViewArray},
        datatypes::{DataType, Field, Schema},
        util::display::{ArrayFormatter, FormatOptions},
    },
    datasource::MemTable,
    physical_plan::collect,
    prelude::{SessionConfig, SessionContext},
};

use super::*;
use crate::workers::Stage;

const NOVEMBER: i64 = 1_699_000_000_000_000;

/// A session with `messages`: four, one second apart, the first at [`NOVEMBER`].
fn session() -> SessionContext {
    session_of("hello", 4)
}

fn session_of(content: &str, rows: i64) -> SessionContext {
    let marked = HashMap::from([(TIME_UNIT_KEY.to_owned(), "us".to_owned())]);
    let schema = Arc::new(Schema::new(vec![
        Field::new("msgId", DataType::Int64, false),
        Field::new("timestamp", DataType::Int64, false).with_metadata(marked),
        Field::new("content", DataType::Utf8View, false),
        Field::new("metadata", DataType::Utf8, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new((1..=rows).collect::<Int64Array>()),
        Arc::new((0..rows).map(|row| NOVEMBER + row * 1_000_000).collect::<Int64Array>()),
        Arc::new((0..rows).map(|_| Some(content)).collect::<StringViewArray>()),
        Arc::new((0..rows).map(|_| Some(r#"{"role":"user","n":{"a":3}}"#)).collect::<StringArray>()),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.enable_ident_normalization = false;
    config.options_mut().set("datafusion.sql_parser.recursion_limit", "10000").unwrap();
    let session = SessionContext::new_with_config(config);
    register(&mut *session.state_ref().write()).unwrap();
    session.register_table("messages", Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())).unwrap();
    session
}

async fn run_in(session: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
    let state = session.state();
    let plan = state.create_logical_plan(sql).await?;
    run_plan(session, plan, &crate::workers::Stage::free()).await
}

/// Runs a plan as a statement's is run.
async fn run_plan(session: &SessionContext, plan: LogicalPlan, running: &Arc<Stage>) -> Result<Vec<RecordBatch>> {
    let (state, work) = (session.state(), Work::new(Arc::clone(running)));
    let plan = prepare(plan, state.execution_props(), &work)?;
    let plan = watch(state.optimize(&plan)?, &work)?;
    let physical = state.query_planner().create_physical_plan(&plan, &state).await?;
    collect(physical, state.task_ctx()).await
}

/// The rows of an answer, each value as text.
async fn rows(sql: &str) -> Vec<String> {
    let batches = run_in(&session(), sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut rows = Vec::new();
    for batch in &batches {
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    rows
}

async fn one(sql: &str) -> String {
    let mut rows = rows(sql).await;
    assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
    rows.remove(0)
}

async fn refusal(sql: &str) -> Option<TooLarge> {
    let start: String = sql.chars().take(100).collect();
    match run_in(&session(), sql).await {
        Ok(_) => panic!("{start} was not refused"),
        Err(error) => TooLarge::of(&error).or_else(|| panic!("{start}: {error}")),
    }
}

#[tokio::test]
async fn times_have_parts() {
    assert_eq!(one("SELECT HOUR(1699000000), HOUR(1699000000000), HOUR(1699000000000000)").await, "8 8 8");
    assert_eq!(
        one("SELECT DATE(1699000000), DATE(1699000000000), DATE(1699000000.5)").await,
        "2023-11-03 2023-11-03 2023-11-03"
    );
    assert_eq!(one("SELECT UNIX_TIMESTAMP(1699000000123), UNIX_TIMESTAMP(1699000000)").await, "1699000000 1699000000");
    assert_eq!(
        one("SELECT unix_timestamp(to_timestamp(1699000000)), hour(to_timestamp(1699000000))").await,
        "1699000000 8"
    );
    assert_eq!(
        one("SELECT DATE('2023-11-03T08:26:40Z'), DATE(CAST('2023-11-03' AS DATE)), HOUR('2023-11-03 23:00:00')").await,
        "2023-11-03 2023-11-03 23"
    );
    assert_eq!(one("SELECT HOUR(-1), DATE(-1), HOUR(NULL), DATE(0)").await, "23 1969-12-31 NULL 1970-01-01");
    assert_eq!(
        one("SELECT DATE(timestamp) AS d, HOUR(timestamp), count(*) FROM messages GROUP BY 1, 2").await,
        "2023-11-03 8 4"
    );
    assert_eq!(
        one("SELECT UNIX_TIMESTAMP() = UNIX_TIMESTAMP(now()), UNIX_TIMESTAMP() > 1700000000").await,
        "true true"
    );
    assert_eq!(one("SELECT count(DISTINCT UNIX_TIMESTAMP()) FROM messages").await, "1");
    assert!(run_in(&session(), "SELECT HOUR(1, 2)").await.is_err());
    assert!(run_in(&session(), "SELECT HOUR(true)").await.is_err());
}

#[tokio::test]
async fn whole_numbers_overflow_with_an_error() {
    const MAX: &str = "9223372036854775807";
    for sql in [
        "SELECT 9223372036854775807 + 1",
        "SELECT -9223372036854775807 - 2",
        "SELECT 9223372036854775807 * 2",
        "SELECT -(-9223372036854775807 - 1)",
        "SELECT abs(-9223372036854775807 - 1)",
        "SELECT CAST(127 AS TINYINT) * CAST(2 AS TINYINT)",
        "SELECT msgId + 9223372036854775807 FROM messages",
        "SELECT msgId FROM messages WHERE msgId * 9223372036854775807 > 0",
        "SELECT timestamp FROM messages WHERE timestamp > 9223372036854775807 + 1",
        "SELECT -x FROM (VALUES (-9223372036854775807 - 1)) AS v(x)",
        "SELECT SUM(x) FROM (VALUES (9223372036854775807), (1)) AS v(x)",
        "SELECT SUM(DISTINCT x) FROM (VALUES (9223372036854775807), (1)) AS v(x)",
        "SELECT k, SUM(x) FROM (VALUES (1, 9223372036854775807), (1, 1)) AS v(k, x) GROUP BY k",
        "SELECT SUM(x) OVER () FROM (VALUES (9223372036854775807), (1)) AS v(x)",
        "SELECT SUM(x) OVER (ORDER BY x) FROM (VALUES (9223372036854775807), (1)) AS v(x)",
        "SELECT SUM(x + 1) FROM (VALUES (9223372036854775806), (1)) AS v(x)",
    ] {
        let error = run_in(&session(), sql).await.expect_err(sql);
        let shown = crate::read::client_error(&error, None);
        assert!(shown.message.contains("overflow"), "{sql}: {error} {shown}");
    }
    assert_eq!(
        one(&format!("SELECT {MAX} + 0, {MAX} - 1 - 1, 3 * -4, -(-5), 2 - 3.5, abs(-3), abs(3)")).await,
        format!("{MAX} 9223372036854775805 -12 5 -1.5 3 3")
    );
    assert_eq!(
        one("SELECT SUM(msgId), SUM(DISTINCT msgId), SUM(msgId) + 1, AVG(msgId), SUM(2.5) FROM messages").await,
        "10 10 11 2.5 10.0"
    );
    assert_eq!(one("SELECT SUM(x) FROM (VALUES (9223372036854775807), (1), (-1)) AS v(x)").await, MAX);
    assert_eq!(one("SELECT SUM(msgId), arrow_typeof(SUM(msgId)) FROM messages WHERE msgId > 9").await, "NULL Int64");
    assert_eq!(
        one("SELECT arrow_typeof(ROW_NUMBER() OVER () + 1), arrow_typeof(2 * ROW_NUMBER() OVER ())").await,
        "Int64 Int64"
    );
    assert_eq!(
        rows("SELECT SUM(msgId) OVER (ORDER BY msgId ROWS 1 PRECEDING) FROM messages ORDER BY msgId").await,
        ["1", "3", "5", "7"]
    );
    assert_eq!(rows("SELECT msgId % 2 AS k, SUM(msgId) AS s FROM messages GROUP BY k HAVING SUM(msgId) > 4 ORDER BY SUM(msgId) DESC").await, ["0 6"]);
    assert_eq!(
        one("SELECT DATE '2024-01-31' + INTERVAL '1 day', DATE '2024-01-31' - DATE '2024-01-01'").await,
        "2024-02-01 30"
    );
}

#[tokio::test]
async fn a_bad_pattern_is_named() {
    for pattern in ["(", "[a", "*", "(?P<x", "(?<=a)b", "a{1000}{1000}{1000}"] {
        for call in [
            "regexp_replace(content, $, '')",
            "regexp_like(content, $)",
            "regexp_match(content, $)",
            "regexp_count(content, $)",
            "regexp_instr(content, $)",
            "content ~ $",
            "content !~* $",
            "content SIMILAR TO $",
            "content ~ ($ || '')",
        ] {
            // What is put together counts as a pattern that comes from rows, with its own limit of size.
            if call.contains("||") && pattern.starts_with('a') {
                continue;
            }
            let sql = format!("SELECT {} FROM messages", call.replace('$', &format!("'{pattern}'")));
            let shown = crate::read::client_error(&run_in(&session(), &sql).await.expect_err(&sql), None);
            assert_eq!(shown.code, kalamdb_protocol::ErrorCode::InvalidValue, "{sql}");
            assert!(shown.message.contains(&format!("'{pattern}'")), "{sql}: {shown}");
        }
    }
    assert_eq!(
        one("SELECT count(*) FROM messages WHERE content ~ '^h.l+o$' AND regexp_like(content, 'HELLO', 'i')").await,
        "4"
    );
    assert_eq!(one("SELECT DISTINCT regexp_replace(content, '[le]', '', 'g') FROM messages").await, "ho");
    let many: Vec<String> = (0..100).map(|n| format!("content ~ 'x{n}'")).collect();
    let sql = format!("SELECT 1 FROM messages WHERE {}", many.join(" OR "));
    assert!(crate::read::client_error(&run_in(&session(), &sql).await.unwrap_err(), None).message.contains("64"));
}

#[tokio::test]
async fn metadata_is_json() {
    assert_eq!(one("SELECT DISTINCT metadata->>'role', metadata->'n'->>'a' FROM messages").await, "user 3");
    assert_eq!(
        one(
            "SELECT count(*) FROM messages WHERE (metadata->>'role') = 'user' AND json_get_int(metadata, 'n', 'a') = 3"
        )
        .await,
        "4"
    );
}

#[tokio::test]
async fn times_are_compared_in_any_unit() {
    for (filter, count) in [
        ("timestamp > 1699000000", "3"),
        ("timestamp > 1699000000000", "3"),
        ("timestamp > 1699000000000000", "3"),
        ("timestamp = 1699000001", "1"),
        ("timestamp <> 1699000001", "3"),
        ("1699000001 < timestamp", "2"),
        ("1699000001 >= m.timestamp", "2"),
        ("timestamp BETWEEN 1699000001 AND 1699000002000", "2"),
        ("timestamp NOT BETWEEN 1699000001 AND 1699000002000", "2"),
        ("timestamp IN (1699000000, 1699000001000, 1699000002000000, 5)", "3"),
        ("timestamp NOT IN (1699000000)", "3"),
        ("timestamp > 1699000000.5", "3"),
        ("timestamp >= 1699000000 + 1", "3"),
        ("timestamp >= (1699000000 + 1)", "3"),
        ("CAST(timestamp AS DOUBLE) > 1699000001", "2"),
        ("CAST(timestamp AS BIGINT) > CAST(1699000001 AS INT)", "2"),
        ("timestamp > to_timestamp(1699000001)", "2"),
        ("timestamp >= '2023-11-03T08:26:42Z'", "2"),
        ("timestamp >= '1699000002'", "2"),
        ("timestamp < now() - INTERVAL '1 day'", "4"),
        ("timestamp > UNIX_TIMESTAMP() - 3600", "0"),
        ("timestamp >= DATE '2023-11-03'", "4"),
        ("timestamp IS NOT DISTINCT FROM 1699000003", "1"),
        ("timestamp > NULL", "0"),
        ("NOT (timestamp > 1699000000) OR timestamp = 1699000003000", "2"),
        ("timestamp = m.timestamp", "4"),
        ("CASE WHEN timestamp > 1699000002 THEN 1 ELSE 0 END = 1", "1"),
    ] {
        let sql = format!("SELECT count(*) FROM messages m WHERE {filter}");
        assert_eq!(one(&sql).await, count, "{filter}");
    }
}

#[tokio::test]
async fn the_mark_of_a_time_survives_what_a_query_does_with_it() {
    for (sql, count) in [
        ("SELECT count(*) FROM (SELECT timestamp AS t FROM messages) x WHERE x.t > 1699000001", "2"),
        ("WITH x AS (SELECT timestamp AS t FROM messages) SELECT count(*) FROM x WHERE t > 1699000001", "2"),
        ("SELECT count(*) FROM messages a JOIN messages b ON a.msgId = b.msgId AND b.timestamp > 1699000001", "2"),
        (
            "SELECT count(*) FROM messages a WHERE EXISTS (SELECT 1 FROM messages b WHERE a.msgId = b.msgId AND a.timestamp > 1699000001)",
            "2",
        ),
        ("SELECT count(*) FROM messages WHERE msgId IN (SELECT msgId FROM messages WHERE timestamp > 1699000001)", "2"),
        ("SELECT count(*) FROM (SELECT timestamp FROM messages GROUP BY timestamp HAVING timestamp > 1699000001)", "2"),
        ("SELECT count(*) FILTER (WHERE timestamp > 1699000001) FROM messages", "2"),
        // Not a time: nothing is scaled.
        ("SELECT count(*) FROM messages WHERE msgId > 2", "2"),
        ("SELECT count(*) FROM (SELECT timestamp - 1699000000000000 AS age FROM messages) WHERE age > 1000000", "2"),
    ] {
        assert_eq!(one(sql).await, count, "{sql}");
    }
    assert_eq!(rows("SELECT timestamp > 1699000002 FROM messages").await.join(" "), "false false false true");
}

#[tokio::test]
async fn what_stands_for_a_time_is_one() {
    for (sql, count) in [
        ("SELECT count(*) FROM (SELECT msgId FROM messages GROUP BY msgId HAVING MAX(timestamp) > 1699000001)", "2"),
        ("SELECT count(*) FROM (SELECT msgId FROM messages GROUP BY msgId HAVING MAX(timestamp) > 4102444800)", "0"),
        ("SELECT count(*) FROM messages WHERE (SELECT MAX(timestamp) FROM messages) > 4102444800", "0"),
        (
            "SELECT count(*) FROM (SELECT AVG(timestamp) AS a FROM messages) WHERE a BETWEEN 1699000001 AND 1699000002",
            "1",
        ),
        ("SELECT count(*) FROM messages WHERE 1699000001 BETWEEN timestamp AND timestamp", "1"),
        ("SELECT count(*) FROM messages WHERE 1699000001 IN (timestamp, 5)", "1"),
        ("SELECT count(*) FROM messages WHERE CASE timestamp WHEN 1699000001 THEN 'a' END = 'a'", "1"),
        (
            "SELECT count(*) FROM messages WHERE CASE WHEN msgId > 2 THEN timestamp ELSE 1699000009 END > 1699000002",
            "3",
        ),
        ("SELECT count(*) FROM messages WHERE NULLIF(timestamp, 1699000001) IS NULL", "1"),
        ("SELECT count(*) FROM messages WHERE COALESCE(NULLIF(timestamp, 1699000001), 1699000000) > 1699000000", "2"),
        ("SELECT count(*) FROM messages WHERE GREATEST(timestamp, 1699000002) > 1699000002", "1"),
        ("SELECT count(*) FROM messages WHERE LEAST(timestamp, 1699000001) = 1699000001", "3"),
        ("SELECT count(*) FROM messages WHERE (timestamp, msgId) IN ((1699000001, 2), (1699000002000, 9))", "1"),
        ("SELECT count(*) FROM messages WHERE (timestamp, msgId) = (1699000001, 2)", "1"),
        ("SELECT count(*) FROM messages WHERE array_has([1699000001, 1699000002000], timestamp)", "2"),
        (
            "SELECT count(*) FROM messages m JOIN (VALUES (1699000001), (1699000002000)) AS v(t) ON m.timestamp = v.t",
            "2",
        ),
        ("SELECT count(*) FROM messages JOIN (VALUES (1699000001)) AS v(timestamp) USING (timestamp)", "1"),
        ("SELECT count(*) FROM messages WHERE timestamp IN (SELECT t FROM (VALUES (1699000001), (7)) AS v(t))", "1"),
        ("SELECT count(*) FROM messages WHERE timestamp > (SELECT 1699000001)", "2"),
        ("SELECT count(*) FROM messages WHERE 1699000001 IN (SELECT timestamp FROM messages)", "4"),
        (
            "SELECT count(*) FROM (SELECT timestamp AS t FROM messages UNION ALL SELECT 1699000009) WHERE t > 1699000002",
            "2",
        ),
        ("SELECT count(*) FROM (SELECT timestamp FROM messages INTERSECT SELECT 1699000001)", "1"),
        ("SELECT count(*) FROM (SELECT MIN(timestamp) OVER () AS m FROM messages) WHERE m = 1699000000", "4"),
        (
            "SELECT count(*) FROM (SELECT lag(timestamp, 1, 1699000000) OVER (ORDER BY msgId) AS p, timestamp AS t FROM messages) WHERE p = t",
            "1",
        ),
        (
            "SELECT count(*) FROM (SELECT lead(timestamp) OVER (ORDER BY msgId) AS n FROM messages) WHERE n > 1699000002",
            "1",
        ),
        (
            "SELECT count(*) FROM (SELECT msgId, MAX(timestamp) AS t FROM messages GROUP BY msgId) x WHERE EXISTS (SELECT 1 FROM messages m WHERE m.msgId = x.msgId AND x.t > 1699000001)",
            "2",
        ),
    ] {
        assert_eq!(one(sql).await, count, "{sql}");
    }
}

#[tokio::test]
async fn microseconds_of_a_column_are_not_guessed_at() {
    // A day after 1970, which as a number that somebody gives would be seconds.
    let day = "timestamp - 1699000000000000 + 86400000000";
    let sql = format!("SELECT DATE({day}), HOUR({day}), UNIX_TIMESTAMP({day}) FROM messages WHERE msgId = 1");
    assert_eq!(one(&sql).await, "1970-01-02 0 86400");
    assert_eq!(one("SELECT DATE(86400000000) AS given").await, "4707-11-29");
}

#[tokio::test]
async fn what_would_take_all_memory_is_refused() {
    for sql in [
        "SELECT repeat('x', 2000000000)",
        "SELECT length(repeat('x', 2000000000))",
        "SELECT repeat(content, 100000000) FROM messages",
        "SELECT 1 FROM messages WHERE length(repeat(content, msgId * 100000000)) > 1",
        "SELECT lpad('x', 2000000000), 1",
        "SELECT rpad(content, 2000000000, 'ab') FROM messages",
        "SELECT concat(repeat('x', 9000000), repeat('y', 9000000))",
        "SELECT repeat('x', 9000000) || repeat('y', 9000000)",
        "SELECT concat_ws(repeat('x', 9000000), 'a', 'b', 'c')",
        "SELECT replace(repeat('x', 9000), 'x', repeat('y', 9000))",
        "SELECT replace(repeat('x', 9000), '', repeat('y', 9000))",
        "SELECT regexp_replace(repeat('x', 9000), 'x', repeat('y', 9000), 'g')",
        "SELECT regexp_replace(repeat('x', 16000), '.*', repeat('$0', 9000))",
        "SELECT translate(repeat('x', 9000000), 'x', '🙂')",
        "SELECT encode(encode(encode(repeat('x', 9000000), 'hex'), 'hex'), 'hex')",
        "SELECT to_char(now(), repeat('%c', 1000000))",
        "SELECT overlay(repeat('x', 9000000) PLACING repeat('y', 9000000) FROM 1)",
        "SELECT range(2000000000)",
        "SELECT generate_series(0, 2000000000)",
        "SELECT generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2024-01-01', INTERVAL '1 second')",
        "SELECT range(DATE '0001-01-01', DATE '9000-01-01', INTERVAL '1 day')",
        "SELECT array_repeat('x', 2000000000)",
        "SELECT array_resize([1], 2000000000, 0)",
        "SELECT make_array(repeat('x', 9000000), repeat('y', 9000000))",
        "SELECT [repeat('x', 9000000), repeat('y', 9000000)]",
        "SELECT [repeat('x', 9000000)] || [repeat('y', 9000000)]",
        "SELECT array_to_string(range(100000), repeat('x', 9000))",
        "SELECT array_replace(range(100000), 1, 2), array_repeat([repeat('x', 1000000)], 20)",
        "SELECT string_to_array(repeat('x', 9000000), '')",
        "SELECT named_struct('a', repeat('x', 9000000), 'b', repeat('y', 9000000))",
        "SELECT regexp_match(repeat('x', 900000), repeat('(', 100) || '.*' || repeat(')', 100))",
    ] {
        assert!(matches!(refusal(sql).await, Some(TooLarge::Value)), "{sql}");
    }
    let many: Vec<String> = (0..9).map(|i| format!("repeat('x', 15000000) AS c{i}")).collect();
    let many = format!("SELECT {}", many.join(", "));
    assert_eq!(refusal(&many).await, Some(TooLarge::Constants));
}

#[tokio::test]
async fn work_that_outgrows_its_bytes_is_counted() {
    for sql in [
        "SELECT levenshtein(repeat('x', 900000), repeat('y', 900000))",
        "SELECT array_has_all(range(100000), range(msgId, 100000)) FROM messages",
    ] {
        assert_eq!(refusal(sql).await, Some(TooLarge::Work), "{sql}");
    }
    let many = "SELECT sum(levenshtein(content || repeat('a', 4000), repeat('b', 4000))) FROM messages";
    let error = run_in(&session_of("hello", 1_000), many).await.unwrap_err();
    assert_eq!(TooLarge::of(&error), Some(TooLarge::Work), "of all rows together");
    assert_eq!(rows("SELECT sum(levenshtein(content, 'hallo')) FROM messages").await, ["4"]);
}

#[tokio::test]
async fn work_ends_with_its_statement() {
    let session = session_of(&"ab".repeat(1_000), 100);
    let state = session.state();
    let plan = state.create_logical_plan("SELECT sum(levenshtein(content, repeat('b', 2000))) FROM messages").await;
    let running = crate::workers::Stage::free();
    let plan = prepare(plan.unwrap(), state.execution_props(), &Work::new(Arc::clone(&running))).unwrap();
    let plan = state.optimize(&plan).unwrap();
    let physical = state.query_planner().create_physical_plan(&plan, &state).await.unwrap();
    running.stop();
    let error = collect(physical, state.task_ctx()).await.unwrap_err();
    assert!(error.to_string().contains("query.timeout_seconds"), "{error}");
}

#[tokio::test]
async fn an_expression_that_repeats_matches_as_before_and_ends_with_its_statement() {
    let matches =
        "SELECT 'a1' ~ '^a\\d+$', 'A1' ~ 'a\\d+', 'A1' ~* 'a\\d+', 'A1' !~ 'a\\d+', 'A1' !~* 'a\\d*', NULL ~ 'a+'";
    assert_eq!(rows(matches).await, ["true false true true false NULL"]);
    let found = "SELECT count(*) FROM messages WHERE content ~ 'l{2}o?' AND content !~* 'HELLO.+'";
    assert_eq!(rows(found).await, ["4"]);
    assert_eq!(
        refusal("SELECT count(*) FROM messages WHERE repeat(content, 10000) ~ '(\\w{1,8}\\s){2}z'").await,
        Some(TooLarge::Work)
    );
    // Large when it is compiled, and fast all the same: any letter of any language, in few places.
    let found = "SELECT count(*) FROM messages WHERE repeat(content, 10000) || 'a@b.org' ~ '\\w+@\\w+\\.\\w+$'";
    assert_eq!(rows(found).await, rows("SELECT count(content) FROM messages").await);
    let session = session_of("some words of a text that goes on like this", 2_000);
    let state = session.state();
    let sql = "SELECT count(*) FROM messages WHERE content ~ '(\\w{1,8} ){2}z'";
    let running = crate::workers::Stage::free();
    let plan = state.create_logical_plan(sql).await.unwrap();
    let plan = prepare(plan, state.execution_props(), &Work::new(Arc::clone(&running))).unwrap();
    let plan = state.optimize(&plan).unwrap();
    let physical = state.query_planner().create_physical_plan(&plan, &state).await.unwrap();
    running.stop();
    let error = collect(physical, state.task_ctx()).await.unwrap_err();
    assert!(error.to_string().contains("query.timeout_seconds"), "{error}");
}

#[tokio::test]
async fn patterns_from_rows_are_few_and_small() {
    for sql in [
        "SELECT sum(regexp_count('a', '\\w{100}' || v)) FROM UNNEST(range(100)) AS n(v)",
        "SELECT count(*) FROM UNNEST(range(100)) AS n(v) WHERE 'a' ~ ('x' || v)",
        "SELECT count(*) FROM UNNEST(range(3)) AS n(v) WHERE 'a' !~* ('(\\w{50}){50}' || v)",
        "SELECT regexp_replace('a', repeat('a', 2000) || v, 'b') FROM UNNEST(range(3)) AS n(v)",
        "SELECT regexp_like('a', 'a', repeat('i', v)) FROM UNNEST(range(1, 17)) AS n(v)",
        "SELECT count(*) FROM UNNEST(range(2000)) AS n(v) WHERE 'a' LIKE repeat('%a_', 400) || v",
    ] {
        assert_eq!(refusal(sql).await, Some(TooLarge::Patterns), "{sql}");
    }
    assert_eq!(rows("SELECT count(*) FROM UNNEST(range(10)) AS n(v) WHERE 'x3' ~ ('^x' || v)").await, ["1"]);
    assert_eq!(rows("SELECT count(*) FROM UNNEST(range(5000)) AS n(v) WHERE 'x3' LIKE '%' || v").await, ["1"]);
    assert_eq!(rows("SELECT regexp_replace('abc', 'B', 'x', 'i'), 'abc' ~ 'b'").await, ["axc true"]);
}

#[tokio::test]
async fn a_window_collects_few_rows_only() {
    for sql in [
        "SELECT string_agg(content, ' ') OVER (ORDER BY msgId) FROM messages",
        "SELECT string_agg(content, ' ') OVER () FROM messages",
        "SELECT array_agg(content) OVER (PARTITION BY content) FROM messages",
        "SELECT median(msgId) OVER (ORDER BY msgId ROWS BETWEEN 5000 PRECEDING AND CURRENT ROW) FROM messages",
        "SELECT sum(DISTINCT msgId) OVER (ORDER BY msgId) FROM messages",
        "SELECT 1 FROM (SELECT max(x) AS m FROM (SELECT array_agg(msgId) OVER (ORDER BY msgId) AS x FROM messages) q) r",
    ] {
        assert_eq!(refusal(sql).await, Some(TooLarge::Frame), "{sql}");
    }
    let few = "SELECT array_to_string(array_agg(msgId) OVER (ORDER BY msgId ROWS BETWEEN 1 PRECEDING AND CURRENT ROW), '-') \
               AS x FROM messages ORDER BY msgId";
    assert_eq!(rows(few).await, ["1", "1-2", "2-3", "3-4"]);
    assert_eq!(
        rows("SELECT sum(msgId) OVER (ORDER BY msgId) AS x FROM messages ORDER BY 1").await,
        ["1", "3", "6", "10"]
    );
}

#[tokio::test]
async fn doubling_ends_though_each_step_is_small() {
    let mut sql = "SELECT content AS s FROM messages".to_owned();
    for _ in 0..23 {
        // The aggregate keeps the optimizer from putting the steps into one another.
        sql = format!("SELECT max(s || s) AS s FROM ({sql})");
    }
    assert_eq!(refusal(&format!("SELECT length(s) FROM ({sql})")).await, Some(TooLarge::Value));
}

#[tokio::test]
async fn a_batch_is_counted_by_what_is_made() {
    // By its bound each row may become seventy kilobytes, in truth it stays as long as it is.
    let session = session_of(&"word ".repeat(2_000), 4_000);
    let made = run_in(&session, "SELECT max(length(regexp_replace(content, 'w', '1234567'))), count(*) FROM messages")
        .await
        .unwrap();
    assert_eq!(made[0].num_rows(), 1);
    let error =
        run_in(&session, "SELECT length(content || content || content || content) FROM messages").await.unwrap_err();
    assert_eq!(TooLarge::of(&error), Some(TooLarge::Batch));
}

#[tokio::test]
async fn guarded_functions_answer_as_before() {
    for (sql, answer) in [
        ("SELECT repeat('ab', 3), repeat('ab', -1), repeat(NULL, 3)", "ababab  NULL"),
        ("SELECT lpad('a', 3), rpad('a', 3, 'xy'), concat('a', 1, NULL), concat_ws('-', 'a', 'b')", "  a axy a1 a-b"),
        ("SELECT 'a' || 1 || 'b', NULL || 'a'", "a1b NULL"),
        (
            "SELECT replace('abc', 'b', 'xx'), regexp_replace('abc', '(b)', '[$1]'), translate('abc', 'ab', 'xy')",
            "axxc a[b]c xyc",
        ),
        (
            "SELECT range(3), generate_series(3, 1, -1), array_repeat('x', 2), [1, 2] || [3], array_append([1], 2)",
            "[0, 1, 2] [3, 2, 1] [x, x] [1, 2, 3] [1, 2]",
        ),
        (
            "SELECT array_to_string([1, 2], '-'), string_to_array('a,b', ','), encode('a', 'hex'), overlay('abc' PLACING 'x' FROM 2)",
            "1-2 [a, b] 61 axc",
        ),
        ("SELECT to_char(to_timestamp(0), '%Y'), levenshtein('ab', 'ac'), named_struct('a', 1)['a']", "1970 1 1"),
        ("SELECT max(content || '!') FROM messages", "hello!"),
        ("SELECT content || msgId AS x FROM messages ORDER BY content || msgId DESC LIMIT 1", "hello4"),
        ("SELECT content || '!' FROM messages GROUP BY content || '!'", "hello!"),
        (
            "SELECT count(*) FROM messages WHERE content || '!' = 'hello!' HAVING max(concat(content, 'x')) = 'hellox'",
            "4",
        ),
        ("SELECT make_map('a', 1)", "{a: 1}"),
    ] {
        assert_eq!(one(sql).await, answer, "{sql}");
    }
    let answer = run_in(&session(), "SELECT content || '!', repeat(content, 2) FROM messages").await.unwrap();
    let names: Vec<String> = answer[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["messages.content || Utf8(\"!\")", "repeat(messages.content,Int64(2))"]);
}

#[tokio::test]
async fn what_shows_the_machine_is_gone() {
    for sql in [
        "SELECT version()",
        "SELECT input_file_name() FROM messages",
        "SELECT arrow_cast(NULL, 'FixedSizeBinary(2000000000)')",
    ] {
        assert!(run_in(&session(), sql).await.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn what_the_optimizer_would_multiply_is_refused() {
    let nested = |open: &str, close: &str, levels: usize| {
        format!("SELECT 1 FROM messages WHERE {}msgId{} > 1", open.repeat(levels), close.repeat(levels))
    };
    for sql in [
        nested("coalesce(", ", 1)", 60),
        nested("nvl(", ", 1)", 60),
        nested("CAST((", ") BETWEEN 1 AND 2 AS INT)", 60),
        nested("CAST(abs(", ") = 1 AS INT)", 60),
        nested("CAST(CAST((", ") AS VARCHAR) ~ '^(a|b|c)$' AS INT)", 30),
    ] {
        assert_eq!(refusal(&sql).await, Some(TooLarge::Expressions), "{sql}");
    }
    let mut sql = "SELECT msgId AS a FROM messages".to_owned();
    for _ in 0..20 {
        sql = format!("SELECT a + a + a AS a FROM ({sql}) x");
    }
    assert_eq!(refusal(&format!("SELECT 1 FROM ({sql}) WHERE a > 1")).await, Some(TooLarge::Expressions));
    // What people write is far from it.
    for sql in [
        nested("coalesce(", ", 1)", 8),
        nested("abs(", ")", 100),
        format!("SELECT 1 FROM messages WHERE msgId IN ({})", vec!["1"; 9_000].join(", ")),
        format!(
            "SELECT {} FROM messages",
            (0..300).map(|i| format!("coalesce(msgId, {i}) AS c{i}")).collect::<Vec<_>>().join(", ")
        ),
    ] {
        run_in(&session(), &sql).await.unwrap();
    }
}

#[tokio::test]
async fn answers_that_vary_are_known() {
    let session = session();
    for (sql, expected) in [
        ("SELECT now()", true),
        ("SELECT current_date", true),
        ("SELECT current_timestamp", true),
        ("SELECT random() FROM messages", true),
        ("SELECT uuid()", true),
        ("SELECT UNIX_TIMESTAMP()", true),
        ("SELECT UNIX_TIMESTAMP(timestamp) FROM messages", false),
        ("SELECT * FROM messages WHERE timestamp > UNIX_TIMESTAMP() - 5", true),
        ("SELECT * FROM messages WHERE msgId IN (SELECT 1 WHERE now() > now())", true),
        ("SELECT sum(random()) FROM messages", true),
        ("SELECT upper(content), HOUR(timestamp), count(*) OVER () FROM messages", false),
    ] {
        let state = session.state();
        let plan = state.create_logical_plan(sql).await.unwrap();
        assert_eq!(is_volatile_read(&plan).unwrap(), expected, "{sql}");
        // Reading the times makes constants of some of these calls.
        let prepared = prepare(plan, state.execution_props(), &Work::new(crate::workers::Stage::free())).unwrap();
        assert_eq!(is_volatile_read(&prepared).unwrap(), expected, "{sql}, prepared");
    }
}

#[tokio::test]
async fn large_constants_make_small_batches() {
    let session = session();
    let batch = async |sql: &str| {
        let state = session.state();
        let plan = state.create_logical_plan(sql).await.unwrap();
        let plan = state
            .optimize(&prepare(plan, state.execution_props(), &Work::new(crate::workers::Stage::free())).unwrap())
            .unwrap();
        batch_rows(&plan, 8_192).unwrap()
    };
    assert_eq!(batch("SELECT content, 'x' FROM messages").await, 8_192);
    assert_eq!(batch("SELECT repeat('x', 1000000) FROM messages").await, 67);
    assert_eq!(batch("SELECT unnest([1, 2]), content FROM messages").await, 256);
    let long = "x".repeat(100_000);
    assert_eq!(batch(&format!("VALUES ('{long}'), ('{long}')")).await, 8_192);
}

/// The functions of DataFusion that were looked at and cannot grow their input without bound. One that is new fails
/// here, and gets a rule in `growth` or a place in this list.
const REVIEWED: &str = include_str!("reviewed.txt");

#[test]
fn every_function_has_been_looked_at() {
    let session = session();
    let reviewed: HashSet<&str> = REVIEWED.split_whitespace().collect();
    let state = session.state();
    let mut missing: Vec<String> = state
        .scalar_functions()
        .values()
        .map(|function| function.name().to_owned())
        .filter(|name| growth::cost(name).is_none() && !reviewed.contains(name.as_str()))
        .collect();
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "{}", missing.join(" "));
}

/// How often it is asked whether a statement is to go on while it runs.
async fn looks(session: &SessionContext, sql: &str) -> usize {
    let stage = Stage::free();
    let plan = session.state().create_logical_plan(sql).await.unwrap();
    run_plan(session, plan, &stage).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    stage.looks.load(Ordering::Relaxed)
}

/// Each of them is one batch, which nothing else would stop.
#[tokio::test]
async fn work_within_a_batch_is_stopped() {
    let numbers = "FROM UNNEST(range(100, 1000)) AS n(v)";
    for call in [
        "strpos(repeat('a', 40000) || v, repeat('a', 2000) || 'b' || v)",
        "length(btrim(repeat('ab', 4000) || v, repeat('ab', 100)))",
        r"regexp_like(repeat('ab', 4000) || v, '(\w{50}c)+?x', 'i')",
        r"regexp_instr(repeat('ab', 4000) || v, '(\w{50}c)+?x')",
        r"array_length(regexp_match(repeat('ab', 4000) || v, '(\w{50}c)+?x'))",
        r"regexp_count(repeat('ab', 4000) || v, '(\w{50}c)+?x')",
        r"length(regexp_replace(repeat('ab', 4000) || v, '(\w{50}c)+?x', 'y'))",
        r"repeat('ab', 4000) || v SIMILAR TO '(\w{50}c)+?x'",
        "repeat('ab', 4000) || v LIKE '%a________________________________c%'",
    ] {
        let looks = looks(&session(), &format!("SELECT count({call}) {numbers}")).await;
        assert!(looks >= 15, "{looks} in {call}");
    }
    // Each match is looked for to the end of the text.
    for call in
        ["regexp_count(repeat('a', 2000), 'a*b|a')", "length(regexp_replace(repeat('a', 2000), 'a*b|a', 'x', 'g'))"]
    {
        let looks = looks(&session(), &format!("SELECT {call}")).await;
        assert!(looks >= 3, "{looks} in {call}");
    }
    // The same value in each row is one value in memory.
    let shared = session_of(&"ab".repeat(50_000), 1_000);
    for call in ["length(content)", "ascii(content)", "json_length(content)", "substr(content, 90000, 2)"] {
        let looks = looks(&shared, &format!("SELECT count({call}) FROM messages")).await;
        assert!(looks >= 6, "{looks} in {call}");
    }
}

#[tokio::test]
async fn a_search_that_cannot_be_stopped_is_refused() {
    for sql in [
        "SELECT strpos(repeat('a', 16000000), repeat('a', 8000000) || 'b')",
        r"SELECT regexp_count(repeat('ab', 8000000), '\w{100}\d')",
        r"SELECT regexp_like(repeat('ab', 8000000), '\w{100}\d')",
        r"SELECT repeat('ab', 8000000) SIMILAR TO '[ab]{100}\d'",
        "SELECT btrim(repeat('ab', 8000000), 'abcdef')",
    ] {
        assert_eq!(refusal(sql).await, Some(TooLarge::Work), "{sql}");
    }
    let whole = "SELECT regexp_count(repeat('a b ', 3000000), ' b'), strpos(repeat('a', 9000000) || 'b', 'ab'), \
                 length(regexp_replace(repeat('a b ', 3000000), '\\s+', '', 'g'))";
    assert_eq!(rows(whole).await, ["3000000 9000000 6000000"]);
}

/// What stands in for DataFusion's functions and operators answers as they do.
#[tokio::test]
async fn searches_of_our_own_answer_as_the_others() {
    let mut asked: Vec<String> = [
        "regexp_count(t, p)",
        "regexp_count(t, p, 2)",
        "regexp_count(t, p, 9)",
        "regexp_count(t, p, 1, 'i')",
        "regexp_count(t, p, 1, '')",
        "regexp_replace(t, p, '<$1>', 'g')",
        "regexp_replace(t, p, '<\\1\\0>', 'g')",
        "regexp_replace(t, p, 'x', 'gi')",
        "regexp_replace(t, p, 'x', 'i')",
        "t SIMILAR TO p",
        "t NOT SIMILAR TO p",
    ]
    .map(str::to_owned)
    .to_vec();
    let patterns = ["(a+)", "a*", "b?", "(x)?", "A{1,2}", "[^a]+", "^.*$", "\\s+"];
    let likes = ["a_b%", "%a_", "_%b", "a%b%c", "%a%%b", "a\\_b_", "%é_", "_", "a.b_", "%_\\", "__%\\%"];
    for like in likes {
        asked.extend(["LIKE", "NOT LIKE", "ILIKE"].map(|operator| format!("t {operator} '{like}'")));
    }
    let texts =
        "(VALUES ('aab'), (''), ('AaBé b'), (NULL), ('a_b%'), ('a\nb c'), ('a.b'), ('éa  éb'), ('ab\\')) AS v(t)";
    for ask in &asked {
        for pattern in patterns {
            let sql = format!(
                "SELECT {} FROM {texts}",
                ask.replace(", p", &format!(", '{pattern}'")).replace("TO p", &format!("TO '{pattern}'"))
            );
            let plan = session().state().create_logical_plan(&sql).await.unwrap();
            let ours = run_plan(&session(), plan, &Stage::free()).await.unwrap();
            let theirs = session().sql(&sql).await.unwrap().collect().await.unwrap();
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(ours.columns(), theirs.columns(), "{sql}");
            }
        }
    }
}

#[tokio::test]
async fn a_long_text_is_no_decimal() {
    let read = "SELECT TRY_CAST(repeat('1', 10000) AS DECIMAL(38, 3)), CAST(repeat('0', 900) || '1.5' AS DECIMAL(38, 3)), \
                TRY_CAST(repeat('1', 30) AS DECIMAL(38, 3)) = TRY_CAST(NULL AS INT)";
    assert_eq!(rows(read).await, ["NULL 1.500 NULL"]);
    let number = "SELECT content FROM messages WHERE CAST(repeat(content, 1000) AS DECIMAL(38, 3)) > 1";
    assert!(run_in(&session(), number).await.is_err());
    let list = "SELECT CAST([repeat(content, 1000)] AS DECIMAL(38, 3)[]) FROM messages";
    assert!(run_in(&session(), list).await.unwrap_err().to_string().contains("more than 1000 characters"));
}

/// Together with a BIGINT a number without a sign would be a decimal.
#[tokio::test]
async fn what_counts_has_a_sign() {
    assert_eq!(
        rows(
            "SELECT x, arrow_typeof(x) FROM (SELECT ROW_NUMBER() OVER (ORDER BY msgId DESC) AS x FROM messages UNION \
             SELECT RANK() OVER (ORDER BY msgId) + 1 FROM messages UNION SELECT msgId FROM messages) ORDER BY x"
        )
        .await,
        ["1 Int64", "2 Int64", "3 Int64", "4 Int64", "5 Int64"]
    );
    assert_eq!(
        rows(
            "SELECT -DENSE_RANK() OVER (ORDER BY msgId), to_hex(NTILE(2) OVER (ORDER BY msgId)), \
             CASE WHEN msgId > 1 THEN ROW_NUMBER() OVER (ORDER BY msgId) ELSE -1 END FROM messages ORDER BY msgId"
        )
        .await,
        ["-1 1 -1", "-2 1 2", "-3 2 3", "-4 2 4"]
    );
    assert_eq!(
        one("SELECT -array_length([7, 8]), -cardinality([7]), -array_ndims([[7]]), array_position([7, 8], 8) - 3, \
             -json_length('{\"a\":1}'), arrow_typeof(coalesce(array_length([7]), 1)), list_length([7]) - 2")
        .await,
        "-2 -1 -2 -1 -1 Int64 -1"
    );
    let aggregates = "approx_distinct(msgId) - 9, -regr_count(msgId, msgId), arrow_typeof(approx_distinct(msgId))";
    let of = |rest: &str| format!("SELECT {aggregates} FROM messages {rest}");
    assert_eq!(one(&of("WHERE msgId < 3")).await, "-7 -2 Int64");
    assert_eq!(one(&of("WHERE msgId < 0")).await, "-9 0 Int64");
    assert_eq!(rows(&of("GROUP BY msgId > 2 ORDER BY msgId > 2")).await, ["-7 -2 Int64", "-7 -2 Int64"]);
    let sliding =
        "SELECT -regr_count(msgId, msgId) OVER (ORDER BY msgId ROWS 1 PRECEDING) FROM messages ORDER BY msgId";
    assert_eq!(rows(sliding).await, ["-1", "-2", "-2", "-2"]);
    let tied = "SELECT (SELECT approx_distinct(b.msgId) FROM messages b WHERE b.msgId = a.msgId + 3) - 9 FROM messages a \
                ORDER BY a.msgId";
    assert_eq!(rows(tied).await, ["-8", "-9", "-9", "-9"]);
}

#[tokio::test]
async fn case_says_which_constants_are_cast() {
    assert_eq!(
        rows(
            "SELECT CASE WHEN 'bo' IN ('7', '12') THEN CAST('bo' AS BIGINT) END, \
             CASE WHEN msgId > 9 THEN CAST('x' || '1' AS BIGINT) ELSE CAST('7' AS BIGINT) + 1 END, \
             CASE '' WHEN '' THEN NULL ELSE CAST('' AS BIGINT) END FROM messages WHERE msgId < 3"
        )
        .await,
        ["NULL 8 NULL", "NULL 8 NULL"]
    );
    assert_eq!(
        one(
            "SELECT CASE WHEN q.a IN ('7') THEN CAST(q.a AS BIGINT) END FROM (SELECT 'x' AS a FROM messages LIMIT 1) q"
        )
        .await,
        "NULL"
    );
    let sql = "SELECT CASE WHEN msgId > 0 THEN CAST('x' AS BIGINT) END FROM messages";
    let error = run_in(&session(), sql).await.unwrap_err();
    assert!(error.to_string().contains("Cannot cast"), "{error}");
    assert_eq!(one("SELECT CAST(CASE WHEN true THEN '2025-10-13' END AS DATE)").await, "2025-10-13");
}

/// `string_agg` makes a text of another kind than a column has.
#[tokio::test]
async fn texts_of_any_kind_are_compared() {
    assert_eq!(
        one("SELECT levenshtein('hello', string_agg(content, '')), levenshtein(MAX(content), 'jello') FROM messages")
            .await,
        "15 1"
    );
}
