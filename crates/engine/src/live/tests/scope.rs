//! Whose rows one is told of.

use super::*;

#[tokio::test]
async fn nobody_watches_another_s_rows() {
    let world = World::new();
    for statement in ["SELECT * FROM ben.messages", "SELECT * FROM *.messages", "SELECT * FROM nobody.conversations"] {
        assert_eq!(world.refused("anna", sql(statement)).await.code, ErrorCode::ScopeViolation, "{statement}");
    }
    let client = world.watch("anna", "SELECT content FROM anna.messages").await;
    world.insert("ben", "c", &[(1, "of ben")]).await;
    world.insert("anna", "c", &[(1, "of anna")]).await;
    assert_eq!(client.told(1).await[0].1["content"], "of anna");
}

#[tokio::test]
async fn an_admin_watches_anybody_and_everybody_and_is_recorded() {
    let world = World::new();
    world.group("g", &["anna", "ben"]).await;
    let one = world.watch("root", "SELECT content FROM ben.messages").await;
    let all = world.watch("root", "SELECT content FROM *.messages WHERE owner <> 'cara'").await;
    world.insert("cara", "c", &[(1, "unseen")]).await;
    world.say("anna", "g", "hello").await;
    let told = all.told(2).await;
    let msg_id = &told[0].1["msgId"];
    let expected =
        ["anna", "ben"].map(|owner| news("message", json!({"owner": owner, "msgId": msg_id, "content": "hello"})));
    assert_eq!(told, expected);
    assert_eq!(one.told(1).await, [news("message", json!({"msgId": msg_id, "content": "hello"}))]);

    world.run("ben", "DELETE FROM messages WHERE content = 'hello'").await;
    assert_eq!(all.told(1).await, [news("delete", json!({"owner": "ben", "msgId": msg_id}))]);
    let recorded = world.rows("ben", "SELECT actor, target FROM auditLog WHERE action = 'admin.select'").await;
    assert_eq!(recorded, [["root", "ben.messages"]]);
    let recorded = world.rows("root", "SELECT target FROM auditLog WHERE action = 'admin.select'").await;
    assert_eq!(recorded, [["*.messages"]]);
}

#[tokio::test]
async fn everybody_s_history_is_replayed_in_commit_order() {
    let world = World::new();
    let start = world.client("root").begin(sql("SELECT content FROM *.messages")).await;
    for round in 0..3 {
        for (owner, id) in [("anna", 1), ("ben", 2), ("cara", 3)] {
            world.insert(owner, "c", &[(10 * round + id, &format!("{owner} {round}"))]).await;
        }
        world.consolidate().await;
    }
    let client = world.client("root");
    client.begin(Subscribe { after: Some(start), ..sql("SELECT content FROM *.messages") }).await;
    let told: Vec<String> =
        client.told(9).await.iter().map(|(_, row)| row["content"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> =
        (0..3).flat_map(|round| ["anna", "ben", "cara"].map(|owner| format!("{owner} {round}"))).collect();
    assert_eq!(told, expected);

    let by_id = world.client("root");
    by_id.begin(Subscribe { last_msg_id: Some(0), ..sql("SELECT content FROM *.messages") }).await;
    let again: Vec<String> =
        by_id.told(9).await.iter().map(|(_, row)| row["content"].as_str().unwrap().to_owned()).collect();
    assert_eq!(again, expected);
}
