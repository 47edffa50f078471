//! The part of a file that a request asks for, and whether the client has it already.
//!
//! Invariant: what cannot be understood, and several ranges at once, mean the whole file, as HTTP lets a server do.

use std::{
    ops::Range,
    time::{Duration, UNIX_EPOCH},
};

use axum::http::{
    HeaderMap,
    header::{IF_NONE_MATCH, IF_RANGE, RANGE},
};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};
use kalamdb_protocol::Micros;
use kalamdb_store::StoredFile;

/// The part of a file that a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum FilePart {
    /// All of it.
    Whole,
    /// A range of bytes; at least one.
    Range(Range<u64>),
    /// Bytes that it does not have.
    Outside,
}

/// The file's `ETag`: `"ann/msg-5.bin-640fef2d24000"`. A file is never changed, so that its name says which bytes it
/// has; and when it was stored, because a name may be given again when its file has been gone for long.
pub fn tag(file: &StoredFile) -> String {
    format!("\"{}-{:x}\"", file.path, file.created)
}

/// Whether `If-None-Match` says that the client has it.
pub fn is_known(asked: &HeaderMap, tag: &str) -> bool {
    let values = asked.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    let mut known = values.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// The part that the headers ask for.
pub fn part(asked: &HeaderMap, tag: &str, bytes: u64) -> FilePart {
    let Some(range) = asked.get(RANGE).and_then(|value| value.to_str().ok()) else { return FilePart::Whole };
    // A client that has the beginning of another file wants all of this one. A date says too little: within a second
    // there may be two.
    if asked.get(IF_RANGE).is_some_and(|condition| condition != tag) {
        return FilePart::Whole;
    }
    let Ok(parsed) = parse_range_header(range) else { return FilePart::Whole };
    match parsed.validate(bytes).as_deref() {
        Ok([one]) if parsed.len() == 1 => FilePart::Range(*one.start()..one.end() + 1),
        Err(RangeUnsatisfiableError::Unsatisfiable) => FilePart::Outside,
        _ => FilePart::Whole,
    }
}

/// A time as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(micros: Micros) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_micros(micros.try_into().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn asking(headers: &[(HeaderName, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn one_range_is_answered_and_what_is_odd_gets_the_whole() {
        for (range, expected) in [
            ("bytes=0-0", FilePart::Range(0..1)),
            ("bytes=0-99", FilePart::Range(0..100)),
            ("bytes=10-19", FilePart::Range(10..20)),
            ("bytes=90-", FilePart::Range(90..100)),
            ("bytes=90-1000", FilePart::Range(90..100)),
            ("bytes=-10", FilePart::Range(90..100)),
            ("bytes=-1000", FilePart::Range(0..100)),
            ("BYTES=5-6", FilePart::Range(5..7)),
            ("bytes=100-", FilePart::Outside),
            ("bytes=100-200", FilePart::Outside),
            ("bytes=-0", FilePart::Outside),
            ("bytes=18446744073709551615-", FilePart::Outside),
            ("bytes=0-1,5-6", FilePart::Whole),
            ("bytes=0-1,500-", FilePart::Whole),
            ("bytes=9-5", FilePart::Whole),
            ("bytes=", FilePart::Whole),
            ("bytes=a-b", FilePart::Whole),
            ("bytes=0x0-1", FilePart::Whole),
            ("lines=1-2", FilePart::Whole),
            ("0-5", FilePart::Whole),
        ] {
            assert_eq!(part(&asking(&[(RANGE, range)]), "\"t\"", 100), expected, "{range}");
        }
        assert_eq!(part(&HeaderMap::new(), "\"t\"", 100), FilePart::Whole);
    }

    #[test]
    fn a_range_of_another_file_gets_the_whole() {
        let part = |condition| part(&asking(&[(RANGE, "bytes=1-2"), (IF_RANGE, condition)]), "\"t\"", 100);
        assert_eq!(part("\"t\""), FilePart::Range(1..3));
        for other in ["\"u\"", "W/\"t\"", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(part(other), FilePart::Whole, "{other}");
        }
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        for (known, expected) in [
            ("\"t\"", true),
            ("W/\"t\"", true),
            ("\"s\", \"t\"", true),
            ("*", true),
            ("\"s\"", false),
            ("t", false),
            ("", false),
        ] {
            assert_eq!(is_known(&asking(&[(IF_NONE_MATCH, known)]), "\"t\""), expected, "{known}");
        }
        assert!(!is_known(&HeaderMap::new(), "\"t\""));
    }

    #[test]
    fn a_time_is_written_as_http_has_it() {
        for (seconds, expected) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_825_599, "Tue, 29 Feb 2000 11:59:59 GMT"),
            (1_704_067_199, "Sun, 31 Dec 2023 23:59:59 GMT"),
            (1_704_067_200, "Mon, 01 Jan 2024 00:00:00 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            // HTTP's own times do not go back further.
            (-1, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(seconds * 1_000_000), expected);
        }
    }
}
