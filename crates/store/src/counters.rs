//! The server's single values: what every commit moves on (its number, its time, the last message id), and what belongs
//! to this folder alone (format, epoch, whether a server runs on it, how far back its change log goes).
//!
//! Invariant: numbers only rise; a folder of a newer format is refused, never guessed at. What belongs to the folder is
//! written past the sequencer, and no commit is decided by it.

use kalamdb_protocol::{MAX_MICROS, Micros, MsgId};

use crate::{
    database::{Database, Read},
    error::{Error, ErrorKind, Result},
    keys::Family,
    model::Seq,
    settings::Durability,
};

/// The layout of the folder that this program writes. 1 knew no content files, no trash and no audit log: their
/// families are new, and nothing else has changed. 2 kept the metadata of conversations in each owner's view of them,
/// where it is still read until the view is next written, and had no rules in the database and no times of commits.
const FORMAT: u64 = 3;

const FORMAT_KEY: &[u8] = b"format";
const EPOCH_KEY: &[u8] = b"epoch";
const SEQ_KEY: &[u8] = b"seq";
const LAST_MSG_ID_KEY: &[u8] = b"last_msg_id";
const TIME_KEY: &[u8] = b"time";
const CHANGES_BELOW_KEY: &[u8] = b"changes_below";
const RUNNING_KEY: &[u8] = b"running";

/// The numbers that each commit moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The last commit.
    pub(crate) seq: Seq,
    /// The last message id, generated or given.
    pub(crate) last_msg_id: MsgId,
    /// The time of the last commit.
    pub(crate) time: Micros,
}

fn number(read: &impl Read, key: &[u8]) -> Result<Option<u64>> {
    let Some(bytes) = read.get(Family::Meta, key)? else { return Ok(None) };
    Ok(Some(u64::from_be_bytes(bytes.as_slice().try_into().map_err(|_| Error::corrupt("counter"))?)))
}

/// The last commit that `read` can see.
pub(crate) fn seq(read: &impl Read) -> Result<Seq> {
    Ok(number(read, SEQ_KEY)?.unwrap_or(0))
}

/// The commit below which the change log may have been let go.
pub(crate) fn changes_below(read: &impl Read) -> Result<Seq> {
    Ok(number(read, CHANGES_BELOW_KEY)?.unwrap_or(0))
}

/// The row that keeps it.
pub(crate) fn changes_below_entry(below: Seq) -> (&'static [u8], [u8; 8]) {
    (CHANGES_BELOW_KEY, below.to_be_bytes())
}

impl Counters {
    /// Reads the counters that the database holds.
    pub(crate) fn load(read: &impl Read) -> Result<Self> {
        let last_msg_id = number(read, LAST_MSG_ID_KEY)?.unwrap_or(0) as MsgId;
        let time = number(read, TIME_KEY)?.unwrap_or(0) as Micros;
        Ok(Self { seq: seq(read)?, last_msg_id, time })
    }

    /// The rows that keep them.
    pub(crate) fn entries(self) -> [(&'static [u8], [u8; 8]); 3] {
        [
            (SEQ_KEY, self.seq.to_be_bytes()),
            (LAST_MSG_ID_KEY, self.last_msg_id.to_be_bytes()),
            (TIME_KEY, self.time.to_be_bytes()),
        ]
    }

    /// The time of the next commit by a clock that says `now`: a clock that jumps back stands still until it has caught
    /// up, so that what has expired by one commit's time has expired by that of every later one.
    pub(crate) fn next_time(self, now: Micros) -> Result<Micros> {
        if now > MAX_MICROS {
            // Kept, such a time would outlive the wrong clock.
            return Err(past_the_end());
        }
        Ok(now.max(self.time))
    }

    /// The id that a message sent at `now` gets: its microseconds, unless a clock that stood still or jumped back
    /// would repeat one. So ids rise in commit order and stay within 53 bits until the year 2255.
    pub(crate) fn next_msg_id(self, now: Micros) -> Result<MsgId> {
        assert!(self.last_msg_id >= 0, "message ids are positive");
        let next = now.max(self.last_msg_id + 1);
        if next > MAX_MICROS { Err(past_the_end()) } else { Ok(next) }
    }
}

fn past_the_end() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "The server's clock is past the year 2255, where message ids end; set the clock right.",
    )
}

/// Checks the format, and gives the epoch of this run: a new one whenever numbers of the last run may have been lost
/// with the power, so that an (epoch, seq) pair never means two commits.
pub(crate) fn start(database: &Database, durability: Durability) -> Result<u64> {
    match number(database, FORMAT_KEY)? {
        None | Some(1..=FORMAT) => {}
        Some(newer) => {
            return Err(Error::new(
                ErrorKind::Unusable,
                format!("The data folder has format {newer}; this program knows {FORMAT}: use a newer kalamdb."),
            ));
        }
    }
    let last = number(database, EPOCH_KEY)?;
    let crashed = number(database, RUNNING_KEY)? == Some(1);
    let epoch = match last {
        Some(epoch) if !crashed => epoch,
        last => last.unwrap_or(0) + 1,
    };
    // With synced commits nothing acknowledged can be lost, so the run needs no mark.
    let running = u64::from(durability == Durability::Os);
    put(database, &[(FORMAT_KEY, FORMAT), (EPOCH_KEY, epoch), (RUNNING_KEY, running)])?;
    Ok(epoch)
}

/// Notes that everything is on disk.
pub(crate) fn stop(database: &Database) -> Result<()> {
    let mark = 0_u64.to_be_bytes();
    database.close([(Family::Meta, RUNNING_KEY, Some(mark.as_slice()))])
}

fn put(database: &Database, values: &[(&[u8], u64)]) -> Result<()> {
    let bytes: Vec<_> = values.iter().map(|(key, value)| (*key, value.to_be_bytes())).collect();
    database.write(bytes.iter().map(|(key, value)| (Family::Meta, *key, Some(value.as_slice()))), true)
}
