//! The routes of version 1, which answer with the SQL that replaces them.
//!
//! Invariant: a translation and nothing else: no data is touched; what a client put into its path or query
//! stands in the SQL as a quoted literal, and no `DELETE` or `UPDATE` comes without a condition.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{
    extract::{Query, Request},
    http::{Method, Uri},
    routing::{MethodRouter, get},
};
use kalamdb_protocol::ErrorCode;
use percent_encoding::percent_decode_str;

use super::{
    App,
    error::{ApiError, failures},
};

/// The beginning of the paths of version 1.
const BASE: &str = "/api/v1/";

failures! {
    /// The answers of these routes.
    GoneFailures: Unauthorized, Gone
}

macro_rules! documented {
    ($($(#[$doc:meta])* $name:ident: $($method:ident),+ $path:literal $(of $id:literal)?;)+) => {$(
        $(#[$doc])*
        #[utoipa::path(method($($method),+), path = $path, operation_id = stringify!($name), tag = "version 1",
            params($(($id = String, Path, description = "As version 1 had it"))?), responses(GoneFailures))]
        #[deprecated]
        #[allow(dead_code, reason = "names a route for the document; `gone` answers it")]
        pub fn $name() {}
    )+};
}

documented! {
    /// Lists or deletes messages; replaced by SQL.
    v1_messages: get, delete "/api/v1/messages";
    /// Reads, changes or deletes one message; replaced by SQL.
    v1_message: get, post, put, patch, delete "/api/v1/messages/{msgId}" of "msgId";
    /// Lists or creates conversations; replaced by SQL.
    v1_conversations: get, post, put, patch, delete "/api/v1/conversations";
    /// Reads, changes or deletes one conversation; replaced by SQL.
    v1_conversation: get, post, put, patch, delete "/api/v1/conversations/{conversationId}" of "conversationId";
    /// Lists or adds participants; replaced by SQL.
    v1_conversation_users: get, post, put, patch, delete "/api/v1/conversationUsers";
    /// Reads or removes participants; replaced by SQL.
    v1_conversation_user: get, post, put, patch, delete "/api/v1/conversationUsers/{conversationId}" of "conversationId";
}

/// A route that is gone whatever version 1 could do there.
pub fn routes() -> MethodRouter<App> {
    get(gone).post(gone).put(gone).patch(gone).delete(gone)
}

/// Answers `gone` with the SQL that replaces the call.
pub async fn gone(request: Request) -> ApiError {
    let Replacement { sql, params } = replacement(request.method(), request.uri());
    let message = "This route is gone since version 2: send the SQL in `details.sql` to POST /api/v1/query";
    if params.is_empty() {
        return ApiError::new(ErrorCode::Gone, format!("{message}.")).with("sql", sql);
    }
    let message = format!("{message}, with `params` that hold what `details.params` names.");
    ApiError::new(ErrorCode::Gone, message).with("sql", sql).with("params", params)
}

/// A resource of version 1.
struct Resource {
    name: &'static str,
    /// The columns that the segments after the name stood for.
    path: &'static [&'static str],
    /// The columns that the query could name.
    query: &'static [&'static str],
    /// The columns that a row needs.
    insert: [&'static str; 2],
    /// The column that could be changed.
    update: &'static str,
}

/// The replacement of a call.
#[derive(Debug, PartialEq, Eq)]
struct Replacement {
    sql: String,
    /// The columns whose values `$1`, `$2`, … stand for.
    params: Vec<&'static str>,
}

impl From<String> for Replacement {
    /// A statement that runs as it stands.
    fn from(sql: String) -> Self {
        Self { sql, params: Vec::new() }
    }
}

const RESOURCES: [Resource; 3] = [
    Resource {
        name: "messages",
        path: &["msgId"],
        query: &["conversationId", "conversationType", "from", "msgId"],
        insert: ["conversationId", "content"],
        update: "content",
    },
    Resource {
        name: "conversations",
        path: &["conversationId"],
        query: &["conversationId", "conversationType"],
        insert: ["conversationId", "conversationType"],
        update: "lastMsgId",
    },
    Resource {
        name: "conversationUsers",
        path: &["conversationId", "userId"],
        query: &["conversationId", "userId"],
        insert: ["conversationId", "userId"],
        update: "role",
    },
];

