//! RocksDB: opening it, reading it, writing to it.
//!
//! Invariant: the only file that names RocksDB's handles; above it there are families, keys and values.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactionDecision, DB,
    DBCompressionType, DBRawIterator, FlushOptions, Options, ReadOptions, SnapshotWithThreadMode, WriteBatch,
    WriteOptions,
};

use crate::{
    error::{Error, ErrorKind, Result, without_paths},
    fatal,
    horizon::Horizon,
    keys::{Family, seq_of_change},
    records::{Record, RequestRecord},
    settings::{Durability, Settings},
};

/// Open files of RocksDB: bounded, because an operator's limit on descriptors is.
const MAX_OPEN_FILES: i32 = 512;
/// The log is cut into memtables at this size whatever the families hold: it bounds the time of a restart.
const MAX_WAL_BYTES: u64 = 256 << 20;

/// A row that is never there: deleting it is a write that changes nothing.
const PROBE_KEY: &[u8] = b"probe";
/// A file that holds what may be forgotten one day is rewritten once it is this old, where nothing else has it rewritten
/// before: RocksDB's own habit is thirty days.
const REWRITE_SECONDS: u64 = 24 * 3_600;

/// Memory that a memtable takes at a time, in a family that is seldom written: a busy one's mebibyte for each of fifteen
/// such families would count against what all memtables share, and have them written out far too early.
const SMALL_ARENA_BLOCK: usize = 64 << 10;
/// A file in which this many of [`DELETION_WINDOW`] entries in a row, or half of all, say that a row is gone is rewritten
/// at once. A reader walks such entries one by one, a thousand of them in a fraction of a millisecond.
const DELETIONS: usize = 1_024;
/// See [`DELETIONS`].
const DELETION_WINDOW: usize = 2_048;

/// The database's handle.
pub(crate) struct Database {
    db: DB,
    durability: Durability,
}

/// A function that gets each entry of a scan, key and value; a break ends the scan.
pub(crate) type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>;

/// Anything that rows can be read from: the database, a snapshot, a write in progress.
pub(crate) trait Read {
    /// The value of a key, if there is one.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// What `see` makes of the value of a key, if there is one, without a copy of it.
    fn view<T>(&self, family: Family, key: &[u8], see: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>>;

    /// The entries with `from <= key < to` in order, or from the last backwards, until `each` breaks.
    fn scan(&self, family: Family, from: &[u8], to: &[u8], backwards: bool, each: Each<'_>) -> Result<()>;
}

impl Database {
    /// Opens the folder, creating it if there is none.
    pub(crate) fn open(path: &Path, settings: &Settings, horizon: &Arc<Horizon>) -> Result<Self> {
        let mut options = without_preallocation()?;
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(settings.max_background_jobs);
        options.set_max_open_files(MAX_OPEN_FILES);
        options.set_max_total_wal_size(MAX_WAL_BYTES);
        options.set_db_write_buffer_size(settings.write_buffer_size_mb << 20);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        let cache = Cache::new_lru_cache(settings.block_cache_mb << 20);
        let families = Family::ALL.map(|family| {
            ColumnFamilyDescriptor::new(family.name(), family_options(family, settings, &cache, horizon))
        });
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| {
            tracing::error!(error = without_paths(error.as_ref()), "RocksDB does not open");
            Error::new(
                ErrorKind::Unusable,
                "The database folder cannot be opened: another server may be running on it, or it is damaged.",
            )
        })?;
        Ok(Self { db, durability: settings.durability })
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily> {
        self.db.cf_handle(family.name()).ok_or_else(|| Error::fault("a column family was not opened"))
    }

    /// Applies the entries in one atomic write (`None` deletes), durable as the settings say, or now.
    pub(crate) fn write<'a>(
        &self,
        entries: impl IntoIterator<Item = (Family, &'a [u8], Option<&'a [u8]>)>,
        sync: bool,
    ) -> Result<()> {
        self.write_batch(entries, sync)?.map_err(write_failed)
    }

    /// The last write before the database is closed: whatever makes it fail, the end is there already.
    pub(crate) fn close<'a>(
        &self,
        entries: impl IntoIterator<Item = (Family, &'a [u8], Option<&'a [u8]>)>,
    ) -> Result<()> {
        self.db.flush_wal(true)?;
        Ok(self.write_batch(entries, true)??)
    }

