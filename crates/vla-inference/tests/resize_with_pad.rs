//! openpi's and LeRobot's resize with margins, against pictures of their own code, bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vla_inference::observation::{self, Layout, Operation, Preparation, Preparer, Size};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/observation/with_pad")
}

fn preparer(operation: fn(Size) -> Operation) -> Preparer {
    let steps = vec![operation(Size::square(224)).into()];
    Preparer::new(Preparation::new(steps).unwrap()).unwrap()
}

#[test]
fn lerobots_floats_are_equal_bit_for_bit() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(data().join("lerobot.json")).unwrap()).unwrap();
    let cases = expected.as_object().unwrap();
    assert_eq!(cases.len(), 5);
    let mut preparer = preparer(Operation::TorchBilinearPad);
    let (mut planes, mut pixels) = (Vec::new(), Vec::new());
    for (name, case) in cases {
        let image = observation::open(&data().join(format!("{name}.png"))).unwrap();
        preparer.floats(&image, Layout::Chw, &mut planes).unwrap();
        let bytes: Vec<u8> = planes.iter().flat_map(|value| value.to_le_bytes()).collect();
        let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, case["sha256_f32_chw"].as_str().unwrap(), "{name}");
        preparer.floats(&image, Layout::Hwc, &mut pixels).unwrap();
        let plane = 224 * 224;
        for (i, pixel) in pixels.chunks(3).enumerate() {
            assert_eq!(pixel, [planes[i], planes[plane + i], planes[2 * plane + i]], "{name} {i}");
        }
    }
}

#[test]
fn openpis_bytes_are_equal() {
    let mut preparer = preparer(Operation::BilinearPad);
    for name in ["00_640x480", "01_480x640", "03_300x200", "04_96x72"] {
        let open = |path: String| observation::open(&data().join(path)).unwrap();
        let (image, expected) = (open(format!("{name}.png")), open(format!("openpi/{name}.png")));
        assert!(preparer.rgb(&image).unwrap() == expected, "{name}");
        let mut floats = Vec::new();
        preparer.floats(&image, Layout::Hwc, &mut floats).unwrap();
        for (float, byte) in floats.iter().zip(expected.pixels()) {
            assert_eq!(*float, f32::from(*byte) / 255.0 * 2.0 - 1.0, "{name}");
        }
    }
}