fn replacement(method: &Method, uri: &Uri) -> Replacement {
    let mut segments = uri.path().strip_prefix(BASE).unwrap_or_default().split('/').filter(|part| !part.is_empty());
    let name = segments.next().unwrap_or_default();
    let Some(resource) = RESOURCES.iter().find(|resource| resource.name == name) else {
        return "SELECT * FROM userId.messages".to_owned().into();
    };
    // A query that cannot be decoded names nothing; the call is answered all the same.
    let query = Query::<BTreeMap<String, String>>::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default();

    // `/conversations/{id}/messages` listed the messages of one conversation, and so for its users.
    let segments: Vec<&str> = segments.collect();
    if let [id, nested @ ("messages" | "users" | "conversationUsers")] = segments[..] {
        let table = if nested == "messages" { "messages" } else { "conversationUsers" };
        return format!(
            "SELECT * FROM userId.{table} WHERE conversationId = {}{}",
            literal(&decode(id)),
            limit(&query)
        )
        .into();
    }

    let from_path = resource.path.iter().zip(&segments).map(|(column, text)| (*column, decode(text)));
    let from_query =
        resource.query.iter().filter_map(|column| query.get(*column).map(|text| (*column, Cow::from(text.as_str()))));
    let conditions: Vec<String> = from_path.chain(from_query).map(|(column, text)| condition(column, &text)).collect();
    statement(method, resource, &conditions.join(" AND "), &limit(&query))
}

fn statement(method: &Method, resource: &Resource, conditions: &str, limit: &str) -> Replacement {
    let Resource { name, path, insert, update, .. } = resource;
    let key = path[0];
    // A change of every row is nothing that a client should copy by accident: it gets a parameter to fill.
    match *method {
        Method::POST => {
            let [first, second] = insert;
            let sql = format!("INSERT INTO userId.{name} ({first}, {second}) VALUES ($1, $2)");
            Replacement { sql, params: insert.to_vec() }
        }
        Method::DELETE if conditions.is_empty() => {
            Replacement { sql: format!("DELETE FROM userId.{name} WHERE {key} = $1"), params: vec![key] }
        }
        Method::DELETE => format!("DELETE FROM userId.{name} WHERE {conditions}").into(),
        Method::PUT | Method::PATCH if conditions.is_empty() => {
            let sql = format!("UPDATE userId.{name} SET {update} = $1 WHERE {key} = $2");
            Replacement { sql, params: vec![update, key] }
        }
        Method::PUT | Method::PATCH => Replacement {
            sql: format!("UPDATE userId.{name} SET {update} = $1 WHERE {conditions}"),
            params: vec![update],
        },
        _ if conditions.is_empty() => format!("SELECT * FROM userId.{name}{limit}").into(),
        _ => format!("SELECT * FROM userId.{name} WHERE {conditions}{limit}").into(),
    }
}

/// `column = value`; message ids are numbers, everything else is a text.
fn condition(column: &str, text: &str) -> String {
    match text.parse::<i64>() {
        Ok(number) if column == "msgId" => format!("{column} = {number}"),
        _ => format!("{column} = {}", literal(text)),
    }
}

fn limit(query: &BTreeMap<String, String>) -> String {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
    let clause = |word: &str, number: Option<u64>| number.map(|number| format!(" {word} {number}")).unwrap_or_default();
    clause("LIMIT", number("limit")) + &clause("OFFSET", number("offset"))
}

