//! A stranger's machine: what make and its scripts do there.
//!
//! Invariant: nothing outside of a test's own folder is changed, and nothing is built.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::harness::bounded_output;

const KALAMDB: &str = env!("CARGO_BIN_EXE_kalamdb");

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

/// A command with nothing of this environment that make or KalamDB would heed.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("KALAMDB_") || name.starts_with("MAKE") {
            command.env_remove(name);
        }
    }
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// --- make run

/// A running `scripts/run.sh`, with the arguments of `make run ARGS=…`, and the lines that it has printed.
fn run(folder: &Path, arguments: &[&str]) -> (std::process::Child, Vec<String>) {
    let mut command = command(project().join("scripts/run.sh"));
    command.current_dir(folder).arg(KALAMDB).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the script starts");
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        lines.push(line.expect("a line"));
        if lines.last().is_some_and(|line| line.contains("until Ctrl-C")) {
            break;
        }
    }
    (child, lines)
}

#[test]
fn make_run_prints_lines_that_work_and_ends_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    symlink(KALAMDB, folder.path().join("kalamdb")).expect("a link");
    let (mut child, lines) = run(folder.path(), &["--port", "0", "--data", "elsewhere"]);
    let printed = lines.join("\n");
    let address = lines[0].split_once("http://").and_then(|(_, rest)| rest.split_once(',')).expect("an address").0;
    for line in printed.replace("\\\n", " ").lines().filter(|line| line.starts_with("curl ")) {
        assert!(line.contains(address), "{line}");
        let output = bounded_output({
            let mut shell = command("bash");
            shell.args(["-c", line]);
            shell
        });
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line}: {output:?}"));
        assert!(answer.get("error").is_none(), "{line}: {answer}");
    }
    assert!(folder.path().join("elsewhere/.kalamdb").is_dir(), "the server's arguments are its own:\n{printed}");
    let shell = lines.iter().find_map(|line| line.split_once("this opens a shell: ")).expect("the line for a shell").1;
    let counted = bounded_output({
        let mut second = command("bash");
        second
            .current_dir(folder.path())
            .args(["-c", &format!("{shell} --format csv -c 'SELECT COUNT(*) > 30 AS loaded FROM messages'")]);
        second
    });
    assert_eq!(stdout(&counted), "loaded\ntrue\n", "{}", stderr(&counted));

    let ended = bounded_output({
        let mut kill = command("kill");
        kill.args(["-TERM", &child.id().to_string()]);
        kill
    });
    assert!(ended.status.success());
    assert!(child.wait().expect("it ends").success(), "told to end, it ends in order");
    assert!(TcpStream::connect(address).is_err(), "the server is gone with it");
}

#[test]
fn make_run_says_what_to_do_about_a_port_that_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let mut run = command(project().join("scripts/run.sh"));
    run.current_dir(folder.path()).args([KALAMDB, "--port", &port]);
    let output = bounded_output(run);
    let said = stderr(&output);
    assert!(!output.status.success() && stdout(&output).is_empty(), "{output:?}");
    for part in [port.as_str(), "--port", "KALAMDB_SERVER__PORT", "make run ARGS="] {
        assert!(said.contains(part), "no {part} in: {said}");
    }
}

// --- make test

/// The scripts with programs of ours in the place of cargo and Python.
fn with_programs(script: &str, arguments: &[&str], cargo: &str, python: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [("cargo", cargo), ("python", python)] {
        let file = folder.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("a program");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it may be run");
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("a PATH"));
    let mut command = command(project().join("scripts").join(script));
    command.args(arguments).env("PATH", path).env("KALAMDB_PYTHON", folder.path().join("python"));
    bounded_output(command)
}

#[test]
fn make_test_sums_up_all_runners() {
    let cargo = "echo \"$*\"
        echo 'test one::a ... ok'; echo 'test one::b ... FAILED'
        echo 'test result: FAILED. 1 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.10s'
        echo 'test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s'
        exit 101";
    let output = with_programs("test.sh", &["--skip", "slow"], cargo, "exit 0");
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(output.status.code(), Some(101));
    assert!(lines[0].starts_with("test ") && lines[0].ends_with(" -- --skip slow"), "{text}");
    assert_eq!(lines[lines.len() - 2..], ["failed: one::b", "42 passed, 1 failed"], "{text}");
}

#[test]
fn make_test_fails_where_a_runner_did_not_end() {
    let cargo = "echo 'test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'; exit 101";
    let output = with_programs("test.sh", &[], cargo, "exit 0");
    assert_eq!(output.status.code(), Some(101));
    assert!(stdout(&output).ends_with("\n7 passed, 1 failed\n"), "{}", stdout(&output));
    let cargo = "echo 'test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'";
    let output = with_programs("test.sh", &[], cargo, "exit 0");
    assert!(output.status.success() && stdout(&output).ends_with("\n7 passed, 0 failed\n"), "{output:?}");
}

#[test]
fn a_rust_that_is_too_old_is_named() {
    let manifest = fs::read_to_string(project().join("Cargo.toml")).expect("Cargo.toml");
    let wanted = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("it is there");
    for (cargo, found) in [("echo 'cargo 1.63.0'", "1.63.0"), ("exit 127", "no Rust toolchain")] {
        let output = with_programs("tools.sh", &[], cargo, "exit 0");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(found) && said.contains(wanted.trim_matches('"')) && said.contains("rustup"), "{said}");
    }
}

// --- make install

