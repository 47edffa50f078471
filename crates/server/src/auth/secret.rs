//! The secret that signs tokens: the operator's, or one that the server makes once and keeps.
//!
//! Invariant: a secret that was made is on disk, readable by its owner only, before anything is signed with it;
//! it is never replaced.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::settings::{Hidden, Settings};

/// The secret in the founding document's sample: everybody knows it.
const SAMPLE_SECRET: &str = "your-secret-key";
/// Shorter secrets can be found by trying (RFC 7518 asks for as many bytes as the hash has).
const MIN_BYTES: usize = 32;
/// The server's own folder in the data folder, and the secret in it.
const STATE_FOLDER: &str = ".kalamdb";
const SECRET_FILE: &str = "secret";

/// The secret that signs tokens.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why there is no secret to use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured one would let everybody in.
    #[error(
        "`server.jwt_secret` is {0}, so that anybody could make tokens, also through a proxy that stands in front. Put \
         32 random bytes or more there (`openssl rand -base64 48` makes some), or remove the line: the server then makes \
         a secret and keeps it."
    )]
    Guessable(&'static str),
    /// The kept one is not what we write.
    #[error("The file {} holds no secret; remove it, and the server makes a new one (tokens made before stop working).", .0.display())]
    Unusable(PathBuf),
    /// The disk failed.
    #[error("The secret in {} cannot be read or written: {error}.", .path.display())]
    Disk {
        /// The file of the secret.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// Whether the configured secret, if there is one, may guard anything: a loopback address too is mostly reached from
/// elsewhere, through a proxy.
///
/// # Errors
/// [`Error::Guessable`].
pub fn check_configured(settings: &Settings) -> Result<(), Error> {
    match settings.server.jwt_secret.as_ref().map(Hidden::reveal) {
        Some(SAMPLE_SECRET) => Err(Error::Guessable("the sample from the documentation")),
        Some(short) if short.len() < MIN_BYTES => Err(Error::Guessable("shorter than 32 bytes")),
        _ => Ok(()),
    }
}

impl Secret {
    /// The secret of the server with those settings: the configured one, or the one that it keeps; none before
    /// its first start.
    ///
    /// # Errors
    /// [`Error::Unusable`] and [`Error::Disk`].
    pub fn find(settings: &Settings) -> Result<Option<Self>, Error> {
        if let Some(secret) = &settings.server.jwt_secret {
            return Ok(Some(Self(secret.reveal().to_owned())));
        }
        let path = Self::path(settings);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= MIN_BYTES => Ok(Some(Self(text.trim().to_owned()))),
            Ok(_) => Err(Error::Unusable(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::Disk { path, error }),
        }
    }

    /// Finds the secret as [`Self::find`] does; makes and keeps one when there is none.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_or_create(settings: &Settings) -> Result<Self, Error> {
        if let Some(secret) = Self::find(settings)? {
            return Ok(secret);
        }
        let path = Self::path(settings);
        create(&path).map_err(|error| Error::Disk { path: path.clone(), error })?;
        // Read it back: if another process made one at the same moment, its secret is the one that counts.
        Self::find(settings)?.ok_or(Error::Unusable(path))
    }

    /// The file in which the server keeps a secret that it made.
    pub fn path(settings: &Settings) -> PathBuf {
        settings.storage.base_storage_path.join(STATE_FOLDER).join(SECRET_FILE)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Writes a new random secret to the path, whole or not at all; leaves one that is there.
fn create(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // A temporary file of this kind can be read by its owner only.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(folder)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}
