//! OpenVLA takes the image preparation of its rule, and refuses one that does not fit before it
//! reads the weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use vla_inference::backend::cpu::CpuBackend;
use vla_inference::golden::image_preparation::pipeline;
use vla_inference::observation::{Operation, Preparation, Preparer, RgbImage, Size};
use vla_inference::policy::{OpenVlaPolicy, PolicyError, PolicyOptions, PreparationRule};

fn open(preparation: PreparationRule) -> Result<OpenVlaPolicy<CpuBackend>, PolicyError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny/ckpt");
    let unnorm_key = Some("bridge_orig".to_owned());
    let options = PolicyOptions { unnorm_key, preparation, ..Default::default() };
    OpenVlaPolicy::open(CpuBackend::new(1).unwrap(), &folder, &options)
}

fn stated(preparation: Preparation, key: &str) -> PreparationRule {
    PreparationRule::Stated { preparation, keys: vec!["other".into(), key.into()] }
}

fn image() -> RgbImage {
    let pixels = (0..300 * 200 * 3).map(|i| (i * 37 % 253) as u8).collect();
    RgbImage::new(300, 200, pixels).unwrap()
}

#[test]
fn the_rule_decides_about_the_pixels() {
    for name in ["libero", "bridge", "oft_server", "simpler"] {
        let preparation = pipeline(name, 224).unwrap();
        let mut policy = open(stated(preparation.clone(), "bridge_orig")).unwrap();
        assert_eq!(*policy.preparation(), preparation);
        if name != "simpler" {
            let expected = Preparer::new(preparation).unwrap().rgb(&image()).unwrap();
            assert!(policy.prepare(&image()).unwrap() == expected, "{name}");
        } else {
            // INTER_AREA only reduces, and the image is 200 pixels high.
            assert!(policy.prepare(&image()).is_err());
        }
    }
    let mut own = open(PreparationRule::default()).unwrap();
    assert_eq!(*own.preparation(), Preparation::plain(224).unwrap());
    assert_eq!(own.prepare(&image()).unwrap().size(), Size::square(224));
}

#[test]
fn rules_that_do_not_fit_are_refused() {
    let text = |rule| open(rule).err().unwrap().to_string();
    let libero = pipeline("libero", 224).unwrap();
    let other = text(stated(libero, "libero_10"));
    assert!(other.contains("'bridge_orig' are none of the policy file's"), "{other}");
    let others = BTreeMap::from([("bridge_orig".to_owned(), "some.yaml".to_owned())]);
    let needs = text(PreparationRule::Own { others });
    assert!(needs.contains("config/policies/some.yaml"), "{needs}");
    let size = text(stated(Preparation::plain(336).unwrap(), "bridge_orig"));
    assert!(size.contains("336 x 336") && size.contains("224 x 224"), "{size}");
    let torch = vec![Operation::TorchBilinearPad(Size::square(224)).into()];
    let floats = text(stated(Preparation::new(torch).unwrap(), "bridge_orig"));
    assert!(floats.contains("floating-point pixels"), "{floats}");
}
