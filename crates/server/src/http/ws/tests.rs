//! One connection's two halves, over channels in place of a socket: what is said to whom, and how each ends.

use std::{future::ready, time::Duration};

use axum::extract::ws::{CloseCode, Message};
use futures::{
    SinkExt as _, StreamExt as _,
    channel::mpsc::{Receiver, Sender, channel},
    stream,
};
use kalamdb_engine::LiveFrame;
use kalamdb_protocol::{ClientFrame, ErrorCode, ServerFrame};
use serde_json::Value;

use super::{ANSWERS, End, close, frame, read, write};
use crate::auth::Denied;

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(1);

type FromClient = Receiver<Result<Message, axum::Error>>;

/// What a client has said, all of it, before it went.
fn said(messages: Vec<Message>) -> impl super::FromClient {
    stream::iter(messages.into_iter().map(Ok))
}

/// A client that says nothing and stays.
fn silent() -> (Sender<Result<Message, axum::Error>>, FromClient) {
    channel(1)
}

/// A socket that takes so many messages before it waits for them to be taken on.
fn socket(room: usize) -> (impl super::ToClient, Receiver<Message>) {
    let (sender, receiver) = channel(room);
    (sender.sink_map_err(axum::Error::new), receiver)
}

fn value(frame: &ServerFrame) -> Value {
    serde_json::to_value(frame).unwrap()
}

fn text(message: &Message) -> &str {
    message.to_text().unwrap()
}

fn rows(number: usize) -> Vec<LiveFrame> {
    (0..number).map(|n| LiveFrame { kind: "message", position: None, text: n.to_string() }).collect()
}

