//! `GET /api/v1/content/{contentRef}`: an upload, or the whole text of a large message.
//!
//! Invariant: what a client names is looked up, letter by letter, among the files that this caller may read; it is
//! never resolved as a path. Whatever else it is (of others, removed, or never there), the answer is the same. No file
//! runs in a browser under the server's origin.

mod conditions;
pub mod link;

use std::borrow::Cow;

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
            CONTENT_TYPE, ETAG, LAST_MODIFIED, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use kalamdb_engine::Caller;
use kalamdb_protocol::{ErrorCode, UserId};
use kalamdb_store::{Store, StoredFile};
use percent_encoding::percent_decode_str;

use self::{conditions::FilePart, link::OnlyFile};
use super::{
    App,
    error::{ApiError, failures},
    openapi::Binary,
};

/// The beginning of a request's path, before the reference.
const ROUTE: &str = "/api/v1/content/";

failures! {
    /// Failures of reading a file.
    ContentFailures: Unauthorized, NotFound, MethodNotAllowed, RangeNotSatisfiable, StorageUnavailable, Internal
}

/// Reads an upload, or the whole text of a large message.
///
/// For those who have a message that refers to it, and for its uploader until one does. A range of bytes may be asked
/// for, and `If-None-Match` spares what the client has; HEAD answers the headers alone. The type is the file's own.
#[utoipa::path(
    get,
    path = "/api/v1/content/{contentRef}",
    tag = "data",
    security(("token" = []), ("linkInQuery" = [])),
    params(
        ("contentRef" = String, Path, description = "The `contentRef` of a message or upload; its slashes as they are, or as `%2F`"),
        ("link" = Option<String>, Query, description = "A link that `POST /api/v1/content/link` has made, in place of a token"),
        ("Range" = Option<String>, Header, description = "One range of bytes, such as `bytes=0-1023`; several are answered with the whole"),
        ("If-Range" = Option<String>, Header, description = "An `ETag`: the range is of that file, and of another the whole is wanted"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` that the client has"),
    ),
    responses(
        (
            status = 200,
            description = "The file",
            body = Binary,
            content_type = "application/octet-stream",
            headers(
                ("ETag" = String, description = "Which bytes these are; they never change"),
                ("Last-Modified" = String, description = "When it was stored"),
                ("Content-Disposition" = String, description = "`inline` for what browsers show and never run, else `attachment` with a name"),
                ("Accept-Ranges" = String, description = "`bytes`"),
            )
        ),
        (
            status = 206,
            description = "A part of it",
            body = Binary,
            content_type = "application/octet-stream",
            headers(
                ("Content-Range" = String, description = "Which: `bytes 0-1023/1840123`"),
                ("ETag" = String, description = "As of the whole"),
            )
        ),
        (status = 304, description = "The client has it", headers(("ETag" = String, description = "As of the whole"))),
        ContentFailures,
    )
)]
pub async fn content(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    only: Option<Extension<OnlyFile>>,
    method: Method,
    uri: Uri,
    asked: HeaderMap,
) -> Result<Response, ApiError> {
    let raw = uri.path().strip_prefix(ROUTE).unwrap_or_default();
    let is_meant = |file: &StoredFile| only.is_none_or(|Extension(OnlyFile(path))| path == file.path);
    let file = find(app.store(), &caller.user, raw)?.filter(is_meant).ok_or_else(not_found)?;
    let tag = conditions::tag(&file);
    let mut headers = describe(&file, &tag)?;
    if conditions::is_known(&asked, &tag) {
        headers.remove(CONTENT_TYPE);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    // A range is about the body, which HEAD has none of.
    let part = if method == Method::HEAD { FilePart::Whole } else { conditions::part(&asked, &tag, file.bytes) };
    let (status, range) = match part {
        FilePart::Whole => (StatusCode::OK, 0..file.bytes),
        FilePart::Range(range) => {
            let text = format!("bytes {}-{}/{}", range.start, range.end - 1, file.bytes);
            headers.insert(CONTENT_RANGE, value(text)?);
            (StatusCode::PARTIAL_CONTENT, range)
        }
        FilePart::Outside => return outside(file.bytes),
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if method == Method::HEAD {
        return Ok((status, headers).into_response());
    }
    let bytes = app.store().read_file(&file, range).await?.ok_or_else(not_found)?;
    Ok((status, headers, Body::from_stream(bytes)).into_response())
}

/// The caller's file of that name. The names hold percent signs themselves (`auth0%7c123/msg-1.bin`), and a client may
/// or may not have encoded those: both readings are tried, also with nothing but the slashes encoded.
fn find(store: &Store, user: &UserId, raw: &str) -> Result<Option<StoredFile>, ApiError> {
    let decoded = percent_decode_str(raw).decode_utf8().unwrap_or(Cow::Borrowed(raw));
    let slashes = raw.replace("%2F", "/");
    let all_slashes = slashes.replace("%2f", "/");
    let mut readings = vec![&*decoded, raw, &slashes, &all_slashes];
    readings.dedup();
    for path in readings {
        if let Some(file) = store.readable_file(user, path)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn not_found() -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        "There is no such content, or none that you may read: a message of yours must refer to it.",
    )
}

fn outside(bytes: u64) -> Result<Response, ApiError> {
    let message = format!("The file has {bytes} bytes, none of which are in the range asked for.");
    let mut response = ApiError::new(ErrorCode::RangeNotSatisfiable, message).with("bytes", bytes).into_response();
    response.headers_mut().insert(CONTENT_RANGE, value(format!("bytes */{bytes}"))?);
    Ok(response)
}

/// The headers that describe a file, whatever part of it is asked for.
fn describe(file: &StoredFile, tag: &str) -> Result<HeaderMap, ApiError> {
    let fixed = [
        (ACCEPT_RANGES, "bytes"),
        // A client may keep a file, and must ask each time whether it still may show it: a deletion is to be felt.
        (CACHE_CONTROL, "private, no-cache"),
        // The address may be a link, which nobody else is to be told.
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    ];
    let mut headers: HeaderMap = fixed.into_iter().map(|(name, text)| (name, HeaderValue::from_static(text))).collect();
    headers.insert(CONTENT_TYPE, value(content_type(&file.content_type))?);
    headers.insert(CONTENT_DISPOSITION, value(disposition(file))?);
    headers.insert(ETAG, value(tag)?);
    headers.insert(LAST_MODIFIED, value(conditions::http_date(file.created))?);
    Ok(headers)
}

/// Plain text is in UTF-8 here; browsers would guess otherwise.
fn content_type(mime: &str) -> &str {
    if mime == "text/plain" { "text/plain; charset=utf-8" } else { mime }
}

/// Shown in the browser's window if a browser shows such a file and never runs it; else put into a file.
fn disposition(file: &StoredFile) -> String {
    let mime = file.content_type.split(';').next().unwrap_or_default();
    let is_shown = matches!(mime, "image/jpeg" | "image/png" | "image/gif" | "image/webp" | "text/plain")
        || mime.starts_with("audio/")
        || mime.starts_with("video/");
    if is_shown {
        return "inline".to_owned();
    }
    let name = file.path.rsplit('/').next().unwrap_or_default();
    format!("attachment; filename=\"{name}\"")
}

/// A path of the store's holds nothing that a header may not.
fn value(text: impl AsRef<str>) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(text.as_ref()).map_err(|_| ApiError::internal())
}

#[cfg(test)]
mod tests {
    use kalamdb_protocol::{ConversationId, ConversationType};
    use kalamdb_store::{ConversationKey, FileKind};

    use super::*;

    fn file(path: &str, content_type: &str) -> StoredFile {
        StoredFile {
            path: path.to_owned(),
            conversation: ConversationKey { id: ConversationId::new("c").unwrap(), kind: ConversationType::Ai },
            owner: UserId::new("user_john").unwrap(),
            kind: FileKind::Media,
            content_type: content_type.to_owned(),
            bytes: 10,
            created: 0,
            thumbnail: None,
            references: 1,
            doomed: false,
        }
    }

    #[test]
    fn only_what_a_browser_shows_and_never_runs_is_shown() {
        for shown in ["image/jpeg", "image/png", "image/gif", "image/webp", "audio/mpeg", "video/mp4", "text/plain"] {
            assert_eq!(disposition(&file("user_john/media-1.x", shown)), "inline", "{shown}");
        }
        for kept in ["text/html", "text/xml", "image/svg+xml", "application/pdf", "application/zip", "image/tiff", "x"]
        {
            let expected = "attachment; filename=\"media-1.x\"";
            assert_eq!(disposition(&file("shared/conversations/g%7c1/media-1.x", kept)), expected, "{kept}");
        }
    }

    #[test]
    fn every_file_is_fenced_in() {
        let file = file("user_john/msg-1.bin", "text/plain");
        let headers = describe(&file, &conditions::tag(&file)).unwrap();
        for (name, expected) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-disposition", "inline"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "sandbox; default-src 'none'"),
            ("cache-control", "private, no-cache"),
            ("referrer-policy", "no-referrer"),
            ("accept-ranges", "bytes"),
            ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("etag", "\"user_john/msg-1.bin-0\""),
        ] {
            assert_eq!(headers[name], expected, "{name}");
        }
    }
}