    fn write_batch<'a>(
        &self,
        entries: impl IntoIterator<Item = (Family, &'a [u8], Option<&'a [u8]>)>,
        sync: bool,
    ) -> Result<Result<(), rocksdb::Error>> {
        let mut batch = WriteBatch::default();
        let mut current: Option<(Family, &ColumnFamily)> = None;
        for (family, key, value) in entries {
            // Entries come family by family, and RocksDB finds a handle by the family's name.
            let handle = match current {
                Some((same, handle)) if same == family => handle,
                _ => self.family(family)?,
            };
            current = Some((family, handle));
            match value {
                Some(value) => batch.put_cf(handle, key, value),
                None => batch.delete_cf(handle, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync || self.durability == Durability::Sync);
        Ok(self.db.write_opt(batch, &options))
    }

    /// Makes everything written so far survive a power loss.
    pub(crate) fn sync(&self) -> Result<()> {
        self.db.flush_wal(true).map_err(write_failed)
    }

    /// Writes memtables out to files: then they go, and so does the log that would bring them back. Blocks.
    pub(crate) fn flush(&self) -> Result<()> {
        let handles = Family::ALL.iter().map(|family| self.family(*family)).collect::<Result<Vec<_>>>()?;
        Ok(self.db.flush_cfs_opt(&handles, &FlushOptions::default())?)
    }

    /// Writes nothing to anybody's row, as durably as the settings say: whether a commit would be written now.
    pub(crate) fn probe(&self) -> Result<()> {
        self.write([(Family::Meta, PROBE_KEY, None)], false)
    }

    /// Bytes of blocks that may be kept for a family and all others together.
    #[cfg(test)]
    pub(crate) fn block_cache_bytes(&self, family: Family) -> u64 {
        self.db.property_int_value_cf(self.family(family).unwrap(), "rocksdb.block-cache-capacity").unwrap().unwrap()
    }

    /// Bytes of a family's files, once RocksDB has nothing more to rewrite.
    #[cfg(test)]
    pub(crate) fn settled_bytes(&self, family: Family) -> u64 {
        self.db.wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
        self.db.property_int_value_cf(self.family(family).unwrap(), "rocksdb.total-sst-files-size").unwrap().unwrap()
    }

    /// The blocks that it takes from files, and not from memory, to read a key.
    #[cfg(test)]
    pub(crate) fn blocks_read(&self, family: Family, key: &[u8]) -> u64 {
        use rocksdb::{PerfContext, PerfMetric, PerfStatsLevel, perf::set_perf_stats};
        let mut context = PerfContext::default();
        set_perf_stats(PerfStatsLevel::EnableCount);
        context.reset();
        assert!(self.get(family, key).unwrap().is_some());
        let read = context.metric(PerfMetric::BlockReadCount);
        set_perf_stats(PerfStatsLevel::Disable);
        read
    }

    /// Has RocksDB rewrite a family, and forget what is behind the horizon.
    #[cfg(test)]
    pub(crate) fn compact(&self, family: Family) {
        let handle = self.family(family).unwrap();
        self.db.flush_cf(handle).unwrap();
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.db.compact_range_cf_opt(handle, None::<&[u8]>, None::<&[u8]>, &options);
    }
}

/// RocksDB's options, with files that are as long as what is in them. By itself RocksDB reserves room ahead of what it
/// writes, 64 MiB for the log and 4 MiB for the list of files, which is all of an idle server's disk; a write costs the
/// same without. There is no call for it, only the option's name in a text.
fn without_preallocation() -> Result<Options> {
    Ok(Options::default().get_options_from_string("allow_fallocate=false")?)
}

/// The meaning of a failed write. A full disk is waited out: RocksDB looks every few seconds whether there is room, and
/// writes again once there is. After any other failure of the log it takes no write until it is opened anew, and what
/// of the last one is on the disk is for that opening to find out; so the process ends, because a start does just that.
fn write_failed(error: rocksdb::Error) -> Error {
    if !passes_by_itself(error.as_ref()) {
        fatal::end(&format!("the database takes no writes any more: {}", without_paths(error.as_ref())));
    }
    error.into()
}

/// Whether writes succeed again without the database being opened anew, by what RocksDB says. It tells the kind of an
/// error in its text only, with the words of a table in `util/status.cc`, the kind's subcode second:
/// `IO error: No space left on device: While appending to file: …`.
pub(crate) fn passes_by_itself(said: &str) -> bool {
    let mut words = said.split(": ");
    match words.next().unwrap_or_default().trim_end_matches(':') {
        "IO error" => matches!(words.next(), Some("No space left on device" | "Space limit reached")),
        kind => {
            ["Resource busy", "Result incomplete", "Shutdown in progress", "Operation timed out"].contains(&kind)
                || kind.starts_with("Operation failed. Try again.")
        }
    }
}

fn family_options(family: Family, settings: &Settings, cache: &Cache, horizon: &Arc<Horizon>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    // In parts: the whole index of a large file, and its filter, are more than the cache takes in one piece, and were read
    // and decompressed anew for each row that was looked for.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_write_buffer_size((settings.write_buffer_size_mb << 20) / 4);
    if !matches!(
        family,
        Family::Messages | Family::MessageIds | Family::Conversations | Family::Owners | Family::Changes
    ) {
        options.set_arena_block_size(SMALL_ARENA_BLOCK);
    }
    if matches!(family, Family::Messages | Family::MessageIds | Family::Trash | Family::Due | Family::Audit) {
        options.add_compact_on_deletion_collector_factory(DELETION_WINDOW, DELETIONS, 0.5);
    }
    let horizon = Arc::clone(horizon);
    match family {
        Family::Changes => {
            options.set_periodic_compaction_seconds(REWRITE_SECONDS);
            options.set_compaction_filter(c"changes", move |_level, key: &[u8], _value: &[u8]| {
                forget(seq_of_change(key).is_some_and(|seq| horizon.is_past_change(seq)))
            });
        }
        Family::Requests => {
            options.set_periodic_compaction_seconds(REWRITE_SECONDS);
            options.set_compaction_filter(c"requests", move |_level, _key: &[u8], value: &[u8]| {
                forget(RequestRecord::decode(value).is_ok_and(|request| horizon.is_past_request(request.expires)))
            });
        }
        _ => {}
    }
    options
}

fn forget(old: bool) -> CompactionDecision {
    if old { CompactionDecision::Remove } else { CompactionDecision::Keep }
}

impl Read for Database {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.db.get_cf(self.family(family)?, key)?)
    }

    fn view<T>(&self, family: Family, key: &[u8], see: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        self.db.get_pinned_cf(self.family(family)?, key)?.map(|value| see(&value)).transpose()
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], backwards: bool, each: Each<'_>) -> Result<()> {
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(family)?, range_options(from, to));
        walk(&mut iterator, backwards, each)
    }
}

