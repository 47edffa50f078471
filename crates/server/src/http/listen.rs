//! Accepts connections and serves HTTP/1.1 on them until the server stops.
//!
//! axum's own loop has no time limits and no bound; this one has both.
//!
//! Invariant: nothing that a client does or fails to do on one connection keeps another waiting; when
//! [`serve`] returns, every request has been answered or given up on, and every WebSocket is closed.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Sleep,
};

use super::metrics::OpenConnection;

/// How long a request's head may take, and how long a connection may be idle. Longer than clients commonly keep
/// idle connections (90 seconds), so that it is they who close, and no request crosses our closing.
const HEAD_TIMEOUT: Duration = Duration::from_mins(2);

/// How long requests may go on after the server was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What bounds the connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `server.max_connections`.
    pub max_connections: u32,
    /// How long a client may take nothing of its answer.
    pub stall_timeout: Duration,
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

/// A place among the connections: one for each open socket, whatever is spoken on it.
struct Place {
    _open: OpenConnection,
    _permit: OwnedSemaphorePermit,
}

/// Serves until `stop` completes; then finishes what runs, within [`DRAIN_TIMEOUT`].
///
/// Handlers get a [`Stopping`] as an extension.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(limits.max_connections as usize));
    let (stopping, stopped) = watch::channel(false);
    let router = router.layer(Extension(Stopping(stopped.clone())));
    let mut stop = pin!(stop);
    loop {
        let (stream, permit) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stop => break,
        };
        let place = Place { _open: OpenConnection::new(), _permit: permit };
        let stream = Impatient { stream, limit: limits.stall_timeout, stalled: None, _place: place };
        tokio::spawn(connection(stream, router.clone(), Stopping(stopped.clone())));
    }
    drop(listener);
    stopping.send_replace(true);
    // Every socket holds one place until it is closed.
    if tokio::time::timeout(DRAIN_TIMEOUT, places.acquire_many(limits.max_connections)).await.is_err() {
        tracing::warn!("some requests did not end in time and were given up on");
    }
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    // Until there is a place, clients wait in the operating system's queue, which has its own bound.
    let permit = Arc::clone(places).acquire_owned().await.expect("nobody closes the semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: Impatient, router: Router, mut stopping: Stopping) {
    // Answers are written whole; waiting to fill a packet would only delay them.
    if let Err(error) = stream.stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        // A connection that becomes a WebSocket ends here; the socket, and its place, go to the handler.
        .with_upgrades();
    let mut served = pin!(served);
    let by_itself = tokio::select! {
        ended = &mut served => Some(ended),
        () = stopping.wait() => None,
    };
    let ended = if let Some(ended) = by_itself {
        ended
    } else {
        served.as_mut().graceful_shutdown();
        served.await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// A stream whose writes fail once the other side has taken nothing for a while: an answer that nobody reads
/// would hold its memory for ever.
struct Impatient {
    stream: TcpStream,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Impatient {
    /// Passes on how a write went; one that has been pending for too long has failed.
    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
