//! `GET /api/openapi.json`: the API described for programs.
//!
//! Invariant: made from the endpoints' own annotations; a route that is not listed here is not documented, so a
//! new endpoint adds its line.

use std::sync::LazyLock;

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use kalamdb_protocol::{ClientFrame, ErrorBody, ErrorCode, ServerFrame};
use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::{
        RefOr, Schema,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "KalamDB",
        description = "A SQL-first database for chat and AI-message history. Bodies are JSON whatever their \
                       Content-Type says; every error has the same shape.",
    ),
    paths(
        super::query::query,
        super::messages::send,
        super::health::health,
        super::health::ready,
        super::metrics::metrics,
        super::upload::upload,
        super::content::content,
        super::content::link::link,
        super::compact::compact,
        super::live::live,
        super::ws::ws,
        super::consolidate::consolidate,
        document,
        super::gone::v1_messages,
        super::gone::v1_message,
        super::gone::v1_conversations,
        super::gone::v1_conversation,
        super::gone::v1_conversation_users,
        super::gone::v1_conversation_user,
    ),
    components(schemas(ErrorBody, ErrorCode, ClientFrame, ServerFrame, super::ws::RowFrame)),
    modifiers(&Tokens, &NoNamesForTheGone, &RoomForTheType),
    servers((url = "/", description = "This server")),
    tags(
        (name = "data", description = "Messages, and whatever SQL says about them"),
        (name = "live", description = "Rows as they come, change and go"),
        (name = "administration", description = "For tokens with the role admin"),
        (name = "operation", description = "Whether and how the server runs"),
        (name = "version 1", description = "Gone; each answers the SQL that replaces it"),
    ),
    security(("token" = [])),
)]
struct Api;

/// Bytes as they are: of a file, or of an Arrow stream.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "the document's name for a body that is no text")]
pub struct Binary(Vec<u8>);

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("A JSON Web Token with `exp` and `userId` (or `sub`); `kalamdb token` makes one."))
            .build();
        let in_query = ApiKeyValue::with_description(
            "token",
            "The same, for live connections of clients that cannot set a header.",
        );
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        components.add_security_scheme("tokenInQuery", SecurityScheme::ApiKey(ApiKey::Query(in_query)));
        let link = ApiKeyValue::with_description("link", "A link to one content file, for what can send no header.");
        components.add_security_scheme("linkInQuery", SecurityScheme::ApiKey(ApiKey::Query(link)));
    }
}

/// A frame is its fields and a `type` that says which one it is. The fields alone allow nothing beside them, and so would
/// refuse the `type`.
struct RoomForTheType;

impl Modify for RoomForTheType {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let schemas = &mut api.components.get_or_insert_default().schemas;
        for name in ["Auth", "Subscribe", "Unsubscribe"] {
            if let Some(RefOr::T(Schema::Object(fields))) = schemas.get_mut(name) {
                fields.additional_properties = None;
            }
        }
    }
}

/// Operations of version 1 are described once for several methods, and so would share one `operationId`, which
/// must be unique. Nobody shall call them: they go without.
struct NoNamesForTheGone;

impl Modify for NoNamesForTheGone {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for item in api.paths.paths.values_mut() {
            let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
            for operation in methods.into_iter().flatten().filter(|operation| operation.deprecated.is_some()) {
                operation.operation_id = None;
            }
        }
    }
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    // The document is maps of texts: it serialises.
    Api::openapi().to_json().expect("an OpenAPI document").into()
});

/// Answers this document.
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    tag = "operation",
    security(()),
    responses((status = 200, description = "The document", body = Object, content_type = "application/json"))
)]
pub async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn api() -> Value {
        serde_json::from_slice(&DOCUMENT).unwrap()
    }

    #[test]
    fn every_operation_says_who_may_call_it_and_how_it_fails() {
        let api = api();
        let mut names = BTreeSet::new();
        let open = ["/api/v1/health", "/api/v1/health/ready", "/api/openapi.json", "/api/v1/ws", "/metrics"];
        let in_query = [("/api/v1/live", "tokenInQuery"), ("/api/v1/content/{contentRef}", "linkInQuery")];
        for (path, operations) in api["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let place = format!("{method} {path}");
                assert!(operation["summary"].is_string(), "{place}");
                match operation["operationId"].as_str() {
                    Some(name) => assert!(names.insert(name), "{name} names two operations"),
                    None => assert_eq!(operation["deprecated"], true, "{place}"),
                }
                if open.contains(&path.as_str()) {
                    assert_eq!(operation["security"][0], serde_json::json!({}), "{place}");
                } else if let Some((_, other)) = in_query.into_iter().find(|(of, _)| of == path) {
                    assert_eq!(operation["security"], serde_json::json!([{"token": []}, {other: []}]), "{place}");
                } else {
                    assert!(operation.get("security").is_none(), "{place} takes the token of the whole");
                    assert!(operation["responses"]["401"].is_object(), "{place}");
                }
            }
        }
        assert_eq!(api["security"], serde_json::json!([{"token": []}]));
        assert_eq!(api["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let api = api();
        let mut pending = vec![&api];
        while let Some(value) = pending.pop() {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(target)) = fields.get("$ref") {
                        assert!(api.pointer(&target[1..]).is_some(), "{target}");
                    }
                    pending.extend(fields.values());
                }
                Value::Array(items) => pending.extend(items),
                _ => {}
            }
        }
    }

    #[test]
    fn the_shape_of_the_api_changes_on_purpose_only() {
        let api = api();
        let operations = api["paths"].as_object().unwrap().iter().flat_map(|(path, operations)| {
            operations.as_object().unwrap().iter().map(move |(method, operation)| {
                let statuses: Vec<&str> =
                    operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
                format!("{method} {path}: {}", statuses.join(" "))
            })
        });
        insta::assert_snapshot!(operations.collect::<Vec<_>>().join("\n"));
    }
}