fn range_options(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

/// To the first entry of the range, or to the last when going backwards.
fn seek_to_end(iterator: &mut DBRawIterator<'_>, backwards: bool) {
    if backwards {
        iterator.seek_to_last();
    } else {
        iterator.seek_to_first();
    }
}

fn step(iterator: &mut DBRawIterator<'_>, backwards: bool) {
    if backwards {
        iterator.prev();
    } else {
        iterator.next();
    }
}

fn walk(iterator: &mut DBRawIterator<'_>, backwards: bool, each: Each<'_>) -> Result<()> {
    seek_to_end(iterator, backwards);
    while let Some((key, value)) = iterator.item() {
        if each(key, value)?.is_break() {
            return Ok(());
        }
        step(iterator, backwards);
    }
    Ok(iterator.status()?)
}

type RawSnapshot<'a> = SnapshotWithThreadMode<'a, DB>;
type RawIterator<'a> = DBRawIterator<'a>;

/// Handles that borrow the database and keep it alive. The macro's code is unsafe inside and safe to use: that is
/// what `self_cell` is for.
#[allow(unsafe_code)]
mod cells {
    use super::{Arc, Database, RawIterator, RawSnapshot};

    self_cell::self_cell!(
        pub(super) struct SnapshotCell {
            owner: Arc<Database>,
            #[not_covariant]
            dependent: RawSnapshot,
        }
    );

    self_cell::self_cell!(
        pub(super) struct IteratorCell {
            owner: Arc<SnapshotCell>,
            #[not_covariant]
            dependent: RawIterator,
        }
    );
}

/// The database as it was at one moment; cheap to clone.
#[derive(Clone)]
pub(crate) struct DatabaseSnapshot(Arc<cells::SnapshotCell>);

impl DatabaseSnapshot {
    /// Takes a snapshot of the database as it is now.
    pub(crate) fn new(database: &Arc<Database>) -> Self {
        Self(Arc::new(cells::SnapshotCell::new(Arc::clone(database), |database| RawSnapshot::new(&database.db))))
    }

    /// A snapshot of the same database as it is now.
    pub(crate) fn of_now(&self) -> Self {
        Self::new(self.0.borrow_owner())
    }

    /// An iterator of its own over `from <= key < to`.
    pub(crate) fn iterate(&self, family: Family, from: &[u8], to: &[u8], backwards: bool) -> Result<Entries> {
        let cell = cells::IteratorCell::try_new(Arc::clone(&self.0), |snapshot| {
            let handle = snapshot.borrow_owner().family(family)?;
            let mut iterator =
                snapshot.with_dependent(|_, raw| raw.raw_iterator_cf_opt(handle, range_options(from, to)));
            seek_to_end(&mut iterator, backwards);
            Ok::<_, Error>(iterator)
        })?;
        Ok(Entries { cell, backwards })
    }
}

impl Read for DatabaseSnapshot {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.with_dependent(|database, snapshot| Ok(snapshot.get_cf(database.family(family)?, key)?))
    }

    fn view<T>(&self, family: Family, key: &[u8], see: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        self.0.with_dependent(|database, snapshot| {
            snapshot.get_pinned_cf(database.family(family)?, key)?.map(|value| see(&value)).transpose()
        })
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], backwards: bool, each: Each<'_>) -> Result<()> {
        self.0.with_dependent(|database, snapshot| {
            let mut iterator = snapshot.raw_iterator_cf_opt(database.family(family)?, range_options(from, to));
            walk(&mut iterator, backwards, each)
        })
    }
}

