//! Files on the object store: written whole, durable before anyone names them, gone durably.
//!
//! Invariant: what has returned from here survives a power loss; `object_store`'s local store never
//! syncs, so this does it for the file and for every folder above it.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as ObjectPath,
};
use tokio::sync::RwLock;

use crate::error::{Error, Result};

/// The object store, and how to make it durable.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    root: PathBuf,
    /// Held for writing while a folder is removed, and for reading while a file is put into one.
    folders: Arc<RwLock<()>>,
}

impl Objects {
    /// A folder of the local disk, which must exist.
    pub(crate) fn local(root: &Path) -> Result<Self> {
        let store = LocalFileSystem::new_with_prefix(root)?;
        Ok(Self { store: Arc::new(store), root: root.to_owned(), folders: Arc::default() })
    }

    /// For readers.
    pub(crate) fn reader(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Writes a file and makes it durable.
    pub(crate) async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let _folder = self.folders.read().await;
        self.store.put(&parse(path)?, bytes.into()).await?;
        let (root, file) = (self.root.clone(), self.root.join(path));
        blocking(move || sync_to_root(&root, &file)).await
    }

    /// Writes a file of the spool and makes it durable.
    pub(crate) async fn write_spooled(&self, path: &str, bytes: Bytes) -> Result<()> {
        let file = self.root.join(path);
        blocking(move || {
            let mut open = File::create_new(&file)?;
            open.write_all(&bytes)?;
            open.sync_all()?;
            sync_folder(&file)
        })
        .await
    }

    /// Moves a file, whose bytes are durable, to its place, and makes that durable too; done before, it is no error.
    pub(crate) async fn move_to(&self, from: &str, to: &str) -> Result<()> {
        let _folder = self.folders.read().await;
        let (root, from, to) = (self.root.clone(), self.root.join(from), self.root.join(to));
        blocking(move || move_file(&root, &from, &to)).await
    }

    /// The same; blocks. For the start, when nobody else is there.
    pub(crate) fn move_now(&self, from: &str, to: &str) -> Result<()> {
        Ok(move_file(&self.root, &self.root.join(from), &self.root.join(to))?)
    }

    /// Removes a file, durably; one that is not there is no error.
    pub(crate) async fn remove(&self, path: &str) -> Result<()> {
        match self.store.delete(&parse(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let file = self.root.join(path);
        blocking(move || match sync_folder(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        })
        .await
    }

    /// Removes the folder that a file was in, and those above it, as far as nothing is left in them.
    pub(crate) async fn remove_empty_folders(&self, path: &str) -> Result<()> {
        // Nobody writes a file meanwhile, who would find the folder of it gone.
        let _folders = self.folders.write().await;
        let (root, file) = (self.root.clone(), self.root.join(path));
        blocking(move || {
            for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(&root) && *folder != root) {
                match std::fs::remove_dir(folder) {
                    Ok(()) => sync_folder(folder)?,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .await
    }

    /// Opens a part of a file; `None` when there is no such file. What comes is whole, whatever becomes of the file.
    pub(crate) async fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, object_store::Result<Bytes>>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.store.get_opts(&parse(path)?, options).await {
            Ok(result) => Ok(Some(result.into_stream())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A whole file.
    pub(crate) async fn read_all(&self, path: &str) -> Result<Bytes> {
        Ok(self.store.get(&parse(path)?).await?.bytes().await?)
    }
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::corrupt("file"))?.map_err(Error::from)
}

fn move_file(root: &Path, from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound && to.exists() => {}
        done => done?,
    }
    sync_to_root(root, to)
}

/// Makes a file's entry in its folder durable, or that it has none any more.
fn sync_folder(file: &Path) -> std::io::Result<()> {
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Our paths are percent-encoded already: parsing keeps them as they are, where `from` would encode them again.
fn parse(path: &str) -> Result<ObjectPath> {
    ObjectPath::parse(path).map_err(|_| Error::corrupt("path"))
}

/// Syncs a file and each folder from its own up to the root: a file in a new folder is lost with the folder.
fn sync_to_root(root: &Path, file: &Path) -> std::io::Result<()> {
    File::open(file)?.sync_all()?;
    for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(root)) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
