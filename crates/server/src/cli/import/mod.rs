//! `kalamdb import`: real conversations in.
//!
//! Invariant: a file is streamed, never held; within a conversation the order of the file is the order of the
//! messages' ids, whatever is in flight beside it.

mod batch;
mod file;

use std::{
    fs::File,
    io::{BufRead, BufReader, IsTerminal},
    path::PathBuf,
    time::{Duration, Instant},
};

pub(in crate::cli) use batch::Tally;
use file::{Conversation, Conversations};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    client::Client,
    connection::ConnectionArgs,
    error::Error,
    text::{counted, thousands},
};

/// Batches in flight: while one is committed the next is read and compared, and commits share a sync.
const IN_FLIGHT: usize = 4;

/// `kalamdb import`
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Newline-delimited JSON, plain or gzip, one message a line; a token for it must be an admin's
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Imports the files, one after the other.
pub(super) async fn run(args: ImportArgs) -> Result<(), Error> {
    let client = args.connection.client(None)?;
    let files = args.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let progress = progress_bar(files.iter().map(|(_, _, bytes)| bytes).sum());
    let started = Instant::now();
    let mut total = Tally::default();
    for (name, file, _) in files {
        let lines = BufReader::new(progress.wrap_read(file));
        load(&client, lines, &name, &mut total, &progress).await?;
    }
    progress.finish_and_clear();
    println!("{}", report(&total, started.elapsed()));
    if total.refused > 0 {
        let what = counted(total.refused, "conversation");
        return Err(Error::Input(format!("The server refused {what}; the rest is imported.")));
    }
    Ok(())
}

/// Imports the conversations of one file, adds them to `total` and tells about those left alone.
pub(super) async fn load(
    client: &Client,
    file: impl BufRead,
    name: &str,
    total: &mut Tally,
    progress: &ProgressBar,
) -> Result<(), Error> {
    let lines = file::decompressed(file).map_err(|error| Error::Input(format!("{name} cannot be read: {error}.")))?;
    // Reading a batch blocks for a moment, which here delays nobody but this import.
    let batches = stream::iter(Batches::new(lines, name));
    let mut tallies = batches.map(|batch| async { batch::write(client, &batch?).await }).buffer_unordered(IN_FLIGHT);
    while let Some(tally) = tallies.try_next().await? {
        for note in &tally.notes {
            progress.suspend(|| eprintln!("{note}"));
        }
        total.add(&tally);
        progress.set_message(counted(total.written + total.skipped, "message"));
    }
    Ok(())
}

/// Conversations put together until they fill a statement; one that is larger stands alone.
struct Batches<R> {
    conversations: Conversations<R>,
    /// The first conversation of the next batch, or an error: what stands before it is imported first.
    next: Option<Result<Conversation, Error>>,
}

impl<R: BufRead> Batches<R> {
    fn new(lines: R, name: &str) -> Self {
        Self { conversations: Conversations::new(lines, name), next: None }
    }
}

impl<R: BufRead> Iterator for Batches<R> {
    type Item = Result<Vec<Conversation>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Vec::new();
        let mut size = Size::default();
        while let Some(read) = self.next.take().or_else(|| self.conversations.next()) {
            match read {
                Ok(conversation) if batch.is_empty() || size.plus(&conversation).fits() => {
                    size = size.plus(&conversation);
                    batch.push(conversation);
                }
                Err(error) if batch.is_empty() => return Some(Err(error)),
                later => {
                    self.next = Some(later);
                    break;
                }
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

/// The used part of a statement's bounds.
#[derive(Default)]
struct Size {
    rows: usize,
    bytes: usize,
    copies: usize,
}

impl Size {
    fn plus(&self, conversation: &Conversation) -> Self {
        let rows = conversation.turns.len();
        Self {
            rows: self.rows + rows,
            bytes: self.bytes + conversation.bytes,
            copies: self.copies + rows * conversation.holders().len(),
        }
    }

    fn fits(&self) -> bool {
        self.rows <= batch::STATEMENT_ROWS
            && self.bytes <= batch::STATEMENT_BYTES
            && self.copies <= batch::STATEMENT_COPIES
    }
}

/// The conversations of a text, for the tests of whoever holds one.
#[cfg(test)]
pub(super) fn read_all(text: &str) -> Result<Vec<Conversation>, Error> {
    Conversations::new(text.as_bytes(), "the text").collect()
}

fn open(path: &PathBuf) -> Result<(String, File, u64), Error> {
    let name = path.display().to_string();
    let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
    let (file, bytes) = opened.map_err(|error| Error::Input(format!("{name} cannot be opened: {error}.")))?;
    Ok((name, file, bytes))
}

/// A bar over the files' bytes; nothing where nobody watches.
fn progress_bar(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent:>3}%  {msg}  {elapsed}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr()).with_style(style)
}

fn report(total: &Tally, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    // A rate, shown without decimals.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (total.written as f64 / seconds.max(0.001)) as u64;
    let were = if total.skipped == 1 { "was" } else { "were" };
    let differing = match total.differing {
        0 => String::new(),
        some => format!(" {} left alone, because what is there differs.", counted(some, "conversation")),
    };
    format!(
        "Imported {} of {} in {seconds:.1} s ({}/s); {} {were} there already.{differing}",
        counted(total.written, "message"),
        counted(total.conversations, "conversation"),
        thousands(rate),
        thousands(total.skipped),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(conversation: usize, turn: usize, content: &str) -> String {
        format!(
            r#"{{"owner":"a","conversationId":"c{conversation}","conversationType":"ai","from":"a","turn":{turn},"content":"{content}"}}"#
        ) + "\n"
    }

    fn batches(text: &str) -> Vec<Result<Vec<usize>, Error>> {
        Batches::new(text.as_bytes(), "f")
            .map(|batch| Ok(batch?.iter().map(|conversation| conversation.turns.len()).collect()))
            .collect()
    }

    #[test]
    fn conversations_are_batched_whole() {
        let mut text = String::new();
        for (conversation, turns) in [300, 100, 1, 1_000, 2].into_iter().enumerate() {
            text.extend((0..turns).map(|turn| line(conversation, turn, "x")));
        }
        let all: Vec<_> = batches(&text).into_iter().map(Result::unwrap).collect();
        assert_eq!(all, [vec![300, 100], vec![1], vec![1_000], vec![2]]);
        assert!(batches("").is_empty());
    }

    #[test]
    fn what_stands_before_a_bad_line_is_imported() {
        let all = batches(&format!("{}{}nonsense\n{}", line(0, 0, "x"), line(1, 0, "x"), line(2, 0, "x")));
        assert_eq!(all.len(), 2);
        // The conversation that the bad line may belong to is not whole, so it is not written.
        assert_eq!(all[0].as_ref().unwrap(), &[1]);
        assert!(all[1].is_err());
    }

    #[test]
    fn the_report_counts() {
        let total = Tally { conversations: 2, written: 3_000, skipped: 1, differing: 1, ..Tally::default() };
        assert_eq!(
            report(&total, Duration::from_secs(2)),
            "Imported 3,000 messages of 2 conversations in 2.0 s (1,500/s); 1 was there already. \
             1 conversation left alone, because what is there differs."
        );
    }
}
