//! One connection to a server, as its HTTP contract has it.
//!
//! Invariant: a statement is sent once. A broken connection is an error for whoever knows whether repeating it
//! would do harm.

use std::time::Duration;

use kalamdb_protocol::{ErrorBody, Health, Params, QueryRequest, QueryResponse, WriteResponse};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    connection::{Credentials, Identity},
    error::{Error, Refusal},
};

/// Longer than any statement may run on a server with sensible settings, so that only a dead one is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(10);

/// The time that the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which a server that is starting is asked.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// A server and who asks it.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    credentials: Credentials,
}

/// The server's answer to a statement.
#[derive(Debug)]
pub(super) enum Answer {
    /// The rows of a read.
    Rows(QueryResponse),
    /// The counts of a write.
    Written(WriteResponse),
}

impl Client {
    /// A client of the server at `url`, which ends without a slash.
    pub(super) fn new(url: String, credentials: Credentials) -> Result<Self, Error> {
        let http = http_client(&url)
            .map_err(|error| Error::Server(format!("No connection can be made from here: {}.", cause(&error))))?;
        Ok(Self { http, url, credentials })
    }

    /// The server's address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The server's host, without its port.
    pub(super) fn host(&self) -> &str {
        let authority = self.url.split("://").nth(1).unwrap_or(&self.url);
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        }
    }

    /// The user who asks, if that can be told.
    pub(super) fn who(&self) -> Option<&Identity> {
        self.credentials.identity()
    }

    /// Runs one statement.
    pub(super) async fn execute(&self, sql: &str, params: Vec<Value>) -> Result<Answer, Error> {
        let params = (!params.is_empty()).then_some(Params::Positional(params));
        let request = QueryRequest { sql: sql.to_owned(), params };
        let mut call = self.http.post(format!("{}/api/v1/query", self.url)).json(&request);
        if let Some(token) = self.credentials.token() {
            call = call.bearer_auth(token);
        }
        let response = call.send().await;
        let (status, body) = self.read(response).await?;
        if !status.is_success() {
            return Err(self.refusal(status, &body, Some(sql)));
        }
        if let Ok(rows) = serde_json::from_slice(&body) {
            return Ok(Answer::Rows(rows));
        }
        self.parse(&body).map(Answer::Written)
    }

    /// Runs a read.
    pub(super) async fn rows(&self, sql: &str, params: Vec<Value>) -> Result<QueryResponse, Error> {
        match self.execute(sql, params).await? {
            Answer::Rows(rows) => Ok(rows),
            Answer::Written(_) => Err(self.stranger()),
        }
    }

    /// Runs a write.
    pub(super) async fn write(&self, sql: &str, params: Vec<Value>) -> Result<WriteResponse, Error> {
        match self.execute(sql, params).await? {
            Answer::Written(written) => Ok(written),
            Answer::Rows(_) => Err(self.stranger()),
        }
    }

    /// Waits until the server answers, at most `patience`.
    pub(super) async fn wait_until_healthy(&self, patience: Duration) -> Result<(), Error> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            match self.health().await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= until => return Err(error),
                // A server that is starting tells nobody but the one who asks.
                Err(_) => tokio::time::sleep(HEALTH_INTERVAL).await,
            }
        }
    }

    async fn health(&self) -> Result<Health, Error> {
        let response = self.http.get(format!("{}/api/v1/health", self.url)).send().await;
        let (status, body) = self.read(response).await?;
        if status.is_success() { self.parse(&body) } else { Err(self.refusal(status, &body, None)) }
    }

    async fn read(&self, response: reqwest::Result<Response>) -> Result<(StatusCode, Vec<u8>), Error> {
        let response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok((status, body.into()))
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|_| self.stranger())
    }

    fn refusal(&self, status: StatusCode, body: &[u8], statement: Option<&str>) -> Error {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(body) => Error::Refused(Refusal { body, statement: statement.map(str::to_owned) }),
            Err(_) => Error::Server(format!("{} answers {status}, which is not a KalamDB answer.", self.url)),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Server(format!("No answer from {}: {}. Is the server running there?", self.url, cause(error)))
    }

    fn stranger(&self) -> Error {
        Error::Server(format!("What answers at {} does not speak this version's protocol.", self.url))
    }
}

fn http_client(url: &str) -> reqwest::Result<reqwest::Client> {
    // An error means that somebody installed one before us, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let builder = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
    // Reading the machine's certificates takes time, and fails where none are installed: plain HTTP needs none.
    if url.starts_with("https://") { builder.build() } else { builder.tls_certs_only(Vec::new()).build() }
}

/// The innermost reason: the outer ones repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
