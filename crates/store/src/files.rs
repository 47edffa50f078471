//! Content files: the texts of large messages, and uploads.
//!
//! Invariant: a file is written and synced in the spool, named by a commit, then moved to its place, and never changed
//! after. Whatever a crash leaves in the spool is either named by a commit, and moved at the next start, or nobody's,
//! and removed then. Who may read a file is asked of its references only; a path is compared, never resolved.

use std::{ops::Range, path::Path, sync::atomic::Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use kalamdb_protocol::{ErrorCode, UserId};

use crate::{
    Store,
    command::{AddFile, Adopted, FileAdded, Moved, Spooled, SpooledThumbnail, Texts, Upload, Write, Written},
    commit::{Actor, Change, Proposal, Receipt},
    error::{Error, Result},
    large,
    model::{NewFile, StoredFile, Uploaded},
    objects::Move,
    paths, rows,
    settings::Step,
    threads::whole,
};

/// A file's bytes, read as they are asked for.
pub type FileBytes = BoxStream<'static, Result<Bytes>>;

/// The log's line for a file that somebody else removed from the spool before it was moved: its messages stay, and
/// whoever asks for the file is told that it is not there.
pub(crate) const LOST: &str = "a content file has vanished from the spool; it cannot be read any more";

impl Store {
    /// The folder in which an upload is written before [`Store::add_file`] takes it: on the same disk as the content
    /// files, and emptied at each start. Names of files in it start with a dot, each its own.
    #[must_use]
    pub fn spool(&self) -> &Path {
        &self.inner.spool
    }

    /// Takes an upload in: creates its conversation if there is none, moves the file to its place. Nobody but `owner`
    /// can read it until a message refers to it; unless one does within [`crate::Rules::upload_ttl`], it is removed.
    ///
    /// # Errors
    /// `forbidden` when the owner is not a participant of the group; [`crate::ErrorKind::Unavailable`] when the disk
    /// fails. The source is left to the caller then.
    pub async fn add_file(&self, actor: &Actor, file: NewFile) -> Result<Uploaded> {
        if file.extension.is_empty() || !file.extension.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::fault("an upload's extension is not letters and digits"));
        }
        let (store, actor) = (self.clone(), actor.clone());
        whole(async move { store.add_spooled(actor, file).await }).await
    }

    async fn add_spooled(&self, actor: Actor, mut file: NewFile) -> Result<Uploaded> {
        // Whatever fails from here on, these are nobody's, or a commit's.
        let name = self.spool_name();
        let mut spooled = vec![name.clone()];
        let thumbnail = file.thumbnail.take();
        let small = thumbnail.as_ref().map(|thumbnail| (self.spool_name(), thumbnail.bytes.clone()));
        spooled.extend(small.iter().map(|(name, _)| name.clone()));
        let sizes = match self.spool_upload(&file.source, &name, small.clone()).await {
            Ok(sizes) => sizes,
            Err(error) => {
                self.remove_spooled(spooled).await;
                return Err(error);
            }
        };
        self.inner.components.step(Step::FileSpooled);
        let thumbnail = thumbnail.zip(small).map(|(thumbnail, (name, bytes))| SpooledThumbnail {
            file: Spooled { name, bytes: bytes.len() as u64 },
            content_type: thumbnail.content_type,
            extension: thumbnail.extension,
        });
        let upload = Upload {
            owner: file.owner,
            conversation: file.conversation,
            conversation_type: file.conversation_type,
            file: Spooled { name, bytes: sizes },
            content_type: file.content_type,
            extension: file.extension,
            thumbnail,
        };
        match self.command(AddFile { actor, upload }).await {
            Ok(FileAdded { uploaded, adopted }) => {
                self.settle(spooled, adopted).await;
                Ok(uploaded)
            }
            Err(error) => Err(self.unspool(spooled, error).await),
        }
    }

    /// Puts an upload and its thumbnail into the spool, durably; the upload's size.
    async fn spool_upload(&self, source: &Path, name: &str, small: Option<(String, Bytes)>) -> Result<u64> {
        let objects = &self.inner.objects;
        let bytes = objects.link_spooled(source, &paths::spooled(name)).await?;
        if let Some((name, bytes)) = small {
            objects.write_spooled(&paths::spooled(&name), bytes).await?;
        }
        objects.sync(&paths::spooled("")).await?;
        Ok(bytes)
    }

    /// The file of that path, if there is one that `reader` may read: because a message of theirs that is not deleted
    /// refers to it, or because they uploaded it and no message refers to it yet. `path` is compared, never resolved.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn readable_file(&self, reader: &UserId, path: &str) -> Result<Option<StoredFile>> {
        let database = &*self.inner.database;
        let Some(file) = rows::file(database, path)? else { return Ok(None) };
        // A thumbnail goes with its upload.
        let readable = match &file.thumbnail_of {
            None => rows::may_read(database, reader, path, &file)?,
            Some(of) => match rows::file(database, of)? {
                Some(upload) => !file.doomed && rows::may_read(database, reader, of, &upload)?,
                None => false,
            },
        };
        Ok(readable.then(|| rows::public_file(path.to_owned(), file, 0)))
    }

    /// Reads a file, or a part of it (bytes, end exclusive, within the file); `None` when it was removed meanwhile.
    /// Once this returns, the whole part comes, whatever happens to the file.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn read_file(&self, file: &StoredFile, range: Range<u64>) -> Result<Option<FileBytes>> {
        if range.is_empty() {
            return Ok(Some(futures::stream::empty().boxed()));
        }
        // The file may be moved to its place while it is looked for in the spool; then the second look finds it.
        let spooled = match rows::file(&*self.inner.database, &file.path)? {
            Some(record) => record.moving_from.map(|name| paths::spooled(&name)),
            None => None,
        };
        for path in [spooled.as_ref(), Some(&file.path)].into_iter().flatten() {
            if let Some(bytes) = self.inner.objects.read(path, range.clone()).await? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Commits a proposal: its large texts go to files first.
    pub(crate) async fn commit_with_texts(&self, mut proposal: Proposal) -> Result<Receipt> {
        if !self.takes_texts_out(&proposal)? {
            return Ok(self.command(Write { proposal, texts: Texts::new() }).await?.receipt);
        }
        let store = self.clone();
        whole(async move {
            let texts = store.take_texts_out(&mut proposal).await?;
            let spooled = texts.values().map(|text| text.name.clone()).collect();
            match store.command(Write { proposal, texts }).await {
                Ok(Written { receipt, adopted }) => {
                    store.settle(spooled, adopted).await;
                    Ok(receipt)
                }
                Err(error) => Err(store.unspool(spooled, error).await),
            }
        })
        .await
    }

    /// Whether the proposal has a text that belongs into a file; refuses one that is too large for that.
    fn takes_texts_out(&self, proposal: &Proposal) -> Result<bool> {
        let rules = &self.inner.rules;
        let mut any = false;
        for (text, content_ref) in proposal.changes.iter().filter_map(text_of) {
            if text.len() > rules.max_message_bytes {
                return Err(Error::refused(
                    ErrorCode::PayloadTooLarge,
                    format!(
                        "A message may have at most {} bytes (message.max_size_bytes); upload what is larger.",
                        rules.max_message_bytes
                    ),
                ));
            }
            if text.len() >= rules.large_message_threshold_bytes {
                if content_ref.is_some() {
                    return Err(Error::refused(ErrorCode::InvalidValue, large::TEXT_AND_MEDIA));
                }
                any = true;
            }
        }
        Ok(any)
    }

    /// Writes the proposal's large texts to the spool, and leaves their beginnings.
    async fn take_texts_out(&self, proposal: &mut Proposal) -> Result<Texts> {
        let mut texts = Texts::new();
        for (index, change) in proposal.changes.iter_mut().enumerate() {
            let (Change::Send(crate::NewMessage { content, .. }) | Change::Edit { content: Some(content), .. }) =
                change
            else {
                continue;
            };
            if content.len() >= self.inner.rules.large_message_threshold_bytes {
                let preview = large::preview(content).to_owned();
                let whole = std::mem::replace(content, preview);
                match self.spool_bytes(Bytes::from(whole)).await {
                    Ok(spooled) => texts.insert(index, spooled),
                    Err(error) => {
                        return Err(self.unspool(texts.into_values().map(|text| text.name).collect(), error).await);
                    }
                };
            }
        }
        self.inner.components.step(Step::FileSpooled);
        Ok(texts)
    }

    fn spool_name(&self) -> String {
        self.inner.next_spooled.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Writes a file of the spool, durably.
    pub(crate) async fn spool_bytes(&self, bytes: Bytes) -> Result<Spooled> {
        let spooled = Spooled { name: self.spool_name(), bytes: bytes.len() as u64 };
        self.inner.objects.write_spooled(&paths::spooled(&spooled.name), bytes).await?;
        Ok(spooled)
    }

    /// Cleans up after a commit: moves the files that it named to their places, and removes the others (a repeated
    /// request's).
    async fn settle(&self, spooled: Vec<String>, adopted: Vec<Adopted>) {
        let rest = spooled.into_iter().filter(|name| adopted.iter().all(|file| &file.spooled != name)).collect();
        self.remove_spooled(rest).await;
        self.inner.components.step(Step::FileCommitted);
        // The commit stands whatever happens here: the files are read from the spool, and moved at the next sweep.
        match self.finish_moves(adopted).await {
            Ok(0) => {}
            Ok(failed) => tracing::warn!(failed, "files stay in the spool for now"),
            Err(error) => tracing::warn!(%error, "files stay in the spool for now"),
        }
    }

    /// Moves files that a commit has named to their places; how many could not be, and stay where they are. One that
    /// somebody else has removed is lost: that is said once, and holds up nobody.
    pub(crate) async fn finish_moves(&self, adopted: Vec<Adopted>) -> Result<u64> {
        if adopted.is_empty() {
            return Ok(0);
        }
        // A file in its place is never older than the commit that named it, whatever the durability of commits is.
        self.inner.sync_if_os()?;
        let (mut paths, mut failed) = (Vec::with_capacity(adopted.len()), 0);
        for Adopted { path, spooled } in adopted {
            match self.inner.objects.move_to(&paths::spooled(&spooled), &path).await {
                Ok(Move::Done) => paths.push(path),
                Ok(Move::Lost) => {
                    // Another task may have moved the file meanwhile, and a sweep removed it since.
                    if rows::file(&*self.inner.database, &path)?.is_some_and(|file| file.moving_from.is_some()) {
                        tracing::error!(path, "{LOST}");
                    }
                    paths.push(path);
                }
                Err(_) => failed += 1,
            }
        }
        self.inner.components.step(Step::FileMoved);
        if !paths.is_empty() {
            self.command(Moved { paths }).await?;
        }
        Ok(failed)
    }

    /// Cleans up after a refusal: removes files that no commit has named. A commit whose write failed may be in the log
    /// all the same, and name them; then they stay, and the next start decides.
    async fn unspool(&self, spooled: Vec<String>, error: Error) -> Error {
        if error.kind != crate::ErrorKind::Unavailable {
            self.remove_spooled(spooled).await;
        }
        error
    }

    /// Removes files of the spool; one that cannot be removed stays until the next start.
    pub(crate) async fn remove_spooled(&self, names: Vec<String>) {
        for name in names {
            if self.inner.objects.remove(&paths::spooled(&name)).await.is_err() {
                tracing::warn!("a file stays in the spool until the next start");
            }
        }
    }
}

/// A change's text, and the file that its message refers to besides.
fn text_of(change: &Change) -> Option<(&str, Option<&str>)> {
    match change {
        Change::Send(message) => Some((&message.content, message.content_ref.as_deref())),
        // The commit finds out whether an edited message's file is its own text.
        Change::Edit { content: Some(content), .. } => Some((content, None)),
        _ => None,
    }
}
