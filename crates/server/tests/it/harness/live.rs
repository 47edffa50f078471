//! Live connections that block until they have what they wait for: a WebSocket, and a stream of events.
//!
//! Invariant: what comes is handed on as it came; a frame that is no JSON object fails the test here.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::client::{Answer, Client, RUNTIME};

/// How long something may take to come, before the test gives up: generous, because a loaded machine must not fail a
/// test.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// Little enough that a client that does not read is soon noticed.
const SMALL_BUFFER_BYTES: u32 = 4 * 1024;

/// A WebSocket to `/api/v1/ws`.
pub struct Live {
    socket: WebSocketStream<TcpStream>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The close frame's code; `None` when the connection broke off without one.
    pub code: Option<u16>,
    /// The close frame's reason.
    pub reason: String,
}

/// Waits for something of a connection, but not for ever.
pub(super) fn wait<T>(what: &str, future: impl Future<Output = T>) -> T {
    RUNTIME
        .block_on(async { tokio::time::timeout(PATIENCE, future).await })
        .unwrap_or_else(|_| panic!("within {PATIENCE:?} there was no {what}"))
}

impl Live {
    /// A connection with the client's token in its header; none when the server cannot be reached.
    pub fn try_connect(client: &Client) -> Option<Self> {
        let header = client.token().map(|token| format!("Bearer {token}"));
        Self::open(client, "/api/v1/ws", header.as_deref(), None)
    }

    /// The same, where the server is there.
    #[track_caller]
    pub fn connect(client: &Client) -> Self {
        Self::try_connect(client).expect("a WebSocket")
    }

    /// The same, with as little room for what is not read as the system allows.
    #[track_caller]
    pub fn connect_with_little_room(client: &Client) -> Self {
        let header = client.token().map(|token| format!("Bearer {token}"));
        Self::open(client, "/api/v1/ws", header.as_deref(), Some(SMALL_BUFFER_BYTES)).expect("a WebSocket")
    }

    /// A connection to that path, with that `Authorization` or none, whatever token the client has.
    #[track_caller]
    pub fn connect_to(client: &Client, path: &str, authorization: Option<&str>) -> Self {
        Self::open(client, path, authorization, None).expect("a WebSocket")
    }

    fn open(client: &Client, path: &str, authorization: Option<&str>, buffer_bytes: Option<u32>) -> Option<Self> {
        let url = client.url();
        let host = url.strip_prefix("http://")?;
        let mut request = format!("ws://{host}{path}").into_client_request().expect("a valid address");
        if let Some(value) = authorization {
            request.headers_mut().insert("authorization", value.parse().expect("a header's value"));
        }
        let address: SocketAddr = host.parse().expect("an address");
        wait("WebSocket", async {
            let socket = TcpSocket::new_v4().expect("a socket");
            if let Some(bytes) = buffer_bytes {
                socket.set_recv_buffer_size(bytes).expect("the size is set");
            }
            let stream = socket.connect(address).await.ok()?;
            let (socket, _) = client_async(request, stream).await.ok()?;
            Some(Self { socket })
        })
    }

    /// Sends a frame. One that cannot be sent shows in what is heard next.
    #[allow(clippy::needless_pass_by_value)] // So that a call reads `say(json!({…}))`.
    pub fn say(&mut self, frame: Value) {
        self.send(Message::text(frame.to_string()));
    }

    /// Sends any message.
    pub fn send(&mut self, message: Message) {
        wait("room to send", self.socket.send(message)).ok();
    }

    /// The next frame as it stands on the wire, or the end.
    pub fn hear_text(&mut self) -> Result<String, Closed> {
        loop {
            match wait("frame", self.socket.next()) {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    // Until the other side has heard that we heard.
                    while let Some(Ok(_)) = wait("end of the connection", self.socket.next()) {}
                    return Err(match frame {
                        Some(frame) => Closed { code: Some(frame.code.into()), reason: frame.reason.to_string() },
                        None => Closed { code: None, reason: String::new() },
                    });
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("the server sends text, not {other:?}"),
                Some(Err(_)) | None => return Err(Closed { code: None, reason: String::new() }),
            }
        }
    }

    /// The next frame but for the server's pings, or the end.
    pub fn hear(&mut self) -> Result<Value, Closed> {
        loop {
            let text = self.hear_text()?;
            let frame: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
            if frame["type"] != "server_ping" {
                return Ok(frame);
            }
        }
    }

    /// The next frame, which must be of that type.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> Value {
        match self.hear() {
            Ok(frame) if frame["type"] == kind => frame,
            other => panic!("a {kind} should come, not {other:?}"),
        }
    }

    /// The end, which must be the next thing that comes.
    #[track_caller]
    pub fn expect_end(&mut self) -> Closed {
        match self.hear() {
            Err(closed) => closed,
            Ok(frame) => panic!("the connection should end, not say {frame}"),
        }
    }

    /// Subscribes and answers the position from which on it sees.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value)] // See `say`.
    pub fn subscribe(&mut self, mut request: Value) -> Value {
        request["type"] = json!("subscribe");
        self.say(request);
        self.expect("subscribe_ack")["position"].clone()
    }

    /// Asks whether the server is there, which it must be, with nothing else to say before that.
    #[track_caller]
    pub fn ping(&mut self) {
        self.say(json!({ "type": "ping" }));
        self.expect("pong");
    }
}

/// A stream of `/api/v1/live`.
pub struct Events {
    response: reqwest::Response,
    read: Vec<u8>,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `event:`
    pub kind: String,
    /// `id:`; `None` where there is no such line.
    pub id: Option<String>,
    /// `data:`
    pub data: Value,
}

impl Events {
    /// Opens the stream of that path and query; the answer where that is none.
    pub fn try_open(client: &Client, path: &str, headers: &[(&str, &str)]) -> Result<Self, Box<Answer>> {
        let response = client.respond(path, headers).expect("an answer");
        if response.status().is_success() {
            return Ok(Self { response, read: Vec::new() });
        }
        Err(Box::new(wait("answer", Client::whole(response)).expect("a whole answer")))
    }

    /// Opens the stream, which must be there.
    #[track_caller]
    pub fn open(client: &Client, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open(client, path, headers).unwrap_or_else(|answer| panic!("no stream: {}", answer.text()))
    }

    /// The answer where there must be no stream.
    #[track_caller]
    pub fn refused(client: &Client, path: &str, headers: &[(&str, &str)]) -> Answer {
        match Self::try_open(client, path, headers) {
            Ok(_) => panic!("there is a stream of {path}"),
            Err(answer) => *answer,
        }
    }

    /// A header of the answer.
    pub fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The next event; none at the end of the stream.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                match parse(std::str::from_utf8(&event).expect("events are text")) {
                    Some(event) => return Some(event),
                    // A comment, to keep the connection awake.
                    None => continue,
                }
            }
            // Who is cut off in the middle sees an error; for who waits for events both are the end.
            self.read.extend_from_slice(&wait("event", self.response.chunk()).ok()??);
        }
    }

    /// The next event, which must be of that name.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> Event {
        match self.next() {
            Some(event) if event.kind == kind => event,
            other => panic!("a {kind} should come, not {other:?}"),
        }
    }
}

fn parse(text: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value.to_owned())
    };
    let data = field("data")?;
    Some(Event {
        kind: field("event").expect("each event has a name"),
        id: field("id"),
        data: serde_json::from_str(&data).unwrap_or_else(|_| panic!("no JSON: {data}")),
    })
}
