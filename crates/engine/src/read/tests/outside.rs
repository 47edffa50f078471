//! Answers on their way out: formats, limits, the cache.

use futures::StreamExt;
use serde_json::json;

use super::*;
use crate::{Format, RowStream};

const VALUES: &str = r#"SELECT * FROM (VALUES (1, 'a "b", c', 1.5, true, NULL), (2, '', CAST('NaN' AS DOUBLE), false, 'x')) AS t("n", "text", "f", "b", "nothing")"#;

async fn body(rows: Rows, format: Format) -> (Option<bool>, Vec<u8>) {
    let RowStream { truncated, mut body, .. } = rows.into_stream(format).await.unwrap();
    let mut bytes = vec![];
    while let Some(part) = body.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    (truncated, bytes)
}

#[tokio::test]
async fn json_is_a_query_response() {
    let world = World::new();
    let answer = world.query(&caller("anna"), VALUES).await.unwrap();
    assert_eq!(answer.columns, ["n", "text", "f", "b", "nothing"]);
    assert_eq!(answer.types, ["BIGINT", "VARCHAR", "DOUBLE", "BOOLEAN", "VARCHAR"]);
    assert_eq!(answer.rows[0], [json!(1), json!(r#"a "b", c"#), json!(1.5), json!(true), json!(null)]);
    assert_eq!(answer.rows[1], [json!(2), json!(""), json!(null), json!(false), json!("x")]);
    assert_eq!((answer.row_count, answer.truncated), (2, false));
    assert!(answer.execution_time_ms > 0.0);
}

#[tokio::test]
async fn values_without_a_json_of_their_own_are_written_for_people() {
    let world = World::new();
    let sql = "SELECT CAST('2024-02-03' AS DATE), CAST('2024-02-03T04:05:06' AS TIMESTAMP), \
               CAST(1.50 AS DECIMAL(5,2)), [1, NULL, 3], {'a': 1, 'b': 'x'}, X'00ff'";
    let answer = world.query(&caller("anna"), sql).await.unwrap();
    let expected = json!(["2024-02-03", "2024-02-03T04:05:06", "1.50", [1, null, 3], {"a": 1, "b": "x"}, "00ff"]);
    assert_eq!(Value::from(answer.rows[0].clone()), expected);
    assert_eq!(answer.types[..5], ["DATE", "TIMESTAMP", "DECIMAL(5,2)", "BIGINT[]", "STRUCT"]);
}

#[tokio::test]
async fn each_format_streams() {
    let world = World::new();
    let anna = caller("anna");
    let (truncated, csv) = body(world.rows(&anna, VALUES).await.unwrap(), Format::Csv).await;
    assert_eq!(truncated, Some(false));
    let expected = "n,text,f,b,nothing\n1,\"a \"\"b\"\", c\",1.5,true,\n2,\"\",,false,x\n";
    assert_eq!(String::from_utf8(csv).unwrap(), expected);

    let (_, lines) = body(world.rows(&anna, VALUES).await.unwrap(), Format::NdJson).await;
    let lines: Vec<Value> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1], json!({"n": 2, "text": "", "f": null, "b": false, "nothing": "x"}));

    let (_, arrow) = body(world.rows(&anna, VALUES).await.unwrap(), Format::Arrow).await;
    let reader = datafusion::arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None).unwrap();
    assert_eq!(reader.schema().field(1).data_type(), &datafusion::arrow::datatypes::DataType::Utf8);
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_long_answer_comes_in_parts_and_says_how_it_ended() {
    let world = World::with(&QuerySettings { max_rows: 1_000_000, ..settings() });
    let anna = caller("anna");
    let sql = "SELECT value, 'some text to fill the line' AS text FROM generate_series(1, 200000)";
    let (truncated, bytes) = body(world.rows(&anna, sql).await.unwrap(), Format::NdJson).await;
    assert_eq!(truncated, None);
    assert_eq!(String::from_utf8(bytes).unwrap().lines().count(), 200_000);

    let sql = "SELECT 1 / (150000 - value) AS x, 'some text to fill the line' AS text FROM generate_series(1, 200000)";
    let (_, bytes) = body(world.rows(&anna, sql).await.unwrap(), Format::NdJson).await;
    let text = String::from_utf8(bytes).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["error"], "invalid_value");
    let (_, bytes) = body(world.rows(&anna, sql).await.unwrap(), Format::Csv).await;
    let text = String::from_utf8(bytes).unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("#error,invalid_value,"), "{last}");
    // Before the first byte it is an error like any other.
    let sql = "SELECT 1 / (value - 5) FROM generate_series(1, 10)";
    let error = world.rows(&anna, sql).await.unwrap().into_stream(Format::Csv).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::InvalidValue);
}

