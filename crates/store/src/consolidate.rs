//! Moving an owner's hot messages to a new segment, while everybody reads and writes on.
//!
//! Invariant: name the file (synced), write it (synced), adopt it by one commit; at any moment between, a crash
//! leaves either the hot rows and no file, or the segment and no hot rows.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use kalamdb_protocol::{Micros, UserId};
use tokio::sync::MutexGuard;

use crate::{
    CONSOLIDATIONS, Consolidated, Store,
    command::{Ask, PublishSegment, ReleaseIntents, ReserveSegment, Reserved},
    compact,
    error::{Error, ErrorKind, Result},
    model::MessageRange,
    objects::Move,
    paths,
    segment::{MAX_DECODED_BYTES, SegmentWriter, WrittenSegment},
    settings::Step,
    snapshot::Snapshot,
    threads::blocking,
};

/// Rows of a segment. Adopting one takes the sequencer about a microsecond a row; this keeps that below what a
/// waiting sender would notice.
const MAX_ROWS: usize = 50_000;
/// Bytes of a segment, every column counted: it is built in memory.
const MAX_BYTES: usize = 64 << 20;

/// Rows that must have moved before the database is asked to let go of them: fewer lie in less than a mebibyte.
const MOVED_ROWS: u64 = 1_000;

const _: () = assert!(MAX_ROWS as u64 <= compact::MAX_ROWS, "a compaction takes what a consolidation wrote");

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
        let (snapshot, of, to, now) = (self.snapshot(), owner.clone(), path.clone(), self.now());
        let written = match blocking(move || write(&snapshot, &of, to, now)).await {
            Ok(Some(written)) => written,
            Ok(None) => return self.give_up(path).await.map(|()| None),
            Err(error) => return Err(self.gave_up(path, error).await),
        };
        let WrittenSegment { bytes, rows, record } = written;
        let done = Consolidated { messages: u64::from(record.rows), bytes: record.bytes };
        let publish = PublishSegment { owner: owner.clone(), number, segment: record, rows };
        self.put_and_publish(path, bytes, publish).await?;
        self.inner.moved.fetch_add(done.messages, Ordering::Relaxed);
        Ok(Some(done))
    }

    /// Has the database let go of rows that are in segments now: of the log and the memory that hold them still, and
    /// then, by itself, of the marks in its files that they are gone. To be called when consolidations are done, and not
    /// after each: every call writes a file for each family that has changed.
    ///
    /// # Errors
    /// When the disk fails; then the rows' traces stay until the next call.
    pub async fn flush_moved(&self) -> Result<()> {
        let moved = self.inner.moved.load(Ordering::Relaxed);
        if moved < MOVED_ROWS {
            return Ok(());
        }
        let database = Arc::clone(&self.inner.database);
        blocking(move || database.flush()).await?;
        self.inner.moved.fetch_sub(moved, Ordering::Relaxed);
        Ok(())
    }

    /// Writes a segment's file and adopts it; where that fails the file goes, and its name.
    pub(crate) async fn put_and_publish(
        &self,
        path: String,
        bytes: Bytes,
        publish: impl Ask<Answer = ()>,
    ) -> Result<()> {
        if let Err(error) = self.put_segment(&path, bytes).await {
            return Err(self.gave_up(path, error).await);
        }
        self.inner.components.step(Step::SegmentWritten);
        match self.command(publish).await {
            Ok(()) => {
                self.inner.components.step(Step::SegmentPublished);
                Ok(())
            }
            // The commit may be in the log although its write failed, and would adopt the file at the next start; so
            // the file and its intent stay, and that start decides.
            Err(error) if error.kind == ErrorKind::Unavailable => Err(error),
            Err(error) => Err(self.gave_up(path, error).await),
        }
    }

    /// Writes a segment's file as every file is: whole and durable in the spool, then moved to its place.
    async fn put_segment(&self, path: &str, bytes: Bytes) -> Result<()> {
        let spooled = self.spool_bytes(bytes).await?;
        self.inner.components.step(Step::SegmentSpooled);
        match self.inner.objects.move_to(&paths::spooled(&spooled.name), path).await {
            Ok(Move::Done) => Ok(()),
            Ok(Move::Lost) => Err(Error::new(
                ErrorKind::Unavailable,
                "A file has vanished from the spool in the data folder; let nobody else write there.",
            )),
            Err(error) => {
                self.remove_spooled(vec![spooled.name]).await;
                Err(error)
            }
        }
    }

    /// Waits until nobody else writes segments of the owner: two would write the same rows. An owner always waits for
    /// the same turn.
    pub(crate) async fn turn(&self, owner: &UserId) -> MutexGuard<'_, ()> {
        self.inner.consolidating[turn_of(owner)].lock().await
    }

    /// The owner's next segment, named before its file can exist.
    pub(crate) async fn reserve_segment(&self, owner: &UserId) -> Result<(u64, String)> {
        let Reserved { number, path } = self.command(ReserveSegment { owner: owner.clone() }).await?;
        // The name must survive a power loss before the file can exist, also where commits need not.
        self.inner.sync_if_os()?;
        self.inner.components.step(Step::SegmentReserved);
        Ok((number, path))
    }

    /// Removes a file that no commit will adopt, and its name.
    pub(crate) async fn give_up(&self, path: String) -> Result<()> {
        self.inner.objects.remove(&path).await?;
        self.command(ReleaseIntents { paths: vec![path] }).await
    }

    /// Gives a file up because of `error`, and returns that error: a file that cannot be removed now goes at the next
    /// start.
    pub(crate) async fn gave_up(&self, path: String, error: Error) -> Error {
        if self.give_up(path).await.is_err() {
            tracing::warn!("a file that nothing refers to stays until the next start");
        }
        error
    }
}

/// The index of the lock that an owner's consolidations and compactions take.
fn turn_of(owner: &UserId) -> usize {
    let mut hasher = DefaultHasher::new();
    owner.hash(&mut hasher);
    usize::try_from(hasher.finish() % CONSOLIDATIONS as u64).unwrap_or(0)
}

fn write(snapshot: &Snapshot, owner: &UserId, path: String, now: Micros) -> Result<Option<WrittenSegment>> {
    let mut writer = SegmentWriter::new();
    for row in snapshot.messages(owner, &MessageRange::default())? {
        writer.push(row?)?;
        if writer.len() >= MAX_ROWS || writer.size() >= MAX_BYTES || writer.decoded() >= MAX_DECODED_BYTES {
            break;
        }
    }
    writer.finish(path, now)
}
