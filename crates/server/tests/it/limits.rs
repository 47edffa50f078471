//! Queries that would take all memory, all time or the whole stack end with an error, and nobody else notices.
//!
//! Invariant: each of them is one user's, while another user asks something small over and over and is answered.

use std::{
    io::Write,
    net::TcpStream,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use kalamdb_protocol::ErrorCode;
use serde_json::json;

use crate::harness::{Client, Failure, Live, Server, eventually};

/// More than any of these statements may make the server hold, and far less than they would take.
const MEMORY_LIMIT_KIB: u64 = 2 << 20;

/// Takes little memory and all the time there is.
const ENDLESS: &str = "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT MAX(n) FROM x";

fn server() -> Server {
    Server::with(&[("query.timeout_seconds", "3"), ("rocksdb.durability", "os")])
}

/// The CPU time that the process has used, in clock ticks.
fn cpu_ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("the process is there");
    // The second field is the name in parentheses and may hold spaces; utime and stime are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    [11, 12].into_iter().map(|index| fields[index].parse::<u64>().expect("a number")).sum()
}

/// Waits until the server uses next to nothing: the work has really stopped.
fn becomes_idle(server: &Server) {
    eventually("the server's CPU falls idle", || {
        let before = cpu_ticks(server);
        thread::sleep(Duration::from_millis(250));
        cpu_ticks(server) - before <= 2
    });
}

fn peak_memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Runs `attack` while another user keeps asking, and fails if that one is ever refused.
fn while_another_user_asks(server: &Server, attack: impl FnOnce(&Client)) {
    let (mallory, john) = (server.client("mallory"), server.client("user_john"));
    john.say("c", "hello");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(john.texts("SELECT content FROM messages WHERE conversationId = 'c' LIMIT 50"), ["hello"]);
                answered += 1;
            }
            answered
        });
        // Also where the attack fails its test, which would wait for this thread for ever.
        let attacked = panic::catch_unwind(AssertUnwindSafe(|| attack(&mallory)));
        done.store(true, Ordering::Relaxed);
        if let Err(failed) = attacked {
            panic::resume_unwind(failed);
        }
        assert!(asking.join().expect("the other user is answered") > 0);
    });
    assert!(peak_memory_kib(server) < MEMORY_LIMIT_KIB, "{} KiB", peak_memory_kib(server));
    becomes_idle(server);
}

/// The statement ends with one of the two codes that say it asked for too much.
#[track_caller]
fn ends(client: &Client, sql: &str) {
    let shown: String = sql.chars().take(200).collect();
    match client.query(sql) {
        Ok(answer) => panic!("it ran to its end, with {} rows: {shown}", answer.row_count),
        Err(failure) => {
            let code = failure.code().unwrap_or_else(|| panic!("the server is gone: {shown}"));
            assert!(matches!(code, ErrorCode::QueryTooLarge | ErrorCode::QueryTimeout), "{failure}\nin: {shown}");
        }
    }
}

/// The statement is answered, whatever the answer is; the process survives it.
#[track_caller]
fn is_survived(client: &Client, sql: &str) {
    if let Err(failure) = client.query(sql) {
        let shown: String = sql.chars().take(200).collect();
        assert!(failure.code().is_some(), "the server is gone: {shown}");
        assert_ne!(failure.code(), Some(ErrorCode::Internal), "{failure}\nin: {shown}");
    }
}

#[test]
fn functions_that_grow_their_input_are_checked_first() {
    let server = server();
    while_another_user_asks(&server, |mallory| {
        for sql in [
            "SELECT repeat('x', 2000000000)",
            "SELECT length(repeat('x', 2000000000))",
            "SELECT lpad('x', 2000000000, 'y')",
            "SELECT rpad('x', 2000000000)",
            "SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1000000))",
            "SELECT regexp_replace(repeat('a', 1000000), 'a', repeat('b', 1000000), 'g')",
            "SELECT array_length(range(0, 2000000000))",
            "SELECT array_length(generate_series(1, 2000000000))",
            "SELECT array_length(array_repeat('x', 2000000000))",
            "SELECT array_to_string(array_repeat(repeat('x', 100000), 100000), ',')",
            "SELECT array_length(array_resize([1], 2000000000, 0))",
            "SELECT SUM(length(repeat('x', value * 1000000))) FROM UNNEST(generate_series(1, 100000)) AS numbers(value)",
            "SELECT length(string_agg(repeat('x', 100000), ',')) FROM UNNEST(generate_series(1, 100000)) AS numbers(value)",
        ] {
            ends(mallory, sql);
        }
    });
}

