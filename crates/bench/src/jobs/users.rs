//! Many users: how the small questions and the server's memory grow with their number.
//!
//! Invariant: each user has the same few messages, and those who ask are taken from all of them.

use std::ops::Range;

use serde_json::json;

use super::{
    Bench, comparison,
    history::{Growing, report_growth},
};
use crate::{
    Failure,
    data::{History, scatter, user_id},
    machine::disk_bytes,
    peers::{
        Ask, Durability, Room,
        kalamdb::{HOT, KalamDb},
    },
    report::{Report, count, mebibytes},
    tokens::token,
};

/// Messages of each user, in one conversation.
const EACH: u64 = 20;

/// How many of them ask: the load generator holds their tokens.
const ASKING: u64 = 1_000;

/// What is asked at each number.
const SMALL: [(&str, Ask); 2] = [("a page", Ask::Page), ("a send", Ask::Send(Room::Any))];

/// Measures it.
pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let settings = [&HOT[..], &[("rocksdb.durability", Durability::Os.word())]].concat();
    let mut ours = KalamDb::of(bench.program.start("users", &settings)?)?;
    ours.everybody_asks = true;
    comparison(report, format!("Growth with the number of users, {EACH} messages each, one in flight"));
    let (mut there, mut first, mut last) = (0, Vec::new(), Vec::new());
    for users in bench.size.users.clone() {
        import(&ours, there..users)?;
        there = users;
        last = measure_step(bench, &mut ours, users, report).await?;
        if first.is_empty() {
            first.clone_from(&last);
        }
    }
    report_growth(&first, &last, "number of users", report);
    ours.server.stop()
}

fn import(ours: &KalamDb, owners: Range<u64>) -> Result<(), Failure> {
    let history = History { owners, conversations: 0..1, messages_each: EACH, days: 30 };
    let file = ours.server.data().with_extension("ndjson");
    history.write(&file)?;
    ours.server.import(std::slice::from_ref(&file))?;
    Ok(std::fs::remove_file(file)?)
}

async fn measure_step(
    bench: &Bench,
    ours: &mut KalamDb,
    users: u64,
    report: &mut Report,
) -> Result<Vec<Growing>, Failure> {
    let asking = (0..ASKING.min(users)).map(|n| if users <= ASKING { n } else { scatter(n) % users });
    let asking = asking.map(user_id).map(|id| token(&id, false).map(|token| (id, token)));
    ours.door.fillings.users = asking.collect::<Result<_, Failure>>()?;
    ours.door.fillings.conversations = 1;
    ours.door.fillings.messages_each = EACH;
    let mut growing = Vec::new();
    for (what, ask) in SMALL {
        let name = format!("users.{users}.{what}");
        let what_of = format!("{} users, {what}", count(users));
        growing.extend(Growing::of(what, &bench.look(&name, &what_of, ask, &*ours, report).await));
    }
    let bytes = disk_bytes(ours.server.data())?;
    report.value(format!("users.{users}.diskBytes"), json!(bytes));
    report.note(format!("With {} users the folder holds {}.", count(users), mebibytes(bytes)));
    Ok(growing)
}
