//! Rewriting segments: without rows that are gone, and several small ones as one.
//!
//! Invariant: as a consolidation: name the file (synced), write it (synced), adopt it by one commit, which takes the
//! inputs out and carries over what happened to their rows meanwhile. Deleted rows that can still come back are
//! written again; nothing else that is deleted is.

use bytes::Bytes;
use kalamdb_protocol::{Micros, UserId};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use roaring::RoaringBitmap;

use crate::{
    Store,
    command::{Command, CompactedSegment, DROPPED, Done},
    error::{Error, ErrorKind, Result},
    model::{ColdTrash, Segment},
    records::SegmentRecord,
    segment::{SegmentReader, SegmentWriter},
    settings::Step,
};

/// Rows of a compacted segment: a reader opens fewer files then, and publishing one costs the sequencer little.
const MAX_ROWS: u64 = 400_000;
/// Bytes of it: inputs and output are held in memory.
const MAX_BYTES: u64 = 64 << 20;
/// Segments below this many rows are small.
const SMALL_ROWS: u64 = 25_000;
/// So many small ones beside each other are worth a rewrite without anybody asking.
const WORTH_MERGING: usize = 4;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments read and replaced.
    pub replaced: u64,
    /// Segments written in their place.
    pub written: u64,
    /// Rows that were deleted or written elsewhere, and are in no file any more.
    pub dropped_rows: u64,
}

/// A segment to read.
struct Input {
    segment: Segment,
    /// Rows that are gone for good.
    gone: RoaringBitmap,
}

impl Input {
    fn rows(&self) -> u64 {
        u64::from(self.segment.rows) - self.gone.len()
    }
}

/// What was written.
struct Merged {
    inputs: Vec<CompactedSegment>,
    bytes: Bytes,
    record: SegmentRecord,
}

impl Store {
    /// Rewrites an owner's segments that hold rows that are gone, and merges small ones: whichever it can, or only
    /// where there are enough to be worth it.
    ///
    /// # Errors
    /// When the disk or the object store fails; nothing is lost or left behind then.
    pub async fn compact(&self, owner: &UserId, all: bool) -> Result<Compacted> {
        let _turn = self.turn(owner).await;
        let mut done = Compacted::default();
        for inputs in plan(self.inputs(owner)?, all) {
            done.replaced += inputs.len() as u64;
            done.dropped_rows += inputs.iter().map(|input| input.gone.len()).sum::<u64>();
            done.written += u64::from(self.compact_segments(owner, inputs).await?);
        }
        Ok(done)
    }

    /// The owner's segments, and which of their rows are gone: deleted, and not in the trash.
    fn inputs(&self, owner: &UserId) -> Result<Vec<Input>> {
        let snapshot = self.snapshot();
        let mut inputs: Vec<Input> = snapshot
            .segments(owner)?
            .into_iter()
            .map(|segment| Input { gone: segment.deleted.clone(), segment })
            .collect();
        for ColdTrash { segment, positions, .. } in snapshot.cold_trash(owner)? {
            if let Some(input) = inputs.iter_mut().find(|input| input.segment.number == segment.number) {
                input.gone -= positions;
            }
        }
        Ok(inputs)
    }

    /// Writes one segment in the place of some; whether one was needed.
    async fn compact_segments(&self, owner: &UserId, inputs: Vec<Input>) -> Result<bool> {
        if inputs.iter().all(|input| input.rows() == 0) {
            let all_gone = |input: &Input| CompactedSegment {
                number: input.segment.number,
                moved_to: vec![DROPPED; input.segment.rows as usize],
            };
            self.publish(owner, inputs.iter().map(all_gone).collect(), None).await?;
            return Ok(false);
        }
        let (number, path) = self.reserve_segment(owner).await?;
        match self.write_compacted(owner, number, &path, inputs).await {
            // As for a consolidation: such a commit may be in the log all the same.
            Err(error) if error.kind != ErrorKind::Unavailable => {
                self.give_up(path).await?;
                Err(error)
            }
            done => done.map(|()| true),
        }
    }

    async fn write_compacted(&self, owner: &UserId, number: u64, path: &str, inputs: Vec<Input>) -> Result<()> {
        let mut files = Vec::with_capacity(inputs.len());
        for input in inputs {
            let bytes = self.inner.objects.read_all(&input.segment.path).await?;
            files.push((input, bytes));
        }
        let (to, now) = (path.to_owned(), self.now());
        let merged = tokio::task::spawn_blocking(move || merge(files, to, now))
            .await
            .map_err(|_| Error::corrupt("segment"))??;
        self.inner.objects.write(path, merged.bytes).await?;
        self.inner.components.step(Step::SegmentWritten);
        self.publish(owner, merged.inputs, Some((number, merged.record))).await
    }

