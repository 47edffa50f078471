//! A terminal: one shell, in which one command after the other is run, as a reader pastes them.
//!
//! Invariant: every wait has a bound; what was started is told to end when the value goes.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

/// How long a command may take: that of a reader who begins to wonder, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_mins(2);

/// What stands in for what a reader has: curl fails where the server refuses, DuckDB is that of the tests, and what make
/// would build has been built. That its target is there is checked.
const PRELUDE: &str = r#"
curl() { command curl --silent --show-error --fail-with-body "$@"; }
duckdb() { "$DUCKDB_PYTHON" -c 'import duckdb, sys; print(duckdb.sql(sys.argv[2]))' "$@"; }
make() {
    command make --dry-run --no-print-directory --directory "$PROJECT" "$@" >/dev/null || return
    if [ "$1" = run ]; then exec "$PROJECT/scripts/run.sh" ./kalamdb; fi
}
"#;

/// A shell.
pub struct Terminal {
    shell: Child,
    keyboard: ChildStdin,
    said: Receiver<String>,
    /// Where what commands print goes, each in a file of its own.
    output: PathBuf,
    commands: usize,
}

impl Terminal {
    /// A shell in that folder, with these variables and nothing that KalamDB would take for a setting.
    pub fn open(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let output = folder.join(".printed");
        fs::create_dir_all(&output).expect("a folder for what is printed");
        let mut command = Command::new("bash");
        command.current_dir(folder).env("HOME", folder).env("TERM", "dumb");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KALAMDB_") || name.to_string_lossy().starts_with("MAKE") {
                command.env_remove(name);
            }
        }
        let piped = command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own, so that all of it can be told to end.
        let mut shell = piped.process_group(0).spawn().expect("bash starts");
        let keyboard = shell.stdin.take().expect("stdin is piped");
        let (say, said) = mpsc::channel();
        let stdout = shell.stdout.take().expect("stdout is piped");
        thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut terminal = Self { shell, keyboard, said, output, commands: 0 };
        terminal.type_in(PRELUDE);
        terminal
    }

    /// Runs a command to its end; answers its status and what it printed.
    pub fn run(&mut self, command: &str) -> (i32, String) {
        let file = self.start(command, "");
        self.type_in("echo \"ended $?\"\n");
        let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("it did not end in time, or the shell with it: {command}\n{}", read(&file));
        });
        let status = line.strip_prefix("ended ").and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{line}: what the shell should say is a status")), read(&file))
    }

    /// Starts a command that goes on; answers the file of what it prints.
    pub fn leave_running(&mut self, command: &str) -> PathBuf {
        self.start(command, "&")
    }

    /// Ends what was left running, and waits until it is gone.
    pub fn close(mut self) {
        let (status, printed) = self.run("kill $(jobs -p) && wait");
        assert!(status == 0 || status > 128, "{printed}");
    }

    fn start(&mut self, command: &str, then: &str) -> PathBuf {
        self.commands += 1;
        let file = self.output.join(self.commands.to_string());
        self.type_in(&format!("{{\n{command}\n}} >{} 2>&1 </dev/null {then}\n", file.display()));
        file
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("the shell is there");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // All of its group; what has ended needs no telling.
        Command::new("kill")
            .args(["-TERM", "--", &format!("-{}", self.shell.id())])
            .stderr(Stdio::null())
            .status()
            .ok();
        self.shell.wait().ok();
    }
}

/// What has been printed there so far.
pub fn read(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}