#[tokio::test]
async fn an_answer_that_is_cut_after_it_began_ends_with_a_mark() {
    let world = World::with(&QuerySettings { max_rows: 50_000, ..settings() });
    let anna = caller("anna");
    let sql = |rows| format!("SELECT value, 'some text to fill the line' AS text FROM generate_series(1, {rows})");
    let answer = async |rows, format| body(world.rows(&anna, &sql(rows)).await.unwrap(), format).await;
    let sentence =
        "The answer ends after 50000 rows (`query.max_rows`), and there are more: narrow the query, or page by a key.";

    let (truncated, bytes) = answer(50_001, Format::NdJson).await;
    assert!(truncated.is_none() && bytes.len() > 1 << 20, "the head was out before the cut was known");
    let text = String::from_utf8(bytes).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({"truncated": true, "rowCount": 50_000, "message": sentence}));
    assert_eq!(text.lines().count(), 50_001);

    let (truncated, bytes) = answer(50_001, Format::Csv).await;
    assert!(truncated.is_none() && bytes.len() > 1 << 20);
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.lines().last().unwrap(), format!("#truncated,50000,\"{sentence}\""));
    assert_eq!(text.lines().count(), 50_002);

    // Exactly as many rows as there may be are no cut.
    for format in [Format::NdJson, Format::Csv, Format::Arrow] {
        let (truncated, bytes) = answer(50_000, format).await;
        assert!(truncated.is_none() && !String::from_utf8_lossy(&bytes).contains("truncated"), "{format:?}");
    }

    // Arrow has no record for it: the stream fails after the last row.
    let mut stream = world.rows(&anna, &sql(50_001)).await.unwrap().into_stream(Format::Arrow).await.unwrap();
    assert_eq!(stream.truncated, None);
    let (mut bytes, mut failed) = (vec![], None);
    while let Some(part) = stream.body.next().await {
        match part {
            Ok(part) => bytes.extend_from_slice(&part),
            Err(error) => failed = Some(error.to_string()),
        }
    }
    assert_eq!(failed.as_deref(), Some(sentence));
    let reader = datafusion::arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
    assert_eq!(reader.map_while(Result::ok).map(|batch| batch.num_rows()).sum::<usize>(), 50_000);
}

#[tokio::test]
async fn an_answer_counts_until_its_bytes_are_gone() {
    const MIB: usize = 1 << 20;
    // One user has half of it.
    let memory = QuerySettings { total_memory_bytes: 24 * MIB, max_memory_bytes: 12 * MIB, ..settings() };
    let answers = QuerySettings { max_rows: 10_000, max_response_bytes: 16 * MIB, ..memory };
    let world = World::with(&QuerySettings { max_concurrent: 32, max_concurrent_per_user: 16, ..answers });
    // Six MiB, in a buffer of eight. The second may come from memory, and counts as the first does.
    let anna = caller("anna");
    let sql = "SELECT repeat('x', 1000) FROM generate_series(1, 6000)";
    for sql in [sql, sql, &format!("{sql} WHERE value > 0")] {
        let sent = world.rows(&anna, sql).await.unwrap().into_json().await.unwrap();
        assert_eq!(world.code(&anna, sql).await, ErrorCode::RateLimited, "{} bytes are held", sent.len());
        assert!(world.query(&caller("ben"), sql).await.is_ok());
        drop(sent);
        assert!(world.query(&anna, sql).await.is_ok());
    }

    // What is computed ahead of a client that does not read counts too.
    let long = "SELECT repeat('x', 1000) FROM generate_series(1, 9000)";
    let mut unread = vec![];
    let refused = loop {
        match world.rows(&anna, long).await.unwrap().into_stream(Format::NdJson).await {
            Ok(stream) => unread.push(stream),
            Err(error) => break error.code,
        }
        assert!(unread.len() <= 12, "as many heads of a MiB each are more than there is");
    };
    assert_eq!(refused, ErrorCode::RateLimited);
}

