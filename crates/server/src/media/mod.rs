//! The files that people may upload: which types, how large, and what can be told from a file.
//!
//! An upload arrives through an [`Intake`], which types it by its first bytes, holds it to the limit of its kind and
//! puts it into a file of the spool; an [`Inspector`] then looks into that file.
//!
//! Invariant: neither the name that a client gives a file nor the type that it claims is ever looked at; no file is in
//! memory whole, but for pictures within bounds; whatever a file holds, looking into it harms nothing but what can be
//! told of that file.

mod inspect;
mod intake;
mod picture;
mod sniff;

use std::io;

pub use inspect::{Facts, Inspector};
pub use intake::{Intake, Upload};

/// The kinds of files, as people see them: each has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A picture.
    Image,
    /// A sound.
    Audio,
    /// A video.
    Video,
    /// Anything else that is taken: texts, PDF, Office files, archives.
    Document,
}

/// The largest file of each kind, in bytes; 0 takes none.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `media.max_image_size_bytes`.
    pub image: u64,
    /// `media.max_audio_size_bytes`.
    pub audio: u64,
    /// `media.max_video_size_bytes`.
    pub video: u64,
    /// `media.max_document_size_bytes`.
    pub document: u64,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The file has no bytes.
    #[error("The file is empty; send one that holds something.")]
    Empty,
    /// The file is something that a machine would run.
    #[error("Programs and scripts are not taken; send a picture, a sound, a video or a document.")]
    Executable,
    /// The file's first bytes are of no type in the table.
    #[error(
        "The file's first bytes are of no type that is taken: common pictures, sounds and videos, PDF, Office files, \
         archives, and text in UTF-8 are."
    )]
    Unknown,
    /// The operator wants no files of this kind.
    #[error("This server takes no {} (`{}` is 0).", .0.plural(), .0.setting())]
    Unwanted(Kind),
    /// The file is larger than its kind may be.
    #[error("Of {} this server takes at most {max_bytes} bytes each (`{}`).", .kind.plural(), .kind.setting())]
    TooLarge {
        /// The file's kind.
        kind: Kind,
        /// The limit of its kind.
        max_bytes: u64,
    },
    /// The spool cannot be written.
    #[error("The upload cannot be written to disk; try again later.")]
    Disk(#[from] io::Error),
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::Image => "pictures",
            Self::Audio => "sounds",
            Self::Video => "videos",
            Self::Document => "documents",
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::Image => "media.max_image_size_bytes",
            Self::Audio => "media.max_audio_size_bytes",
            Self::Video => "media.max_video_size_bytes",
            Self::Document => "media.max_document_size_bytes",
        }
    }
}

impl Limits {
    /// The bytes that no file may exceed, whatever it is.
    pub fn largest(&self) -> u64 {
        self.image.max(self.audio).max(self.video).max(self.document)
    }

    /// Whether a file of that kind may have that many bytes.
    fn check(&self, kind: Kind, bytes: u64) -> Result<(), Refusal> {
        let max_bytes = match kind {
            Kind::Image => self.image,
            Kind::Audio => self.audio,
            Kind::Video => self.video,
            Kind::Document => self.document,
        };
        match max_bytes {
            0 => Err(Refusal::Unwanted(kind)),
            _ if bytes > max_bytes => Err(Refusal::TooLarge { kind, max_bytes }),
            _ => Ok(()),
        }
    }
}
