//! The sweep of what is due: deleted messages and unsent uploads whose time is up, files that nothing refers to, old
//! audit rows.
//!
//! Invariant: a row goes by a commit, and a file only after that commit is in the synced log and nobody reads a
//! snapshot from before it; its own row goes last. So at any moment between, a crash leaves a row that brings the work
//! here again, never a file without one.

use std::{ops::ControlFlow, sync::atomic::Ordering};

use kalamdb_protocol::{Micros, UserId};

use crate::{
    Store,
    command::{Adopted, Expire, Expired, Forget, TrimAudit},
    database::Read,
    due::{self, Due},
    error::Result,
    keys::{self, Family},
    model::Seq,
    records::{Record, RemovalRecord},
    rows,
    settings::Step,
};

/// Entries of one commit: everybody else waits for it.
const BATCH: usize = 1_000;
/// The interval at which old audit rows are looked for, in microseconds: they are kept by the day.
const TRIM_EVERY: Micros = 3_600 * 1_000_000;

/// The result of a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Deleted messages whose time was up.
    pub purged_messages: u64,
    /// Uploads that no message referred to in time.
    pub expired_uploads: u64,
    /// Files removed: content files and replaced segments.
    pub removed_files: u64,
    /// Audit rows whose time was up.
    pub audit_rows: u64,
    /// Files that could not be moved or removed, which the next sweep tries again.
    pub failed_files: u64,
}

/// A page of what is due.
#[derive(Default)]
struct Page {
    moves: Vec<Adopted>,
    removals: Vec<(String, Seq)>,
    expired: Vec<Vec<u8>>,
    /// The start of the next page; `None` when this is the last.
    next: Option<Vec<u8>>,
}

impl Store {
    /// Does everything that is due now: deleted messages and unsent uploads whose time is up, files that nothing
    /// refers to any more, old audit rows. A file that a [`crate::Snapshot`] may still read stays for the next time.
    ///
    /// # Errors
    /// When the database fails; what was not done is done next time. A file that the system does not move or remove is
    /// counted, and keeps nothing else from being done.
    pub async fn sweep(&self) -> Result<Swept> {
        let _turn = self.inner.sweeping.lock().await;
        let mut swept = Swept::default();
        // Rows that expire leave files to remove, so a second pass takes those.
        self.sweep_once(&mut swept).await?;
        self.sweep_once(&mut swept).await?;
        self.trim_audit(&mut swept).await?;
        Ok(swept)
    }

    /// Waits until some file can be removed: a reason to [`Store::sweep`] now.
    pub async fn litter(&self) {
        self.inner.sequencer.litter().await;
    }

    async fn sweep_once(&self, swept: &mut Swept) -> Result<()> {
        let end = due::until(self.now());
        let mut from = Some(Vec::new());
        while let Some(start) = from {
            let page = self.due_page(&start, &end)?;
            if !page.expired.is_empty() {
                let Expired { messages, uploads } = self.command(Expire { entries: page.expired }).await?;
                swept.purged_messages += messages;
                swept.expired_uploads += uploads;
            }
            swept.failed_files += self.finish_moves(page.moves).await?;
            self.remove_files(page.removals, swept).await?;
            from = page.next;
        }
        Ok(())
    }

    fn due_page(&self, start: &[u8], end: &[u8]) -> Result<Page> {
        let database = &*self.inner.database;
        let (mut page, mut entries) = (Page::default(), 0);
        database.scan(Family::Due, start, end, false, &mut |key, value| {
            if entries == BATCH {
                page.next = Some(key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            entries += 1;
            match Due::parse(key)?.1 {
                Due::Move { path } => {
                    // The commit that named the file moves it, unless that failed.
                    if let Some(name) = rows::file(database, &path)?.and_then(|file| file.moving_from) {
                        page.moves.push(Adopted { path, spooled: name });
                    }
                }
                Due::Removal { path } => page.removals.push((path, RemovalRecord::decode(value)?.released)),
                _ => page.expired.push(key.to_vec()),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(page)
    }

    /// Removes files that nobody can read any more.
    async fn remove_files(&self, removals: Vec<(String, Seq)>, swept: &mut Swept) -> Result<()> {
        let free = removals.into_iter().filter(|(_, released)| !self.inner.pins.block(*released));
        let paths: Vec<String> = free.map(|(path, _)| path).collect();
        if paths.is_empty() {
            return Ok(());
        }
        // The commit that released a file must survive whatever the removal survives.
        self.inner.sync_if_os()?;
        self.inner.components.step(Step::LitterFound);
        let mut removed = Vec::with_capacity(paths.len());
        for path in paths {
            if self.remove_file(&path).await? {
                removed.push(path);
            } else {
                swept.failed_files += 1;
            }
        }
        self.inner.components.step(Step::LitterRemoved);
        swept.removed_files += removed.len() as u64;
        if !removed.is_empty() {
            self.command(Forget { paths: removed }).await?;
        }
        Ok(())
    }

    /// Removes a file and the folders that it leaves empty; whether it is gone.
    async fn remove_file(&self, path: &str) -> Result<bool> {
        // The file's move may be under way: one that was not moved yet is removed where it is.
        if let Some(name) = rows::file(&*self.inner.database, path)?.and_then(|file| file.moving_from)
            && self.finish_moves(vec![Adopted { path: path.to_owned(), spooled: name }]).await? > 0
        {
            return Ok(false);
        }
        let objects = &self.inner.objects;
        // An empty folder that stays is in nobody's way, but the next file of it takes it along.
        Ok(objects.remove(path).await.is_ok() && objects.remove_empty_folders(path).await.is_ok())
    }

    /// Removes audit rows whose time is up, now and then.
    async fn trim_audit(&self, swept: &mut Swept) -> Result<()> {
        let now = self.now();
        if now.saturating_sub(self.inner.audit_trimmed.load(Ordering::Relaxed)) < TRIM_EVERY {
            return Ok(());
        }
        let below = now.saturating_sub(self.inner.rules.audit_retention);
        let mut next = self.old_audit(&[], below)?;
        while let Some((owner, ids)) = next {
            let mut from = keys::id_prefix(owner.as_str());
            // A full batch may not have been all of an owner's.
            if ids.len() < BATCH {
                from = keys::after_prefix(&from);
            }
            swept.audit_rows += ids.len() as u64;
            if !ids.is_empty() {
                self.command(TrimAudit { owner, ids }).await?;
            }
            next = self.old_audit(&from, below)?;
        }
        self.inner.audit_trimmed.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// The first owner of audit rows from `from` on, and the ids of their oldest rows below `below`, a batch at most.
    fn old_audit(&self, from: &[u8], below: Micros) -> Result<Option<(UserId, Vec<i64>)>> {
        let mut found: Option<(UserId, Vec<i64>)> = None;
        self.inner.database.scan(Family::Audit, from, &keys::after_prefix(&[]), false, &mut |key, _| {
            let owner = keys::owner_of(key)?;
            let (first, ids) = found.get_or_insert_with(|| (owner.clone(), Vec::new()));
            let id = keys::parse_message_id(key)?;
            // Ids are times, within the moment that they were given in.
            if *first != owner || id >= below || ids.len() == BATCH {
                return Ok(ControlFlow::Break(()));
            }
            ids.push(id);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }
}
