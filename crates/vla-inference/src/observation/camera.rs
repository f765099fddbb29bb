//! Uncompressed camera images in the encodings of `sensor_msgs/Image`.

use bytes::Bytes;

use super::{ImageError, RgbImage, check_side};

/// Encodings that are accepted (names: `sensor_msgs/image_encodings.hpp`).
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
    /// When it is none of ours; the error names at most 32 characters of it.
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

    /// Bytes of a pixel and where red, green and blue stand in it.
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

/// An image as a driver sends it; nothing of it has been believed yet.
#[derive(Clone, Copy, Debug)]
pub struct RawImage<'a> {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Encoding by name.
    pub encoding: &'a str,
    /// Bytes from row to row; may be more than the pixels take.
    pub step: usize,
    /// `height * step` bytes; the padding of the last row may be missing.
    pub data: &'a [u8],
}

impl RawImage<'_> {
    /// The image as RGB.
    ///
    /// # Errors
    /// When encoding, size, step and data do not agree.
    pub fn to_rgb(&self) -> Result<RgbImage, ImageError> {
        self.convert(None)
    }

    /// [`RawImage::to_rgb`] without a copy where `owner`, of which `data` is a part, holds the pixels as they are needed.
    ///
    /// # Errors
    /// As [`RawImage::to_rgb`].
    pub fn to_rgb_within(&self, owner: &Bytes) -> Result<RgbImage, ImageError> {
        self.convert(Some(owner))
    }

    fn convert(&self, owner: Option<&Bytes>) -> Result<RgbImage, ImageError> {
        let &Self { width, height, step, data, .. } = self;
        let encoding = Encoding::from_name(self.encoding)?;
        check_side(width, height)?;
        let (bytes, channels) = encoding.layout();
        let row_bytes = width * bytes;
        if step < row_bytes {
            return Err(ImageError::Step {
                step,
                width,
                encoding: encoding.name(),
                needed: row_bytes,
            });
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
        if let Some(owner) = owner.filter(|_| encoding == Encoding::Rgb8 && step == row_bytes) {
            return RgbImage::shared(width, height, owner.slice_ref(data));
        }
        let mut pixels = Vec::with_capacity(width * height * 3);
        for row in data.chunks(step).take(height) {
            let row = &row[..row_bytes];
            if encoding == Encoding::Rgb8 {
                pixels.extend_from_slice(row);
            } else {
                pixels.extend(
                    row.chunks_exact(bytes)
                        .flat_map(|pixel| channels.map(|channel| pixel[channel])),
                );
            }
        }
        RgbImage::new(width, height, pixels)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn raw<'a>(encoding: &'a str, step: usize, data: &'a [u8]) -> RawImage<'a> {
        RawImage { width: 2, height: 2, encoding, step, data }
    }

    fn bgr_rows() -> &'static [u8] {
        &[3, 2, 1, 6, 5, 4, 0, 9, 8, 7, 12, 11, 10, 0]
    }

    #[test]
    fn encodings_and_padding() {
        let rgb = raw("rgb8", 6, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]).to_rgb().unwrap();
        let bgr = raw("bgr8", 7, bgr_rows()).to_rgb().unwrap();
        let bgra = raw("bgra8", 8, &[3, 2, 1, 99, 6, 5, 4, 99, 9, 8, 7, 99, 12, 11, 10, 99])
            .to_rgb()
            .unwrap();
        assert_eq!(rgb, bgr);
        assert_eq!(rgb, bgra);
        let owner = Bytes::from_static(&[9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 9]);
        let within = raw("rgb8", 6, &owner[1..13]).to_rgb_within(&owner).unwrap();
        assert_eq!(within, rgb);
        assert_eq!(within.pixels().as_ptr(), owner[1..].as_ptr());
        assert_eq!(
            raw("bgr8", 7, bgr_rows()).to_rgb_within(&Bytes::from_static(bgr_rows())).unwrap(),
            rgb
        );
        // the last row's padding is missing
        let grey = raw("mono8", 3, &[1, 2, 0, 3, 4]).to_rgb().unwrap();
        assert_eq!(grey.pixels(), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    }

    #[test]
    fn disagreements_are_named() {
        let text = |image: RawImage<'_>| image.to_rgb().unwrap_err().to_string();
        assert!(text(raw("bayer_rggb8", 2, &[0; 4])).contains("'bayer_rggb8'"));
        assert!(text(raw("rgb8", 5, &[0; 10])).contains("step 5"));
        assert!(text(raw("rgb8", 6, &[0; 11])).contains("11 bytes"));
        assert!(text(raw("rgb8", 6, &[0; 13])).contains("13 bytes"));
        assert!(text(RawImage { width: 0, ..raw("rgb8", 6, &[]) }).contains("0 x 2"));
        assert!(
            text(RawImage { height: 1 << 40, ..raw("rgb8", usize::MAX, &[]) }).contains("pixels")
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(
            width in 0usize..9000, height in 0usize..9000, step in any::<usize>(),
            encoding in "(rgb8|bgr8|rgba8|bgra8|mono8|yuv422|)", data in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let _ = RawImage { width, height, encoding: &encoding, step, data: &data }.to_rgb();
        }
    }
}
