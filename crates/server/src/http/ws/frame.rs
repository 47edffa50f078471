//! A client's frame: JSON text, one object.
//!
//! Invariant: what cannot be used is answered with a sentence that names the place in the frame, never what stands
//! there; unknown fields are refused, so that a misspelt one never silently means its default.

use kalamdb_protocol::{ClientFrame, ErrorCode, ServerFrame};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::{body::explain, error::ApiError};

/// The largest frame that means something. A subscription is a statement and its parameters, and both are written by
/// hand or by a program that lists conversations: 64 KiB holds a thousand ids.
pub const MAX_BYTES: usize = 64 * 1024;

const TYPES: &str = "A frame has a `type`: `auth`, `subscribe`, `unsubscribe` or `ping`.";

/// The frame of a text, or the error frame that answers it.
pub fn read(text: &str) -> Result<ClientFrame, ServerFrame> {
    if text.len() > MAX_BYTES {
        let message = format!("A frame may hold {MAX_BYTES} bytes at most.");
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, message).with("maxBytes", MAX_BYTES).into_frame(None));
    }
    let mut fields: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| explain("frame", ".", &error).into_frame(None))?;
    // Whoever waits for an answer about that subscription finds it by its id.
    let id = fields.get("id").and_then(Value::as_str).map(str::to_owned);
    let kind = fields.remove("type");
    typed(kind.as_ref().and_then(Value::as_str), fields).map_err(|error| error.into_frame(id))
}

fn typed(kind: Option<&str>, fields: Map<String, Value>) -> Result<ClientFrame, ApiError> {
    match kind {
        Some("auth") => Ok(ClientFrame::Auth(whole(fields)?)),
        Some("subscribe") => Ok(ClientFrame::Subscribe(whole(fields)?)),
        Some("unsubscribe") => Ok(ClientFrame::Unsubscribe(whole(fields)?)),
        Some("ping") if fields.is_empty() => Ok(ClientFrame::Ping {}),
        Some("ping") => Err(ApiError::new(ErrorCode::InvalidValue, "A `ping` has no fields but its `type`.")),
        _ => Err(ApiError::new(ErrorCode::InvalidValue, TYPES)),
    }
}

fn whole<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let place = error.path().to_string();
        explain("frame", &place, &error.into_inner())
    })
}

/// The answer to a binary frame.
pub fn binary() -> ServerFrame {
    ApiError::new(ErrorCode::InvalidValue, "Frames are JSON text; send a text frame, not a binary one.")
        .into_frame(None)
}
