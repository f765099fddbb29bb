//! Entry point of the fuzz target for pictures. `tests/fuzz_smoke.rs` includes this file and drives
//! the same function with seeded mutations on stable Rust.

use vla_inference::observation::{EncodedImage, Place, remark};

use crate::checkpoint_entries::check_text;

/// The bytes as the data of a compressed image, with each kind of format. Accepted: it has pixels.
pub fn fuzz_picture(bytes: &[u8]) -> bool {
    if let Some(line) = remark(bytes) {
        check_text(&line);
    }
    let decoded = |format: &str| {
        let image = EncodedImage::Compressed { format: format.into(), data: bytes.to_vec().into() };
        image.decode()
    };
    // A colour camera's format refuses no more than grey pictures.
    let (plain, colour) = (decoded("jpeg"), decoded("rgb8; jpeg compressed mono8"));
    match (&plain, &colour) {
        (Ok(a), Ok(b)) => assert!(a == b),
        (Ok(_), Err(_)) => {}
        (Err(a), b) => assert!(b.as_ref().is_err_and(|b| b == a)),
    }
    match plain {
        Ok(image) => {
            assert_eq!(image.pixels().len(), image.width() * image.height() * 3);
            true
        }
        Err(error) => {
            for place in [Place::File, Place::Topic, Place::Recording] {
                check_text(&error.at(place));
            }
            false
        }
    }
}

/// An uncompressed image: one byte of encoding, width, height and step as 16 bits each, the data.
pub fn fuzz_raw_image(bytes: &[u8]) -> bool {
    const ENCODINGS: [&str; 18] = [
        "rgb8",
        "bgr8",
        "rgba8",
        "bgra8",
        "mono8",
        "uyvy",
        "yuyv",
        "yuv422",
        "yuv422_yuy2",
        "nv12",
        "nv21",
        "nv24",
        "bayer_rggb8",
        "bayer_bggr8",
        "bayer_gbrg8",
        "bayer_grbg8",
        "16UC1",
        "x",
    ];
    let Some((head, data)) = bytes.split_first_chunk::<7>() else { return false };
    let number = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let image = EncodedImage::Raw {
        width: number(1),
        height: number(3),
        encoding: ENCODINGS[usize::from(head[0]) % ENCODINGS.len()].into(),
        step: number(5),
        data: data.to_vec().into(),
    };
    match image.decode() {
        Ok(image) => {
            assert_eq!(image.pixels().len(), image.width() * image.height() * 3);
            true
        }
        Err(error) => {
            for place in [Place::File, Place::Topic, Place::Recording] {
                check_text(&error.at(place));
            }
            false
        }
    }
}
