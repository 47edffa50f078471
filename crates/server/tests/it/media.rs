//! Uploads as clients meet them: what is taken and told of it, what is refused, and what is left of what went wrong.
//!
//! Invariant: after whatever is refused or broken off, the folder where uploads arrive is empty again.

use std::{
    io::{Cursor, Write as _},
    net::TcpStream,
};

use image::{DynamicImage, ImageFormat, RgbImage};
use kalamdb_protocol::{ErrorCode, MediaMetadata};
use serde_json::{Value, json};

use crate::harness::{BOUNDARY, Client, Server, eventually, form, message};

/// A picture of that size.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::new(width, height)).write_to(&mut bytes, ImageFormat::Png).expect("a picture");
    bytes.into_inner()
}

/// A sound of that many seconds, 8,000 bytes each.
fn sound(seconds: u32) -> Vec<u8> {
    let size = 8_000 * seconds;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend_from_slice(&(36 + size).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data");
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.resize(44 + size as usize, 0x80);
    bytes
}

/// A file that begins like a video.
fn video(bytes: usize) -> Vec<u8> {
    let mut video = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41".to_vec();
    video.resize(bytes, 0);
    video
}

/// The code and sentence of an upload that is refused; nothing of it stays.
#[track_caller]
fn refused(server: &Server, client: &Client, fields: &[(&str, &[u8])]) -> (ErrorCode, String) {
    let refusal = client.post_form(fields).expect("an answer").refusal();
    assert_eq!(server.spooled(), [""; 0]);
    (refusal.error.error, refusal.error.message)
}

// --- what is taken

#[test]
fn an_upload_says_whether_its_conversation_began_with_it() {
    let server = Server::start();
    let john = server.client("user_john");
    john.make_group("g", &[]);
    for (conversation, created) in [("c", true), ("c", false), ("g", false), ("G", true)] {
        let taken = john.upload(b"some text\n", conversation).expect("it is taken");
        assert_eq!(taken.conversation_created, created, "{conversation}");
    }
    assert!(!john.send(&message("G", "hi")).expect("it is there").conversation_created);
    assert!(john.send(&message("H", "hi")).expect("it is new").conversation_created);
}

#[test]
fn a_picture_has_a_size_and_a_thumbnail() {
    let server = Server::start();
    let john = server.client("user_john");
    let original = picture(640, 480);
    let taken = john.upload(&original, "c").expect("it is taken");
    assert!(taken.content_ref.starts_with("user_john/media-"), "{}", taken.content_ref);
    let thumbnail_ref = taken.metadata.thumbnail_ref.clone().expect("a thumbnail");
    assert_eq!(
        taken.metadata,
        MediaMetadata {
            media_type: "image/png".to_owned(),
            file_size: original.len() as u64,
            width: Some(640),
            height: Some(480),
            thumbnail_ref: Some(thumbnail_ref.clone()),
            duration_seconds: None,
        }
    );
    assert_eq!(john.content(&taken.content_ref).body, original);
    let thumbnail = john.content(&thumbnail_ref);
    assert_eq!((thumbnail.status, thumbnail.header("content-type")), (200, "image/jpeg"));
    let small = image::load_from_memory(&thumbnail.body).expect("a picture");
    assert_eq!((small.width(), small.height()), (200, 150));
    assert_eq!(server.spooled(), [""; 0]);
}

#[test]
fn a_sound_has_a_length() {
    let server = Server::start();
    let taken = server.client("user_john").upload(&sound(3), "c").expect("it is taken");
    assert_eq!(taken.metadata.media_type, "audio/wav");
    assert_eq!(taken.metadata.duration_seconds, Some(3.0));
}

#[test]
fn a_file_is_what_its_bytes_say() {
    let server = Server::start();
    let john = server.client("user_john");
    for (bytes, media_type, extension, disposition) in [
        (&b"bread, milk\n"[..], "text/plain", "txt", "inline"),
        (b"<html><script>alert(1)</script>", "text/html", "html", "attachment"),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "image/svg+xml", "svg", "attachment"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf", "pdf", "attachment"),
        (b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "application/zip", "zip", "attachment"),
    ] {
        let taken = john.upload(bytes, "c").expect("it is taken");
        assert_eq!(taken.metadata.media_type, media_type);
        let name = taken.content_ref.rsplit('/').next().expect("a name");
        assert!(name.ends_with(&format!(".{extension}")), "{name}");
        let read = john.content(&taken.content_ref);
        assert_eq!(read.body, bytes);
        assert!(read.header("content-type").starts_with(media_type), "{}", read.header("content-type"));
        let expected = match disposition {
            "inline" => "inline".to_owned(),
            _ => format!("attachment; filename=\"{name}\""),
        };
        assert_eq!(read.header("content-disposition"), expected, "{media_type}");
        assert_eq!(read.header("x-content-type-options"), "nosniff");
        assert_eq!(read.header("content-security-policy"), "sandbox; default-src 'none'");
    }
}

/// A picture that cannot be decoded is a file like any other.
#[test]
fn a_broken_picture_is_kept_without_a_thumbnail() {
    let server = Server::start();
    let john = server.client("user_john");
    let whole = picture(640, 480);
    let taken = john.upload(&whole[..whole.len() / 2], "c").expect("it is taken");
    assert_eq!((taken.metadata.width, taken.metadata.height), (Some(640), Some(480)));
    assert_eq!(taken.metadata.thumbnail_ref, None);
    let mut noise = b"\x89PNG\r\n\x1a\n".to_vec();
    noise.resize(1_000, 0xaa);
    let taken = john.upload(&noise, "c").expect("it is taken");
    assert_eq!((taken.metadata.width, taken.metadata.thumbnail_ref), (None, None));
    assert_eq!(john.content(&taken.content_ref).body, noise);
}

#[test]
fn an_upload_creates_its_conversation() {
    let server = Server::start();
    let john = server.client("user_john");
    john.upload(b"bread", "new").expect("it is taken");
    let of_a_group: [(&str, &[u8]); 3] = [("conversationType", b"group"), ("conversationId", b"g"), ("file", b"bread")];
    assert_eq!(john.post_form(&of_a_group).expect("an answer").status, 201);
    let rows =
        john.rows("SELECT conversationId, conversationType, lastMsgId FROM conversations ORDER BY conversationId");
    assert_eq!(rows, [vec![json!("g"), json!("group"), Value::Null], vec![json!("new"), json!("ai"), Value::Null]]);
    assert_eq!(john.texts("SELECT role FROM conversationUsers WHERE conversationId = 'g'"), ["owner"]);
}

/// A type that is not given is found as a message's is.
#[test]
fn an_upload_goes_to_the_group_that_one_is_in() {
    let server = Server::start();
    let (alice, bob) = (server.client("user_alice"), server.client("user_bob"));
    alice.make_group("g", &["user_bob"]);
    let taken = bob.upload(b"bread", "g").expect("it is taken");
    assert!(taken.content_ref.starts_with("shared/conversations/g/media-"), "{}", taken.content_ref);
}

#[test]
fn only_its_uploader_reads_a_file_before_it_is_sent() {
    let server = Server::start();
    let (alice, bob) = (server.client("user_alice"), server.client("user_bob"));
    alice.make_group("g", &["user_bob"]);
    let taken = alice.upload(&picture(300, 300), "g").expect("it is taken");
    let refs = [taken.content_ref.clone(), taken.metadata.thumbnail_ref.expect("a thumbnail")];
    let readable = |client: &Client| refs.each_ref().map(|content_ref| client.content(content_ref).status);
    assert_eq!((readable(&alice), readable(&bob)), ([200, 200], [404, 404]));
    let sql = "INSERT INTO messages (conversationId, content, contentRef) VALUES ('g', 'look', $1)";
    // Nor may bob make it his own by naming it.
    let stolen = bob.write_params(sql, json!([taken.content_ref])).expect_err("it is not his");
    assert_eq!(stolen.code(), Some(ErrorCode::InvalidValue), "{stolen}");
    alice.write_params(sql, json!([taken.content_ref])).expect("it is sent");
    assert_eq!((readable(&alice), readable(&bob)), ([200, 200], [200, 200]));
    assert_eq!(readable(&server.client("user_eve")), [404, 404]);
}

#[test]
fn a_large_file_is_never_in_memory() {
    let server = Server::start();
    let john = server.client("user_john");
    // What a server that has done a little of everything holds anyhow.
    john.upload(&video(1_000), "c").expect("it is taken");
    let before = peak_memory_kib(&server);
    let large = video(100 << 20);
    let taken = john.upload(&large, "c").expect("it is taken");
    assert_eq!(taken.metadata.file_size, 100 << 20);
    assert!(john.content(&taken.content_ref).body == large, "it comes back as it was");
    let more = peak_memory_kib(&server) - before;
    assert!(more < 32 << 10, "{more} KiB more for a file of 100 MiB");
}

fn peak_memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

// --- what is refused

#[test]
fn programs_and_unknown_files_are_refused() {
    let server = Server::start();
    let john = server.client("user_john");
    let mut elf = b"\x7fELF\x02\x01\x01\0".to_vec();
    elf.resize(100, 0);
    for program in
        [&elf[..], b"MZ\x90\0\x03\0\0\0", b"\xcf\xfa\xed\xfe\x07\0\0\x01", b"\0asm\x01\0\0\0", b"#!/bin/sh\nls\n"]
    {
        let (code, sentence) = refused(&server, &john, &[("file", program), ("conversationId", b"c")]);
        assert_eq!(code, ErrorCode::InvalidValue, "{program:?}");
        assert_eq!(sentence, "Programs and scripts are not taken; send a picture, a sound, a video or a document.");
    }
    let (code, sentence) = refused(&server, &john, &[("file", b"\0\x01\x02\x03"), ("conversationId", b"c")]);
    assert!(
        code == ErrorCode::InvalidValue && sentence.starts_with("The file's first bytes are of no type"),
        "{sentence}"
    );
    assert_eq!(john.number("SELECT COUNT(*) FROM conversations"), 0, "a refused upload leaves no trace");
}

#[test]
fn a_form_that_is_not_as_it_should_be_is_refused_by_name() {
    let server = Server::start();
    let john = server.client("user_john");
    let [file, id]: [(&str, &[u8]); 2] = [("file", b"bread"), ("conversationId", b"c")];
    for (fields, sentence) in [
        (&[id][..], "The form lacks the field `file`."),
        (&[file], "The form lacks the field `conversationId`."),
        (&[file, id, file], "The form has the field `file` twice; send it once."),
        (&[file, id, ("caption", b"x")], "The form has a field too many"),
        (&[("file", b""), id], "The file is empty"),
        (&[file, ("conversationId", b"a\nb")], "The form's `conversationId` cannot be used"),
        (&[file, id, ("conversationType", b"crowd")], "The form's `conversationType` must be `ai` or `group`."),
    ] {
        let (code, told) = refused(&server, &john, fields);
        assert!(code == ErrorCode::InvalidValue && told.starts_with(sentence), "{told}");
    }
    let json = john.request(reqwest::Method::POST, "/api/v1/media/upload", &[], Some("{}")).expect("an answer");
    assert!(json.refusal().error.message.starts_with("The body must be a form"), "{}", json.text());
    assert_eq!(john.number("SELECT COUNT(*) FROM conversations"), 0);
}

#[test]
fn a_stranger_to_a_group_uploads_nothing_there() {
    let server = Server::start();
    server.client("user_alice").make_group("g", &[]);
    let fields: [(&str, &[u8]); 3] = [("file", b"bread"), ("conversationId", b"g"), ("conversationType", b"group")];
    let (code, _) = refused(&server, &server.client("user_eve"), &fields);
    assert_eq!(code, ErrorCode::Forbidden);
    let folder = server.data().join("shared/conversations/g");
    assert!(!folder.exists() || std::fs::read_dir(folder).expect("a folder").next().is_none());
}

#[test]
fn each_kind_has_its_limit() {
    let server = Server::with(&[
        ("media.max_image_size_bytes", "2000"),
        ("media.max_audio_size_bytes", "0"),
        ("media.max_video_size_bytes", "20000"),
        ("media.max_document_size_bytes", "10000"),
    ]);
    let john = server.client("user_john");
    let mut over = picture(10, 10);
    over.resize(2_001, 0);
    for (file, code, sentence) in [
        (over, ErrorCode::PayloadTooLarge, "Of pictures this server takes at most 2000 bytes each"),
        (sound(1), ErrorCode::InvalidValue, "This server takes no sounds (`media.max_audio_size_bytes` is 0)."),
        (video(20_001), ErrorCode::PayloadTooLarge, "Of videos this server takes at most 20000 bytes each"),
        (vec![b'x'; 10_001], ErrorCode::PayloadTooLarge, "Of documents this server takes at most 10000 bytes each"),
    ] {
        let told = refused(&server, &john, &[("file", &file), ("conversationId", b"c")]);
        assert!(told.0 == code && told.1.starts_with(sentence), "{told:?}");
    }
    for file in [picture(10, 10), video(20_000), vec![b'x'; 10_000]] {
        john.upload(&file, "c").expect("it is within its limit");
    }
}

#[test]
fn far_over_every_limit_is_refused_at_once() {
    let kinds = ["image", "audio", "video", "document"].map(|kind| format!("media.max_{kind}_size_bytes"));
    let server = Server::with(&kinds.each_ref().map(|setting| (setting.as_str(), "1000")));
    let john = server.client("user_john");
    let file = vec![b'x'; 20 << 20];
    let refused = john.upload(&file, "c").expect_err("it is too large");
    assert_eq!(refused.code(), Some(ErrorCode::PayloadTooLarge), "{refused}");
    eventually("the spool is empty", || server.spooled().is_empty());
}

// --- what breaks off

/// An upload whose client has sent all but the end.
fn unfinished(server: &Server, user: &str) -> TcpStream {
    let body = form(&[("conversationId", b"c"), ("file", &vec![b'x'; 50_000])]);
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).expect("the server listens");
    let head = format!(
        "POST /api/v1/media/upload HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {}\r\n\r\n",
        server.token(user, false),
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..body.len() - 20])).expect("it is sent");
    stream
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let server = Server::start();
    let stream = unfinished(&server, "user_john");
    eventually("it is arriving", || server.spooled().len() == 1);
    drop(stream);
    eventually("it is gone", || server.spooled().is_empty());
    assert_eq!(server.client("user_john").number("SELECT COUNT(*) FROM conversations"), 0);
}

