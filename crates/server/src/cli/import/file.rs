//! The files that can be imported: newline-delimited JSON, one message a line, plain or gzip.
//!
//! Invariant: one conversation is in memory at a time, within a bound; a line that is not as it should be is named
//! by its number, and nothing after it is read.

use std::io::{self, BufRead, Read};

use kalamdb_protocol::{ConversationId, ConversationType, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::error::Error;

/// Bytes of a line: twice the largest message that a server can be set to take, so that a file of another kind (one
/// long line) is noticed before it fills the memory.
const MAX_LINE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of a conversation's lines, which are held together to be compared with what the server has.
const MAX_CONVERSATION_BYTES: usize = 512 * 1024 * 1024;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A conversation of a file.
#[derive(Debug)]
pub(in crate::cli) struct Conversation {
    /// The user in whose schema it is created: the owner, or a group's first participant.
    pub home: UserId,
    /// The conversation's id.
    pub id: ConversationId,
    /// The conversation's type.
    pub kind: ConversationType,
    /// A group's participants, `home` first; none for an AI conversation.
    pub participants: Vec<UserId>,
    /// The messages, in order.
    pub turns: Vec<Turn>,
    /// Bytes of its lines.
    pub bytes: usize,
}

/// A message of a file.
#[derive(Debug)]
pub(in crate::cli) struct Turn {
    /// The sender.
    pub from: String,
    /// The time, in seconds, milliseconds or microseconds; that of the import when absent.
    pub timestamp: Option<i64>,
    /// The text.
    pub content: String,
    /// JSON text, as it stands in the file.
    pub metadata: Option<String>,
}

/// A line as it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    owner: Option<UserId>,
    participants: Option<Vec<UserId>>,
    conversation_id: ConversationId,
    conversation_type: ConversationType,
    from: String,
    turn: usize,
    content: String,
    metadata: Option<Box<RawValue>>,
    timestamp: Option<i64>,
}

/// The conversations of a file, one after the other.
pub(super) struct Conversations<R> {
    lines: R,
    /// The file's name in messages.
    name: String,
    line_number: u64,
    /// The first line of the next conversation.
    next: Option<(Line, usize)>,
    failed: bool,
}

/// Reads plain text or gzip, told apart by the first two bytes.
pub(super) fn decompressed<'a>(file: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    let mut file = file;
    // A read may stop early, but never with one byte: the smallest buffer in use is larger.
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(io::BufReader::new(flate2::bufread::MultiGzDecoder::new(file))));
    }
    Ok(Box::new(file))
}

/// A file's first line without the mark that some programs write before UTF-8.
fn unmarked(line: &[u8]) -> &[u8] {
    line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line)
}

impl<R: BufRead> Conversations<R> {
    /// The conversations in `lines`, which errors call `name`.
    pub(super) fn new(lines: R, name: &str) -> Self {
        Self { lines, name: name.to_owned(), line_number: 0, next: None, failed: false }
    }

    fn read_conversation(&mut self) -> Result<Option<Conversation>, Error> {
        let first = match self.next.take() {
            Some(line) => Some(line),
            None => self.read_line()?,
        };
        let Some((line, bytes)) = first else { return Ok(None) };
        let mut conversation = self.begin(line, bytes)?;
        while let Some((line, bytes)) = self.read_line()? {
            if !conversation.has(&line) {
                self.next = Some((line, bytes));
                break;
            }
            self.extend(&mut conversation, line, bytes)?;
        }
        Ok(Some(conversation))
    }

    /// The conversation that begins with `line`.
    fn begin(&self, line: Line, bytes: usize) -> Result<Conversation, Error> {
        let mut participants = line.participants.clone().unwrap_or_default();
        let home = match (line.conversation_type, &line.owner, participants.first()) {
            (ConversationType::Ai, Some(owner), None) => owner.clone(),
            (ConversationType::Group, None, Some(first)) => first.clone(),
            (ConversationType::Ai, ..) => return Err(self.bad("an AI conversation has an owner, no participants")),
            (ConversationType::Group, ..) => return Err(self.bad("a group has participants, no owner")),
        };
        let mut seen = std::collections::HashSet::new();
        participants.retain(|user| seen.insert(user.clone()));
        let (id, kind) = (line.conversation_id.clone(), line.conversation_type);
        let mut conversation = Conversation { home, id, kind, participants, turns: Vec::new(), bytes: 0 };
        self.extend(&mut conversation, line, bytes)?;
        Ok(conversation)
    }

    fn extend(&self, conversation: &mut Conversation, line: Line, bytes: usize) -> Result<(), Error> {
        let expected = conversation.turns.len();
        if line.turn != expected {
            return Err(self.bad(&format!(
                "turn {} stands where turn {expected} of its conversation should; the lines of a conversation \
                 follow each other, counted from 0",
                line.turn
            )));
        }
        conversation.bytes += bytes;
        if conversation.bytes > MAX_CONVERSATION_BYTES {
            return Err(self.bad(&format!("the conversation is larger than {MAX_CONVERSATION_BYTES} bytes")));
        }
        let metadata = line.metadata.map(|json| json.get().to_owned());
        conversation.turns.push(Turn { from: line.from, timestamp: line.timestamp, content: line.content, metadata });
        Ok(())
    }

