//! A headless Chromium with one page, driven over its `DevTools` protocol.
//!
//! Invariant: waits for what the browser says and what the page becomes, never for time; the browser is gone when the
//! value is.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::live::{PATIENCE, wait};

/// What the program is called, here and there.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Nothing but the page: no sandbox (tests run as root in containers), no graphics, no talk with anybody.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// More than a browser goes through before it is at the one that it was sent to.
const MAX_PAGES: usize = 10;

/// A browser and its page.
pub struct Browser {
    process: Child,
    _profile: TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The page's, in the protocol.
    session: Option<String>,
    calls: u64,
}

impl Browser {
    /// Starts a browser and opens that address in it.
    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new(program())
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let address = listens_on(process.stderr.take().expect("stderr is piped"));
        let (socket, _) = wait("answer of the browser", connect_async(address)).expect("the browser answers");
        let mut browser = Self { process, _profile: profile, socket, session: None, calls: 0 };
        let page = browser.demand("Target.createTarget", &json!({ "url": "about:blank" }))["targetId"].clone();
        let attach = json!({ "targetId": page, "flatten": true });
        let session = browser.demand("Target.attachToTarget", &attach)["sessionId"].clone();
        browser.session = Some(session.as_str().expect("a session").to_owned());
        browser.demand("Page.navigate", &json!({ "url": url }));
        browser.until("document.readyState === 'complete' && location.href !== 'about:blank'");
        browser
    }

    /// What an expression comes to in the page; a promise is waited for.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).unwrap_or_else(|error| panic!("{error} in {expression}"))
    }

    /// Waits until a condition holds in the page, which looks whenever it changes.
    #[track_caller]
    pub fn until(&mut self, condition: &str) {
        let promise = format!(
            "new Promise((done) => {{
                const look = () => {{ if ({condition}) {{ observer.disconnect(); done(true); }} }};
                const observer = new MutationObserver(look);
                observer.observe(document, {{ attributes: true, characterData: true, childList: true, subtree: true }});
                addEventListener('load', look);
                look();
            }})"
        );
        // A page that is left takes its promises with it; then the one that follows is asked.
        let came = (0..MAX_PAGES).any(|_| self.try_evaluate(&promise).is_ok());
        assert!(came, "there is no page any more that could come to {condition}");
    }

    fn try_evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &parameters)?;
        assert!(answer["exceptionDetails"].is_null(), "{} in {expression}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    fn demand(&mut self, method: &str, parameters: &Value) -> Value {
        self.call(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Calls a method of the protocol and waits for what it answers; events in between are of no interest.
    fn call(&mut self, method: &str, parameters: &Value) -> Result<Value, Value> {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        let (socket, id) = (&mut self.socket, self.calls);
        wait(method, async {
            socket.send(Message::text(call.to_string())).await.expect("the browser is there");
            loop {
                let said = socket.next().await.expect("the browser is there").expect("it speaks");
                let Ok(text) = said.to_text() else { continue };
                let Ok(said) = serde_json::from_str::<Value>(text) else { continue };
                if said["id"] == id {
                    return if said["error"].is_null() {
                        Ok(said["result"].clone())
                    } else {
                        Err(said["error"].clone())
                    };
                }
            }
        })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    let found = programs.find(|program| program.is_file());
    found.expect("there is no Chromium on this machine, and this test needs one: `scripts/tools.sh tests` installs it")
}

/// The address that the browser says it can be driven at.
fn listens_on(stderr: ChildStderr) -> String {
    let (said, address) = mpsc::channel();
    thread::spawn(move || {
        // Read to the end, so that the pipe never fills up.
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("DevTools listening on ") {
                said.send(address.trim().to_owned()).ok();
            }
        }
    });
    address.recv_timeout(PATIENCE).expect("the browser says where it listens")
}
