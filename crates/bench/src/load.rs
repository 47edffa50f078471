//! Load on an HTTP server, by `wrk`: N connections, each of which asks again when it has its answer.
//!
//! Invariant: the generator is not ours, so that it favours nobody, and it is one thread, so that a server has the other
//! core. Where an answer is not a success there is no figure, because a failing server is easily fast.

use std::{fmt::Write as _, path::PathBuf, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use crate::{
    Failure,
    data::{conversation_id, sentence},
    http::{Call, Target},
};

/// What the generator does; the data of one load stands before it.
const SCRIPT: &str = include_str!("load.lua");

/// The longest wait for an answer; the run ends so long after its time at the latest.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a template can leave open. Their places are those in `load.lua`.
const HOLES: [&str; 5] = ["{user}", "{conversation}", "{text}", "{message}", "{its conversation}"];

/// A request with holes, which are filled anew each time: `{user}` is who asks, `{conversation}` one of theirs, `{text}` a
/// sentence, `{message}` the id of a message there is, `{its conversation}` where that is.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    /// `POST`
    pub method: &'static str,
    /// `/api/v1/messages`
    pub path: String,
    /// The body, as JSON.
    pub body: Option<String>,
    /// How many of the users ask, the first ones.
    pub among: usize,
}

/// What the holes are filled with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fillings {
    /// Id and token.
    pub users: Vec<(String, String)>,
    /// The number of conversations that each of them has.
    pub conversations: u64,
    /// The number of messages in each.
    pub messages_each: u64,
    /// Ids of messages of the first user, and their conversations.
    pub messages: Vec<(String, String)>,
}

/// What came of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// In so many seconds.
    pub seconds: f64,
    /// The median time of one, in milliseconds; not every generator tells it.
    pub p50_ms: Option<f64>,
    /// The time that one in a hundred took longer than.
    pub p99_ms: Option<f64>,
}

/// What the script prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    requests: u64,
    micros: u64,
    p50_micros: u64,
    p99_micros: u64,
    failed: u64,
    refused: u64,
}

/// An HTTP server, and what it may be asked with.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// Host and port.
    pub address: String,
    /// What the holes of a request are filled with.
    pub fillings: Fillings,
    /// Where scripts can be put.
    pub folder: PathBuf,
}

impl Outcome {
    /// Requests per second.
    #[allow(clippy::cast_precision_loss)] // No run comes near 2^53 requests.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

impl Template {
    /// A `GET`, asked by the first user.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: None, among: 1 }
    }

    /// A request with a body, asked by the first user.
    pub(crate) fn with_body(method: &'static str, path: impl Into<String>, body: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: Some(body.into()), among: 1 }
    }
}

impl Door {
    /// The user of that number, as the door lets them in.
    pub(crate) fn target(&self, user: usize) -> Target {
        Target { address: self.address.clone(), token: self.fillings.users[user].1.clone() }
    }

    /// One request as the generator would make it, by the first user: an answer that says no says here why.
    pub(crate) fn example(&self, template: &Template) -> Call {
        let fill = |text: &str| {
            let message = self.fillings.messages.first().cloned().unwrap_or_default();
            let user = self.fillings.users.first().cloned().unwrap_or_default().0;
            let filled = [user, conversation_id(0), sentence(0), message.0, message.1];
            HOLES.iter().zip(filled).fold(text.to_owned(), |text, (hole, filled)| text.replace(hole, &filled))
        };
        Call { method: template.method, path: fill(&template.path), body: template.body.as_deref().map(fill) }
    }

    /// Asks so for so many seconds.
    pub(crate) async fn load(
        &self,
        template: &Template,
        in_flight: usize,
        seconds: u64,
        seed: u64,
    ) -> Result<Outcome, Failure> {
        let script = tempfile::Builder::new().suffix(".lua").tempfile_in(&self.folder)?;
        std::fs::write(script.path(), script_text(template, &self.fillings, seed))?;
        let running = Command::new("wrk")
            .args(["-t", "1", "-c", &in_flight.to_string(), "-d", &format!("{seconds}s")])
            .args(["--timeout", &format!("{}s", PATIENCE.as_secs()), "-s"])
            .arg(script.path())
            .arg(format!("http://{}", self.address))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(Duration::from_secs(seconds) + PATIENCE, running).await;
        let output = output.map_err(|_| Failure::new("wrk does not end"))?;
        let output =
            output.map_err(|error| Failure::new(format!("wrk cannot be run, `make peers` brings it: {error}")))?;
        outcome(&String::from_utf8_lossy(&output.stdout)).map_err(|Failure(why)| {
            let said = String::from_utf8_lossy(&output.stderr);
            Failure(format!("{} {}: {why} {}", template.method, template.path, said.trim()))
        })
    }
}

