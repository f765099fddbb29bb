//! LeRobot's resize with margins, to float pixels, bit for bit.
//!
//! `resize_with_pad_torch` of LeRobot's pi0 and pi0.5: `F.interpolate(mode="bilinear",
//! align_corners=False)` without antialiasing on float32 pixels from 0 to 1, black margins, then
//! `2 v - 1`. Torch's CPU kernels with fused multiply-add (AVX2, AVX-512) compute a value as the
//! rounded product of the top right pixel, to which top left, bottom left and bottom right are
//! added; positions are `fused(scale, i + 0.5, -0.5)`. Source: torch 2.11,
//! `aten/src/ATen/native/cpu/UpSampleKernel.cpp`.

use super::ImageError;
use super::pad::{Placement, placement};
use super::preparation::{Size, View};

/// Order of float pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[3, height, width]`: planes.
    Chw,
    /// `[height, width, 3]`: pixels.
    Hwc,
}

/// Resizes to a fixed size with margins; keeps its plan and buffers between images.
#[derive(Default)]
pub(super) struct TorchBilinearPad {
    size: Size,
    plan: Option<Plan>,
    /// Left and right neighbours of every output column of two rows, as floats, a plane for each
    /// channel.
    left: [Vec<f32>; 2],
    right: [Vec<f32>; 2],
    row: Vec<f32>,
}

struct Plan {
    from: Size,
    placement: Placement,
    horizontal: Vec<Position>,
    vertical: Vec<Position>,
    /// Weights of the right neighbours, repeated for the three channels.
    right_weights: Vec<f32>,
    /// Weights of the left neighbours, alike.
    left_weights: Vec<f32>,
}

/// Two input positions and the weight of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Position {
    lower: usize,
    upper: usize,
    weight: f32,
}

/// A pixel from -1 to 1.
#[inline(always)]
pub(super) fn signed(value: f32) -> f32 {
    value * 2.0 - 1.0
}

fn positions(input: usize, output: usize) -> Vec<Position> {
    let scale = input as f32 / output as f32;
    let place = |index: usize| {
        let position = scale.mul_add(index as f32 + 0.5, -0.5).max(0.0);
        let lower = (position as usize).min(input - 1);
        let weight = (position - lower as f32).clamp(0.0, 1.0);
        Position { lower, upper: (lower + 1).min(input - 1), weight }
    };
    (0..output).map(place).collect()
}

impl Plan {
    fn new(from: Size, to: Size) -> Result<Self, ImageError> {
        let placement = placement(from, to)?;
        let horizontal = positions(from.width, placement.inner.width);
        let weights = horizontal.iter().map(|position| position.weight);
        let right_weights: Vec<f32> = std::iter::repeat_n(weights, 3).flatten().collect();
        Ok(Self {
            from,
            placement,
            vertical: positions(from.height, placement.inner.height),
            horizontal,
            left_weights: right_weights.iter().map(|weight| 1.0 - weight).collect(),
            right_weights,
        })
    }
}

impl TorchBilinearPad {
    pub(super) fn new(size: Size) -> Self {
        Self { size, ..Self::default() }
    }

    /// Pixels from -1 to 1, `3 * height * width` values.
    pub(super) fn apply(
        &mut self,
        image: View<'_>,
        layout: Layout,
        out: &mut Vec<f32>,
    ) -> Result<(), ImageError> {
        if image.size == self.size {
            bytes_to_floats(image, layout, out);
            return Ok(());
        }
        let plan = match self.plan.take() {
            Some(plan) if plan.from == image.size => plan,
            _ => Plan::new(image.size, self.size)?,
        };
        let plan = self.plan.insert(plan);
        let Placement { inner, left, top } = plan.placement;
        out.clear();
        out.resize(self.size.width * self.size.height * 3, -1.0);
        let values = inner.width * 3;
        for lines in self.left.iter_mut().chain(&mut self.right) {
            lines.resize(values, 0.0);
        }
        self.row.resize(values, 0.0);
        // The input rows that the two slots hold.
        let mut held = [usize::MAX; 2];
        for (y, position) in plan.vertical.iter().enumerate() {
            if held[0] != position.lower && held[1] == position.lower {
                held.swap(0, 1);
                self.left.swap(0, 1);
                self.right.swap(0, 1);
            }
            for (slot, row) in [position.lower, position.upper].into_iter().enumerate() {
                if held[slot] != row {
                    let bytes = image.size.width * 3;
                    let pixels = &image.pixels[row * bytes..(row + 1) * bytes];
                    neighbours(
                        (&mut self.left[slot], &mut self.right[slot]),
                        pixels,
                        &plan.horizontal,
                    );
                    held[slot] = row;
                }
            }
            let lines = [&self.left[0], &self.right[0], &self.left[1], &self.right[1]];
            let weights = (plan.left_weights.as_slice(), plan.right_weights.as_slice());
            blend(&mut self.row, lines.map(Vec::as_slice), weights, position.weight);
            put_row(out, &self.row, (self.size, layout), (left, top + y));
        }
        Ok(())
    }
}

