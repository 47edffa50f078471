//! The command line, as an operator uses it.
//!
//! Invariant: only the binary's arguments, environment, output and exit status.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Server, bounded_output};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// --- sql

#[test]
fn a_statement_on_the_command_line_prints_a_table() {
    let server = Server::start();
    server.client("user_john").say("c", "hello from john");
    let output = stdout(&server.cli(&["sql", "-c", "SELECT owner, content FROM *.messages"]));
    for text in ["owner", "content", "user_john", "hello from john"] {
        assert!(output.contains(text), "no {text} in:\n{output}");
    }
}

#[test]
fn a_statement_prints_json_or_csv() {
    let server = Server::start();
    server.client("user_john").say("c", "a \"quoted\", text");
    let sql = "SELECT owner, content, contentRef FROM *.messages";
    let text = stdout(&server.cli(&["sql", "-c", sql, "--format", "csv"]));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let record = reader.records().next().expect("a record").expect("CSV");
    assert_eq!((&record[0], &record[1]), ("user_john", "a \"quoted\", text"));
    let text = stdout(&server.cli(&["sql", "-c", sql, "--format", "json"]));
    let printed: Value = serde_json::from_str(&text).or_else(|_| first_line(&text)).expect("JSON");
    let row = json!({ "owner": "user_john", "content": "a \"quoted\", text", "contentRef": null });
    assert!(printed == row || printed == json!([row]), "{text}");
}

/// JSON may come as an array, or as an object per line.
fn first_line(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text.lines().next().unwrap_or_default())
}

#[test]
fn a_write_says_how_many_rows() {
    let server = Server::start();
    let sql = "INSERT INTO user_john.messages (conversationId, content) VALUES ('c', 'a'), ('c', 'b'), ('c', 'c')";
    let output = stdout(&server.cli(&["sql", "-c", sql]));
    assert!(output.starts_with("(3 rows affected, msgId "), "{output}");
    assert_eq!(server.client("user_john").number("SELECT COUNT(*) FROM messages"), 3);
}

#[test]
fn an_error_ends_with_a_status_and_a_sentence() {
    let server = Server::start();
    let output = server.cli(&["sql", "-c", "SELECT nothing FROM messages"]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("nothing"), "{}", stderr(&output));
    assert!(output.stdout.is_empty(), "an error is not an answer");
}

#[test]
fn the_token_is_minted_from_the_secret_of_the_same_machine() {
    let server = Server::start();
    let data = server.data();
    let output = bounded_output(server.command(&[
        "sql",
        "-c",
        "SELECT 40 + 2 AS answer",
        "--format",
        "csv",
        "--url",
        &server.url(),
        "--data",
        data.to_str().expect("a UTF-8 path"),
    ]));
    assert_eq!(stdout(&output).trim(), "answer\n42");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let server = Server::start();
    let output =
        bounded_output(server.command(&["sql", "-c", "SELECT 1", "--url", "http://127.0.0.1:1", "--token", "x"]));
    assert!(!output.status.success() && stderr(&output).contains("127.0.0.1:1"), "{}", stderr(&output));
}

/// Without a terminal it is a script.
#[test]
fn the_shell_reads_from_a_pipe() {
    use std::io::Write;
    let server = Server::start();
    let mut command = server.cli_command(&["sql"]);
    let mut script = tempfile::tempfile().expect("a file");
    script.write_all(b"SELECT 40 +\n 2 AS answer;\nSELECT \'a;b\' AS semicolon\n").expect("it is written");
    std::io::Seek::rewind(&mut script).expect("it can be read again");
    let output = command.stdin(script).output().expect("it runs");
    let text = stdout(&output);
    for part in ["answer", "42", "semicolon", "a;b"] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
}

#[test]
fn the_shell_s_own_commands_work_without_a_terminal() {
    let server = Server::start();
    let tables = stdout(&server.cli(&["sql", "-c", "\\d"]));
    assert!(tables.contains("conversationUsers") && tables.contains("system.segments"), "{tables}");
    let columns = stdout(&server.cli(&["sql", "-c", "\\d system.users"]));
    assert!(columns.contains("hotMessages"), "{columns}");
    let script = server.data().join("script.sql");
    std::fs::write(&script, "\\x\nSELECT 1 AS one,\n  2 AS two;\n\\timing\nSELECT 3;\nquit\nSELECT nothing;\n")
        .expect("a file");
    let said = stdout(&server.cli(&["sql", "-f", script.to_str().expect("a UTF-8 path")]));
    assert!(said.contains("─[ row 1 ]──────\none │ 1\ntwo │ 2\n"), "{said}");
    assert!(said.contains("\nTime: ") && !said.contains("nothing"), "{said}");
    let missing = server.cli(&["sql", "-f", "no-such.sql"]);
    assert!(!missing.status.success() && stderr(&missing).contains("no-such.sql"), "{}", stderr(&missing));
}

