//! An upload while it arrives: into a file of the spool, no further than it may go.
//!
//! Invariant: the file is removed with the value, whatever ends it; not a byte beyond the limit of its kind is written.

use std::{io, path::Path};

use tempfile::{Builder, TempPath};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{
    Limits, Refusal,
    sniff::{self, MediaType},
};

/// A file that is arriving.
pub struct Intake {
    limits: Limits,
    file: File,
    path: TempPath,
    bytes: u64,
    progress: Progress,
}

/// The progress of typing a file.
enum Progress {
    /// The first bytes, fewer than it takes to tell.
    Untyped(Vec<u8>),
    Typed(&'static MediaType),
}

/// A file that has arrived whole.
#[derive(Debug)]
pub struct Upload {
    /// The file's path; the file is removed with this value.
    pub path: TempPath,
    /// The file's type.
    pub media_type: &'static MediaType,
    /// The file's size.
    pub bytes: u64,
}

impl Intake {
    /// Makes a file in the spool, with a name that the store leaves alone.
    pub async fn open(spool: &Path, limits: Limits) -> Result<Self, Refusal> {
        let spool = spool.to_owned();
        let made = tokio::task::spawn_blocking(move || Builder::new().prefix(".upload-").tempfile_in(spool)).await;
        let (file, path) = made.map_err(io::Error::other)??.into_parts();
        let progress = Progress::Untyped(Vec::new());
        Ok(Self { limits, file: File::from_std(file), path, bytes: 0, progress })
    }

    /// Takes what comes next.
    pub async fn take(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        self.bytes += chunk.len() as u64;
        if let Progress::Untyped(head) = &mut self.progress {
            let missing = sniff::HEAD_BYTES.saturating_sub(head.len());
            head.extend_from_slice(&chunk[..missing.min(chunk.len())]);
            if head.len() == sniff::HEAD_BYTES {
                self.progress = Progress::Typed(sniff::sniff(head)?);
            }
        }
        if let Progress::Typed(media_type) = self.progress {
            self.limits.check(media_type.kind, self.bytes)?;
        }
        Ok(self.file.write_all(chunk).await?)
    }

    /// Ends the intake of a file that is complete.
    pub async fn finish(mut self) -> Result<Upload, Refusal> {
        let media_type = match self.progress {
            Progress::Untyped(head) if head.is_empty() => return Err(Refusal::Empty),
            Progress::Untyped(head) => sniff::sniff(&head)?,
            Progress::Typed(media_type) => media_type,
        };
        self.limits.check(media_type.kind, self.bytes)?;
        // The last bytes may still be on their way to the file.
        self.file.flush().await?;
        Ok(Upload { path: self.path, media_type, bytes: self.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Kind, *};

    const LIMITS: Limits = Limits { image: 100, audio: 0, video: 100, document: 20_000 };

    async fn arrives(spool: &Path, chunks: &[&[u8]]) -> Result<Upload, Refusal> {
        let mut intake = Intake::open(spool, LIMITS).await?;
        for chunk in chunks {
            intake.take(chunk).await?;
        }
        intake.finish().await
    }

    fn files(spool: &Path) -> usize {
        std::fs::read_dir(spool).unwrap().count()
    }

    #[tokio::test]
    async fn a_file_arrives_in_any_pieces_and_goes_with_its_value() {
        let spool = tempfile::tempdir().unwrap();
        let text = "a line of text\n".repeat(1_000);
        for size in [1, 7, 8_191, 8_192, 8_193, 15_000] {
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let upload = arrives(spool.path(), &chunks).await.unwrap();
            assert_eq!((upload.media_type.mime, upload.bytes), ("text/plain", 15_000), "{size}");
            assert_eq!(std::fs::read_to_string(&upload.path).unwrap(), text, "{size}");
            drop(upload);
            assert_eq!(files(spool.path()), 0);
        }
    }

    #[tokio::test]
    async fn nothing_that_is_refused_stays() {
        let spool = tempfile::tempdir().unwrap();
        let long = vec![b'x'; 20_001];
        let refused = arrives(spool.path(), &[&long[..10_000], &long[10_000..]]).await.unwrap_err();
        assert!(matches!(refused, Refusal::TooLarge { kind: Kind::Document, max_bytes: 20_000 }), "{refused}");
        assert_eq!(
            refused.to_string(),
            "Of documents this server takes at most 20000 bytes each (`media.max_document_size_bytes`)."
        );
        // Shorter than what is looked at, and still over its limit.
        let mut picture = b"\x89PNG\r\n\x1a\n".to_vec();
        picture.resize(101, 0);
        assert!(matches!(
            arrives(spool.path(), &[&picture]).await,
            Err(Refusal::TooLarge { kind: Kind::Image, max_bytes: 100 })
        ));
        let refused = arrives(spool.path(), &[b"ID3\x04\x00\x00\x00\x00\x00\x00"]).await.unwrap_err();
        assert_eq!(refused.to_string(), "This server takes no sounds (`media.max_audio_size_bytes` is 0).");
        assert!(matches!(arrives(spool.path(), &[]).await, Err(Refusal::Empty)));
        assert!(matches!(arrives(spool.path(), &[b"#!/bin/sh\n"]).await, Err(Refusal::Executable)));
        assert_eq!(files(spool.path()), 0);
    }

    #[tokio::test]
    async fn a_file_that_stops_arriving_stays_no_longer() {
        let spool = tempfile::tempdir().unwrap();
        let mut intake = Intake::open(spool.path(), LIMITS).await.unwrap();
        intake.take(b"half of").await.unwrap();
        assert_eq!(files(spool.path()), 1);
        drop(intake);
        assert_eq!(files(spool.path()), 0);
    }
}
