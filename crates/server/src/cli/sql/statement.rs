//! The end of a statement: what a shell has to know of SQL.
//!
//! Invariant: only quotes, comments and semicolons mean anything here; everything else is the server's to judge.

/// Splits off the first statement that a semicolon ends: the statement without it, and the text after it.
pub(super) fn split_first(text: &str) -> Option<(&str, &str)> {
    let end = scan(text).semicolon?;
    Some((&text[..end], &text[end + 1..]))
}

/// Whether there is nothing to run in the text: white space and comments.
pub(super) fn is_blank(text: &str) -> bool {
    scan(text).blank
}

/// All statements of a finished text; the last one needs no semicolon.
pub(super) fn split_all(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let mut rest = text;
    while let Some((statement, after)) = split_first(rest) {
        statements.push(statement);
        rest = after;
    }
    statements.push(rest);
    statements.retain(|statement| !is_blank(statement));
    statements.iter().map(|statement| statement.trim()).collect()
}

struct Scan {
    /// The position of the first semicolon outside quotes and comments.
    semicolon: Option<usize>,
    /// Whether only white space and finished comments come before it.
    blank: bool,
}

fn scan(text: &str) -> Scan {
    // Every character that matters is ASCII, so bytes will do: none of them occurs inside another character.
    let bytes = text.as_bytes();
    let mut blank = true;
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b';', _) => return Scan { semicolon: Some(at), blank },
            (b'-', Some(b'-')) => at = find(bytes, at, b'\n'),
            (b'/', Some(b'*')) => match block_comment_end(bytes, at) {
                Some(end) => at = end,
                None => return Scan { semicolon: None, blank: false },
            },
            (quote @ (b'\'' | b'"'), _) => {
                // A doubled quote ends one text and begins the next: the same for this purpose.
                at = find(bytes, at + 1, quote);
                blank = false;
            }
            (byte, _) => blank &= byte.is_ascii_whitespace(),
        }
        at += 1;
    }
    Scan { semicolon: None, blank }
}

/// The position of the byte, from `start` on; the end of the text when it is not there.
fn find(bytes: &[u8], start: usize, wanted: u8) -> usize {
    bytes[start..].iter().position(|byte| *byte == wanted).map_or(bytes.len(), |offset| start + offset)
}

/// The position of the last byte of the comment that begins at `start`; comments nest.
fn block_comment_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 1),
            b"*/" => (depth, at) = (depth - 1, at + 1),
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_at_a_semicolon_that_is_one() {
        assert_eq!(split_first("SELECT 1; SELECT 2"), Some(("SELECT 1", " SELECT 2")));
        assert_eq!(split_first("SELECT ';'"), None);
        assert_eq!(split_first("SELECT 'it''s;' ;"), Some(("SELECT 'it''s;' ", "")));
        assert_eq!(split_first("SELECT \"a;b\" -- not; here\n;"), Some(("SELECT \"a;b\" -- not; here\n", "")));
        assert_eq!(split_first("SELECT /* a /* nested; */ ; */ 1;"), Some(("SELECT /* a /* nested; */ ; */ 1", "")));
        assert_eq!(split_first("SELECT /* open;"), None);
        assert_eq!(split_first("SELECT 'open;"), None);
        assert_eq!(split_first("SELECT 'é🙂;' AS x;"), Some(("SELECT 'é🙂;' AS x", "")));
    }

    #[test]
    fn blank_is_white_space_and_comments() {
        for blank in ["", " \n\t", "-- nothing", "/* nothing */ -- here", "-- a\n /* b */"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for full in ["x", "''", "/* open", "-", "/", "-- a\nb"] {
            assert!(!is_blank(full), "{full:?}");
        }
    }

    #[test]
    fn a_text_falls_apart_into_statements() {
        assert_eq!(split_all("SELECT 1;\n\n SELECT 2"), ["SELECT 1", "SELECT 2"]);
        assert_eq!(split_all(";; -- nothing\n;"), Vec::<&str>::new());
        assert_eq!(split_all("SELECT 1 -- last"), ["SELECT 1 -- last"]);
    }
}
