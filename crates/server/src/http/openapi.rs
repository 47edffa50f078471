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
use kalamdb_protocol::{ErrorBody, ErrorCode};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
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
        super::metrics::metrics,
        super::upload::upload,
        super::content::content,
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
    components(schemas(ErrorBody, ErrorCode)),
    modifiers(&BearerToken, &NoNamesForTheGone),
    security(("token" = [])),
)]
struct Api;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("A JSON Web Token with `exp` and `userId` (or `sub`); `kalamdb token` makes one."))
            .build();
        api.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Operations of version 1 are described once for several methods, and so would share one `operationId`, which
/// must be unique. Nobody shall call them: they go without.
struct NoNamesForTheGone;

impl Modify for NoNamesForTheGone {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for item in api.paths.paths.values_mut() {
            let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
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
        let open = ["/api/v1/health", "/api/openapi.json", "/api/v1/ws", "/metrics"];
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