/// Float neighbours of the output columns in an input row, a plane for each channel.
fn neighbours((left, right): (&mut [f32], &mut [f32]), pixels: &[u8], positions: &[Position]) {
    let pixels = pixels.as_chunks::<3>().0;
    let width = positions.len();
    for channel in 0..3 {
        let left = left[channel * width..].iter_mut();
        for (position, (left, right)) in
            positions.iter().zip(left.zip(&mut right[channel * width..]))
        {
            *left = UNITS[usize::from(pixels[position.lower][channel])];
            *right = UNITS[usize::from(pixels[position.upper][channel])];
        }
    }
}

/// Every byte divided by 255 as torch does it.
static UNITS: [f32; 256] = {
    let mut units = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        units[byte] = byte as f32 / 255.0;
        byte += 1;
    }
    units
};

/// An output row from its top left, top right, bottom left and bottom right neighbours, the weights
/// of the left and right ones, and the weight of the lower ones.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn blend(out: &mut [f32], lines: [&[f32]; 4], (left, right): (&[f32], &[f32]), lower: f32) {
    let upper = 1.0 - lower;
    let count = out.len();
    let (left, right) = (&left[..count], &right[..count]);
    let [top_left, top_right, bottom_left, bottom_right] = lines.map(|line| &line[..count]);
    for i in 0..count {
        let value = top_right[i] * (upper * right[i]);
        let value = top_left[i].mul_add(upper * left[i], value);
        let value = bottom_left[i].mul_add(lower * left[i], value);
        let value = bottom_right[i].mul_add(lower * right[i], value);
        out[i] = signed(value.clamp(0.0, 1.0));
    }
}

/// Puts a row of three planes at (`left`, `y`) of the result.
fn put_row(out: &mut [f32], row: &[f32], (size, layout): (Size, Layout), at: (usize, usize)) {
    let (left, y) = at;
    let width = row.len() / 3;
    for (channel, row) in row.chunks_exact(width).enumerate() {
        match layout {
            Layout::Chw => {
                let start = (channel * size.height + y) * size.width + left;
                out[start..start + width].copy_from_slice(row);
            }
            Layout::Hwc => {
                let start = (y * size.width + left) * 3 + channel;
                for (out, value) in out[start..].iter_mut().step_by(3).zip(row) {
                    *out = *value;
                }
            }
        }
    }
}

/// Bytes as pixels from -1 to 1: `v / 255 * 2 - 1`, as openpi and LeRobot compute it.
pub(super) fn bytes_to_floats(image: View<'_>, layout: Layout, out: &mut Vec<f32>) {
    out.clear();
    let value = |byte: &u8| signed(UNITS[usize::from(*byte)]);
    match layout {
        Layout::Hwc => out.extend(image.pixels.iter().map(value)),
        Layout::Chw => {
            let pixels = image.pixels.as_chunks::<3>().0;
            for channel in 0..3 {
                out.extend(pixels.iter().map(|pixel| value(&pixel[channel])));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// The definition, pixel by pixel, planes.
    fn plain(from: Size, to: Size, pixels: &[u8]) -> Vec<f32> {
        let Placement { inner, left, top } = placement(from, to).unwrap();
        let (across, down) =
            (positions(from.width, inner.width), positions(from.height, inner.height));
        let mut out = vec![-1.0; to.width * to.height * 3];
        for (channel, (y, x)) in (0..3).flat_map(|channel| {
            let places = (0..inner.height).flat_map(|y| (0..inner.width).map(move |x| (y, x)));
            places.map(move |place| (channel, place))
        }) {
            let (h, v) = (across[x], down[y]);
            let at =
                |x: usize, y: usize| f32::from(pixels[(y * from.width + x) * 3 + channel]) / 255.0;
            let value = at(h.upper, v.lower) * ((1.0 - v.weight) * h.weight);
            let value = at(h.lower, v.lower).mul_add((1.0 - v.weight) * (1.0 - h.weight), value);
            let value = at(h.lower, v.upper).mul_add(v.weight * (1.0 - h.weight), value);
            let value = at(h.upper, v.upper).mul_add(v.weight * h.weight, value);
            out[(channel * to.height + top + y) * to.width + left + x] =
                value.clamp(0.0, 1.0) * 2.0 - 1.0;
        }
        out
    }

    proptest! {
        #[test]
        fn any_size_follows_the_definition(
            sizes in proptest::collection::vec((1usize..70, 1usize..70), 1..4),
            // Large enough that no side of the image vanishes.
            side in 70usize..100,
            seed in any::<u64>(),
        ) {
            let to = Size::square(side);
            let mut resize = TorchBilinearPad::new(to);
            let (mut out, mut state) = (Vec::new(), seed);
            for (width, height) in sizes {
                let from = Size { width, height };
                let pixels: Vec<u8> = (0..width * height * 3).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                }).collect();
                resize.apply(View { size: from, pixels: &pixels }, Layout::Chw, &mut out).unwrap();
                prop_assert!(out == plain(from, to, &pixels), "{} to {}", from, to);
            }
        }
    }
}
