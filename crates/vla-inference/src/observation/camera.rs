//! Image messages: `sensor_msgs/Image` in its 8-bit encodings, and `sensor_msgs/CompressedImage`.

use bytes::Bytes;

use super::interleave::{choose, interleave};
use super::yuv::YuvLayout;
use super::{ImageError, RgbImage, bayer, check_side};

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
    /// YUV 4:2:2, bytes `U Y V Y`; `yuv422` is its deprecated name. BT.601, limited range, as all
    /// of the YUV encodings.
    Uyvy,
    /// YUV 4:2:2, bytes `Y U Y V`; `yuv422_yuy2` is its deprecated name.
    Yuyv,
    /// YUV 4:2:0, luma, then rows of `U V`.
    Nv12,
    /// YUV 4:2:0, luma, then rows of `V U`.
    Nv21,
    /// YUV 4:4:4, luma, then rows of `U V`, twice as long.
    Nv24,
    /// Bayer pattern, red first.
    BayerRggb8,
    /// Bayer pattern, blue first.
    BayerBggr8,
    /// Bayer pattern, green then blue.
    BayerGbrg8,
    /// Bayer pattern, green then red.
    BayerGrbg8,
}

/// How the bytes of an encoding are read.
enum Form {
    Channels(Order),
    Yuv(YuvLayout),
    Bayer(bayer::Pattern),
}

/// The bytes of a pixel.
#[derive(Clone, Copy)]
enum Order {
    Rgb,
    Bgr,
    Rgba,
    Bgra,
    Grey,
}

impl Order {
    fn bytes(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Rgba | Self::Bgra => 4,
            Self::Grey => 1,
        }
    }

    /// A row of these as red, green and blue.
    fn to_rgb(self, row: &[u8], out: &mut [u8]) {
        match self {
            Self::Rgb => out.copy_from_slice(row),
            Self::Bgr => choose::<3, 2, 0>(row, out),
            Self::Rgba => choose::<4, 0, 2>(row, out),
            Self::Bgra => choose::<4, 2, 0>(row, out),
            Self::Grey => interleave(row, row, row, out),
        }
    }
}

/// Every accepted name.
const NAMES: &[(&str, Encoding)] = &[
    ("rgb8", Encoding::Rgb8),
    ("bgr8", Encoding::Bgr8),
    ("rgba8", Encoding::Rgba8),
    ("bgra8", Encoding::Bgra8),
    ("mono8", Encoding::Mono8),
    ("uyvy", Encoding::Uyvy),
    ("yuyv", Encoding::Yuyv),
    ("yuv422", Encoding::Uyvy),
    ("yuv422_yuy2", Encoding::Yuyv),
    ("nv12", Encoding::Nv12),
    ("nv21", Encoding::Nv21),
    ("nv24", Encoding::Nv24),
    ("bayer_rggb8", Encoding::BayerRggb8),
    ("bayer_bggr8", Encoding::BayerBggr8),
    ("bayer_gbrg8", Encoding::BayerGbrg8),
    ("bayer_grbg8", Encoding::BayerGrbg8),
];

