//! LeRobot's image preparation for pi0, bit for bit: bytes to 0..1, bilinear without antialiasing
//! in float32 into the middle of the target, zero padding, then to -1..1
//! (`resize_with_pad_torch` of `lerobot/policies/pi0/modeling_pi0.py`, torch's CPU kernel with fused
//! multiply-add).

use multiversion::multiversion;

use super::RgbImage;

/// Two neighbours along one axis and their weights.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weights: [f32; 2],
}

/// Neighbours of each of `outputs` positions: half-pixel centres, clamped at the first.
fn taps(inputs: usize, outputs: usize) -> Vec<Tap> {
    let scale = inputs as f32 / outputs as f32;
    (0..outputs)
        .map(|at| {
            let source = scale.mul_add(at as f32 + 0.5, -0.5).max(0.0);
            let first = (source as usize).min(inputs - 1);
            let second = (first + 1).min(inputs - 1);
            let fraction = source - first as f32;
            Tap { first, second, weights: [1.0 - fraction, fraction] }
        })
        .collect()
}

/// One row of one channel; the order of the four products is torch's.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn row(out: &mut [f32], [top, bottom]: [&[f32]; 2], [w_top, w_bottom]: [f32; 2], across: &[Tap]) {
    for (out, tap) in out.iter_mut().zip(across) {
        let [left, right] = tap.weights;
        let mut sum = (w_top * right) * top[tap.second];
        sum = (w_top * left).mul_add(top[tap.first], sum);
        sum = (w_bottom * left).mul_add(bottom[tap.first], sum);
        sum = (w_bottom * right).mul_add(bottom[tap.second], sum);
        *out = sum.clamp(0.0, 1.0) * 2.0 - 1.0;
    }
}

/// Height and width of the image inside a target of `height` x `width`, as LeRobot computes them.
#[must_use]
pub fn fitted(image: [usize; 2], target: [usize; 2]) -> [usize; 2] {
    let [h, w] = image.map(|side| side as f64);
    let ratio = (w / target[1] as f64).max(h / target[0] as f64);
    let side = |side: f64, limit: usize| ((side / ratio) as usize).clamp(1, limit);
    [side(h, target[0]), side(w, target[1])]
}

/// The image in the middle of `[3, height, width]` values from -1 to 1, channels RGB; the padding
/// is -1, and an odd pixel of it is at the right or at the bottom.
#[must_use]
pub fn torch_bilinear_pad(image: &RgbImage, [height, width]: [usize; 2]) -> Vec<f32> {
    let unit: [f32; 256] = std::array::from_fn(|byte| byte as f32 / 255.0);
    let [rows, columns] = fitted([image.height(), image.width()], [height, width]);
    let (top, left) = ((height - rows) / 2, (width - columns) / 2);
    let (down, across) = (taps(image.height(), rows), taps(image.width(), columns));
    let mut out = vec![-1.0; 3 * height * width];
    for (channel, plane) in out.chunks_exact_mut(height * width).enumerate() {
        let line = |y: usize| -> Vec<f32> {
            let start = y * image.width() * 3;
            let bytes = image.pixels()[start..start + image.width() * 3].iter();
            bytes.skip(channel).step_by(3).map(|&byte| unit[usize::from(byte)]).collect()
        };
        // Consecutive rows share their neighbours.
        let mut known: [(usize, Vec<f32>); 2] = [(0, line(0)), (0, line(0))];
        for (tap, out) in down.iter().zip(plane[top * width..].chunks_exact_mut(width)) {
            if known[1].0 == tap.first {
                known.swap(0, 1);
            }
            for (slot, y) in known.iter_mut().zip([tap.first, tap.second]) {
                if slot.0 != y {
                    *slot = (y, line(y));
                }
            }
            let lines = [known[0].1.as_slice(), known[1].1.as_slice()];
            row(&mut out[left..left + columns], lines, tap.weights, &across);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_targets_own_size_is_only_scaled() {
        let pixels: Vec<u8> = (0..28 * 28 * 3).map(|at| (at * 7 % 256) as u8).collect();
        let image = RgbImage::new(28, 28, pixels.clone()).unwrap();
        let out = torch_bilinear_pad(&image, [28, 28]);
        for (at, byte) in pixels.iter().enumerate() {
            let (pixel, channel) = (at / 3, at % 3);
            assert_eq!(out[channel * 784 + pixel], f32::from(*byte) / 255.0 * 2.0 - 1.0);
        }
    }

    #[test]
    fn the_rest_is_padding_and_an_odd_pixel_goes_right_or_down() {
        assert_eq!(fitted([200, 300], [224, 224]), [149, 224]);
        assert_eq!(fitted([640, 480], [224, 224]), [224, 168]);
        let white = RgbImage::new(300, 200, vec![255; 300 * 200 * 3]).unwrap();
        let out = torch_bilinear_pad(&white, [224, 224]);
        let filled = |y: usize| out[y * 224..(y + 1) * 224].iter().all(|&v| v == 1.0);
        let padding = |y: usize| out[y * 224..(y + 1) * 224].iter().all(|&v| v == -1.0);
        assert!((0..37).all(padding) && (37..186).all(filled) && (186..224).all(padding));
    }
}
