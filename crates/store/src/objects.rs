//! Files on the object store: written whole, durable before anyone names them.
//!
//! Invariant: a path handed back by [`Objects::write`] survives a power loss; `object_store`'s local store never
//! syncs, so this does it for the file and for every folder above it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as ObjectPath};

use crate::error::{Error, Result};

/// The object store, and how to make it durable.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    root: PathBuf,
}

impl Objects {
    /// A folder of the local disk, which must exist.
    pub(crate) fn local(root: &Path) -> Result<Self> {
        let store = LocalFileSystem::new_with_prefix(root)?;
        Ok(Self { store: Arc::new(store), root: root.to_owned() })
    }

    /// For readers.
    pub(crate) fn reader(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Writes a file and makes it durable.
    pub(crate) async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.store.put(&parse(path)?, bytes.into()).await?;
        let (root, file) = (self.root.clone(), self.root.join(path));
        tokio::task::spawn_blocking(move || sync_to_root(&root, &file))
            .await
            .map_err(|_| Error::corrupt("file"))?
            .map_err(Error::from)
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) async fn remove(&self, path: &str) -> Result<()> {
        match self.store.delete(&parse(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
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
