//! `GET /api/v1/live`: one subscription as server-sent events, for curl and for a browser's `EventSource`.
//!
//! Invariant: an event's `id` is a position after which a client that has seen the event may go on, and nothing else
//! has one: whoever comes back with the last id as `Last-Event-ID` misses nothing.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, Uri},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt as _, stream};
use kalamdb_engine::{LiveFrame, LiveSession};
use kalamdb_protocol::{ConversationId, ConversationType, ErrorCode, MsgId, Position, ServerFrame, Subscribe};
use serde::Deserialize as _;
use tokio::time::sleep_until;

use super::{
    App, caller,
    error::{ApiError, failures},
    listen::Stopping,
    metrics::LiveConnection,
};
use crate::auth::Denied;

/// The last event that a client has seen, when it connects again.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Asks a proxy in between to pass events on as they come.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The interval of comments while there is nothing else to send: proxies close connections that are silent for a minute
/// or even half of one.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

failures! {
    /// Failures of a subscription before its first event.
    LiveFailures: SyntaxError, UnknownTable, UnknownColumn, InvalidValue, Unsupported, Unauthorized, ScopeViolation,
    Forbidden, NotFound, MethodNotAllowed, PayloadTooLarge, QueryTooLarge, RateLimited, QueryTimeout,
    ResourceExhausted, StorageUnavailable, Internal
}

/// Shows rows as they come, change and go, as server-sent events.
///
/// An event's name is the frame's type, its data the frame, its id the position to resume after; a browser sends that
/// back by itself when it connects again. The events end with the token. With neither `sql` nor `conversationId` they
/// are of all of one's own messages.
#[utoipa::path(
    get,
    path = "/api/v1/live",
    tag = "live",
    security(("token" = []), ("tokenInQuery" = [])),
    params(
        ("sql" = Option<String>, Query, description = "A projection and a filter over one table"),
        ("params" = Option<String>, Query, description = "What its placeholders stand for: JSON, an array or object"),
        ("conversationId" = Option<String>, Query, description = "The messages of one conversation, without SQL"),
        ("conversationType" = Option<ConversationType>, Query, description = "Of which type it is, where both exist"),
        ("lastMsgId" = Option<i64>, Query, description = "First the messages with higher ids than this"),
        ("after" = Option<String>, Query, description = "First everything since that event id"),
        ("token" = Option<String>, Query, description = "The token, for clients that cannot set a header"),
        ("Last-Event-ID" = Option<String>, Header, description = "As `after`; it goes before `after` and `lastMsgId`"),
    ),
    responses(
        (
            status = 200,
            description = "The events: `data` is a `ServerFrame` or a `RowFrame`, as on the WebSocket",
            body = String,
            content_type = "text/event-stream",
            example = "event: message\ndata: {\"type\":\"message\",\"id\":\"1\",\"position\":{\"epoch\":1,\"seq\":9120,\"n\":0},\"message\":{\"msgId\":7389405184819201}}\nid: 1-9120-0\n\n",
        ),
        LiveFailures,
    )
)]
pub async fn live(
    State(app): State<App>,
    Extension(mut stopping): Extension<Stopping>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let token = caller::live_token(&headers, &uri).ok_or(Denied::Missing)?;
    let admitted = caller::admit(&app, &token)?;
    let request = asked(&headers, &uri)?;
    let session = app.engine().live(&admitted.caller)?;
    session.subscribe(request).await?;
    let until = async move {
        tokio::select! {
            () = sleep_until(admitted.until) => {}
            () = stopping.wait() => {}
        }
    };
    let events = events(session).take_until(until);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(UNBUFFERED, HeaderValue::from_static("no"));
    // The log sees responses only.
    response.extensions_mut().insert(admitted.caller);
    Ok(response)
}

/// The session's frames as events, to the end of its subscription.
fn events(session: LiveSession) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let open = LiveConnection::new();
    stream::unfold(Some((session, open)), async |state| {
        let (session, open) = state?;
        let frame = session.next().await;
        // The only frame of that kind is the end of a subscription, and there is one.
        let rest = (frame.kind != "error").then_some((session, open));
        Some((Ok(event(&frame)), rest))
    })
}

fn event(frame: &LiveFrame) -> Event {
    let event = Event::default().event(frame.kind).data(&frame.text);
    match frame.position {
        Some(position) => event.id(written(position)),
        None if frame.kind == "error" => match id_after(&frame.text) {
            Some(id) => event.id(id),
            None => event,
        },
        None => event,
    }
}