#[test]
fn doubling_ends_early() {
    let server = server();
    let mut doubled = "SELECT 'xxxxxxxxxxxxxxxx' AS s".to_owned();
    for _ in 0..40 {
        doubled = format!("SELECT s || s AS s FROM ({doubled})");
    }
    while_another_user_asks(&server, |mallory| {
        ends(mallory, &format!("SELECT length(s) FROM ({doubled})"));
        ends(
            mallory,
            "WITH RECURSIVE x AS (SELECT 'x' AS s UNION ALL SELECT concat(s, s) FROM x) SELECT MAX(length(s)) FROM x",
        );
        ends(mallory, ENDLESS);
    });
}

#[test]
fn huge_joins_sorts_and_aggregates_end() {
    let server = server();
    while_another_user_asks(&server, |mallory| {
        for sql in [
            "SELECT COUNT(*) FROM UNNEST(generate_series(1, 100000)) AS a(value), UNNEST(generate_series(1, 100000)) AS b(value) WHERE a.value * b.value % 7 = 8",
            "SELECT SUM(a.value * b.value % 7 + c.value) FROM UNNEST(generate_series(1, 100000)) AS a(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS b(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS c(value)",
            "SELECT a.value, b.value FROM UNNEST(generate_series(1, 100000)) AS a(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS b(value) ORDER BY a.value * b.value % 1000003 DESC, 1, 2",
            "SELECT COUNT(DISTINCT a.value * 1000000 + b.value) FROM UNNEST(generate_series(1, 100000)) AS a(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS b(value)",
            "SELECT array_agg(a.value) FROM UNNEST(generate_series(1, 100000)) AS a(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS b(value)",
            "SELECT a.value + b.value AS k, COUNT(*) FROM UNNEST(generate_series(1, 100000)) AS a(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS b(value) GROUP BY a.value * 1000000 + b.value, k",
            "SELECT SUM(x) FROM (SELECT ROW_NUMBER() OVER (ORDER BY a.value % 1009, b.value DESC) AS x FROM UNNEST(generate_series(1, 100000)) AS a(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS b(value))",
        ] {
            ends(mallory, sql);
        }
    });
}

#[test]
fn a_write_is_bounded_like_a_read() {
    let server = server();
    while_another_user_asks(&server, |mallory| {
        mallory.say("c", "one");
        for sql in [
            "INSERT INTO messages (conversationId, content) SELECT 'c', 'x' FROM UNNEST(generate_series(1, 100000)) AS a(value), UNNEST(generate_series(1, 100000)) AS b(value) WHERE a.value * b.value % 7 = 8",
            "UPDATE messages SET content = repeat('x', 2000000000)",
            "DELETE FROM messages WHERE msgId IN (SELECT a.value * b.value FROM UNNEST(generate_series(1, 100000)) AS a(value), UNNEST(generate_series(1, 100000)) AS b(value))",
        ] {
            let refused = mallory.write(sql).expect_err(sql);
            let code = refused.code().expect("an answer");
            let expected = [ErrorCode::QueryTooLarge, ErrorCode::QueryTimeout, ErrorCode::PayloadTooLarge];
            assert!(expected.contains(&code), "{refused}\nin: {sql}");
        }
        assert_eq!(mallory.texts("SELECT content FROM messages"), ["one"]);
    });
}

