//! The facts of a picture: how large it is shown, and a small one of it.
//!
//! Invariant: a picture beyond the bounds here is not decoded; a thumbnail is never larger than its picture, and holds
//! nothing of the file but pixels.

use std::io::{BufRead, Cursor, Seek};

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits, codecs::jpeg::JpegEncoder,
    metadata::Orientation,
};
use kalamdb_store::Thumbnail;

/// Files beyond this are not looked into: some decoders take the whole file into memory.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;

/// The longest side that is decoded: beyond any camera's, and a file of a few bytes can claim any.
const MAX_SIDE_PIXELS: u32 = 12_000;

/// Bytes that one picture's pixels may take: 44 million in colour. A progressive JPEG takes about twice that again
/// while it is decoded.
const MAX_DECODED_BYTES: u64 = 128 << 20;

/// The longer side of a thumbnail.
const THUMBNAIL_PIXELS: u32 = 200;

/// The quality of thumbnails, in percent: at this size nobody sees a better one.
const JPEG_QUALITY: u8 = 80;

/// The facts that can be told of a picture.
pub(super) struct Picture {
    /// Width and height, as it is shown.
    pub dimensions: (u32, u32),
    /// A small one, if it could be decoded.
    pub thumbnail: Option<Thumbnail>,
}

/// The format of a type that can be decoded here.
pub(super) fn format(mime: &str) -> Option<ImageFormat> {
    ImageFormat::from_mime_type(mime).filter(ImageFormat::reading_enabled)
}

/// Looks at a picture; `None` when not even its header can be read.
pub(super) fn look(file: impl BufRead + Seek, format: ImageFormat) -> Option<Picture> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(file, format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().ok()?;
    // Cameras store pictures as the sensor lay and note how to turn them.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = decoder.dimensions();
    let dimensions = if turns(orientation) { (height, width) } else { (width, height) };
    let thumbnail = thumbnail(decoder, orientation, limits).ok();
    Some(Picture { dimensions, thumbnail })
}

