//! Image messages: `sensor_msgs/Image` in five encodings, and `sensor_msgs/CompressedImage`.

use bytes::Bytes;

use super::{ImageError, RgbImage, check_side};

/// Accepted encodings, named as in `sensor_msgs/image_encodings.hpp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Red, green, blue.
    Rgb8,
    /// Blue, green, red.
    Bgr8,
    /// Red, green, blue, alpha; alpha is dropped.
    Rgba8,
    /// Blue, green, red, alpha; alpha is dropped.
    Bgra8,
    /// Grey.
    Mono8,
}

impl Encoding {
    /// The encoding of that name.
    ///
    /// # Errors
    /// When it is not supported; the error shows at most 32 characters of the name.
    pub fn from_name(name: &str) -> Result<Self, ImageError> {
        Ok(match name {
            "rgb8" => Self::Rgb8,
            "bgr8" => Self::Bgr8,
            "rgba8" => Self::Rgba8,
            "bgra8" => Self::Bgra8,
            "mono8" => Self::Mono8,
            _ => return Err(ImageError::Encoding(name.chars().take(32).collect())),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rgb8 => "rgb8",
            Self::Bgr8 => "bgr8",
            Self::Rgba8 => "rgba8",
            Self::Bgra8 => "bgra8",
            Self::Mono8 => "mono8",
        }
    }

    /// Bytes of a pixel, and the offsets of red, green and blue in it.
    fn layout(self) -> (usize, [usize; 3]) {
        match self {
            Self::Rgb8 => (3, [0, 1, 2]),
            Self::Bgr8 => (3, [2, 1, 0]),
            Self::Rgba8 => (4, [0, 1, 2]),
            Self::Bgra8 => (4, [2, 1, 0]),
            Self::Mono8 => (1, [0, 0, 0]),
        }
    }
}

/// The body of an image message, not yet validated or decoded. Two are equal when all of their
/// fields are. A clone shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodedImage {
    /// `sensor_msgs/Image`.
    Raw {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// Encoding by name, as sent.
        encoding: String,
        /// Bytes from the start of one row to the start of the next, padding included.
        step: u32,
        /// `height * step` bytes; the padding of the last row may be missing.
        data: Bytes,
    },
    /// The data of `sensor_msgs/CompressedImage`: JPEG or PNG, recognised by its first bytes, since
    /// the message's `format` field is often wrong.
    Compressed(Bytes),
}

impl EncodedImage {
    /// The image as RGB. Shares the message's bytes where they are rgb8 without padding; else
    /// copies or decompresses, which takes milliseconds for a large image.
    ///
    /// # Errors
    /// When encoding, size, step and data do not agree, or the data does not decompress.
    pub fn decode(&self) -> Result<RgbImage, ImageError> {
        match self {
            Self::Compressed(data) => super::decode(data),
            Self::Raw { width, height, encoding, step, data } => {
                let size = (*width as usize, *height as usize);
                to_rgb(Encoding::from_name(encoding)?, size, *step as usize, data)
            }
        }
    }
}

/// Validates an uncompressed image against its size and step and converts it.
fn to_rgb(
    encoding: Encoding,
    (width, height): (usize, usize),
    step: usize,
    data: &Bytes,
) -> Result<RgbImage, ImageError> {
    check_side(width, height)?;
    let (bytes, channels) = encoding.layout();
    let row_bytes = width * bytes;
    if step < row_bytes {
        return Err(ImageError::Step { step, width, encoding: encoding.name(), needed: row_bytes });
    }
    let needed = step.checked_mul(height);
    let last_row = step.checked_mul(height - 1).and_then(|start| start.checked_add(row_bytes));
    match (needed, last_row) {
        (Some(needed), Some(last)) if data.len() >= last && data.len() <= needed => {}
        _ => {
            let needed = needed.unwrap_or(usize::MAX);
            return Err(ImageError::Bytes { bytes: data.len(), height, step, needed });
        }
    }
    if encoding == Encoding::Rgb8 && step == row_bytes {
        return RgbImage::shared(width, height, data.clone());
    }
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in data.chunks(step).take(height) {
        let row = &row[..row_bytes];
        if encoding == Encoding::Rgb8 {
            pixels.extend_from_slice(row);
        } else {
            let chosen = |pixel: &[u8]| channels.map(|channel| pixel[channel]);
            pixels.extend(row.chunks_exact(bytes).flat_map(chosen));
        }
    }
    RgbImage::new(width, height, pixels)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn raw(encoding: &str, step: u32, data: &'static [u8]) -> EncodedImage {
        sized(2, 2, encoding, step, data)
    }

    fn sized(width: u32, height: u32, encoding: &str, step: u32, data: &[u8]) -> EncodedImage {
        let data = Bytes::copy_from_slice(data);
        EncodedImage::Raw { width, height, encoding: encoding.into(), step, data }
    }

    #[test]
    fn encodings_and_padding() {
        let rgb = raw("rgb8", 6, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]).decode().unwrap();
        let bgr = raw("bgr8", 7, &[3, 2, 1, 6, 5, 4, 0, 9, 8, 7, 12, 11, 10, 0]).decode().unwrap();
        let bgra = raw("bgra8", 8, &[3, 2, 1, 99, 6, 5, 4, 99, 9, 8, 7, 99, 12, 11, 10, 99])
            .decode()
            .unwrap();
        assert_eq!(rgb, bgr);
        assert_eq!(rgb, bgra);
        // the last row's padding is missing
        let grey = raw("mono8", 3, &[1, 2, 0, 3, 4]).decode().unwrap();
        assert_eq!(grey.pixels(), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    }

    #[test]
    fn rgb8_shares_the_message() {
        let message = Bytes::from_static(&[9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 9]);
        let data = message.slice(1..13);
        let image =
            EncodedImage::Raw { width: 2, height: 2, encoding: "rgb8".into(), step: 6, data };
        let rgb = image.decode().unwrap();
        assert_eq!(rgb.pixels(), &message[1..13]);
        assert_eq!(rgb.pixels().as_ptr(), message[1..].as_ptr());
    }

    #[test]
    fn disagreements_are_named() {
        let text = |image: EncodedImage| image.decode().unwrap_err().to_string();
        assert!(text(raw("bayer_rggb8", 2, &[0; 4])).contains("'bayer_rggb8'"));
        assert!(text(raw("rgb8", 5, &[0; 10])).contains("step 5"));
        assert!(text(raw("rgb8", 6, &[0; 11])).contains("11 bytes"));
        assert!(text(raw("rgb8", 6, &[0; 13])).contains("13 bytes"));
        assert!(text(sized(0, 2, "rgb8", 6, &[])).contains("0 x 2"));
        assert!(text(sized(2, u32::MAX, "rgb8", u32::MAX, &[])).contains("pixels"));
    }

    proptest! {
        #[test]
        fn nothing_panics(
            width in 0u32..9000,
            height in 0u32..9000,
            step in any::<u32>(),
            encoding in "(rgb8|bgr8|rgba8|bgra8|mono8|yuv422|)",
            data in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let _ = sized(width, height, &encoding, step, &data).decode();
        }
    }
}
