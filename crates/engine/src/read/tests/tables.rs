//! What the tables hold.

use std::collections::HashMap;

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::Int64Type,
    },
    logical_expr::{ident, lit},
    parquet::{
        arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder, arrow_writer::ArrowWriterOptions},
        file::properties::{EnabledStatistics, WriterProperties},
    },
};
use kalamdb_store::{Place, segment_schema};
use roaring::RoaringBitmap;
use serde_json::json;

use super::*;
use crate::{read::MessageOptions, sql::Schema};

fn some_messages() -> Vec<NewMessage> {
    (0..20).map(|n| message("anna", ["a", "b"][n % 2], format!("text {n}"))).collect()
}

#[tokio::test]
async fn every_tier_answers_the_same() {
    let mut expected: Option<Vec<_>> = None;
    for (tier, world) in tiers(some_messages()).await {
        let anna = caller("anna");
        let mut answers = vec![];
        for sql in [
            r#"SELECT count(*), min(content), max(content) FROM "anna"."messages""#,
            r#"SELECT "conversationId", count(*) FROM "anna"."messages" GROUP BY 1 ORDER BY 1"#,
            r#"SELECT content FROM "anna"."messages" WHERE content LIKE '%1' ORDER BY content"#,
            r#"SELECT content, "from", "conversationType" FROM "anna"."messages" WHERE "conversationId" = 'b' ORDER BY "msgId" DESC LIMIT 3"#,
            r#"SELECT content FROM "anna"."messages" WHERE "conversationId" = 'a' AND "msgId" > (SELECT min("msgId") FROM "anna"."messages") ORDER BY "msgId" LIMIT 2"#,
            r#"SELECT a.content, b.content FROM "anna"."messages" a JOIN "anna"."messages" b ON a."msgId" = b."msgId" WHERE a.content = 'text 7'"#,
            r#"SELECT count(*) FROM "anna"."messages" WHERE "conversationId" = 'nobody'"#,
            r#"SELECT count(*) FROM "anna"."messages" WHERE metadata IS NULL AND "contentRef" IS NULL"#,
        ] {
            answers.push((sql, world.answer(&anna, sql).await));
        }
        assert_eq!(answers[0].1, [[json!(20), json!("text 0"), json!("text 9")]], "{tier}");
        assert_eq!(answers[3].1[0], [json!("text 19"), json!("anna"), json!("ai")], "{tier}");
        let expected = expected.get_or_insert_with(|| answers.clone());
        assert_eq!(&answers, expected, "{tier}");
    }
}

#[tokio::test]
async fn the_columns_are_those_of_the_protocol_and_of_the_files() {
    let world = World::new();
    world.send(some_messages()).await;
    let answer = world.query(&caller("anna"), r#"SELECT * FROM "anna"."messages" LIMIT 1"#).await.unwrap();
    let table = kalamdb_protocol::TableId::Messages.table();
    let names: Vec<_> = table.columns.iter().map(|column| column.name).collect();
    assert_eq!(answer.columns, names);
    assert_eq!(answer.types[..5], ["BIGINT", "VARCHAR", "VARCHAR", "VARCHAR", "BIGINT"]);
    // Nothing is cast or filled in while a file of today is read: names, order and what may be null are the same.
    let file = segment_schema();
    let file: Vec<_> = file.fields().iter().map(|field| (field.name().as_str(), field.is_nullable())).collect();
    assert_eq!(file, table.columns.iter().map(|column| (column.name, column.nullable)).collect::<Vec<_>>());
}

/// Writes a file again as a program without the last two columns wrote it, of the same size: the store knows its size,
/// so that what is saved lies between the rows and the footer, where no reader looks.
fn forget_last_columns(path: &std::path::Path) {
    let size = usize::try_from(std::fs::metadata(path).unwrap().len()).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let known: Vec<usize> = (0..segment_schema().fields().len() - 2).collect();
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.unwrap().project(&known).unwrap()).collect();
    // With nothing besides the rows, so that it is no larger.
    let plain = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true);
    let options = ArrowWriterOptions::new().with_properties(plain.build()).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), batches[0].schema(), options).unwrap();
    for batch in &batches {
        writer.write(batch).unwrap();
    }
    let mut file = writer.into_inner().unwrap();
    let footer = u32::from_le_bytes(file[file.len() - 8..][..4].try_into().unwrap()) as usize + 8;
    let rows = file.len() - footer;
    file.splice(rows..rows, vec![0; size - file.len()]);
    std::fs::write(path, file).unwrap();
}