#[test]
fn who_is_named_is_meant_whatever_token_stands_in_the_environment() {
    let server = Server::start();
    server.client("amy").say("c", "hello");
    let data = server.data();
    let place = ["--url", &server.url(), "--data", data.to_str().expect("a UTF-8 path"), "--format", "csv"];
    let asked = |arguments: &[&str], token: &str| {
        let mut command = server.command(&["sql", "-c", "SELECT content FROM messages"]);
        command.args(place).args(arguments).env("KALAMDB_TOKEN", token);
        bounded_output(command)
    };
    assert_eq!(stdout(&asked(&["--user", "amy"], "of somebody else")), "content\nhello\n");
    assert_eq!(stdout(&asked(&[], &server.token("amy", false))), "content\nhello\n");
    assert!(!asked(&[], "of somebody else").status.success());
    let both = asked(&["--user", "amy", "--token", "x"], "");
    assert!(stderr(&both).contains("cannot be used with"), "{}", stderr(&both));
}

/// A command line is in the list of processes, for everybody on the machine.
#[test]
fn a_token_comes_from_a_file_or_from_standard_input() {
    let server = Server::start();
    server.client("amy").say("c", "hello");
    let (url, token) = (server.url(), server.token("amy", false));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |text: &str| {
        let path = folder.path().join("a token");
        std::fs::write(&path, text).expect("it is written");
        path.to_str().expect("a UTF-8 path").to_owned()
    };
    let asked = |path: &str, statements: &str, input: &str| {
        let mut command = server.command(&["sql", "--url", &url, "--format", "csv", "--token-file", path]);
        command.args(statements.split(' ').filter(|word| !word.is_empty())).env("KALAMDB_TOKEN", "of somebody else");
        let mut typed = tempfile::tempfile().expect("a file");
        std::io::Write::write_all(&mut typed, input.as_bytes()).expect("it is written");
        std::io::Seek::rewind(&mut typed).expect("it can be read again");
        command.stdin(typed).output().expect("it runs")
    };
    let statement = "SELECT content FROM messages;\nSELECT 40 + 2 AS answer;";
    let script = folder.path().join("script.sql");
    std::fs::write(&script, statement).expect("it is written");
    let script = format!("-f {}", script.display());
    let answered = "content\nhello\nanswer\n42\n";
    assert_eq!(stdout(&asked(&file(&format!("{token}\n")), &script, "")), answered);
    assert_eq!(stdout(&asked(&file(&token), "", statement)), answered);
    assert_eq!(stdout(&asked("-", &script, &token)), answered);
    // The statements follow the token.
    assert_eq!(stdout(&asked("-", "", &format!("{token}\r\n{statement}"))), answered);
    for (path, input) in [
        (file("").as_str(), ""),
        (&file(&format!("{token} {token}")), ""),
        (&file(&"x".repeat(100_000)), ""),
        ("-", "\n"),
        ("-", ""),
        ("no-such-token", ""),
    ] {
        let refused = asked(path, "-c SELECT", input);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{path}");
        assert!(!stderr(&refused).contains(&token), "{}", stderr(&refused));
    }
    for other in [["--token", "x"], ["--user", "amy"]] {
        let both = bounded_output(server.command(&["sql", "--token-file", "-", other[0], other[1]]));
        assert!(stderr(&both).contains("cannot be used with"), "{}", stderr(&both));
    }
    // The other clients take it as well.
    let conversations = folder.path().join("mine.ndjson");
    let line = r#"{"owner":"amy","conversationId":"i","conversationType":"ai","from":"amy","turn":0,"content":"in"}"#;
    std::fs::write(&conversations, line).expect("it is written");
    let admin = file(&server.token("admin", true));
    let conversations = conversations.to_str().expect("a UTF-8 path");
    let imported = server.command(&["import", conversations, "--url", &url, "--token-file", &admin]);
    assert!(stdout(&bounded_output(imported)).starts_with("Imported 1 message"));
    let demo = bounded_output(server.command(&["demo", "--url", &url, "--token-file", &admin]));
    assert!(stdout(&demo).contains("is loaded"), "{}", stderr(&demo));
}

#[test]
fn a_cut_answer_is_a_success_that_says_so() {
    let server = Server::with(&[("query.max_rows", "2")]);
    let sql = "SELECT value FROM UNNEST(generate_series(1, 3)) AS numbers(value)";
    for format in ["csv", "json"] {
        let output = server.cli(&["sql", "-c", sql, "--format", format]);
        assert!(output.status.success() && !stdout(&output).contains("truncated"), "{format}");
        assert!(stderr(&output).contains("the first 2 rows; there are more, truncated"), "{}", stderr(&output));
    }
}

