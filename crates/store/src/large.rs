//! The text of a large message: its beginning stays in the row, the whole of it lies in a file.
//!
//! Invariant: pure functions of text and metadata.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Bytes of a large message's text that stay in its row, cut at a character.
const PREVIEW_BYTES: usize = 1024;

/// The `contentType` of a large text whose sender names none.
const CONTENT_TYPE: &str = "text/plain";

/// Why a large text takes no file besides.
pub(crate) const TEXT_AND_MEDIA: &str =
    "A text this large is kept in a file of its own, so the message takes no other contentRef; send two messages.";

/// The beginning of a text.
pub(crate) fn preview(text: &str) -> &str {
    &text[..text.floor_char_boundary(PREVIEW_BYTES)]
}

fn parse(metadata: Option<&str>) -> Result<Map<String, Value>> {
    metadata.map_or_else(|| Ok(Map::new()), |text| serde_json::from_str(text).map_err(|_| Error::corrupt("metadata")))
}

fn written(metadata: &Map<String, Value>) -> Result<Option<String>> {
    serde_json::to_string(metadata).map(Some).map_err(|_| Error::corrupt("metadata"))
}

/// Says in the metadata what the file holds.
pub(crate) fn describe(metadata: Option<&str>, bytes: u64) -> Result<Option<String>> {
    let mut metadata = parse(metadata)?;
    if !metadata.get("contentType").is_some_and(Value::is_string) {
        metadata.insert("contentType".to_owned(), CONTENT_TYPE.into());
    }
    metadata.insert("fullSize".to_owned(), bytes.into());
    written(&metadata)
}

/// Takes out what [`describe`] put in.
pub(crate) fn undescribe(metadata: Option<&str>) -> Result<Option<String>> {
    let mut metadata = parse(metadata)?;
    metadata.remove("fullSize");
    if metadata.get("contentType").is_some_and(|given| given == CONTENT_TYPE) {
        metadata.remove("contentType");
    }
    if metadata.is_empty() { Ok(None) } else { written(&metadata) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_ends_at_a_character() {
        assert_eq!(preview("short"), "short");
        let text = format!("{}🙂🙂", "a".repeat(1022));
        assert_eq!(preview(&text).len(), 1022);
        assert_eq!(preview(&"é".repeat(600)).len(), 1024);
    }

    #[test]
    fn metadata_is_described_and_comes_back() {
        assert_eq!(describe(None, 7).unwrap().unwrap(), r#"{"contentType":"text/plain","fullSize":7}"#);
        let own = describe(Some(r#"{"contentType":"text/markdown","a":1}"#), 7).unwrap().unwrap();
        assert_eq!(own, r#"{"a":1,"contentType":"text/markdown","fullSize":7}"#);
        assert_eq!(undescribe(Some(&own)).unwrap().unwrap(), r#"{"a":1,"contentType":"text/markdown"}"#);
        assert_eq!(undescribe(describe(None, 7).unwrap().as_deref()).unwrap(), None);
        let again = describe(describe(None, 7).unwrap().as_deref(), 8).unwrap().unwrap();
        assert_eq!(again, r#"{"contentType":"text/plain","fullSize":8}"#);
    }
}
