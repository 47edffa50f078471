//! Live: how long after a send its subscriber has the row, and what a connection that only waits costs the server.
//!
//! Invariant: one writer sends, and waits for its subscribers, before it sends again: what is measured is a delay, not
//! a throughput. Writer and subscribers are one thread of this program, so a figure holds its own work too.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures::{SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use kalamdb_protocol::{ClientFrame, ConversationId, ConversationType, SendMessageRequest, Subscribe};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use super::Bench;
use crate::{
    Failure, Size,
    data::{sentence, user_id},
    http::{Call, Connection, Target, once},
    load::Template,
    peers::kalamdb::{Program, Server},
    report::{Report, count, quantile_ms},
    tokens::token,
};

/// Subscriptions that are open.
const OPEN: [usize; 3] = [100, 1_000, 10_000];

/// The most that `--quick` opens.
const QUICK_OPEN: usize = 1_000;

/// The longest time that a histogram tells apart, in microseconds.
const MAX_MICROS: u64 = 600_000_000;

/// Connections of one user: a server's default allows 50.
const PER_USER: usize = 50;

/// Participants of the group: as many as a server's default allows.
const GROUP: usize = 100;

/// Connections that are opened at the same time.
const OPENING: usize = 32;

/// Files that this program and the server need besides connections.
const OTHER_FILES: usize = 200;

/// The longest wait for a row before something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that a subscriber that only waits needs.
const READ_BUFFER_BYTES: usize = 1_024;

type Socket = WebSocketStream<TcpStream>;

/// Delays, in microseconds.
struct Delays {
    /// The time from the beginning of the send to the row's arrival.
    from_send: Histogram<u64>,
    /// The time from the send's answer; a row that comes before the answer counts as no delay.
    from_answer: Histogram<u64>,
}

/// Measures one subscriber among many that wait, and a group.
pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    report.heading("Live: from a send to its subscriber, acknowledged: os");
    measure_waiting(&bench.program, &bench.size, report).await?;
    measure_group(&bench.program, &bench.size, report).await
}

/// An empty one.
fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, MAX_MICROS, 3).map_err(|error| Failure::new(error.to_string()))
}

/// Whole microseconds.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn start(program: &Program, name: &str) -> Result<Server, Failure> {
    let settings = [
        ("rocksdb.durability", "os"),
        ("server.max_connections", "20000"),
        // Each user has a connection of their own, and one has those that only wait.
        ("live.max_connections_per_user", "52"),
    ];
    program.start(name, &settings)
}

fn users(server: &Server, number: usize) -> Result<Vec<Target>, Failure> {
    (0..number as u64).map(|number| server.target(&user_id(number))).collect()
}

async fn measure_waiting(program: &Program, size: &Size, report: &mut Report) -> Result<(), Failure> {
    let steps = steps(size)?;
    let server = start(program, "live")?;
    let users = users(&server, steps.last().unwrap_or(&1).div_ceil(PER_USER))?;
    let mut writer = Connection::open(&users[0]).await?;
    let mut subscriber = subscribe(&users[0], &conversation("busy", ConversationType::Ai)?).await?;
    // The first sends set things up, which is not a subscriber's delay.
    delays(&mut writer, &users[0], &mut subscriber, 100).await?;
    let at_rest = server.memory_bytes();
    let mut waiting = JoinSet::new();
    let health = Template::get("/api/v1/health");
    let door = server.door(vec![(user_id(0), token(&user_id(0), false)?)]);
    for open in steps {
        let idle = conversation("idle", ConversationType::Ai)?;
        let more = waiting.len()..open.saturating_sub(1);
        let sockets: Vec<Socket> = stream::iter(more.map(|number| subscribe(&users[number / PER_USER], &idle)))
            .buffer_unordered(OPENING)
            .try_collect()
            .await?;
        for socket in sockets {
            // A waiting subscriber answers the server's pings, as every client does.
            waiting.spawn(socket.for_each(async |_| {}));
        }
        let held = server.memory_bytes().saturating_sub(at_rest) / open.max(1) as u64;
        // While it runs, this thread goes on with answering pings.
        let noop = door.load(&health, 1, size.seconds, open as u64).await?;
        let delays = delays(&mut writer, &users[0], &mut subscriber, size.sends_live).await?;
        if waiting.try_join_next().is_some() {
            return Err(Failure::new("a connection that waited was closed"));
        }
        report.value(
            format!("live.{open}"),
            json!({
                "fromSend": delays_value(&delays.from_send),
                "fromAnswer": delays_value(&delays.from_answer),
                "healthP50Ms": noop.p50_ms,
                "bytesPerConnection": held,
            }),
        );
        report.figure(
            format!("{} subscriptions open", count(open as u64)),
            format!("p99 {:.2} ms", quantile_ms(&delays.from_send, 0.99)),
            format!(
                "{}; after its answer {}; the health route p50 {:.2} ms; {} KiB a connection",
                quantiles(&delays.from_send),
                quantiles(&delays.from_answer),
                noop.p50_ms.unwrap_or_default(),
                count(held / 1_024),
            ),
        );
        let p99 = quantile_ms(&delays.from_send, 0.99);
        report.at_most(format!("commit to subscriber, p99, {} open", count(open as u64)), 10.0, "ms", Some(p99));
    }
    waiting.shutdown().await;
    server.stop()
}