impl Encoding {
    /// The encoding of that name.
    ///
    /// # Errors
    /// When it is not supported; the error shows at most 32 characters of the name.
    pub fn from_name(name: &str) -> Result<Self, ImageError> {
        if matches!(name, "16UC1" | "32FC1") {
            return Err(ImageError::Depth(format!("its encoding is '{name}'")));
        }
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, encoding)| *encoding)
            .ok_or_else(|| ImageError::Encoding(name.chars().take(32).collect()))
    }

    fn name(self) -> &'static str {
        NAMES.iter().find(|(_, encoding)| *encoding == self).map_or("", |(name, _)| name)
    }

    fn form(self) -> Form {
        match self {
            Self::Rgb8 => Form::Channels(Order::Rgb),
            Self::Bgr8 => Form::Channels(Order::Bgr),
            Self::Rgba8 => Form::Channels(Order::Rgba),
            Self::Bgra8 => Form::Channels(Order::Bgra),
            Self::Mono8 => Form::Channels(Order::Grey),
            Self::Uyvy => Form::Yuv(YuvLayout::Uyvy),
            Self::Yuyv => Form::Yuv(YuvLayout::Yuyv),
            Self::Nv12 => Form::Yuv(YuvLayout::Nv12),
            Self::Nv21 => Form::Yuv(YuvLayout::Nv21),
            Self::Nv24 => Form::Yuv(YuvLayout::Nv24),
            Self::BayerRggb8 => Form::Bayer([[0, 1], [1, 2]]),
            Self::BayerBggr8 => Form::Bayer([[2, 1], [1, 0]]),
            Self::BayerGbrg8 => Form::Bayer([[1, 2], [0, 1]]),
            Self::BayerGrbg8 => Form::Bayer([[1, 0], [2, 1]]),
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
        /// `height * step` bytes, with chroma planes half as many or twice as many more; the
        /// padding of the last row may be missing.
        data: Bytes,
    },
    /// `sensor_msgs/CompressedImage`.
    Compressed {
        /// As sent. JPEG and PNG are recognised by their first bytes, since this is often wrong
        /// about them; depth, video and grey from a colour camera are refused by it.
        format: String,
        /// A JPEG or PNG.
        data: Bytes,
    },
}

impl EncodedImage {
    /// The image as RGB. Shares the message's bytes where they are rgb8 without padding; else
    /// copies or decompresses, which takes milliseconds for a large image.
    ///
    /// # Errors
    /// When encoding, size, step and data do not agree, or the data does not decompress.
    pub fn decode(&self) -> Result<RgbImage, ImageError> {
        match self {
            Self::Compressed { format, data } => super::file::decode_message(data, format),
            Self::Raw { width, height, encoding, step, data } => {
                let size = (*width as usize, *height as usize);
                to_rgb(Encoding::from_name(encoding)?, size, *step as usize, data)
            }
        }
    }
}

impl EncodedImage {
    /// What the image says about itself that its pixels do not show, in words.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        match self {
            Self::Compressed { data, .. } => super::remark(data),
            Self::Raw { .. } => None,
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
    let form = encoding.form();
    let (row_bytes, rows) = match &form {
        Form::Channels(order) => (width * order.bytes(), height),
        Form::Yuv(layout) => (layout.row_bytes(width), layout.rows(height)),
        Form::Bayer(_) => (width, height),
    };
    if step < row_bytes {
        return Err(ImageError::Step { step, width, encoding: encoding.name(), needed: row_bytes });
    }
    let needed = step.checked_mul(rows);
    match needed {
        // The padding of the last row may be missing.
        Some(needed) if (needed - (step - row_bytes)..=needed).contains(&data.len()) => {}
        _ => {
            let needed = needed.unwrap_or(usize::MAX);
            return Err(ImageError::Bytes { bytes: data.len(), height: rows, step, needed });
        }
    }
    match form {
        Form::Channels(Order::Rgb) if step == row_bytes => {
            RgbImage::shared(width, height, data.clone())
        }
        Form::Channels(order) => {
            let mut pixels = Vec::with_capacity(width * height * 3);
            let mut line = vec![0; width * 3];
            for row in data.chunks(step).take(height) {
                order.to_rgb(&row[..row_bytes], &mut line);
                pixels.extend_from_slice(&line);
            }
            RgbImage::new(width, height, pixels)
        }
        Form::Yuv(layout) => {
            RgbImage::new(width, height, layout.to_rgb((width, height), step, data))
        }
        Form::Bayer(pattern) => {
            if width.min(height) < bayer::MIN_SIDE {
                return Err(ImageError::BayerSide { width, height });
            }
            let pixels = bayer::to_rgb(pattern, (width, height), step, data);
            RgbImage::new(width, height, pixels)
        }
    }
}

#[cfg(test)]
mod tests;
