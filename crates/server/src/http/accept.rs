//! The format that the client wants its rows in.
//!
//! Invariant: never refuses; what we do not offer is answered in JSON, which every client can read.

use axum::http::{HeaderMap, header::ACCEPT};
use kalamdb_engine::Format;

/// The formats that are streamed, by media type. JSON, the default, is not among them.
const STREAMED: [(&str, Format); 3] = [
    ("text/csv", Format::Csv),
    ("application/x-ndjson", Format::NdJson),
    ("application/vnd.apache.arrow.stream", Format::Arrow),
];

/// The media type of a streamed format.
pub fn media_type(format: Format) -> &'static str {
    STREAMED.iter().find(|(_, known)| *known == format).map_or("application/json", |(name, _)| name)
}

/// The format that the `Accept` header likes best; `None` is JSON.
pub fn wanted(headers: &HeaderMap) -> Option<Format> {
    let ranges = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut best = (0, None);
    for (name, weight) in ranges.flat_map(|value| value.split(',')).filter_map(range) {
        // The first of equals wins, as it stands first in the header.
        if weight > best.0
            && let Some(format) = offered(name)
        {
            best = (weight, format);
        }
    }
    best.1
}

/// The format that is offered for a media range; the outer `None` is nothing.
#[allow(clippy::option_option)]
fn offered(name: &str) -> Option<Option<Format>> {
    match name.to_ascii_lowercase().as_str() {
        "application/json" | "application/*" | "*/*" => Some(None),
        "text/*" => Some(Some(Format::Csv)),
        name => STREAMED.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, format)| Some(*format)),
    }
}

/// A media range and its weight in thousandths; nothing for one whose weight is no weight.
fn range(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?;
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let Some(weight) = weight else { return Some((name, 1_000)) };
    let share = weight.parse::<f32>().ok().filter(|share| (0.0..=1.0).contains(share))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is between 0 and 1000.
    Some((name, (share * 1_000.0).round() as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_format_that_we_offer_is_taken() {
        for (accept, expected) in [
            ("*/*", None),
            ("application/json", None),
            ("text/csv;q=0.5, Application/JSON", None),
            ("Text/*", Some(Format::Csv)),
            ("text/csv", Some(Format::Csv)),
            ("TEXT/CSV; charset=utf-8", Some(Format::Csv)),
            ("application/x-ndjson", Some(Format::NdJson)),
            ("application/vnd.apache.arrow.stream", Some(Format::Arrow)),
            ("text/html, text/*;q=0.9", Some(Format::Csv)),
            ("text/csv;q=0.5, application/json", None),
            ("text/csv;q=0.5, application/json;q=0.4", Some(Format::Csv)),
            ("application/x-ndjson, text/csv", Some(Format::NdJson)),
            ("text/csv;q=0", None),
            ("text/csv;q=x, */*;q=0.1", None),
            ("image/png", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert_eq!(wanted(&headers), expected, "{accept}");
        }
        assert_eq!(wanted(&HeaderMap::new()), None);
        assert_eq!(media_type(Format::Arrow), "application/vnd.apache.arrow.stream");
    }
}
