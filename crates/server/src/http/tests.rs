//! What surrounds the endpoints, over real sockets: panics, the bounds on connections, upgrades, and the end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    extract::ws::{Message, WebSocketUpgrade},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::{
    listen::{self, Stopping},
    observe,
};

/// A server with those routes.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

async fn run(router: Router, max_connections: u32, stall_timeout: Duration) -> Running {
    run_within(router, listen::Limits::new(max_connections, stall_timeout)).await
}

async fn run_within(router: Router, limits: listen::Limits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let served =
        tokio::spawn(listen::serve(listener, router, limits, async move { stopped.await.unwrap_or_default() }));
    Running { address, stop, served }
}

/// Sends a request, such as `GET /path`, on a connection of its own.
async fn request(address: SocketAddr, line: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_panic_is_an_internal_error_and_the_next_request_is_served() {
    let broken = get(|| async { panic!("the secret") as () });
    let router = Router::new().route("/broken", broken).layer(from_fn(observe::observe));
    let server = run(router, 8, LONG).await;
    let told = answer(request(server.address, "GET /broken", "").await).await;
    assert!(told.starts_with("HTTP/1.1 500 ") && told.contains(r#"{"error":"internal""#), "{told}");
    assert!(!told.contains("secret"));
    assert!(answer(request(server.address, "GET /other", "").await).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_request_that_runs_is_finished_before_the_end() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (entering, leaving) = (Arc::clone(&entered), Arc::clone(&leave));
    let slow = get(move || async move {
        entering.notify_one();
        leaving.notified().await;
        "done"
    });
    let server = run(Router::new().route("/slow", slow), 8, LONG).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let running = request(server.address, "GET /slow", "").await;
    entered.notified().await;

    server.stop.send(()).unwrap();
    // Whoever was connected and asked nothing is let go at once.
    assert_eq!(answer(idle).await, "");
    leave.notify_one();
    assert!(answer(running).await.ends_with("done"));
    server.served.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn no_more_connections_than_the_bound_are_served_at_a_time() {
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let highest = Arc::clone(&most);
    let counted = get(move || async move {
        highest.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        // Gives every other connection the chance to come in, if it may.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        now.fetch_sub(1, SeqCst);
        "here"
    });
    let server = run(Router::new().route("/", counted), 2, LONG).await;
    let clients = (0..8).map(|_| async { answer(request(server.address, "GET /", "").await).await });
    for told in futures::future::join_all(clients).await {
        assert!(told.ends_with("here"));
    }
    assert_eq!(most.load(SeqCst), 2);
}

/// A WebSocket that repeats what it hears until the server stops.
async fn echo(upgrade: WebSocketUpgrade, Extension(mut stopping): Extension<Stopping>) -> Response {
    upgrade.on_upgrade(|mut socket| async move {
        loop {
            let heard = tokio::select! {
                heard = socket.recv() => heard,
                () = stopping.wait() => Some(Ok(Message::Close(None))),
            };
            let Some(Ok(heard)) = heard else { return };
            let last = matches!(heard, Message::Close(_));
            if socket.send(heard).await.is_err() || last {
                return;
            }
        }
    })
}

#[tokio::test]
async fn a_web_socket_holds_the_place_of_its_connection() {
    let router = Router::new().route("/ws", get(echo)).route("/", get(|| async { "here" }));
    let server = run(router, 1, LONG).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/ws", server.address)).await.unwrap();
    let waiting = tokio::spawn(async move { answer(request(server.address, "GET /", "").await).await });
    for _ in 0..100 {
        socket.send("hello".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), "hello".into());
    }
    assert!(!waiting.is_finished());
    drop(socket);
    assert!(waiting.await.unwrap().ends_with("here"));
}

#[tokio::test]
async fn what_has_no_end_of_its_own_ends_with_the_server() {
    let endless = get(|Extension(mut stopping): Extension<Stopping>| async move {
        let first = stream::iter([Ok::<_, std::io::Error>("first")]);
        Body::from_stream(first.chain(stream::pending()).take_until(async move { stopping.wait().await }))
    });
    let server = run(Router::new().route("/ws", get(echo)).route("/endless", endless), 8, LONG).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/ws", server.address)).await.unwrap();
    let mut events = request(server.address, "GET /endless", "").await;
    let mut told = Vec::new();
    while !told.ends_with(b"first") {
        told.push(events.read_u8().await.unwrap());
    }

    server.stop.send(()).unwrap();
    assert!(socket.next().await.unwrap().unwrap().is_close());
    drop(socket);
    assert_eq!(answer(events).await, "\r\n0\r\n\r\n");
    server.served.await.unwrap();
}

#[tokio::test]
async fn pages_of_the_named_origins_are_let_in_and_no_others() {
    let routes = || Router::new().route("/", get(|| async { "here" }));
    let allowed_origin = async |origins: &[&str], head: &str| {
        let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
        let server = run(routes().layer(super::cors(&origins)), 8, LONG).await;
        let told = answer(request(server.address, head, "Origin: https://a.example\r\n").await).await;
        told.lines().find_map(|line| line.strip_prefix("access-control-allow-origin: ").map(str::to_owned))
    };
    for head in ["GET /", "OPTIONS /"] {
        let (a, b) = ("https://a.example", "https://b.example");
        assert_eq!(allowed_origin(&[b, a], head).await.as_deref(), Some(a));
        assert_eq!(allowed_origin(&[b], head).await, None);
        assert_eq!(allowed_origin(&["*"], head).await.as_deref(), Some("*"));
    }
}

/// A body without end, which tells when it is given up.
struct Endless(Option<oneshot::Sender<()>>);

impl Stream for Endless {
    type Item = std::io::Result<Bytes>;
    fn poll_next(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(Bytes::from(vec![0; 65_536]))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        if let Some(given_up) = self.0.take() {
            given_up.send(()).unwrap_or_default();
        }
    }
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_let_go() {
    let limits = listen::Limits { first_head_timeout: Duration::from_millis(20), ..listen::Limits::new(1, LONG) };
    let router = Router::new().route("/", get(|| async { "here" }));
    let server = run_within(router, limits).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    // There is one place; it is free again once the silent one has been let go.
    assert!(answer(request(server.address, "GET /", "").await).await.ends_with("here"));
    assert_eq!(answer(silent).await, "");

    // Half a head is nothing yet.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    assert_eq!(answer(slow).await, "");

    // Who has asked once is waited for longer.
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        kept.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut told = Vec::new();
        while !told.ends_with(b"here") {
            told.push(kept.read_u8().await.unwrap());
        }
        tokio::time::sleep(3 * limits.first_head_timeout).await;
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = run(Router::new().route("/", get(|| async { "here" })), 8, LONG).await;
    let header = |bytes: usize| format!("X-Long: {}\r\n", "x".repeat(bytes));
    assert!(answer(request(server.address, "GET /", &header(40_000)).await).await.ends_with("here"));
    let told = answer(request(server.address, "GET /", &header(80_000)).await).await;
    assert!(told.starts_with("HTTP/1.1 431 "), "{told}");
}

/// A client that looks at its answer only once it has sent everything, as many do.
#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_is_still_sending() {
    let router = Router::new().route("/refuse", post(|| async { (StatusCode::PAYLOAD_TOO_LARGE, "too large") }));
    let server = run(router, 1, LONG).await;
    let body = vec![b'x'; 24 << 20];
    for length in [format!("Content-Length: {}\r\n", body.len()), "Transfer-Encoding: chunked\r\n".to_owned()] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!("POST /refuse HTTP/1.1\r\nHost: localhost\r\n{length}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        if length.starts_with('T') {
            stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.unwrap();
        }
        stream.write_all(&body).await.unwrap();
        let told = answer(stream).await;
        assert!(told.starts_with("HTTP/1.1 413 ") && told.ends_with("too large"), "{told}");
    }
    // And the place is free again.
    assert!(answer(request(server.address, "POST /refuse", "").await).await.ends_with("too large"));
}

#[tokio::test]
async fn a_request_whose_client_goes_away_is_seen() {
    let (entered, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let entering = Arc::clone(&entered);
    let slow = get(move || async move {
        entering.notify_one();
        std::future::pending::<()>().await;
    });
    let told = Arc::clone(&gone);
    let seen = move |request: Request, next: Next| {
        let told = Arc::clone(&told);
        observe::observe_with(request, next, move |seen: &observe::Seen| {
            assert_eq!((seen.route(), seen.status), ("/slow", observe::CLIENT_GONE));
            told.notify_one();
        })
    };
    let server = run(Router::new().route("/slow", slow).layer(from_fn(seen)), 8, LONG).await;
    let stream = request(server.address, "GET /slow", "").await;
    entered.notified().await;
    drop(stream);
    gone.notified().await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let (given_up, event) = oneshot::channel();
    let slot = Arc::new(std::sync::Mutex::new(Some(given_up)));
    let endless = get(move || async move { Body::from_stream(Endless(slot.lock().unwrap().take())) });
    let server = run(Router::new().route("/endless", endless), 8, Duration::from_millis(1)).await;
    let unread = request(server.address, "GET /endless", "").await;
    event.await.unwrap();
    drop(unread);
}
