//! The error codes: a closed set, each with one status.
//!
//! Invariant: every answer that is not a success carries one of these codes; a code, once published, keeps its
//! meaning.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal;)+) => {
        /// The error's code, for a program.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode { $($(#[$doc])* $variant),+ }

        impl ErrorCode {
            /// Every code, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code as it stands in an answer.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }
        }
    };
}

codes! {
    /// The statement does not parse; `details.line` and `details.column` (from 1) say where.
    SyntaxError = "syntax_error", 400;
    /// No such table; `details.suggestions` names the likely ones.
    UnknownTable = "unknown_table", 400;
    /// No such column; `details.suggestions` names the likely ones.
    UnknownColumn = "unknown_column", 400;
    /// A value, type, parameter or body that cannot be used.
    InvalidValue = "invalid_value", 400;
    /// Understood, but not offered (DDL and the like).
    Unsupported = "unsupported", 400;
    /// No token, or one that is not valid (any more).
    Unauthorized = "unauthorized", 401;
    /// Another user's schema.
    ScopeViolation = "scope_violation", 403;
    /// A role or a membership is missing.
    Forbidden = "forbidden", 403;
    /// Nothing there that the caller may see.
    NotFound = "not_found", 404;
    /// The route exists, for another method.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The body did not arrive in time, or broke off; send it again.
    RequestTimeout = "request_timeout", 408;
    /// The key is taken, or others kept changing the same rows.
    Conflict = "conflict", 409;
    /// A route of version 1; `details.sql` replaces it.
    Gone = "gone", 410;
    /// The body, the message or the answer is over its limit.
    PayloadTooLarge = "payload_too_large", 413;
    /// The body is in an encoding that is not taken (`Content-Encoding`).
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// No such part of the file.
    RangeNotSatisfiable = "range_not_satisfiable", 416;
    /// The query needs more than one query's share of memory.
    QueryTooLarge = "query_too_large", 422;
    /// The request's line and headers are too many or too long.
    HeadTooLarge = "head_too_large", 431;
    /// Too many requests; `Retry-After` says when to come back.
    RateLimited = "rate_limited", 429;
    /// The query ran longer than `query.timeout_seconds`.
    QueryTimeout = "query_timeout", 504;
    /// The server as a whole is out of memory or places; try again.
    ResourceExhausted = "resource_exhausted", 503;
    /// The disk or the object store does not answer.
    StorageUnavailable = "storage_unavailable", 503;
    /// A fault of ours.
    Internal = "internal", 500;
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "error": "unknown_table",
    "message": "There is no table `mesages`; did you mean `messages`?",
    "details": {"suggestions": ["messages"]},
}))]
pub struct ErrorBody {
    /// The code, for a program.
    pub error: ErrorCode,
    /// The sentence, from which a person learns what to do.
    pub message: String,
    /// Values for a program, by the code: `{"suggestions":["content"]}`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_it_is_named() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!((400..600).contains(&code.status()));
        }
    }
}
