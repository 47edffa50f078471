//! The client's half of a WebSocket: frames that come in.
//!
//! Invariant: every frame is answered or ends the connection, in the order in which they came; a frame that cannot be
//! used ends nothing.

use std::time::Duration;

use axum::extract::ws::Message;
use futures::{SinkExt as _, StreamExt as _, channel::mpsc};
use kalamdb_protocol::{Auth, ClientFrame, ServerFrame};
use tokio::time::timeout;

use super::{End, FromClient, frame};
use crate::auth::Denied;

/// Reads until the connection ends. `answer` says what to say to a frame, if anything.
pub async fn read<A>(
    from_client: &mut impl FromClient,
    silence: Duration,
    mut answers: mpsc::Sender<ServerFrame>,
    answer: impl Fn(ClientFrame) -> A,
) -> End
where
    A: Future<Output = Option<ServerFrame>>,
{
    loop {
        let Ok(message) = timeout(silence, from_client.next()).await else { return End::Silent };
        let said = match message {
            Some(Ok(Message::Text(text))) => match frame::read(&text) {
                Ok(frame) => answer(frame).await,
                Err(complaint) => Some(complaint),
            },
            Some(Ok(Message::Binary(_))) => Some(frame::binary()),
            // Signs of life; the library answers pings itself.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
            Some(Ok(Message::Close(_))) | None => return End::Gone,
            Some(Err(_)) => return End::Unreadable,
        };
        if let Some(frame) = said
            && answers.send(frame).await.is_err()
        {
            return End::Gone;
        }
    }
}

/// The token of the first frame. Nothing else is listened to before it.
pub async fn token(from_client: &mut impl FromClient) -> Result<String, End> {
    loop {
        return match from_client.next().await {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Text(text))) => match frame::read(&text) {
                Ok(ClientFrame::Auth(Auth { token })) => Ok(token),
                _ => Err(End::Unauthorized(Denied::Missing)),
            },
            Some(Ok(Message::Binary(_))) => Err(End::Unauthorized(Denied::Missing)),
            Some(Ok(Message::Close(_))) | None => Err(End::Gone),
            Some(Err(_)) => Err(End::Unreadable),
        };
    }
}