#[test]
fn a_client_that_falls_silent_is_cut_off() {
    let server = Server::with(&[("server.request_timeout_seconds", "1")]);
    let _silent = unfinished(&server, "user_john");
    eventually("it is arriving", || server.spooled().len() == 1);
    eventually("it is given up", || server.spooled().is_empty());
}

#[test]
fn what_a_killed_server_was_taking_in_is_gone_after_its_start() {
    let mut server = Server::start();
    let _stream = unfinished(&server, "user_john");
    eventually("it is arriving", || server.spooled().len() == 1);
    server.kill9();
    server.spawn();
    assert_eq!(server.spooled(), [""; 0]);
    server.client("user_john").upload(b"bread", "c").expect("the next one is taken");
}

#[test]
fn one_user_s_uploads_leave_places_for_others() {
    let server = Server::with(&[("media.max_concurrent_uploads", "4")]);
    let (john, alice) = (server.client("user_john"), server.client("user_alice"));
    let slow = unfinished(&server, "user_john");
    eventually("it is arriving", || server.spooled().len() == 1);
    let second = john.post_form(&[("file", b"bread"), ("conversationId", b"c")]).expect("an answer");
    assert_eq!(second.refusal().error.error, ErrorCode::RateLimited);
    assert_eq!(second.header("retry-after"), "1");
    alice.upload(b"bread", "c").expect("she has her place");
    drop(slow);
    eventually("the place is free", || john.upload(b"bread", "c").is_ok());
}
