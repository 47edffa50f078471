//! Sniffing: how a file of every type that is taken begins, what is refused, and what only looks like something else.

use super::*;

/// Bytes and how the type that they begin is called.
type Example = (&'static [u8], &'static str, &'static str);

const PICTURES: [Example; 10] = [
    (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "image/jpeg", "jpg"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png", "png"),
    (b"GIF89a\x01\x00\x01\x00\x80\x00\x00", "image/gif", "gif"),
    (b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00", "image/webp", "webp"),
    (b"BM\x46\x00\x00\x00\x00\x00\x00\x00\x36\x00", "image/bmp", "bmp"),
    (b"II*\x00\x08\x00\x00\x00\x0e\x00\xfe\x00", "image/tiff", "tif"),
    (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "image/heif", "heif"),
    (b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif", "image/avif", "avif"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n\x00\x00\x00\x14ftypjxl ", "image/jxl", "jxl"),
    (b"\xff\x0a\xfa\x7f\x01\x90\x08\x06", "image/jxl", "jxl"),
];

const SOUNDS: [Example; 12] = [
    (b"ID3\x04\x00\x00\x00\x00\x00\x23TSSE", "audio/mpeg", "mp3"),
    (b"\xff\xfb\x90\x64\x00\x00\x00\x00", "audio/mpeg", "mp3"),
    (b"\xff\xf3\x40\xc4\x00\x00\x00\x03", "audio/mpeg", "mp3"),
    (b"\x00\x00\x00\x1cftypM4A \x00\x00\x02\x00M4A isomiso2", "audio/mp4", "m4a"),
    (b"OggS\x00\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\xaa\xbb\xcc\xdd\x01\x13OpusHead\x01\x01", "audio/ogg", "opus"),
    (b"OggS\x00\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\xaa\xbb\xcc\xdd\x01\x1e\x01vorbis\0\0\0\0", "audio/ogg", "ogg"),
    (b"fLaC\x00\x00\x00\x22\x10\x00\x10\x00", "audio/flac", "flac"),
    (b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00", "audio/wav", "wav"),
    (b"FORM\x00\x00\x00\x2eAIFFCOMM\x00\x00\x00\x12", "audio/aiff", "aiff"),
    (b"\xff\xf1\x50\x80\x02\x1f\xfc\xde", "audio/aac", "aac"),
    (b"#!AMR\n\x3c\x91\x17\x16\xbe\x66\x79\xe1", "audio/amr", "amr"),
    (b"MThd\x00\x00\x00\x06\x00\x01\x00\x02", "audio/midi", "mid"),
];

const VIDEOS: [Example; 5] = [
    (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", "video/mp4", "mp4"),
    (b"\x00\x00\x00\x20ftypM4V \x00\x00\x00\x01isommp42", "video/mp4", "m4v"),
    (b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ", "video/quicktime", "mov"),
    (b"\x00\x00\x01\xba\x44\x00\x04\x00\x04\x01", "video/mpeg", "mpg"),
    (b"RIFF\x00\x10\x00\x00AVI LIST\xc0\x00\x00\x00", "video/x-msvideo", "avi"),
];

const DOCUMENTS: [Example; 21] = [
    (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "application/pdf", "pdf"),
    (b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>", "application/pdf", "pdf"),
    (b"{\\rtf1\\ansi{\\fonttbl\\f0\\fswiss Helvetica;}", "application/rtf", "rtf"),
    (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "application/gzip", "gz"),
    (b"BZh91AY&SY\xd2\x13\x65\x36", "application/x-bzip2", "bz2"),
    (b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46", "application/x-xz", "xz"),
    (b"\x28\xb5\x2f\xfd\x24\x05\x29\x00\x00", "application/zstd", "zst"),
    (b"7z\xbc\xaf\x27\x1c\x00\x04\x5b\x38", "application/x-7z-compressed", "7z"),
    (b"Rar!\x1a\x07\x01\x00\x33\x92\xb5\xe5", "application/vnd.rar", "rar"),
    (b"Shopping: bread, milk.\n", "text/plain", "txt"),
    ("Grüße aus Köln 🙂\r\n\tein Absatz".as_bytes(), "text/plain", "txt"),
    (b"{\"role\": \"user\"}\n", "text/plain", "txt"),
    (b"name,size\nbread,1\n", "text/plain", "txt"),
    (b"x", "text/plain", "txt"),
    (b"<!DOCTYPE html>\n<html><script>alert(1)</script>", "text/html", "html"),
    (b"\n  <script >alert(1)</script>", "text/html", "html"),
    (b"<html><p>caf\xe9 in Latin-1</p></html>", "text/html", "html"),
    (b"<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"alert(1)\"/>", "image/svg+xml", "svg"),
    (b"<?xml version=\"1.0\"?>\n<!-- a drawing --><svg/>", "image/svg+xml", "svg"),
    (b"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"UTF-8\"?><feed/>", "text/xml", "xml"),
    (b"<?XML version=\"1.0\"?><feed/>", "text/xml", "xml"),
];

const EXECUTABLES: [&[u8]; 9] = [
    b"MZ\x90\x00\x03\x00\x00\x00\x04\x00\x00\x00\xff\xff\x00\x00",
    b"\xcf\xfa\xed\xfe\x07\x00\x00\x01\x03\x00\x00\x00",
    b"\xca\xfe\xba\xbe\x00\x00\x00\x02\x01\x00\x00\x07",
    b"\xca\xfe\xba\xbe\x00\x00\x00\x3d\x00\x0d\x0a\x00",
    b"\x00asm\x01\x00\x00\x00\x01\x04\x01\x60",
    b"#!/bin/sh\nrm -rf /\n",
    b"#!/usr/bin/env python3\nprint(1)\n",
    b"#! /usr/bin/perl\n# caf\xe9 in Latin-1\n",
    b"BC\xc0\xde\x35\x14\x00\x00\x05\x00\x00\x00",
];

#[track_caller]
fn is_taken_as(head: &[u8], mime: &str, extension: &str, kind: Kind) {
    let found = sniff(head).unwrap_or_else(|refusal| panic!("{mime}: {refusal}"));
    assert_eq!((found.mime, found.extension, found.kind), (mime, extension, kind));
}

#[test]
fn every_type_is_told_by_its_first_bytes() {
    for (kind, examples) in [
        (Kind::Image, &PICTURES[..]),
        (Kind::Audio, &SOUNDS[..]),
        (Kind::Video, &VIDEOS[..]),
        (Kind::Document, &DOCUMENTS[..]),
    ] {
        for (head, mime, extension) in examples {
            is_taken_as(head, mime, extension, kind);
        }
    }
}

/// An archive whose entries have these names and contents.
fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in entries {
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        bytes.extend_from_slice(b"PK\x03\x04\x14\x00\x00\x00\x00\x00\x00\x00\x21\x00\xaa\xbb\xcc\xdd");
        bytes.extend_from_slice(&size);
        bytes.extend_from_slice(&size);
        bytes.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(content.as_bytes());
    }
    bytes
}

#[test]
fn office_files_are_told_from_other_archives() {
    let office = |parts: &[&str]| {
        let all: Vec<_> =
            ["[Content_Types].xml", "_rels/.rels"].iter().chain(parts).map(|name| (*name, "<x/>")).collect();
        archive(&all)
    };
    is_taken_as(&office(&["word/document.xml", "docProps/app.xml"]), DOCX, "docx", Kind::Document);
    is_taken_as(&office(&["docProps/app.xml", "xl/workbook.xml"]), XLSX, "xlsx", Kind::Document);
    is_taken_as(&office(&["ppt/presentation.xml"]), PPTX, "pptx", Kind::Document);
    is_taken_as(&archive(&[("word/document.xml", "<x/>")]), DOCX, "docx", Kind::Document);
    for (name, extension) in [("text", "odt"), ("spreadsheet", "ods"), ("presentation", "odp")] {
        let mime = format!("application/vnd.oasis.opendocument.{name}");
        is_taken_as(&archive(&[("mimetype", &mime), ("content.xml", "<x/>")]), &mime, extension, Kind::Document);
    }
    let book = archive(&[("mimetype", "application/epub+zip"), ("META-INF/container.xml", "<x/>")]);
    is_taken_as(&book, "application/epub+zip", "epub", Kind::Document);
    is_taken_as(&archive(&[("notes.txt", "hi"), ("word/list.txt", "a")]), "application/zip", "zip", Kind::Document);
    is_taken_as(&office(&["other.xml"]), "application/zip", "zip", Kind::Document);

    let mut tape = vec![0_u8; 512];
    tape[..9].copy_from_slice(b"notes.txt");
    tape[257..263].copy_from_slice(b"ustar\0");
    is_taken_as(&tape, "application/x-tar", "tar", Kind::Document);
}

#[test]
fn matroska_says_which_it_is_in_its_header() {
    for (name, mime, extension) in [("webm", "video/webm", "webm"), ("matroska", "video/matroska", "mkv")] {
        let mut head = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82".to_vec();
        head.push(0x80 | u8::try_from(name.len()).unwrap());
        head.extend_from_slice(name.as_bytes());
        head.resize(300, 0);
        is_taken_as(&head, mime, extension, Kind::Video);
    }
}

#[test]
fn what_a_machine_would_run_is_refused() {
    let mut elf = b"\x7fELF\x02\x01\x01\x00".to_vec();
    elf.resize(64, 0);
    for head in EXECUTABLES.into_iter().chain([&elf[..]]) {
        assert!(matches!(sniff(head), Err(Refusal::Executable)), "{head:?}");
    }
}

#[test]
fn what_is_of_no_type_is_refused() {
    for head in [
        &b"\x00\x01\x02\x03\x04\x05\x06\x07"[..],
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00\x00\x00\x00", // Old Office, and installers: one signature for both.
        b"SQLite format 3\x00\x10\x00\x01\x01",
        b"caf\xe9 in Latin-1",
        b"a NUL in a text\x00",
        b"cut within a character \xc3",
        b"\xff\xfeU\x00T\x00F\x00-\x001\x006\x00",
    ] {
        assert!(matches!(sniff(head), Err(Refusal::Unknown)), "{head:?}");
    }
}

#[test]
fn a_sentence_is_no_signature() {
    for text in
        ["BMW has a new one", "MZ is short for", "BCE, and before", "GIF or JPEG?", "ID3 tags", "see %PDF there"]
    {
        is_taken_as(text.as_bytes(), "text/plain", "txt", Kind::Document);
    }
}

#[test]
fn a_character_may_be_cut_where_the_head_ends() {
    let mut text = "x".repeat(HEAD_BYTES - 1).into_bytes();
    text.push(0xc3);
    is_taken_as(&text, "text/plain", "txt", Kind::Document);
}

#[test]
fn no_type_stands_there_twice() {
    let names: std::collections::BTreeSet<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), TYPES.len());
}

#[test]
fn extensions_are_what_the_store_takes() {
    for (_, media_type) in &TYPES {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        assert!(media_type.extension.bytes().all(plain), "{media_type:?}");
    }
}
