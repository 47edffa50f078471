//! A client of the HTTP contract that blocks until it has the answer, so that a test reads from top to bottom.
//!
//! Invariant: an answer that is not of the contract (a status without its error body, a code with another status)
//! fails the test here, whatever the test looks at.

use std::{
    fmt,
    sync::{Arc, LazyLock, RwLock},
    time::Duration,
};

use kalamdb_protocol::{
    ConversationId, ErrorBody, ErrorCode, QueryResponse, SendMessageRequest, SendMessageResponse, UploadResponse,
    WriteResponse,
};
use reqwest::{Method, header::HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(super) static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Runtime::new().expect("a runtime for the clients"));

static HTTP: LazyLock<reqwest::Client> = LazyLock::new(|| {
    // reqwest wants a provider even for plain HTTP; the second caller finds the first one's.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().timeout(Duration::from_mins(2)).build().expect("an HTTP client")
});

/// One user's way to the server; follows it when it restarts at another address.
#[derive(Clone)]
pub struct Client {
    address: Arc<RwLock<String>>,
    token: Option<String>,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no success.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The server refused.
    Refused(Refusal),
    /// The connection broke: whether it was done is unknown.
    NoAnswer,
}

/// An error answer.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The body.
    pub error: ErrorBody,
}

impl Client {
    pub(super) fn new(address: Arc<RwLock<String>>, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// Where the server is now: `http://127.0.0.1:PORT`.
    pub(super) fn url(&self) -> String {
        self.address.read().expect("nobody panics while holding it").clone()
    }

    /// The token, if there is one.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Reads.
    pub fn query(&self, sql: &str) -> Result<QueryResponse, Failure> {
        self.post("/api/v1/query", &json!({ "sql": sql }))
    }

    /// Reads, with parameters: an array or an object.
    #[allow(clippy::needless_pass_by_value)] // So that a call reads `query_params(sql, json!([1]))`.
    pub fn query_params(&self, sql: &str, params: Value) -> Result<QueryResponse, Failure> {
        self.post("/api/v1/query", &json!({ "sql": sql, "params": params }))
    }

    /// Writes.
    pub fn write(&self, sql: &str) -> Result<WriteResponse, Failure> {
        self.post("/api/v1/query", &json!({ "sql": sql }))
    }

    /// Writes, with parameters: an array or an object.
    #[allow(clippy::needless_pass_by_value)] // See `query_params`.
    pub fn write_params(&self, sql: &str, params: Value) -> Result<WriteResponse, Failure> {
        self.post("/api/v1/query", &json!({ "sql": sql, "params": params }))
    }

    /// Sends a message.
    pub fn send(&self, message: &SendMessageRequest) -> Result<SendMessageResponse, Failure> {
        self.post("/api/v1/messages", message)
    }

    /// Sends a text to a conversation and answers its id; the test fails if that fails.
    #[track_caller]
    pub fn say(&self, conversation: &str, content: &str) -> i64 {
        self.send(&message(conversation, content)).unwrap_or_else(|failure| panic!("{failure}")).msg_id
    }

    /// Runs a write that has to succeed and answers how many rows it changed.
    #[track_caller]
    pub fn run(&self, sql: &str) -> u64 {
        self.write(sql).unwrap_or_else(|failure| panic!("{failure}\nin: {sql}")).rows_affected
    }

    /// The rows of a read that has to succeed.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        let answer = self.query(sql).unwrap_or_else(|failure| panic!("{failure}\nin: {sql}"));
        assert!(!answer.truncated, "the answer was cut: {sql}");
        assert_eq!(answer.row_count, answer.rows.len());
        answer.rows
    }

    /// The only column of a read that has to succeed.
    #[track_caller]
    pub fn column(&self, sql: &str) -> Vec<Value> {
        self.rows(sql).into_iter().map(|row| <[Value; 1]>::try_from(row).expect("one column")[0].clone()).collect()
    }

    /// The only column of a read, as texts.
    #[track_caller]
    pub fn texts(&self, sql: &str) -> Vec<String> {
        self.column(sql).iter().map(|value| value.as_str().expect("a text").to_owned()).collect()
    }

    /// The only column of a read, as numbers.
    #[track_caller]
    pub fn numbers(&self, sql: &str) -> Vec<i64> {
        self.column(sql).iter().map(|value| value.as_i64().expect("a number")).collect()
    }

    /// The only value of a read that has to succeed.
    #[track_caller]
    pub fn value(&self, sql: &str) -> Value {
        let column = self.column(sql);
        assert_eq!(column.len(), 1, "one row from {sql}");
        column[0].clone()
    }

    /// The only value of a read, as a number.
    #[track_caller]
    pub fn number(&self, sql: &str) -> i64 {
        self.value(sql).as_i64().expect("a number")
    }

    /// Moves everybody's hot messages to segments; for admins.
    #[track_caller]
    pub fn consolidate(&self) {
        let answer = self.request(Method::POST, "/api/admin/consolidate", &[], Some("{}")).expect("an answer");
        assert_eq!(answer.status, 200, "consolidate: {}", answer.text());
    }