/// A text as an SQL literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A path segment without its percent signs.
fn decode(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_becomes_the_statement_that_replaces_it() {
        for (method, uri, expected) in [
            // Calls as the founding document prints them.
            (
                Method::GET,
                "/api/v1/messages?conversationId=conv_123&limit=100",
                "SELECT * FROM userId.messages WHERE conversationId = 'conv_123' LIMIT 100",
            ),
            (Method::DELETE, "/api/v1/messages/123456789", "DELETE FROM userId.messages WHERE msgId = 123456789"),
            (
                Method::PUT,
                "/api/v1/conversations/conv_123",
                "UPDATE userId.conversations SET lastMsgId = $1 WHERE conversationId = 'conv_123'",
            ),
            (Method::GET, "/api/v1/messages", "SELECT * FROM userId.messages"),
            (Method::GET, "/api/v1/messages/5", "SELECT * FROM userId.messages WHERE msgId = 5"),
            (
                Method::GET,
                "/api/v1/messages?offset=20&limit=10&from=a+b%40x&limits=1",
                "SELECT * FROM userId.messages WHERE from = 'a b@x' LIMIT 10 OFFSET 20",
            ),
            (Method::DELETE, "/api/v1/messages", "DELETE FROM userId.messages WHERE msgId = $1"),
            (Method::DELETE, "/api/v1/messages/", "DELETE FROM userId.messages WHERE msgId = $1"),
            (
                Method::PUT,
                "/api/v1/conversations",
                "UPDATE userId.conversations SET lastMsgId = $1 WHERE conversationId = $2",
            ),
            (
                Method::POST,
                "/api/v1/conversations",
                "INSERT INTO userId.conversations (conversationId, conversationType) VALUES ($1, $2)",
            ),
            (
                Method::GET,
                "/api/v1/conversations/c%2F1/messages?limit=5",
                "SELECT * FROM userId.messages WHERE conversationId = 'c/1' LIMIT 5",
            ),
            (
                Method::DELETE,
                "/api/v1/conversationUsers/g1/auth0%7C1",
                "DELETE FROM userId.conversationUsers WHERE conversationId = 'g1' AND userId = 'auth0|1'",
            ),
            (
                Method::GET,
                "/api/v1/conversationUsers?conversationId=g1",
                "SELECT * FROM userId.conversationUsers WHERE conversationId = 'g1'",
            ),
        ] {
            assert_eq!(replacement(&method, &uri.parse().unwrap()).sql, expected, "{method} {uri}");
        }
    }

    #[test]
    fn what_is_still_to_be_said_is_named() {
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/messages", &[][..]),
            (Method::DELETE, "/api/v1/messages/5", &[]),
            (Method::DELETE, "/api/v1/messages", &["msgId"]),
            (Method::PUT, "/api/v1/conversations", &["lastMsgId", "conversationId"]),
            (Method::PATCH, "/api/v1/conversationUsers/g1/user_bob", &["role"]),
            (Method::POST, "/api/v1/conversationUsers", &["conversationId", "userId"]),
        ] {
            assert_eq!(replacement(&method, &uri.parse().unwrap()).params, expected, "{method} {uri}");
        }
    }

    #[test]
    fn what_a_client_sends_stays_inside_its_quotes() {
        for (uri, expected) in [
            ("/api/v1/messages/1%20OR%201=1", "DELETE FROM userId.messages WHERE msgId = '1 OR 1=1'"),
            ("/api/v1/messages/1'--", "DELETE FROM userId.messages WHERE msgId = '1''--'"),
            (
                "/api/v1/conversations/x';DELETE%20FROM%20userId.messages;--",
                "DELETE FROM userId.conversations WHERE conversationId = 'x'';DELETE FROM userId.messages;--'",
            ),
            (
                "/api/v1/messages?conversationId=a%27%27b&limit=1;DROP",
                "DELETE FROM userId.messages WHERE conversationId = 'a''''b'",
            ),
            (
                "/api/v1/messages/99999999999999999999",
                "DELETE FROM userId.messages WHERE msgId = '99999999999999999999'",
            ),
            ("/api/v1/messages?conversationId=%ff", "DELETE FROM userId.messages WHERE conversationId = '\u{fffd}'"),
        ] {
            assert_eq!(replacement(&Method::DELETE, &uri.parse().unwrap()).sql, expected, "{uri}");
        }
    }
}
