//! The golden kit of image preparation: every byte after every step of the official code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use vla_inference::golden::KitKind;
use vla_inference::golden::image_preparation::{check, pipeline};
use vla_inference::observation::{
    ImageError, Operation, Preparation, PreparationError, Preparer, RgbImage, Size, Step,
};

fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/image_preparation")
}

/// A copy of the kit's `cases.json` and sources, with changed cases.
fn changed_kit(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut cases: Value =
        serde_json::from_slice(&std::fs::read(kit().join("cases.json")).unwrap()).unwrap();
    change(&mut cases);
    std::fs::write(folder.path().join("cases.json"), cases.to_string()).unwrap();
    std::os::unix::fs::symlink(kit().join("images"), folder.path().join("images")).unwrap();
    folder
}

#[test]
fn every_step_of_every_case_is_equal() {
    assert_eq!(KitKind::of(&kit()).unwrap(), KitKind::ImagePreparation);
    let report = check(&kit()).unwrap();
    assert!(report.missed.is_empty(), "{:#?}", report.missed);
    assert_eq!((report.cases.len(), report.steps), (52, 137));
    let untouched = report.cases.iter().filter(|case| case.steps.is_empty());
    assert_eq!(untouched.count(), 1, "oft_server_no_crop leaves 224 x 224 as it is");
}

#[test]
fn a_difference_is_named() {
    let folder = changed_kit(|cases| {
        cases["cases"][2]["steps"][1]["sha256"] = "00".into();
        cases["cases"][3]["sha256"] = "00".into();
        cases["cases"][0]["steps"].as_array_mut().unwrap().pop();
        cases["cases"][1]["steps"][0]["step"] = "lanczos3".into();
    });
    let report = check(folder.path()).unwrap();
    assert_eq!(
        report.missed,
        [
            "00_patterns_256x256 bridge: step lanczos3 where the kit has none",
            "00_patterns_256x256 oft_server: step jpeg where the kit has lanczos3",
            "00_patterns_256x256 libero: step jpeg differs",
            "00_patterns_256x256 oft_libero: the result differs",
        ]
    );
}

#[test]
fn damaged_kits_are_refused() {
    let error = |change: fn(&mut Value)| check(changed_kit(change).path()).unwrap_err().to_string();
    assert!(error(|cases| cases["cases"] = Value::Array(vec![])).contains("no case"));
    assert!(error(|cases| cases["cases"][0]["source"] = 99.into()).contains("source 99"));
    assert!(error(|cases| cases["cases"][0]["pipeline"] = "x".into()).contains("pipeline 'x'"));
    assert!(error(|cases| cases["sources"][0]["sha256"] = "0".into()).contains("not those"));
    assert!(error(|cases| cases["sources"][0]["file"] = "images/no.png".into()).contains("no.png"));
    assert!(error(|cases| cases["cases"] = 1.into()).contains("cases.json"));
}

fn image(width: usize, height: usize) -> RgbImage {
    let pixels = (0..width * height * 3).map(|i| (i * 37 % 256) as u8).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

#[test]
fn one_preparer_serves_images_of_changing_sizes() {
    for name in ["libero", "oft_server", "oft_server_no_crop", "oft_aloha"] {
        let mut kept = Preparer::new(pipeline(name, 224).unwrap()).unwrap();
        for (width, height) in [(640, 480), (224, 224), (3, 3), (640, 480), (1, 700), (225, 223)] {
            let image = image(width, height);
            let mut fresh = Preparer::new(pipeline(name, 224).unwrap()).unwrap();
            let fresh = fresh.rgb(&image).unwrap();
            assert!(kept.rgb(&image).unwrap() == fresh, "{name} {width} x {height}");
            assert!(kept.bytes(&image).unwrap() == fresh.pixels(), "{name} {width} x {height}");
        }
    }
}

#[test]
fn what_is_left_out_shares_the_image() {
    let mut preparer = Preparer::new(pipeline("oft_server_no_crop", 224).unwrap()).unwrap();
    let image = image(224, 224);
    let same = preparer.rgb(&image).unwrap();
    assert_eq!(same.pixels().as_ptr(), image.pixels().as_ptr());
}

#[test]
fn steps_that_are_no_preparation_are_refused() {
    let size = Size::square(224);
    let one = |operation| vec![Step::from(operation)];
    let unless = |operation, side| Step { operation, unless_size: Some(Size::square(side)) };
    let refused = |steps| Preparation::new(steps).unwrap_err();
    assert_eq!(refused(vec![]), PreparationError::NoSize);
    assert_eq!(refused(one(Operation::Jpeg)), PreparationError::NoSize);
    assert!(matches!(refused(vec![Operation::Jpeg.into(); 17]), PreparationError::TooMany(17)));
    for side in [0, 8193] {
        let operation = Operation::Lanczos3(Size { width: 224, height: side });
        assert!(matches!(refused(one(operation)), PreparationError::Side { .. }));
    }
    for area in [0.0, 1.1, f32::NAN] {
        let steps = vec![Operation::Bicubic(size).into(), Operation::CenterCrop(area).into()];
        assert!(matches!(refused(steps), PreparationError::Area { .. }), "{area}");
    }
    let two = refused(vec![unless(Operation::Bicubic(size), 256)]);
    assert!(matches!(two, PreparationError::TwoSizes { .. }));
    let torch = Operation::TorchBilinearPad(size);
    let early = refused(vec![torch.into(), Operation::CenterCrop(0.9).into()]);
    assert!(matches!(early, PreparationError::NotLast { .. }));
    let conditional = refused(vec![unless(torch, 224)]);
    assert!(matches!(conditional, PreparationError::NotLast { .. }));

    let floats = Preparation::new(one(torch)).unwrap();
    assert!(matches!(floats.require_bytes(size), Err(PreparationError::Floats { .. })));
    assert_eq!(floats.require_size(size), Ok(()));
    let error = Preparer::new(floats).unwrap().rgb(&image(9, 9)).unwrap_err();
    assert_eq!(error, ImageError::FloatPixels);
    let plain = Preparation::plain(224).unwrap();
    let error = plain.require_bytes(Size::square(336)).unwrap_err().to_string();
    assert!(error.contains("224 x 224") && error.contains("336 x 336"), "{error}");
    let shown = pipeline("oft_server", 224).unwrap().to_string();
    assert_eq!(shown, "jpeg unless 224 x 224, lanczos3 224 unless 224 x 224, center_crop 0.9");
}

#[test]
fn images_that_a_step_cannot_take_are_errors() {
    let of = |operation: Operation| {
        Preparer::new(Preparation::new(vec![operation.into()]).unwrap()).unwrap()
    };
    let size = Size::square(224);
    let error = of(Operation::Area(size)).rgb(&image(640, 223)).unwrap_err().to_string();
    assert!(error.contains("640 x 223") && error.contains("224 x 224"), "{error}");
    for operation in [Operation::BilinearPad(size), Operation::TorchBilinearPad(size)] {
        let mut out = Vec::new();
        let layout = vla_inference::observation::Layout::Chw;
        let error = of(operation).floats(&image(1000, 2), layout, &mut out).unwrap_err();
        assert!(matches!(error, ImageError::TooNarrow { .. }), "{error}");
    }
}