    async fn publish(
        &self,
        owner: &UserId,
        inputs: Vec<CompactedSegment>,
        output: Option<(u64, SegmentRecord)>,
    ) -> Result<()> {
        let done = self.command(Command::PublishCompaction { owner: owner.clone(), inputs, output }).await?;
        self.inner.components.step(Step::SegmentPublished);
        match done {
            Done::Finished => Ok(()),
            _ => Err(Error::corrupt("answer")),
        }
    }
}

/// Which segments become one: neighbours by number, which is by age, as long as they fit.
fn plan(inputs: Vec<Input>, all: bool) -> Vec<Vec<Input>> {
    let mut groups: Vec<Vec<Input>> = Vec::new();
    let (mut rows, mut bytes, mut open) = (0, 0, false);
    for input in inputs {
        // A large segment that is as it should be is left alone, and ends a group.
        let joins = all || input.rows() < SMALL_ROWS || !input.gone.is_empty();
        let fits = rows + input.rows() <= MAX_ROWS && bytes + input.segment.bytes <= MAX_BYTES;
        match groups.last_mut() {
            Some(group) if open && joins && fits => {
                rows += input.rows();
                bytes += input.segment.bytes;
                group.push(input);
            }
            _ => {
                (rows, bytes, open) = (input.rows(), input.segment.bytes, joins);
                groups.push(vec![input]);
            }
        }
    }
    let enough = if all { 2 } else { WORTH_MERGING };
    let worth = |group: &Vec<Input>| group.len() >= enough || group.iter().any(|input| !input.gone.is_empty());
    groups.into_iter().filter(worth).collect()
}

/// Merges the rows of sorted files that are not gone.
fn merge(files: Vec<(Input, Bytes)>, path: String, now: Micros) -> Result<Merged> {
    let mut readers = Vec::with_capacity(files.len());
    let (mut inputs, mut gone) = (Vec::with_capacity(files.len()), Vec::with_capacity(files.len()));
    for (input, bytes) in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?;
        readers.push(SegmentReader::new(reader)?);
        let moved_to = vec![DROPPED; input.segment.rows as usize];
        inputs.push(CompactedSegment { number: input.segment.number, moved_to });
        gone.push(input.gone);
    }
    let mut writer = SegmentWriter::new()?;
    loop {
        // A handful of inputs: looking at each is as quick as anything cleverer.
        let first = readers
            .iter()
            .enumerate()
            .filter_map(|(at, reader)| reader.current().map(|row| (row, at)))
            .min_by(|(a, _), (b, _)| (&a.conversation, a.msg_id).cmp(&(&b.conversation, b.msg_id)));
        let Some((_, at)) = first else { break };
        let Some((position, message)) = readers[at].next()? else { continue };
        if gone[at].contains(position) {
            continue;
        }
        let moved_to = inputs[at].moved_to.get_mut(position as usize).ok_or_else(|| Error::corrupt("segment"))?;
        *moved_to = u32::try_from(writer.len()).map_err(|_| Error::corrupt("segment"))?;
        writer.push_message(message)?;
    }
    let written = writer.finish(path, now)?.ok_or_else(|| Error::corrupt("segment"))?;
    Ok(Merged { inputs, bytes: written.bytes, record: written.record })
}

#[cfg(test)]
mod tests {
    use kalamdb_protocol::{ConversationId, ConversationType};

    use super::*;
    use crate::ConversationKey;

    fn input(number: u64, rows: u32, gone: u32) -> Input {
        let key = ConversationKey { id: ConversationId::new("c").unwrap(), kind: ConversationType::Ai };
        let segment = Segment {
            number,
            path: String::new(),
            rows,
            bytes: 1 << 20,
            created: 0,
            msg_ids: (1, 1),
            timestamps: (1, 1),
            conversations: (key.clone(), key),
            deleted: RoaringBitmap::new(),
        };
        Input { segment, gone: (0..gone).collect() }
    }

    fn planned(rows: &[(u32, u32)], all: bool) -> Vec<Vec<u64>> {
        let inputs = (0..).zip(rows).map(|(number, (rows, gone))| input(number, *rows, *gone)).collect();
        let numbers = |group: Vec<Input>| group.into_iter().map(|input| input.segment.number).collect();
        plan(inputs, all).into_iter().map(numbers).collect()
    }

    #[test]
    fn segments_are_rewritten_when_that_is_worth_it() {
        let (small, large) = ((10, 0), (300_000, 0));
        assert!(planned(&[small, small, small], false).is_empty());
        assert_eq!(planned(&[small, small, small, small], false), [vec![0, 1, 2, 3]]);
        assert_eq!(planned(&[large, small, small, small, small, large], false), [vec![1, 2, 3, 4]]);
        assert_eq!(planned(&[large, (10, 1), large], false), [vec![1]]);
        assert_eq!(planned(&[small, (50_000, 1)], false), [vec![0, 1]]);
        assert_eq!(planned(&[small, small], true), [vec![0, 1]]);
        assert_eq!(planned(&[large, small, large, small], true), [vec![0, 1], vec![2, 3]]);
        assert!(planned(&[large], true).is_empty());
    }
}
