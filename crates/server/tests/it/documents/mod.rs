//! README.md and docs/, run: every command, statement and program in them, in the order in which they stand.
//!
//! Invariant: a block that cannot be run says so and why, in the document; the examples know no other world than the one
//! that the document describes.

mod architecture;
mod blocks;
mod terminal;

use std::{
    fs,
    io::Cursor,
    net::TcpListener,
    path::{Path, PathBuf},
};

use image::{ImageFormat, RgbImage};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use self::{
    blocks::{Block, Mark, blocks, prompted, statements},
    terminal::{Terminal, read},
};
use crate::harness::{Events, Server, bounded_output, eventually};

/// Where documents say that the server is.
const ADDRESS: &str = "127.0.0.1:8080";

/// The documents that begin without a server, because they start one.
const STARTERS: [&str; 2] = ["README.md", "docs/operations.md"];

/// Those that have a test of their own below.
const NAMED: [&str; 7] = [
    "README.md",
    "docs/live.md",
    "docs/media.md",
    "docs/migration.md",
    "docs/operations.md",
    "docs/quickstart.md",
    "docs/sql.md",
];

/// What stands for a value where a statement has a parameter: the shell binds none.
const PARAMETERS: [(&str, &str); 1] = [("msgId < $1", "msgId < 9007199254740991")];

#[test]
fn readme_md() {
    Document::open("README.md").run();
}

#[test]
fn live_md() {
    Document::open("docs/live.md").run();
}

#[test]
fn media_md() {
    Document::open("docs/media.md").run();
}

#[test]
fn migration_md() {
    Document::open("docs/migration.md").run();
}

#[test]
fn operations_md() {
    Document::open("docs/operations.md").run();
}

#[test]
fn quickstart_md() {
    Document::open("docs/quickstart.md").run();
}

#[test]
fn sql_md() {
    Document::open("docs/sql.md").run();
}

#[test]
fn the_other_documents() {
    let others = documents().into_iter().filter(|name| !NAMED.contains(&name.as_str()));
    for name in others {
        Document::open(&name).run();
    }
}

/// Links between the documents lead somewhere, to a file and to a heading in it.
#[test]
fn links_lead_somewhere() {
    for name in documents() {
        let path = project().join(&name);
        let text = fs::read_to_string(&path).expect("a document");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{name}: {link} is not there");
            if let Some(heading) = heading {
                let text = fs::read_to_string(&target).expect("a document");
                assert!(text.lines().any(|line| anchor(line) == heading), "{name}: no heading {link}");
            }
        }
    }
}

/// Every document of the project, by its path.
fn documents() -> Vec<String> {
    let mut names = vec!["ARCHITECTURE.md".to_owned(), "README.md".to_owned()];
    for entry in fs::read_dir(project().join("docs")).expect("docs") {
        let name = entry.expect("an entry").file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            names.push(format!("docs/{}", name.to_string_lossy()));
        }
    }
    names
}

