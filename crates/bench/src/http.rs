//! A closed loop of N connections: each sends its next request when it has the answer to the last.
//!
//! Invariant: one connection per worker, opened before the clock starts; an answer that is not a success ends the
//! run, because a failing server is easily fast. The generator runs on one thread, and shares the machine with
//! what it measures.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};

use crate::Failure;

/// The longest time that a histogram tells apart, in microseconds.
const MAX_MICROS: u64 = 600_000_000;

/// A server and a user's token.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Host and port.
    pub address: String,
    /// The token.
    pub token: String,
}

/// A request that a worker sends.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// `GET` without a body, `POST` with one.
    pub path: &'static str,
    /// The body, as JSON.
    pub body: Option<Value>,
}

/// The end of a measurement: at whichever comes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Requests of all workers together.
    pub requests: u64,
    /// The time that has passed.
    pub time: Duration,
}

/// The figures of a measurement.
#[derive(Debug)]
pub(crate) struct Load {
    /// The number of requests answered.
    pub requests: u64,
    /// The time that they took.
    pub seconds: f64,
    /// The time from sending to the last byte of the answer, in microseconds.
    pub latency: Histogram<u64>,
    /// The statements' times as the server says them, in microseconds; empty for calls without statements.
    pub in_server: Histogram<u64>,
}

/// The part of one worker.
struct Share {
    requests: u64,
    latency: Histogram<u64>,
    in_server: Histogram<u64>,
}

impl Load {
    /// Requests per second.
    #[allow(clippy::cast_precision_loss)] // No run comes near 2^53 requests.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// An empty one.
pub(crate) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, MAX_MICROS, 3).map_err(|error| Failure::new(error.to_string()))
}

/// Runs one worker on each target; the n-th call of worker w is `call(w, n)`.
pub(crate) async fn closed_loop<F>(targets: &[Target], bounds: Bounds, call: F) -> Result<Load, Failure>
where
    F: Fn(usize, u64) -> Call + Clone + Send + 'static,
{
    let mut connections = Vec::with_capacity(targets.len());
    for target in targets {
        connections.push((Connection::open(target).await?, target.clone()));
    }
    let each = bounds.requests / targets.len() as u64;
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for (worker, (mut connection, target)) in connections.into_iter().enumerate() {
        let call = call.clone();
        workers.spawn(async move {
            let mut share = Share { requests: 0, latency: histogram()?, in_server: histogram()? };
            while share.requests < each && started.elapsed() < bounds.time {
                let request = call(worker, share.requests).request(&target)?;
                let sent = Instant::now();
                let answer = connection.exchange(request).await?;
                share.latency.saturating_record(micros(sent.elapsed()));
                if let Some(time) = statement_micros(&answer) {
                    share.in_server.saturating_record(time);
                }
                share.requests += 1;
            }
            Ok::<_, Failure>(share)
        });
    }
    let mut load = Load { requests: 0, seconds: 0.0, latency: histogram()?, in_server: histogram()? };
    while let Some(share) = workers.join_next().await {
        let share = share.map_err(|error| Failure::new(error.to_string()))??;
        load.requests += share.requests;
        add(&mut load.latency, &share.latency)?;
        add(&mut load.in_server, &share.in_server)?;
    }
    load.seconds = started.elapsed().as_secs_f64();
    Ok(load)
}

fn add(total: &mut Histogram<u64>, part: &Histogram<u64>) -> Result<(), Failure> {
    total.add(part).map_err(|error| Failure::new(error.to_string()))
}

/// Makes one call on a connection of its own, answered with JSON.
pub(crate) async fn once(target: &Target, call: &Call) -> Result<Value, Failure> {
    let answer = Connection::open(target).await?.exchange(call.request(target)?).await?;
    serde_json::from_slice(&answer).map_err(|error| Failure::new(format!("{} answers no JSON: {error}", call.path)))
}

/// A connection, used for one request after the other.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Connects.
    pub(crate) async fn open(target: &Target) -> Result<Self, Failure> {
        let stream = TcpStream::connect(&target.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection's task ends with the sender, which reports its errors too.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self(sender))
    }

    /// Sends a request and answers its answer's body, which must be of a success.
    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(Failure::new(format!("the server answers {status}: {}", String::from_utf8_lossy(&body))))
    }
}

impl Call {
    /// The request, as that user sends it.
    pub(crate) fn request(&self, target: &Target) -> Result<Request<Full<Bytes>>, Failure> {
        let method = if self.body.is_some() { Method::POST } else { Method::GET };
        let body = self.body.as_ref().map(ToString::to_string).unwrap_or_default();
        Request::builder()
            .method(method)
            .uri(self.path)
            .header("host", &target.address)
            .header("authorization", format!("Bearer {}", target.token))
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .map_err(|error| Failure::new(error.to_string()))
    }
}

/// Whole microseconds.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// `executionTimeMs` of an answer, found without reading the rest of it: it stands at the end.
fn statement_micros(answer: &[u8]) -> Option<u64> {
    const NAME: &str = "\"executionTimeMs\":";
    const TAIL_BYTES: usize = 100;
    let tail = String::from_utf8_lossy(&answer[answer.len().saturating_sub(TAIL_BYTES)..]);
    let (_, after) = tail.rsplit_once(NAME)?;
    let milliseconds: f64 = after.split([',', '}']).next()?.trim().parse().ok()?;
    Some(micros(Duration::try_from_secs_f64(milliseconds / 1_000.0).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_time_is_found() {
        assert_eq!(statement_micros(br#"{"rows":[],"truncated":false,"executionTimeMs":1.25}"#), Some(1_250));
        assert_eq!(statement_micros(br#"{"executionTimeMs":3,"rowsAffected":1}"#), Some(3_000));
        assert_eq!(statement_micros(br#"{"status":"ok"}"#), None);
    }
}
