//! A connection's socket, and what its requests tell it.
//!
//! Invariant: a write fails once the client takes its answer too slowly: an answer that nobody reads would hold its memory
//! for ever. A socket is closed only after the client has had the chance to read what was written: closing with something
//! unread resets the connection, and the last answer is lost with it. What hyper says by itself, to what is no request,
//! has a sentence of ours in its place.

use std::{
    io,
    mem::MaybeUninit,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Frame, Incoming, SizeHint},
    header,
    service::Service,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, Sleep},
};

use super::{listen::ConnectionSlot, unasked};

/// The slowest that a client may take its answer, in the long run: what the oldest mobile networks still do. Slower ones
/// use up their patience (`server.request_timeout_seconds`), and faster ones earn it back.
const SLOWEST_BYTES_PER_SECOND: u32 = 8 * 1024;

/// The time for which a client that was answered while it was still sending may go on with that. Its library may read
/// the answer only when all is sent.
const LINGER_TIMEOUT: Duration = Duration::from_secs(15);

/// The silence of such a client after which it counts as waiting for us to close.
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// Bytes that it may send meanwhile: twice the largest body by default.
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that are read at once only to be thrown away.
const DISCARDED_AT_ONCE: usize = 16 * 1024;

/// The address that a request came from: the client's, or that of the proxy in front.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// The state of the requests on a socket, as the socket needs to know it.
#[derive(Debug)]
pub struct Heard {
    address: ClientAddress,
    first: Notify,
    /// Whether the client still has something to send: a first request, or the rest of a body.
    sending: AtomicBool,
    /// Whether a request has come whose answer is not written to its end. What is written else is hyper's own.
    answering: AtomicBool,
    /// Whether hyper has all of the answer, though it may not have written it.
    answered: AtomicBool,
}

impl Heard {
    /// The state of a new socket.
    pub fn new(address: IpAddr) -> Self {
        Self {
            address: ClientAddress(address.to_canonical()),
            first: Notify::default(),
            sending: AtomicBool::new(true),
            answering: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        }
    }

    /// Completes once a first request has come.
    pub async fn first(&self) {
        self.first.notified().await;
    }

    fn asked(&self, request: &Request<Incoming>) {
        self.first.notify_one();
        self.sending.store(!request.body().is_end_stream(), Ordering::Release);
        self.answering.store(true, Ordering::Release);
        self.answered.store(false, Ordering::Release);
    }

    /// All that there was to write is written.
    fn flushed(&self) {
        if self.answered.load(Ordering::Acquire) {
            self.answering.store(false, Ordering::Release);
        }
    }
}

/// A service whose requests are heard of.
pub struct Listening<S> {
    service: S,
    heard: Arc<Heard>,
}

impl<S> Listening<S> {
    /// Wraps a service whose requests the socket hears of.
    pub fn new(service: S, heard: Arc<Heard>) -> Self {
        Self { service, heard }
    }
}

impl<S, B> Service<Request<Incoming>> for Listening<S>
where
    S: Service<Request<Arriving>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Leaving<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.heard.asked(&request);
        request.extensions_mut().insert(self.heard.address);
        // After an upgrade the socket is somebody else's, and there is no telling what is written to it.
        let is_upgrade = request.headers().contains_key(header::UPGRADE);
        let heard = Arc::clone(&self.heard);
        let leaves = (!is_upgrade).then(|| Arc::clone(&self.heard));
        let answer = self.service.call(request.map(|body| Arriving { body, heard }));
        Box::pin(async move { answer.await.map(|answer| answer.map(|body| Leaving { body, heard: leaves })) })
    }
}