/// What a heading is called in a link.
fn anchor(line: &str) -> String {
    let heading = line.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    if line.starts_with('#') { kept.collect::<String>().replace(' ', "-") } else { String::new() }
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

/// A document, and where its reader is.
struct Document {
    name: String,
    terminal: Terminal,
    folder: PathBuf,
    address: String,
    /// What the last `kalamdb sql` said of who is asking.
    identity: String,
    /// What was left running, and what it prints.
    running: Option<PathBuf>,
    /// What the command or the statements before printed.
    printed: String,
    /// Both go at the end, the server first.
    server: Option<Server>,
    _folder: Option<TempDir>,
}

impl Document {
    /// The reader is in an empty folder, and starts the server; or there is one with the sample.
    fn open(name: &str) -> Self {
        let starts = STARTERS.contains(&name);
        let (own, server) = if starts {
            (Some(tempfile::tempdir().expect("a temporary folder")), None)
        } else {
            (None, Some(with_sample()))
        };
        let folder = own.as_ref().map(|folder| folder.path().to_owned());
        let folder = folder.or_else(|| Some(server.as_ref()?.data().parent()?.to_owned())).expect("a folder");
        let address = server.as_ref().map_or_else(free_address, |server| server.url().replace("http://", ""));
        fs::write(folder.join("loop.jpg"), picture()).expect("a picture");
        let terminal = terminal(name, &folder, &address);
        let identity = "--user user_john".to_owned();
        let (running, printed) = (None, String::new());
        Self { name: name.to_owned(), terminal, folder, address, identity, running, printed, server, _folder: own }
    }

    /// Runs it all.
    fn run(mut self) {
        let text = fs::read_to_string(project().join(&self.name)).expect("the document");
        for mut block in blocks(&text) {
            block.text = block.text.replace(ADDRESS, &self.address);
            match (block.mark, block.language.as_str()) {
                (Mark::NotRun, _) => {}
                (Mark::GoesOn, _) => self.leave_running(&block),
                (Mark::Shown, _) => self.shown_by_what_goes_on(&block),
                (Mark::Subscriptions, _) => self.subscribe(&block),
                _ if block.file.is_some() => self.write(&block),
                (_, "console" | "bash" | "sh") => self.commands(&block),
                (_, "sql") => self.statements(&block),
                (_, "json") => self.json(&block),
                (_, "") if block.adjacent => self.shown(&block),
                // Pictures, and parts of something.
                _ => {}
            }
        }
        if self.running.is_some() {
            self.terminal.close();
        }
    }

    fn at(&self, block: &Block) -> String {
        format!("{}, the block at line {}", self.name, block.line)
    }

    fn write(&self, block: &Block) {
        let file = block.file.as_ref().expect("a name");
        fs::write(self.folder.join(file), &block.text).expect("it is written");
    }

    fn commands(&mut self, block: &Block) {
        for one in prompted(block) {
            let mut command = one.command.clone();
            if let Some(who) = shell_identity(&command) {
                // A person's shell wants a terminal; this one leaves at once.
                who.clone_into(&mut self.identity);
                command = format!("script -qec '{command}' /dev/null <<<'\\q'");
            }
            let (status, printed) = self.terminal.run(&command);
            self.printed = printed;
            let fails = one.expected.iter().any(|line| line.starts_with("kalamdb: ") || line.contains("\"error\":"));
            assert_eq!(status != 0, fails, "{}: {}\n{}", self.at(block), one.command, self.printed);
            self.expect(block, &one.expected);
        }
    }

    fn leave_running(&mut self, block: &Block) {
        let [one] = prompted(block).try_into().unwrap_or_else(|_| panic!("{}: one command", self.at(block)));
        let file = self.terminal.leave_running(&one.command);
        eventually(&format!("{} shows what it should", self.at(block)), || {
            !read(&file).is_empty() && missing(&one.expected, &read(&file)).is_none()
        });
        self.running = Some(file);
    }

    fn shown_by_what_goes_on(&self, block: &Block) {
        let file = self.running.as_ref().unwrap_or_else(|| panic!("{}: nothing goes on", self.at(block)));
        let lines: Vec<String> = block.text.lines().map(str::to_owned).collect();
        eventually(&format!("{} is shown", self.at(block)), || missing(&lines, &read(file)).is_none());
    }

    fn statements(&mut self, block: &Block) {
        let mut text = block.text.clone();
        for (parameter, value) in PARAMETERS {
            text = text.replace(parameter, value);
        }
        self.printed = String::new();
        for (sql, admin) in statements(&text) {
            let who = if admin { "" } else { &self.identity };
            fs::write(self.folder.join("statement.sql"), &sql).expect("it is written");
            let (status, printed) = self.terminal.run(&format!("kalamdb sql {who} 0<statement.sql"));
            assert_eq!(status, 0, "{}: {sql}\n{printed}", self.at(block));
            self.printed += &printed;
        }
    }

    fn subscribe(&self, block: &Block) {
        let client = self.server.as_ref().expect("a server").client("user_john");
        for (sql, _) in statements(&block.text) {
            let parameters = if sql.contains("$1") { "&params=%5B%22conv_123%22%5D" } else { "" };
            let sql = utf8_percent_encode(sql.trim().trim_end_matches(';'), NON_ALPHANUMERIC);
            Events::open(&client, &format!("/api/v1/live?sql={sql}{parameters}"), &[]).expect("subscribe_ack");
        }
    }

    /// JSON is JSON, or a line of it each; right after a command it has the form of what that answered.
    fn json(&self, block: &Block) {
        let whole = serde_json::from_str::<Value>(&block.text).map(|value| vec![value]);
        let lines = || block.text.lines().map(serde_json::from_str).collect();
        let shown: Vec<Value> =
            whole.or_else(|_| lines()).unwrap_or_else(|error: serde_json::Error| panic!("{}: {error}", self.at(block)));
        if block.adjacent {
            let answer = serde_json::from_str::<Value>(&self.printed)
                .unwrap_or_else(|_| panic!("{}: no JSON: {}", self.at(block), self.printed));
            assert_eq!(form(&shown[0]), form(&answer), "{}: {answer}", self.at(block));
        }
    }

    /// What the statements before it answer.
    fn shown(&self, block: &Block) {
        let lines: Vec<String> = block.text.lines().map(str::to_owned).collect();
        self.expect(block, &lines);
    }

    fn expect(&self, block: &Block, lines: &[String]) {
        if let Some(line) = missing(lines, &self.printed) {
            panic!("{}: no line\n{line}\nin\n{}", self.at(block), self.printed);
        }
    }
}

/// A server that has the sample.
fn with_sample() -> Server {
    let server = Server::start();
    let port = server.url().rsplit_once(':').expect("a port").1.to_owned();
    let mut demo = server.command(&["demo"]);
    demo.env("KALAMDB_SERVER__PORT", port);
    let output = bounded_output(demo);
    assert!(output.status.success(), "kalamdb demo: {}", String::from_utf8_lossy(&output.stderr));
    server
}

/// An address where nobody listens, as far as one can know.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// The terminal of a reader who has the program: as `./kalamdb` after a build, which README.md is about, else installed.
fn terminal(name: &str, folder: &Path, address: &str) -> Terminal {
    let bin = folder.join(if name == "README.md" { "." } else { ".bin" });
    fs::create_dir_all(&bin).expect("a folder");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kalamdb"), bin.join("kalamdb")).expect("a link");
    let mut path = std::env::var("PATH").expect("a PATH");
    if name != "README.md" {
        path = format!("{}:{path}", bin.display());
    }
    let port = address.rsplit_once(':').expect("a port").1;
    let project = project();
    let python = std::env::var("KALAMDB_PYTHON")
        .unwrap_or_else(|_| format!("{}/.cache/kalamdb-venv/bin/python", std::env::var("HOME").unwrap_or_default()));
    let variables = [
        ("PATH", path.as_str()),
        ("KALAMDB_SERVER__PORT", port),
        ("PROJECT", project.to_str().expect("a UTF-8 path")),
        ("DUCKDB_PYTHON", &python),
    ];
    Terminal::open(folder, &variables)
}

/// Who is asking, if that command opens a shell for a person.
fn shell_identity(command: &str) -> Option<&str> {
    let arguments = command.trim_start_matches("./").strip_prefix("kalamdb sql")?;
    let for_a_person = !["-c", "-f", "<", "|"].iter().any(|part| arguments.contains(part));
    for_a_person.then_some(arguments)
}

/// The first line that does not follow the others in the text. `…` in it stands for anything.
fn missing<'a>(lines: &'a [String], text: &str) -> Option<&'a String> {
    let mut printed = text.lines();
    lines
        .iter()
        .filter(|line| !line.trim().is_empty())
        .find(|line| !printed.any(|found| is_like(found.trim(), line.trim())))
}