#[test]
fn deep_and_long_statements_do_not_take_the_stack() {
    let server = server();
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("SELECT {}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    while_another_user_asks(&server, |mallory| {
        for depth in [100, 1_000, 20_000, 200_000] {
            is_survived(mallory, &format!("SELECT 1{}", "+1".repeat(depth)));
            is_survived(mallory, &format!("SELECT 'a'{}", "||'a'".repeat(depth)));
            is_survived(mallory, &format!("SELECT 1 WHERE true{}", " AND 1=1".repeat(depth)));
            is_survived(mallory, &format!("SELECT 1 WHERE false{}", " OR 1=2".repeat(depth)));
            is_survived(mallory, &format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(depth)));
            is_survived(mallory, &nested("(", "1", ")", depth));
            is_survived(mallory, &nested("NOT ", "true", "", depth));
            is_survived(mallory, &nested("- ", "1", "", depth));
            is_survived(mallory, &nested("abs(", "1", ")", depth));
            is_survived(mallory, &nested("[", "1", "]", depth));
            is_survived(mallory, &nested("CASE WHEN true THEN ", "1", " END", depth));
            is_survived(mallory, &nested("(SELECT ", "1", ")", depth));
            is_survived(mallory, &nested("* FROM (SELECT ", "1", ")", depth));
            is_survived(mallory, &nested("1 IN (SELECT ", "1", ")", depth));
            is_survived(
                mallory,
                &format!("SELECT * FROM messages{}", " JOIN messages USING (msgId)".repeat(depth.min(1_000))),
            );
            is_survived(mallory, &format!("SELECT msgId FROM messages WHERE msgId IN (1{})", ",1".repeat(depth)));
            is_survived(mallory, &format!("SELECT {}1", "1,".repeat(depth)));
            is_survived(mallory, &format!("{}SELECT 1", "EXPLAIN ".repeat(depth)));
            let ctes: Vec<String> =
                (1..depth.min(5_000)).map(|n| format!("a{n} AS (SELECT * FROM a{})", n - 1)).collect();
            is_survived(mallory, &format!("WITH a0 AS (SELECT 1), {} SELECT 1", ctes.join(", ")));
            is_survived(mallory, &format!("{}1", "/*".repeat(depth)));
        }
        assert_eq!(mallory.number("SELECT 1"), 1);
    });
}

/// The binder sees parameters before the planner does.
#[test]
fn large_parameters_are_bounded() {
    let server = server();
    while_another_user_asks(&server, |mallory| {
        let many: Vec<u32> = (0..200_000).collect();
        let answer = mallory.query_params("SELECT $1", json!(many));
        assert!(answer.is_ok() || answer.is_err_and(|failure| failure.code().is_some()));
        let text = "x".repeat(1 << 20);
        let answer = mallory.query_params("SELECT length($1)", json!([text]));
        assert!(answer.is_ok() || answer.is_err_and(|failure| failure.code().is_some()));
        ends(mallory, "SELECT repeat('x', 1000000000) LIMIT 1");
    });
}

#[test]
fn a_timeout_really_stops_the_work() {
    let server = server();
    let refused = server.client("mallory").query(ENDLESS).expect_err("it cannot end in time");
    assert_eq!(refused.code(), Some(ErrorCode::QueryTimeout), "{refused}");
    becomes_idle(&server);
}

#[test]
fn a_dropped_connection_really_stops_the_work() {
    let server = Server::with(&[("query.timeout_seconds", "600")]);
    let body = json!({ "sql": ENDLESS }).to_string();
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).expect("the server listens");
    let head = format!(
        "POST /api/v1/query HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        server.token("mallory", false),
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("it is sent");
    let before = cpu_ticks(&server);
    eventually("the query runs", || cpu_ticks(&server) - before > 30);
    drop(stream);
    becomes_idle(&server);
    assert_eq!(server.client("user_john").number("SELECT 1"), 1);
}

/// Many at once wait for each other; they do not add up.
#[test]
fn many_runaway_queries_at_once_are_no_worse_than_one() {
    let server = server();
    while_another_user_asks(&server, |mallory| {
        thread::scope(|scope| {
            for number in 0..24 {
                scope.spawn(move || {
                    let sql = format!(
                        "SELECT array_agg(repeat('x', 1000) ORDER BY a.value % {}) FROM UNNEST(generate_series(1, 100000)) AS a(value), UNNEST(generate_series(1, 1000)) AS b(value)",
                        number + 2
                    );
                    let refused = mallory.query(&sql).expect_err("it cannot be held in memory");
                    let code = refused.code().expect("an answer");
                    let expected = [
                        ErrorCode::QueryTooLarge,
                        ErrorCode::QueryTimeout,
                        ErrorCode::ResourceExhausted,
                        ErrorCode::RateLimited,
                    ];
                    assert!(expected.contains(&code), "{refused}");
                });
            }
        });
    });
}

