//! A process that dies at each step that matters, and what its folder holds afterwards.

use std::{
    fs,
    io::Write,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{ai, group, id, message, messages, settings};
use crate::{Actor, Change, Components, Proposal, Step, Store};

/// How the child learns where to work and when to die.
const CHILD: &str = "KALAMDB_CRASH_CHILD";

const STEPS: [Step; 5] =
    [Step::BeforeWrite, Step::AfterWrite, Step::SegmentReserved, Step::SegmentWritten, Step::SegmentPublished];

/// Sends and consolidates until the step comes for the n-th time, and dies there. What was acknowledged stands in
/// `acknowledged`, a line each.
#[tokio::main(flavor = "current_thread")]
async fn child(folder: &Path, step: Step, n: usize) {
    let seen = AtomicUsize::new(0);
    let on_step = move |now: Step| {
        if now == step && seen.fetch_add(1, Ordering::SeqCst) + 1 == n {
            std::process::abort();
        }
    };
    let components = Components { on_step: Some(Arc::new(on_step)), ..Components::default() };
    let store = Store::open(settings(folder), components).unwrap();
    let mut acknowledged = fs::OpenOptions::new().create(true).append(true).open(folder.join("acknowledged")).unwrap();
    for round in 0.. {
        for to in [ai("c"), group(&format!("g{round}"))] {
            let changes = vec![
                Change::Send(message("ann", &to, &format!("{round} one"))),
                Change::Send(message("ann", &to, &format!("{round} two"))),
            ];
            let actor = Actor { user: id("ann"), admin: false };
            let proposal = Proposal { actor, idempotency: None, expect: Vec::new(), changes };
            let sent = store.commit(proposal).await.unwrap().sent;
            writeln!(acknowledged, "{} {}", sent[0].msg_id, sent[1].msg_id).unwrap();
        }
        store.consolidate(&id("ann")).await.unwrap();
    }
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder.join("ann")) else { return Vec::new() };
    entries.map(|entry| format!("ann/{}", entry.unwrap().file_name().to_string_lossy())).collect()
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_left_behind() {
    if let Ok(order) = std::env::var(CHILD) {
        let mut words = order.splitn(3, ' ');
        let (step, n) = (words.next().unwrap().parse::<usize>().unwrap(), words.next().unwrap().parse().unwrap());
        child(Path::new(words.next().unwrap()), STEPS[step], n);
        return;
    }
    for (index, step) in STEPS.into_iter().enumerate() {
        for n in [1, 2, 5] {
            let folder = tempfile::tempdir().unwrap();
            let died = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::crash::nothing_acknowledged_is_lost_and_nothing_is_left_behind"])
                .env(CHILD, format!("{index} {n} {}", folder.path().display()))
                .output()
                .unwrap();
            assert!(!died.status.success(), "the child was to die at {step:?}");
            check(folder.path(), step);
        }
    }
}

fn check(folder: &Path, step: Step) {
    let store = Store::open(settings(folder), Components::default()).unwrap();
    let there = messages(&store, folder, &id("ann"));
    let acknowledged = fs::read_to_string(folder.join("acknowledged")).unwrap_or_default();
    for msg_id in acknowledged.split_whitespace() {
        assert!(there.contains_key(&msg_id.parse().unwrap()), "{msg_id} was acknowledged, {step:?}");
    }
    assert_eq!(there.len() % 2, 0, "a proposal is applied whole or not at all, {step:?}");
    let mut adopted: Vec<_> =
        store.snapshot().segments(&id("ann")).unwrap().into_iter().map(|segment| segment.path).collect();
    let mut found = files(folder);
    adopted.sort();
    found.sort();
    assert_eq!(found, adopted, "every file is a segment's, {step:?}");
    assert_eq!(store.epoch(), 2, "numbers may have been lost");
}
