//! The `kalamdb` process of one test, in a folder of its own.
//!
//! Invariant: the process is gone when the value is, and a test that fails shows what the server wrote.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, RwLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::Client;

/// How long the server may take to start or stop before the test gives up: generous, because a loaded machine
/// must not fail a test.
const PATIENCE: Duration = Duration::from_mins(1);

/// One server and its folder.
pub struct Server {
    folder: TempDir,
    settings: Vec<(String, String)>,
    process: Option<Child>,
    address: Arc<RwLock<String>>,
    tokens: Mutex<HashMap<(String, bool), String>>,
    /// The size of a file system of its own.
    disk_mib: Option<usize>,
}

impl Server {
    /// A server with the default settings, in an empty folder.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A server with some settings (`("query.max_rows", "5")`) that differ from the default.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        Self::over(settings, |_| {})
    }

    /// The same, over a base path that somebody fills first.
    pub fn over(settings: &[(&str, &str)], fill: impl FnOnce(&Path)) -> Self {
        let mut server = Self::stopped(settings);
        fill(server.folder.path());
        server.spawn();
        server
    }

    fn stopped(settings: &[(&str, &str)]) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            process: None,
            address: Arc::default(),
            tokens: Mutex::default(),
            disk_mib: None,
        }
    }

    /// A server whose base path is a file system of its own with room for so many MiB, gone with the process; `None` where
    /// nobody may mount one. It needs a secret among its settings, since the folder is seen by the process alone.
    pub fn on_disk_of(mib: usize, settings: &[(&str, &str)]) -> Option<Self> {
        let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
        if !probe.is_ok_and(|probe| probe.status.success()) {
            return None;
        }
        let mut server = Self::stopped(settings);
        std::fs::create_dir(server.data()).expect("the folder to mount on");
        server.disk_mib = Some(mib);
        server.spawn();
        Some(server)
    }

    /// The base path of [`Server::on_disk_of`], as it is seen from outside.
    pub fn disk(&self) -> PathBuf {
        let data = self.data();
        Path::new("/proc")
            .join(self.pid().to_string())
            .join("root")
            .join(data.strip_prefix("/").expect("an absolute path"))
    }

    /// Starts the process again, on the same folder; clients follow it to its new address.
    pub fn restart(&mut self) {
        self.stop();
        self.spawn();
    }

    /// Starts a process that was stopped or killed.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the server is running already");
        let log = File::options().create(true).append(true).open(self.log()).expect("the server's log");
        let mut command = self.command(&["serve"]);
        command.args(["--data", self.data().to_str().expect("a UTF-8 path")]);
        if let Some(mib) = self.disk_mib {
            command = self.on_a_disk(&command, mib);
        }
        let mut child = command
            .env("KALAMDB_SERVER__PORT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the kalamdb binary starts");
        let (said, first_line) = mpsc::channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Only the first line is waited for; the rest is read so that the pipe never fills up.
                said.send(line).ok();
            }
        });
        self.process = Some(child);
        let line = first_line.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no first line from the server"));
        let address = line
            .split_once("listens on ")
            .and_then(|(_, rest)| rest.split_once(','))
            .map_or_else(|| panic!("no address in {line:?}"), |(address, _)| address);
        assert!(line.starts_with("KalamDB ") && line.contains(", data in "), "{line:?}");
        address.clone_into(&mut self.address.write().expect("nobody panics while holding it"));
    }

    /// Ends the process as an operator would, and waits until it is gone.
    pub fn stop(&mut self) {
        let child = self.process.take().expect("the server is running");
        signal("TERM", child.id());
        let status = wait(child);
        assert!(status.success(), "the server ended with {status}");
    }

    /// Kills the process, as a crash would.
    pub fn kill9(&mut self) {
        let mut child = self.process.take().expect("the server is running");
        child.kill().expect("the server is killed");
        wait(child);
    }

    /// A client with a user's token.
    pub fn client(&self, user: &str) -> Client {
        Client::new(self.address.clone(), Some(self.token(user, false)))
    }

    /// A client with an admin's token.
    pub fn admin(&self) -> Client {
        Client::new(self.address.clone(), Some(self.token("root", true)))
    }

    /// A client with a token of its own choosing, or none.
    pub fn client_with_token(&self, token: Option<&str>) -> Client {
        Client::new(self.address.clone(), token.map(str::to_owned))
    }

    /// A token as the command line mints it; each is minted once.
    pub fn token(&self, user: &str, admin: bool) -> String {
        let mut tokens = self.tokens.lock().expect("nobody panics while holding it");
        tokens.entry((user.to_owned(), admin)).or_insert_with(|| self.mint(user, admin)).clone()
    }

    fn mint(&self, user: &str, admin: bool) -> String {
        let data = self.data();
        let mut arguments = vec!["token", "--user", user, "--data", data.to_str().expect("a UTF-8 path")];
        if admin {
            arguments.extend(["--role", "admin"]);
        }
        let output = bounded_output(self.command(&arguments));
        assert!(output.status.success(), "kalamdb token: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a token is ASCII").trim().to_owned()
    }

    /// Where the server listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.address.read().expect("nobody panics while holding it").clone()
    }

    /// The base path, with the owners' folders and `.kalamdb`.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server is running").id()
    }

    /// The command within a file system that is mounted for it; it stays the same process.
    fn on_a_disk(&self, command: &Command, mib: usize) -> Command {
        let mount = r#"mount -t tmpfs -o size="$1"m tmpfs "$2" && shift 2 && exec "$@""#;
        let mut mounted = Command::new("unshare");
        mounted.args(["-rm", "sh", "-c", mount, "sh", &mib.to_string()]).arg(self.data());
        mounted.arg(command.get_program()).args(command.get_args()).current_dir(self.folder.path());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => mounted.env(name, value),
                None => mounted.env_remove(name),
            };
        }
        mounted
    }

    /// A call of the binary with this server's settings, in a folder that has no config file.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.folder.path(), arguments);
        for (key, value) in &self.settings {
            command.env(format!("KALAMDB_{}", key.to_uppercase().replace('.', "__")), value);
        }
        command
    }

    /// Runs `kalamdb <arguments> --url <this server>` with an admin's token, and answers when it ended.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        bounded_output(self.cli_command(arguments))
    }

    /// What [`Server::cli`] runs, not started yet.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.args(["--url", &self.url(), "--token", &self.token("root", true)]);
        command
    }

    /// The `.parquet` files of the base path, relative to it, sorted.
    pub fn segment_files(&self) -> Vec<String> {
        let mut files = Vec::new();
        collect_segments(&self.data(), &self.data(), &mut files);
        files.sort();
        files
    }

    /// The names in the folder where uploads arrive.
    pub fn spooled(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.data().join(".kalamdb/spool")).expect("the spool");
        names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// What the server has written on standard error so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).expect("the server's log")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may be dead already, which is what this is for.
            child.kill().ok();
            child.wait().ok();
        }
        if thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            // The end is where the reason stands; all of it would bury the failure itself.
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the server's stderr ends with ---\n{}\n---", tail.join("\n"));
        }
    }
}

