//! Moving hot rows to a segment, and segments' rows to another.
//!
//! Invariant: a publishing commit shows exactly the rows that were there before it, and in the trash exactly those:
//! each is hot or in one segment, never both, never neither.

use std::ops::ControlFlow;

use kalamdb_protocol::UserId;
use roaring::RoaringBitmap;

use super::{Apply, trash::ColdTrashRows};
use crate::{
    command::{CompactedSegment, DROPPED, RowVersion},
    database::Read,
    error::{Error, Result},
    keys::{self, Family},
    paths,
    records::{IntentRecord, MessageRecord, Record, SegmentRecord},
    rows,
};

impl Apply<'_, '_> {
    /// Takes the owner's next number, and names the file before it is written.
    pub(crate) fn reserve_segment(&mut self, owner: &UserId) -> Result<(u64, String)> {
        let now = self.now;
        let (record, _) = self.owner(owner)?;
        record.last_segment += 1;
        let number = record.last_segment;
        let path = paths::segment(owner, number, now);
        self.put(Family::Intents, path.clone().into_bytes(), IntentRecord { created: now }.encode()?);
        Ok((number, path))
    }

    /// Gives up files that were not adopted.
    pub(crate) fn release_intents(&mut self, paths: &[String]) {
        for path in paths {
            self.overlay.delete(Family::Intents, path.as_bytes().to_vec());
        }
    }

    /// Adopts a segment: its rows stop being hot, and those that changed or vanished since it was written are
    /// deleted in it from the start.
    pub(crate) fn publish_segment(
        &mut self,
        owner: &UserId,
        number: u64,
        segment: &SegmentRecord,
        written: &[RowVersion],
    ) -> Result<()> {
        if self.overlay.get(Family::Intents, segment.path.as_bytes())?.is_none() {
            return Err(Error::changed());
        }
        assert_eq!(written.len(), segment.rows as usize, "a segment holds the rows that it was written from");
        let unchanged = self.unchanged_rows(owner, written)?;
        for position in &unchanged {
            if let Some(row) = written.get(position as usize) {
                self.delete_hot(owner, &row.conversation, row.msg_id)?;
            }
        }
        let deleted = (0..segment.rows).collect::<RoaringBitmap>() - unchanged;
        if !deleted.is_empty() {
            self.deletions.insert((owner.clone(), number), deleted);
        }
        self.put(Family::Segments, keys::segment(owner, number), segment.encode()?);
        self.overlay.delete(Family::Intents, segment.path.clone().into_bytes());
        let seq = self.seq;
        let (record, _) = self.owner(owner)?;
        record.cold_version = seq;
        // Messages that are still hot came after the snapshot from which the file was written.
        record.hot_since = record.hot_since.map(|_| segment.created);
        Ok(())
    }

    /// Adopts a segment, or none, in the place of others: what was deleted in them is deleted in it, what can come
    /// back still can, also where that changed since they were read.
    pub(crate) fn publish_compaction(
        &mut self,
        owner: &UserId,
        inputs: &[CompactedSegment],
        output: Option<&(u64, SegmentRecord)>,
    ) -> Result<()> {
        let mut deleted = RoaringBitmap::new();
        for input in inputs {
            let record = rows::segment(self.overlay, owner, input.number)?.ok_or_else(Error::changed)?;
            assert_eq!(input.moved_to.len(), record.rows as usize, "each row of an input went somewhere, or is gone");
            deleted |= moved(&rows::deletions(self.overlay, owner, input.number)?, &input.moved_to);
            self.overlay.delete(Family::Segments, keys::segment(owner, input.number));
            self.overlay.delete(Family::Deletions, keys::segment(owner, input.number));
            self.remove_later(&record.path)?;
        }
        self.move_trash(owner, inputs, output.map(|(number, _)| *number))?;
        if let Some((number, segment)) = output {
            if self.overlay.get(Family::Intents, segment.path.as_bytes())?.is_none() {
                return Err(Error::changed());
            }
            if !deleted.is_empty() {
                self.deletions.insert((owner.clone(), *number), deleted);
            }
            self.put(Family::Segments, keys::segment(owner, *number), segment.encode()?);
            self.overlay.delete(Family::Intents, segment.path.clone().into_bytes());
        }
        let seq = self.seq;
        self.owner(owner)?.0.cold_version = seq;
        Ok(())
    }

    /// Deleted rows that can come back are in the output now.
    fn move_trash(&mut self, owner: &UserId, inputs: &[CompactedSegment], output: Option<u64>) -> Result<()> {
        for (deletion, segment, _) in rows::all_cold_trash(self.overlay, owner)? {
            let Some(input) = inputs.iter().find(|input| input.number == segment) else { continue };
            let rows = self.cold_trash_rows(owner, deletion, segment)?;
            let (deleted_at, expires_at) = (rows.deleted_at, rows.expires_at);
            let positions = moved(&std::mem::take(&mut rows.positions), &input.moved_to);
            if let Some(output) = output {
                let at = (owner.clone(), deletion, output);
                let rows = self.cold_trash.entry(at).or_insert_with(|| ColdTrashRows {
                    deleted_at,
                    expires_at,
                    positions: RoaringBitmap::new(),
                });
                rows.positions |= positions;
            }
        }
        Ok(())
    }

    /// Positions of the written rows that are still as they were: one pass over both, which have the same order.
    fn unchanged_rows(&self, owner: &UserId, written: &[RowVersion]) -> Result<RoaringBitmap> {
        let mut unchanged = RoaringBitmap::new();
        let mut rest = (0_u32..)
            .zip(written)
            .map(|(position, row)| (keys::message(owner, &row.conversation, row.msg_id), position, row.version));
        let Some(first) = rest.next() else { return Ok(unchanged) };
        let start = first.0.clone();
        let mut next = Some(first);
        let end = keys::after_prefix(&keys::id_prefix(owner.as_str()));
        self.overlay.scan(Family::Messages, &start, &end, false, &mut |key, value| {
            while next.as_ref().is_some_and(|(wanted, ..)| wanted.as_slice() < key) {
                next = rest.next();
            }
            match &next {
                Some((wanted, position, version)) if wanted.as_slice() == key => {
                    if MessageRecord::version(value)? == *version {
                        unchanged.insert(*position);
                    }
                }
                Some(_) => {}
                None => return Ok(ControlFlow::Break(())),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(unchanged)
    }
}

/// The new positions of rows that a compaction wrote again; rows that it left out have none.
fn moved(positions: &RoaringBitmap, moved_to: &[u32]) -> RoaringBitmap {
    positions
        .iter()
        .filter_map(|position| moved_to.get(position as usize).copied())
        .filter(|position| *position != DROPPED)
        .collect()
}