/// Whether width and height change places.
fn turns(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn thumbnail(mut decoder: impl ImageDecoder, orientation: Orientation, mut limits: Limits) -> ImageResult<Thumbnail> {
    limits.max_image_width = Some(MAX_SIDE_PIXELS);
    limits.max_image_height = Some(MAX_SIDE_PIXELS);
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    let picture = DynamicImage::from_decoder(decoder)?;
    let is_small = picture.width().max(picture.height()) <= THUMBNAIL_PIXELS;
    let mut small = if is_small { picture } else { picture.thumbnail(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS) };
    small.apply_orientation(orientation);

    let pixels = small.into_rgba8();
    let mut bytes = Cursor::new(Vec::new());
    let (content_type, extension) = if pixels.pixels().any(|pixel| pixel.0[3] < u8::MAX) {
        pixels.write_to(&mut bytes, ImageFormat::Png)?;
        ("image/png", "png")
    } else {
        let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
        DynamicImage::from(pixels).into_rgb8().write_with_encoder(encoder)?;
        ("image/jpeg", "jpg")
    };
    Ok(Thumbnail {
        bytes: bytes.into_inner().into(),
        content_type: content_type.to_owned(),
        extension: extension.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn seen(bytes: &[u8], format: ImageFormat) -> Picture {
        look(Cursor::new(bytes), format).unwrap()
    }

    fn decoded(thumbnail: &Thumbnail) -> DynamicImage {
        let format = ImageFormat::from_mime_type(&thumbnail.content_type).unwrap();
        image::load_from_memory_with_format(&thumbnail.bytes, format).unwrap()
    }

    /// The left half red, the right half blue.
    fn halves(width: u32, height: u32) -> DynamicImage {
        let colour = |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) };
        RgbImage::from_fn(width, height, colour).into()
    }

    /// Which of the two a pixel is, as near as a JPEG has it.
    fn is_red(picture: &DynamicImage, x: u32, y: u32) -> bool {
        let Rgb([red, _, blue]) = *picture.to_rgb8().get_pixel(x, y);
        red > blue
    }

    #[test]
    fn a_thumbnail_has_the_picture_s_shape_and_at_most_200_pixels() {
        for (size, expected) in [
            ((800, 400), (200, 100)),
            ((300, 900), (67, 200)),
            ((200, 200), (200, 200)),
            ((40, 20), (40, 20)),
            ((2_000, 1), (200, 1)),
        ] {
            for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif] {
                let picture = seen(&encoded(&halves(size.0, size.1), format), format);
                assert_eq!(picture.dimensions, size, "{format:?}");
                let thumbnail = picture.thumbnail.unwrap();
                assert_eq!((thumbnail.content_type.as_str(), thumbnail.extension.as_str()), ("image/jpeg", "jpg"));
                let small = decoded(&thumbnail);
                assert_eq!((small.width(), small.height()), expected, "{format:?}");
                assert!(is_red(&small, 0, 0) && !is_red(&small, expected.0 - 1, 0), "{format:?}");
            }
        }
    }

    #[test]
    fn what_can_be_seen_through_stays_so() {
        let pane = RgbaImage::from_pixel(400, 400, Rgba([10, 200, 10, 128]));
        let picture = seen(&encoded(&pane.into(), ImageFormat::Png), ImageFormat::Png);
        let thumbnail = picture.thumbnail.unwrap();
        assert_eq!((thumbnail.content_type.as_str(), thumbnail.extension.as_str()), ("image/png", "png"));
        assert_eq!(decoded(&thumbnail).to_rgba8().get_pixel(100, 100), &Rgba([10, 200, 10, 128]));
    }

    /// A JPEG with a note by the camera of how to turn it.
    fn turned(picture: &DynamicImage, orientation: u8) -> Vec<u8> {
        let jpeg = encoded(picture, ImageFormat::Jpeg);
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0]);
        let size = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
        [&jpeg[..2], b"\xff\xe1", &size, &exif, &jpeg[2..]].concat()
    }

    #[test]
    fn a_picture_is_measured_and_drawn_as_it_is_shown() {
        // To be turned clockwise: what was left comes to the top.
        let picture = seen(&turned(&halves(800, 400), 6), ImageFormat::Jpeg);
        assert_eq!(picture.dimensions, (400, 800));
        let small = decoded(&picture.thumbnail.unwrap());
        assert_eq!((small.width(), small.height()), (100, 200));
        assert!(is_red(&small, 0, 0) && is_red(&small, 99, 0));
        assert!(!is_red(&small, 0, 199) && !is_red(&small, 99, 199));
        assert_eq!(seen(&turned(&halves(800, 400), 3), ImageFormat::Jpeg).dimensions, (800, 400));
    }

    #[test]
    fn a_broken_picture_has_a_size_and_no_thumbnail() {
        let whole = encoded(&halves(800, 400), ImageFormat::Png);
        let picture = seen(&whole[..whole.len() / 2], ImageFormat::Png);
        assert_eq!(picture.dimensions, (800, 400));
        assert!(picture.thumbnail.is_none());
        assert!(look(Cursor::new(&whole[..12]), ImageFormat::Png).is_none());
        assert!(look(Cursor::new(b"no picture"), ImageFormat::Jpeg).is_none());
    }

    /// A GIF says its size in four bytes, and may say anything.
    #[test]
    fn a_picture_that_claims_too_much_is_not_decoded() {
        let mut small = encoded(&halves(40, 20), ImageFormat::Gif);
        for (width, height) in [(12_001, 20), (20, 12_001), (12_000, 12_000), (65_535, 65_535)] {
            small[6..8].copy_from_slice(&u16::to_le_bytes(width));
            small[8..10].copy_from_slice(&u16::to_le_bytes(height));
            let picture = seen(&small, ImageFormat::Gif);
            assert_eq!(picture.dimensions, (width.into(), height.into()));
            assert!(picture.thumbnail.is_none(), "{width} x {height}");
        }
    }

    #[test]
    fn only_some_formats_can_be_decoded() {
        for (mime, decodes) in [
            ("image/jpeg", true),
            ("image/png", true),
            ("image/gif", true),
            ("image/webp", true),
            ("image/tiff", false),
        ] {
            assert_eq!(format(mime).is_some(), decodes, "{mime}");
        }
    }
}