/// Sends so often, and waits for each row.
async fn delays(
    writer: &mut Connection,
    user: &Target,
    subscriber: &mut Socket,
    sends: u64,
) -> Result<Delays, Failure> {
    let mut delays = Delays { from_send: histogram()?, from_answer: histogram()? };
    for number in 0..sends {
        let request = send("busy", ConversationType::Ai, number)?.request(user)?;
        let started = Instant::now();
        let sent = async {
            writer.exchange(request).await?;
            Ok::<_, Failure>(Instant::now())
        };
        let told = async {
            hear(subscriber, "message").await?;
            Ok::<_, Failure>(Instant::now())
        };
        let (answered, arrived) = futures::try_join!(sent, told)?;
        delays.from_send.saturating_record(micros(arrived.duration_since(started)));
        delays.from_answer.saturating_record(micros(arrived.saturating_duration_since(answered)));
    }
    Ok(delays)
}

async fn measure_group(program: &Program, size: &Size, report: &mut Report) -> Result<(), Failure> {
    let server = start(program, "live-group")?;
    let users = users(&server, GROUP)?;
    make_group(&users[0]).await?;
    let (told, mut arrivals) = mpsc::channel(GROUP);
    let mut participants = JoinSet::new();
    for user in &users {
        let mut socket = subscribe(user, &conversation("team", ConversationType::Group)?).await?;
        let told = told.clone();
        participants.spawn(async move {
            while hear(&mut socket, "message").await.is_ok() && told.send(Instant::now()).await.is_ok() {}
        });
    }
    let mut writer = Connection::open(&users[0]).await?;
    let (mut each, mut last) = (histogram()?, histogram()?);
    for number in 0..(size.sends_live / 5).max(50) {
        let request = send("team", ConversationType::Group, number)?.request(&users[0])?;
        let started = Instant::now();
        let sent = async { writer.exchange(request).await.map(drop) };
        let told = async {
            let mut latest = started;
            for _ in 0..GROUP {
                let arrival = timeout(PATIENCE, arrivals.recv()).await;
                let arrival = arrival.ok().flatten().ok_or_else(|| Failure::new("a participant was not told"))?;
                each.saturating_record(micros(arrival.duration_since(started)));
                latest = latest.max(arrival);
            }
            last.saturating_record(micros(latest.duration_since(started)));
            Ok(())
        };
        futures::try_join!(sent, told)?;
    }
    report.value("live.group", json!({ "each": delays_value(&each), "last": delays_value(&last) }));
    report.figure(
        format!("a group of {GROUP}, all connected"),
        format!("p99 {:.2} ms", quantile_ms(&each, 0.99)),
        format!("{}; to the last of them {}", quantiles(&each), quantiles(&last)),
    );
    let p99 = Some(quantile_ms(&each, 0.99));
    report.at_most(format!("commit to subscriber, p99, a group of {GROUP}"), 10.0, "ms", p99);
    participants.shutdown().await;
    server.stop()
}

async fn make_group(owner: &Target) -> Result<(), Failure> {
    let others: Vec<String> = (1..GROUP as u64).map(|number| format!("('team', '{}')", user_id(number))).collect();
    for sql in [
        "INSERT INTO conversations (conversationId, conversationType) VALUES ('team', 'group')".to_owned(),
        format!("INSERT INTO conversationUsers (conversationId, userId) VALUES {}", others.join(", ")),
    ] {
        once(owner, &Call::post("/api/v1/query", &json!({ "sql": sql }))).await?;
    }
    Ok(())
}

