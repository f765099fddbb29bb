//! Which arrays are pictures, and the bytes that they become.
#![allow(clippy::unwrap_used)]

use vla_wire::picture::{PictureLimits, Rgb, from_openpi, from_pillow};
use vla_wire::{Dtype, NdArray};

const LIMITS: PictureLimits = PictureLimits { pixels: 12 };

fn bytes(shape: &[usize]) -> NdArray {
    let count = shape.iter().product::<usize>();
    let data = (0..count).map(|index| index as u8).collect();
    NdArray::new(Dtype::U8, shape.to_vec(), data).unwrap()
}

#[test]
fn what_pillow_takes() {
    let rgb = from_pillow(bytes(&[2, 1, 3]), &LIMITS).unwrap();
    assert_eq!(rgb, Rgb { width: 1, height: 2, pixels: vec![0, 1, 2, 3, 4, 5] });
    assert_eq!(from_pillow(bytes(&[1, 2]), &LIMITS).unwrap().pixels, [0, 0, 0, 1, 1, 1]);
    let alpha = from_pillow(bytes(&[1, 2, 4]), &LIMITS).unwrap().pixels;
    assert_eq!(alpha, [0, 1, 2, 4, 5, 6]);
    let floats = NdArray::single(vec![1, 1, 3], &[0.0; 3]).unwrap();
    for (array, expected) in [
        (bytes(&[3]), "is no picture"),
        (bytes(&[1, 1, 2]), "is no picture"),
        (bytes(&[1, 2, 2, 3]), "is no picture"),
        (floats, "is no picture"),
        (bytes(&[0, 4, 3]), "no pixels"),
        (bytes(&[13, 1, 3]), "more than 12 pixels"),
    ] {
        let error = from_pillow(array, &LIMITS).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_openpi_takes() {
    let rows = from_openpi(bytes(&[2, 4, 3]), &LIMITS).unwrap();
    assert_eq!((rows.height, rows.width, rows.pixels.len()), (2, 4, 24));
    let planes = from_openpi(bytes(&[3, 1, 2]), &LIMITS).unwrap();
    assert_eq!((planes.height, planes.width), (1, 2));
    assert_eq!(planes.pixels, [0, 2, 4, 1, 3, 5]);
    // (255 * np.float32([0, 0.1, 1])).astype(np.uint8)
    let floats = NdArray::single(vec![1, 1, 3], &[0.0, 0.1, 1.0]).unwrap();
    assert_eq!(from_openpi(floats, &LIMITS).unwrap().pixels, [0, 25, 255]);
    for wrong in [1.5f32, -0.1, f32::NAN, 255.0] {
        let array = NdArray::single(vec![1, 1, 3], &[0.0, wrong, 1.0]).unwrap();
        let error = from_openpi(array, &LIMITS).unwrap_err().to_string();
        assert!(error.contains("values from 0 to 1"), "{error}");
    }
    for (array, expected) in [
        (bytes(&[3, 4, 3]), "cannot be known"),
        (bytes(&[4, 4]), "is no picture"),
        (bytes(&[3, 13, 1]), "more than 12 pixels"),
        (bytes(&[3, 0, 1]), "no pixels"),
    ] {
        let error = from_openpi(array, &LIMITS).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
