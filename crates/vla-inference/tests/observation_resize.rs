//! The resize against Pillow, byte for byte, over sizes
//! (`tools/observation/make_resize_expected.py`) and against the plain definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use sha2::{Digest, Sha256};
use vla_inference::observation::{Resizer, RgbImage};

/// As in the script: MINSTD, stretched over both ends.
fn picture(width: usize, height: usize, seed: u64) -> RgbImage {
    let mut state = seed;
    let pixels = (0..width * height * 3).map(|_| {
        state = state * 48_271 % 0x7fff_ffff;
        (state >> 8 & 0x1ff).saturating_sub(128).min(255) as u8
    });
    RgbImage::new(width, height, pixels.collect()).unwrap()
}

#[test]
fn every_size_is_pillows_to_the_byte() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/observation/resized_by_pillow.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    let mut resizers = std::collections::BTreeMap::new();
    for case in cases {
        let number = |name: &str| case[name].as_u64().unwrap() as usize;
        let (width, height, side) = (number("width"), number("height"), number("side"));
        // One resizer for all images of a side, so that remains of an earlier image in its
        // buffers would show.
        let resizer = resizers.entry(side).or_insert_with(|| Resizer::new(side).unwrap());
        let resized = resizer.resize(&picture(width, height, case["seed"].as_u64().unwrap()));
        let hash: String =
            Sha256::digest(&resized).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, case["sha256"].as_str().unwrap(), "{width} x {height} to {side}");
    }
}
