//! Rewriting segments: without rows that are gone, and several small ones as one.
//!
//! Invariant: as a consolidation: name the file (synced), write it (synced), adopt it by one commit, which takes the
//! inputs out and carries over what happened to their rows meanwhile. Deleted rows that can still come back are
//! written again; nothing else that is deleted is.

use bytes::Bytes;
use kalamdb_protocol::{Micros, UserId};
use roaring::RoaringBitmap;

use crate::{
    Store,
    command::{CompactedSegment, DROPPED, PublishCompaction},
    error::{Error, Result},
    model::{ColdTrash, Segment},
    objects,
    records::SegmentRecord,
    segment::{MAX_DECODED_BYTES, SegmentReader, SegmentWriter, read_decoded_bytes},
    settings::Step,
    threads::blocking,
};

/// Rows of a compacted segment: a reader opens fewer files then, and publishing one costs the sequencer little.
pub(crate) const MAX_ROWS: u64 = 400_000;
/// Bytes of it: inputs and output are held in memory.
const MAX_BYTES: u64 = 64 << 20;
/// Bytes of the inputs' rows once they are decoded, all inputs of one compaction together: every one of them is open
/// at the same time.
const MAX_INPUT_BYTES: u64 = MAX_DECODED_BYTES;
/// Segments below this many rows are small.
const SMALL_ROWS: u64 = 25_000;
/// The number of small segments beside each other that are worth a rewrite without anybody asking.
const WORTH_MERGING: usize = 4;

/// The result of a compaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments read and replaced.
    pub replaced: u64,
    /// Segments written in their place.
    pub written: u64,
    /// Rows that were deleted or written elsewhere, and are in no file any more.
    pub dropped_rows: u64,
}

const _: () = assert!(MAX_ROWS < DROPPED as u64, "no row has the position that says that it is gone");

/// A segment to read.
struct Input {
    segment: Segment,
    /// Rows that are gone for good.
    gone: RoaringBitmap,
    /// Bytes of its rows once they are decoded.
    decoded: u64,
}

impl Input {
    fn rows(&self) -> u64 {
        u64::from(self.segment.rows) - self.gone.len()
    }

    /// Whether the segment is to be rewritten with its neighbours: a large one without gone rows is left alone.
    fn joins(&self, all: bool) -> bool {
        all || self.rows() < SMALL_ROWS || !self.gone.is_empty()
    }
}

/// A segment that was made of others, and not yet adopted.
struct MergedSegment {
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
        for inputs in plan(self.inputs(owner, all).await?, all) {
            done.replaced += inputs.len() as u64;
            done.dropped_rows += inputs.iter().map(|input| input.gone.len()).sum::<u64>();
            done.written += u64::from(self.compact_segments(owner, inputs).await?);
        }
        Ok(done)
    }

    /// The owner's segments, and which of their rows are gone: deleted, and not in the trash.
    async fn inputs(&self, owner: &UserId, all: bool) -> Result<Vec<Input>> {
        let snapshot = self.snapshot();
        let mut inputs: Vec<Input> = snapshot
            .segments(owner)?
            .into_iter()
            .map(|segment| Input { gone: segment.deleted.clone(), segment, decoded: 0 })
            .collect();
        for ColdTrash { segment, positions, .. } in snapshot.cold_trash(owner)? {
            if let Some(input) = inputs.iter_mut().find(|input| input.segment.number == segment.number) {
                input.gone -= positions;
            }
        }
        for input in inputs.iter_mut().filter(|input| input.joins(all)) {
            input.decoded = self.decoded_bytes(&input.segment).await?;
        }
        Ok(inputs)
    }

    /// Bytes of a segment's rows once they are decoded: its footer says that.
    async fn decoded_bytes(&self, segment: &Segment) -> Result<u64> {
        let path = objects::parse(&segment.path)?;
        read_decoded_bytes(self.inner.objects.reader(), path, segment.bytes).await
    }

    /// Writes one segment in the place of some; whether one was needed.
    async fn compact_segments(&self, owner: &UserId, inputs: Vec<Input>) -> Result<bool> {
        if inputs.iter().all(|input| input.rows() == 0) {
            let all_gone = |input: &Input| CompactedSegment {
                number: input.segment.number,
                moved_to: vec![DROPPED; input.segment.rows as usize],
            };
            let inputs = inputs.iter().map(all_gone).collect();
            self.command(PublishCompaction { owner: owner.clone(), inputs, output: None }).await?;
            self.inner.components.step(Step::SegmentPublished);
            return Ok(false);
        }
        let (number, path) = self.reserve_segment(owner).await?;
        let merged = match self.merge(&path, inputs).await {
            Ok(merged) => merged,
            Err(error) => return Err(self.gave_up(path, error).await),
        };
        let MergedSegment { inputs, bytes, record } = merged;
        let publish = PublishCompaction { owner: owner.clone(), inputs, output: Some((number, record)) };
        self.put_and_publish(path, bytes, publish).await?;
        Ok(true)
    }

    /// Reads segments and makes one of them, which is to lie at `path`.
    async fn merge(&self, path: &str, inputs: Vec<Input>) -> Result<MergedSegment> {
        let mut files = Vec::with_capacity(inputs.len());
        for input in inputs {
            let bytes = self.inner.objects.read_all(&input.segment.path).await?;
            files.push((input, bytes));
        }
        let (to, now) = (path.to_owned(), self.now());
        blocking(move || merge(files, to, now)).await
    }
}