fn make(arguments: &[&str]) -> Output {
    let mut make = command("make");
    // Whoever installs may keep what they write to themselves; what is installed is for everybody.
    make.args(["--no-print-directory", "--directory"]).arg(project()).args(arguments).env("BASH_ENV", "/dev/null");
    let mut shell = command("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(make.get_program()).args(make.get_args());
    bounded_output(shell)
}

/// The files below a folder, with their modes. The folders among them are open to everybody.
fn files(folder: &Path) -> Vec<(String, u32)> {
    fn collect(base: &Path, folder: &Path, found: &mut Vec<(String, u32)>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let mode = path.metadata().expect("it is there").permissions().mode() & 0o777;
            if path.is_dir() {
                assert_eq!(mode, 0o755, "{}", path.display());
                collect(base, &path, found);
            } else {
                found.push((path.strip_prefix(base).expect("below it").display().to_string(), mode));
            }
        }
    }
    let mut found = Vec::new();
    collect(folder, folder, &mut found);
    found.sort();
    found
}

/// The subcommands that `--help` names.
fn subcommands() -> BTreeSet<String> {
    let mut help = command(KALAMDB);
    help.arg("--help");
    let help = stdout(&bounded_output(help));
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn make_install_puts_everything_in_place_and_takes_it_away() {
    let tree = tempfile::tempdir().expect("a folder");
    let binary = format!("BINARY={KALAMDB}");
    let destination = format!("DESTDIR={}", tree.path().display());
    let install = || make(&["install", &binary, &destination, "PREFIX=/usr"]);
    let output = install();
    assert!(output.status.success(), "{}", stderr(&output));

    let found = files(tree.path());
    let mut expected: Vec<(String, u32)> = [
        ("etc/kalamdb/config.toml", 0o644),
        ("usr/bin/kalamdb", 0o755),
        ("usr/lib/systemd/system/kalamdb.service", 0o644),
        ("usr/share/bash-completion/completions/kalamdb", 0o644),
        ("usr/share/doc/kalamdb/LICENSE", 0o644),
        ("usr/share/fish/vendor_completions.d/kalamdb.fish", 0o644),
        ("usr/share/man/man1/kalamdb.1", 0o644),
        ("usr/share/zsh/site-functions/_kalamdb", 0o644),
    ]
    .map(|(name, mode)| (name.to_owned(), mode))
    .to_vec();
    expected.extend(subcommands().iter().map(|name| (format!("usr/share/man/man1/kalamdb-{name}.1"), 0o644)));
    expected.sort();
    assert_eq!(found, expected);

    let settings = tree.path().join("etc/kalamdb/config.toml");
    fs::write(&settings, "[server]\nport = 1\n").expect("they are changed");
    assert!(install().status.success());
    assert_eq!(fs::read_to_string(&settings).expect("settings"), "[server]\nport = 1\n", "settings are the operator's");

    let output = make(&["uninstall", &destination, "PREFIX=/usr"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(files(tree.path()), [("etc/kalamdb/config.toml".to_owned(), 0o644)]);
}

#[test]
fn what_is_installed_works_together() {
    let tree = tempfile::tempdir().expect("a folder");
    let output = make(&[
        "install",
        &format!("BINARY={KALAMDB}"),
        &format!("DESTDIR={}", tree.path().display()),
        "PREFIX=/opt/kalamdb",
        "SYSCONFDIR=/opt/etc",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let read = |name: &str| fs::read_to_string(tree.path().join(name)).unwrap_or_else(|_| panic!("no {name}"));

    // The unit starts the program that is there, with the settings that are there, which name the folder that it makes.
    let unit = read("opt/kalamdb/lib/systemd/system/kalamdb.service");
    assert!(!unit.contains('@') || unit.contains("=@system-service"), "{unit}");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("what it starts");
    let words: Vec<&str> = start.split(' ').collect();
    let [program, "serve", "--config", settings] = words.as_slice() else { panic!("{start}") };
    let inside = |path: &str| tree.path().join(path.trim_start_matches('/'));
    let mut config = command(inside(program));
    config.args(["config", "--config"]).arg(inside(settings));
    let shown = bounded_output(config);
    assert!(shown.status.success(), "{}", stderr(&shown));
    let folder = stdout(&shown).lines().find(|line| line.starts_with("base_storage_path")).map(str::to_owned);
    assert!(folder.as_ref().is_some_and(|line| line.contains("\"/var/lib/kalamdb\"")), "{folder:?}");
    assert!(unit.contains("\nStateDirectory=kalamdb\nStateDirectoryMode=0700\n"), "{unit}");

    // Pages and completions know every command.
    let page = read("opt/kalamdb/share/man/man1/kalamdb.1");
    assert!(page.starts_with(".ie") || page.contains(".TH kalamdb 1"), "{page}");
    let bash = tree.path().join("opt/kalamdb/share/bash-completion/completions/kalamdb");
    let mut check = command("bash");
    check.args(["-n"]).arg(&bash);
    assert!(bounded_output(check).status.success(), "bash does not read its completions");
    let scripts = [
        "opt/kalamdb/share/bash-completion/completions/kalamdb",
        "opt/kalamdb/share/fish/vendor_completions.d/kalamdb.fish",
        "opt/kalamdb/share/zsh/site-functions/_kalamdb",
    ];
    for name in subcommands() {
        assert!(page.contains(&format!("kalamdb\\-{name}(1)")), "the page names no {name}:\n{page}");
        for script in scripts {
            assert!(read(script).contains(&name), "no {name} in {script}");
        }
    }
    let sql = read("opt/kalamdb/share/man/man1/kalamdb-sql.1");
    assert!(sql.contains("\\-\\-format"), "{sql}");
}
