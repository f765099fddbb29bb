#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use vla_inference::observation::EncodedImage;

use super::*;

fn camera(width: u32, height: u32, value: u8) -> CameraView {
    let data = vec![value; (3 * width * height) as usize].into();
    let encoding = "rgb8".into();
    let image = EncodedImage::Raw { width, height, encoding, step: 3 * width, data };
    CameraView { name: "wrist".into(), image: Some(Arc::new(image)) }
}

fn row(desired: Option<f64>, executed: f64) -> Row {
    Row { name: "x".into(), unit: "m/s", desired, executed, low: -0.25, high: 0.25 }
}

fn content(cameras: Vec<CameraView>) -> Content {
    Content {
        cameras,
        instruction: "pick up the block".into(),
        state: Some(State::Running),
        detail: String::new(),
        times: "image 0.10 s old".into(),
        stages: "vision 1.0".into(),
        rows: vec![row(Some(0.1), 0.05)],
    }
}

/// Size and pixels.
fn drawn(content: &Content) -> (usize, usize, Vec<u8>) {
    let canvas = draw(content);
    (canvas.width(), canvas.height(), canvas.into_pixels())
}

/// Pixels of a colour.
fn count(pixels: &[u8], colour: Rgb888) -> usize {
    let wanted = [colour.r(), colour.g(), colour.b()];
    pixels.chunks_exact(3).filter(|pixel| **pixel == wanted).count()
}

#[test]
fn the_camera_fills_the_width() {
    let (width, height, pixels) = drawn(&content(vec![camera(64, 48, 201)]));
    assert_eq!((width, pixels.len()), (WIDTH, 3 * width * height));
    assert_eq!(count(&pixels, Rgb888::new(201, 201, 201)), 480 * 360);
    // A tall image is bounded by its height.
    let (_, _, pixels) = drawn(&content(vec![camera(10, 100, 201)]));
    assert_eq!(count(&pixels, Rgb888::new(201, 201, 201)), 48 * 480);
}

#[test]
fn every_part_changes_the_picture() {
    let changes: [fn(&mut Content); 7] = [
        |c| c.instruction = "open the drawer".into(),
        |c| c.state = Some(State::Holding),
        |c| c.detail = "IMAGE_STALE".into(),
        |c| c.times = "image 0.20 s old".into(),
        |c| c.stages = "vision 2.0".into(),
        |c| c.rows[0].executed = -0.05,
        |c| c.rows[0].desired = None,
    ];
    let plain = drawn(&content(vec![camera(8, 8, 1)]));
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = content(vec![camera(8, 8, 1)]);
        change(&mut changed);
        let changed = drawn(&changed);
        assert_eq!((changed.0, changed.1), (plain.0, plain.1), "{index}");
        assert_ne!(changed.2, plain.2, "{index}");
    }
}

#[test]
fn states_have_their_colours() {
    let ground = |state: State| {
        let (_, _, pixels) = drawn(&Content { state: Some(state), ..content(Vec::new()) });
        count(&pixels, colours(Some(state)).0)
    };
    for state in State::ALL {
        assert!(3000 < ground(state), "{state:?}");
    }
    assert_ne!(colours(Some(State::Fault)), colours(Some(State::Running)));
}

#[test]
fn values_are_between_the_ends_of_the_bar() {
    let at = |value| bar_position(&row(None, 0.0), value);
    let [left, right] = BAR;
    assert!(left < at(-0.25) && at(-0.25) < at(0.0) && at(0.0) < at(0.25) && at(0.25) < right);
    assert_eq!((at(-9.0), at(f64::NAN), at(9.0)), (left, left, right - 3));
    // Neither numbers nor ranges from outside may panic.
    for value in [f64::NAN, f64::INFINITY, f64::MAX] {
        let odd = Row { low: value, high: value, ..row(Some(value), value) };
        drawn(&Content { rows: vec![odd], ..content(Vec::new()) });
    }
}

#[test]
fn missing_and_broken_images_are_named() {
    let absent = CameraView { name: "a".into(), image: None };
    let step = 1;
    let (width, height, encoding) = (4, 4, "rgb8".to_owned());
    let broken = EncodedImage::Raw { width, height, encoding, step, data: vec![0; 4].into() };
    let broken = CameraView { name: "b".into(), image: Some(Arc::new(broken)) };
    let (tiles, tall) = tiles(&[absent, broken, camera(4, 4, 9)], 10);
    assert!(tiles[0].image.as_ref().is_err_and(|text| text.contains("no image has arrived")));
    assert!(tiles[1].image.is_err() && tiles[2].image.is_ok());
    assert_eq!(tiles[1].place, [240, 10, 240, ABSENT_HEIGHT]);
    assert_eq!((tiles[2].place, tall), ([0, 70, 240, 240], 300));
}

#[test]
fn texts_are_wrapped_and_cut() {
    let lines = |text: &str| wrap(text, 60, &FONT_6X13);
    assert_eq!(lines("pick up the red"), ["pick up", "the red"]);
    assert_eq!(lines("abcdefghijklm no"), ["abcdefghij", "klm no"]);
    assert_eq!(lines(""), [""]);
    assert_eq!(lines(&"word ".repeat(50)), ["word word", "word word", "word wo..."]);
    assert_eq!(lines("ünï ©ödé 拿起").concat(), "ünï ©ödé拿起");
    // Characters that the font has not are drawn as its replacement.
    drawn(&Content { instruction: "拿起 the 🍎".into(), ..content(Vec::new()) });
}
