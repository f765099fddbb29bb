//! Compressed images: JPEG and PNG, from a message or a file.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, ImageReader, Limits};

use super::{ImageError, MAX_SIDE, RgbImage};
use crate::text::unwrapped;

/// Largest compressed image that is accepted, bytes.
pub const MAX_COMPRESSED_BYTES: usize = 64 << 20;

/// Decodes a JPEG or PNG, recognised by its first bytes; alpha is dropped and palettes are
/// resolved, as Pillow's `convert("RGB")` does.
///
/// # Errors
/// When it is neither, too large, or broken.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    if bytes.len() > MAX_COMPRESSED_BYTES {
        return Err(ImageError::TooLarge(bytes.len()));
    }
    let (format, name) = match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => (ImageFormat::Jpeg, "JPEG"),
        Ok(ImageFormat::Png) => (ImageFormat::Png, "PNG"),
        _ => return Err(ImageError::Format(bytes.len())),
    };
    if format == ImageFormat::Jpeg && !ends_as_jpeg(bytes) {
        let reason = "its end marker is missing: it was cut off".into();
        return Err(ImageError::Compressed { format: name, bytes: bytes.len(), reason });
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    reader.limits(limits);
    let decoded = reader.decode().map_err(|error| {
        let reason = unwrapped(&error.to_string());
        ImageError::Compressed { format: name, bytes: bytes.len(), reason }
    })?;
    let rgb = decoded.into_rgb8();
    RgbImage::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw())
}

/// Whether a JPEG ends with its end marker (after which some cameras pad with zeros). The decoder
/// fills the rest of a truncated JPEG with grey and reports no error; half an image is no
/// observation.
fn ends_as_jpeg(bytes: &[u8]) -> bool {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes[..end].ends_with(&[0xff, 0xd9])
}

/// Reads and decodes an image file.
///
/// # Errors
/// When it cannot be read, or as [`decode`].
pub fn open(path: &Path) -> Result<RgbImage, ImageError> {
    let failed = |reason: String| ImageError::File { path: path.display().to_string(), reason };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_COMPRESSED_BYTES as u64 {
        return Err(failed(format!("{size} bytes; at most {MAX_COMPRESSED_BYTES} are accepted")));
    }
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    decode(&bytes).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn jpeg() -> Vec<u8> {
        let pixels: Vec<u8> = (0..32 * 24 * 3).map(|i| (i % 251) as u8).collect();
        let mut bytes = Cursor::new(Vec::new());
        image::RgbImage::from_raw(32, 24, pixels)
            .unwrap()
            .write_to(&mut bytes, ImageFormat::Jpeg)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn truncated_large_jpegs_are_refused() {
        let pixels: Vec<u8> =
            (0..640 * 480 * 3_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut bytes = Cursor::new(Vec::new());
        image::RgbImage::from_raw(640, 480, pixels)
            .unwrap()
            .write_to(&mut bytes, ImageFormat::Jpeg)
            .unwrap();
        let bytes = bytes.into_inner();
        for keep in [700, 2000, bytes.len() / 2, bytes.len() - 3, bytes.len() - 1] {
            assert!(
                matches!(decode(&bytes[..keep]), Err(ImageError::Compressed { .. })),
                "{keep} of {}",
                bytes.len()
            );
        }
        let padded = [bytes.as_slice(), &[0; 100]].concat();
        assert!(decode(&padded).is_ok());
    }

    #[test]
    fn jpegs_decode_and_truncated_ones_are_errors() {
        let bytes = jpeg();
        assert_eq!((decode(&bytes).unwrap().width(), decode(&bytes).unwrap().height()), (32, 24));
        for keep in [2, 20, 200, bytes.len() / 2] {
            let error = decode(&bytes[..keep]).unwrap_err().to_string();
            assert!(error.contains(&keep.to_string()) && !error.contains('\n'), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damaged_images_do_not_panic(
            damage in proptest::collection::vec((proptest::prelude::any::<u16>(), 0u8..), 1..20),
            keep in 0.1f64..1.0,
            png: bool,
            noise in proptest::collection::vec(0u8.., 0..200),
        ) {
            let mut bytes = jpeg();
            if png {
                let image = image::load_from_memory(&bytes).unwrap();
                let mut out = Cursor::new(Vec::new());
                image.write_to(&mut out, ImageFormat::Png).unwrap();
                bytes = out.into_inner();
            }
            for (place, value) in damage {
                let place = usize::from(place) % bytes.len();
                bytes[place] = value;
            }
            let _ = decode(&bytes);
            let _ = decode(&bytes[..(bytes.len() as f64 * keep) as usize]);
            // Behind the first bytes of each format, anything.
            let _ = decode(&[&bytes[..bytes.len().min(30)], &noise].concat());
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(decode(b"GIF89a..."), Err(ImageError::Format(9)));
        assert_eq!(decode(&[]), Err(ImageError::Format(0)));
        assert!(
            open(Path::new("/no/such.png")).unwrap_err().to_string().starts_with("/no/such.png: ")
        );
    }
}
