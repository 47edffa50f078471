//! What the process takes of its machine: files, and who may read them.
//!
//! Invariant: looks at the folder and at `/proc` only, as another user of the machine could.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::Server;

/// Everything in the folder, itself too, whose rights are not its owner's alone.
fn open_to_others(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut open = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut look = |path: &Path| {
        let mode = match fs::metadata(path) {
            Ok(file) => file.permissions().mode() & 0o7777,
            // The server runs: RocksDB removes what it has compacted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        if mode & 0o077 != 0 {
            open.push((path.to_owned(), mode));
        }
    };
    look(folder);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            look(&path);
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    open
}

/// A server with something of everything that lies in files.
fn full_server() -> Server {
    let mut server = Server::start();
    let (john, admin) = (server.client("user_john"), server.admin());
    john.make_group("g", &["user_alice"]);
    for conversation in ["c", "g"] {
        john.say(conversation, "hello");
        john.say(conversation, &"large ".repeat(40_000));
        john.upload(b"bread, milk\n", conversation).expect("it is taken");
    }
    admin.consolidate();
    john.say("c", "after");
    server.restart();
    server.admin().consolidate();
    server
}

#[test]
fn nobody_else_on_the_machine_reads_the_data() {
    let server = full_server();
    assert!(server.segment_files().len() >= 2, "{:?}", server.segment_files());
    assert_eq!(open_to_others(&server.data()), []);
}

#[test]
fn a_folder_that_an_earlier_version_left_open_is_closed() {
    let mut server = Server::start();
    server.stop();
    fs::set_permissions(server.data(), fs::Permissions::from_mode(0o755)).expect("it can be changed");
    server.spawn();
    assert_eq!(fs::metadata(server.data()).expect("the folder").permissions().mode() & 0o777, 0o700);
}

/// What a server that starts with these variables writes on standard error.
fn log_of(variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kalamdb"));
    command.args(["serve", "--port", "0", "--data"]).arg(folder.path().join("data")).current_dir(folder.path());
    command.env_remove("RUST_LOG").envs(variables.iter().copied());
    command.stdout(Stdio::piped()).stderr(fs::File::create(&log).expect("a file"));
    let mut child = command.spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("its first line");
    child.kill().and_then(|()| child.wait()).expect("it ends");
    assert!(line.contains("listens on"), "{line}");
    fs::read_to_string(log).expect("its log")
}

#[test]
fn the_log_is_for_people_or_for_programs() {
    let text = log_of(&[]);
    assert!(text.contains(" INFO ") && text.contains("started"), "{text}");
    let lines = log_of(&[("KALAMDB_LOG__FORMAT", "json")]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let started = lines.iter().find(|line| line["fields"]["message"] == "started").expect("that it started");
    assert_eq!(started["level"], "INFO");
}

/// A variable that other programs read, too, and so may be set for their sake.
#[test]
fn what_is_logged_in_place_of_the_setting_is_said() {
    let empty = log_of(&[("RUST_LOG", "")]);
    assert!(empty.contains("started") && !empty.contains("RUST_LOG"), "{empty}");
    let chosen = log_of(&[("RUST_LOG", "warn")]);
    assert!(!chosen.contains("started") && chosen.contains("RUST_LOG says what is logged"), "{chosen}");
    let odd = log_of(&[("RUST_LOG", "a=b=c")]);
    assert!(odd.contains("started") && odd.contains("RUST_LOG is no filter"), "{odd}");
}

#[test]
fn the_server_opens_as_many_files_as_it_may() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let serve = server.command(&["serve"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -Sn 300; ulimit -Hn 3000; exec \"$0\" \"$@\""]);
    limited.arg(serve.get_program()).args(serve.get_args()).arg("--data").arg(folder.path());
    limited.env("KALAMDB_SERVER__PORT", "0").current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = limited.spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("its first line");
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id()));
    child.kill().and_then(|()| child.wait()).expect("it ends");
    let limits = limits.expect("the process was there");
    let files: Vec<&str> = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .expect("a line")
        .split_whitespace()
        .collect();
    assert_eq!(files[..2], ["3000", "3000"], "{line}");
}
