//! Compressed images: JPEG and PNG, from a message or a file.

use std::io::{BufRead, Cursor, Read, Seek};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, ImageReader, Limits};

use super::jpeg_file::{self, Problem};
use super::{ImageError, MAX_SIDE, Place, RgbImage, format_field, found, png_file};
use crate::text::unwrapped;

/// Largest compressed image that is accepted, bytes.
pub const MAX_COMPRESSED_BYTES: usize = 64 << 20;

/// Decodes a JPEG or PNG, recognised by its first bytes; alpha is dropped and palettes are
/// resolved, as Pillow's `convert("RGB")` does. What follows the end of a JPEG is ignored.
///
/// # Errors
/// When it is neither, too large, incomplete, broken, or depth.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    decode_message(bytes, "")
}

/// [`decode`] for the data of a message with this field `format`.
pub(super) fn decode_message(bytes: &[u8], format: &str) -> Result<RgbImage, ImageError> {
    format_field::check(format)?;
    if bytes.len() > MAX_COMPRESSED_BYTES {
        return Err(ImageError::TooLarge(bytes.len()));
    }
    let decoded = match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => jpeg(bytes)?,
        Ok(ImageFormat::Png) => {
            if let Some(reason) = png_file::palette_problem(bytes) {
                return Err(ImageError::Compressed { format: "PNG", bytes: bytes.len(), reason });
            }
            read(Cursor::new(bytes), bytes.len(), ImageFormat::Png)?
        }
        _ if found::is_depth_header(bytes) => {
            return Err(ImageError::Depth("it is of compressed_depth_image_transport".to_owned()));
        }
        _ => return Err(ImageError::Format { bytes: bytes.len(), found: found::found(bytes) }),
    };
    match &decoded {
        DynamicImage::ImageLuma16(_) | DynamicImage::ImageLumaA16(_) => {
            return Err(ImageError::Depth("it has one channel of 16 bits".to_owned()));
        }
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageLumaA8(_) => {
            if let Some(camera) = format_field::colour_as_grey(format) {
                return Err(ImageError::Grey(camera));
            }
        }
        _ => {}
    }
    let rgb = decoded.into_rgb8();
    RgbImage::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw())
}

/// Decodes a JPEG in which every block is there.
fn jpeg(bytes: &[u8]) -> Result<DynamicImage, ImageError> {
    let whole = jpeg_file::examine(bytes).map_err(|problem| match problem {
        Problem::Incomplete(reason) => {
            ImageError::Incomplete { format: "JPEG", bytes: bytes.len(), reason }
        }
        Problem::Side(width, height) => ImageError::Side { width, height },
    })?;
    let Some(whole) = whole else {
        return read(Cursor::new(bytes), bytes.len(), ImageFormat::Jpeg);
    };
    let own = &bytes[..whole.bytes];
    if !whole.lacks_tables {
        return read(Cursor::new(own), bytes.len(), ImageFormat::Jpeg);
    }
    // Behind the start marker; tables that the file has come later and replace these.
    let (start, rest) = own.split_at(2);
    let completed = [start, jpeg_file::STANDARD_TABLES, rest].concat();
    read(Cursor::new(completed), bytes.len(), ImageFormat::Jpeg)
}

/// Decodes with the `image` crate. `bytes`: of the image as given.
fn read(
    source: impl BufRead + Seek,
    bytes: usize,
    format: ImageFormat,
) -> Result<DynamicImage, ImageError> {
    let mut reader = ImageReader::with_format(source, format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    reader.limits(limits);
    let name = if format == ImageFormat::Jpeg { "JPEG" } else { "PNG" };
    reader.decode().map_err(|error| match error {
        image::ImageError::Limits(_) => ImageError::Limits { format: name, bytes },
        image::ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            let reason = "its data end before its last row: it was cut off".to_owned();
            ImageError::Incomplete { format: name, bytes, reason }
        }
        error => {
            let reason = unwrapped(&error.to_string());
            ImageError::Compressed { format: name, bytes, reason }
        }
    })
}

/// How the camera was held, if the file says that the picture is not upright. The pixels are taken
/// as they are stored, as Pillow and image_transport do.
pub(super) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => jpeg_file::orientation(bytes),
        _ => None,
    }
}

/// What an image says about itself that its pixels do not show, in words.
#[must_use]
pub fn remark(bytes: &[u8]) -> Option<String> {
    let turned = match orientation(bytes)? {
        Orientation::NoTransforms => return None,
        Orientation::Rotate90 => "by 90 degrees clockwise",
        Orientation::Rotate180 => "by 180 degrees",
        Orientation::Rotate270 => "by 90 degrees counterclockwise",
        Orientation::FlipHorizontal => "by mirroring it",
        Orientation::FlipVertical => "by mirroring it upside down",
        Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => "by a quarter and mirroring it",
    };
    Some(format!(
        "its EXIF orientation says that the picture is upright only after turning it {turned}; the \
        pixels are used as they are stored, so turn the picture itself if it lies on its side"
    ))
}

/// Reads and decodes an image file.
///
/// # Errors
/// When it cannot be read, or as [`decode`].
pub fn open(path: &Path) -> Result<RgbImage, ImageError> {
    open_with_remark(path).map(|(image, _)| image)
}

/// [`open`], and the image's [`remark`].
///
/// # Errors
/// As [`open`].
pub fn open_with_remark(path: &Path) -> Result<(RgbImage, Option<String>), ImageError> {
    let failed = |reason: String| ImageError::File { path: path.display().to_string(), reason };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let about = file.metadata().map_err(|error| failed(error.to_string()))?;
    if about.is_dir() {
        return Err(failed("it is a folder; name one JPEG or PNG in it".to_owned()));
    }
    if about.len() > MAX_COMPRESSED_BYTES as u64 {
        let size = about.len();
        let limit = MAX_COMPRESSED_BYTES;
        return Err(failed(format!(
            "file of {size} bytes; at most {limit} are read: save a smaller picture"
        )));
    }
    // A pipe has no size beforehand.
    let mut bytes = Vec::new();
    file.take(MAX_COMPRESSED_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    let image = decode(&bytes).map_err(|error| failed(error.at(Place::File)))?;
    Ok((image, remark(&bytes)))
}

#[cfg(test)]
mod tests;
