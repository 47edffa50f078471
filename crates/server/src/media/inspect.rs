//! Looks into files that have arrived: pictures for their size and a small one, sounds and videos for their length.
//!
//! Invariant: whatever a file makes a decoder do (fail, panic, go on and on), the upload goes on without what could not
//! be told, and no other upload notices.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use image::ImageFormat;
use kalamdb_store::Thumbnail;
use lofty::{
    config::ParseOptions,
    file::{AudioFile as _, FileType},
    probe::Probe,
};
use tokio::sync::Semaphore;

use super::{Upload, picture};

/// Files looked into at the same time: each may take the memory of a decoded picture, and a core.
const MAX_AT_ONCE: usize = 2;

/// The time that an upload waits for what can be told of it. Most files take milliseconds; the rest is for those before
/// it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The facts that could be told of a file.
#[derive(Debug, Default)]
pub struct Facts {
    /// A picture's width and height.
    pub dimensions: Option<(u32, u32)>,
    /// A small one of it.
    pub thumbnail: Option<Thumbnail>,
    /// The playing time of a sound or video.
    pub duration: Option<Duration>,
}

/// Looks into files, a few at a time.
#[derive(Debug)]
pub struct Inspector {
    places: Arc<Semaphore>,
}

/// The way to look into a file.
#[derive(Debug, Clone, Copy)]
enum Way {
    Picture(ImageFormat),
    Sound(FileType),
    /// A container for several codecs, which the file names.
    Ogg,
}

impl Inspector {
    /// An inspector that is looking into nothing.
    pub fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_AT_ONCE)) }
    }

    /// Tells what it can of a file.
    pub async fn inspect(&self, upload: &Upload) -> Facts {
        let Some(way) = way(upload) else { return Facts::default() };
        let path = upload.path.to_path_buf();
        let until = Instant::now() + PATIENCE;
        let looking = async {
            let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
            let look = move || {
                let facts = look(&path, way, until);
                drop(place);
                facts
            };
            // Decoders are many lines for files that anybody may craft: one that panics has been logged, and its file
            // is stored like any other that it cannot read.
            tokio::task::spawn_blocking(look).await.ok()?.ok()
        };
        tokio::time::timeout_at(until.into(), looking).await.ok().flatten().unwrap_or_default()
    }
}

fn way(upload: &Upload) -> Option<Way> {
    let mime = upload.media_type.mime;
    Some(match mime {
        "audio/mpeg" => Way::Sound(FileType::Mpeg),
        "audio/mp4" | "video/mp4" | "video/quicktime" => Way::Sound(FileType::Mp4),
        "audio/flac" => Way::Sound(FileType::Flac),
        "audio/wav" => Way::Sound(FileType::Wav),
        "audio/aiff" => Way::Sound(FileType::Aiff),
        "audio/aac" => Way::Sound(FileType::Aac),
        "audio/ogg" => Way::Ogg,
        _ if upload.bytes <= picture::MAX_FILE_BYTES => Way::Picture(picture::format(mime)?),
        _ => return None,
    })
}

fn look(path: &Path, way: Way, until: Instant) -> io::Result<Facts> {
    let file = BufReader::new(Until { file: File::open(path)?, until });
    Ok(match way {
        Way::Picture(format) => match picture::look(file, format) {
            Some(picture) => {
                Facts { dimensions: Some(picture.dimensions), thumbnail: picture.thumbnail, duration: None }
            }
            None => Facts::default(),
        },
        Way::Sound(file_type) => {
            Facts { duration: duration(Probe::with_file_type(file, file_type)), ..Facts::default() }
        }
        Way::Ogg => Facts { duration: duration(Probe::new(file).guess_file_type()?), ..Facts::default() },
    })
}

fn duration(probe: Probe<impl Read + Seek>) -> Option<Duration> {
    let options = ParseOptions::new().read_tags(false).read_cover_art(false);
    let duration = probe.options(options).read().ok()?.properties().duration();
    Some(duration).filter(|duration| !duration.is_zero())
}

/// A file that can be read for a while: what makes a parser that is led round in circles come to an end.
struct Until {
    file: File,
    until: Instant,
}

