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
    for keep in [700, 2000, bytes.len() / 2, bytes.len() - 4] {
        let glued = [&bytes[..keep], &[0xff, 0xd9]].concat();
        for cut in [&bytes[..keep], &glued] {
            assert!(
                matches!(decode(cut), Err(ImageError::Incomplete { .. })),
                "{keep} of {}",
                bytes.len()
            );
        }
    }
    // Without the end marker, and with anything behind it, every row is there.
    let whole = decode(&bytes).unwrap();
    assert!(decode(&bytes[..bytes.len() - 2]).unwrap() == whole);
    for behind in [&[0; 100][..], b"\n", b"\0\0\0\x18ftypmp42", b"\xff\xd8\xff\xe0"] {
        assert!(decode(&[bytes.as_slice(), behind].concat()).unwrap() == whole);
    }
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
fn other_bytes_are_named() {
    for (bytes, found) in [
        (&b""[..], "empty"),
        (b"GIF89a...", "a GIF"),
        (b"\0\0\0\x18ftypheic", "a HEIC"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n\xff\xd8\xff\xe0", "white space before a picture"),
        (b"\0\0\0\x01\x67\x42", "H.264"),
        (b"hello\n", "a text"),
        (&[0; 30], "zeros only"),
        (&[7; 30], "unknown"),
    ] {
        let error = decode(bytes).unwrap_err();
        assert!(matches!(error, ImageError::Format { .. }), "{error}");
        assert!(error.to_string().contains(found), "{found}: {error}");
    }
    let error = open(Path::new("/no/such.png")).unwrap_err().to_string();
    assert!(error.starts_with("/no/such.png: "), "{error}");
    assert!(open(Path::new("/")).unwrap_err().to_string().contains("it is a folder"));
}

#[test]
fn depth_is_no_picture() {
    let depth = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(4, 3, vec![900; 12]).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageLuma16(depth).write_to(&mut bytes, ImageFormat::Png).unwrap();
    let bytes = bytes.into_inner();
    assert!(matches!(decode(&bytes), Err(ImageError::Depth(_))));
    let transport = [&[0; 12][..], &bytes].concat();
    assert!(matches!(decode(&transport), Err(ImageError::Depth(_))));
}

#[test]
fn formats_that_never_lie() {
    let colour = jpeg();
    let mut grey = Cursor::new(Vec::new());
    let pixels = image::load_from_memory(&colour).unwrap().into_luma8();
    pixels.write_to(&mut grey, ImageFormat::Jpeg).unwrap();
    let grey = grey.into_inner();
    let decoded = |bytes: &[u8], format: &str| decode_message(bytes, format).map(|_| ());
    for format in ["", "jpeg", "png", "rgb8; jpeg compressed bgr8", "bgr8; png compressed mono8"] {
        assert_eq!(decoded(&colour, format), Ok(()), "{format}");
    }
    for format in ["", "jpeg", "mono8; jpeg compressed mono8", "rgb8; jpeg compressed bgr8"] {
        assert_eq!(decoded(&grey, format), Ok(()), "{format}");
    }
    for format in ["yuv422_yuy2; jpeg compressed mono8", "rgb8; jpeg compressed mono8"] {
        assert!(matches!(decoded(&grey, format), Err(ImageError::Grey(_))), "{format}");
    }
    for format in ["16UC1; png compressed ", "16UC1; compressedDepth png", "32FC1; compressedDepth"]
    {
        assert!(matches!(decoded(&grey, format), Err(ImageError::Depth(_))), "{format}");
    }
    for format in ["h264", "hevc", "bgr8; h264"] {
        assert!(matches!(decoded(&colour, format), Err(ImageError::Video(_))), "{format}");
    }
}

#[test]
fn orientation_is_remarked_and_pixels_stay() {
    let bytes = jpeg();
    assert_eq!(remark(&bytes), None);
    for (value, words) in
        [(1, None), (3, Some("180")), (6, Some("90 degrees clockwise")), (9, None)]
    {
        let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([value, 0, 0, 0, 0, 0, 0]);
        let length = (exif.len() as u16 + 2).to_be_bytes();
        let turned = [&bytes[..2], &[0xff, 0xe1], &length, &exif, &bytes[2..]].concat();
        assert!(decode(&turned).unwrap() == decode(&bytes).unwrap());
        let remark = remark(&turned);
        assert_eq!(remark.is_some(), words.is_some(), "{value}: {remark:?}");
        assert!(words.is_none_or(|words| remark.unwrap().contains(words)), "{value}");
    }
}

#[test]
fn places_have_their_words() {
    let error = decode(b"GIF89a").unwrap_err();
    let [file, topic, recording] =
        [Place::File, Place::Topic, Place::Recording].map(|place| error.at(place));
    assert!(file.contains("save it as") && !file.contains("publish"), "{file}");
    assert!(topic.contains("publish"), "{topic}");
    assert!(recording.contains("record") && !recording.contains("publish"), "{recording}");
}
