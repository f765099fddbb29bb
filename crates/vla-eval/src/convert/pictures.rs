//! The picture of a message as a file: the bytes of a compressed one as they are, of others a PNG.

use bytes::Bytes;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::EvalError;
use lerobot_dataset::Picture;
use vla_inference::observation::{EncodedImage, RgbImage};

/// The first bytes of a PNG.
const PNG: &[u8] = b"\x89PNG";

/// The file of an image that was decoded to `image`.
pub fn stored<'a>(encoded: &EncodedImage, image: &'a RgbImage) -> Result<Picture<'a>, EvalError> {
    let (width, height, rgb) = (image.width(), image.height(), image.pixels());
    let bytes = match encoded {
        EncodedImage::Compressed { data, .. } => data.clone(),
        EncodedImage::Raw { .. } => {
            let mut png = Vec::new();
            // Sides are bounded by the observation code.
            PngEncoder::new(&mut png)
                .write_image(rgb, width as u32, height as u32, ExtendedColorType::Rgb8)
                .map_err(|error| EvalError::Usage(format!("cannot encode a picture: {error}")))?;
            Bytes::from(png)
        }
    };
    let extension = if bytes.starts_with(PNG) { "png" } else { "jpg" };
    Ok(Picture { bytes, extension, width, height, rgb })
}
