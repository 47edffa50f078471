//! Made-up histories in the format of `kalamdb import`, and what is to be known of real ones.
//!
//! Invariant: the same call makes the same file, so that two runs measure the same.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
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

/// A made-up AI history of one user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History<'a> {
    /// The owner's id.
    pub owner: &'a str,
    /// The number of conversations, named [`conversation_id`].
    pub conversations: u64,
    /// The number of messages in each.
    pub messages_each: u64,
    /// Over how many days.
    pub days: u64,
}

/// The id of a made-up conversation.
pub(crate) fn conversation_id(number: u64) -> String {
    format!("conv_{number:06}")
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

impl History<'_> {
    /// The number of messages in all.
    pub(crate) fn messages(&self) -> u64 {
        self.conversations * self.messages_each
    }

    /// Writes it to a file; answers the file's bytes.
    pub(crate) fn write(&self, path: &Path) -> Result<u64, Failure> {
        let mut file = BufWriter::new(File::create(path)?);
        let total = self.messages();
        let start = END_SECONDS - self.days * SECONDS_PER_DAY;
        for number in 0..total {
            let (conversation, turn) = (number / self.messages_each, number % self.messages_each);
            let by_user = turn % 2 == 0;
            let line = json!({
                "owner": self.owner,
                "conversationId": conversation_id(conversation),
                "conversationType": "ai",
                "from": if by_user { self.owner } else { "ai" },
                "turn": turn,
                "timestamp": start + number * self.days * SECONDS_PER_DAY / total,
                "content": sentence(number),
                "metadata": { "role": if by_user { "user" } else { "assistant" } },
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
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
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
        let history = History { owner: "ann", conversations: 3, messages_each: 4, days: 10 };
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        assert_eq!(history.write(&one).unwrap(), history.write(&two).unwrap());
        let text = std::fs::read_to_string(&one).unwrap();
        assert_eq!(text, std::fs::read_to_string(&two).unwrap());
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 12);
        assert_eq!((&lines[5]["conversationId"], &lines[5]["turn"]), (&json!("conv_000001"), &json!(1)));
        assert!(lines[11]["timestamp"].as_u64().unwrap() < END_SECONDS);
    }

    #[test]
    fn plain_and_gzip_files_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let history = History { owner: "ann", conversations: 1, messages_each: 5, days: 1 };
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
