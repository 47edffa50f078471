//! The type of a file, told by its first bytes.
//!
//! Invariant: the types that are taken are the table below and nothing else; what a machine would run is never taken.

use infer::MatcherType;

use super::{Kind, Refusal};

/// Bytes of a file that are looked at: the first names in an Office file's archive and the header of every other type
/// lie within.
pub(super) const HEAD_BYTES: usize = 8_192;

/// A type of file that is taken.
#[derive(Debug, PartialEq, Eq)]
pub struct MediaType {
    /// The MIME type.
    pub mime: &'static str,
    /// The extension of such a file.
    pub extension: &'static str,
    /// The kind, by which it is limited.
    pub kind: Kind,
}

const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";

/// A type whose MIME type is what the signature library calls it.
const fn is(kind: Kind, mime: &'static str, extension: &'static str) -> (&'static str, MediaType) {
    (mime, MediaType { mime, extension, kind })
}

/// A type that is registered under another name than the library's.
const fn called(
    name: &'static str,
    kind: Kind,
    mime: &'static str,
    extension: &'static str,
) -> (&'static str, MediaType) {
    (name, MediaType { mime, extension, kind })
}

/// Every type that is taken, by the library's name for it.
static TYPES: [(&str, MediaType); 47] = [
    is(Kind::Image, "image/jpeg", "jpg"),
    is(Kind::Image, "image/png", "png"),
    is(Kind::Image, "image/gif", "gif"),
    is(Kind::Image, "image/webp", "webp"),
    is(Kind::Image, "image/bmp", "bmp"),
    is(Kind::Image, "image/tiff", "tif"),
    is(Kind::Image, "image/heif", "heif"),
    is(Kind::Image, "image/avif", "avif"),
    is(Kind::Image, "image/jxl", "jxl"),
    is(Kind::Audio, "audio/mpeg", "mp3"),
    called("audio/m4a", Kind::Audio, "audio/mp4", "m4a"),
    called("audio/opus", Kind::Audio, "audio/ogg", "opus"),
    is(Kind::Audio, "audio/ogg", "ogg"),
    called("audio/x-flac", Kind::Audio, "audio/flac", "flac"),
    called("audio/x-wav", Kind::Audio, "audio/wav", "wav"),
    called("audio/x-aiff", Kind::Audio, "audio/aiff", "aiff"),
    is(Kind::Audio, "audio/aac", "aac"),
    is(Kind::Audio, "audio/amr", "amr"),
    is(Kind::Audio, "audio/midi", "mid"),
    is(Kind::Video, "video/mp4", "mp4"),
    called("video/x-m4v", Kind::Video, "video/mp4", "m4v"),
    is(Kind::Video, "video/quicktime", "mov"),
    is(Kind::Video, "video/webm", "webm"),
    called("video/x-matroska", Kind::Video, "video/matroska", "mkv"),
    is(Kind::Video, "video/mpeg", "mpg"),
    is(Kind::Video, "video/x-msvideo", "avi"),
    is(Kind::Document, "text/plain", "txt"),
    is(Kind::Document, "text/html", "html"),
    is(Kind::Document, "text/xml", "xml"),
    is(Kind::Document, "image/svg+xml", "svg"),
    is(Kind::Document, "application/rtf", "rtf"),
    is(Kind::Document, "application/pdf", "pdf"),
    is(Kind::Document, DOCX, "docx"),
    is(Kind::Document, XLSX, "xlsx"),
    is(Kind::Document, PPTX, "pptx"),
    is(Kind::Document, "application/vnd.oasis.opendocument.text", "odt"),
    is(Kind::Document, "application/vnd.oasis.opendocument.spreadsheet", "ods"),
    is(Kind::Document, "application/vnd.oasis.opendocument.presentation", "odp"),
    is(Kind::Document, "application/epub+zip", "epub"),
    is(Kind::Document, "application/zip", "zip"),
    is(Kind::Document, "application/gzip", "gz"),
    is(Kind::Document, "application/x-tar", "tar"),
    is(Kind::Document, "application/x-bzip2", "bz2"),
    is(Kind::Document, "application/x-xz", "xz"),
    is(Kind::Document, "application/zstd", "zst"),
    is(Kind::Document, "application/x-7z-compressed", "7z"),
    is(Kind::Document, "application/vnd.rar", "rar"),
];

/// The type of a file that begins like this: [`HEAD_BYTES`] of it, or all of it.
pub(super) fn sniff(head: &[u8]) -> Result<&'static MediaType, Refusal> {
    // Text first: some signatures are two letters, with which a sentence may begin just as well.
    let name = if is_text(head) {
        text(head)?
    } else if let Some(office) = office(head) {
        office
    } else {
        binary(head)?
    };
    TYPES.iter().find(|(known, _)| *known == name).map(|(_, media_type)| media_type).ok_or(Refusal::Unknown)
}

/// Whether it is text in UTF-8, without the control characters that stand in no text.
fn is_text(head: &[u8]) -> bool {
    let in_utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character may be cut where the head ends.
        Err(error) => error.error_len().is_none() && head.len() >= HEAD_BYTES,
    };
    in_utf8 && !head.iter().any(|byte| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f))
}

/// The type of a text. What a browser would take for a page or a drawing, which can hold scripts, is none that is
/// plain.
fn text(head: &[u8]) -> Result<&'static str, Refusal> {
    if head.starts_with(b"#!") {
        return Err(Refusal::Executable);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    Ok(if begins(b"<svg") || (begins(b"<?xml") && text.windows(4).any(|name| name == b"<svg")) {
        "image/svg+xml"
    } else if begins(b"<?xml") {
        "text/xml"
    } else if infer::text::is_html(text) {
        "text/html"
    } else if begins(b"{\\rtf") {
        "application/rtf"
    } else if begins(b"%PDF-") {
        "application/pdf"
    } else {
        "text/plain"
    })
}

/// The type of an Office file: an archive that begins with what describes its parts and has a folder with the parts.
fn office(head: &[u8]) -> Option<&'static str> {
    const ENTRY: &[u8] = b"PK\x03\x04";
    const NAME_AT: usize = 30;
    let mut names = head
        .windows(ENTRY.len())
        .enumerate()
        .filter(|(_, window)| *window == ENTRY)
        .filter_map(|(at, _)| head.get(at + NAME_AT..));
    let by_folder = |name: &[u8]| {
        let folders: [(&[u8], _); 3] = [(b"word/", DOCX), (b"xl/", XLSX), (b"ppt/", PPTX)];
        folders.into_iter().find(|(folder, _)| name.starts_with(folder)).map(|(_, office)| office)
    };
    let first = names.next().filter(|_| head.starts_with(ENTRY))?;
    let describes: [&[u8]; 3] = [b"[Content_Types].xml", b"_rels/", b"docProps/"];
    match by_folder(first) {
        None if describes.iter().any(|part| first.starts_with(part)) => names.find_map(by_folder),
        found => found,
    }
}

/// The type that the library gives anything else.
fn binary(head: &[u8]) -> Result<&'static str, Refusal> {
    let found = infer::get(head).ok_or(Refusal::Unknown)?;
    let is_script = found.mime_type() == "text/x-shellscript";
    if is_script || found.matcher_type() == MatcherType::App {
        return Err(Refusal::Executable);
    }
    Ok(found.mime_type())
}

#[cfg(test)]
mod tests;
