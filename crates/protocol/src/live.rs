//! The frames of a live connection: JSON text, one object each.
//!
//! Invariant: unknown fields of a client's frame are refused, so that a misspelt one never silently means its default.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{ConversationId, ConversationType, ErrorCode, MsgId, Params};

/// A place in the history of a server's commits: what lies after it has not been seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"epoch": 1, "seq": 9120, "n": 0}))]
pub struct Position {
    /// The run of commit numbers that `seq` is of.
    pub epoch: u64,
    /// The commit's number.
    pub seq: u64,
    /// The change within it.
    pub n: u32,
}

/// The frames of a client: `{"type":"ping"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(example = json!({"type": "subscribe", "id": "inbox", "conversationId": "conv_123"}))]
pub enum ClientFrame {
    /// The client's token, when neither header nor query string had one; the first frame.
    Auth(Auth),
    /// A subscription to rows, from now on.
    Subscribe(Subscribe),
    /// The end of a subscription.
    Unsubscribe(Unsubscribe),
    /// Are you there?
    Ping {},
}

/// A token in a frame: `{"type":"auth","token":"…"}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The token's text.
    pub token: String,
}

impl std::fmt::Debug for Auth {
    /// Never the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

/// A subscription: `{"type":"subscribe","id":"inbox","sql":"SELECT content FROM messages"}`. With neither `sql` nor
/// `conversationId` it is to all of one's own messages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subscribe {
    /// The client's name for it; the server makes one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A projection and a filter over one table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The values of the statement's placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
    /// The messages of one conversation, without SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<ConversationId>,
    /// The conversation's type, where both exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_type: Option<ConversationType>,
    /// First the messages with higher ids than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub last_msg_id: Option<MsgId>,
    /// First everything since that position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Position>,
}

/// The end of a subscription: `{"type":"unsubscribe","id":"inbox"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Unsubscribe {
    /// The subscription's id.
    pub id: String,
}

/// The frames of the server: `{"type":"pong"}`. Those with rows are written by whoever has the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(example = json!({"type": "subscribe_ack", "id": "inbox", "position": {"epoch": 1, "seq": 9120, "n": 0}}))]
pub enum ServerFrame {
    /// The subscription stands; what it tells comes after this position.
    SubscribeAck {
        /// The subscription's id.
        id: String,
        /// The position from which the client is told.
        position: Position,
    },
    /// Everything from before has been told; what follows happens now.
    ReplayComplete {
        /// The subscription's id.
        id: String,
        /// The number of rows that were told.
        #[serde(rename = "messageCount")]
        message_count: u64,
        /// The highest message id that was told, or the client's own when there was none.
        #[serde(rename = "lastMsgId", default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<i64>)]
        last_msg_id: Option<MsgId>,
    },
    /// The answer to a client's ping.
    Pong {},
    /// The server's question whether the client is there.
    ServerPing {},
    /// Something is wrong: with a subscription, or with a frame that names none.
    Error {
        /// The subscription's id, where the error ends one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The error's code, for a program.
        code: LiveErrorCode,
        /// The sentence, from which a person learns what to do.
        error: String,
        /// Values for a program, by the code.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        #[schema(value_type = Object)]
        details: Map<String, Value>,
    },
}

/// The codes of errors on a live connection: those of requests, and one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum LiveErrorCode {
    /// A code that requests have too.
    Request(ErrorCode),
    /// The one that only subscriptions have.
    Lagged(Lagged),
}

/// The subscription has ended, because the client did not keep up or was away too long: `details.resumeAfter` is the
/// position to subscribe after, or `details.resync` says that everything must be read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lagged {
    /// The only one.
    Lagged,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn frames_are_written_as_the_contract_has_them() {
        let position = Position { epoch: 1, seq: 2, n: 3 };
        let ack = ServerFrame::SubscribeAck { id: "inbox".to_owned(), position };
        let expected = json!({"type": "subscribe_ack", "id": "inbox", "position": {"epoch": 1, "seq": 2, "n": 3}});
        assert_eq!(serde_json::to_value(ack).unwrap(), expected);
        assert_eq!(serde_json::to_value(ServerFrame::ServerPing {}).unwrap(), json!({"type": "server_ping"}));
        let done = ServerFrame::ReplayComplete { id: "i".to_owned(), message_count: 15, last_msg_id: Some(9) };
        let expected = json!({"type": "replay_complete", "id": "i", "messageCount": 15, "lastMsgId": 9});
        assert_eq!(serde_json::to_value(done).unwrap(), expected);
        for (code, text) in [
            (LiveErrorCode::Lagged(Lagged::Lagged), "lagged"),
            (LiveErrorCode::Request(ErrorCode::SyntaxError), "syntax_error"),
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), text);
        }
    }

    #[test]
    fn a_client_s_frames_are_read_and_misspelt_ones_are_not() {
        let frame = json!({"type": "subscribe", "conversationId": "c1", "after": {"epoch": 1, "seq": 2, "n": 0}});
        let ClientFrame::Subscribe(subscribe) = serde_json::from_value(frame).unwrap() else { panic!() };
        assert_eq!(subscribe.conversation_id.unwrap().as_str(), "c1");
        for bad in [
            json!({"type": "subscribe", "conversation": "c1"}),
            json!({"type": "shout"}),
            json!({"type": "unsubscribe"}),
            json!([]),
        ] {
            assert!(serde_json::from_value::<ClientFrame>(bad.clone()).is_err(), "{bad}");
        }
    }
}