/// The script, with its data before it.
fn script_text(template: &Template, fillings: &Fillings, seed: u64) -> String {
    let pairs = |pairs: &[(String, String)]| {
        pairs.iter().fold(String::new(), |mut text, (one, two)| {
            let _ = write!(text, "{{{},{}}},", quoted(one), quoted(two));
            text
        })
    };
    format!(
        "users={{{}}}\nmessages={{{}}}\nconversations={}\nmethod={}\npath={{{}}}\nbody={}\namong={}\nseed={}\n{SCRIPT}",
        pairs(&fillings.users),
        pairs(&fillings.messages),
        fillings.conversations,
        quoted(template.method),
        parts(&template.path),
        template.body.as_deref().map_or_else(|| "nil".to_owned(), |body| format!("{{{}}}", parts(body))),
        template.among,
        // What LuaJIT's random numbers take for a seed is an integer of C.
        seed % (1 << 31),
    )
}

/// A text with holes as the list that the script fills: `a {user} b` is `"a ",1," b"`.
fn parts(text: &str) -> String {
    let hole = HOLES.iter().enumerate().filter_map(|(number, hole)| Some((text.find(hole)?, number, hole.len())));
    match hole.min() {
        None => quoted(text),
        Some((at, number, length)) => {
            format!("{},{},{}", quoted(&text[..at]), number + 1, parts(&text[at + length..]))
        }
    }
}

/// A text of Lua.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// The figures in what the generator prints.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn outcome(printed: &str) -> Result<Outcome, Failure> {
    let line = printed.lines().find_map(|line| line.strip_prefix("figures "));
    let line = line.ok_or_else(|| Failure::new("wrk told no figures."))?;
    let figures: Figures =
        serde_json::from_str(line).map_err(|error| Failure(format!("wrk's figures cannot be read ({error}).")))?;
    if figures.refused + figures.failed > 0 {
        return Err(Failure(format!(
            "of {} requests {} were refused and {} got no answer.",
            figures.requests, figures.refused, figures.failed
        )));
    }
    if figures.requests == 0 || figures.micros == 0 {
        return Err(Failure::new("no request was answered."));
    }
    Ok(Outcome {
        requests: figures.requests,
        seconds: figures.micros as f64 / 1e6,
        p50_ms: Some(figures.p50_micros as f64 / 1e3),
        p99_ms: Some(figures.p99_micros as f64 / 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "Running 1s test @ http://127.0.0.1:1\n  1 threads and 4 connections\n\
        Requests/sec:  2000.00\n\
        figures {\"requests\":2000,\"micros\":1000000,\"p50Micros\":510,\"p99Micros\":2500,\"failed\":0,\"refused\":0}\n";

    #[test]
    fn the_generator_s_figures_are_read() {
        let read = outcome(PRINTED).unwrap();
        assert_eq!(read, Outcome { requests: 2_000, seconds: 1.0, p50_ms: Some(0.51), p99_ms: Some(2.5) });
        assert!((read.rate() - 2_000.0).abs() < 1e-9);
    }

    #[test]
    fn a_refusal_or_a_lost_answer_is_a_failure() {
        let why = |printed: &str| outcome(printed).unwrap_err().0;
        assert_eq!(
            why(&PRINTED.replace("\"refused\":0", "\"refused\":3")),
            "of 2000 requests 3 were refused and 0 got no answer."
        );
        assert!(why(&PRINTED.replace("\"failed\":0", "\"failed\":1")).contains("1 got no answer"));
        assert_eq!(why(&PRINTED.replace("\"requests\":2000", "\"requests\":0")), "no request was answered.");
        assert_eq!(why("unable to connect\n"), "wrk told no figures.");
        assert!(why("figures {\"requests\":nan}\n").contains("cannot be read"));
    }

    #[test]
    fn holes_become_numbers_and_texts_stay_what_they_are() {
        assert_eq!(parts("plain \"text\"\\"), "\"plain \\\"text\\\"\\\\\"");
        assert_eq!(parts("{text}"), "\"\",3,\"\"");
        assert_eq!(parts("a {user} b {its conversation}, {conversation}"), "\"a \",1,\" b \",5,\", \",2,\"\"");
    }

    #[test]
    fn an_example_has_no_holes() {
        let fillings = Fillings {
            users: vec![("ann".into(), "token".into())],
            messages: vec![("7".into(), "conv00000000003".into())],
            ..Fillings::default()
        };
        let door = Door { address: String::new(), fillings, folder: PathBuf::new() };
        let call = door.example(&Template::with_body("PATCH", "/{its conversation}/{message}", "{user}: {text}"));
        assert_eq!((call.method, call.path.as_str()), ("PATCH", "/conv00000000003/7"));
        assert_eq!(call.body, Some(format!("ann: {}", sentence(0))));
    }
}
