//! The form: its fields in every order, cut anywhere, broken in every way, and what is left of it.

use axum::http::header::CONTENT_LENGTH;
use futures::stream;
use tempfile::TempDir;

use super::*;

const BOUNDARY: &str = "b0";

/// A form as it goes over the wire, from names and values.
fn form(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in fields {
        let file = if *name == "file" { "; filename=\"../../evil.sh\"\r\nContent-Type: application/x-sh" } else { "" };
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        text.extend([head.as_str(), value, "\r\n"]);
    }
    text.extend(["--", BOUNDARY, "--\r\n"]);
    text.into_bytes()
}

/// A request whose body comes in such pieces.
fn request(pieces: impl Stream<Item = Vec<u8>> + Send + 'static) -> Request {
    let body = Body::from_stream(pieces.map(Ok::<_, std::io::Error>));
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    Request::builder().header("content-type", content_type).body(body).unwrap()
}

struct Spool(TempDir);

impl Spool {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.0.path()).unwrap().count()
    }

    async fn read(&self, request: Request, patience: Duration) -> Result<ReceivedForm, ApiError> {
        let limits = Limits { image: 4 << 20, audio: 0, video: 0, document: 4 << 20 };
        ReceivedForm::read(request, &Terms { spool: self.0.path(), limits, patience }).await
    }

    async fn takes(&self, bytes: &[u8], piece: usize) -> Result<ReceivedForm, ApiError> {
        let pieces: Vec<Vec<u8>> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
        self.read(request(stream::iter(pieces)), Duration::from_mins(1)).await
    }

    async fn refuses(&self, bytes: &[u8]) -> (ErrorCode, String) {
        let error = self.takes(bytes, 1_000).await.err().expect("a refusal");
        assert_eq!(self.files(), 0);
        (error.code(), error.message().to_owned())
    }
}

#[tokio::test]
async fn fields_come_in_any_order_and_pieces() {
    let spool = Spool::new();
    let text = "Bread, milk.\r\n--b\r\n".repeat(100);
    let (file, id, kind) = (("file", text.as_str()), ("conversationId", "auth0|1 é"), ("conversationType", "group"));
    for fields in [[file, id, kind], [id, kind, file], [kind, file, id]] {
        for piece in [1, 2, 3, 100, 10_000] {
            let form = spool.takes(&form(&fields), piece).await.unwrap();
            assert_eq!(form.conversation.as_str(), "auth0|1 é");
            assert_eq!(form.conversation_type, Some(ConversationType::Group));
            assert_eq!(std::fs::read_to_string(&form.upload.path).unwrap(), text);
            assert_eq!((form.upload.bytes, form.upload.media_type.mime), (text.len() as u64, "text/plain"));
        }
    }
    let form = spool.takes(&form(&[file, id]), 100).await.unwrap();
    assert_eq!(form.conversation_type, None);
    drop(form);
    assert_eq!(spool.files(), 0);
}

#[tokio::test]
async fn a_complaint_says_what_is_wrong_with_the_form() {
    let spool = Spool::new();
    let (file, id) = (("file", "hello"), ("conversationId", "c"));
    let long = "x".repeat(600);
    for (fields, expected) in [
        (&[id][..], "The form lacks the field `file`."),
        (&[file], "The form lacks the field `conversationId`."),
        (&[], "The form lacks the field `file`."),
        (&[file, file, id], "The form has the field `file` twice; send it once."),
        (&[id, file, id], "The form has the field `conversationId` twice; send it once."),
        (
            &[file, id, ("name", "x")],
            "The form has a field too many; it has `file`, `conversationId` and `conversationType`.",
        ),
        (&[("file", ""), id], "The file is empty; send one that holds something."),
        (
            &[file, ("conversationId", "")],
            "The form's `conversationId` cannot be used: an id must be 1 to 128 characters long.",
        ),
        (
            &[file, ("conversationId", "a\u{200b}b")],
            "The form's `conversationId` cannot be used: an id may hold printable characters only.",
        ),
        (&[file, ("conversationId", &long)], "The form's `conversationId` is too long."),
        (&[file, id, ("conversationType", "crowd")], "The form's `conversationType` must be `ai` or `group`."),
        (
            &[("file", "#!/bin/sh\n"), id],
            "Programs and scripts are not taken; send a picture, a sound, a video or a document.",
        ),
    ] {
        assert_eq!(spool.refuses(&form(fields)).await, (ErrorCode::InvalidValue, expected.to_owned()));
    }
}

#[tokio::test]
async fn a_body_that_is_no_form_is_refused() {
    let spool = Spool::new();
    for content_type in ["application/json", "multipart/form-data", "multipart/mixed; boundary=b0", "nonsense"] {
        let request = Request::builder().header("content-type", content_type).body(Body::from("{}")).unwrap();
        let error = spool.read(request, Duration::from_mins(1)).await.err().unwrap();
        assert!(error.message().starts_with("The body must be a form"), "{content_type}: {}", error.message());
    }
    let whole = form(&[("file", "hello"), ("conversationId", "c")]);
    for end in 0..whole.len() - 4 {
        let (code, message) = spool.refuses(&whole[..end]).await;
        assert_eq!(code, ErrorCode::InvalidValue, "{end}");
        assert!(message.starts_with("The form is broken or ends early"), "{end}: {message}");
    }
}

#[tokio::test]
async fn a_file_over_its_limit_is_read_no_further() {
    let spool = Spool::new();
    // It never ends; what is read of it does.
    let head = form(&[("file", "x")]);
    let head = head[..head.len() - b"\r\n--b0--\r\n".len()].to_vec();
    let endless = stream::once(async { head }).chain(stream::repeat(vec![b'x'; 100_000]));
    let error = spool.read(request(endless), Duration::from_mins(1)).await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
    assert!(error.message().contains("4194304 bytes"), "{}", error.message());
    assert_eq!(spool.files(), 0);
    // A limit that the client says it will pass is passed already.
    let mut announced = request(stream::pending());
    announced.headers_mut().insert(CONTENT_LENGTH, "10000000".parse().unwrap());
    let error = spool.read(announced, Duration::from_mins(1)).await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
}

#[tokio::test]
async fn what_stands_beside_the_file_is_bounded() {
    let spool = Spool::new();
    let endless_header = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; x=").into_bytes();
    for start in [b"no boundary, ".to_vec(), endless_header] {
        let endless = stream::once(async { start }).chain(stream::repeat(vec![b'x'; 100_000]));
        let error = spool.read(request(endless), Duration::from_mins(1)).await.err().unwrap();
        assert!(error.message().starts_with("The form holds too much besides the file"), "{}", error.message());
    }
    assert_eq!(spool.files(), 0);
}

#[tokio::test]
async fn a_client_that_falls_silent_is_not_waited_for_for_ever() {
    let spool = Spool::new();
    let whole = form(&[("file", "hello"), ("conversationId", "c")]);
    let silent = stream::once(async move { whole[..100].to_vec() }).chain(stream::pending());
    let error = spool.read(request(silent), Duration::from_millis(1)).await.err().unwrap();
    assert_eq!(
        error.message(),
        "Nothing of the upload arrived for 0 seconds (`server.request_timeout_seconds`); send it again."
    );
    let broken = stream::iter([Ok(form(&[("file", "x")])[..80].to_vec()), Err(std::io::Error::other("gone"))]);
    let mut request = request(stream::empty());
    *request.body_mut() = Body::from_stream(broken);
    let error = spool.read(request, Duration::from_mins(1)).await.err().unwrap();
    assert_eq!(error.message(), "The upload broke off; send it again.");
    assert_eq!(spool.files(), 0);
}