fn conversation(id: &str, kind: ConversationType) -> Result<Subscribe, Failure> {
    Ok(Subscribe { conversation_id: Some(valid(id)?), conversation_type: Some(kind), ..Subscribe::default() })
}

fn valid(id: &str) -> Result<ConversationId, Failure> {
    ConversationId::new(id).map_err(|error| Failure::new(error.to_string()))
}

fn send(conversation: &str, kind: ConversationType, number: u64) -> Result<Call, Failure> {
    let mut message = SendMessageRequest::new(valid(conversation)?, sentence(number));
    message.conversation_type = Some(kind);
    Ok(Call::post("/api/v1/messages", &json!(message)))
}

/// A connection with that subscription, acknowledged.
async fn subscribe(user: &Target, request: &Subscribe) -> Result<Socket, Failure> {
    let unreachable = |error: tokio_tungstenite::tungstenite::Error| Failure::new(format!("no WebSocket: {error}"));
    let mut handshake = format!("ws://{}/api/v1/ws", user.address).into_client_request().map_err(unreachable)?;
    let token = format!("Bearer {}", user.token).parse().map_err(|_| Failure::new("the token is no header"))?;
    handshake.headers_mut().insert("authorization", token);
    let stream = TcpStream::connect(&user.address).await?;
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let (mut socket, _) = client_async_with_config(handshake, stream, Some(config)).await.map_err(unreachable)?;
    let frame = json!(ClientFrame::Subscribe(request.clone())).to_string();
    socket.send(Message::text(frame)).await.map_err(unreachable)?;
    hear(&mut socket, "subscribe_ack").await?;
    Ok(socket)
}

/// Waits for a frame of that type; any other but a ping is a failure.
async fn hear(socket: &mut Socket, kind: &str) -> Result<(), Failure> {
    loop {
        let said = timeout(PATIENCE, socket.next()).await.map_err(|_| Failure::new(format!("no {kind} came")))?;
        let Some(Ok(said)) = said else { return Err(Failure::new("a live connection was closed")) };
        let Message::Text(text) = said else { continue };
        let frame: Value = serde_json::from_str(&text).map_err(|_| Failure::new("a frame is no JSON"))?;
        match frame["type"].as_str() {
            Some(said) if said == kind => return Ok(()),
            Some("server_ping") => {}
            _ => return Err(Failure::new(format!("instead of a {kind} came {text}"))),
        }
    }
}

/// The numbers of subscriptions to open, step by step: fewer where the system does not allow as many files.
fn steps(size: &Size) -> Result<Vec<usize>, Failure> {
    let mut steps = OPEN.to_vec();
    steps.retain(|open| !size.is_quick() || *open <= QUICK_OPEN);
    let (wanted, files) = (steps.iter().copied().max().unwrap_or_default(), open_files_limit()?);
    // The server has the same limit, and gives half of it to connections.
    let allowed = (files / 2).saturating_sub(OTHER_FILES);
    if allowed < wanted {
        println!(
            "of {} connections only {} are possible: this process may open {} files; `ulimit -n {}` allows them all",
            count(wanted as u64),
            count(allowed as u64),
            count(files as u64),
            2 * (wanted + OTHER_FILES),
        );
        for open in &mut steps {
            *open = allowed.min(*open);
        }
        steps.dedup();
    }
    Ok(steps)
}

/// Linux tells it in a file, and without a number where there is no limit.
fn open_files_limit() -> Result<usize, Failure> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = line.and_then(|line| line.split_whitespace().next()).and_then(|files| files.parse().ok());
    Ok(files.unwrap_or(usize::MAX))
}

fn delays_value(delays: &Histogram<u64>) -> Value {
    json!({
        "sends": delays.len(),
        "p50Ms": quantile_ms(delays, 0.5),
        "p99Ms": quantile_ms(delays, 0.99),
        "maxMs": quantile_ms(delays, 1.0),
    })
}

fn quantiles(delays: &Histogram<u64>) -> String {
    let [half, most, all] = [0.5, 0.99, 1.0].map(|quantile| quantile_ms(delays, quantile));
    format!("p50 {half:.2}, p99 {most:.2}, max {all:.2} ms")
}