#[tokio::test]
async fn a_column_that_an_older_file_lacks_is_null() {
    let world = World::new();
    let anna = caller("anna");
    let with_metadata = |text: &str| NewMessage { metadata: Some("{}".to_owned()), ..message("anna", "a", text) };
    world.send(vec![with_metadata("old"), with_metadata("older")]).await;
    world.consolidate("anna").await;
    forget_last_columns(&world.folder.path().join(&world.store.snapshot().segments(&user("anna")).unwrap()[0].path));
    world.send(vec![with_metadata("new")]).await;
    world.consolidate("anna").await;
    for (sql, expected) in [
        (
            r#"SELECT content, metadata, "contentRef" FROM "anna"."messages" ORDER BY "msgId""#,
            vec![json!(["old", null, null]), json!(["older", null, null]), json!(["new", "{}", null])],
        ),
        (r#"SELECT count(*), count(metadata) FROM "anna"."messages""#, vec![json!([3, 1])]),
        (
            r#"SELECT content FROM "anna"."messages" WHERE metadata IS NULL AND content LIKE '%er'"#,
            vec![json!(["older"])],
        ),
        (r#"SELECT content FROM "anna"."messages" WHERE metadata = '{}'"#, vec![json!(["new"])]),
    ] {
        let rows: Vec<_> = world.answer(&anna, sql).await.into_iter().map(serde_json::Value::from).collect();
        assert_eq!(rows, expected, "{sql}");
    }
    // A file that a compaction makes of them has all columns.
    assert_eq!(world.store.compact(&user("anna"), true).await.unwrap().replaced, 2);
    let sql = r#"SELECT content, metadata FROM "anna"."messages" ORDER BY "msgId""#;
    let rows: Vec<_> = world.answer(&anna, sql).await.into_iter().map(serde_json::Value::from).collect();
    assert_eq!(rows, [json!(["old", null]), json!(["older", null]), json!(["new", "{}"])]);
}

#[tokio::test]
async fn a_deleted_cold_row_is_nowhere() {
    let world = World::new();
    let ids = world.send(some_messages()).await;
    world.consolidate("anna").await;
    let anna = caller("anna");

    let view = world.view(&anna).with_hidden();
    let sql = r#"SELECT "msgId", "_segment", "_position", "_version" FROM "anna"."messages" ORDER BY "msgId""#;
    let plan = view.plan(&read(sql).statement).unwrap();
    let rows = view.collect(plan).await.unwrap();
    let column = |index: usize| rows[0].column(index).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(column(0), ids);
    // The file is sorted by conversation: the even ones first.
    assert_eq!(column(2), (0..20).map(|n| n / 2 + (n % 2) * 10).collect::<Vec<i64>>());
    let segment = u64::try_from(column(1)[0]).unwrap();

    let gone = |n: usize| Change::Delete {
        owner: user("anna"),
        msg_id: ids[n],
        conversation: key(["a", "b"][n % 2], ConversationType::Ai),
        from: "anna".to_owned(),
        place: Place::Cold { segment, position: u32::try_from(n / 2 + (n % 2) * 10).unwrap() },
    };
    let version = world.store.snapshot().owner(&user("anna")).unwrap().cold_version;
    let expect = kalamdb_store::Expect::Cold { owner: user("anna"), version };
    let summary = |id: &str| {
        let left: Vec<_> = (0..20).filter(|n| !matches!(n, 0 | 5 | 19) && ["a", "b"][n % 2] == id).collect();
        Change::Cold(kalamdb_store::ColdSummary {
            owner: user("anna"),
            conversation: key(id, ConversationType::Ai),
            msg_ids: Some((ids[left[0]], ids[*left.last().unwrap()])),
        })
    };
    let changes = vec![gone(0), gone(5), gone(19), summary("a"), summary("b")];
    let actor = Actor { user: user("anna"), admin: false };
    world.store.commit(Proposal { actor, idempotency: None, expect: vec![expect], changes }).await.unwrap();

    let sql = r#"SELECT count(*), min("msgId"), max("msgId") FROM "anna"."messages""#;
    assert_eq!(world.answer(&anna, sql).await, [[json!(17), json!(ids[1]), json!(ids[18])]]);
    let sql = r#"SELECT content FROM "anna"."messages" WHERE "conversationId" = 'b' ORDER BY "msgId" LIMIT 3"#;
    assert_eq!(world.answer(&anna, sql).await, [["text 1"], ["text 3"], ["text 7"]]);
    let sql = format!(r#"SELECT content FROM "anna"."messages" WHERE "msgId" = {}"#, ids[19]);
    assert!(world.answer(&anna, &sql).await.is_empty());
    let all = world.answer(&anna, r#"SELECT content FROM "anna"."messages" LIMIT 18"#).await;
    assert_eq!(all.len(), 17, "a limit takes deleted rows for none");
}

#[tokio::test]
async fn the_write_path_sees_each_tier_alone_and_less_of_it() {
    let world = World::new();
    let ids = world.send(some_messages()).await;
    world.consolidate("anna").await;
    world.send(vec![message("anna", "a", "hot")]).await;
    let (view, owner) = (world.view(&caller("anna")), Schema::Owner(user("anna")));
    let segment = world.store.snapshot().segments(&user("anna")).unwrap()[0].number;
    let also_deleted = HashMap::from([((user("anna"), segment), RoaringBitmap::from_iter([0, 1, 2]))]);

    let count = async |options: MessageOptions| {
        let frame = view.frame("messages", view.messages(&owner, options)).unwrap();
        let plan = frame.filter(ident("msgId").gt_eq(lit(ids[0]))).unwrap().into_unoptimized_plan();
        view.collect(plan).await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>()
    };
    assert_eq!(count(MessageOptions::default()).await, 21);
    assert_eq!(count(MessageOptions { cold: false, ..MessageOptions::default() }).await, 1);
    assert_eq!(count(MessageOptions { hot: false, hidden: true, ..MessageOptions::default() }).await, 20);
    assert_eq!(count(MessageOptions { also_deleted, ..MessageOptions::default() }).await, 18);
}

#[tokio::test]
async fn conversations_participants_and_the_system_are_tables() {
    let world = World::new();
    world.send(some_messages()).await;
    let group = ConversationId::new("team").unwrap();
    let create = Change::CreateConversation {
        owner: user("anna"),
        id: group.clone(),
        kind: Some(ConversationType::Group),
        created: None,
        metadata: None,
    };
    let add = Change::AddParticipant { owner: user("anna"), group, user: user("ben"), role: None, metadata: None };
    world.commit("anna", vec![create, add]).await;

    let sql = r#"SELECT "conversationId", "conversationType", "userId" FROM "anna"."conversations" ORDER BY 1"#;
    let expected = [[json!("a"), json!("ai"), json!("anna")], [json!("b"), json!("ai"), json!("anna")]];
    let answer = world.answer(&caller("anna"), sql).await;
    assert_eq!(answer[..2], expected);
    assert_eq!(answer[2], [json!("team"), json!("group"), json!(null)]);
    let sql = r#"SELECT "userId", role FROM "ben"."conversationUsers" ORDER BY 1"#;
    assert_eq!(world.answer(&caller("ben"), sql).await, [["anna", "owner"], ["ben", "member"]]);
    assert!(world.answer(&caller("carl"), r#"SELECT * FROM "carl"."conversationUsers""#).await.is_empty());

    world.consolidate("anna").await;
    let sql = r#"SELECT owner, count(*) FROM "*"."messages" WHERE owner = 'anna' GROUP BY owner"#;
    assert_eq!(world.answer(&admin(), sql).await, [[json!("anna"), json!(20)]]);
    let sql = r#"SELECT owner, "userId" FROM "*"."conversationUsers" ORDER BY 1, 2"#;
    assert_eq!(world.answer(&admin(), sql).await, [["anna", "anna"], ["anna", "ben"], ["ben", "anna"], ["ben", "ben"]]);
    let sql = r#"SELECT "userId", "hotMessages", segments, "coldMessages" FROM system.users ORDER BY 1 LIMIT 1"#;
    assert_eq!(world.answer(&admin(), sql).await, [[json!("anna"), json!(0), json!(1), json!(20)]]);
    let sql = r#"SELECT "userId", rows, "deletedRows" FROM system.segments"#;
    assert_eq!(world.answer(&admin(), sql).await, [[json!("anna"), json!(20), json!(0)]]);
}

#[tokio::test]
async fn everybodys_messages_come_from_all_tiers_with_their_owner() {
    let world = World::new();
    for name in ["anna", "b|en"] {
        world.send((0..5).map(|n| message(name, "c", format!("{name} {n}"))).collect()).await;
        world.consolidate(name).await;
        world.send(vec![message(name, "c", format!("{name} hot"))]).await;
    }
    let sql = r#"SELECT owner, content FROM "*"."messages" WHERE content LIKE '%hot' ORDER BY owner"#;
    assert_eq!(world.answer(&admin(), sql).await, [["anna", "anna hot"], ["b|en", "b|en hot"]]);
    let sql = r#"SELECT owner, count(*) FROM "*"."messages" GROUP BY owner ORDER BY owner"#;
    assert_eq!(world.answer(&admin(), sql).await, [[json!("anna"), json!(6)], [json!("b|en"), json!(6)]]);
    // An admin may name anybody's; a path with an encoded character is found.
    let sql = r#"SELECT count(*) FROM "b|en"."messages""#;
    assert_eq!(world.answer(&admin(), sql).await, [[json!(6)]]);
}
