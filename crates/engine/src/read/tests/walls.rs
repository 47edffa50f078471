//! What a statement cannot do.

use std::sync::atomic::Ordering;

use super::*;
use crate::{sql, workers::Stage};

#[tokio::test]
async fn others_schemas_are_not_there() {
    let world = World::new();
    world.send(vec![message("anna", "c", "secret")]).await;
    let ben = caller("ben");
    for schema in ["anna", "nobody", "*", "system"] {
        let sql = format!(r#"SELECT * FROM "{schema}"."messages""#);
        assert_eq!(world.code(&ben, &sql).await, ErrorCode::ScopeViolation, "{schema}");
    }
    for sql in [
        "SELECT * FROM messages",
        r#"SELECT * FROM "x"."anna"."messages""#,
        r#"SELECT * FROM "ben"."tables""#,
        "SELECT * FROM 'x.parquet'",
        "SELECT * FROM \"/etc/passwd\"",
    ] {
        assert_eq!(world.code(&ben, sql).await, ErrorCode::UnknownTable, "{sql}");
    }
    assert_eq!(world.code(&ben, "SELECT * FROM information_schema.tables").await, ErrorCode::ScopeViolation);
    assert_eq!(world.code(&admin(), "SELECT * FROM information_schema.tables").await, ErrorCode::UnknownTable);
    assert_eq!(world.code(&admin(), "SELECT * FROM system.secrets").await, ErrorCode::UnknownTable);
    let cte = r#"WITH "anna" AS (SELECT 1 AS one) SELECT * FROM "anna""#;
    assert_eq!(world.answer(&ben, cte).await, [[1]]);
    let nested = r#"SELECT (SELECT count(*) FROM "anna"."messages") FROM "ben"."messages""#;
    assert_eq!(world.code(&ben, nested).await, ErrorCode::ScopeViolation);
    assert_eq!(world.code(&ben, &format!("EXPLAIN {nested}")).await, ErrorCode::ScopeViolation);
}

#[tokio::test]
async fn nothing_but_reading() {
    let world = World::new();
    let anna = caller("anna");
    for sql in [
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1 INTO t",
        "COPY (SELECT 1) TO 'x.csv'",
        "SET datafusion.execution.batch_size = 1",
        r#"DROP TABLE "anna"."messages""#,
        r#"EXPLAIN DELETE FROM "anna"."messages""#,
    ] {
        let Ok(mut statements) = Parser::parse_sql(&GenericDialect {}, sql) else { continue };
        let error = world.view(&anna).plan(&statements.remove(0)).unwrap_err();
        assert_eq!(error.code, ErrorCode::Unsupported, "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn mistakes_are_explained() {
    for (tier, world) in tiers(vec![message("anna", "c", "a"), message("anna", "c", "b")]).await {
        let anna = caller("anna");
        let error = world.error(&anna, r#"SELECT contnt FROM "anna"."messages""#).await;
        assert_eq!(error.code, ErrorCode::UnknownColumn, "{error:?}");
        assert_eq!(error.details["suggestions"][0], "content");
        let error = world.error(&anna, r#"SELECT lenght(content) FROM "anna"."messages""#).await;
        assert_eq!((error.code, &error.details["suggestions"][0]), (ErrorCode::Unsupported, &Value::from("length")));
        let error = world.error(&anna, r#"SELECT "msgId" FROM "anna"."messages" a, "anna"."messages" b"#).await;
        assert_eq!(error.code, ErrorCode::InvalidValue, "{error:?}");
        // Above the scan or in it, a value's fault is the statement's, not the storage's.
        for sql in [
            r#"SELECT 1 / ("msgId" - "msgId") FROM "anna"."messages""#,
            r#"SELECT content FROM "anna"."messages" WHERE 1 / ("msgId" - "msgId") > 0"#,
            r#"SELECT content FROM "anna"."messages" WHERE CAST(content AS BIGINT) > 0"#,
            r#"SELECT CAST(content AS BIGINT) FROM "anna"."messages" ORDER BY 1 LIMIT 1"#,
        ] {
            let error = world.error(&anna, sql).await;
            assert_eq!(error.code, ErrorCode::InvalidValue, "{tier} {sql}: {error:?}");
        }
    }
}

#[tokio::test]
async fn memory_ends_a_query_and_nothing_else() {
    let small = QuerySettings { max_memory_bytes: 1024 * 1024, ..settings() };
    let world = World::with(&small);
    let anna = caller("anna");
    let sql = "SELECT count(DISTINCT value) FROM generate_series(1, 10000000)";
    let error = world.error(&anna, sql).await;
    assert_eq!(error.code, ErrorCode::QueryTooLarge, "{error:?}");
    let sql = "SELECT count(*) FROM (SELECT value FROM generate_series(1, 1000000) ORDER BY value DESC OFFSET 1)";
    let error = world.error(&anna, sql).await;
    assert_eq!(error.code, ErrorCode::QueryTooLarge, "{error:?}");

    let crowded = World::with(&QuerySettings { total_memory_bytes: 1024 * 1024, ..settings() });
    let error = crowded.error(&anna, sql).await;
    assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error:?}");
    assert_eq!(crowded.answer(&anna, "SELECT 1").await, [[1]]);
}

/// A join keeps its first input. Where nothing of the rows is needed they had no size, and were kept one by one.
#[tokio::test]
async fn rows_of_which_nothing_is_needed_are_only_counted() {
    let messages = ["a", "b", "c"].map(|content| message("anna", "c", content));
    for (tier, world) in tiers(messages.to_vec()).await {
        let anna = caller("anna");
        let table = r#""anna"."messages""#;
        for (from, expected) in [
            (format!("{table} a, {table} b, {table} c, {table} d"), 81),
            (format!("{table} a LEFT JOIN {table} b ON b.\"msgId\" < 0"), 3),
            (format!("{table} a LEFT JOIN {table} b ON b.\"msgId\" > 0"), 9),
            (format!("(SELECT 1 FROM {table} a, {table} b UNION ALL SELECT 2 FROM {table}) a, {table} c"), 36),
            (format!("{table} a, {table} b WHERE false"), 0),
            ("UNNEST(range(20)) a(v), UNNEST(range(20)) b(w), UNNEST(range(20)) c(x)".to_owned(), 8_000),
        ] {
            let sql = format!("SELECT count(*) FROM {from}");
            assert_eq!(world.answer(&anna, &sql).await, [[expected]], "{tier} {sql}");
        }
    }
    let world = World::new();
    let ranges = "UNNEST(range(20)) a(v), UNNEST(range(20)) b(w), UNNEST(range(20)) c(x)";
    let plan = world.answer(&caller("anna"), &format!("EXPLAIN SELECT count(*) FROM {ranges}")).await;
    let plan = plan[1][1].as_str().expect("the plan's text");
    assert_eq!(plan.matches("CountedExec").count(), plan.matches("CrossJoinExec").count(), "{plan}");
    // Nor do they wait in a queue for each thread, which are as long as one of the threads is slow.
    for from in ["UNNEST(range(20000)) a(v)", "UNNEST(range(20000)) a(v), (SELECT 1 LIMIT 1) b"] {
        let plan = world.answer(&caller("anna"), &format!("EXPLAIN SELECT count(*) FROM {from}")).await;
        let plan = plan[1][1].as_str().expect("the plan's text");
        assert!(plan.contains("UnnestExec") && !plan.contains("RepartitionExec"), "{from}");
    }
}

/// One text of a megabyte in each of 10,000 rows: the window's memory has to see what it computes from small columns.
#[tokio::test]
async fn what_a_window_computes_counts_before_it_is_copied() {
    let world = World::new();
    let anna = caller("anna");
    for argument in ["repeat('y', CASE WHEN value = 1 THEN 1000000 ELSE 1 END)", "lpad('y', 1000000 / value, 'x')"] {
        for frame in ["", "ORDER BY value", "ORDER BY value ROWS BETWEEN 3 PRECEDING AND CURRENT ROW"] {
            let sql = format!("SELECT max({argument}) OVER ({frame}) AS m FROM generate_series(1, 10000)");
            let sql = format!("SELECT max(length(m)) FROM ({sql})");
            assert_eq!(world.code(&anna, &sql).await, ErrorCode::QueryTooLarge, "{sql}");
        }
    }
    let sql = "SELECT max(repeat('y', value)) OVER (ORDER BY value), lag(upper(repeat('y', value)), 1, 'none')
               OVER (ORDER BY value) AS before, max(repeat('y', value)) OVER (PARTITION BY value % 2) || '!'
               FROM generate_series(1, 3) ORDER BY value";
    assert_eq!(world.answer(&anna, sql).await, [["y", "none", "yyy!"], ["yy", "Y", "yy!"], ["yyy", "YY", "yyy!"]]);
}

#[tokio::test]
async fn time_ends_a_query_and_frees_its_place() {
    let hasty = QuerySettings {
        timeout: Duration::from_millis(300),
        max_concurrent: 1,
        max_concurrent_per_user: 1,
        ..settings()
    };
    let world = World::with(&hasty);
    let anna = caller("anna");
    let endless = "SELECT sum(value % 7) FROM generate_series(1, 100000000000)";
    assert_eq!(world.code(&anna, endless).await, ErrorCode::QueryTimeout);
    // The only place is free again: the work has really stopped.
    assert_eq!(world.answer(&anna, "SELECT 1").await, [[1]]);
}

#[tokio::test]
async fn nobody_waits_for_a_question_that_was_dropped() {
    let one = QuerySettings { max_concurrent: 1, max_concurrent_per_user: 1, ..settings() };
    let world = Arc::new(World::with(&one));
    let running = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.answer(&caller("anna"), "SELECT sum(value % 7) FROM generate_series(1, 100000000000)").await }
    });
    tokio::task::yield_now().await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(world.answer(&caller("ben"), "SELECT 1").await, [[1]]);
}

/// Planning may take long, and so may a join that repeats a row: both end with their statement.
#[tokio::test]
async fn planning_and_joins_end_with_their_statement() {
    let world = World::new();
    world.send((0..20).map(|number| message("john", "c", format!("text {number}"))).collect()).await;
    let ask = async |sql: &str, stage: &Arc<Stage>| {
        let request = QueryRequest { sql: sql.to_owned(), params: None };
        let sql::Statement::Read(read) = sql::parse(&caller("john"), &request, 1 << 20)? else { panic!("{sql}") };
        let view = world.reader.view(&caller("john"), world.store.snapshot()).in_stage(Arc::clone(stage));
        view.collect(view.plan(&read.statement)?).await
    };
    let stopped = Stage::free();
    stopped.stop();
    let refused = ask("SELECT msgId FROM messages", &stopped).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::QueryTimeout);
    let looks = async |sql: &str| {
        let stage = Stage::free();
        ask(sql, &stage).await.unwrap();
        stage.looks.load(Ordering::Relaxed)
    };
    let one = looks("SELECT msgId FROM messages").await;
    assert!(one >= 20, "each rule asks: {one}");
    let text = "(SELECT max(repeat(content, 400000)) AS t FROM messages)";
    let few = looks(&format!("SELECT max(msgId) FROM {text} JOIN messages ON msgId < 3")).await;
    let many = looks(&format!("SELECT count(*) FROM {text} JOIN messages ON t > '' || msgId")).await;
    assert!(
        many >= few + 3,
        "{many} and {few}: what repeats a text of some megabytes is asked for a few rows at a time"
    );
}