/// A snapshot's entries, one after the other.
pub(crate) struct Entries {
    cell: cells::IteratorCell,
    backwards: bool,
}

impl Entries {
    /// Makes something of the current entry and moves on; `None` at the end.
    pub(crate) fn next<T>(&mut self, read: impl FnOnce(&[u8], &[u8]) -> Result<T>) -> Option<Result<T>> {
        let backwards = self.backwards;
        self.cell.with_dependent_mut(|_, iterator| {
            let Some((key, value)) = iterator.item() else {
                return iterator.status().err().map(|error| Err(error.into()));
            };
            let item = read(key, value);
            step(iterator, backwards);
            Some(item)
        })
    }

    /// Makes something of the current entry and stays there; `None` at the end.
    pub(crate) fn here<T>(&mut self, read: impl FnOnce(&[u8], &[u8]) -> Result<T>) -> Result<Option<T>> {
        self.cell.with_dependent_mut(|_, iterator| match iterator.item() {
            Some((key, value)) => read(key, value).map(Some),
            None => Ok(iterator.status().map(|()| None)?),
        })
    }

    /// Moves to the first entry from `key` on.
    pub(crate) fn seek(&mut self, key: &[u8]) {
        self.cell.with_dependent_mut(|_, iterator| iterator.seek(key));
    }

    /// Moves to the last entry up to `key`, and that included.
    pub(crate) fn seek_back_to(&mut self, key: &[u8]) {
        self.cell.with_dependent_mut(|_, iterator| iterator.seek_for_prev(key));
    }

    /// Moves one entry forwards.
    pub(crate) fn forward(&mut self) {
        self.cell.with_dependent_mut(|_, iterator| iterator.next());
    }
}