/// What a person sees who types that at a terminal. `script` makes one; every Debian has it.
fn typed(server: &Server, arguments: &[&str], lines: &str) -> (String, bool) {
    let shell = server.command(arguments);
    let words: Vec<String> = std::iter::once(shell.get_program())
        .chain(shell.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("UTF-8")))
        .collect();
    let mut input = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut input, lines.as_bytes()).expect("it is written");
    std::io::Seek::rewind(&mut input).expect("it can be read again");
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &words.join(" "), "/dev/null"]).current_dir(server.data()).stdin(input);
    terminal.env("TERM", "dumb").env("HOME", server.data());
    let output = terminal.output().expect("a terminal");
    (String::from_utf8_lossy(&output.stdout).replace('\r', ""), output.status.success())
}

#[test]
fn a_person_at_the_shell_sees_who_they_are_and_finds_out() {
    let server = Server::start();
    let (url, data) = (server.url(), server.data());
    let place = ["sql", "--url", &url, "--data", data.to_str().expect("a UTF-8 path")];
    let (screen, ended) = typed(&server, &place, "help\n\\x\nSELECT 40 + 2\n AS answer;\nSELECT nothing;\nquit\n");
    assert!(ended, "{screen}");
    for part in ["as admin, an admin. ", "admin@127.0.0.1=# ", "\\timing", "answer │ 42", "(unknown_column)"] {
        assert!(screen.contains(part), "no {part} in:\n{screen}");
    }
    let (screen, _) = typed(&server, &[&place[..], &["--user", "user_john"]].concat(), "exit\n");
    assert!(screen.contains("as user_john. ") && screen.contains("user_john@127.0.0.1=> "), "{screen}");
}

// --- token

#[test]
fn a_token_is_one_line_and_works() {
    let server = Server::start();
    let data = server.data();
    let data = data.to_str().expect("a UTF-8 path");
    let output = bounded_output(server.command(&["token", "--user", "amy", "--ttl", "1h", "--data", data]));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(server.client_with_token(Some(text.trim())).number("SELECT 1"), 1);
}

#[test]
fn a_token_for_what_is_no_user_is_refused() {
    let server = Server::start();
    let data = server.data();
    for user in ["", "system", "userId", "*", "a\nb"] {
        let output =
            bounded_output(server.command(&["token", "--user", user, "--data", data.to_str().expect("a UTF-8 path")]));
        assert!(!output.status.success() && output.stdout.is_empty(), "{user:?}");
    }
}

// --- config

#[test]
fn config_shows_what_is_in_effect_and_where_it_came_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kalamdb.toml");
    std::fs::write(
        &file,
        "[server]\nport = 9999\njwt_secret = \"a secret that nobody may see, in a file\"\n\n[query]\nmax_rows = 77\n",
    )
    .expect("a file");
    let server = Server::start();
    let mut command = server.command(&["config", "--config", file.to_str().expect("a UTF-8 path")]);
    command.env("KALAMDB_QUERY__TIMEOUT_SECONDS", "12");
    let text = stdout(&bounded_output(command));
    let line =
        |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in:\n{text}"));
    assert!(line("port").contains("9999") && line("port").contains("kalamdb.toml"), "{text}");
    assert!(line("max_rows").contains("77"), "{text}");
    let timeout = line("timeout_seconds");
    assert!(timeout.contains("12") && timeout.contains("KALAMDB_QUERY__TIMEOUT_SECONDS"), "{text}");
    assert!(line("default_type").contains("ai"), "{text}");
    assert!(!text.contains("nobody may see"), "the secret is shown:\n{text}");
}

/// With other values than the defaults, which would be shown whether or not the file is read.
#[test]
fn every_key_of_the_founding_document_is_read() {
    let founding = r#"
[server]
host = "127.0.0.2"
port = 8081
jwt_secret = "a secret of at least thirty-two bytes, for tests"

[message]
large_message_threshold_bytes = 102401

[storage]
base_storage_path = "/var/lib/kalamdb-of-a-test"

[rocksdb]
write_buffer_size_mb = 65
max_background_jobs = 5

[consolidation]
interval_seconds = 301
messages_threshold = 10001

[query]
timeout_seconds = 31
max_rows = 10001
enable_cache = false

[conversations]
default_type = "group"
max_group_participants = 101

[deletion]
soft_delete_enabled = false
soft_delete_retention_days = 31
compaction_interval_hours = 25
"#;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("founding.toml");
    std::fs::write(&file, founding).expect("a file");
    let server = Server::start();
    let text = stdout(&bounded_output(server.command(&["config", "--config", file.to_str().expect("a UTF-8 path")])));
    for (number, line) in founding.lines().enumerate() {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let value = if key == "jwt_secret" { "" } else { value };
        let origin = format!("founding.toml, line {}", number + 1);
        let shown = |shown: &&str| shown.starts_with(&format!("{key} = {value}")) && shown.ends_with(&origin);
        assert!(text.lines().any(|line| shown(&line)), "no {line} of line {} in:\n{text}", number + 1);
    }
}