#[tokio::test]
async fn no_part_is_large_whatever_the_rows_are() {
    let world = World::with(&QuerySettings { max_rows: 1_000_000, ..settings() });
    for (width, rows) in [(5, 500_000), (20_000, 400)] {
        let sql = format!("SELECT repeat('x', {width}) FROM generate_series(1, {rows})");
        let stream = world.rows(&caller("anna"), &sql).await.unwrap().into_stream(Format::Csv).await.unwrap();
        let largest = stream.body.skip(1).map(|part| part.unwrap().len()).fold(0, async |a, b| a.max(b)).await;
        assert!((1..1_000_000).contains(&largest), "{largest}");
    }
}

#[tokio::test]
async fn limits_cut_rows_and_refuse_bytes() {
    let world = World::with(&QuerySettings { max_rows: 10, max_response_bytes: 10_000, ..settings() });
    let anna = caller("anna");
    let sql = "SELECT value FROM generate_series(1, 11) ORDER BY value";
    let answer = world.query(&anna, sql).await.unwrap();
    assert_eq!((answer.row_count, answer.truncated, &answer.rows[9]), (10, true, &vec![json!(10)]));
    let answer = world.query(&anna, "SELECT value FROM generate_series(1, 10)").await.unwrap();
    assert_eq!((answer.row_count, answer.truncated), (10, false));
    let (truncated, _) = body(world.rows(&anna, sql).await.unwrap(), Format::Csv).await;
    assert_eq!(truncated, Some(true));
    let wide = "SELECT repeat('x', 2000) FROM generate_series(1, 10)";
    assert_eq!(world.code(&anna, wide).await, ErrorCode::PayloadTooLarge);
    let (_, csv) = body(world.rows(&anna, wide).await.unwrap(), Format::Csv).await;
    assert!(csv.len() > 20_000);
}

#[tokio::test]
async fn a_repeated_question_is_answered_from_memory_and_never_stale() {
    let world = World::new();
    let anna = caller("anna");
    let sql = r#"SELECT count(*) FROM "anna"."messages""#;
    let request = QueryRequest { sql: sql.to_owned(), params: None };
    let ticket = world.workers.admit(&anna.user).await.unwrap();
    let is_cached = |caller: &Caller| world.reader.cached(caller, &request, &ticket).is_some();

    world.send(vec![message("anna", "c", "1")]).await;
    assert!(!is_cached(&anna));
    assert_eq!(world.answer(&anna, sql).await, [[1]]);
    assert!(is_cached(&anna));
    assert_eq!(world.answer(&anna, sql).await, [[1]]);
    assert!(!is_cached(&caller("ben")) && !is_cached(&Caller { admin: true, ..anna.clone() }));

    world.send(vec![message("ben", "c", "1")]).await;
    assert!(is_cached(&anna), "somebody else's change is not hers");
    world.send(vec![message("anna", "c", "2")]).await;
    assert!(!is_cached(&anna));
    assert_eq!(world.answer(&anna, sql).await, [[2]]);

    let all = r#"SELECT count(*) FROM "*"."messages""#;
    assert_eq!(world.answer(&admin(), all).await, [[3]]);
    world.send(vec![message("carl", "c", "1")]).await;
    assert_eq!(world.answer(&admin(), all).await, [[4]]);
}

#[tokio::test]
async fn an_answer_read_on_an_old_snapshot_is_kept_as_old() {
    let world = World::new();
    let anna = caller("anna");
    let request = QueryRequest { sql: r#"SELECT count(*) FROM "anna"."messages""#.to_owned(), params: None };
    world.send(vec![message("anna", "c", "1")]).await;
    let (view, ticket) = (world.view(&anna), world.workers.admit(&anna.user).await.unwrap());
    let rows = view.rows(&read(&request.sql), &request, &ticket).await.unwrap();
    world.send(vec![message("anna", "c", "2")]).await;
    let body: Value = serde_json::from_slice(&rows.into_json().await.unwrap()).unwrap();
    assert_eq!(body["rows"], json!([[1]]), "a statement sees its snapshot");
    assert!(world.reader.cached(&anna, &request, &ticket).is_none());
}