/// The binary, in a folder, with nothing of this environment that it would take for a setting.
fn binary(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kalamdb"));
    command.args(arguments).current_dir(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KALAMDB_") {
            command.env_remove(name);
        }
    }
    command
}

fn collect_segments(base: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the base path") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with(".kalamdb") {
            collect_segments(base, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            let relative = path.strip_prefix(base).expect("it lies in the base path");
            files.push(relative.to_str().expect("a UTF-8 path").to_owned());
        }
    }
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("kill runs");
    assert!(status.success(), "no process {pid} to signal");
}

fn wait(mut child: Child) -> ExitStatus {
    let pid = child.id();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait()));
    end.recv_timeout(PATIENCE)
        .unwrap_or_else(|_| {
            signal("KILL", pid);
            panic!("the process did not end within {PATIENCE:?}")
        })
        .expect("it can be waited for")
}

/// Runs a command to its end, within bounds that no healthy one reaches.
pub fn bounded_output(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let pid = child.id();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    end.recv_timeout(4 * PATIENCE)
        .unwrap_or_else(|_| {
            signal("KILL", pid);
            panic!("{command:?} did not end within {:?}", 4 * PATIENCE)
        })
        .expect("it can be waited for")
}

/// Asks until the answer is yes; what only shows by asking (a process's CPU time, a folder's files) has no event.
#[track_caller]
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < until, "it never came to be that {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