/// Groups of segments that become one: neighbours by number, which is by age, as long as they fit.
fn plan(inputs: Vec<Input>, all: bool) -> Vec<Vec<Input>> {
    let mut groups: Vec<Vec<Input>> = Vec::new();
    let (mut rows, mut bytes, mut decoded, mut open) = (0, 0, 0, false);
    for input in inputs {
        // A segment that is left alone ends a group.
        let joins = input.joins(all);
        let fits = rows + input.rows() <= MAX_ROWS
            && bytes + input.segment.bytes <= MAX_BYTES
            && decoded + input.decoded <= MAX_INPUT_BYTES;
        match groups.last_mut() {
            Some(group) if open && joins && fits => {
                rows += input.rows();
                bytes += input.segment.bytes;
                decoded += input.decoded;
                group.push(input);
            }
            _ => {
                (rows, bytes, decoded, open) = (input.rows(), input.segment.bytes, input.decoded, joins);
                groups.push(vec![input]);
            }
        }
    }
    let enough = if all { 2 } else { WORTH_MERGING };
    let worth = |group: &Vec<Input>| group.len() >= enough || group.iter().any(|input| !input.gone.is_empty());
    groups.into_iter().filter(worth).collect()
}

/// Merges the rows of sorted files that are not gone.
fn merge(files: Vec<(Input, Bytes)>, path: String, now: Micros) -> Result<MergedSegment> {
    let mut readers = Vec::with_capacity(files.len());
    let (mut inputs, mut gone) = (Vec::with_capacity(files.len()), Vec::with_capacity(files.len()));
    for (input, bytes) in files {
        readers.push(SegmentReader::new(bytes)?);
        let moved_to = vec![DROPPED; input.segment.rows as usize];
        inputs.push(CompactedSegment { number: input.segment.number, moved_to });
        gone.push(input.gone);
    }
    let mut writer = SegmentWriter::new();
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
        *moved_to = u32::try_from(writer.len()).map_err(|_| Error::fault("a segment has more rows than positions"))?;
        writer.push_message(message)?;
    }
    let written = writer.finish(path, now)?.ok_or_else(|| Error::fault("a compaction of rows found none"))?;
    Ok(MergedSegment { inputs, bytes: written.bytes, record: written.record })
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
        Input { segment, gone: (0..gone).collect(), decoded: 1 << 20 }
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

    #[test]
    fn segments_that_become_large_once_they_are_decoded_are_not_open_together() {
        let inputs = (0..6).map(|number| Input { decoded: 100 << 20, ..input(number, 10, 0) }).collect();
        let groups: Vec<usize> = plan(inputs, true).iter().map(Vec::len).collect();
        assert_eq!(groups, [2, 2, 2]);
    }
}
