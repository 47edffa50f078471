//! Folders that earlier programs left: this one opens them, and answers what those answered.
//!
//! Invariant: folder and answers come from the earlier program itself (`tests/data/old_folder.py`); nobody edits them.

use std::{fs, io::Read as _, path::Path};

use flate2::{Crc, read::GzDecoder};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::harness::Server;

/// What an earlier program was asked, and what it answered.
#[derive(Deserialize)]
struct Answers {
    questions: Vec<Question>,
    files: Vec<Stored>,
}

#[derive(Deserialize)]
struct Question {
    user: String,
    sql: String,
    rows: Vec<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    user: String,
    content_ref: String,
    bytes: usize,
    crc32: u32,
}

impl Answers {
    /// Asks all of it again.
    fn check(&self, server: &Server, when: &str) {
        for Question { user, sql, rows } in &self.questions {
            assert_eq!(&server.client(user).rows(sql), rows, "{when}: {user} asks {sql}");
        }
        for Stored { user, content_ref, bytes, crc32 } in &self.files {
            let answer = server.client(user).content(content_ref);
            assert_eq!((answer.status, answer.body.len()), (200, *bytes), "{when}: {content_ref}");
            let mut sum = Crc::new();
            sum.update(&answer.body);
            assert_eq!(sum.sum(), *crc32, "{when}: {content_ref}");
        }
    }

    fn question(&self, table: &str, user: &str) -> &Question {
        let of = format!(" FROM {table} ");
        let mut asked = self.questions.iter().filter(|question| question.user == user && question.sql.contains(&of));
        asked.next().unwrap_or_else(|| panic!("nobody asked {user} for {table}"))
    }
}

/// Unpacks a plain tar archive: blocks of 512 bytes, the first of each file its name, size and kind.
fn unpack(archive: &Path, into: &Path) {
    let mut tar = Vec::new();
    GzDecoder::new(fs::File::open(archive).expect("the archive")).read_to_end(&mut tar).expect("it is gzip");
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8(bytes[..end].to_vec()).expect("plain names")
    };
    let mut rest = tar.as_slice();
    while rest[0] != 0 {
        let (header, body) = rest.split_at(512);
        let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).expect("a size");
        let path = into.join(text(&header[..100]));
        match header[156] {
            b'5' => fs::create_dir_all(&path).expect("a folder"),
            b'0' => fs::write(&path, &body[..size]).expect("a file"),
            kind => panic!("{} is of the kind {kind}", path.display()),
        }
        rest = &body[size.next_multiple_of(512)..];
    }
}

fn admin(server: &Server, what: &str) {
    let path = format!("/api/admin/{what}");
    let answer = server.admin().request(Method::POST, &path, &[], Some("{}")).expect("an answer");
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
}

/// The folder of commit 73096fd, the first whose folders there are: format 2, the first version of every record.
#[test]
fn a_folder_of_the_first_program_opens_and_says_the_same() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let answers = fs::read_to_string(data.join("folder-73096fd.json")).expect("the answers");
    let answers: Answers = serde_json::from_str(&answers).expect("answers");
    let settings = [
        ("deletion.soft_delete_retention_days", "36500"),
        ("audit.retention_days", "36500"),
        ("consolidation.interval_seconds", "86400"),
    ];
    let mut server = Server::over(&settings, |folder| unpack(&data.join("folder-73096fd.tar.gz"), folder));
    answers.check(&server, "as it was left");
    admin(&server, "consolidate");
    answers.check(&server, "with all rows in segments");
    admin(&server, "compact");
    answers.check(&server, "with all segments rewritten");
    server.restart();
    answers.check(&server, "opened again");

    // What was there can be changed as what is new.
    let ann = server.client("ann");
    let kept = &answers.question("messages", "ann").rows;
    let deleted = &answers.question("deletedMessages", "ann").rows;
    assert!(kept.len() > 10 && deleted.len() > 2, "the folder holds a history");
    assert_eq!(ann.run("UPDATE deletedMessages SET deletedAt = NULL"), deleted.len() as u64);
    assert_eq!(ann.number("SELECT count(*) FROM messages"), (kept.len() + deleted.len()) as i64);
    let trip = ann.number("SELECT count(*) FROM messages WHERE conversationId = 'trip'");
    assert_eq!(
        ann.run("UPDATE messages SET metadata = '{\"new\": 1}' WHERE conversationId = 'trip'"),
        trip.unsigned_abs()
    );
    let newest = kept.iter().chain(deleted).filter_map(|row| row[0].as_i64()).max().expect("there are messages");
    assert!(ann.say("trip", "new") > newest);
    assert!(ann.run("DELETE FROM conversations") > 0);
    assert_eq!(ann.number("SELECT count(*) FROM messages"), 0);
    let bob = answers.question("messages", "Bob");
    assert_eq!(server.client("Bob").rows(&bob.sql), bob.rows, "one's own copies stay");
}
