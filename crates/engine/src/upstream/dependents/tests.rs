//! Queries that depend on the row beside them, over small tables.
//!
//! Invariant: what is `mended` here DataFusion alone refuses or answers wrongly; so each says when its rule can go.

use crate::upstream::tests::{answer, mended, refused, right};

#[tokio::test]
async fn a_value_for_each_row_is_found_by_any_condition() {
    let less = "SELECT id, (SELECT max(u.id) FROM t u WHERE u.id < t.id) AS m FROM t ORDER BY id";
    mended(less, &["1 NULL", "2 1", "3 2", "4 3"]).await;
    let exists = "SELECT id, EXISTS (SELECT 1 FROM t u WHERE u.id < t.id) AS m FROM t ORDER BY id";
    mended(exists, &["1 false", "2 true", "3 true", "4 true"]).await;
    mended("SELECT id FROM t WHERE 2 = (SELECT count(*) FROM t u WHERE u.id > t.id) ORDER BY id", &["2"]).await;
}

/// Each `x` would be a group of its own.
#[tokio::test]
async fn what_a_column_is_cast_to_is_no_group() {
    let numbers = "(VALUES ('1'), ('01'), ('2')) AS n(x)";
    mended(
        &format!(
            "SELECT id, (SELECT count(*) FROM {numbers} WHERE CAST(n.x AS BIGINT) = t.id) AS c FROM t ORDER BY id"
        ),
        &["1 2", "2 1", "3 0", "4 0"],
    )
    .await;
    mended(
        &format!("SELECT id FROM t WHERE 2 = (SELECT count(*) FROM {numbers} WHERE n.x = t.id) ORDER BY id"),
        &["1"],
    )
    .await;
}

#[tokio::test]
async fn the_newest_of_each() {
    let newest = "SELECT u.v FROM t u WHERE u.k = t.k ORDER BY u.id DESC LIMIT 1";
    mended(&format!("SELECT id, ({newest}) AS n FROM t ORDER BY id"), &["1 y", "2 y", "3 x", "4 x"]).await;
    right(&format!("SELECT id FROM t WHERE v = ({newest}) ORDER BY id"), &["2", "4"]).await;
    right(&format!("SELECT k, ({newest}) AS n FROM t GROUP BY k ORDER BY k"), &["a y", "b x"]).await;
    right(&format!("SELECT id FROM t ORDER BY ({newest}), id DESC"), &["4", "3", "2", "1"]).await;
    right(
        "SELECT id, (SELECT u.v FROM t u WHERE u.k = t.k ORDER BY u.id LIMIT 1 OFFSET 2) AS n FROM t WHERE id = 1",
        &["1 NULL"],
    )
    .await;
    right("SELECT id, (SELECT max(u.id) + t.id FROM t u) AS n FROM t ORDER BY id", &["1 5", "2 6", "3 7", "4 8"]).await;
}

#[tokio::test]
async fn a_value_has_one_row_or_none() {
    let by_key = "SELECT id, (SELECT u.v FROM t u WHERE u.id = t.id + 1) AS n FROM t ORDER BY id";
    mended(by_key, &["1 y", "2 NULL", "3 x", "4 NULL"]).await;
    right("SELECT id FROM t WHERE 'x' = (SELECT u.v FROM t u WHERE u.id = t.id + 1 ORDER BY u.v)", &["3"]).await;
    right("SELECT id, (SELECT u.k FROM e u WHERE u.k = t.k) AS n FROM t WHERE id = 1", &["1 NULL"]).await;
    right("SELECT id, (SELECT count(*) FROM t u WHERE u.k = t.k GROUP BY u.k) AS n FROM t WHERE id = 1", &["1 2"])
        .await;
    for several in ["u.k = t.k", "u.id >= t.id"] {
        let error = answer(&format!("SELECT id, (SELECT u.v FROM t u WHERE {several}) AS n FROM t"), true).await;
        let error = crate::read::client_error(&error.unwrap_err(), None);
        assert!(error.message.contains("has several rows"), "{error}");
    }
}

