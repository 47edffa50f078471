//! The server that people write before PostgreSQL: it checks the token, asks one statement, and answers its rows as JSON.
//! A process of its own (`kalamdb-bench thin`), because it is measured.
//!
//! Invariant: it does as little as such a server can: no framework, no statement planned twice, connections kept. What
//! PostgreSQL behind HTTP is slower at than KalamDB is not this server's clumsiness.

mod wire;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) use self::wire::NAME;
use self::wire::Pool;
use crate::{Failure, tokens::Checker};

/// Connections to PostgreSQL: enough for every core and every wait for the disk, few enough for its locks.
const CONNECTIONS: usize = 32;

/// The statements, each with a check that the user (`$1`) is a member. `pgbench` asks the same.
pub(crate) const STATEMENTS: [&str; 5] = [
    "INSERT INTO messages (conversation_id, sender, sent_at, content) \
     SELECT $2, $1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $3 \
     WHERE EXISTS (SELECT FROM members WHERE user_id = $1 AND conversation_id = $2) RETURNING msg_id",
    "SELECT msg_id, sender, sent_at, content FROM messages WHERE conversation_id = $2 \
     AND EXISTS (SELECT FROM members WHERE user_id = $1 AND conversation_id = $2) ORDER BY msg_id DESC LIMIT 50",
    "SELECT msg_id, sender, sent_at, content FROM messages WHERE msg_id = $2::bigint AND EXISTS \
     (SELECT FROM members WHERE user_id = $1 AND conversation_id = messages.conversation_id)",
    "SELECT conversation_id, msg_id, sent_at, last_read_msg_id FROM members, LATERAL (SELECT msg_id, sent_at \
     FROM messages WHERE messages.conversation_id = members.conversation_id ORDER BY msg_id DESC LIMIT 1) AS last \
     WHERE user_id = $1 ORDER BY msg_id DESC LIMIT 50",
    "UPDATE members SET last_read_msg_id = $3::bigint WHERE user_id = $1 AND conversation_id = $2 \
     RETURNING last_read_msg_id",
];

const SEND: usize = 0;
const PAGE: usize = 1;
const LOOKUP: usize = 2;
const INBOX: usize = 3;
const MARK_READ: usize = 4;

/// What the server is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The socket of PostgreSQL
    #[arg(long)]
    socket: PathBuf,
    /// The port to listen at, on the loopback address
    #[arg(long)]
    port: u16,
}

struct Thin {
    pool: Pool,
    checker: Checker,
}

/// Serves until it is killed.
pub(crate) fn serve(arguments: &Arguments) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let pool = Pool::open(&arguments.socket, CONNECTIONS, &STATEMENTS).await?;
        let thin = Arc::new(Thin { pool, checker: Checker::new() });
        let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let thin = Arc::clone(&thin);
            let service = service_fn(move |request| {
                let thin = Arc::clone(&thin);
                // A task of its own: a client that goes away must not take a connection with it in the middle of an answer.
                tokio::spawn(async move { thin.answer(request).await })
            });
            // A client that goes away ends its connection, which is nobody's failure.
            tokio::spawn(
                async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok() },
            );
        }
    })
}

impl Thin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/health" {
            return json_response(200, &json!({ "status": "ok" }));
        }
        let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let Some(user) = authorization.and_then(|header| self.checker.user(header)) else {
            return json_response(401, &json!({ "error": "no valid token" }));
        };
        match self.ask(&user, request).await {
            Ok(rows) if rows.is_empty() => json_response(403, &json!({ "error": "no member, or nothing there" })),
            Ok(rows) => response(200, [br#"{"rows":["#, rows.as_slice(), b"]}"].concat().into()),
            Err(Failure(why)) => json_response(500, &json!({ "error": why })),
        }
    }

    /// `POST /messages`, `GET /conversations/ID`, `GET /messages/ID`, `GET /conversations`, `POST /read`.
    async fn ask(&self, user: &str, request: Request<Incoming>) -> Result<Vec<u8>, Failure> {
        let path = request.uri().path().to_owned();
        if request.method() == Method::POST {
            let body = request.into_body().collect().await?.to_bytes();
            let body: Value = serde_json::from_slice(&body).map_err(|error| Failure(error.to_string()))?;
            let conversation = body["conversationId"].as_str().unwrap_or_default();
            return match path.as_str() {
                "/messages" => {
                    let text = body["content"].as_str().unwrap_or_default();
                    self.pool.rows(SEND, &[user, conversation, text]).await
                }
                _ => self.pool.rows(MARK_READ, &[user, conversation, &body["msgId"].to_string()]).await,
            };
        }
        if let Some(conversation) = path.strip_prefix("/conversations/") {
            return self.pool.rows(PAGE, &[user, conversation]).await;
        }
        match path.strip_prefix("/messages/") {
            Some(message) => self.pool.rows(LOOKUP, &[user, message]).await,
            None => self.pool.rows(INBOX, &[user]).await,
        }
    }
}

fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    response(status, body.to_string().into())
}

fn response(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status.try_into().unwrap_or_default();
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}
