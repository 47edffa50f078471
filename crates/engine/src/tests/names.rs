//! What a column's name means where there are several of it.

use serde_json::json;

use super::{
    world::{World, caller},
    *,
};

/// Messages 1 and 2 in conversation `b`, 3 in `c`; the names of the columns say which of them a statement means.
async fn three() -> World {
    let world = World::new();
    for (id, conversation, content) in [(1, "b", "z"), (2, "b", "y"), (3, "c", "x")] {
        let sql = "INSERT INTO messages (msgId, conversationId, from, content) VALUES ($1, $2, 'ai', $3)";
        world.write(&caller("ann"), sql, vec![json!(id), json!(conversation), json!(content)]).await.unwrap();
    }
    world
}

async fn answers(world: &World, cases: &[(&str, Value)]) {
    for (sql, expected) in cases {
        let rows = world.rows(&caller("ann"), sql, vec![]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(json!(rows), *expected, "{sql}");
    }
}

#[tokio::test]
async fn a_column_that_using_has_merged_is_that_of_both_sides() {
    let world = three().await;
    let cases = [
        (
            "SELECT msgId FROM (SELECT msgId FROM messages WHERE msgId < 2) a FULL JOIN \
             (SELECT msgId FROM messages WHERE msgId > 1) b USING (msgId) ORDER BY msgId",
            json!([[1], [2], [3]]),
        ),
        (
            "SELECT * FROM (SELECT msgId, content FROM messages WHERE msgId < 2) a RIGHT JOIN \
             (SELECT msgId FROM messages) b USING (msgId) ORDER BY msgId",
            json!([[1, "z"], [2, null], [3, null]]),
        ),
        (
            "SELECT conversationId, COUNT(*) AS n FROM messages m FULL JOIN conversations c USING (conversationId) \
             GROUP BY conversationId HAVING conversationId > 'b' ORDER BY conversationId",
            json!([["c", 1]]),
        ),
        (
            "SELECT msgId FROM messages t WHERE EXISTS (SELECT 1 FROM messages m FULL JOIN conversations c \
             USING (conversationId) WHERE conversationId <> t.conversationId) ORDER BY msgId",
            json!([[1], [2], [3]]),
        ),
        (
            "SELECT msgId FROM messages t WHERE EXISTS (SELECT 1 FROM messages m JOIN conversations c \
             USING (conversationId) WHERE conversationId <> t.conversationId) ORDER BY msgId",
            json!([[1], [2], [3]]),
        ),
    ];
    answers(&world, &cases).await;
}

#[tokio::test]
async fn order_by_tells_a_column_of_the_answer_from_one_that_is_read() {
    let world = three().await;
    let cases = [
        ("SELECT 'q' AS content, msgId FROM messages m ORDER BY m.content", json!([["q", 3], ["q", 2], ["q", 1]])),
        (
            "SELECT upper(m.content) AS content FROM messages m ORDER BY length(m.content), content DESC",
            json!([["Z"], ["Y"], ["X"]]),
        ),
        (
            "SELECT msgId FROM messages WHERE content IN (SELECT m.content AS msgId FROM messages m \
             ORDER BY m.msgId DESC LIMIT 1)",
            json!([[3]]),
        ),
        (
            "SELECT d.msgId FROM (SELECT -m.msgId AS msgId FROM messages m ORDER BY m.msgId LIMIT 2) d ORDER BY d.msgId",
            json!([[-2], [-1]]),
        ),
        // Within a subquery, a name alone is the column of the answer and none of the query around.
        (
            "SELECT msgId FROM messages t WHERE content IN (SELECT d.content AS conversationId FROM \
             (SELECT content FROM messages) d LEFT JOIN (SELECT content AS conversationId FROM messages) e ON TRUE \
             ORDER BY conversationId LIMIT 1)",
            json!([[3]]),
        ),
    ];
    answers(&world, &cases).await;
    let named = "SELECT 'q' AS content FROM messages m ORDER BY m.content";
    let request = QueryRequest { sql: named.to_owned(), params: None };
    let answer = Box::pin(world.engine().execute(&caller("ann"), request, None, None)).await.unwrap();
    let Outcome::Json(document) = answer else { panic!("it is a read") };
    let answer: QueryResponse = serde_json::from_slice(&document).unwrap();
    assert_eq!(answer.columns, ["content"]);
}
