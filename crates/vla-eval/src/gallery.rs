//! The images of the worst frames, which a report shows.
//!
//! They are read from the bags after the evaluation, in a second pass that reads only those frames
//! where the bag has an index. The first pass cannot select them: a frame's error is known when its
//! recorded action has been read, which may follow at any distance, and an evaluation that was
//! resumed has not read the earlier frames.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;

use super::frames::encoded_image;
use super::step::Paired;
use super::{EvalError, Settings};
use rosbag2_reader::{Bag, Selection};
use vla_inference::observation::RgbImage;

/// Folder of the images in the output folder.
pub const FOLDER: &str = "frames";
/// How many frames a report shows.
pub const SHOWN: usize = 24;
/// Longest side of a shown image, pixels.
const SIDE: u32 = 320;
const QUALITY: u8 = 85;

/// Indices of the `count` worst frames, the worst first: failures, then the largest errors, then
/// the smallest logit margins.
pub fn worst(pairs: &[Paired], count: usize) -> Vec<usize> {
    let rank = |pair: &Paired| match (pair.prediction(), pair.error()) {
        (None, _) => (0, 0.0),
        (Some(_), Some(error)) => (1, -error),
        (Some(prediction), None) => {
            (2, f64::from(prediction.logit_margins.iter().copied().fold(f32::INFINITY, f32::min)))
        }
    };
    let mut places: Vec<usize> = (0..pairs.len()).collect();
    places.sort_by(|&a, &b| {
        let ((a, x), (b, y)) = (rank(&pairs[a]), rank(&pairs[b]));
        a.cmp(&b).then(x.total_cmp(&y))
    });
    places.truncate(count);
    places
}

/// Removes the images of an earlier evaluation, whose frame numbers may mean other frames.
pub fn clear(out: &Path) -> Result<(), EvalError> {
    let folder = out.join(FOLDER);
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Only files named by `file`: the folder may hold others.
        if name.starts_with("bag") && name.contains("_frame") && name.ends_with(".jpg") {
            std::fs::remove_file(&path).map_err(EvalError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// File name of a frame's image.
pub fn file(bag: usize, frame: u64) -> String {
    format!("bag{bag}_frame{frame}.jpg")
}

/// Extracts the images of the frames at `places` from their bags into the output folder. A missing
/// bag or frame leaves out the image; it is not an error.
pub fn collect(
    out: &Path,
    settings: &Settings,
    pairs: &[Paired],
    places: &[usize],
) -> Result<(), EvalError> {
    let folder = out.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(EvalError::io("create", &folder))?;
    let mut wanted: BTreeMap<usize, BTreeMap<u64, i64>> = BTreeMap::new();
    for step in places.iter().map(|&place| &pairs[place].step) {
        if !folder.join(file(step.bag, step.frame)).exists() {
            wanted.entry(step.bag).or_default().insert(step.frame, step.log_time);
        }
    }
    for (bag, frames) in wanted {
        let Ok(bag_file) = Bag::open(&settings.bags[bag]) else { continue };
        let Ok(topic) = bag_file.topic(&settings.image_topic) else { continue };
        let (Some(&from), Some(&until)) = (frames.values().min(), frames.values().max()) else {
            continue;
        };
        // By log time: the number of an image depends on where reading began.
        let mut left: BTreeMap<i64, u64> =
            frames.iter().map(|(frame, time)| (*time, *frame)).collect();
        let windows = if bag_file.can_seek() {
            left.keys().map(|&time| (time, time)).collect()
        } else {
            vec![(from, until)]
        };
        for (from, until) in windows {
            let Ok(stream) =
                bag_file.messages(&Selection::topics([topic.index]).between(from, until))
            else {
                continue;
            };
            for message in stream.filter_map(Result::ok) {
                let Some(frame) = left.remove(&message.log_time) else { continue };
                if let Ok(Ok(image)) =
                    encoded_image(message, topic).map(|(_, encoded)| encoded.decode())
                {
                    let path = folder.join(file(bag, frame));
                    std::fs::write(&path, jpeg(&image)).map_err(EvalError::io("write", &path))?;
                }
                if left.is_empty() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// A small JPEG of an image; empty when it cannot be encoded.
fn jpeg(image: &RgbImage) -> Vec<u8> {
    // Sides are bounded by the observation code, far below u32::MAX.
    let (width, height) = (image.width() as u32, image.height() as u32);
    let Some(full) = image::RgbImage::from_raw(width, height, image.pixels().to_vec()) else {
        return Vec::new();
    };
    let scale = f64::from(SIDE) / f64::from(width.max(height));
    let small = if scale < 1.0 {
        let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
        image::imageops::resize(&full, side(width), side(height), FilterType::Triangle)
    } else {
        full
    };
    let mut bytes = Cursor::new(Vec::new());
    match JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&small) {
        Ok(()) => bytes.into_inner(),
        Err(_) => Vec::new(),
    }
}
