//! Reading no more than needed.

use super::*;

const MESSAGES: usize = 20_000;
const CONVERSATIONS: usize = 200;

fn many() -> Vec<NewMessage> {
    (0..MESSAGES).map(|n| message("anna", &format!("c{:03}", n % CONVERSATIONS), format!("text {n}"))).collect()
}

const LAST_50: &str = r#"SELECT "msgId", "from", content FROM "anna"."messages" WHERE "conversationId" = 'c123' ORDER BY "msgId" DESC LIMIT 50"#;

#[tokio::test]
async fn the_last_50_of_a_conversation_touch_few_rows_in_each_tier() {
    for (tier, world) in tiers(many()).await {
        let anna = caller("anna");
        let rows = world.answer(&anna, LAST_50).await;
        let newest: Vec<_> =
            (0..50).map(|n| format!("text {}", MESSAGES - CONVERSATIONS + 123 - n * CONVERSATIONS)).collect();
        assert_eq!(rows.iter().map(|row| row[2].as_str().unwrap()).collect::<Vec<_>>(), newest, "{tier}");

        let plan = world.explained(&anna, LAST_50).await;
        if tier != "cold" {
            assert!(measured(&plan, "HotExec", "rows_read") <= 64.0, "{tier}: {plan}");
        }
        if tier != "hot" {
            assert!(measured(&plan, "DataSourceExec", "output_rows") <= 200.0, "{tier}: {plan}");
        }
    }
}