fn is_like(found: &str, line: &str) -> bool {
    let mut rest = found;
    let parts: Vec<&str> = line.split('…').map(str::trim).collect();
    let [first, .., last] = parts.as_slice() else { return found == line };
    if !found.starts_with(first) || !found.ends_with(last) {
        return false;
    }
    parts.iter().all(|part| {
        let place = rest.find(part);
        rest = place.map_or("", |place| &rest[place + part.len()..]);
        place.is_some()
    })
}

/// A value with its names, and of everything else only what it is.
fn form(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), form(value))).collect(),
        Value::Array(items) => items.first().map(form).into_iter().collect(),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) | Value::Null => value.clone(),
    }
}

/// A picture with sides that are worth a thumbnail.
fn picture() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::new(640, 480).write_to(&mut bytes, ImageFormat::Jpeg).expect("a picture");
    bytes.into_inner()
}

#[test]
fn lines_are_found_in_order() {
    let lines = |text: &[&str]| text.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let text = "one\ntwo 2 and 3\nthree\n";
    assert_eq!(missing(&lines(&["one", "three"]), text), None);
    assert_eq!(missing(&lines(&["two … and …"]), text), None);
    assert_eq!(missing(&lines(&["three", "one"]), text).map(String::as_str), Some("one"));
    assert_eq!(missing(&lines(&["two … or …"]), text).map(String::as_str), Some("two … or …"));
    assert_eq!(missing(&lines(&["tw"]), text).map(String::as_str), Some("tw"));
}