    /// The next line that is not blank, and its length.
    fn read_line(&mut self) -> Result<Option<(Line, usize)>, Error> {
        let mut text = Vec::new();
        loop {
            text.clear();
            self.line_number += 1;
            let read = (&mut self.lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut text);
            let read = read.map_err(|error| self.bad(&format!("the file cannot be read: {error}")))?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == MAX_LINE_BYTES && !text.ends_with(b"\n") {
                return Err(self.bad(&format!("the line is longer than {MAX_LINE_BYTES} bytes")));
            }
            let line = if self.line_number == 1 { unmarked(&text) } else { &text };
            if !line.trim_ascii().is_empty() {
                let line = serde_json::from_slice(line).map_err(|error| self.bad(&error.to_string()))?;
                return Ok(Some((line, read)));
            }
        }
    }

    fn bad(&self, what: &str) -> Error {
        Error::Input(format!("{}, line {}: {what}.", self.name, self.line_number))
    }
}

impl<R: BufRead> Iterator for Conversations<R> {
    type Item = Result<Conversation, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let conversation = self.read_conversation().transpose();
        self.failed = matches!(conversation, Some(Err(_)));
        conversation
    }
}

impl Conversation {
    /// Whether the line goes on with this conversation.
    fn has(&self, line: &Line) -> bool {
        let home = line.owner.as_ref().or_else(|| line.participants.as_ref().and_then(|users| users.first()));
        // A first turn begins anew, even under the same name: the check of the numbers is for what goes on.
        line.turn > 0
            && line.conversation_id == self.id
            && line.conversation_type == self.kind
            && home == Some(&self.home)
    }

    /// The user in whose schema a message is written: its sender, where that is a participant.
    pub(super) fn sender(&self, turn: &Turn) -> &UserId {
        self.participants.iter().find(|user| user.as_str() == turn.from).unwrap_or(&self.home)
    }

    /// The schemas in which the messages appear.
    pub(in crate::cli) fn holders(&self) -> &[UserId] {
        if self.participants.is_empty() { std::slice::from_ref(&self.home) } else { &self.participants }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TWO: &str = concat!(
        r#"{"owner":"ann","conversationId":"c1","conversationType":"ai","from":"ann","turn":0,"content":"hi"}"#,
        "\n\n",
        r#"{"owner":"ann","conversationId":"c1","conversationType":"ai","from":"ai","turn":1,"content":"yes?","#,
        r#""metadata":{"b":1, "a":[2]},"timestamp":1699000000}"#,
        "\n",
        r#"{"participants":["bob","ann","bob"],"conversationId":"c1","conversationType":"group","from":"ann","#,
        r#""turn":0,"content":"all","metadata":null}"#,
    );

    fn read(text: &str) -> Vec<Result<Conversation, Error>> {
        Conversations::new(text.as_bytes(), "f").collect()
    }

    #[test]
    fn both_shapes_are_read() {
        let all: Vec<_> = read(TWO).into_iter().map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].home.as_str(), all[0].turns.len(), all[0].holders().len()), ("ann", 2, 1));
        assert_eq!(all[0].turns[1].metadata.as_deref(), Some(r#"{"b":1, "a":[2]}"#));
        assert_eq!(all[0].turns[1].timestamp, Some(1_699_000_000));
        assert_eq!((all[1].home.as_str(), all[1].holders().len()), ("bob", 2));
        assert_eq!(all[1].turns[0].metadata, None);
        assert_eq!(all[1].sender(&all[1].turns[0]).as_str(), "ann");
    }

    #[test]
    fn gzip_is_told_by_its_first_bytes() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(TWO.as_bytes()).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(Conversations::new(decompressed(bytes.as_slice()).unwrap(), "f").count(), 2);
        assert_eq!(Conversations::new(decompressed(TWO.as_bytes()).unwrap(), "f").count(), 2);
        assert_eq!(Conversations::new(decompressed(&b""[..]).unwrap(), "f").count(), 0);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let marked = format!("\u{feff}{TWO}");
        assert!(read(&marked).iter().all(Result::is_ok));
        assert_eq!(read(&marked).len(), 2);
        assert_eq!(read("\u{feff}\n").len(), 0);
        let second = TWO.replacen('\n', "\n\u{feff}", 1);
        assert!(read(&second).iter().any(Result::is_err));
    }

    #[test]
    fn a_bad_line_is_named_and_ends_the_file() {
        let line = |fields: &str| format!(r#"{{"conversationId":"c","from":"a","content":"x",{fields}}}"#);
        let good = line(r#""owner":"a","conversationType":"ai","turn":0"#);
        for (bad, says) in [
            (line(r#""owner":"a","conversationType":"ai","turn":2"#), "turn 2 stands where turn 1"),
            (line(r#""owner":"b","conversationType":"ai","turn":1"#), "turn 1 stands where turn 0"),
            (line(r#""conversationType":"ai","turn":0"#), "an AI conversation has an owner"),
            (line(r#""participants":[],"conversationType":"group","turn":0"#), "a group has participants"),
            (line(r#""owner":"*","conversationType":"ai","turn":0"#), "reserved"),
            (line(r#""owner":"a","conversationType":"ai","turn":0,"text":1"#), "unknown field"),
            ("nonsense".to_owned(), "expected"),
        ] {
            let all = read(&format!("{good}\n{bad}\n{good}"));
            let error = all.last().unwrap().as_ref().unwrap_err().to_string();
            assert!(error.starts_with("f, line 2: ") && error.contains(says), "{error}");
        }
    }
}
