//! `GET /api/v1/ws`: subscriptions over a WebSocket.
//!
//! Two things go on at the same time in one task: [`read::read`] answers what the client says, [`write::write`] sends
//! what there is to send. So a client that does not read is still heard, and one that says nothing still sees rows.
//!
//! Invariant: whatever a client sends, it is answered, or the connection closes with a code that says why; a token goes
//! to the verifier and nowhere else. Nothing waits for a client without an end: a write by the socket's own limit
//! (`listen`), all else by the times here.

mod frame;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{pin::pin, time::Duration};

use axum::{
    Extension,
    extract::{
        State,
        ws::{
            CloseCode, CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderMap, Uri},
    response::Response,
};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _, channel::mpsc, stream};
use kalamdb_engine::LiveSession;
use kalamdb_protocol::{ClientFrame, ErrorCode, Position, ServerFrame, Unsubscribe};
use tokio::time::{sleep_until, timeout};
use utoipa::ToSchema;

use super::{
    App,
    caller::{self, Admitted},
    error::{ApiError, failures},
    listen::Stopping,
    metrics::LiveConnection,
    socket::ClientAddress,
};
use crate::auth::Denied;

/// The time that a client may take to say who it is.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which the server shows that it is there, and asks whether the client is.
const PING_INTERVAL: Duration = Duration::from_mins(1);

/// The silence after which a client is taken for gone: two pings missed.
const SILENCE: Duration = Duration::from_mins(2);

/// The wait for a client to close in return: without it the last frame may be lost on its way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Frames up to this size are read, to be refused with a sentence if they are too large to be used. Beyond it the
/// connection closes: reading more would let anybody fill the memory.
const MAX_READ_BYTES: usize = 1024 * 1024;

/// Bytes that each connection has set aside for reading. Few, because most have nothing to say.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Bytes that are gathered for one write while there is more to send.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// Answers that may wait to be sent. While as many wait, no more is read from that client.
const ANSWERS: usize = 16;

/// The close code of a connection whose token is missing, bad or over: 401, as WebSocket codes of applications go.
const UNAUTHORIZED: CloseCode = 4401;

/// The close code of a connection that was silent for too long, after 408.
const SILENT: CloseCode = 4408;

/// The close code of one connection too many, after 429.
const TOO_MANY: CloseCode = 4429;

/// The half of a connection that the client writes.
trait FromClient: Stream<Item = Result<Message, axum::Error>> + Unpin {}
impl<T: Stream<Item = Result<Message, axum::Error>> + Unpin> FromClient for T {}

/// The half of a connection that the client reads.
trait ToClient: Sink<Message, Error = axum::Error> + Unpin {}
impl<T: Sink<Message, Error = axum::Error> + Unpin> ToClient for T {}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client has gone, or takes nothing any more.
    Gone,
    /// The client sent what is no message, or more than is read.
    Unreadable,
    /// Nothing came from it.
    Silent,
    /// The client did not say who it is, or its token is not valid (any more).
    Unauthorized(Denied),
    /// There is no session for it; an error frame has said why.
    Refused(ErrorCode),
    /// The server stops.
    Stopping,
}

impl End {
    /// The close frame, if there is anybody to send it to.
    fn close(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Gone => return None,
            Self::Unreadable => (close_code::SIZE, "a message was over 1 MiB, or not as WebSocket has it".to_owned()),
            Self::Silent => (SILENT, format!("nothing came for {} seconds", SILENCE.as_secs())),
            Self::Unauthorized(denied) => (UNAUTHORIZED, format!("unauthorized: {}", denied.reason())),
            Self::Refused(ErrorCode::RateLimited) => (TOO_MANY, "too many connections".to_owned()),
            Self::Refused(code) => (close_code::ERROR, code.as_str().to_owned()),
            Self::Stopping => (close_code::AWAY, "the server stops; connect again".to_owned()),
        };
        Some(CloseFrame { code, reason: reason.into() })
    }
}

/// A frame that tells of a row: it came, it changed, or it is gone.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(example = json!({
    "type": "message",
    "id": "inbox",
    "position": {"epoch": 1, "seq": 9120, "n": 0},
    "message": {"msgId": 7_389_405_184_819_201_i64, "from": "user_alice", "content": "Hello"},
}))]
#[expect(dead_code, reason = "the document's name for what the engine writes as text")]
pub enum RowFrame {
    /// A row came, or matches now: `{"type":"message","id":"inbox","position":{…},"message":{"msgId":1}}`.
    Message {
        /// The subscription's id.
        id: String,
        /// The position to resume from after it.
        position: Position,
        /// The selected columns, and the key.
        #[schema(value_type = Object)]
        message: (),
    },
    /// A row that matched before has changed.
    Update {
        /// The subscription's id.
        id: String,
        /// The position to resume from after it.
        position: Position,
        /// The selected columns, and the key.
        #[schema(value_type = Object)]
        message: (),
    },
    /// A row is gone, or does not match any more: its key follows. A conversation alone means all of its messages.
    #[serde(rename_all = "camelCase")]
    Delete {
        /// The subscription's id.
        id: String,
        /// The position to resume from after it.
        position: Position,
        /// The message's id, for a message.
        #[schema(value_type = Option<i64>)]
        msg_id: Option<i64>,
        /// The conversation's id, for a conversation or a participant.
        conversation_id: Option<String>,
        /// The conversation's type, for a conversation.
        conversation_type: Option<String>,
        /// The participant's user id, for a participant.
        user_id: Option<String>,
        /// The owner of the row, where rows come with their owner.
        owner: Option<String>,
    },
}

