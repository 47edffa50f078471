//! The bodies of the HTTP API, in camelCase.
//!
//! Invariant: unknown fields are refused, so that a misspelt one never silently means its default.

use std::collections::BTreeMap;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, SeqAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{ConversationId, ConversationType, Micros, MsgId, UserId, values};

/// `POST /api/v1/query`: one SQL statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "sql": "SELECT msgId, content FROM messages WHERE conversationId = $1 ORDER BY msgId DESC LIMIT 50",
    "params": ["conv_123"],
}))]
pub struct QueryRequest {
    /// The statement's text.
    pub sql: String,
    /// The values of its placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
}

/// The values of a statement's placeholders.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Params {
    /// Values for `$1`, `$2`, …: `[5, "hi"]`.
    Positional(Vec<Value>),
    /// Values for `$name`: `{"name": "hi"}`.
    #[schema(value_type = Object)]
    Named(BTreeMap<String, Value>),
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match values::collection(deserializer)? {
            Value::Object(named) => Ok(Self::Named(named.into_iter().collect())),
            Value::Array(positional) => Ok(Self::Positional(positional)),
            _ => Err(D::Error::invalid_type(Unexpected::Other("a single value"), &"an array or object")),
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "columns": ["msgId", "content"],
    "types": ["BIGINT", "VARCHAR"],
    "rows": [[7_389_405_184_819_201_i64, "Hello"]],
    "rowCount": 1,
    "truncated": false,
    "executionTimeMs": 1.4,
}))]
pub struct QueryResponse {
    /// Column names, in order.
    pub columns: Vec<String>,
    /// SQL type names (`BIGINT`, `VARCHAR`, …), in the same order.
    pub types: Vec<String>,
    /// The rows, each an array in column order.
    pub rows: Vec<Vec<Value>>,
    /// The number of rows in this answer.
    pub row_count: usize,
    /// Whether `query.max_rows` cut the answer.
    pub truncated: bool,
    /// The time that the statement took, in milliseconds.
    pub execution_time_ms: f64,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"rowsAffected": 1, "msgIds": [7_389_405_184_819_201_i64], "executionTimeMs": 0.8}))]
pub struct WriteResponse {
    /// Rows of the named table that changed; a group send counts as one.
    pub rows_affected: u64,
    /// The ids of inserted messages, in the order of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<i64>>)]
    pub msg_ids: Option<Vec<MsgId>>,
    /// Whether a conversation began with a message of this INSERT; absent when none did.
    #[serde(default, skip_serializing_if = "is_false")]
    pub conversation_created: bool,
    /// The time that the statement took, in milliseconds.
    pub execution_time_ms: f64,
}

/// `POST /api/v1/messages`: one message, or several, which are sent together or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SendRequest {
    /// `{"conversationId": "c1", "content": "Hello"}`.
    One(SendMessageRequest),
    /// `[{"conversationId": "c1", "content": "Hello"}, {"conversationId": "c1", "content": "again"}]`.
    Many(Vec<SendMessageRequest>),
}

impl SendRequest {
    /// The messages, in the order in which they are sent.
    #[must_use]
    pub fn into_messages(self) -> Vec<SendMessageRequest> {
        match self {
            Self::One(message) => vec![message],
            Self::Many(messages) => messages,
        }
    }

    /// The messages, in the order in which they are sent.
    #[must_use]
    pub fn messages(&self) -> &[SendMessageRequest] {
        match self {
            Self::One(message) => std::slice::from_ref(message),
            Self::Many(messages) => messages,
        }
    }
}

impl From<SendMessageRequest> for SendRequest {
    fn from(message: SendMessageRequest) -> Self {
        Self::One(message)
    }
}

// By hand, because an error of a derived one says of what shape the body is not, and not what is wrong in it and where.
impl<'de> Deserialize<'de> for SendRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = SendRequest;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a message or an array of messages")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                SendMessageRequest::deserialize(MapAccessDeserializer::new(fields)).map(SendRequest::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                let mut messages = Vec::new();
                while let Some(Element(message)) = elements.next_element()? {
                    messages.push(message);
                }
                Ok(SendRequest::Many(messages))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

/// A message in an array: an object, where the derived reader would take an array of its fields, too.
struct Element(SendMessageRequest);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Element;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                SendMessageRequest::deserialize(MapAccessDeserializer::new(fields)).map(Element)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The outcome of a send: of one message as an object, of several as an array in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SendResponse {
    /// Of one message.
    One(SendMessageResponse),
    /// Of several.
    Many(Vec<SendMessageResponse>),
}