#[test]
fn what_the_planner_would_multiply_is_refused() {
    let server = server();
    let created: Vec<String> = (0..22).map(|number| format!("created + {number}")).collect();
    let cube = format!("SELECT count(*) FROM conversations GROUP BY CUBE ({})", created.join(", "));
    let uses = vec!["$1"; 400].join(", ");
    while_another_user_asks(&server, |mallory| {
        refused_at_once(mallory.query(&cube), &cube);
        let text = "x".repeat(5 << 20);
        let sql = format!("SELECT 1 WHERE 'a' IN ({uses})");
        refused_at_once(mallory.query_params(&sql, json!([text])), &sql);
        // Once it is only long.
        let answer = mallory.query_params("SELECT length($1)", json!([text])).expect("it fits");
        assert_eq!(answer.rows[0][0], 5 << 20);
    });
}

#[track_caller]
fn refused_at_once<T>(answer: Result<T, Failure>, sql: &str) {
    let shown: String = sql.chars().take(100).collect();
    let Err(refused) = answer else { panic!("it was answered: {shown}") };
    assert_eq!(refused.code(), Some(ErrorCode::QueryTooLarge), "{refused}\nin: {shown}");
}

#[test]
fn work_that_outgrows_its_bytes_ends() {
    let server = server();
    while_another_user_asks(&server, |mallory| {
        for sql in [
            "SELECT SUM(levenshtein(repeat('a', 4000), repeat('b', 4000 + v % 2))) FROM UNNEST(generate_series(1, 8000)) AS n(v)",
            r"SELECT SUM(regexp_count('a', '\w{100}' || v)) FROM UNNEST(generate_series(1, 1500)) AS n(v)",
            r"SELECT COUNT(*) FROM UNNEST(generate_series(1, 8000)) AS n(v) WHERE 'a' ~ ('\w{100}' || v)",
            "SELECT count(*) FROM (SELECT string_agg(repeat('y', 2000), ' ') OVER (ORDER BY v) AS z FROM UNNEST(generate_series(1, 6000)) AS n(v)) AS q WHERE length(z) > 0",
            "SELECT a.value, count(*) OVER () FROM UNNEST(generate_series(1, 100000)) AS a(value) CROSS JOIN UNNEST(generate_series(1, 100000)) AS b(value)",
            "SELECT max(length(x)) FROM (SELECT first_value(repeat('y', 10000000)) OVER (ORDER BY v) AS x FROM UNNEST(generate_series(1, 100000)) AS n(v)) AS q",
            "SELECT max(length(x)) FROM (SELECT max(repeat('y', CASE WHEN v = 1 THEN 10000000 ELSE 1 END)) OVER () AS x FROM UNNEST(generate_series(1, 100000)) AS n(v)) AS q",
            "SELECT max(length(c)) FROM (SELECT repeat('x', 15000000) || v AS c, UNNEST(range(1000)) AS u FROM UNNEST(range(3)) AS n(v)) AS q",
            "SELECT array_has_all(range(1000000), range(v, 1000000)) FROM UNNEST(generate_series(1, 100)) AS n(v)",
        ] {
            ends(mallory, sql);
        }
    });
}

/// Reading a decimal goes deeper for each 38 digits, and took the stack of the thread with it.
#[test]
fn a_number_as_long_as_a_text_does_not_take_the_stack() {
    let server = server();
    let mallory = server.client("mallory");
    for sql in [
        "SELECT TRY_CAST(repeat('1', 16000000) AS DECIMAL(38, 3))",
        "SELECT CAST('0.' || repeat('1', 16000000) AS DECIMAL(38, 3))",
        "SELECT repeat('1', 16000000) > CAST(1.5 AS DECIMAL(38, 3))",
        "SELECT CAST([repeat('1', 16000000)] AS DECIMAL(38, 3)[])",
        "SELECT count(TRY_CAST(repeat('1', 15000000) || v AS DECIMAL(38, 3))) FROM UNNEST(range(3)) AS n(v)",
        "SELECT v FROM UNNEST(range(3)) AS n(v) UNION SELECT TRY_CAST(repeat('1', 16000000) AS DECIMAL(38, 3))",
    ] {
        is_survived(&mallory, sql);
    }
    assert_eq!(mallory.number("SELECT CAST(CAST('0012.00' AS DECIMAL(38, 3)) AS BIGINT)"), 12);
}

/// A sort counts each row once, and not all of the list that it was a part of.
#[test]
fn a_sort_over_an_unnest_holds_its_rows() {
    let server = server();
    let sql =
        "SELECT max(x) FROM (SELECT row_number() OVER (ORDER BY v DESC) AS x FROM UNNEST(range(200000)) AS n(v)) AS q";
    assert_eq!(server.client("user_john").number(sql), 200_000);
}

