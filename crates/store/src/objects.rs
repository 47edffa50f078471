//! Files on the object store: written whole, durable before anyone names them, gone durably.
//!
//! Invariant: what has returned from here survives a power loss; `object_store`'s local store never
//! syncs, so this does it for the file and for every folder above it. At its place a file is whole or not there.

use std::{
    fs::File,
    io::{self, ErrorKind, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as ObjectPath,
};
use tokio::sync::RwLock;

use crate::{
    error::{Error, Result, io_cause},
    threads::blocking,
};

/// Makes a folder, and those above it; one that is there is no error.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("make the data folder", &error))
}

/// The object store, and how to make it durable.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    root: PathBuf,
    /// Held for writing while a folder is removed, and for reading while a file is put into one.
    folders: Arc<RwLock<()>>,
}

/// The outcome of a move that the system did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// The file is in its place, moved now or before.
    Done,
    /// The file is neither here nor there: somebody else removed it.
    Lost,
}

impl Objects {
    /// A folder of the local disk, which must exist.
    pub(crate) fn local(root: &Path) -> Result<Self> {
        let store =
            LocalFileSystem::new_with_prefix(root).map_err(|error| Error::objects("open the data folder", &error))?;
        Ok(Self { store: Arc::new(store), root: root.to_owned(), folders: Arc::default() })
    }

    /// The object store for readers.
    pub(crate) fn reader(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Writes a file of the spool and makes it durable; one that could not be written whole is not left there.
    pub(crate) async fn write_spooled(&self, path: &str, bytes: Bytes) -> Result<()> {
        let file = self.root.join(path);
        blocking(move || write_new(&file, &bytes).map_err(|error| Error::io("write a file of the spool", &error))).await
    }

    /// Makes a file of a caller's durable, and links it into the spool; its size.
    pub(crate) async fn link_spooled(&self, source: &Path, path: &str) -> Result<u64> {
        let (source, file) = (source.to_owned(), self.root.join(path));
        blocking(move || {
            let link = || -> io::Result<u64> {
                let open = File::open(&source)?;
                open.sync_all()?;
                // A link, so that a caller whose upload is refused still has its file to remove.
                std::fs::hard_link(&source, &file)?;
                Ok(open.metadata()?.len())
            };
            link().map_err(|error| Error::io("take an upload into the spool", &error))
        })
        .await
    }

    /// Makes what was put into a folder durable.
    pub(crate) async fn sync(&self, folder: &str) -> Result<()> {
        let folder = self.root.join(folder);
        blocking(move || {
            File::open(&folder).and_then(|open| open.sync_all()).map_err(|error| Error::io("sync a folder", &error))
        })
        .await
    }

    /// Removes the files of a folder, made if it is not there, but for those of these names; blocks. What cannot be
    /// removed, like a folder that somebody put there, stays: it is in nobody's way.
    pub(crate) fn empty_now(&self, folder: &str, keep: &[String]) -> Result<()> {
        let folder = self.root.join(folder);
        let list = || -> io::Result<Vec<_>> {
            std::fs::create_dir_all(&folder)?;
            std::fs::read_dir(&folder)?.collect()
        };
        for entry in list().map_err(|error| Error::io("list the spool", &error))? {
            if keep.iter().any(|name| entry.file_name() == name.as_str()) {
                continue;
            }
            if let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(%error, "something in the spool cannot be removed, and stays there");
            }
        }
        Ok(())
    }

    /// Moves a file, whose bytes are durable, to its place, and makes that durable too.
    pub(crate) async fn move_to(&self, from: &str, to: &str) -> Result<Move> {
        let _folder = self.folders.read().await;
        let (root, from, to) = (self.root.clone(), self.root.join(from), self.root.join(to));
        blocking(move || move_file(&root, &from, &to)).await
    }

    /// Moves a file as [`Self::move_to`] does, and blocks: for the start, when nobody else is there.
    pub(crate) fn move_now(&self, from: &str, to: &str) -> Result<Move> {
        move_file(&self.root, &self.root.join(from), &self.root.join(to))
    }

    /// Removes a file, durably; one that is not there is no error.
    pub(crate) async fn remove(&self, path: &str) -> Result<()> {
        match self.store.delete(&parse(path)?).await {
            Err(error) if !is_absent(io_cause(&error)) => return Err(Error::objects("remove a file", &error)),
            _ => {}
        }
        let file = self.root.join(path);
        blocking(move || if_there(sync_folder(&file)).map_err(|error| Error::io("sync a folder", &error))).await
    }

    /// Removes a file that was perhaps being written when the process ended, with the attempts to write it that lie
    /// beside its place; blocks.
    pub(crate) fn remove_now(&self, path: &str) -> Result<()> {
        let file = self.root.join(path);
        let remove = || -> io::Result<()> {
            for staged in staged_files(&file)? {
                if_there(std::fs::remove_file(staged))?;
            }
            if_there(std::fs::remove_file(&file))?;
            if_there(sync_folder(&file))
        };
        remove().map_err(|error| Error::io("remove a file that no commit had adopted", &error))
    }

    /// Removes the folder that a file was in, and those above it, as far as nothing is left in them.
    pub(crate) async fn remove_empty_folders(&self, path: &str) -> Result<()> {
        // Nobody may write a file meanwhile, whose folder would be gone under it.
        let _folders = self.folders.write().await;
        let (root, file) = (self.root.clone(), self.root.join(path));
        blocking(move || {
            remove_empty_folders(&root, &file).map_err(|error| Error::io("remove an empty folder", &error))
        })
        .await
    }

    /// Opens a part of a file; `None` when there is no such file. What comes is whole, whatever becomes of the file.
    pub(crate) async fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes>>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.store.get_opts(&parse(path)?, options).await {
            Ok(result) => Ok(Some(result.into_stream().map_err(|error| read_failed(&error)).boxed())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(read_failed(&error)),
        }
    }

