//! Pictures: in files, in messages and in bags.

use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use image::{DynamicImage, ImageFormat};
use vla_eval::{RunOptions, Settings, evaluate};
use vla_inference::observation::{self, EncodedImage, Observation, Place, RgbImage, SINGLE_CAMERA};
use vla_inference::policy::{Decision, Policy, PolicyError, PolicyInfo};

use super::eval_support::{BagWriter, Scripted, settings};
use super::media::{Verdicts, data, eval, keep, predict};

/// What should come of a picture.
enum Should {
    /// The pixels of `plain.jpg`.
    Plain,
    /// Pixels, whatever they are.
    Read,
    /// The pixels of `plain.jpg`, and this remark.
    Remark(&'static str),
    /// No pixels, and this in every message.
    Refuse(&'static str),
}
use Should::{Plain, Read, Refuse, Remark};

struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    /// Field of the message.
    format: &'static str,
    should: Should,
}

/// Keeps the image that it is given.
struct Eye {
    info: PolicyInfo,
    seen: Option<RgbImage>,
}

impl Policy for Eye {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        self.seen = Some(observation.image(SINGLE_CAMERA)?.clone());
        let zeros = vec![vec![0.0; 7]];
        Ok(Decision { normalized: zeros.clone(), actions: zeros, ..Decision::default() })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}

/// Pixels or the refusal, and the remark.
type Outcome = (Result<RgbImage, String>, String);

fn from_file(folder: &Path, row: &Row) -> Outcome {
    let path = folder.join("picture");
    std::fs::write(&path, &row.bytes).unwrap();
    keep(&format!("pictures/{}", row.name), &path);
    match observation::open_with_remark(&path) {
        Ok((image, remark)) => (Ok(image), remark.unwrap_or_default()),
        Err(error) => (Err(error.to_string()), String::new()),
    }
}

fn from_topic(row: &Row) -> Outcome {
    let image =
        EncodedImage::Compressed { format: row.format.into(), data: row.bytes.clone().into() };
    let decoded = image.decode().map_err(|error| error.at(Place::Topic));
    (decoded, image.remark().unwrap_or_default())
}

fn evaluated(bag: &Path, topic: &str) -> Outcome {
    let mut policy = Eye { info: Scripted::new().info, seen: None };
    let settings = Settings {
        image_topic: topic.into(),
        instruction: Some("go".into()),
        instruction_topic: None,
        action_topic: None,
        ..settings(bag)
    };
    let out = tempfile::tempdir().unwrap();
    let options = RunOptions { quiet: true, ..RunOptions::default() };
    let stop = AtomicBool::new(false);
    let report = evaluate(&mut policy, &settings, out.path(), options, &stop).unwrap().report;
    let words = report.warnings.join("\n");
    match policy.seen {
        Some(image) => (Ok(image), words),
        None => (Err(words), String::new()),
    }
}

fn from_bag(folder: &Path, row: &Row) -> Outcome {
    let bag = folder.join("picture.mcap");
    let mut writer = BagWriter::new(&bag);
    writer.compressed("/camera/compressed", 1_000_000_000, row.format, row.bytes.clone());
    writer.finish();
    keep(&format!("picture_bags/{}.mcap", row.name), &bag);
    evaluated(&bag, "/camera/compressed")
}

fn fault(row: &Row, (pixels, remark): &Outcome, plain: &RgbImage) -> Option<String> {
    let as_plain = pixels.as_ref().is_ok_and(|pixels| pixels == plain);
    let good = match row.should {
        Plain => as_plain && remark.is_empty(),
        Read => pixels.is_ok(),
        Remark(part) => as_plain && remark.contains(part),
        Refuse(part) => pixels.as_ref().is_err_and(|e| e.contains(part) && !e.contains('\n')),
    };
    let said = pixels.as_ref().map_or_else(Clone::clone, |p| format!("{p:?}"));
    (!good).then(|| format!("{said} {remark}"))
}

fn check(rows: Vec<Row>) {
    let plain = observation::decode(&data("plain.jpg")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut verdicts = Verdicts::default();
    for row in rows {
        let file = from_file(folder.path(), &row);
        let found = [
            // A file has no field `format`.
            ("file", row.format == "jpeg" || row.format == "png", &file),
            ("topic", true, &from_topic(&row)),
            ("bag", true, &from_bag(folder.path(), &row)),
        ];
        let faults =
            found.into_iter().filter(|(_, counts, _)| *counts).filter_map(|(place, _, outcome)| {
                fault(&row, outcome, &plain).map(|f| format!("{place}: {f}"))
            });
        let faults: Vec<String> = faults.collect();
        verdicts.add(row.name, (!faults.is_empty()).then(|| faults.join("; ")));
    }
    verdicts.check();
}

fn jpeg(name: &'static str, bytes: Vec<u8>, should: Should) -> Row {
    Row { name, bytes, format: "jpeg", should }
}

fn png(name: &'static str, bytes: Vec<u8>, should: Should) -> Row {
    Row { name, bytes, format: "png", should }
}

fn then(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend(more);
    bytes
}

/// The first bytes of a file, and an end marker.
fn cut_then_end(bytes: &[u8], keep: usize) -> Vec<u8> {
    then(bytes[..keep].to_vec(), &[0xff, 0xd9])
}

/// Places of a marker outside of segments' contents, from the first scan on.
fn markers(bytes: &[u8], codes: std::ops::RangeInclusive<u8>) -> Vec<usize> {
    let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let places = bytes.windows(2).enumerate().skip(scan);
    places.filter(|(_, pair)| pair[0] == 0xff && codes.contains(&pair[1])).map(|(i, _)| i).collect()
}

/// A JPEG without its Huffman tables, as a frame of MJPEG.
fn without_tables(bytes: &[u8]) -> Vec<u8> {
    let (mut kept, mut at) = (bytes[..2].to_vec(), 2);
    while bytes[at + 1] != 0xda {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        if bytes[at + 1] != 0xc4 {
            kept.extend(&bytes[at..at + 2 + length]);
        }
        at += 2 + length;
    }
    then(kept, &bytes[at..])
}

fn depth() -> Vec<u8> {
    let values = (0..64 * 48_u16).map(|i| 400 + i % 3000).collect();
    let depth = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(64, 48, values).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageLuma16(depth).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn as_png(bytes: &[u8]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image::load_from_memory(bytes).unwrap().write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

#[test]
fn reported() {
    let plain = data("plain.jpg");
    let half = plain.len() * 2 / 3;
    check(vec![
        jpeg("motion_photo", then(plain.clone(), b"\0\0\0\x18ftypmp42\xff\xd8\xff\xd9mdat"), Plain),
        jpeg("newline", then(plain.clone(), b"\n"), Plain),
        jpeg("cut_then_end", cut_then_end(&plain, half), Refuse("incomplete: its data end at")),
        jpeg("mjpeg_without_huffman_tables", without_tables(&plain), Plain),
        png("depth16", depth(), Refuse("depth image, not a picture")),
        Row {
            name: "compressed_depth_png",
            bytes: depth(),
            format: "16UC1; png compressed ",
            should: Refuse("depth image, not a picture"),
        },
        Row {
            name: "compressed_yuy2_as_mono",
            bytes: data("grey.jpg"),
            format: "yuv422_yuy2; jpeg compressed mono8",
            should: Refuse("grey although the camera sends 'yuv422_yuy2'"),
        },
    ]);
}

/// Others of the same kinds.
#[test]
fn found_beside_them() {
    let (plain, progressive, restart) =
        (data("plain.jpg"), data("progressive.jpg"), data("restart.jpg"));
    let scans = markers(&progressive, 0xda..=0xda);
    let restarts = markers(&restart, 0xd0..=0xd7);
    assert!(scans.len() > 3 && restarts.len() > 1, "{scans:?} {restarts:?}");
    let lost = [&restart[..restarts[0]], &restart[restarts[1]..]].concat();
    let mut header = vec![0; 12];
    header.extend(depth());
    let cut = as_png(&plain);
    check(vec![
        jpeg("two_pictures", data("two_pictures.mpo.jpg"), Plain),
        jpeg("thumbnail", data("thumbnail.jpg"), Plain),
        jpeg("no_end_marker", plain[..plain.len() - 2].to_vec(), Plain),
        jpeg("padded_with_zeros", then(plain.clone(), &[0; 700]), Plain),
        jpeg("half_an_end_marker", then(plain.clone(), &[0xff]), Plain),
        jpeg("exif_6", data("exif_6.jpg"), Remark("by 90 degrees clockwise")),
        jpeg("cut_within_header", plain[..100].to_vec(), Refuse("ends within its header")),
        jpeg("progressive", progressive.clone(), Read),
        jpeg("progressive_444", data("progressive_444.jpg"), Read),
        jpeg(
            "progressive_cut_then_end",
            cut_then_end(&progressive, progressive.len() * 2 / 3),
            Refuse("incomplete"),
        ),
        jpeg(
            "progressive_preview_then_end",
            cut_then_end(&progressive, scans[3]),
            Refuse("incomplete"),
        ),
        jpeg("restart_markers", restart.clone(), Plain),
        jpeg("restart_interval_lost", lost, Refuse("incomplete")),
        jpeg("sampling_422", data("sampling_422.jpg"), Read),
        jpeg("cmyk", data("cmyk.jpg"), Read),
        jpeg("grey", data("grey.jpg"), Read),
        Row { name: "jpeg_called_png", bytes: plain.clone(), format: "png", should: Plain },
        jpeg("webp_named_jpg", data("webp_named.jpg"), Refuse("found: a WebP")),
        jpeg("heic_named_jpg", b"\0\0\0\x18ftypheic\0\0\0\0".to_vec(), Refuse("found: a HEIC")),
        jpeg(
            "lfs_pointer",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            Refuse("git lfs pull"),
        ),
        jpeg("html", b"<!DOCTYPE html><html></html>".to_vec(), Refuse("found: an HTML page")),
        jpeg(
            "line_break_before",
            then(b"\r\n".to_vec(), &plain),
            Refuse("found: white space before"),
        ),
        jpeg("zeros", vec![0; 4096], Refuse("found: zeros only")),
        jpeg("empty_data", vec![], Refuse("found: empty")),
        png("png_with_more", then(cut.clone(), b"\nmore"), Plain),
        png("png_cut", cut[..cut.len() / 2].to_vec(), Refuse("PNG image of")),
        png("png_16_bits_rgb", data("rgb16.png"), Read),
        png("png_palette_transparent", data("palette_transparent.png"), Read),
        png("png_palette_cut", data("palette_cut.png"), Refuse("its palette has")),
        Row {
            name: "compressed_depth_transport",
            bytes: header.clone(),
            format: "16UC1; compressedDepth png",
            should: Refuse("depth image, not a picture"),
        },
        png("compressed_depth_without_format", header, Refuse("depth image, not a picture")),
        Row {
            name: "h264_frame",
            bytes: b"\0\0\0\x01\x67\x42".to_vec(),
            format: "h264",
            should: Refuse("format 'h264' is a video"),
        },
        Row {
            name: "mono_camera",
            bytes: data("grey.jpg"),
            format: "mono8; jpeg compressed mono8",
            should: Read,
        },
        Row {
            name: "colour_called_mono",
            bytes: plain,
            format: "rgb8; jpeg compressed mono8",
            should: Plain,
        },
    ]);
}

/// One colour in every raw encoding, through the message and through a bag.
#[test]
fn raw_encodings_are_one_picture() {
    // BT.601, limited range, of (180, 90, 60).
    let (y, u, v) = (113_u8, 101_u8, 170_u8);
    let (w, h) = (16_usize, 12_usize);
    let planes = |chroma: [u8; 2], count: usize| {
        [vec![y; w * h], chroma.iter().copied().cycle().take(count).collect()].concat()
    };
    let bayer =
        |rows: [[u8; 2]; 2]| (0..w * h).map(|i| rows[(i / w) % 2][i % w % 2]).collect::<Vec<u8>>();
    let (r, g, b) = (180, 90, 60);
    let cases: Vec<(&str, usize, Vec<u8>)> = vec![
        ("rgb8", 3 * w, [r, g, b].repeat(w * h)),
        ("bgr8", 3 * w, [b, g, r].repeat(w * h)),
        ("rgba8", 4 * w, [r, g, b, 9].repeat(w * h)),
        ("yuv422_yuy2", 2 * w, [y, u, y, v].repeat(w * h / 2)),
        ("yuyv", 2 * w, [y, u, y, v].repeat(w * h / 2)),
        ("yuv422", 2 * w, [u, y, v, y].repeat(w * h / 2)),
        ("uyvy", 2 * w, [u, y, v, y].repeat(w * h / 2)),
        ("nv12", w, planes([u, v], w * h / 2)),
        ("nv21", w, planes([v, u], w * h / 2)),
        ("nv24", w, planes([u, v], w * h * 2)),
        ("bayer_rggb8", w, bayer([[r, g], [g, b]])),
        ("bayer_bggr8", w, bayer([[b, g], [g, r]])),
        ("bayer_gbrg8", w, bayer([[g, b], [r, g]])),
        ("bayer_grbg8", w, bayer([[g, r], [b, g]])),
    ];
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("raw.mcap");
    let mut writer = BagWriter::new(&bag);
    for (name, step, data) in &cases {
        let (width, height) = (w as u32, h as u32);
        // The writer takes bytes for a pixel; planes have rows of their luma.
        let channels = (step / w) as u32;
        writer.image(
            &format!("/{name}"),
            1_000_000_000,
            width,
            height,
            name,
            channels,
            data.clone(),
        );
    }
    writer.finish();
    let mut verdicts = Verdicts::default();
    for (name, step, data) in cases {
        let message = EncodedImage::Raw {
            width: w as u32,
            height: h as u32,
            encoding: name.into(),
            step: step as u32,
            data: data.into(),
        };
        let topic = message.decode().map_err(|error| error.to_string());
        let (recorded, _) = evaluated(&bag, &format!("/{name}"));
        let near = |image: &RgbImage| {
            image
                .pixels()
                .chunks_exact(3)
                .all(|pixel| pixel.iter().zip([r, g, b]).all(|(a, b)| a.abs_diff(b) <= 3))
        };
        let good = topic.as_ref().is_ok_and(near) && recorded == topic;
        verdicts.add(&format!("raw_{name}"), (!good).then(|| format!("{topic:?} {recorded:?}")));
    }
    verdicts.check();
}

/// The whole program: the same action, or one line and exit status 1.
#[test]
fn the_program_says_the_same() {
    let plain = data("plain.jpg");
    let folder = tempfile::tempdir().unwrap();
    let said = |bytes: &[u8]| {
        let path = folder.path().join("picture.jpg");
        std::fs::write(&path, bytes).unwrap();
        predict(&path)
    };
    let expected = said(&plain);
    assert_eq!(expected.status, Some(0), "{}", expected.error);
    let mut verdicts = Verdicts::default();
    for (name, bytes) in [
        ("motion_photo", then(plain.clone(), b"\0\0\0\x18ftypmp42")),
        ("mjpeg_without_huffman_tables", without_tables(&plain)),
    ] {
        let found = said(&bytes);
        let same = found.answer["token_ids"] == expected.answer["token_ids"];
        let good = same && found.status == Some(0) && found.error.is_empty();
        verdicts.add(name, (!good).then(|| format!("{:?} {}", found.status, found.error)));
    }
    for (name, bytes, part) in [
        ("cut_then_end", cut_then_end(&plain, plain.len() * 2 / 3), "is incomplete"),
        ("depth16", depth(), "depth image"),
    ] {
        let found = said(&bytes);
        let good = found.status == Some(1)
            && found.error.contains(part)
            && found.error.lines().count() == 1
            && !found.error.contains("publish");
        verdicts.add(name, (!good).then(|| format!("{:?} {}", found.status, found.error)));
    }
    let turned = said(&data("exif_6.jpg"));
    let remarked = turned.status == Some(0) && turned.error.matches("EXIF").count() == 1;
    verdicts.add("exif_6", (!remarked).then_some(turned.error));

    // A bag whose every image is refused is no evaluation.
    let bag = folder.path().join("depth.mcap");
    let mut writer = BagWriter::new(&bag);
    for i in 1..4 {
        writer.compressed("/depth", i * 200_000_000, "16UC1; png compressed ", depth());
    }
    writer.finish();
    let found = eval(&bag, &["--image-topic=/depth"]);
    let good = found.status == Some(1) && found.error.contains("depth image, not a picture");
    verdicts.add("compressed_depth_png", (!good).then_some(found.error));
    verdicts.check();
}
