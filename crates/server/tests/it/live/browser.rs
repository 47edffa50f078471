//! `docs/live.html`, the page that app developers copy from, in a browser against the real server.
//!
//! Invariant: the page is opened as it lies there; what it shows is read from its document.

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, RwLock},
    thread,
};

use kalamdb_protocol::ConversationType;
use serde_json::{Value, json};

use super::server;
use crate::harness::{Browser, Client, Server, message};

/// An address that stays the same while the server behind it goes and comes back elsewhere.
struct Front {
    address: String,
    behind: Arc<RwLock<String>>,
}

impl Front {
    fn of(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let behind = Arc::new(RwLock::new(server.url()));
        let target = Arc::clone(&behind);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let url = target.read().expect("nobody panics while holding it").clone();
                // While there is no server, the client is let go.
                if let Ok(server) = TcpStream::connect(url.trim_start_matches("http://")) {
                    join(&client, &server);
                }
            }
        });
        Self { address, behind }
    }

    /// The server has come back.
    fn now_before(&self, server: &Server) {
        *self.behind.write().expect("nobody panics while holding it") = server.url();
    }
}

/// Passes on what each says to the other, until one of them has nothing more to say.
fn join(client: &TcpStream, server: &TcpStream) {
    let other = || (client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
    let ((client_in, server_out), (client_out, server_in)) = (other(), other());
    for (mut from, mut to) in [(client_in, server_out), (server_in, client_out)] {
        thread::spawn(move || {
            io::copy(&mut from, &mut to).ok();
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
        });
    }
}

/// The page, on amy's conversation `c`.
fn open(server: &Server, front: &Front) -> Browser {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/live.html");
    let page = std::fs::canonicalize(page).expect("the page");
    let token = server.token("amy", false);
    Browser::open(&format!("file://{}#server={}&token={token}&conversation=c", page.display(), front.address))
}

const TEXTS: &str = "[...document.querySelectorAll('#messages li')].map((item) => item.lastChild.textContent)";

/// Waits until the page shows as many messages as amy has, and holds them against hers.
fn shows_all(page: &mut Browser, amy: &Client) {
    let expected = amy.texts("SELECT content FROM messages ORDER BY msgId");
    page.until(&format!("document.querySelectorAll('#messages li').length >= {}", expected.len()));
    assert_eq!(page.evaluate(TEXTS), json!(expected));
    let frames = page.evaluate("document.getElementById('messages').dataset.frames");
    assert_eq!(frames, expected.len().to_string(), "each message came once");
}

fn is_live(page: &mut Browser) {
    page.until("document.getElementById('state').dataset.state === 'live'");
}

fn is_not_live(page: &mut Browser) {
    page.until("document.getElementById('state').dataset.state !== 'live'");
}

#[test]
fn the_page_shows_each_message_once_and_in_order_over_restarts() {
    let mut server = Server::start();
    let amy = server.client("amy");
    let front = Front::of(&server);
    amy.say("c", "before");
    let mut page = open(&server, &front);
    is_live(&mut page);
    shows_all(&mut page, &amy);
    for text in ["one", "<b>two</b> & \"three\"", "four"] {
        amy.say("c", text);
    }
    shows_all(&mut page, &amy);

    server.stop();
    is_not_live(&mut page);
    server.spawn();
    for number in 0..20 {
        amy.say("c", &format!("while the page was away {number}"));
    }
    front.now_before(&server);
    is_live(&mut page);
    shows_all(&mut page, &amy);
    amy.say("c", "live again");
    shows_all(&mut page, &amy);

    server.kill9();
    is_not_live(&mut page);
    server.spawn();
    amy.say("c", "after a crash");
    front.now_before(&server);
    is_live(&mut page);
    amy.say("c", "and on it goes");
    shows_all(&mut page, &amy);
}

#[test]
fn the_page_shows_edits_and_deletions_also_those_it_missed() {
    let mut server = server();
    let amy = server.client("amy");
    let front = Front::of(&server);
    for text in ["one", "two", "three"] {
        amy.say("c", text);
    }
    let mut page = open(&server, &front);
    is_live(&mut page);
    let showing = |page: &mut Browser, texts: Value| {
        page.until(&format!("JSON.stringify({TEXTS}) === JSON.stringify({texts})"));
    };
    amy.run("UPDATE messages SET content = 'ONE' WHERE content = 'one'");
    amy.run("DELETE FROM messages WHERE content = 'two'");
    showing(&mut page, json!(["ONE", "three"]));
    server.stop();
    is_not_live(&mut page);
    server.spawn();
    amy.run("UPDATE messages SET content = 'THREE' WHERE content = 'three'");
    amy.run("DELETE FROM messages WHERE content = 'ONE'");
    let mut four = message("c", "four");
    four.conversation_type = Some(ConversationType::Ai);
    amy.send(&four).expect("it is sent");
    front.now_before(&server);
    showing(&mut page, json!(["THREE", "four"]));
}

#[test]
fn the_page_begins_with_the_newest_and_has_earlier_ones_when_asked() {
    let mut server = Server::with(&[("server.cors_origins", "*")]);
    let amy = server.client("amy");
    let front = Front::of(&server);
    for number in 0..120 {
        amy.say("c", &number.to_string());
    }
    let mut page = open(&server, &front);
    is_live(&mut page);
    let showing = |page: &mut Browser, texts: &[String]| {
        page.until(&format!("JSON.stringify({TEXTS}) === JSON.stringify({})", json!(texts)));
    };
    let mut texts: Vec<String> = (70..120).map(|number| number.to_string()).collect();
    showing(&mut page, &texts);
    let frames = page.evaluate("document.getElementById('messages').dataset.frames");
    assert_eq!(frames, "0", "nothing is replayed");

    // What is edited before the page is not shown; what is edited on it is.
    amy.run("UPDATE messages SET content = 'old' WHERE content = '3'");
    amy.run("UPDATE messages SET content = 'new' WHERE content = '119'");
    amy.say("c", "120");
    *texts.last_mut().expect("there are some") = "new".to_owned();
    texts.push("120".to_owned());
    showing(&mut page, &texts);

    server.stop();
    is_not_live(&mut page);
    server.spawn();
    amy.run("DELETE FROM messages WHERE content IN ('5', '70')");
    amy.say("c", "121");
    front.now_before(&server);
    texts.remove(0);
    texts.push("121".to_owned());
    showing(&mut page, &texts);
    is_live(&mut page);

    for _ in 0..2 {
        let shown = page.evaluate("document.querySelectorAll('#messages li').length");
        page.evaluate("(document.getElementById('earlier').click(), true)");
        page.until(&format!("document.querySelectorAll('#messages li').length > {shown}"));
    }
    showing(&mut page, &amy.texts("SELECT content FROM messages ORDER BY msgId"));
    assert_eq!(page.evaluate("document.getElementById('earlier').hidden"), true);
}

#[test]
fn the_page_says_when_its_token_is_not_valid() {
    let server = server();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/live.html");
    let page = std::fs::canonicalize(page).expect("the page");
    let address = format!("file://{}#server={}&token=bad&conversation=c", page.display(), server.url());
    let mut page = Browser::open(&address);
    page.until("document.getElementById('state').dataset.state === 'stopped'");
    let sentence = page.evaluate("document.getElementById('state').textContent");
    assert_eq!(sentence, "The token is not valid (unauthorized: malformed). Get a new one.");
    assert_eq!(page.evaluate("location.hash"), "", "the token does not stay in the address");
}
