//! Every step of image preparation and every camera encoding against TensorFlow, Pillow and OpenCV
//! themselves, byte for byte over sizes (`tools/observation/make_prepared_expected.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};
use vla_inference::observation::{
    EncodedImage, Operation, Preparation, Preparer, RgbImage, Size, Step,
};

/// MINSTD, stretched over both ends, as in the script.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let bytes = (0..count).map(|_| {
        state = state * 48_271 % 0x7fff_ffff;
        (state >> 8 & 0x1ff).saturating_sub(128).min(255) as u8
    });
    bytes.collect()
}

fn picture(width: usize, height: usize, seed: u64) -> RgbImage {
    let count = width * height * 3;
    if seed.is_multiple_of(2) {
        return RgbImage::new(width, height, noise(count, seed)).unwrap();
    }
    let side = 1 + seed as usize / 2 % 8;
    let white = |i: usize| (i / 3 % width / side + i / 3 / width / side) % 2 == 1;
    let pixels = (0..count).map(|i| if white(i) { 255 } else { 0 }).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

fn expected() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/observation/prepared.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(case: &Value, name: &str) -> usize {
    case[name].as_u64().unwrap() as usize
}

/// A preparer whose one step is seen as it is; a step that keeps the size gets one that sets it
/// behind it, which the comparison does not look at.
fn preparer(name: &str, side: usize) -> Preparer {
    let size = Size::square(side);
    let operation = match name {
        "jpeg" => Operation::Jpeg,
        "center_crop" => Operation::CenterCrop(0.9),
        "lanczos3" => Operation::Lanczos3(size),
        "bilinear" => Operation::Bilinear(size),
        "bicubic" => Operation::Bicubic(size),
        "bilinear_pad" => Operation::BilinearPad(size),
        "area" => Operation::Area(size),
        other => panic!("{other}"),
    };
    let mut steps = vec![Step::from(operation)];
    if operation.size().is_none() {
        steps.push(Operation::Bicubic(Size::square(1)).into());
    }
    Preparer::new(Preparation::new(steps).unwrap()).unwrap()
}

#[test]
fn every_step_is_its_librarys_to_the_byte() {
    let expected = expected();
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() > 300);
    // One preparer for all images of a step, so that remains of an earlier image would show.
    let mut preparers: BTreeMap<(String, usize), Preparer> = BTreeMap::new();
    for case in cases {
        let name = case["step"].as_str().unwrap();
        let [side, width, height] = ["side", "width", "height"].map(|key| number(case, key));
        let preparer =
            preparers.entry((name.to_owned(), side)).or_insert_with(|| preparer(name, side));
        let image = picture(width, height, number(case, "seed") as u64);
        let mut hash = None;
        let see = |_, _, pixels: &[u8]| {
            hash.get_or_insert_with(|| sha256(pixels));
        };
        preparer.rgb_in_steps(&image, see).unwrap();
        let hash = hash.unwrap_or_else(|| sha256(image.pixels()));
        assert_eq!(hash, case["sha256"].as_str().unwrap(), "{name} {side}: {width} x {height}");
    }
}

#[test]
fn every_camera_encoding_is_opencvs_to_the_byte() {
    let expected = expected();
    let cases = expected["cameras"].as_array().unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let [width, height, step, rows] =
            ["width", "height", "step", "rows"].map(|key| number(case, key));
        let encoding = case["encoding"].as_str().unwrap();
        let plain = noise(step * rows, number(case, "seed") as u64);
        for padding in [0, 5] {
            let data: Vec<u8> = plain
                .chunks(step)
                .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(99, padding)))
                .collect();
            let image = EncodedImage::Raw {
                width: width as u32,
                height: height as u32,
                encoding: encoding.to_owned(),
                step: (step + padding) as u32,
                data: data.into(),
            };
            let hash = sha256(image.decode().unwrap().pixels());
            assert_eq!(hash, case["sha256"].as_str().unwrap(), "{encoding} {width} x {height}");
        }
    }
}
