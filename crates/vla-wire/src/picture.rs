//! Arrays that are pictures.
//!
//! OpenVLA's server hands the array to Pillow: `[height, width, 3]` of bytes, grey and with alpha
//! too. openpi's policies take `[height, width, 3]` or `[3, height, width]`, of bytes or of floats
//! from 0 to 1.

use crate::array::Kind;
use crate::{NdArray, WireError};

/// Bounds of a picture.
#[derive(Clone, Copy, Debug)]
pub struct PictureLimits {
    /// Pixels of a picture.
    pub pixels: usize,
}

impl Default for PictureLimits {
    /// 16 million: more than 4 K by 4 K minus one row.
    fn default() -> Self {
        Self { pixels: 16_000_000 }
    }
}

/// RGB bytes, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}

/// The picture of an array as Pillow's `Image.fromarray(array).convert("RGB")` gives it: bytes of
/// shape `[h, w]`, `[h, w, 3]` or `[h, w, 4]`.
///
/// # Errors
/// [`WireError::Picture`] for another array.
pub fn from_pillow(array: NdArray, limits: &PictureLimits) -> Result<Rgb, WireError> {
    let described = described(&array);
    let bytes = (array.dtype().kind, array.dtype().size) == (Kind::Unsigned, 1);
    let (height, width, channels) = match *array.shape() {
        [height, width] if bytes => (height, width, 1),
        [height, width, channels @ (3 | 4)] if bytes => (height, width, channels),
        _ => {
            return Err(WireError::Picture(format!(
                "{described} is no picture; send uint8 of shape [height, width, 3]"
            )));
        }
    };
    bounded(height, width, limits, &described)?;
    let data = array.into_data();
    let pixels = match channels {
        1 => data.iter().flat_map(|grey| [*grey; 3]).collect(),
        3 => data,
        _ => data.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    };
    Ok(Rgb { width, height, pixels })
}

/// The picture of an array as openpi's policies read it: bytes, or floats from 0 to 1 that become
/// `255 * value` without its fraction; `[3, h, w]` or `[h, w, 3]`.
///
/// # Errors
/// [`WireError::Picture`] for another array, and for floats outside of 0..1, which NumPy would wrap.
pub fn from_openpi(array: NdArray, limits: &PictureLimits) -> Result<Rgb, WireError> {
    let described = described(&array);
    let (height, width, planar) = match *array.shape() {
        // openpi looks at the first axis alone; a picture of three rows is then none.
        [3, _, 3] => {
            return Err(WireError::Picture(format!(
                "{described} is a picture of three rows or of three columns; which of them cannot \
                be known"
            )));
        }
        [3, height, width] => (height, width, true),
        [height, width, 3] => (height, width, false),
        _ => {
            return Err(WireError::Picture(format!(
                "{described} is no picture; send uint8, or floats from 0 to 1, of shape [height, \
                width, 3] or [3, height, width]"
            )));
        }
    };
    bounded(height, width, limits, &described)?;
    let data = match (array.dtype().kind, array.dtype().size) {
        (Kind::Unsigned, 1) => array.into_data(),
        // In the array's own precision, as NumPy multiplies.
        (Kind::Float, 4) => scaled(&array, |value| f64::from(255.0 * value as f32))?,
        (Kind::Float, 8) => scaled(&array, |value| 255.0 * value)?,
        _ => {
            return Err(WireError::Picture(format!(
                "{described}: a picture is of dtype uint8, float32 or float64"
            )));
        }
    };
    let pixels = if planar { interleaved(&data, height * width) } else { data };
    Ok(Rgb { width, height, pixels })
}

fn described(array: &NdArray) -> String {
    format!("an array of shape {:?} and dtype {}", array.shape(), array.dtype())
}

fn bounded(
    height: usize,
    width: usize,
    limits: &PictureLimits,
    described: &str,
) -> Result<(), WireError> {
    match height.checked_mul(width) {
        Some(0) => Err(WireError::Picture(format!("{described} has no pixels"))),
        Some(pixels) if pixels <= limits.pixels => Ok(()),
        _ => Err(WireError::Picture(format!(
            "{described} has more than {} pixels; send a smaller picture",
            limits.pixels
        ))),
    }
}

fn scaled(array: &NdArray, scale: impl Fn(f64) -> f64) -> Result<Vec<u8>, WireError> {
    let numbers = array.numbers().unwrap_or_default(); // `None` is for halves only
    let byte = |value: f64| match scale(value) {
        scaled if (0.0..=255.0).contains(&scaled) => Ok(scaled as u8),
        _ => Err(WireError::Picture(format!(
            "{}: a picture of floats has values from 0 to 1, here {value}; send uint8 for 0 to 255",
            described(array)
        ))),
    };
    numbers.into_iter().map(byte).collect()
}

fn interleaved(planes: &[u8], pixels: usize) -> Vec<u8> {
    let (red, rest) = planes.split_at(pixels.min(planes.len()));
    let (green, blue) = rest.split_at(pixels.min(rest.len()));
    let triples = red.iter().zip(green).zip(blue);
    triples.flat_map(|((red, green), blue)| [*red, *green, *blue]).collect()
}