#[test]
fn a_frame_is_read_or_complained_about() {
    let complaint = |text: &str| value(&frame::read(text).unwrap_err());
    assert_eq!(frame::read(r#"{"type":"ping"}"#).unwrap(), ClientFrame::Ping {});
    let frame = frame::read(r#"{"type":"subscribe","id":"a","sql":"SELECT 1","params":{"x":1}}"#).unwrap();
    assert!(matches!(frame, ClientFrame::Subscribe(subscribe) if subscribe.id.as_deref() == Some("a")));
    insta::assert_snapshot!(
        [
            complaint(""),
            complaint("subscribe"),
            complaint("[]"),
            complaint("{}"),
            complaint(r#"{"type":"shout the secret"}"#),
            complaint(r#"{"type":7}"#),
            complaint(r#"{"type":"ping","the secret":1}"#),
            complaint(r#"{"type":"unsubscribe"}"#),
            complaint(r#"{"type":"subscribe","id":"a","conversation":"c"}"#),
            complaint(r#"{"type":"subscribe","id":"a","lastMsgId":"the secret"}"#),
            complaint(r#"{"type":"subscribe","id":"a","after":{"epoch":1,"seq":2}}"#),
            complaint(r#"{"type":"subscribe","id":7}"#),
            complaint(&format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(frame::MAX_BYTES))),
            value(&frame::binary()),
        ]
        .map(|frame| frame.to_string())
        .join("\n")
    );
}

#[tokio::test]
async fn every_frame_is_answered_in_order_and_none_ends_the_connection() {
    let messages = vec![
        Message::text(r#"{"type":"ping"}"#),
        Message::Ping("x".into()),
        Message::text("{"),
        Message::binary(vec![0]),
        Message::Pong("x".into()),
        Message::text(r#"{"type":"unsubscribe","id":"a"}"#),
        Message::text(r#"{"type":"ping"}"#),
        Message::Close(None),
    ];
    let (answers, mut answered) = channel(ANSWERS);
    let answer = |frame| ready(matches!(frame, ClientFrame::Ping {}).then_some(ServerFrame::Pong {}));
    let end = read::read(&mut said(messages), LONG, answers, answer).await;
    assert!(matches!(end, End::Gone));
    let mut told = Vec::new();
    while let Some(frame) = answered.next().await {
        told.push(value(&frame)["type"].clone());
    }
    assert_eq!(told, ["pong", "error", "error", "pong"]);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_taken_for_gone() {
    let (_client, mut from_client) = silent();
    let (answers, _answered) = channel(ANSWERS);
    let end = read::read(&mut from_client, SHORT, answers, |_| ready(None)).await;
    assert!(matches!(end, End::Silent));
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection() {
    let (answers, _answered) = channel(ANSWERS);
    let mut broken = stream::iter([Err(axum::Error::new("too long"))]);
    let end = read::read(&mut broken, LONG, answers, |_| ready(None)).await;
    assert!(matches!(end, End::Unreadable));
}

#[tokio::test]
async fn the_first_frame_is_the_token() {
    let token = async |messages: Vec<Message>| read::token(&mut said(messages)).await;
    let auth = Message::text(r#"{"type":"auth","token":"t"}"#);
    assert_eq!(token(vec![Message::Ping("x".into()), auth.clone()]).await.unwrap(), "t");
    for first in [Message::text(r#"{"type":"ping"}"#), Message::text("{"), Message::binary(vec![0])] {
        let refused = token(vec![first, auth.clone()]).await;
        assert!(matches!(refused, Err(End::Unauthorized(Denied::Missing))));
    }
    assert!(matches!(token(vec![Message::Close(None), auth]).await, Err(End::Gone)));
}

#[tokio::test]
async fn answers_come_before_rows_and_rows_keep_their_order() {
    let (mut to_client, sent) = socket(1_000);
    let (mut answers, answered) = channel(ANSWERS);
    answers.try_send(ServerFrame::Pong {}).unwrap();
    let frames = stream::iter(rows(200)).chain(stream::pending());
    let taking = sent.take(201).map(|message| text(&message).to_owned()).collect::<Vec<_>>();
    let taken = tokio::select! {
        _ = write::write(&mut to_client, LONG, answered, Box::pin(frames)) => panic!("nothing broke"),
        taken = taking => taken,
    };
    assert_eq!(taken[0], r#"{"type":"pong"}"#);
    assert!(taken[1..].iter().enumerate().all(|(n, text)| *text == n.to_string()), "{taken:?}");
}

#[tokio::test]
async fn the_server_shows_that_it_is_there_and_asks() {
    let (mut to_client, sent) = socket(8);
    let (_answers, answered) = channel(ANSWERS);
    let two = sent.take(2).collect::<Vec<_>>();
    let two = tokio::select! {
        _ = write::write(&mut to_client, SHORT, answered, stream::pending()) => panic!("nothing broke"),
        two = two => two,
    };
    assert_eq!(text(&two[0]), r#"{"type":"server_ping"}"#);
    assert!(matches!(two[1], Message::Ping(_)));
}

#[tokio::test]
async fn writing_ends_with_a_socket_that_takes_nothing_any_more() {
    let (mut to_client, sent) = socket(1);
    drop(sent);
    let (_answers, answered) = channel(ANSWERS);
    let end = write::write(&mut to_client, LONG, answered, stream::iter(rows(1))).await;
    assert!(matches!(end, End::Gone));
}

#[tokio::test]
async fn each_end_has_its_code_and_a_reason_that_fits() {
    let ends: [(End, Option<CloseCode>); 8] = [
        (End::Gone, None),
        (End::Unreadable, Some(1009)),
        (End::Silent, Some(4408)),
        (End::Unauthorized(Denied::Missing), Some(4401)),
        (End::Unauthorized(Denied::Expired), Some(4401)),
        (End::Refused(ErrorCode::RateLimited), Some(4429)),
        (End::Refused(ErrorCode::Internal), Some(1011)),
        (End::Stopping, Some(1001)),
    ];
    for (end, code) in ends {
        let (to_client, mut sent) = socket(1);
        close(&end, said(vec![]), to_client).await;
        let told = sent.next().await.map(|message| match message {
            // A control frame holds 125 bytes, two of them the code.
            Message::Close(Some(close)) if close.reason.len() <= 123 => close.code,
            other => panic!("{other:?}"),
        });
        assert_eq!(told, code, "{end:?}");
    }
}
