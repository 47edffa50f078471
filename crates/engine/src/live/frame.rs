//! The frames that a subscription sends, as text.
//!
//! Invariant: a row's text is written once, by its filter, and copied into each frame as it is.

use std::sync::Arc;

use kalamdb_protocol::{ConversationId, Lagged, LiveErrorCode, MsgId, Position, ServerFrame, UserId};
use kalamdb_store::ConversationKey;
use serde_json::{Map, Value, json};

use super::LiveFrame;
use crate::Error;

/// The news of one row; the same for all subscriptions of a filter.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// A row that is new to the clients, because it came or is wanted only now: its text, `{"msgId":5,"content":"hi"}`.
    Message(Arc<str>),
    /// A row that the clients have, and that has changed: its text.
    Update(Arc<str>),
    /// A row that is gone, or all those of a conversation: the fields of its key, `"msgId":5`.
    Delete(String),
}

impl News {
    fn kind(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
        }
    }

    /// The frame for the subscription of that id, which is JSON text already:
    /// `{"type":"message","id":"s1","position":{"epoch":1,"seq":7,"n":0},"message":{"msgId":5,"content":"hi"}}`.
    pub fn frame(&self, id: &str, position: Position) -> LiveFrame {
        let kind = self.kind();
        let Position { epoch, seq, n } = position;
        let place = format!(r#""position":{{"epoch":{epoch},"seq":{seq},"n":{n}}}"#);
        let text = match self {
            Self::Message(row) | Self::Update(row) => {
                format!(r#"{{"type":"{kind}","id":{id},{place},"message":{row}}}"#)
            }
            Self::Delete(key) => format!(r#"{{"type":"{kind}","id":{id},{place},{key}}}"#),
        };
        LiveFrame { kind, position: Some(position), text }
    }
}

/// The key of a row that is gone, with its owner where rows come with theirs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key<'a> {
    Message(MsgId),
    Conversation(&'a ConversationKey),
    Participant(&'a UserId, &'a ConversationId),
    /// All participants of a group.
    Participants(&'a ConversationId),
}

impl Key<'_> {
    pub fn gone(self, owner: Option<&UserId>) -> News {
        let mut fields = match self {
            Self::Message(msg_id) => json!({"msgId": msg_id}),
            Self::Conversation(key) => {
                json!({"conversationId": key.id.as_str(), "conversationType": key.kind.as_str()})
            }
            Self::Participant(user, group) => json!({"userId": user.as_str(), "conversationId": group.as_str()}),
            Self::Participants(group) => json!({"conversationId": group.as_str()}),
        };
        if let Some(owner) = owner {
            fields["owner"] = owner.as_str().into();
        }
        let object = fields.to_string();
        News::Delete(object[1..object.len() - 1].to_owned())
    }
}

/// The answer to a subscription that stands:
/// `{"type":"subscribe_ack","id":"s1","position":{"epoch":1,"seq":7,"n":4294967295}}`.
pub(super) fn ack(id: &str, told: Position, resumable: bool) -> LiveFrame {
    let frame = ServerFrame::SubscribeAck { id: id.to_owned(), position: told };
    written("subscribe_ack", resumable.then_some(told), &frame)
}

/// The end of a replay: `{"type":"replay_complete","id":"s1","messageCount":15,"lastMsgId":8601}`.
pub(super) fn replay_complete(id: &str, here: Position, message_count: u64, last_msg_id: Option<MsgId>) -> LiveFrame {
    let frame = ServerFrame::ReplayComplete { id: id.to_owned(), message_count, last_msg_id };
    written("replay_complete", Some(here), &frame)
}

/// The end of a subscription because of an error:
/// `{"type":"error","id":"s1","code":"query_timeout","error":"…","details":{…}}`.
pub(super) fn failed(id: &str, error: Error) -> LiveFrame {
    let Error { code, message, details } = error;
    let frame =
        ServerFrame::Error { id: Some(id.to_owned()), code: LiveErrorCode::Request(code), error: message, details };
    written("error", None, &frame)
}

/// The end of a subscription whose client did not keep up: it resumes from `told`, and a replay by id that was not done
/// goes on from `last_msg_id`:
/// `{"type":"error","id":"s1","code":"lagged",…,"details":{"resumeAfter":{"epoch":1,"seq":7,"n":0}}}`.
pub(super) fn lagged(id: &str, told: Position, last_msg_id: Option<MsgId>) -> LiveFrame {
    let mut details = Map::from_iter([("resumeAfter".to_owned(), json!(told))]);
    details.extend(last_msg_id.map(|id| ("lastMsgId".to_owned(), json!(id))));
    let sentence = if last_msg_id.is_none() {
        "This client did not take what it was sent, so the subscription has ended; subscribe again with \
         details.resumeAfter as `after`."
    } else {
        "This client did not take what it was sent, so the subscription has ended; subscribe again with \
         details.resumeAfter as `after` and details.lastMsgId as `lastMsgId`."
    };
    lagged_with(id, sentence, details)
}

/// The refusal of a position that the change log does not reach any more: `"code":"lagged"`, `"details":{"resync":true}`.
pub(super) fn resync(id: &str) -> LiveFrame {
    let sentence = "What came after that position is not known any more; read everything anew, and subscribe without \
                    `after`.";
    lagged_with(id, sentence, Map::from_iter([("resync".to_owned(), Value::Bool(true))]))
}

fn lagged_with(id: &str, sentence: &str, details: Map<String, Value>) -> LiveFrame {
    let frame = ServerFrame::Error {
        id: Some(id.to_owned()),
        code: LiveErrorCode::Lagged(Lagged::Lagged),
        error: sentence.to_owned(),
        details,
    };
    written("error", None, &frame)
}

fn written(kind: &'static str, position: Option<Position>, frame: &ServerFrame) -> LiveFrame {
    let text = serde_json::to_string(frame).unwrap_or_else(|_| {
        tracing::error!(kind, "a frame that does not serialise");
        r#"{"type":"error","code":"internal","error":"The server made a mistake; its log says more."}"#.to_owned()
    });
    LiveFrame { kind, position, text }
}