/// The id with which a client comes back after an error, if it is not the last one that it has seen.
fn id_after(error: &str) -> Option<String> {
    let Ok(ServerFrame::Error { details, .. }) = serde_json::from_str(error) else { return None };
    if details.get("resync").is_some_and(|it| it == true) {
        // An empty id makes a browser forget the last one, which would fail again for ever.
        return Some(String::new());
    }
    // A replay by id that was broken off goes on from the message that it had come to.
    let after: Position = Position::deserialize(details.get("resumeAfter")?).ok()?;
    let last = details.get("lastMsgId")?.as_i64()?;
    Some(format!("{}-{last}", written(after)))
}

/// The subscription that query string and headers ask for.
fn asked(headers: &HeaderMap, uri: &Uri) -> Result<Subscribe, ApiError> {
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| ApiError::new(ErrorCode::InvalidValue, "The query string is not URL-encoded."))?;
    let mut asked = Subscribe::default();
    for (name, value) in parameters {
        match name.as_str() {
            "token" => {}
            "sql" => asked.sql = Some(value),
            "params" => asked.params = Some(parsed(&name, "a JSON array or object", serde_json::from_str(&value))?),
            "conversationId" => asked.conversation_id = Some(parsed(&name, "an id", ConversationId::new(&value))?),
            "conversationType" => {
                let kind = ConversationType::parse(&value).ok_or(());
                asked.conversation_type = Some(parsed(&name, "`ai` or `group`", kind)?);
            }
            "lastMsgId" => asked.last_msg_id = Some(parsed(&name, "a whole number", value.parse::<MsgId>())?),
            "after" => {
                let (after, last) = parsed(&name, "an event's id", read(&value).ok_or(()))?;
                asked.after = Some(after);
                asked.last_msg_id = last.or(asked.last_msg_id);
            }
            _ => return Err(ApiError::new(ErrorCode::InvalidValue, UNKNOWN_PARAMETER)),
        }
    }
    if let Some(seen) = headers.get(LAST_EVENT_ID).filter(|seen| !seen.is_empty()) {
        let seen = seen.to_str().ok().and_then(read).ok_or(());
        let (after, last) = parsed("Last-Event-ID", "an event's id", seen)?;
        // A browser comes back with the address it began with: what that says of messages is done, or stands in the id.
        (asked.after, asked.last_msg_id) = (Some(after), last);
    }
    Ok(asked)
}

const UNKNOWN_PARAMETER: &str = "The query string has a parameter that means nothing here; there are `sql`, `params`, \
                                 `conversationId`, `conversationType`, `lastMsgId`, `after` and `token`.";

fn parsed<T, E>(name: &str, wanted: &str, value: Result<T, E>) -> Result<T, ApiError> {
    value.map_err(|_| ApiError::new(ErrorCode::InvalidValue, format!("`{name}` must be {wanted}.")))
}

/// A position as an event's id: `7-5-1` is epoch 7, commit 5, change 1.
fn written(position: Position) -> String {
    format!("{}-{}-{}", position.epoch, position.seq, position.n)
}

/// The position of an event's id; and of `7-5-1-8601`, where a replay by message ids was broken off, the message.
fn read(id: &str) -> Option<(Position, Option<MsgId>)> {
    let mut parts = id.split('-');
    let position = Position {
        epoch: parts.next()?.parse().ok()?,
        seq: parts.next()?.parse().ok()?,
        n: parts.next()?.parse().ok()?,
    };
    let last = parts.next().map(str::parse).transpose().ok()?;
    parts.next().is_none().then_some((position, last))
}

#[cfg(test)]
mod tests {
    use kalamdb_protocol::Params;

    use super::*;

    fn at(seq: u64, n: u32) -> Position {
        Position { epoch: 7, seq, n }
    }

    fn asked_by(uri: &str, seen: Option<&str>) -> Result<Subscribe, ApiError> {
        let headers = seen.map(|seen| (LAST_EVENT_ID, seen.parse().unwrap()));
        asked(&headers.into_iter().collect(), &uri.parse().unwrap())
    }

