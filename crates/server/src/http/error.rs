//! Every answer that is not a success, in the one shape that all of them have, or as a live connection's frame.
//!
//! Invariant: the status follows from the code; what stands in the answer came from the engine's or our own
//! sentences, never from a panic or a library's error.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kalamdb_engine::Error as EngineError;
use kalamdb_protocol::{ErrorBody, ErrorCode, LiveErrorCode, ServerFrame};
use serde_json::Value;
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, ResponseBuilder, Type,
    response::Response as Documented,
};

use crate::auth::Denied;

/// An error on its way to the client.
#[derive(Debug)]
pub struct ApiError(EngineError);

impl ApiError {
    /// An error of that code with that sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(EngineError::new(code, message))
    }

    /// Adds a detail.
    pub fn with(self, name: &str, value: impl Into<Value>) -> Self {
        Self(self.0.with(name, value))
    }

    /// A fault of ours, about which a client learns nothing more.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "The server failed at this request; its operator finds more in the log.")
    }

    /// The error as a frame of a live connection: of a subscription, or of none.
    pub fn into_frame(self, id: Option<String>) -> ServerFrame {
        let EngineError { code, message, details } = self.0;
        ServerFrame::Error { id, code: LiveErrorCode::Request(code), error: message, details }
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    #[cfg(test)]
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self(error)
    }
}

impl From<kalamdb_store::Error> for ApiError {
    fn from(error: kalamdb_store::Error) -> Self {
        Self(error.into())
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        Self::new(ErrorCode::Unauthorized, denied.to_string()).with("reason", denied.reason())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let EngineError { code, message, details } = self.0;
        let was_given = details.get("reason").is_some_and(|reason| reason != Denied::Missing.reason());
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(ErrorBody { error: code, message, details })).into_response();
        let headers = response.headers_mut();
        match code {
            ErrorCode::Unauthorized => {
                let challenge = if was_given { r#"Bearer error="invalid_token""# } else { "Bearer" };
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            ErrorCode::RateLimited | ErrorCode::ResourceExhausted | ErrorCode::RequestTimeout => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // A disk takes longer to come back than a queue to empty.
            ErrorCode::StorageUnavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            }
            _ => {}
        }
        // The log and the metrics see responses only.
        response.extensions_mut().insert(code);
        response
    }
}

/// Codes by their status, as the description of the API lists them.
pub fn documented(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<Documented>> {
    let mut by_status: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status().to_string()).or_default().push(code.as_str());
    }
    let describe = |codes: Vec<&str>| {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        let names: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        ResponseBuilder::new().description(names.join(", ")).content("application/json", body)
    };
    let with_header = |status: &str, response: ResponseBuilder| match documented_header(status) {
        Some((name, header)) => response.header(name, header),
        None => response,
    };
    let response = |(status, codes): (String, Vec<&str>)| {
        let response = with_header(&status, describe(codes)).build();
        (status, response.into())
    };
    by_status.into_iter().map(response).collect()
}

/// The header that comes with errors of that status.
fn documented_header(status: &str) -> Option<(&'static str, Header)> {
    let (name, kind, description) = match status {
        "401" => ("WWW-Authenticate", Type::String, "`Bearer`, with `error=\"invalid_token\"` where one was given"),
        "405" => ("Allow", Type::String, "The methods that the route takes"),
        "408" | "429" | "503" => ("Retry-After", Type::Integer, "Seconds after which to try again"),
        "416" => ("Content-Range", Type::String, "How many bytes there are: `bytes */1840123`"),
        _ => return None,
    };
    let schema = ObjectBuilder::new().schema_type(kind).build();
    Some((name, HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()))
}

/// Declares the codes that an endpoint can answer with, for its documentation.
macro_rules! failures {
    ($(#[$doc:meta])* $name:ident: $($code:ident),+ $(,)?) => {
        $(#[$doc])*
        pub struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::response::Response>,
            > {
                $crate::http::error::documented(&[$(kalamdb_protocol::ErrorCode::$code),+])
            }
        }
    };
}
pub(super) use failures;
