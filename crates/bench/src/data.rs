//! Made-up users, conversations and histories (in the format of `kalamdb import`), and what is to be known of real ones.
//!
//! Invariant: the same call makes the same file, so that two runs measure the same, and every peer has the same rows.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Value, json};

use crate::Failure;

/// The last moment of a made-up history, in seconds: 2025-10-13T00:00:00Z.
const END_SECONDS: u64 = 1_760_313_600;

const SECONDS_PER_DAY: u64 = 86_400;

const WORDS: [&str; 48] = [
    "the", "a", "and", "to", "of", "is", "it", "that", "I", "you", "we", "they", "have", "was", "will", "can", "not",
    "what", "when", "there", "about", "coffee", "order", "please", "thanks", "great", "maybe", "tomorrow", "today",
    "evening", "train", "ticket", "garden", "music", "film", "football", "question", "answer", "really", "think",
    "know", "found", "large", "small", "two", "three", "again", "later",
];

/// Made-up AI histories of some users.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// The owners: the users of these numbers.
    pub owners: Range<u64>,
    /// The conversations of each: those of these numbers, so that a history can be written in parts.
    pub conversations: Range<u64>,
    /// The number of messages in each.
    pub messages_each: u64,
    /// Over how many days.
    pub days: u64,
}

/// A message of a made-up history.
#[derive(Debug)]
pub(crate) struct Message {
    /// Whose it is.
    pub owner: String,
    /// Its conversation.
    pub conversation: String,
    /// Its place in the conversation.
    pub turn: u64,
    /// Who wrote it: the owner, or `ai`.
    pub sender: String,
    /// When, in seconds.
    pub seconds: u64,
    /// What.
    pub text: String,
}

/// The id of a user: of a form that every peer takes, as are all ids here.
pub(crate) fn user_id(number: u64) -> String {
    format!("user{number:011}")
}

/// The id of a made-up conversation.
pub(crate) fn conversation_id(number: u64) -> String {
    format!("conv{number:011}")
}

/// The id of the room of so many users, the first ones.
pub(crate) fn room_id(members: u64) -> String {
    format!("room{members:011}")
}

/// A number that looks random and is the same for the same seed (`SplitMix64`).
pub(crate) fn scatter(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A sentence of 3 to 24 words, about as long as what people type.
pub(crate) fn sentence(seed: u64) -> String {
    let words = 3 + scatter(seed) % 22;
    let picked = (1..=words).map(|n| {
        // The smaller of two draws: some words are common, as in a language.
        let draw = |salt: u64| scatter(seed ^ (n << 32) ^ salt) % WORDS.len() as u64;
        WORDS[usize::try_from(draw(1).min(draw(2))).unwrap_or(0)]
    });
    picked.collect::<Vec<_>>().join(" ")
}

impl History {
    /// The number of messages in all.
    pub(crate) fn messages(&self) -> u64 {
        self.owners.clone().count() as u64 * self.conversations.clone().count() as u64 * self.messages_each
    }

    /// All of them, owner by owner, conversation by conversation.
    pub(crate) fn each(&self) -> impl Iterator<Item = Message> + '_ {
        let total = self.messages().max(1);
        let start = END_SECONDS - self.days * SECONDS_PER_DAY;
        let places = self.owners.clone().flat_map(move |owner| {
            let conversations = self.conversations.clone();
            conversations.flat_map(move |number| (0..self.messages_each).map(move |turn| (owner, number, turn)))
        });
        places.zip(0..).map(move |((owner, conversation, turn), number)| {
            let owner = user_id(owner);
            Message {
                sender: if turn % 2 == 0 { owner.clone() } else { "ai".to_owned() },
                owner,
                turn,
                seconds: start + number * self.days * SECONDS_PER_DAY / total,
                text: sentence(conversation << 32 | number),
                conversation: conversation_id(conversation),
            }
        })
    }

    /// Writes it to a file; answers the file's bytes.
    pub(crate) fn write(&self, path: &Path) -> Result<u64, Failure> {
        let mut file = BufWriter::new(File::create(path)?);
        for message in self.each() {
            let line = json!({
                "owner": message.owner,
                "conversationId": message.conversation,
                "conversationType": "ai",
                "from": message.sender,
                "turn": message.turn,
                "timestamp": message.seconds,
                "content": message.text,
                "metadata": { "role": if message.sender == "ai" { "assistant" } else { "user" } },
            });
            writeln!(file, "{line}")?;
        }
        file.flush()?;
        Ok(std::fs::metadata(path)?.len())
    }
}

