//! The server's half of a WebSocket: frames that go out.
//!
//! Invariant: what waits to be sent waits where it is bounded (the session's queue, the channel of answers): here is
//! never more than one write's worth.

use std::{convert::Infallible, time::Duration};

use axum::extract::ws::Message;
use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, Stream, StreamExt as _};
use kalamdb_engine::LiveFrame;
use kalamdb_protocol::ServerFrame;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{End, ToClient};

/// Frames that go out together, at most: so that answers and pings get their turn in a flood of rows.
const TOGETHER: usize = 64;

/// Writes until the connection breaks, or stops taking anything.
pub async fn write(
    to_client: &mut impl ToClient,
    ping_interval: Duration,
    answers: impl Stream<Item = ServerFrame> + Unpin,
    frames: impl Stream<Item = LiveFrame> + Unpin,
) -> End {
    match try_write(to_client, ping_interval, answers, frames).await {
        Ok(never) => match never {},
        // All failures mean the same: the client is not reached.
        Err(_) => End::Gone,
    }
}

async fn try_write(
    to_client: &mut impl ToClient,
    ping_interval: Duration,
    mut answers: impl Stream<Item = ServerFrame> + Unpin,
    mut frames: impl Stream<Item = LiveFrame> + Unpin,
) -> Result<Infallible, axum::Error> {
    let mut pings = interval_at(Instant::now() + ping_interval, ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(answer) = answers.next() => to_client.feed(text(&answer)).await?,
            _ = pings.tick() => {
                to_client.feed(text(&ServerFrame::ServerPing {})).await?;
                // Every WebSocket answers this ping by itself: a client need not say anything to be heard.
                to_client.feed(Message::Ping(Bytes::new())).await?;
            }
            Some(frame) = frames.next() => {
                to_client.feed(Message::text(frame.text)).await?;
                for _ in 1..TOGETHER {
                    let Some(Some(frame)) = frames.next().now_or_never() else { break };
                    to_client.feed(Message::text(frame.text)).await?;
                }
            }
        }
        to_client.flush().await?;
    }
}

/// A frame, as it goes out.
pub fn text(frame: &ServerFrame) -> Message {
    Message::text(serde_json::to_string(frame).expect("a frame is plain data, which serialises"))
}
