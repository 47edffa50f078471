//! A disk without room: writes are refused until there is some, nothing that was acknowledged is lost, and nobody has to
//! start the server anew.
//!
//! Invariant: the disk is a small file system of the server's own, in memory. Where the system lets nobody mount one, there
//! is nothing to test.

use std::{fs::File, io::Write, path::Path};

use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Client, Server, eventually, message};

/// Writes into the file until there is no room.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("there is room for a name");
    // The last pieces are small, so that nothing is left.
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}

fn is_ready(client: &Client) -> bool {
    let answer = client.request(Method::GET, "/api/v1/health", &[], None).expect("an answer");
    assert_eq!(answer.status, 200, "it is alive");
    answer.json()["ready"] == true
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let settings =
        [("rocksdb.write_buffer_size_mb", "1"), ("server.jwt_secret", "a secret of this test alone, 0123456789")];
    let Some(server) = Server::on_disk_of(256, &settings) else {
        eprintln!("nobody may mount a file system here");
        return;
    };
    let john = server.client("user_john");
    let mut acknowledged = vec![john.say("c", "there was room")];
    assert!(is_ready(&john));
    let ballast = server.disk().join("ballast");
    fill(&ballast);
    // The database's log has room of its own, which it asked for before.
    let long = message("c", &"x".repeat(80_000));
    let refused = (0..2_000).find_map(|_| match john.send(&long) {
        Ok(sent) => {
            acknowledged.push(sent.msg_id);
            None
        }
        Err(refused) => Some(refused),
    });
    let refused = refused.expect("the disk is full");
    assert_eq!(refused.code(), Some(ErrorCode::StorageUnavailable), "{refused}");
    eventually("the server is not ready", || !is_ready(&john));
    let ready = john.request(Method::GET, "/api/v1/health/ready", &[], None).expect("an answer");
    assert_eq!((ready.status, &ready.json()["error"]), (503, &json!("storage_unavailable")));
    let stored = "SELECT msgId FROM messages ORDER BY msgId";
    assert_eq!(john.numbers(stored), acknowledged, "what was acknowledged, and that only");

    std::fs::remove_file(&ballast).expect("the ballast goes");
    eventually("writes go on", || match john.send(&message("c", "there is room")) {
        Ok(sent) => {
            acknowledged.push(sent.msg_id);
            true
        }
        Err(refused) => {
            assert_eq!(refused.code(), Some(ErrorCode::StorageUnavailable), "{refused}");
            false
        }
    });
    eventually("the server is ready", || is_ready(&john));
    assert_eq!(john.numbers(stored), acknowledged);
}