/// A body that tells when all of it is here.
pub struct Arriving {
    body: Incoming,
    heard: Arc<Heard>,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.heard.sending.store(false, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that tells when hyper has all of it.
pub struct Leaving<B> {
    body: B,
    heard: Option<Arc<Heard>>,
}

impl<B: HttpBody + Unpin> HttpBody for Leaving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Leaving<B> {
    fn drop(&mut self) {
        if let Some(heard) = &self.heard {
            heard.answered.store(true, Ordering::Release);
        }
    }
}

/// A connection's socket, which gives up on clients that take nothing.
pub struct Socket {
    stream: TcpStream,
    patience: Patience,
    /// Fires when the patience is used up, while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    heard: Arc<Heard>,
    lingering: Option<Lingering>,
    _slot: ConnectionSlot,
}

impl Socket {
    /// A socket whose client may take nothing for that long.
    pub fn new(stream: TcpStream, patience: Duration, heard: Arc<Heard>, slot: ConnectionSlot) -> Self {
        Self { stream, patience: Patience::new(patience), stalled: None, heard, lingering: None, _slot: slot }
    }

    /// Writes a sentence of ours in the place of hyper's own answer, if that is what begins so.
    fn replace(&self, begins: &[u8]) -> bool {
        if self.heard.answering.load(Ordering::Acquire) {
            return false;
        }
        let Some(ours) = unasked::instead_of(begins) else { return false };
        // The client has said what it has to say, or is still at it.
        self.heard.sending.store(true, Ordering::Release);
        // A socket that is written to for the first time, or has taken all so far, takes as much.
        self.stream.try_write(&ours).ok();
        true
    }

    /// Passes on how a write went; one that has been pending for too long has failed.
    fn judge(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        if let Poll::Ready(done) = &written {
            self.patience.took(now, *done.as_ref().unwrap_or(&0));
            self.stalled = None;
            return written;
        }
        let until = self.patience.waits(now);
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The time for which a client is still waited for.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, left: limit, waiting_since: None }
    }

    /// The client takes nothing just now; until when it may.
    fn waits(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now) + self.left
    }

    /// The client has taken so many bytes. Each gives back the time that the slowest client would take for it.
    fn took(&mut self, now: Instant, bytes: usize) {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(1) * bytes / SLOWEST_BYTES_PER_SECOND;
        self.left = (self.left.saturating_sub(waited) + earned).min(self.limit);
    }
}

/// A socket that nothing more is written to, and whose client is still sending.
struct Lingering {
    end: Pin<Box<Sleep>>,
    silence: Pin<Box<Sleep>>,
    bytes: usize,
}

impl Lingering {
    fn new() -> Self {
        Self {
            end: Box::pin(tokio::time::sleep(LINGER_TIMEOUT)),
            silence: Box::pin(tokio::time::sleep(LINGER_SILENCE)),
            bytes: 0,
        }
    }

    /// Throws away what comes, until nothing comes any more or it is enough.
    fn poll(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let mut discarded = [MaybeUninit::uninit(); DISCARDED_AT_ONCE];
            let mut buffer = ReadBuf::uninit(&mut discarded);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.bytes += buffer.filled().len(),
                // The client has closed, or is gone.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.silence.as_mut().poll(context),
            }
            if self.bytes > LINGER_BYTES {
                return Poll::Ready(());
            }
            self.silence.as_mut().reset(Instant::now() + LINGER_SILENCE);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replace(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.first().is_some_and(|first| self.replace(first)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.heard.flushed();
        // Written bytes are the system's already; this waits for nobody.
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        if this.heard.sending.load(Ordering::Acquire) {
            ready!(this.lingering.get_or_insert_with(Lingering::new).poll(&mut this.stream, context));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_used_up_by_waiting_and_earned_by_taking() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(patience.waits(at(0)), at(10));
        // A client that goes on waiting does not move the end.
        assert_eq!(patience.waits(at(4)), at(10));
        // A byte now and then is nothing: it used to begin anew with each.
        patience.took(at(6), 1);
        assert!(patience.left < Duration::from_secs(5), "{:?}", patience.left);
        assert!(patience.waits(at(7)) < at(12));
        // A client that takes as fast as the slowest may has as much time as before.
        patience.took(at(8), 8 * 1024);
        let left = patience.left;
        patience.waits(at(8));
        patience.took(at(9), 8 * 1024);
        assert_eq!(patience.left, left);
        // A lot at once earns no more than there was.
        patience.took(at(9), 1 << 30);
        assert_eq!(patience.left, Duration::from_secs(10));
    }
}