#[tokio::test]
async fn lateral() {
    for (query, rows) in [
        ("SELECT count(*) AS n FROM t u WHERE u.k < t.k", &["1 0", "2 0", "3 2", "4 2"][..]),
        ("SELECT u.id AS n FROM t u WHERE u.k = t.k ORDER BY u.id DESC LIMIT 1", &["1 2", "2 2", "3 4", "4 4"]),
        ("SELECT u.id AS n FROM t u WHERE u.k = t.k AND u.id <> t.id", &["1 2", "2 1", "3 4", "4 3"]),
        ("SELECT DISTINCT u.k AS n FROM t u WHERE u.k = t.k", &["1 a", "2 a", "3 b", "4 b"]),
        ("SELECT t.id + 1 AS n", &["1 2", "2 3", "3 4", "4 5"]),
        ("SELECT t.id AS n UNION ALL SELECT 7 WHERE t.id = 2", &["1 1", "2 2", "2 7", "3 3", "4 4"]),
        (
            "SELECT q.n FROM (SELECT u.id, row_number() OVER (ORDER BY u.id) AS n FROM t u WHERE u.k = t.k) q WHERE q.id = t.id",
            &["1 1", "2 2", "3 1", "4 2"],
        ),
        ("SELECT w.id AS n FROM t u JOIN t w ON w.id = u.id + t.id WHERE u.id = 1", &["1 2", "2 3", "3 4"]),
        (
            "SELECT count(w.id) AS n FROM t u LEFT JOIN t w ON w.id = u.id AND w.id = t.id",
            &["1 1", "2 1", "3 1", "4 1"],
        ),
        (
            "SELECT u.v AS n, count(*) AS c FROM t u WHERE u.id <= t.id AND u.k = 'a' GROUP BY u.v HAVING count(*) = t.id",
            &["1 x"],
        ),
        ("SELECT max(u.id) AS n FROM t u WHERE u.v IS NOT DISTINCT FROM t.v", &["1 4", "2 2", "3 3", "4 4"]),
        (
            "SELECT u.id AS n FROM t u WHERE u.id = t.id AND EXISTS (SELECT 1 FROM t w WHERE w.id = t.id AND w.v = 'x')",
            &["1 1", "4 4"],
        ),
        (
            "SELECT u.id AS n FROM t u WHERE u.id <= t.id + 9 AND u.id IN (SELECT w.id + t.id FROM t w WHERE w.k = 'a')",
            &["1 2", "1 3", "2 3", "2 4", "3 4"],
        ),
    ] {
        right(&format!("SELECT t.id, x.n FROM t, LATERAL ({query}) AS x ORDER BY t.id, x.n"), rows).await;
    }
    mended(
        "SELECT t.id, x.n FROM t CROSS JOIN LATERAL (SELECT row_number() OVER (ORDER BY u.id) AS n FROM t u WHERE u.k = t.k) \
         AS x WHERE t.id > 2 ORDER BY t.id, x.n",
        &["3 1", "3 2", "4 1", "4 2"],
    )
    .await;
}

#[tokio::test]
async fn left_join_lateral_keeps_each_row() {
    right(
        "SELECT t.id, x.n FROM t LEFT JOIN LATERAL (SELECT u.id AS n FROM t u WHERE u.id > t.id ORDER BY u.id LIMIT 1) x ON x.n \
         < 4 ORDER BY t.id",
        &["1 2", "2 3", "3 NULL", "4 NULL"],
    )
    .await;
    right(
        "SELECT t.id, x.n FROM t LEFT JOIN LATERAL (SELECT count(*) AS n FROM e WHERE e.k = t.k) x ON t.id < 3 ORDER BY t.id",
        &["1 0", "2 0", "3 NULL", "4 NULL"],
    )
    .await;
    right(
        "SELECT t.id, x.n, y.m FROM t, LATERAL (SELECT t.id * 2 AS n) x, LATERAL (SELECT max(u.id) AS m FROM t u WHERE u.id \
         < x.n + t.id) y ORDER BY t.id",
        &["1 2 2", "2 4 4", "3 6 4", "4 8 4"],
    )
    .await;
    right(
        "SELECT t.id, x.n FROM t, LATERAL (SELECT y.n FROM t u, LATERAL (SELECT u.id * 10 + t.id AS n) y WHERE u.id = 2) x \
         ORDER BY t.id",
        &["1 21", "2 22", "3 23", "4 24"],
    )
    .await;
    right(
        "SELECT t.id, x.n FROM t, LATERAL (SELECT t.id AS n) x JOIN t w ON w.id = x.n AND w.id > 2 ORDER BY t.id",
        &["3 3", "4 4"],
    )
    .await;
}

#[tokio::test]
async fn what_is_beside_is_the_same_each_time() {
    refused("SELECT r.n, x.n FROM (SELECT random() AS n FROM t) r, LATERAL (SELECT r.n AS n) x").await;
    refused("SELECT t.id FROM t, LATERAL (SELECT u.v FROM t u WHERE u.k = t.k GROUP BY ROLLUP (u.v)) x").await;
}
