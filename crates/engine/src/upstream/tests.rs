//! Each statement twice: as it is answered here, and by DataFusion alone.
//!
//! Invariant: where a small table shows what is wrong upstream, the test fails when DataFusion answers right, so that what
//! stands in front of it can go.

use std::{fs::File, path::Path, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
        util::display::{ArrayFormatter, FormatOptions},
    },
    datasource::MemTable,
    execution::SessionStateBuilder,
    optimizer::Optimizer,
    parquet::{arrow::ArrowWriter, file::properties::WriterProperties},
    physical_optimizer::optimizer::PhysicalOptimizer,
    physical_plan::collect,
    prelude::{ParquetReadOptions, SessionConfig, SessionContext},
};
use kalamdb_protocol::ErrorCode;

use super::*;
use crate::{Error, functions};

/// `t`: four rows `(id, k, v)`, of which `v` of the third is NULL; `e`: the same without rows. `p` are the numbers 0 to 2,
/// sorted, in two parts.
fn session(ours: bool) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(2);
    config.options_mut().sql_parser.enable_ident_normalization = false;
    config.options_mut().execution.parquet.pushdown_filters = true;
    let mut rules = PhysicalOptimizer::new().rules;
    if ours {
        settle(&mut config.options_mut().optimizer);
        TakeBackClaims::insert(&mut rules);
        PartitionInnerJoins::insert(&mut rules);
        DetachFetch::insert(&mut rules);
        SameNames::insert(&mut rules);
    }
    let builder =
        SessionStateBuilder::new().with_default_features().with_config(config).with_physical_optimizer_rules(rules);
    let rules = Optimizer::new().rules;
    let state = builder.with_optimizer_rules(if ours { around(rules) } else { rules }).build();
    let session = SessionContext::new_with_state(state);
    functions::register(&mut *session.state_ref().write()).unwrap();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("k", DataType::Utf8, false),
        Field::new("v", DataType::Utf8, true),
        Field::new("meta", DataType::Utf8, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
        Arc::new(StringArray::from(vec!["a", "a", "b", "b"])),
        Arc::new(StringArray::from(vec![Some("x"), Some("y"), None, Some("x")])),
        Arc::new(StringArray::from(vec![Some(r#"{"k":"7"}"#), None, Some(r#"{"k":"8"}"#), None])),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let none = RecordBatch::new_empty(Arc::clone(&schema));
    session.register_table("t", Arc::new(MemTable::try_new(Arc::clone(&schema), vec![vec![rows]]).unwrap())).unwrap();
    session.register_table("e", Arc::new(MemTable::try_new(schema, vec![vec![none]]).unwrap())).unwrap();
    session
}

pub(super) async fn answer(sql: &str, ours: bool) -> Result<Vec<String>> {
    answer_of(&session(ours), sql, ours).await
}

async fn answer_of(session: &SessionContext, sql: &str, ours: bool) -> Result<Vec<String>> {
    let state = session.state();
    let mut plan = state.create_logical_plan(sql).await?;
    if ours {
        let work = functions::Work::new(crate::workers::Stage::free());
        plan = rewrite(functions::prepare(rewrite_first(plan)?, state.execution_props(), &work)?)?;
    }
    let plan = state.optimize(&plan)?;
    let physical = state.query_planner().create_physical_plan(&plan, &state).await?;
    let mut rows = Vec::new();
    for batch in collect(physical, state.task_ctx()).await? {
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    Ok(rows)
}

pub(super) async fn right(sql: &str, rows: &[&str]) {
    match answer(sql, true).await {
        Ok(answer) => assert_eq!(answer, rows, "{sql}"),
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// Right here, and not by DataFusion alone: once that is so too, what stands in front of it can go.
pub(super) async fn mended(sql: &str, rows: &[&str]) {
    right(sql, rows).await;
    let alone = answer(sql, false).await;
    assert!(alone.is_err() || alone.is_ok_and(|answer| answer != rows), "DataFusion answers {sql} right by itself");
}

pub(super) async fn refused(sql: &str) {
    let error = answer(sql, true).await.expect_err(sql);
    let datafusion::error::DataFusionError::External(ours) = error.find_root() else { panic!("{sql}: {error}") };
    let ours = ours.downcast_ref::<Error>().unwrap_or_else(|| panic!("{sql}: {error}"));
    assert_eq!(ours.code, ErrorCode::Unsupported, "{sql}");
}

/// apache/datafusion#25350, mended by apache/datafusion#25349.
#[tokio::test]
async fn distinct_over_a_renamed_subquery() {
    let sql =
        "SELECT * FROM (SELECT DISTINCT upper(c) AS z FROM (SELECT k AS c FROM t) AS r) AS x WHERE z = 'A' LIMIT 9";
    right(sql, &["A"]).await;
}

/// apache/datafusion#21625. A statement that waits for ever shows nothing, so the plan is looked at.
#[tokio::test]
async fn a_join_below_a_join_waits_for_nobody() {
    let sql = "SELECT a.id FROM t a JOIN (SELECT b.id FROM t b JOIN t c ON b.k = c.k GROUP BY b.id) d ON a.id = d.id";
    for (ours, collected) in [(false, true), (true, false)] {
        let state = session(ours).state();
        let plan = state.optimize(&state.create_logical_plan(sql).await.unwrap()).unwrap();
        let plan = state.query_planner().create_physical_plan(&plan, &state).await.unwrap();
        let plan = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
        let inner = plan.lines().filter(|line| line.contains("HashJoinExec")).nth(1).expect("two joins");
        assert_eq!(inner.contains("CollectLeft"), collected, "{plan}");
    }
}

/// apache/datafusion#23534.
#[tokio::test]
async fn an_offset_skips_the_first_of_an_order_that_is_not_shown() {
    mended("SELECT max(q.k) AS m FROM (SELECT k FROM t ORDER BY id DESC OFFSET 2) q", &["a"]).await;
    mended("SELECT DISTINCT c FROM (SELECT upper(k) AS c FROM t ORDER BY id DESC OFFSET 2) q", &["A"]).await;
    right("SELECT id FROM t WHERE k IN (SELECT k FROM t ORDER BY id DESC OFFSET 2) ORDER BY id", &["1", "2"]).await;
    right("SELECT k FROM t ORDER BY id DESC OFFSET 3", &["a"]).await;
    right("SELECT k || v AS c FROM (SELECT k, v FROM t ORDER BY id OFFSET 1 LIMIT 1) q", &["ay"]).await;
}

/// apache/datafusion#24927, mended by apache/datafusion#24932.
#[tokio::test]
async fn distinct_sorted_and_limited() {
    let sql = "WITH s(x) AS (VALUES (0),(1),(2) ORDER BY 1 LIMIT 3), \
               u AS (SELECT * FROM s UNION ALL SELECT * FROM s UNION ALL SELECT * FROM s) \
               SELECT DISTINCT x FROM u ORDER BY x LIMIT 3";
    mended(sql, &["0", "1", "2"]).await;
    let sql = "SELECT k, count(*) FROM (SELECT k FROM t ORDER BY k LIMIT 4) GROUP BY k ORDER BY k LIMIT 2";
    right(sql, &["a 2", "b 2"]).await;
}

/// A condition over a JSON value above a LIMIT.
#[tokio::test]
async fn json_above_a_limit() {
    let sql = "SELECT a.meta->>'k' AS c FROM (SELECT * FROM t q ORDER BY q.id LIMIT 1) a \
               WHERE CASE WHEN a.id = 1 THEN CAST(a.meta->>'k' AS BIGINT) ELSE 0 END = 7";
    right(sql, &["7"]).await;
}

/// apache/datafusion#25415.
#[tokio::test]
async fn a_volatile_group_key_is_computed_once() {
    // Of two groups at most one is `true`; computed again for the condition, others would pass for it.
    let sql = "SELECT DISTINCT r FROM (SELECT random() < 0.5 AS r, count(*) AS n FROM t CROSS JOIN t u CROSS JOIN t w \
               GROUP BY random() < 0.5) WHERE r";
    mended_in_the_long_run(sql, "true").await;
    let sql = "SELECT count(*) FROM (SELECT k, random() AS r FROM t GROUP BY ROLLUP (k, random()))";
    assert!(answer(sql, true).await.is_ok());
}

/// As [`mended`], of an answer that only chance makes wrong.
async fn mended_in_the_long_run(sql: &str, only: &str) {
    for _ in 0..20 {
        assert!(answer(sql, true).await.unwrap().iter().all(|row| row == only), "{sql}");
    }
    for _ in 0..100 {
        if answer(sql, false).await.unwrap().iter().any(|row| row != only) {
            return;
        }
    }
    panic!("DataFusion answers {sql} right by itself");
}

/// apache/datafusion#25340.
#[tokio::test]
async fn a_constant_is_not_in_what_has_a_null() {
    mended("SELECT id FROM t WHERE 'z' NOT IN (SELECT v FROM t)", &[]).await;
    mended("SELECT id FROM t WHERE NOT ('z' IN (SELECT v FROM t))", &[]).await;
    mended("SELECT id FROM t WHERE NULL NOT IN (SELECT k FROM t)", &[]).await;
    right("SELECT id FROM t WHERE 'z' NOT IN (SELECT k FROM t) ORDER BY id", &["1", "2", "3", "4"]).await;
    right("SELECT id FROM t WHERE 'a' NOT IN (SELECT k FROM t)", &[]).await;
    right("SELECT id FROM t WHERE NULL NOT IN (SELECT v FROM e) ORDER BY id", &["1", "2", "3", "4"]).await;
    right("SELECT count(*) FROM t WHERE 'z' IN (SELECT v FROM t)", &["0"]).await;
}

#[tokio::test]
async fn a_column_is_not_in_what_has_a_null() {
    right("SELECT id FROM t WHERE k NOT IN (SELECT v FROM t)", &[]).await;
    right("SELECT id FROM t WHERE k NOT IN (SELECT v FROM t WHERE v IS NOT NULL) ORDER BY id", &["1", "2", "3", "4"])
        .await;
    right("SELECT id FROM t WHERE v NOT IN (SELECT k FROM t) ORDER BY id", &["1", "2", "4"]).await;
    right("SELECT id FROM t WHERE v NOT IN (SELECT k FROM e) ORDER BY id", &["1", "2", "3", "4"]).await;
    right("SELECT id FROM t WHERE v NOT IN (SELECT 'x') ORDER BY id", &["2"]).await;
    right("SELECT id FROM t WHERE id + 1 NOT IN (SELECT id FROM t) ORDER BY id", &["4"]).await;
    right("SELECT id FROM t WHERE k <> 'b' OR v NOT IN (SELECT 'y') ORDER BY id", &["1", "2", "4"]).await;
    right("SELECT id FROM t WHERE NOT (k = 'b' OR v IN (SELECT 'y')) ORDER BY id", &["1"]).await;
}

/// apache/datafusion#25347.
#[tokio::test]
async fn nulls_of_a_correlated_subquery_count() {
    mended("SELECT id FROM t WHERE 'z' NOT IN (SELECT u.v FROM t u WHERE u.k = t.k) ORDER BY id", &["1", "2"]).await;
    right(
        "SELECT id FROM t WHERE v NOT IN (SELECT u.v FROM t u WHERE u.k = t.k AND u.id <> t.id) ORDER BY id",
        &["1", "2"],
    )
    .await;
    right("SELECT id FROM t WHERE id NOT IN (SELECT u.id FROM t u WHERE u.k = t.k AND u.id > 1) ORDER BY id", &["1"])
        .await;
    right(
        "SELECT id FROM t WHERE id NOT IN (SELECT u.id FROM t u WHERE u.id < t.id) ORDER BY id",
        &["1", "2", "3", "4"],
    )
    .await;
}

#[tokio::test]
async fn in_has_three_values() {
    mended("SELECT id FROM t WHERE (v IN (SELECT 'x' UNION ALL SELECT NULL)) IS NULL ORDER BY id", &["2", "3"]).await;
    mended(
        "SELECT id FROM t WHERE (id IN (SELECT TRY_CAST(v AS BIGINT) FROM t WHERE v IS NULL)) IS NULL ORDER BY id",
        &["1", "2", "3", "4"],
    )
    .await;
    right("SELECT id FROM t WHERE (v IN (SELECT v FROM e)) IS NULL", &[]).await;
    right(
        "SELECT id, v IN (SELECT 'x') AS i, v NOT IN (SELECT v FROM t) AS n FROM t ORDER BY id",
        &["1 true false", "2 false false", "3 NULL NULL", "4 true false"],
    )
    .await;
    right("SELECT id FROM t WHERE CASE WHEN v IN (SELECT 'x') THEN false ELSE true END ORDER BY id", &["2", "3"]).await;
}

/// apache/datafusion#23022.
#[tokio::test]
async fn exists_and_in_stand_anywhere() {
    mended("SELECT EXISTS (SELECT 1 FROM t) AS e, NOT EXISTS (SELECT 1 FROM e) AS f", &["true true"]).await;
    right(
        "SELECT id, EXISTS (SELECT 1 FROM t u WHERE u.k = t.k AND u.v = 'y') AS e FROM t ORDER BY id",
        &["1 true", "2 true", "3 false", "4 false"],
    )
    .await;
    right("SELECT CASE WHEN 2 IN (SELECT id FROM t) THEN 'yes' ELSE 'no' END AS c", &["yes"]).await;
    right("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM e) OR id = 2", &["2"]).await;
    right(
        "SELECT k, count(*) FROM t GROUP BY k HAVING EXISTS (SELECT 1 FROM t WHERE v = 'y') ORDER BY k",
        &["a 2", "b 2"],
    )
    .await;
    right("SELECT count(*) FROM t a JOIN t b ON a.id = b.id AND EXISTS (SELECT 1 FROM t)", &["4"]).await;
    right("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM e u WHERE u.k = t.k) ORDER BY id LIMIT 1", &["1"]).await;
    right("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t u WHERE u.id > t.id LIMIT 1) ORDER BY id", &["1", "2", "3"])
        .await;
    right("SELECT EXISTS (SELECT 1 FROM t LIMIT 0) AS e, EXISTS (SELECT 1 FROM t OFFSET 4) AS f", &["false false"])
        .await;
    right("SELECT id FROM t WHERE 0 IN (SELECT count(*) FROM e u WHERE u.k = t.k) ORDER BY id", &["1", "2", "3", "4"])
        .await;
    right("SELECT id FROM t WHERE 'q' NOT IN (SELECT max(u.v) FROM e u WHERE u.k = t.k)", &[]).await;
}

/// What DataFusion would move out of the subquery, to another meaning.
#[tokio::test]
async fn conditions_that_cannot_leave_a_subquery_stay() {
    for (inside, rows) in [
        ("SELECT 1 FROM (SELECT * FROM t u WHERE u.k = t.k ORDER BY u.id LIMIT 1) q WHERE q.id > 1", &["3", "4"][..]),
        (
            "SELECT 1 FROM (SELECT row_number() OVER (ORDER BY u.id) AS n FROM t u WHERE u.k = t.k) q WHERE q.n = 2",
            &["1", "2", "3", "4"],
        ),
        (
            "SELECT 1 FROM t w LEFT JOIN (SELECT * FROM t u WHERE u.k = t.k) q ON q.id = w.id WHERE q.id IS NULL",
            &["1", "2", "3", "4"],
        ),
        ("SELECT 1 FROM t u WHERE u.k = t.k AND u.id > 2 OFFSET 1", &["3", "4"]),
    ] {
        right(&format!("SELECT id FROM t WHERE EXISTS ({inside}) ORDER BY id"), rows).await;
        let others: Vec<&str> = ["1", "2", "3", "4"].into_iter().filter(|id| !rows.contains(id)).collect();
        right(&format!("SELECT id FROM t WHERE NOT EXISTS ({inside}) ORDER BY id"), &others).await;
    }
    refused("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t u WHERE t.v NOT IN (SELECT w.v FROM t w))").await;
    refused("SELECT id FROM t WHERE random() NOT IN (SELECT CAST(v AS DOUBLE) FROM t)").await;
}

#[tokio::test]
async fn copies_are_bounded() {
    let mut sql = "SELECT v FROM t".to_owned();
    for _ in 0..12 {
        sql = format!("SELECT v FROM t WHERE v NOT IN ({sql})");
    }
    let error = answer(&sql, true).await.unwrap_err();
    assert!(functions::TooLarge::of(&error).is_some(), "{error}");
    // Few rows to copy, and long expressions in them or beside them.
    let many = |one: &str| (0..900).map(|number| format!("{one}{number}")).collect::<Vec<_>>().join(", ");
    let list = format!("SELECT 1 FROM t WHERE coalesce({0}) IN ({0})", many("id + "));
    let mut rows = "SELECT v FROM t".to_owned();
    for _ in 0..5 {
        rows = format!("SELECT coalesce({}) FROM t WHERE v NOT IN ({rows})", many("v || 'x' || "));
    }
    for sql in [list, rows] {
        let error = answer(&sql, true).await.unwrap_err();
        assert!(functions::TooLarge::of(&error).is_some(), "{error}");
    }
}

#[tokio::test]
async fn a_condition_without_columns_stays_above_an_aggregate_of_all_rows() {
    mended("SELECT m FROM (SELECT MAX(id) AS m FROM t) AS q WHERE (SELECT count(*) FROM e) > 0", &[]).await;
    right("SELECT m FROM (SELECT MAX(id) AS m FROM t) AS q WHERE (SELECT count(*) FROM t) > 0", &["4"]).await;
    right("SELECT 7 FROM (SELECT MAX(id) AS m FROM t) AS q WHERE NOT EXISTS (SELECT 1 FROM t)", &[]).await;
    right("SELECT 7 FROM (SELECT MAX(id) AS m FROM t) AS q WHERE 'z' IN (SELECT v FROM t WHERE v IS NOT NULL)", &[])
        .await;
    right(
        "SELECT id FROM t WHERE 7 IN (SELECT 7 FROM (SELECT MAX(id) FROM t) AS q WHERE EXISTS (SELECT 1 FROM e))",
        &[],
    )
    .await;
    right(
        "SELECT k, n FROM (SELECT k, count(*) AS n FROM t GROUP BY ROLLUP (k)) AS q WHERE EXISTS (SELECT 1 FROM e)",
        &[],
    )
    .await;
}

#[tokio::test]
async fn rollup_keeps_keys_that_are_computed() {
    right("SELECT v <> NULL AS n, count(*) AS c FROM t GROUP BY ROLLUP (v <> NULL) ORDER BY c", &["NULL 4", "NULL 4"])
        .await;
    right(
        "SELECT upper(k) AS u, GROUPING(upper(k)) AS g, count(*) FROM t GROUP BY ROLLUP (upper(k)) ORDER BY g, u",
        &["A 0 2", "B 0 2", "NULL 1 4"],
    )
    .await;
}

#[tokio::test]
async fn each_string_agg_may_have_an_order_of_its_own() {
    mended(
        "SELECT string_agg(k, ',' ORDER BY id DESC) AS a, string_agg(v, '-' ORDER BY v DESC, id) AS b, \
         string_agg(v, '+' ORDER BY id) FILTER (WHERE v IS NULL) AS c FROM t",
        &["b,b,a,a y-x-x NULL"],
    )
    .await;
    right(
        "SELECT k, string_agg(v, ',' ORDER BY v), string_agg(DISTINCT k, ',' ORDER BY k) FROM t GROUP BY k ORDER BY k",
        &["a x,y a", "b x b"],
    )
    .await;
}

#[tokio::test]
async fn subqueries_stand_in_aggregates_windows_and_orders() {
    mended(
        "SELECT sum(CASE WHEN EXISTS (SELECT 1 FROM t u WHERE u.k = t.k AND u.v = 'y') THEN 1 ELSE 0 END) AS n FROM t",
        &["2"],
    )
    .await;
    right("SELECT count(*) FILTER (WHERE v NOT IN (SELECT u.v FROM t u WHERE u.k = t.k)) AS n FROM t", &["0"]).await;
    right("SELECT count(*) FILTER (WHERE id > ANY (SELECT u.id FROM t u)) AS n FROM t", &["3"]).await;
    right("SELECT count(*) FILTER (WHERE id >= ALL (SELECT u.id FROM t u)) AS n FROM t", &["1"]).await;
    right(
        "SELECT id FROM t ORDER BY v = ANY (SELECT u.v FROM t u WHERE u.id <> t.id) NULLS FIRST, id",
        &["2", "3", "1", "4"],
    )
    .await;
    right("SELECT max((SELECT max(u.id) FROM t u WHERE u.k = t.k)) OVER () AS m FROM t ORDER BY id LIMIT 1", &["4"])
        .await;
    right("SELECT id FROM t ORDER BY (SELECT max(u.id) FROM t u WHERE u.k = t.k) DESC, id", &["3", "4", "1", "2"])
        .await;
    right(
        "SELECT (SELECT count(*) FROM t u WHERE u.k = t.k) AS n, count(*) AS m FROM t GROUP BY \
         (SELECT count(*) FROM t u WHERE u.k = t.k)",
        &["2 4"],
    )
    .await;
}

/// Its column may be called as one that its condition reads.
#[tokio::test]
async fn a_subquerys_column_has_any_name() {
    mended("SELECT id, (SELECT max(u.id) AS k FROM t u WHERE u.k = t.k) AS m FROM t ORDER BY id LIMIT 1", &["1 2"])
        .await;
    right("SELECT id FROM t WHERE id = 4 OR v IN (SELECT DISTINCT u.v AS k FROM t u) ORDER BY id", &["1", "2", "4"])
        .await;
    right("SELECT id FROM t WHERE id IN (SELECT u.id + 1 AS k FROM t u WHERE u.k = t.k) ORDER BY id", &["2", "4"])
        .await;
}

#[tokio::test]
async fn an_item_of_a_list_is_computed_for_each_row() {
    mended("SELECT id FROM t WHERE 1 IN (CASE WHEN v LIKE '%x' THEN 1 END, 2) ORDER BY id", &["1", "4"]).await;
    right("SELECT id FROM t WHERE 1 NOT IN (CASE WHEN v LIKE '%x' THEN 1 ELSE 3 END, 2) ORDER BY id", &["2", "3"])
        .await;
    right(
        "SELECT id, 7 IN (CASE WHEN v = 'x' THEN 7 END, 2, id + 3) AS i FROM t ORDER BY id",
        &["1 true", "2 NULL", "3 NULL", "4 true"],
    )
    .await;
}

#[tokio::test]
async fn a_value_of_no_rows_is_null() {
    mended("SELECT id FROM t WHERE (SELECT 7 FROM e) IS NULL ORDER BY id", &["1", "2", "3", "4"]).await;
    mended(
        "SELECT id FROM t WHERE (CAST((SELECT 7 FROM (SELECT count(*) FROM t HAVING FALSE) AS q) AS DECIMAL(20, 2)) * 1.5 \
         >= 1) IS NULL ORDER BY id",
        &["1", "2", "3", "4"],
    )
    .await;
    right("SELECT coalesce((SELECT id FROM t WHERE id > 9), -1) AS a, (SELECT id FROM t LIMIT 1) AS b", &["-1 1"])
        .await;
    right(
        "SELECT id, (SELECT max(u.id) FROM t u WHERE u.k = t.v) IS NULL AS m FROM t ORDER BY id LIMIT 1",
        &["1 true"],
    )
    .await;
}

#[tokio::test]
async fn what_is_constant_below_an_outer_join_is_not_above() {
    mended(
        "SELECT a.n, b.id FROM (SELECT 7 AS n, id FROM t WHERE id < 3) a FULL JOIN t b ON a.id > b.id \
         ORDER BY a.n DESC, b.id",
        &["NULL 2", "NULL 3", "NULL 4", "7 1", "7 NULL"],
    )
    .await;
    right(
        "SELECT b.v, a.id FROM t a LEFT JOIN t b ON a.id = b.id AND b.v = 'x' ORDER BY b.v DESC, a.id",
        &["NULL 2", "NULL 3", "x 1", "x 4"],
    )
    .await;
    right(
        "SELECT b.v, a.id FROM (SELECT * FROM t WHERE v = 'x') b RIGHT JOIN t a ON a.id = b.id ORDER BY b.v DESC, a.id \
         LIMIT 3",
        &["NULL 2", "NULL 3", "x 1"],
    )
    .await;
    right(
        "SELECT b.n, count(*) AS c FROM t a LEFT JOIN (SELECT 7 AS n, id FROM t WHERE id > 2) b ON a.id = b.id GROUP BY b.n \
         ORDER BY b.n",
        &["7 2", "NULL 2"],
    )
    .await;
}

/// apache/datafusion#25052.
#[tokio::test]
async fn a_join_of_two_sorted_sides_is_sorted_by_one() {
    mended(
        "SELECT b.k, a.id FROM (SELECT id, k FROM t ORDER BY id LIMIT 2) a \
         JOIN (SELECT k FROM t ORDER BY k LIMIT 4) b ON a.k = b.k ORDER BY b.k, a.id",
        &["a 1", "a 1", "a 2", "a 2"],
    )
    .await;
    right(
        "SELECT b.k, a.id FROM (SELECT id, k FROM t ORDER BY id LIMIT 2) a \
         JOIN (SELECT k FROM t ORDER BY k LIMIT 4) b ON a.k = b.k ORDER BY b.k, a.id LIMIT 2",
        &["a 1", "a 1"],
    )
    .await;
}

/// apache/datafusion#24421.
#[tokio::test]
async fn grouping_sets_of_sorted_rows() {
    right(
        "SELECT k, v, count(*) AS n FROM (SELECT * FROM t ORDER BY k LIMIT 4) GROUP BY GROUPING SETS ((v, k), (k)) \
         ORDER BY k, n, v",
        &["a x 1", "a y 1", "a NULL 2", "b x 1", "b NULL 1", "b NULL 2"],
    )
    .await;
}

/// apache/datafusion#24816.
#[tokio::test]
async fn the_least_of_a_column_hides_no_row_from_another_aggregate() {
    let sql = "SELECT min(id) AS a, max(upper(k)) AS b FROM s";
    let folder = tempfile::tempdir().unwrap();
    for (ours, expected) in [(true, "1 Z"), (false, "1 A")] {
        let session = session(ours);
        with_parquet(&session, folder.path()).await;
        assert_eq!(answer_of(&session, sql, ours).await.unwrap(), [expected], "by us: {ours}");
    }
}

/// `s`: two files of two row groups with a row each, of which the second has the greater `k` and no smaller `id`.
async fn with_parquet(session: &SessionContext, folder: &Path) {
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("k", DataType::Utf8, false)]));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(vec!["a", "z"]))];
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    for name in ["one.parquet", "other.parquet"] {
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(1)).build();
        let file = File::create(folder.join(name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
    }
    session.register_parquet("s", folder.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
}

#[tokio::test]
async fn any_and_all_compare_what_is_inside_with_what_is_outside() {
    mended("SELECT id FROM t WHERE id > ALL (SELECT id FROM t WHERE id < 3) ORDER BY id", &["3", "4"]).await;
    mended("SELECT id FROM t WHERE k = ANY (SELECT k FROM t WHERE id = 1) ORDER BY id", &["1", "2"]).await;
    right("SELECT id FROM t WHERE id < SOME (SELECT id FROM t WHERE id < 3) ORDER BY id", &["1"]).await;
    right("SELECT id FROM t WHERE id <> ALL (SELECT id FROM t WHERE id < 3) ORDER BY id", &["3", "4"]).await;
    right("SELECT id FROM t WHERE NOT id >= ANY (SELECT id FROM t WHERE id > 2) ORDER BY id", &["1", "2"]).await;
    right("SELECT id FROM t WHERE v > ALL (SELECT v FROM e) ORDER BY id", &["1", "2", "3", "4"]).await;
    right("SELECT id FROM t WHERE v <= ALL (SELECT v FROM t)", &[]).await;
    right("SELECT id FROM t WHERE id >= ALL (SELECT max(id) FROM t) OR id < ANY (SELECT 2)  ORDER BY id", &["1", "4"])
        .await;
    right("SELECT id FROM t WHERE (v < ANY (SELECT u.v FROM t u)) IS NULL ORDER BY id", &["2", "3"]).await;
    right("SELECT id FROM t WHERE (v >= ALL (SELECT 'x')) IS NOT NULL ORDER BY id", &["1", "2", "4"]).await;
    right(
        "SELECT id, id < ANY (SELECT u.id FROM t u) AS a FROM t ORDER BY id",
        &["1 true", "2 true", "3 true", "4 false"],
    )
    .await;
    right("SELECT id FROM t WHERE id > ANY (SELECT u.id FROM t u WHERE u.k = t.k) ORDER BY id", &["2", "4"]).await;
}

/// apache/datafusion#25519.
#[tokio::test]
async fn a_rollup_of_no_rows_has_a_row() {
    refused("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM e u WHERE u.k = t.k GROUP BY ROLLUP (u.v))").await;
    refused("SELECT id FROM t WHERE id IN (SELECT u.id FROM t u WHERE u.k = t.k GROUP BY GROUPING SETS ((u.id), ()))")
        .await;
    right("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM e GROUP BY ROLLUP (v)) AND id = 1", &["1"]).await;
}

#[tokio::test]
async fn rows_are_compared_value_by_value() {
    mended("SELECT id FROM t WHERE (id, v) IN ((1, 'x'), (2, 'z'), (3, NULL))", &["1"]).await;
    mended("SELECT id FROM t WHERE (id, v) NOT IN ((1, 'x'), (3, 'x')) ORDER BY id", &["2", "4"]).await;
    right(
        "SELECT id, (v, k) = (NULL, 'b') AS a, (k, v) <> ('a', NULL) AS b FROM t ORDER BY id",
        &["1 false NULL", "2 false NULL", "3 NULL true", "4 NULL true"],
    )
    .await;
    right("SELECT id FROM t WHERE (k, id) > ('a', 1) ORDER BY id", &["2", "3", "4"]).await;
    right("SELECT id FROM t WHERE (k, id) >= ('a', 2) AND (k, id) < ('b', 4) ORDER BY id", &["2", "3"]).await;
    right("SELECT id FROM t WHERE (k, id) BETWEEN ('a', 2) AND ('b', 3) ORDER BY id", &["2", "3"]).await;
    right("SELECT a.id FROM t a JOIN t b ON (a.v, a.id) = (b.v, b.id) ORDER BY 1", &["1", "2", "4"]).await;
}

#[tokio::test]
async fn like_has_any_escape() {
    mended(r"SELECT 'a%b' LIKE 'a!%b' ESCAPE '!' AS a, 'axb' LIKE 'a!%b' ESCAPE '!' AS b", &["true false"]).await;
    right(r"SELECT 'a_!\' LIKE '_!_!!\' ESCAPE '!' AS a, 'A%' ILIKE 'a$%' ESCAPE '$' AS b", &["true true"]).await;
    right(r"SELECT id FROM t WHERE v NOT LIKE '!x' ESCAPE '!' ORDER BY id", &["2"]).await;
    assert!(answer("SELECT id FROM t WHERE v LIKE 'x!' ESCAPE '!'", true).await.is_err());
}

/// Without ours it panics.
#[tokio::test]
async fn a_key_stands_twice_in_an_order() {
    right("SELECT DISTINCT ON (k) k, id FROM t ORDER BY k, k DESC, id DESC", &["a 2", "b 4"]).await;
    right(
        "SELECT k, first_value(id ORDER BY v DESC, id + 0, id) AS f, string_agg(v, '' ORDER BY id, id) AS s \
         FROM t GROUP BY k ORDER BY k",
        &["a 2 xy", "b 3 x"],
    )
    .await;
}

#[tokio::test]
async fn a_null_key_is_in_no_json_that_anybody_knows() {
    mended("SELECT id FROM t WHERE json_contains('{}', CAST(NULL AS VARCHAR)) IS NULL AND id < 2", &["1"]).await;
    right(
        "SELECT id, json_contains('{\"x\":1}', v) AS a, json_contains(meta, CASE WHEN id > 2 THEN 'k' END) AS b FROM t ORDER BY id",
        &["1 true NULL", "2 false NULL", "3 NULL true", "4 true false"],
    )
    .await;
}

#[tokio::test]
async fn all_counts_how_often_a_row_is_there() {
    mended(
        "SELECT x FROM (VALUES (1), (1), (2), (NULL), (NULL)) AS a (x) INTERSECT ALL \
         SELECT y FROM (VALUES (1), (3), (NULL), (NULL)) AS b (y) ORDER BY x",
        &["1", "NULL", "NULL"],
    )
    .await;
    mended("SELECT k FROM t EXCEPT ALL (SELECT k FROM t WHERE id IN (1, 3, 4)) ORDER BY k", &["a"]).await;
    right("SELECT k FROM t EXCEPT SELECT k FROM t WHERE id = 1 ORDER BY k", &["b"]).await;
    right("SELECT k, v FROM t INTERSECT SELECT k, v FROM t WHERE id > 1 ORDER BY k, v", &["a y", "b x", "b NULL"])
        .await;
}

#[tokio::test]
async fn two_lists_of_one_value_know_of_null() {
    mended("SELECT id FROM t WHERE id IN (1, 2) AND id NOT IN (2, NULL)", &[]).await;
    mended("SELECT id FROM t WHERE v NOT IN ('a', 'b') OR v NOT IN ('x', 'c') ORDER BY id", &["1", "2", "4"]).await;
    mended("SELECT id FROM t WHERE NOT (v IN ('x', 'y') AND v IN ('a', 'b')) ORDER BY id", &["1", "2", "4"]).await;
    mended("SELECT id FROM t WHERE NOT (v IN ('x', 'y') AND v NOT IN ('x', 'y')) ORDER BY id", &["1", "2", "4"]).await;
    mended(
        "SELECT id FROM t WHERE NOT ((v = 'x' OR v = 'y' OR v = 'a' OR v = 'b') AND (v = 'c' OR v = 'd' OR v = 'e' OR v = 'f')) \
         ORDER BY id",
        &["1", "2", "4"],
    )
    .await;
    mended(
        "SELECT id FROM t WHERE NOT ((TRUE AND v NOT IN ('x', NULL)) AND NOT (TRUE AND v NOT IN ('x', NULL))) ORDER BY id",
        &["1", "4"],
    )
    .await;
    right("SELECT id FROM t WHERE id IN (1, 2, 3) AND id NOT IN (2, 5) ORDER BY id", &["1", "3"]).await;
    right("SELECT id FROM t WHERE v IN ('x', 'a') OR v IN ('y', 'b') ORDER BY id", &["1", "2", "4"]).await;
    right("SELECT id, v IN ('x', NULL) AS a FROM t ORDER BY id", &["1 true", "2 NULL", "3 NULL", "4 true"]).await;
}