    #[test]
    fn ids_are_positions_written_and_read() {
        assert_eq!(written(at(12, u32::MAX)), "7-12-4294967295");
        assert_eq!(read("7-12-4294967295"), Some((at(12, u32::MAX), None)));
        assert_eq!(read("7-12-0-8601"), Some((at(12, 0), Some(8601))));
        for bad in
            ["", "7", "7-12", "7-12-3-4-5", "7-12-3-x", "7-12-3-", "7-12-4294967296", "7--3", "-7-12-3", "7-12-x"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn who_comes_back_elsewhere_is_told_so() {
        let anew = r#"{"type":"error","id":"a","code":"lagged","error":"Read anew.","details":{"resync":true}}"#;
        assert_eq!(id_after(anew).as_deref(), Some(""));
        let on = r#"{"type":"error","id":"a","code":"lagged","error":"Go on.","details":{"resumeAfter":{"epoch":1,"seq":2,"n":3},"lastMsgId":9}}"#;
        assert_eq!(id_after(on).as_deref(), Some("1-2-3-9"));
        for other in [
            r#"{"type":"error","id":"a","code":"lagged","error":"Go on.","details":{"resumeAfter":{"epoch":1,"seq":2,"n":3}}}"#,
            r#"{"type":"error","id":"a","code":"internal","error":"resync"}"#,
        ] {
            assert_eq!(id_after(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn an_event_is_a_frame_with_its_place() {
        let frame = LiveFrame { kind: "message", position: Some(at(6, 0)), text: r#"{"a":"b\nc"}"#.to_owned() };
        let anew = r#"{"type":"error","id":"a","code":"lagged","error":".","details":{"resync":true}}"#.to_owned();
        let anew = LiveFrame { kind: "error", position: None, text: anew };
        let body = Sse::new(stream::iter([&frame, &anew].map(event).map(Ok::<_, Infallible>))).into_response();
        let bytes = axum::body::to_bytes(body.into_body(), 1_024).await.unwrap();
        let expected = [
            "event: message\ndata: {\"a\":\"b\\nc\"}\nid: 7-6-0\n\n",
            "event: error\ndata: ",
            &anew.text,
            "\nid: \n\n",
        ];
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), expected.concat());
    }

    #[test]
    fn a_query_string_is_a_subscription() {
        let uri = "/api/v1/live?sql=SELECT%20*%20FROM+messages&params=%5B1%5D&lastMsgId=9&token=t";
        let expected = Subscribe {
            sql: Some("SELECT * FROM messages".to_owned()),
            params: Some(Params::Positional(vec![1.into()])),
            last_msg_id: Some(9),
            ..Subscribe::default()
        };
        assert_eq!(asked_by(uri, None).unwrap(), expected);
        let uri = "/api/v1/live?conversationId=c&conversationType=group&after=7-5-1";
        let expected = Subscribe {
            conversation_id: Some(ConversationId::new("c").unwrap()),
            conversation_type: Some(ConversationType::Group),
            after: Some(at(5, 1)),
            ..Subscribe::default()
        };
        assert_eq!(asked_by(uri, None).unwrap(), expected);
    }

    #[test]
    fn the_last_event_seen_goes_before_what_the_address_says() {
        let again = asked_by("/api/v1/live?lastMsgId=0", Some("7-5-1")).unwrap();
        assert_eq!((again.after, again.last_msg_id), (Some(at(5, 1)), None));
        let on = asked_by("/api/v1/live?lastMsgId=0", Some("7-5-1-9")).unwrap();
        assert_eq!((on.after, on.last_msg_id), (Some(at(5, 1)), Some(9)));
        // A browser that was told to forget sends an empty id.
        let anew = asked_by("/api/v1/live?lastMsgId=0", Some("")).unwrap();
        assert_eq!((anew.after, anew.last_msg_id), (None, Some(0)));
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_repeated() {
        for (uri, expected) in [
            ("/?lastMsgId=secret", "`lastMsgId` must be a whole number."),
            ("/?params=secret", "`params` must be a JSON array or object."),
            ("/?conversationId=", "`conversationId` must be an id."),
            ("/?conversationType=secret", "`conversationType` must be `ai` or `group`."),
            ("/?after=secret", "`after` must be an event's id."),
            ("/?secret=1", UNKNOWN_PARAMETER),
        ] {
            assert_eq!(asked_by(uri, None).unwrap_err().message(), expected, "{uri}");
        }
        let error = asked_by("/", Some("secret")).unwrap_err();
        assert_eq!(error.message(), "`Last-Event-ID` must be an event's id.");
    }
}