#[test]
fn a_mistake_in_the_config_is_named_with_its_line() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrong.toml");
    for (text, line, named) in [
        ("[server]\nport = 8080\nprot = 1\n", 3, "prot"),
        ("[server]\n\n\nport = \"many\"\n", 4, "port"),
        ("[server]\nport = 70000\n", 2, "port"),
        ("[query]\nmax_rows = 10\ntimeout_seconds = 0\n", 3, "timeout_seconds"),
        ("[query]\nenable_cache = 1\n", 2, "enable_cache"),
        ("[consolidation]\nmessages_threshold = -1\n", 2, "messages_threshold"),
        ("[conversations]\ndefault_type = \"crowd\"\n", 2, "default_type"),
        ("[rocksdb]\ndurability = \"maybe\"\n", 2, "durability"),
        ("\n[sever]\nport = 1\n", 3, "sever"),
        ("[server\n", 1, "toml"),
    ] {
        std::fs::write(&file, text).expect("a file");
        for command in ["serve", "config"] {
            let mut call = server.command(&[command, "--config", file.to_str().expect("a UTF-8 path")]);
            if command == "serve" {
                call.args(["--data", folder.path().to_str().expect("a UTF-8 path")]);
            }
            let output = bounded_output(call);
            let said = stderr(&output);
            assert!(!output.status.success(), "{command} takes {text:?}");
            assert!(said.contains(&format!("line {line}")) || said.contains(&format!(":{line}")), "{text:?}: {said}");
            assert!(said.contains(named), "{text:?}: {said}");
        }
    }
}

#[test]
fn a_mistake_in_the_environment_is_named() {
    let server = Server::start();
    for (name, value) in
        [("KALAMDB_SERVER__PROT", "1"), ("KALAMDB_QUERY__MAX_ROWS", "many"), ("KALAMDB_QUERY__TIMEOUT_SECONDS", "0")]
    {
        let mut command = server.command(&["config"]);
        command.env(name, value);
        let output = bounded_output(command);
        let said = stderr(&output);
        let key = name.rsplit("__").next().expect("a key").to_lowercase();
        assert!(!output.status.success() && said.to_lowercase().contains(&key), "{name}: {said}");
    }
}

#[test]
fn a_config_that_is_not_there_is_named() {
    let server = Server::start();
    let output = bounded_output(server.command(&["config", "--config", "no-such.toml"]));
    assert!(!output.status.success() && stderr(&output).contains("no-such.toml"), "{}", stderr(&output));
}

// --- serve

#[test]
fn a_folder_is_served_once() {
    let server = Server::start();
    let data = server.data();
    let mut command = server.command(&["serve", "--data", data.to_str().expect("a UTF-8 path")]);
    command.env("KALAMDB_SERVER__PORT", "0");
    let output = bounded_output(command);
    assert!(!output.status.success(), "two servers on one folder");
    assert!(!stderr(&output).is_empty());
    assert_eq!(server.client("amy").number("SELECT 1"), 1);
}

#[test]
fn version_and_help_are_there() {
    let server = Server::start();
    assert!(stdout(&bounded_output(server.command(&["--version"]))).contains(env!("CARGO_PKG_VERSION")));
    let help = stdout(&bounded_output(server.command(&["--help"])));
    for command in ["serve", "token", "demo", "import", "sql", "config"] {
        assert!(help.contains(command), "no {command} in:\n{help}");
    }
}

// --- demo

/// The demo loads its sample once, and the curl lines that it prints work when pasted.
#[test]
fn the_demo_loads_a_sample_and_prints_lines_that_work() {
    let server = Server::start();
    let port = server.url().rsplit_once(':').expect("a port").1.to_owned();
    let data = server.data();
    let demo = || {
        let mut command = server.command(&["demo", "--data", data.to_str().expect("a UTF-8 path")]);
        command.env("KALAMDB_SERVER__PORT", &port);
        stdout(&bounded_output(command))
    };
    let printed = demo();
    let count = server.admin().number("SELECT COUNT(*) FROM *.messages");
    assert!(count > 0);
    demo();
    assert_eq!(server.admin().number("SELECT COUNT(*) FROM *.messages"), count, "the demo loads its sample once");
    let lines = curl_lines(&printed);
    assert!(!lines.is_empty(), "{printed}");
    for line in lines {
        let mut command = Command::new("bash");
        command.args(["-c", &line]);
        let output = bounded_output(command);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line}: {output:?}"));
        assert!(answer.get("error").is_none(), "{line}: {answer}");
    }
}

/// The curl commands in a text, each on one line.
fn curl_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined.lines().map(str::trim).filter(|line| line.starts_with("curl ")).map(str::to_owned).collect()
}
