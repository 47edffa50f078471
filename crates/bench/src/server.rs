//! A `kalamdb` process of our own, in a folder of its own.
//!
//! Invariant: what is measured is the program as users run it: started by its command line, configured by its
//! environment, reached by HTTP. It is gone when the value is.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{Failure, http::Target};

/// The program and the folder that the servers of this run live in.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The `kalamdb` binary.
    pub path: PathBuf,
    /// The folder in which each server gets one of its own.
    pub folder: PathBuf,
}

/// A server that runs.
pub(crate) struct Server {
    program: Program,
    data: PathBuf,
    child: Child,
    address: String,
}

/// A user of a server.
pub(crate) struct User<'a> {
    /// The user's id.
    pub id: &'a str,
    /// Whether to have the role admin.
    pub admin: bool,
}

impl Program {
    /// Starts a server on an empty folder of that name, with some settings changed (`rocksdb.durability`).
    pub(crate) fn start(&self, name: &str, settings: &[(&str, &str)]) -> Result<Server, Failure> {
        let data = self.folder.join(name);
        fs::create_dir_all(&data)?;
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        let mut command = self.command(&data);
        for (key, value) in settings {
            command.env(format!("KALAMDB_{}", key.to_uppercase().replace('.', "__")), value);
        }
        let mut child = command
            .arg("serve")
            .arg("--data")
            .arg(&data)
            .args(["--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| Failure::new(format!("{} does not start: {error}", self.path.display())))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // The server writes this one line when it answers, and ends without it when it cannot.
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once(',')).map(|(address, _)| address);
        let Some(address) = address.map(str::to_owned) else {
            child.kill()?;
            child.wait()?;
            let log = fs::read_to_string(self.folder.join(format!("{name}.log")))?;
            return Err(Failure::new(format!("the server did not start: {}", log.trim())));
        };
        Ok(Server { program: self.clone(), data, child, address })
    }

    /// The program, in its folder, with nothing of our environment that it would take for a setting.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(folder);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KALAMDB_") {
                command.env_remove(name);
            }
        }
        command
    }
}

impl Server {
    /// The server as that user reaches it.
    pub(crate) fn target(&self, user: &User<'_>) -> Result<Target, Failure> {
        let token = self.run(|command| {
            command.args(["token", "--user", user.id, "--ttl", "12h"]);
            if user.admin {
                command.args(["--role", "admin"]);
            }
            command.arg("--data").arg(&self.data)
        })?;
        Ok(Target { address: self.address.clone(), token: token.trim().to_owned() })
    }

    /// Imports files with the program's own command.
    pub(crate) fn import(&self, files: &[PathBuf]) -> Result<(), Failure> {
        let url = format!("http://{}", self.address);
        self.run(|command| command.arg("import").args(files).args(["--url", &url]).arg("--data").arg(&self.data))?;
        Ok(())
    }

    fn run(&self, arguments: impl FnOnce(&mut Command) -> &mut Command) -> Result<String, Failure> {
        let mut command = self.program.command(&self.data);
        let output = arguments(&mut command).stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Failure::new(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }

    /// The data folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Memory that the process has in RAM, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: u64| kib * 1024).ok_or_else(|| Failure::new("the system does not say how much memory is used"))
    }

    /// Ends the server as an operator would.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(Failure::new(format!("the server ended with {status}"))) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` it is gone already, which is what both of these want.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Bytes and number of the files below a folder whose name ends so.
pub(crate) fn files_below(folder: &Path, ending: &str) -> Result<(u64, u64), Failure> {
    let (mut bytes, mut count) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(ending) {
                bytes += metadata.len();
                count += 1;
            }
        }
    }
    Ok((bytes, count))
}