/// As many as one user may run at the same time, each of another kind.
#[test]
fn one_user_s_endless_statements_leave_the_others_their_threads() {
    let server = server();
    let endless = [
        ENDLESS,
        "SELECT count(*) FROM UNNEST(range(1000)) a(x), UNNEST(range(1000)) b(x), UNNEST(range(1000)) c(x), UNNEST(range(1000)) d(x), UNNEST(range(1000)) e(x), UNNEST(range(1000)) f(x) WHERE a.x + b.x + c.x + d.x + e.x + f.x = 1",
        "SELECT array_agg(a.value) FROM UNNEST(generate_series(1, 1000000)) AS a(value), UNNEST(generate_series(1, 1000)) AS b(value)",
        "SELECT SUM(levenshtein(repeat('a', 4000), repeat('b', 4000 + v % 2))) FROM UNNEST(generate_series(1, 200)) AS n(v)",
    ];
    while_another_user_asks(&server, |mallory| {
        thread::scope(|scope| {
            for sql in endless.iter().cycle().take(8) {
                scope.spawn(move || match mallory.query(sql) {
                    Ok(_) => {}
                    Err(failure) => {
                        let code = failure.code().expect("an answer");
                        let expected = [ErrorCode::QueryTooLarge, ErrorCode::QueryTimeout, ErrorCode::RateLimited];
                        assert!(expected.contains(&code), "{failure}\nin: {sql}");
                    }
                });
            }
        });
    });
}

#[test]
fn a_costly_live_filter_ends_and_nobody_else_waits() {
    let server = server();
    let term = |number: usize| format!("levenshtein(repeat(content, 400), repeat('x', 4000)) < -{number}");
    let terms: Vec<String> = (0..120).map(term).collect();
    let costly = format!("SELECT msgId FROM messages WHERE {}", terms.join(" OR "));
    while_another_user_asks(&server, |mallory| {
        let mut live = Live::connect(mallory);
        for number in 0..8 {
            live.subscribe(json!({ "id": format!("s{number}"), "sql": format!("{costly} OR msgId = {number}") }));
        }
        let (other, john) = (server.client("user_john"), server.client("user_john"));
        let mut watching = Live::connect(&other);
        watching.subscribe(json!({ "id": "mine", "conversationId": "d" }));
        mallory.say("c", "hello there");
        john.say("d", "are you there?");
        assert_eq!(watching.expect("message")["message"]["content"], "are you there?");
        for _ in 0..8 {
            let error = live.expect("error");
            assert!(
                ["query_timeout", "query_too_large"].contains(&error["code"].as_str().unwrap_or_default()),
                "{error}"
            );
        }
    });
}

/// Statements that wait cost little, and only one's own are told to come back.
#[test]
fn too_many_waiting_statements_are_told_to_come_back() {
    let server = Server::with(&[("query.timeout_seconds", "5"), ("query.max_concurrent_per_user", "1")]);
    while_another_user_asks(&server, |mallory| {
        let limited = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..300 {
                scope.spawn(|| {
                    let refused = mallory.query(ENDLESS).expect_err("it has no end");
                    match refused.code() {
                        Some(ErrorCode::RateLimited) => limited.store(true, Ordering::Relaxed),
                        Some(ErrorCode::QueryTimeout) => {}
                        _ => panic!("{refused}"),
                    }
                });
            }
        });
        assert!(limited.into_inner());
    });
}

/// What is bounded by what it holds is not refused for what it does not. Those that sort have fewer rows: a sort counts
/// the whole list of an UNNEST for each part of it that it holds.
#[test]
fn windows_over_many_rows_are_answered() {
    let server = server();
    let john = server.client("user_john");
    for (sql, least) in [
        (
            "SELECT max(x) FROM (SELECT row_number() OVER (ORDER BY v) AS x FROM UNNEST(range(50000)) AS n(v)) AS q",
            50_000,
        ),
        ("SELECT max(x) FROM (SELECT count(*) OVER () AS x FROM UNNEST(range(200000)) AS n(v)) AS q", 200_000),
        (
            "SELECT max(x) FROM (SELECT row_number() OVER (PARTITION BY v % 7 ORDER BY v DESC) * 7 + v % 1 AS x FROM UNNEST(range(49997)) AS n(v)) AS q WHERE x <= 50000",
            49_994,
        ),
    ] {
        assert!(john.number(sql) >= least, "{sql}");
    }
}