#[tokio::test]
async fn a_page_by_cursor_and_a_search_read_the_same_way() {
    for (tier, world) in tiers(many()).await {
        let anna = caller("anna");
        let page = r#"SELECT "msgId" FROM "anna"."messages" WHERE "conversationId" = 'c007' AND "conversationType" = 'ai' ORDER BY "msgId" LIMIT 10"#;
        let first = world.answer(&anna, page).await;
        assert_eq!(first.len(), 10);
        let last = first[9][0].as_i64().unwrap();
        let next = page.replace("ORDER", &format!(r#"AND "msgId" > {last} ORDER"#));
        let second = world.answer(&anna, &next).await;
        assert!(second[0][0].as_i64().unwrap() > last);
        let plan = world.explained(&anna, &next).await;
        if tier == "hot" {
            assert!(measured(&plan, "HotExec", "rows_read") <= 64.0, "{plan}");
        }

        let search = r#"SELECT content FROM "anna"."messages" WHERE "conversationId" = 'c007' AND content LIKE '%07' ORDER BY "msgId" DESC LIMIT 1"#;
        let newest = MESSAGES - CONVERSATIONS + 7;
        assert_eq!(world.answer(&anna, search).await, [[format!("text {newest}")]], "{tier}");
        // What can fail is computed above the scan, and the answer is the same.
        let computed = search.replace("content LIKE '%07'", "length(content) > 3 AND concat(content, '') LIKE '%07'");
        assert_eq!(world.answer(&anna, &computed).await, [[format!("text {newest}")]], "{tier}");
    }
}

#[tokio::test]
async fn a_point_is_looked_up() {
    for (tier, world) in tiers(many()).await {
        let anna = caller("anna");
        let some = world.answer(&anna, r#"SELECT "msgId" FROM "anna"."messages" WHERE content = 'text 4711'"#).await;
        let sql = format!(r#"SELECT content FROM "anna"."messages" WHERE "msgId" = {}"#, some[0][0]);
        assert_eq!(world.answer(&anna, &sql).await, [["text 4711"]], "{tier}");
        let plan = world.explained(&anna, &sql).await;
        if tier != "cold" {
            assert!(measured(&plan, "HotExec", "rows_read") <= 1.0, "{plan}");
        }
    }
}

#[tokio::test]
async fn both_types_of_one_id_come_in_one_order() {
    let world = World::new();
    let create = Change::CreateConversation {
        owner: user("anna"),
        id: ConversationId::new("c").unwrap(),
        kind: Some(ConversationType::Group),
        created: None,
        metadata: None,
    };
    world.commit("anna", vec![create]).await;
    for n in 0..10 {
        let kind = Some(if n % 3 == 0 { ConversationType::Group } else { ConversationType::Ai });
        world.send(vec![NewMessage { kind, ..message("anna", "c", n.to_string()) }]).await;
    }
    for (order, expected) in [("DESC", ["9", "8", "7", "6"]), ("ASC", ["0", "1", "2", "3"])] {
        let sql = format!(
            r#"SELECT content FROM "anna"."messages" WHERE "conversationId" = 'c' ORDER BY "msgId" {order} LIMIT 4"#
        );
        let rows = world.answer(&caller("anna"), &sql).await;
        assert_eq!(rows, expected.map(|text| vec![Value::from(text)]));
        let plan = world.explained(&caller("anna"), &sql).await;
        assert!(!plan.contains("SortExec"), "the reader's own order is enough: {plan}");
    }
}

#[tokio::test]
async fn segments_that_cannot_match_are_not_in_the_plan() {
    let world = World::new();
    for n in 0..4 {
        world.send((0..10).map(|m| message("anna", &format!("c{n}"), m.to_string())).collect()).await;
        world.consolidate("anna").await;
    }
    let plan =
        world.explained(&caller("anna"), r#"SELECT * FROM "anna"."messages" WHERE "conversationId" = 'c2'"#).await;
    assert_eq!(plan.matches(".parquet").count(), 1, "{plan}");
    let plan = world.explained(&admin(), r#"SELECT * FROM "*"."messages" WHERE owner = 'nobody'"#).await;
    assert!(!plan.contains(".parquet") && plan.contains("EmptyExec"), "{plan}");
}

/// The rules of ours stand beside DataFusion's by their names.
#[test]
fn our_rules_have_found_their_places() {
    let rules = crate::read::order::optimizer_rules();
    let names: Vec<&str> = rules.iter().map(|rule| rule.name()).collect();
    for pair in [["SortReachesTiers", "PushdownSort"], ["DetachFetch", "EnsureRequirements"]] {
        assert!(names.windows(2).any(|two| two == pair), "{pair:?} in {names:?}");
    }
}

/// What comes from above a limit chooses among the rows that it lets through.
#[tokio::test]
async fn a_joins_condition_stays_above_a_limit() {
    for (tier, world) in tiers((0..10).map(|n| message("anna", "c", n.to_string())).collect()).await {
        let anna = caller("anna");
        let newest = r#"(SELECT "msgId", content FROM "anna"."messages" WHERE "conversationId" = 'c' ORDER BY "msgId" DESC LIMIT 2) AS m"#;
        let oldest = r#"(SELECT min("msgId") AS id FROM "anna"."messages") AS o"#;
        let join = format!(r#"SELECT m.content FROM {oldest} JOIN {newest} ON m."msgId" = o.id"#);
        assert!(world.answer(&anna, &join).await.is_empty(), "{tier}");
        let listed = format!(
            "SELECT m.content FROM (VALUES ('0'), ('9'), ('3')) AS v(text) JOIN {newest} ON m.content = v.text"
        );
        assert_eq!(world.answer(&anna, &listed).await, [["9"]], "{tier}");
        let among =
            format!("SELECT content FROM {newest} WHERE content IN (SELECT x FROM (VALUES ('0'), ('8')) AS v(x))");
        assert_eq!(world.answer(&anna, &among).await, [["8"]], "{tier}");
    }
}

/// Both sides of a join have columns of the same names; no message here refers to a file, so that none has a partner.
#[tokio::test]
async fn a_condition_on_columns_of_one_name_stays_above_their_join() {
    for (tier, world) in tiers((0..10).map(|n| message("anna", "c", n.to_string())).collect()).await {
        let anna = caller("anna");
        let join = r#""anna"."messages" AS a RIGHT JOIN "anna"."messages" AS b ON a.content = b."contentRef""#;
        let count = async |condition: &str| {
            let sql = format!("SELECT count(*) FROM {join} WHERE {condition}");
            world.answer(&anna, &sql).await
        };
        assert_eq!(count("a.timestamp <> 5 OR b.timestamp < 0").await, [[0]], "{tier}");
        assert_eq!(count("a.content IS NOT DISTINCT FROM b.content").await, [[0]], "{tier}");
        assert_eq!(count("a.content IS NULL AND b.content <> '3'").await, [[9]], "{tier}");
        let pairs = r#""anna"."messages" AS a JOIN "anna"."messages" AS b ON a."conversationId" = b."conversationId""#;
        let newest = format!(
            r#"SELECT a.content, b.content FROM {pairs} WHERE a.content < '2' ORDER BY b."msgId" DESC, a."msgId" LIMIT 3"#
        );
        assert_eq!(world.answer(&anna, &newest).await, [["0", "9"], ["1", "9"], ["0", "8"]], "{tier}");
    }
}
