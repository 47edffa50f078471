//! A process that cannot go on ends, and the next one goes on.
//!
//! Invariant: each test is its own child: the parent runs it again, as another process that is to die.

use std::{
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus},
    sync::Arc,
};

use super::{Fixture, ai, id, message};
use crate::{Actor, Change, Components, ErrorKind, Proposal, Settings, Step, Store};

/// How the child learns where to work.
const CHILD: &str = "KALAMDB_FATAL_CHILD";

/// What `abort` ends a process with.
const SIGABRT: i32 = 6;

/// Sends messages, and notes each that was acknowledged, until the process ends or the number is reached.
async fn send_until_the_end(settings: Settings, on_step: impl Fn(Step) + Send + Sync + 'static, most: u32) {
    let mut diary = fs::File::create(settings.base_path.with_extension("diary")).unwrap();
    let store =
        Store::open(settings, Components { on_step: Some(Arc::new(on_step)), ..Components::default() }).unwrap();
    for number in 0..most {
        let changes = vec![Change::Send(message("ann", &ai("c"), &format!("{number} {}", "x".repeat(1_900)))); 20];
        let actor = Actor { user: id("ann"), admin: false };
        let sent = store.commit(Proposal { actor, idempotency: None, expect: Vec::new(), changes }).await;
        match sent {
            Ok(_) => writeln!(diary, "{number}").unwrap(),
            Err(error) => panic!("it was answered, and nothing ended: {error}"),
        }
    }
}

/// Runs the test of that name again in a process of its own, which is to end by `abort`, and checks what it leaves.
fn dies(test: &str, command: &mut Command, folder: &Path) {
    let child = command.args(["--exact", &format!("tests::fatal::{test}")]).env(CHILD, folder).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert_eq!(ExitStatus::signal(&child.status), Some(SIGABRT), "it ended with {}, and said {said}", child.status);
    let acknowledged = fs::read_to_string(folder.with_extension("diary")).unwrap().lines().count();
    let store = Store::open(super::settings(folder), Components::default()).unwrap();
    let there = super::messages(&store, folder, &id("ann")).len();
    assert!(there >= 20 * acknowledged, "{there} messages of {acknowledged} acknowledged batches");
    assert!(there.is_multiple_of(20), "a proposal is written whole or not at all");
    assert!(acknowledged > 0, "it was to work for a while");
}

fn child() -> Option<Settings> {
    std::env::var_os(CHILD).map(|folder| super::settings(Path::new(&folder)))
}

#[test]
fn a_panic_of_the_sequencer_ends_the_process() {
    if let Some(settings) = child() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let steps = std::sync::atomic::AtomicUsize::new(0);
        let on_step = move |step| {
            let dies = step == Step::BeforeWrite && steps.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 5;
            assert!(!dies, "on purpose");
        };
        return runtime.block_on(send_until_the_end(settings, on_step, 100));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    dies("a_panic_of_the_sequencer_ends_the_process", &mut command, &folder.path().join("data"));
}

#[test]
fn a_log_that_cannot_be_written_any_more_ends_the_process() {
    if let Some(mut settings) = child() {
        // Nothing is flushed meanwhile, so that it is the log that grows into the limit.
        settings.write_buffer_size_mb = 256;
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(send_until_the_end(settings, |_| {}, 2_000));
    }
    let folder = tempfile::tempdir().unwrap();
    // No file may become larger than this many blocks, of 512 bytes or 1,024, whatever shell it is: the system refuses
    // the write with an error that no waiting mends, as it does when a disk breaks.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; ulimit -f 8192; exec "$0" "$@""#]).arg(std::env::current_exe().unwrap());
    dies("a_log_that_cannot_be_written_any_more_ends_the_process", &mut command, &folder.path().join("data"));
}

#[tokio::test]
async fn a_store_is_ready_as_long_as_it_takes_writes() {
    let fixture = Fixture::new();
    fixture.send("ann", &ai("c"), "x").await.unwrap();
    let seq = fixture.store.last_seq().unwrap();
    fixture.store.ready().await.unwrap();
    assert_eq!(fixture.store.last_seq().unwrap(), seq, "asking is no commit");
    *fixture.store.inner.probed.lock().await = None;
    fixture.store.inner.sequencer.stop();
    assert_eq!(fixture.store.ready().await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[test]
fn a_full_disk_is_waited_out_and_nothing_else_is() {
    let said = |text: &str| crate::database::passes_by_itself(text);
    assert!(said(
        "IO error: No space left on device: While appending to file: /data/000012.log: No space left on device"
    ));
    assert!(said("Resource busy: "));
    assert!(!said("IO error: While fdatasync: /data/000012.log: Input/output error"));
    assert!(!said("IO error: While appending to file: /data/No space left on device: Input/output error"));
    assert!(!said("Corruption: block checksum mismatch"));
}