impl Until {
    fn in_time(&self) -> io::Result<()> {
        if Instant::now() < self.until { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.in_time()?;
        self.file.read(buffer)
    }
}

impl Seek for Until {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.in_time()?;
        self.file.seek(position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use image::{DynamicImage, RgbImage};

    use super::{
        super::{Intake, Limits, sniff},
        *,
    };

    /// The facts of a file with these bytes.
    async fn told(bytes: &[u8]) -> Facts {
        let spool = tempfile::tempdir().unwrap();
        let most = 100 << 20;
        let limits = Limits { image: most, audio: most, video: most, document: most };
        let mut intake = Intake::open(spool.path(), limits).await.unwrap();
        intake.take(bytes).await.unwrap();
        Inspector::new().inspect(&intake.finish().await.unwrap()).await
    }

    /// A sound of 8,000 samples a second, a byte each.
    fn wav(seconds: u32) -> Vec<u8> {
        let size = 8_000 * seconds;
        let mut bytes = b"RIFF".to_vec();
        bytes.extend_from_slice(&(36 + size).to_le_bytes());
        bytes.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data");
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.resize(44 + size as usize, 0x80);
        bytes
    }

    #[tokio::test]
    async fn a_sound_says_how_long_it_plays() {
        let facts = told(&wav(3)).await;
        assert_eq!(facts.duration, Some(Duration::from_secs(3)));
        assert!(facts.dimensions.is_none() && facts.thumbnail.is_none());
    }

    #[tokio::test]
    async fn a_picture_says_how_large_it_is() {
        let mut png = Cursor::new(Vec::new());
        DynamicImage::from(RgbImage::new(30, 20)).write_to(&mut png, ImageFormat::Png).unwrap();
        let facts = told(png.get_ref()).await;
        assert_eq!(facts.dimensions, Some((30, 20)));
        assert!(facts.thumbnail.is_some() && facts.duration.is_none());
    }

    #[tokio::test]
    async fn of_a_file_that_is_not_what_it_begins_like_nothing_is_told() {
        for head in
            [&b"\xff\xd8\xff\xe0\x00\x10JFIF"[..], b"\x89PNG\r\n\x1a\n", b"OggS\0", b"ID3\x04\0\0\x7f\x7f\x7f\x7f"]
        {
            let mut bytes = head.to_vec();
            bytes.resize(5_000, 0xaa);
            let facts = told(&bytes).await;
            assert!(facts.dimensions.is_none() && facts.thumbnail.is_none() && facts.duration.is_none(), "{head:?}");
        }
        assert!(told(b"a text").await.duration.is_none());
    }

    /// The facts of a file with these bytes, told by an inspector that has looked at others before, whatever it begins
    /// like.
    async fn told_as(inspector: &Inspector, signature: &[u8], bytes: &[u8]) -> Facts {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let media_type = sniff::sniff(signature).unwrap();
        let upload = Upload { path: file.into_temp_path(), media_type, bytes: bytes.len() as u64 };
        inspector.inspect(&upload).await
    }

    /// Each beginning of a sound, and the sound with each byte of its header broken, taken for each type: none of that
    /// keeps the next file from being looked into.
    #[tokio::test]
    async fn nothing_that_is_crafted_does_harm() {
        let signatures: [&[u8]; 7] = [
            b"RIFF\0\0\0\0WAVE",
            b"ID3\x04\0\0",
            b"\0\0\0\x20ftypM4A ",
            b"fLaC\0",
            b"\xff\xf1\x50",
            b"FORM\0\0\0\0AIFF",
            b"\xff\xd8\xff\xe0",
        ];
        let inspector = Inspector::new();
        let sound = &wav(1)[..200];
        for signature in signatures {
            for at in 0..50 {
                let mut broken = sound.to_vec();
                broken[at] = !broken[at];
                told_as(&inspector, signature, &broken).await;
                told_as(&inspector, signature, &sound[..at]).await;
            }
        }
        let facts = told_as(&inspector, b"RIFF\0\0\0\0WAVE", &wav(2)).await;
        assert_eq!(facts.duration, Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_file_that_takes_too_long_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, wav(1)).unwrap();
        assert!(look(&path, Way::Sound(FileType::Wav), Instant::now()).unwrap().duration.is_none());
        assert!(look(&path, Way::Ogg, Instant::now()).is_err());
    }
}