    /// A whole file.
    pub(crate) async fn read_all(&self, path: &str) -> Result<Bytes> {
        let path = parse(path)?;
        let read = async { self.store.get(&path).await?.bytes().await };
        read.await.map_err(|error| read_failed(&error))
    }
}

fn read_failed(error: &object_store::Error) -> Error {
    Error::objects("read a file", error)
}

fn write_new(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut open = File::create_new(file)?;
    let written = open.write_all(bytes).and_then(|()| open.sync_all()).and_then(|()| sync_folder(file));
    if written.is_err() {
        // A file that cannot be removed goes at the next start, with the rest of the spool.
        drop(std::fs::remove_file(file));
    }
    written
}

fn move_file(root: &Path, from: &Path, to: &Path) -> Result<Move> {
    let folder = to.parent().ok_or_else(|| Error::fault("a file's place has no folder"))?;
    std::fs::create_dir_all(folder).map_err(|error| Error::io("create a folder", &error))?;
    let moved = match std::fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => match to.try_exists() {
            Ok(false) => return Ok(Move::Lost),
            there => there.map(|_| ()),
        },
        // The server's own state may lie on another disk than the messages.
        Err(error) if error.kind() == ErrorKind::CrossesDevices => copy_across(from, to),
        moved => moved,
    };
    moved.map_err(|error| Error::io("move a file to its place", &error))?;
    sync_to_root(root, to).map_err(|error| Error::io("sync a file and its folders", &error))?;
    Ok(Move::Done)
}

/// Moves a file to another disk: it is complete beside its place before it takes it, and durable there before it goes
/// from where it was.
fn copy_across(from: &Path, to: &Path) -> io::Result<()> {
    let staged = staged(to);
    let copied = std::fs::copy(from, &staged)
        .and_then(|_| File::open(&staged)?.sync_all())
        .and_then(|()| std::fs::rename(&staged, to))
        .and_then(|()| sync_folder(to));
    if copied.is_err() {
        // A staged file that cannot be removed is written over by the next attempt.
        drop(std::fs::remove_file(&staged));
    }
    copied.and_then(|()| std::fs::remove_file(from))
}

/// The name under which a file is written that cannot be moved at once: `batch-20251013-001.parquet#1`. No file of ours
/// has a `#` in its name, and `object_store` stages files under such names too.
fn staged(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("#1");
    PathBuf::from(name)
}

/// The attempts to write a file that lie beside its place.
fn staged_files(file: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return Ok(Vec::new()) };
    let mut prefix = name.to_owned();
    prefix.push("#");
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_absent(Some(&error)) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut staged = Vec::new();
    for entry in entries {
        let entry = entry?;
        let named = entry.file_name();
        if named.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            staged.push(entry.path());
        }
    }
    Ok(staged)
}

fn remove_empty_folders(root: &Path, file: &Path) -> io::Result<()> {
    for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(root) && *folder != root) {
        match std::fs::remove_dir(folder) {
            Ok(()) => sync_folder(folder)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A result for which it is no failure that there was nothing to remove.
fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if is_absent(Some(&error)) => Ok(()),
        done => done,
    }
}

/// Whether the system failed because there is no such file, or no folder where it would be.
fn is_absent(error: Option<&io::Error>) -> bool {
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

/// Makes a file's entry in its folder durable, or that it has none any more.
fn sync_folder(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// A path of ours as the object store has it. Ours are percent-encoded already: parsing keeps them as they are, where
/// `from` would encode them again.
pub(crate) fn parse(path: &str) -> Result<ObjectPath> {
    ObjectPath::parse(path).map_err(|_| Error::fault("a path of ours is not one of an object store"))
}

/// Syncs a file and each folder from its own up to the root: a file in a new folder is lost with the folder.
fn sync_to_root(root: &Path, file: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()?;
    for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(root)) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_moves_once_and_one_that_is_gone_is_lost() {
        let root = tempfile::tempdir().unwrap();
        let objects = Objects::local(root.path()).unwrap();
        std::fs::write(root.path().join("s"), "text").unwrap();
        assert_eq!(objects.move_now("s", "a/b").unwrap(), Move::Done);
        assert_eq!(objects.move_now("s", "a/b").unwrap(), Move::Done, "it was moved before");
        assert_eq!(std::fs::read(root.path().join("a/b")).unwrap(), b"text");
        assert_eq!(objects.move_now("s", "a/c").unwrap(), Move::Lost);
    }

    #[test]
    fn a_copy_to_another_disk_is_whole_or_not_there() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("s"), root.path().join("d"));
        std::fs::write(&from, "text").unwrap();
        // What an interrupted attempt left is written over.
        std::fs::write(staged(&to), "half of an older").unwrap();
        copy_across(&from, &to).unwrap();
        assert_eq!(names(root.path()), ["d"]);
        assert_eq!(std::fs::read(&to).unwrap(), b"text");
        assert!(copy_across(&from, &root.path().join("e")).is_err());
        assert_eq!(names(root.path()), ["d"]);
    }

    #[test]
    fn what_an_interrupted_write_left_goes_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for name in ["x.parquet", "x.parquet#1", "x.parquet#23", "y.parquet", "y.parquet#1"] {
            std::fs::write(root.path().join(name), "text").unwrap();
        }
        let objects = Objects::local(root.path()).unwrap();
        objects.remove_now("x.parquet").unwrap();
        assert_eq!(names(root.path()), ["y.parquet", "y.parquet#1"]);
        objects.remove_now("x.parquet").unwrap();
        objects.remove_now("nobody/x.parquet").unwrap();
    }
}