    /// Posts JSON and reads the answer as the contract has it.
    pub fn post<B: serde::Serialize + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        let body = serde_json::to_string(body).expect("it can be written");
        self.request(Method::POST, path, &[], Some(&body))?.parse()
    }

    /// Makes a group with these others in it.
    #[track_caller]
    pub fn make_group(&self, id: &str, others: &[&str]) {
        self.run(&format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('{id}', 'group')"));
        for user in others {
            self.run(&format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('{id}', '{user}')"));
        }
    }

    /// Uploads a file for a conversation, with the file first, as the founding document does.
    pub fn upload(&self, file: &[u8], conversation: &str) -> Result<UploadResponse, Failure> {
        self.post_form(&[("file", file), ("conversationId", conversation.as_bytes())])?.parse()
    }

    /// Posts a form with these fields, in this order, to where uploads go.
    pub fn post_form(&self, fields: &[(&str, &[u8])]) -> Result<Answer, Failure> {
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let headers = [("content-type", content_type.as_str())];
        self.exchange(Method::POST, "/api/v1/media/upload", &headers, Some(form(fields)))
    }

    /// Reads a content file.
    pub fn content(&self, content_ref: &str) -> Answer {
        self.content_with(Method::GET, content_ref, &[])
    }

    /// Asks for a content file with another method or more headers.
    pub fn content_with(&self, method: Method, content_ref: &str, headers: &[(&str, &str)]) -> Answer {
        let encoded = percent_encoding::utf8_percent_encode(content_ref, percent_encoding::NON_ALPHANUMERIC);
        self.request(method, &format!("/api/v1/content/{encoded}"), headers, None).expect("an answer")
    }

    /// Any request; `None` when the connection broke.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Answer, Failure> {
        self.exchange(method, path, headers, body.map(|body| body.as_bytes().to_vec()))
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, Failure> {
        let mut request = self.prepare(method, path, headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        RUNTIME.block_on(async { Self::whole(request.send().await.map_err(no_answer)?).await })
    }

    /// The head of the answer to a GET, for what has no end.
    pub(super) fn respond(&self, path: &str, headers: &[(&str, &str)]) -> Result<reqwest::Response, Failure> {
        RUNTIME.block_on(async { self.prepare(Method::GET, path, headers).send().await }).map_err(no_answer)
    }

    /// The answer to a GET, without its body.
    pub fn head_of(&self, path: &str) -> Answer {
        self.head_with(path, &[])
    }

    /// The same, with more headers.
    pub fn head_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let response = self.respond(path, headers).expect("an answer");
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body: Vec::new() }
    }

    /// An answer with all of its body.
    pub(super) async fn whole(response: reqwest::Response) -> Result<Answer, Failure> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.map_err(no_answer)?.to_vec();
        Ok(Answer { status, headers, body })
    }

    fn prepare(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let mut request = HTTP.request(method, format!("{}{path}", self.url()));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }
}

/// What separates the fields of a form; no test's file holds it.
pub const BOUNDARY: &str = "0af3b8d2-kalamdb-tests";

/// A form as it goes over the wire.
pub fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        // A name that says nothing true about the file.
        let file = if *name == "file" { "; filename=\"../../report.exe\"" } else { "" };
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    bytes
}

/// A broken connection is an outcome that tests provoke; a server that hangs is a fault.
#[allow(clippy::needless_pass_by_value)] // It is given to `map_err`.
fn no_answer(error: reqwest::Error) -> Failure {
    assert!(!error.is_timeout(), "the server did not answer in time: {error}");
    Failure::NoAnswer
}

impl Answer {
    /// The body, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as a success, or as the error that it is.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if (200..300).contains(&self.status) {
            let value = serde_json::from_slice(&self.body);
            return Ok(value.unwrap_or_else(|error| panic!("{error} in the answer {}", self.text())));
        }
        Err(Failure::Refused(self.refusal()))
    }

    /// The body as the error that it is.
    #[track_caller]
    pub fn refusal(&self) -> Refusal {
        let error: ErrorBody = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer ({}) {}", self.status, self.text()));
        assert_eq!(error.error.status(), self.status, "the status of {}", error.error.as_str());
        Refusal { error }
    }
}

impl Failure {
    /// The error's code, when the server gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.error.error),
            Self::NoAnswer => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(Refusal { error }) => write!(f, "{}: {}", error.error.as_str(), error.message),
            Self::NoAnswer => f.write_str("no answer: the connection broke"),
        }
    }
}

impl std::error::Error for Failure {}

/// A message with nothing but what is needed.
pub fn message(conversation: &str, content: &str) -> SendMessageRequest {
    SendMessageRequest::new(ConversationId::new(conversation).expect("a valid id"), content)
}

/// The rows of an answer as objects, column by name.
pub fn by_name(answer: &QueryResponse) -> Vec<serde_json::Map<String, Value>> {
    let named = |row: &Vec<Value>| answer.columns.iter().cloned().zip(row.iter().cloned()).collect();
    answer.rows.iter().map(named).collect()
}

/// Each conversation row says what the messages say, in one snapshot: first, last and unread.
#[track_caller]
pub fn assert_consistent(client: &Client, user: &str) {
    let sql = format!(
        "SELECT c.conversationId, c.conversationType, c.firstMsgId, MIN(m.msgId), c.lastMsgId, MAX(m.msgId), c.unreadCount,
                COALESCE(SUM(CASE WHEN m.from <> '{user}' AND m.msgId > COALESCE(c.lastReadMsgId, 0) THEN 1 ELSE 0 END), 0)
         FROM userId.conversations c LEFT JOIN userId.messages m
           ON m.conversationId = c.conversationId AND m.conversationType = c.conversationType
         GROUP BY c.conversationId, c.conversationType, c.firstMsgId, c.lastMsgId, c.unreadCount"
    );
    for row in client.rows(&sql) {
        assert!(
            row[2] == row[3] && row[4] == row[5] && row[6] == row[7],
            "the row of a conversation is wrong: {row:?}"
        );
    }
}
