#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

/// A pass of Pillow's definition along one axis: `lines` lines of `length` pixels, with the
/// distances between pixels and between lines in bytes.
fn pass(
    (filter, length, to): (Filter, usize, usize),
    pixels: &[u8],
    (lines, pixel, line): (usize, usize, usize),
    mut put: impl FnMut(usize, usize, [u8; 3]),
) {
    let coefficients = Coefficients::new(filter, length, to);
    for (y, x) in (0..lines).flat_map(|y| (0..to).map(move |x| (y, x))) {
        let (first, weights) = coefficients.taps_of(x);
        let rounded = |channel: usize| {
            let value = |tap: usize| i64::from(pixels[y * line + (first + tap) * pixel + channel]);
            let products =
                weights.iter().enumerate().map(|(tap, &weight)| value(tap) * i64::from(weight));
            let sum = products.sum::<i64>() + (1 << (PRECISION_BITS - 1));
            (sum >> PRECISION_BITS).clamp(0, 255) as u8
        };
        put(y, x, [rounded(0), rounded(1), rounded(2)]);
    }
}

/// Pillow's definition, pixel by pixel.
fn plain(image: &RgbImage, filter: Filter, size: Size) -> Vec<u8> {
    let (from, to) = (image.size(), size);
    let row = to.width * 3;
    let mut between = vec![0; from.height * row];
    if from.width == to.width {
        between.copy_from_slice(image.pixels());
    } else {
        let axis = (filter, from.width, to.width);
        let lines = (from.height, 3, from.width * 3);
        pass(axis, image.pixels(), lines, |y, x, pixel| {
            between[y * row + x * 3..][..3].copy_from_slice(&pixel);
        });
    }
    if from.height == to.height {
        return between;
    }
    let mut out = vec![0; to.height * row];
    pass((filter, from.height, to.height), &between, (to.width, row, 3), |x, y, pixel| {
        out[y * row + x * 3..][..3].copy_from_slice(&pixel);
    });
    out
}

proptest! {
    #[test]
    fn any_size_follows_the_definition(
        sizes in proptest::collection::vec((1usize..70, 1usize..70), 1..4),
        (width, height) in (1usize..40, 1usize..40),
        bicubic in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let filter = if bicubic { Filter::Bicubic } else { Filter::Bilinear };
        let size = Size { width, height };
        let mut resizer = Resizer::with_filter(filter, size).unwrap();
        let mut state = u64::from(seed);
        for (width, height) in sizes {
            let pixels = (0..width * height * 3).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 55) as u8).wrapping_mul(5)
            });
            let image = RgbImage::new(width, height, pixels.collect()).unwrap();
            let (ours, pillow) = (resizer.resize(&image), plain(&image, filter, size));
            prop_assert_eq!(ours, pillow, "{:?} {} x {} to {}", filter, width, height, size);
        }
    }
}

#[test]
fn a_constant_image_stays_constant() {
    for filter in [Filter::Bicubic, Filter::Bilinear] {
        let size = Size { width: 8, height: 9 };
        let mut resizer = Resizer::with_filter(filter, size).unwrap();
        for (width, height) in [(1, 1), (8, 8), (8, 9), (3, 50), (17, 8), (640, 480)] {
            let image = RgbImage::new(width, height, [7, 130, 255].repeat(width * height)).unwrap();
            assert_eq!(resizer.resize(&image), [7, 130, 255].repeat(72), "{width} x {height}");
        }
    }
}

#[test]
fn weights_sum_to_one_within_rounding() {
    for (filter, input) in [Filter::Bicubic, Filter::Bilinear]
        .into_iter()
        .flat_map(|filter| [1, 5, 223, 224, 225, 1920, 8192].map(|input| (filter, input)))
    {
        let coefficients = Coefficients::new(filter, input, 224);
        for position in 0..224 {
            let (_, weights) = coefficients.taps_of(position);
            let sum: i32 = weights.iter().sum();
            assert!(
                (sum - (1 << PRECISION_BITS)).unsigned_abs() as usize <= weights.len(),
                "{input} {position}"
            );
        }
    }
}
