//! The disk space of groups when their large texts lie there once, beside what a copy for each participant would take.
//!
//! Invariant: the texts are real: small messages as people wrote them, large ones put together of many. What is stored
//! is measured from the files; what is not (the copies that sharing saves) is computed from the same files.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use serde_json::{Value, json};

use super::Bench;
use crate::{
    Failure,
    data::{RealData, lines},
    machine::files_below,
    peers::kalamdb::Program,
    report::{Report, mebibytes},
};

/// Participants of each group.
const PARTICIPANTS: [usize; 3] = [2, 5, 20];

/// Every which message is a large one.
const LARGE_EVERY: usize = 10;

/// A large text has this many bytes or a few more: the server's own threshold, 100 KiB.
const LARGE_BYTES: usize = 102_400;

/// Real group conversations.
struct Groups {
    /// Conversation, which of its authors wrote it, place in the conversation, and text.
    messages: Vec<(String, usize, u64, String)>,
    /// Texts of all of them, to make large ones of.
    texts: Vec<String>,
}

/// Measures groups of each size, with the same messages.
pub(crate) async fn measure(bench: &Bench, data: &RealData, report: &mut Report) -> Result<(), Failure> {
    let groups = Groups::read(data, if bench.size.is_quick() { 300 } else { 1_000 })?;
    if groups.messages.is_empty() {
        println!("no group conversations in the data: nothing to share");
        return Ok(());
    }
    report.heading(format!(
        "Files of real group conversations, {} messages, one in {LARGE_EVERY} large",
        groups.messages.len()
    ));
    for participants in PARTICIPANTS {
        measure_size(&bench.program, &groups, participants, report).await?;
    }
    Ok(())
}

async fn measure_size(
    program: &Program,
    groups: &Groups,
    participants: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    let name = format!("storage-{participants}");
    let file = program.folder.join(format!("{name}.ndjson"));
    let large = groups.write(participants, &file)?;
    let server = program.start(&name, &[])?;
    server.import(&[file])?;
    server.consolidate().await?;
    let (large_bytes, large_files) = files_below(server.data(), ".bin")?;
    let (parquet_bytes, _) = files_below(server.data(), ".parquet")?;
    server.stop()?;
    if large_files != large {
        return Err(Failure::new(format!("{large} large messages became {large_files} files, instead of one each")));
    }
    let shared = large_bytes + parquet_bytes;
    let copied = large_bytes * participants as u64 + parquet_bytes;
    #[allow(clippy::cast_precision_loss)] // Far below 2^53.
    let ratio = shared as f64 / copied as f64;
    report.value(
        format!("storage.{participants}"),
        json!({
            "messages": groups.messages.len(),
            "largeMessages": large,
            "largeBytes": large_bytes,
            "parquetBytes": parquet_bytes,
            "storedBytes": shared,
            "withoutSharingBytes": copied,
            "ofWithoutSharing": ratio,
        }),
    );
    report.figure(
        format!("{participants} participants"),
        mebibytes(shared),
        format!(
            "{ratio:.2} of {} without sharing; {} of large texts, once, and {} of everybody's Parquet",
            mebibytes(copied),
            mebibytes(large_bytes),
            mebibytes(parquet_bytes),
        ),
    );
    Ok(())
}

impl Groups {
    /// The first so many messages of the data's group conversations, and all their texts.
    fn read(data: &RealData, most: usize) -> Result<Self, Failure> {
        let mut groups = Self { messages: Vec::new(), texts: Vec::new() };
        for file in &data.files {
            for line in lines(file)? {
                let message: Value = serde_json::from_str(&line?)
                    .map_err(|error| Failure::new(format!("{} is not as expected: {error}", file.display())))?;
                let (Some(authors), Some(conversation), Some(turn), Some(content)) = (
                    message["participants"].as_array(),
                    message["conversationId"].as_str(),
                    message["turn"].as_u64(),
                    message["content"].as_str(),
                ) else {
                    continue; // An AI conversation has no participants.
                };
                let author = authors.iter().position(|author| *author == message["from"]).unwrap_or(0);
                if groups.messages.len() < most {
                    groups.messages.push((conversation.to_owned(), author, turn, content.to_owned()));
                }
                groups.texts.push(content.to_owned());
            }
        }
        Ok(groups)
    }

    /// Writes the messages as those of groups in which the same people take part; answers how many are large.
    fn write(&self, participants: usize, path: &Path) -> Result<u64, Failure> {
        let mut out = BufWriter::new(File::create(path)?);
        let people: Vec<String> = (1..=participants).map(|number| format!("person_{number}")).collect();
        let (mut large, mut conversations) = (0, 0);
        for (number, (conversation, author, turn, content)) in self.messages.iter().enumerate() {
            conversations += usize::from(*turn == 0);
            let content = if number % LARGE_EVERY == LARGE_EVERY - 1 {
                large += 1;
                self.large_text(number)
            } else {
                content.clone()
            };
            let line = json!({
                "participants": people,
                "conversationId": conversation,
                "conversationType": "group",
                // Two of them talk in each conversation, and in each it is others, as far as there are others.
                "from": people[(2 * conversations + author) % participants],
                "turn": turn,
                "content": content,
            });
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        Ok(large)
    }

    /// A large text, another for each message: what people wrote one after the other, from some place on.
    fn large_text(&self, number: usize) -> String {
        let mut large = String::with_capacity(LARGE_BYTES + 1_024);
        for text in self.texts.iter().cycle().skip(number * 13 % self.texts.len()) {
            if large.len() >= LARGE_BYTES {
                break;
            }
            large.push_str(text);
            large.push('\n');
        }
        large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_message_is_large_and_every_author_takes_part() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::create(folder.path().join("groups.ndjson")).unwrap();
        for number in 0..40 {
            let line = json!({
                "participants": ["a", "b"],
                "conversationId": format!("c{}", number / 8),
                "conversationType": "group",
                "from": if number % 2 == 0 { "a" } else { "b" },
                "turn": number % 8,
                "content": format!("text {number}"),
            });
            writeln!(file, "{line}").unwrap();
        }
        writeln!(file, "{}", json!({ "owner": "c", "conversationId": "d", "turn": 0, "content": "alone" })).unwrap();
        let data = RealData::find(folder.path()).unwrap().unwrap();
        let groups = Groups::read(&data, 30).unwrap();
        assert_eq!((groups.messages.len(), groups.texts.len()), (30, 40));
        for participants in PARTICIPANTS {
            let path = folder.path().join("out");
            assert_eq!(groups.write(participants, &path).unwrap(), 3);
            let messages: Vec<Value> =
                lines(&path).unwrap().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
            for (number, message) in messages.iter().enumerate() {
                let people = message["participants"].as_array().unwrap();
                assert_eq!(people.len(), participants);
                assert!(people.contains(&message["from"]));
                let bytes = message["content"].as_str().unwrap().len();
                assert_eq!(bytes >= LARGE_BYTES, number % LARGE_EVERY == 9, "message {number} has {bytes} bytes");
            }
            assert_ne!(messages[0]["from"], messages[1]["from"], "two people talk");
            assert_ne!(messages[9]["content"], messages[19]["content"], "each large text is another");
        }
    }
}