/// One message to send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"conversationId": "conv_123", "content": "Hello", "metadata": {"role": "user"}}))]
pub struct SendMessageRequest {
    /// The conversation that it goes to.
    pub conversation_id: ConversationId,
    /// The message's text.
    pub content: String,
    /// The conversation's type. When absent: the group of that id the caller is in, else their AI conversation, else
    /// the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_type: Option<ConversationType>,
    /// The sender; the caller when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The id to give it; generated when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub msg_id: Option<MsgId>,
    /// The time of sending: seconds, milliseconds or microseconds; now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// A file of the same conversation: what an upload answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_ref: Option<String>,
    /// Anything the application wants to keep beside it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "values::optional_object")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// The outcome of a message that was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "msgId": 7_389_405_184_819_201_i64,
    "conversationId": "conv_123",
    "timestamp": 1_760_000_000_000_000_i64,
    "status": "stored",
}))]
pub struct SendMessageResponse {
    /// The message's id.
    #[schema(value_type = i64)]
    pub msg_id: MsgId,
    /// The conversation that it went to.
    pub conversation_id: ConversationId,
    /// The time of sending, in microseconds.
    #[schema(value_type = i64)]
    pub timestamp: Micros,
    /// Whether the conversation began with this message, as it does where its id is misspelt; absent when it did not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub conversation_created: bool,
    /// Always `stored`: it survives what `rocksdb.durability` promises.
    pub status: SendStatus,
}

/// The status of a message that was sent: there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SendStatus {
    /// On disk, for every participant.
    Stored,
}

/// The answer to `POST /api/v1/media/upload`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "contentRef": "user_john/media-7389405184819200.jpg",
    "metadata": {"mediaType": "image/jpeg", "fileSize": 1_840_123, "width": 4032, "height": 3024},
}))]
pub struct UploadResponse {
    /// The reference by which the `contentRef` of a message names the file.
    pub content_ref: String,
    /// Whether the conversation began with this upload, as it does where its id is misspelt; absent when it did not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub conversation_created: bool,
    /// The facts that the server found out about the file.
    pub metadata: MediaMetadata,
}

/// `POST /api/v1/content/link`: for an address that reads one content file without a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"contentRef": "user_john/media-7389405184819200.jpg", "ttlSeconds": 600}))]
pub struct ContentLinkRequest {
    /// The reference of an upload, of its thumbnail, or of a large text.
    pub content_ref: String,
    /// The seconds for which the link is good, at most 14,400; 600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 14_400)]
    pub ttl_seconds: Option<u64>,
}

/// The answer to `POST /api/v1/content/link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "url": "/api/v1/content/user_john/media-7389405184819200.jpg?link=eyJ0eXAi.eyJ1c2Vy.bG9uZ2Vy",
    "expiresAt": 1_760_000_600_000_000_i64,
}))]
pub struct ContentLinkResponse {
    /// The address, without the server's own: a page puts before it what its other requests go to.
    pub url: String,
    /// The end of the link, in microseconds: never later than that of the token which asked for it.
    #[schema(value_type = i64)]
    pub expires_at: Micros,
}

/// The facts that the server found out about an upload; a client may put them into the message's `metadata`, beside its
/// own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MediaMetadata {
    /// The MIME type, by the first bytes.
    pub media_type: String,
    /// The size in bytes.
    pub file_size: u64,
    /// A picture's width in pixels, as it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// A picture's height in pixels, as it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// The `contentRef` of a small picture of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail_ref: Option<String>,
    /// The playing time of a sound or video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
}

/// `GET /api/v1/health` and `GET /api/v1/health/ready`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"status": "ok", "version": "0.1.0", "uptime": 3600, "ready": true}))]
pub struct Health {
    /// Always `ok`; a server that is not does not answer.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// Whether the server takes writes.
    pub ready: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl SendMessageRequest {
    /// A message with nothing but what is needed.
    #[must_use]
    pub fn new(conversation_id: ConversationId, content: impl Into<String>) -> Self {
        Self {
            conversation_id,
            content: content.into(),
            conversation_type: None,
            from: None,
            msg_id: None,
            timestamp: None,
            content_ref: None,
            metadata: None,
        }
    }

    /// Makes `sender` the message's sender.
    #[must_use]
    pub fn from_user(self, sender: &UserId) -> Self {
        Self { from: Some(sender.as_str().to_owned()), ..self }
    }
}