failures! {
    /// Failures of a request for a WebSocket.
    WsFailures: InvalidValue, MethodNotAllowed
}

/// Becomes a WebSocket that shows rows as they come, change and go.
///
/// Frames are JSON text, one object each: a client's is a `ClientFrame`, the server's a `ServerFrame` or a `RowFrame`. The
/// client sends `auth` (first, when neither header nor query string has a
/// token), `subscribe`, `unsubscribe` and `ping`; the server sends `subscribe_ack`, `message`, `update`, `delete`,
/// `replay_complete`, `error`, `pong` and `server_ping`. A missing, bad or expired token closes with code 4401.
#[utoipa::path(
    get,
    path = "/api/v1/ws",
    tag = "live",
    security((), ("token" = []), ("tokenInQuery" = [])),
    params(("token" = Option<String>, Query, description = "The token, for clients that cannot set a header")),
    responses((status = 101, description = "It is a WebSocket from now on"), WsFailures)
)]
pub async fn ws(
    State(app): State<App>,
    Extension(stopping): Extension<Stopping>,
    Extension(client): Extension<ClientAddress>,
    headers: HeaderMap,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|_| {
        let message = "This route is for WebSockets; GET /api/v1/live has the same events for plain HTTP.";
        ApiError::new(ErrorCode::InvalidValue, message)
    })?;
    let token = caller::live_token(&headers, &uri);
    Ok(upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(MAX_READ_BYTES)
        // A message that is somewhat too long is read to its end before it is refused: a socket that closes with
        // something unread is reset, and our last words with it.
        .max_frame_size(2 * MAX_READ_BYTES)
        .on_upgrade(move |socket| serve(app, socket, token, client, stopping)))
}

/// Says how a connection ended; and who tries tokens, which the log of requests does not: they are answered already.
fn log(end: &End, ClientAddress(client): ClientAddress) {
    match end {
        End::Unauthorized(denied) if *denied != Denied::Expired => {
            tracing::info!(%client, reason = denied.reason(), "a live connection's token is refused");
        }
        end => tracing::debug!(%client, ?end, "a live connection ended"),
    }
}

async fn serve(app: App, socket: WebSocket, token: Option<String>, client: ClientAddress, mut stopping: Stopping) {
    let _open = LiveConnection::new();
    let (mut to_client, mut from_client) = socket.split();
    let end = tokio::select! {
        end = converse(&app, &mut from_client, &mut to_client, token) => end,
        () = stopping.wait() => End::Stopping,
    };
    log(&end, client);
    // A client that neither reads nor closes is left.
    timeout(CLOSE_TIMEOUT, close(&end, from_client, to_client)).await.unwrap_or_default();
}

/// Says why it ends, and waits for the client to have read that.
async fn close(end: &End, mut from_client: impl FromClient, mut to_client: impl ToClient) {
    if let Some(frame) = end.close()
        && to_client.send(Message::Close(Some(frame))).await.is_err()
    {
        return;
    }
    while let Some(Ok(_)) = from_client.next().await {}
}

/// Converses from the token to the end.
async fn converse(
    app: &App,
    from_client: &mut impl FromClient,
    to_client: &mut impl ToClient,
    token: Option<String>,
) -> End {
    let admitted = match authenticate(app, from_client, token).await {
        Ok(admitted) => admitted,
        Err(end) => return end,
    };
    let session = match app.engine().live(&admitted.caller) {
        Ok(session) => session,
        Err(error) => return refuse(error.into(), to_client).await,
    };
    let session = &session;
    let frames = pin!(stream::unfold((), move |()| async move { Some((session.next().await, ())) }));
    // Not tokio's, which sets room aside for 32 frames, in each connection that has nothing to say.
    let (answers, answered) = mpsc::channel(ANSWERS);
    tokio::select! {
        end = read::read(from_client, SILENCE, answers, |frame| answer(session, frame)) => end,
        end = write::write(to_client, PING_INTERVAL, answered, frames) => end,
        () = sleep_until(admitted.until) => End::Unauthorized(Denied::Expired),
    }
}

async fn authenticate(app: &App, from_client: &mut impl FromClient, token: Option<String>) -> Result<Admitted, End> {
    let token = match token {
        Some(token) => token,
        None => {
            timeout(AUTH_TIMEOUT, read::token(from_client)).await.unwrap_or(Err(End::Unauthorized(Denied::Missing)))?
        }
    };
    caller::admit(app, &token).map_err(End::Unauthorized)
}

async fn refuse(error: ApiError, to_client: &mut impl ToClient) -> End {
    let code = error.code();
    match to_client.send(write::text(&error.into_frame(None))).await {
        Ok(()) => End::Refused(code),
        Err(_) => End::Gone,
    }
}

/// The frame that answers another, if one does: a subscription answers through the session.
async fn answer(session: &LiveSession, frame: ClientFrame) -> Option<ServerFrame> {
    match frame {
        ClientFrame::Subscribe(request) => {
            let id = request.id.clone();
            session.subscribe(request).await.err().map(|error| ApiError::from(error).into_frame(id))
        }
        ClientFrame::Unsubscribe(Unsubscribe { id }) => {
            session.unsubscribe(&id).err().map(|error| ApiError::from(error).into_frame(Some(id)))
        }
        ClientFrame::Ping {} => Some(ServerFrame::Pong {}),
        ClientFrame::Auth(_) => {
            let message = "This connection has its user already; open another one for another token.";
            Some(ApiError::new(ErrorCode::Conflict, message).into_frame(None))
        }
    }
}
