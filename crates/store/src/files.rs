//! Content files: the texts of large messages, and uploads.
//!
//! Invariant: a file is written and synced in the spool, named by a commit, then moved to its place, and never changed
//! after. Whatever a crash leaves in the spool is either named by a commit, and moved at the next start, or nobody's,
//! and removed then. Who may read a file is asked of its references only; a path is compared, never resolved.

use std::{ops::Range, path::Path, sync::atomic::Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use kalamdb_protocol::{ErrorCode, UserId};

use crate::{
    Store,
    command::{Adopted, Command, Done, Spooled, SpooledThumbnail, Texts, Upload},
    commit::{Actor, Change, Proposal, Receipt},
    error::{Error, Result},
    large,
    model::{NewFile, StoredFile, Uploaded},
    paths, rows,
    settings::Step,
};

/// A file's bytes, read as they are asked for.
pub type FileBytes = BoxStream<'static, Result<Bytes>>;

impl Store {
    /// Where an upload may be written before [`Store::add_file`] takes it: a folder on the same disk as the content
    /// files, emptied at each start. Its files need names that start with a dot, each its own.
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
            return Err(Error::corrupt("file extension"));
        }
        let (store, actor) = (self.clone(), actor.clone());
        whole(async move { store.add_spooled(actor, file).await }).await
    }

    async fn add_spooled(&self, actor: Actor, file: NewFile) -> Result<Uploaded> {
        let name = self.spool_name();
        let (source, target) = (file.source.clone(), self.inner.spool.join(&name));
        let bytes = tokio::task::spawn_blocking(move || {
            let open = std::fs::File::open(&source)?;
            open.sync_all()?;
            // A link, so that a caller whose upload is refused still has its file to remove.
            std::fs::hard_link(&source, &target)?;
            open.metadata().map(|metadata| metadata.len())
        })
        .await
        .map_err(|_| Error::corrupt("file"))??;
        let thumbnail = match file.thumbnail {
            Some(thumbnail) => Some(SpooledThumbnail {
                file: self.spool_bytes(thumbnail.bytes).await?,
                content_type: thumbnail.content_type,
                extension: thumbnail.extension,
            }),
            None => None,
        };
        let spooled: Vec<String> =
            [name.clone()].into_iter().chain(thumbnail.iter().map(|small| small.file.name.clone())).collect();
        self.sync_spool().await?;
        self.inner.components.step(Step::FileSpooled);
        let upload = Upload {
            owner: file.owner,
            conversation: file.conversation,
            conversation_type: file.conversation_type,
            file: Spooled { name, bytes },
            content_type: file.content_type,
            extension: file.extension,
            thumbnail,
        };
        match self.command(Command::AddFile { actor, upload }).await {
            Ok(Done::FileAdded { uploaded, adopted }) => {
                self.settle(spooled, adopted).await;
                Ok(uploaded)
            }
            Ok(_) => Err(Error::corrupt("answer")),
            Err(error) => Err(self.unspool(spooled, error).await),
        }
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
        // It may be moved to its place between the two looks; then the third finds it.
        let spooled = match rows::file(&*self.inner.database, &file.path)? {
            Some(record) => record.moving_from.map(|name| paths::spooled(&name)),
            None => None,
        };
        for path in [Some(&file.path), spooled.as_ref(), spooled.as_ref().map(|_| &file.path)].into_iter().flatten() {
            if let Some(bytes) = self.inner.objects.read(path, range.clone()).await? {
                return Ok(Some(bytes.map_err(Error::from).boxed()));
            }
        }
        Ok(None)
    }

    /// Commits a proposal: its large texts go to files first.
    pub(crate) async fn commit_with_texts(&self, mut proposal: Proposal) -> Result<Receipt> {
        if !self.takes_texts_out(&proposal)? {
            return self.write(proposal, Texts::new()).await.map(|(receipt, _)| receipt);
        }
        let store = self.clone();
        whole(async move {
            let texts = store.take_texts_out(&mut proposal).await?;
            let spooled = texts.values().map(|text| text.name.clone()).collect();
            match store.write(proposal, texts).await {
                Ok((receipt, adopted)) => {
                    store.settle(spooled, adopted).await;
                    Ok(receipt)
                }
                Err(error) => Err(store.unspool(spooled, error).await),
            }
        })
        .await
    }

    async fn write(&self, proposal: Proposal, texts: Texts) -> Result<(Receipt, Vec<Adopted>)> {
        match self.command(Command::Write { proposal, texts }).await? {
            Done::Write { receipt, adopted } => Ok((receipt, adopted)),
            _ => Err(Error::corrupt("answer")),
        }
    }

    /// Whether a text of the proposal belongs into a file; refuses one that is too large for that.
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

    async fn spool_bytes(&self, bytes: Bytes) -> Result<Spooled> {
        let spooled = Spooled { name: self.spool_name(), bytes: bytes.len() as u64 };
        self.inner.objects.write_spooled(&paths::spooled(&spooled.name), bytes).await?;
        Ok(spooled)
    }

    async fn sync_spool(&self) -> Result<()> {
        let spool = self.inner.spool.clone();
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(spool)?.sync_all()).await;
        Ok(synced.map_err(|_| Error::corrupt("file"))??)
    }

    /// After a commit: moves what it named to its place, removes what it did not (a repeated request's).
    async fn settle(&self, spooled: Vec<String>, adopted: Vec<Adopted>) {
        let rest = spooled.into_iter().filter(|name| adopted.iter().all(|file| &file.spooled != name)).collect();
        self.remove_spooled(rest).await;
        self.inner.components.step(Step::FileCommitted);
        // The commit stands whatever happens here: the files are read from the spool, and moved at the next sweep.
        if let Err(error) = self.finish_moves(adopted).await {
            tracing::warn!(%error, "files stay in the spool for now");
        }
    }

    /// Moves files that a commit has named to their places.
    pub(crate) async fn finish_moves(&self, adopted: Vec<Adopted>) -> Result<()> {
        if adopted.is_empty() {
            return Ok(());
        }
        // A file in its place is never older than the commit that named it, whatever the durability of commits is.
        self.inner.sync_if_os()?;
        for file in &adopted {
            self.inner.objects.move_to(&paths::spooled(&file.spooled), &file.path).await?;
        }
        self.inner.components.step(Step::FileMoved);
        let paths = adopted.into_iter().map(|file| file.path).collect();
        self.command(Command::Moved { paths }).await.map(|_| ())
    }

    /// After a refusal: removes files that no commit has named. One whose write failed may be in the log all the
    /// same, and name them; then they stay, and the next start decides.
    async fn unspool(&self, spooled: Vec<String>, error: Error) -> Error {
        if error.kind != crate::ErrorKind::Unavailable {
            self.remove_spooled(spooled).await;
        }
        error
    }

    async fn remove_spooled(&self, names: Vec<String>) {
        for name in names {
            if let Err(error) = self.inner.objects.remove(&paths::spooled(&name)).await {
                tracing::warn!(%error, "a file stays in the spool until the next start");
            }
        }
    }
}

/// Runs work to its end, also when nobody waits for it any more: half of it would leave a file in the spool.
async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|_| Error::corrupt("file"))?
}

/// A change's text, and the file that its message refers to besides.
fn text_of(change: &Change) -> Option<(&str, Option<&str>)> {
    match change {
        Change::Send(message) => Some((&message.content, message.content_ref.as_deref())),
        // Whether an edited message's file is its own text is for the commit to see.
        Change::Edit { content: Some(content), .. } => Some((content, None)),
        _ => None,
    }
}
