//! Single requests, to set things up and to look at an answer. Load comes from [`crate::load`].
//!
//! Invariant: an answer that is not a success is a failure, with what it says.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::Failure;

/// The longest wait for an answer: ten million messages are consolidated in less.
const LONGEST: Duration = Duration::from_mins(10);

/// A server and a user's token.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Host and port.
    pub address: String,
    /// The token.
    pub token: String,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// `GET`
    pub method: &'static str,
    /// `/api/v1/health`
    pub path: String,
    /// The body, as JSON.
    pub body: Option<String>,
}

impl Call {
    /// A `POST` of that body.
    pub(crate) fn post(path: impl Into<String>, body: &Value) -> Self {
        Self { method: "POST", path: path.into(), body: Some(body.to_string()) }
    }

    /// The request, as that user sends it.
    pub(crate) fn request(&self, target: &Target) -> Result<Request<Full<Bytes>>, Failure> {
        Request::builder()
            .method(self.method)
            .uri(self.path.as_str())
            .header("host", &target.address)
            .header("authorization", format!("Bearer {}", target.token))
            .header("content-type", "application/json")
            .body(Full::new(self.body.clone().unwrap_or_default().into()))
            .map_err(|error| Failure::new(error.to_string()))
    }
}

/// Makes one call on a connection of its own, answered with JSON.
pub(crate) async fn once(target: &Target, call: &Call) -> Result<Value, Failure> {
    let answer = Connection::open(target).await?.exchange(call.request(target)?).await;
    let answer = answer.map_err(|Failure(why)| Failure(format!("{} {}: {why}", call.method, call.path)))?;
    if answer.is_empty() {
        return Ok(Value::Null);
    }
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
        let answered = async {
            self.0.ready().await?;
            let response = self.0.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let (status, body) = timeout(LONGEST, answered).await.map_err(|_| Failure::new("no answer came"))??;
        if status.is_success() {
            return Ok(body);
        }
        Err(Failure::new(format!("the server answers {status}: {}", String::from_utf8_lossy(&body))))
    }
}
