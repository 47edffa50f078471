//! Accepts connections and serves HTTP/1.1 on them until the server stops.
//!
//! axum's own loop has no time limits and no bound; this one has both.
//!
//! Invariant: nothing that a client does or fails to do on one connection keeps another waiting; when
//! [`serve`] returns, every request has been answered or given up on, and every WebSocket is closed.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use kalamdb_protocol::ErrorCode;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use super::{
    metrics::OpenConnection,
    peers::{Peer, Peers},
    socket::{Heard, Listening, Socket},
    unasked,
};

/// The time that a later request's head may take, and that a connection may be idle. Longer than clients commonly keep
/// idle connections (90 seconds), so that it is they who close, and no request crosses our closing.
const HEAD_TIMEOUT: Duration = Duration::from_mins(2);

/// The time until a new connection's first request: whoever opens one has something to ask, and connections of those
/// who have not would keep others out.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of a request: a token of 8 KiB, a statement in the query string of a live connection, and what
/// browsers and proxies add.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Bytes that a connection may have read before a token has been looked at: enough for a head.
const READ_BUFFER_BYTES: usize = MAX_HEAD_BYTES + 16 * 1024;

/// The time that requests may go on after the server was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The wait after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of the connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `server.max_connections`.
    pub max_connections: u32,
    /// The time that a client may take nothing of its answer.
    pub stall_timeout: Duration,
    /// The time that a new connection may take to ask for something.
    pub first_head_timeout: Duration,
}

impl Limits {
    /// The bounds that the settings give.
    pub fn new(max_connections: u32, stall_timeout: Duration) -> Self {
        Self { max_connections, stall_timeout, first_head_timeout: FIRST_HEAD_TIMEOUT }
    }
}

/// Tells handlers whose answers have no end of their own that the server stops.
#[derive(Debug, Clone)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Completes when the server stops.
    pub async fn wait(&mut self) {
        // No sender is no server any more.
        self.0.wait_for(|stopping| *stopping).await.map(drop).unwrap_or_default();
    }
}

/// A slot among the connections: one for each open socket, whatever is spoken on it.
pub struct ConnectionSlot {
    _open: OpenConnection,
    _peer: Peer,
    _permit: OwnedSemaphorePermit,
}

/// Serves until `stop` completes; then finishes what runs, within [`DRAIN_TIMEOUT`].
///
/// Handlers get a [`Stopping`] as an extension.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(limits.max_connections as usize));
    let (stopping, stopped) = watch::channel(false);
    let router = router.layer(Extension(Stopping(stopped.clone())));
    let peers = Peers::new(limits.max_connections);
    let mut stop = pin!(stop);
    loop {
        let (stream, address, permit) = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut stop => break,
        };
        let Some(peer) = peers.enter(address.ip()) else {
            turn_away(&stream);
            continue;
        };
        let slot = ConnectionSlot { _open: OpenConnection::new(), _peer: peer, _permit: permit };
        let heard = Arc::new(Heard::new(address.ip()));
        tokio::spawn(connection(stream, slot, heard, router.clone(), limits, Stopping(stopped.clone())));
    }
    drop(listener);
    stopping.send_replace(true);
    // Every socket holds one slot until it is closed.
    if tokio::time::timeout(DRAIN_TIMEOUT, slots.acquire_many(limits.max_connections)).await.is_err() {
        tracing::warn!("some requests did not end in time and were given up on");
    }
}

/// The next connection, once there is a slot for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    // Until there is a slot, clients wait in the operating system's queue, which has its own bound.
    let permit = Arc::clone(slots).acquire_owned().await.expect("nobody closes the semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says why there is no slot, if that can be said at once.
fn turn_away(stream: &TcpStream) {
    let message = "Your address has as many connections open as one may have (`server.max_connections`); close some.";
    // A new socket takes as much; where it does not, there is nobody to tell.
    stream.try_write(&unasked::answer(ErrorCode::RateLimited, message)).ok();
}

async fn connection(
    stream: TcpStream,
    slot: ConnectionSlot,
    heard: Arc<Heard>,
    router: Router,
    limits: Limits,
    mut stopping: Stopping,
) {
    // Answers are written whole; waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let socket = Socket::new(stream, limits.stall_timeout, Arc::clone(&heard), slot);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(socket), Listening::new(TowerToHyperService::new(router), Arc::clone(&heard)))
        // A connection that becomes a WebSocket ends here; the socket, and its slot, go to the handler.
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stopping.wait() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = says_nothing(&heard, limits.first_head_timeout) => {
            tracing::debug!("a connection asked for nothing");
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Completes when that time is over and nothing was asked for; never once something was.
async fn says_nothing(heard: &Heard, limit: Duration) {
    if tokio::time::timeout(limit, heard.first()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}
