//! The field `format` of `sensor_msgs/CompressedImage`.
//!
//! It is often wrong about JPEG and PNG, which are recognised by their bytes. It is reliable where
//! it says that an image is depth, a video, or a colour camera's compressed as grey.

use super::ImageError;

/// Longest part of a format that is shown, characters.
const SHOWN: usize = 64;

/// Names of video codecs that are sent as `CompressedImage`.
const VIDEO: &[&str] = &["h264", "h265", "hevc", "av1", "vp8", "vp9", "mpeg4", "theora"];

/// Beginnings of the names of encodings with colour.
const COLOUR: &[&str] =
    &["rgb", "bgr", "yuv", "yuyv", "uyvy", "nv12", "nv21", "nv24", "bayer", "8uc3", "8uc4"];

/// Refuses formats that are no picture of a camera.
///
/// # Errors
/// For depth and video.
pub(super) fn check(format: &str) -> Result<(), ImageError> {
    let lower = format.to_ascii_lowercase();
    let first = lower.split([';', ' ', '/']).next().unwrap_or_default();
    if lower.contains("compresseddepth") || matches!(first, "16uc1" | "32fc1" | "16sc1") {
        return Err(ImageError::Depth(format!("its format is '{}'", shown(format))));
    }
    if lower.split([';', ' ', '/']).any(|word| VIDEO.contains(&word)) {
        return Err(ImageError::Video(shown(format)));
    }
    Ok(())
}

/// The encoding of the camera, when the format says that a camera with colour was compressed as
/// grey: `yuv422_yuy2; jpeg compressed mono8`.
pub(super) fn colour_as_grey(format: &str) -> Option<String> {
    let (source, rest) = format.split_once(';')?;
    let source = source.trim();
    let lower = source.to_ascii_lowercase();
    let target = rest.split_whitespace().last()?.to_ascii_lowercase();
    let grey = matches!(target.as_str(), "mono8" | "mono16" | "8uc1");
    (grey && COLOUR.iter().any(|name| lower.starts_with(name))).then(|| shown(source))
}

fn shown(text: &str) -> String {
    foreign_text::one_line(text, SHOWN)
}
