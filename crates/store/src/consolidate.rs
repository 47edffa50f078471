//! Moving an owner's hot messages to a new segment, while everybody reads and writes on.
//!
//! Invariant: name the file (synced), write it (synced), adopt it by one commit; at any moment between, a crash
//! leaves either the hot rows and no file, or the segment and no hot rows.

use std::hash::{DefaultHasher, Hash, Hasher};

use kalamdb_protocol::{Micros, UserId};
use tokio::sync::MutexGuard;

use crate::{
    CONSOLIDATIONS, Consolidated, Store,
    command::{Command, Done},
    error::{Error, ErrorKind, Result},
    model::MessageRange,
    segment::{SegmentWriter, WrittenSegment},
    settings::Step,
    snapshot::Snapshot,
};

/// Rows of a segment. Adopting one takes the sequencer about a microsecond a row; this keeps that below what a
/// waiting sender would notice.
const MAX_ROWS: usize = 50_000;
/// Bytes of a segment: it is built in memory.
const MAX_BYTES: usize = 64 << 20;

impl Store {
    /// Moves an owner's hot messages to one new segment, or as many as fit one; `None` when there are none.
    ///
    /// # Errors
    /// When the disk or the object store fails; nothing is lost or left behind then.
    pub async fn consolidate(&self, owner: &UserId) -> Result<Option<Consolidated>> {
        let _turn = self.turn(owner).await;
        if self.snapshot().owner(owner)?.hot_messages == 0 {
            return Ok(None);
        }
        let (number, path) = self.reserve_segment(owner).await?;
        let published = self.write_and_publish(owner, number, &path).await;
        match published {
            Ok(Some(done)) => Ok(Some(done)),
            Ok(None) => self.give_up(path).await.map(|()| None),
            // The commit may be in the log although its write failed, and would adopt the file at the next start; so
            // the file and its intent stay, and that start decides.
            Err(error) if error.kind == ErrorKind::Unavailable => Err(error),
            Err(error) => {
                self.give_up(path).await?;
                Err(error)
            }
        }
    }

    async fn write_and_publish(&self, owner: &UserId, number: u64, path: &str) -> Result<Option<Consolidated>> {
        let (snapshot, of, to) = (self.snapshot(), owner.clone(), path.to_owned());
        let now = self.inner.components.clock.now();
        let written = tokio::task::spawn_blocking(move || write(&snapshot, &of, to, now))
            .await
            .map_err(|_| Error::corrupt("segment"))??;
        let Some(WrittenSegment { bytes, rows, record }) = written else { return Ok(None) };
        let done = Consolidated { messages: u64::from(record.rows), bytes: record.bytes };
        self.inner.objects.write(path, bytes).await?;
        self.inner.components.step(Step::SegmentWritten);
        self.command(Command::PublishSegment { owner: owner.clone(), number, segment: record, rows }).await?;
        self.inner.components.step(Step::SegmentPublished);
        Ok(Some(done))
    }

    /// Waits until nobody else writes segments of the owner: two would write the same rows. An owner always waits for
    /// the same turn.
    pub(crate) async fn turn(&self, owner: &UserId) -> MutexGuard<'_, ()> {
        self.inner.consolidating[turn_of(owner)].lock().await
    }

    /// The owner's next segment, named before its file can exist.
    pub(crate) async fn reserve_segment(&self, owner: &UserId) -> Result<(u64, String)> {
        let Done::Reserved { number, path } = self.command(Command::ReserveSegment { owner: owner.clone() }).await?
        else {
            return Err(Error::corrupt("answer"));
        };
        // The name must survive a power loss before the file can exist, whatever the durability of messages is.
        self.inner.database.sync()?;
        self.inner.components.step(Step::SegmentReserved);
        Ok((number, path))
    }

    /// Removes a file that no commit will adopt, and its name.
    pub(crate) async fn give_up(&self, path: String) -> Result<()> {
        self.inner.objects.remove(&path).await?;
        self.command(Command::ReleaseIntent { path }).await.map(|_| ())
    }
}

/// Which turn an owner waits for.
fn turn_of(owner: &UserId) -> usize {
    let mut hasher = DefaultHasher::new();
    owner.hash(&mut hasher);
    usize::try_from(hasher.finish() % CONSOLIDATIONS as u64).unwrap_or(0)
}

fn write(snapshot: &Snapshot, owner: &UserId, path: String, now: Micros) -> Result<Option<WrittenSegment>> {
    let mut writer = SegmentWriter::new()?;
    for row in snapshot.messages(owner, &MessageRange::default())? {
        writer.push(row?)?;
        if writer.len() >= MAX_ROWS || writer.size() >= MAX_BYTES {
            break;
        }
    }
    writer.finish(path, now)
}