/// Real conversations, as `kalamdb import` reads them.
#[derive(Debug)]
pub(crate) struct RealData {
    /// The paths of the files.
    pub files: Vec<PathBuf>,
    /// Messages in them.
    pub messages: u64,
    /// Bytes of their lines.
    pub json_bytes: u64,
}

impl RealData {
    /// The `.ndjson` and `.ndjson.gz` files of a folder; none if it has none.
    pub(crate) fn find(folder: &Path) -> Result<Option<Self>, Failure> {
        // Who reads the files may do so from another folder.
        let Ok(entries) = folder.canonicalize().and_then(std::fs::read_dir) else { return Ok(None) };
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        let is_data = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.ends_with(".ndjson") || name.ends_with(".ndjson.gz")
        };
        let mut files: Vec<PathBuf> = paths.into_iter().filter(is_data).collect();
        files.sort();
        if files.is_empty() {
            return Ok(None);
        }
        let mut data = Self { files, messages: 0, json_bytes: 0 };
        for path in data.files.clone() {
            for line in lines(&path)? {
                data.messages += 1;
                data.json_bytes += line?.len() as u64 + 1;
            }
        }
        Ok(Some(data))
    }

    /// All of it as the AI history of one user who kept it: what a long history compresses to.
    pub(crate) fn write_as_one_history(&self, owner: &str, path: &Path) -> Result<u64, Failure> {
        let mut out = BufWriter::new(File::create(path)?);
        for file in &self.files {
            for line in lines(file)? {
                let mut message: Value = serde_json::from_str(&line?)
                    .map_err(|error| Failure::new(format!("{} is not as expected: {error}", file.display())))?;
                if let Some(fields) = message.as_object_mut() {
                    fields.remove("participants");
                    fields.insert("owner".into(), owner.into());
                    fields.insert("conversationType".into(), "ai".into());
                }
                writeln!(out, "{message}")?;
            }
        }
        out.flush()?;
        Ok(std::fs::metadata(path)?.len())
    }
}

/// The lines of a plain or gzip file.
pub(crate) fn lines(path: &Path) -> Result<impl Iterator<Item = io::Result<String>>, Failure> {
    let mut file = BufReader::new(File::open(path)?);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let lines: Box<dyn Iterator<Item = io::Result<String>>> =
        if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(file)).lines()) } else { Box::new(file.lines()) };
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_made_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let history = History { owners: 0..1, conversations: 0..3, messages_each: 4, days: 10 };
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        assert_eq!(history.write(&one).unwrap(), history.write(&two).unwrap());
        let text = std::fs::read_to_string(&one).unwrap();
        assert_eq!(text, std::fs::read_to_string(&two).unwrap());
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 12);
        assert_eq!((&lines[5]["conversationId"], &lines[5]["turn"]), (&json!("conv00000000001"), &json!(1)));
        assert!(lines[11]["timestamp"].as_u64().unwrap() < END_SECONDS);
    }

    #[test]
    fn plain_and_gzip_files_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let history = History { owners: 0..1, conversations: 0..1, messages_each: 5, days: 1 };
        let bytes = history.write(&folder.path().join("a.ndjson")).unwrap();
        let text = std::fs::read(folder.path().join("a.ndjson")).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        std::fs::write(folder.path().join("b.ndjson.gz"), gzip.finish().unwrap()).unwrap();
        std::fs::write(folder.path().join("README"), "not data").unwrap();
        let data = RealData::find(folder.path()).unwrap().unwrap();
        assert_eq!((data.messages, data.json_bytes), (10, 2 * bytes));
        assert!(RealData::find(&folder.path().join("nowhere")).unwrap().is_none());
    }
}
