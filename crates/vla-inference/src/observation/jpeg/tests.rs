#![allow(clippy::unwrap_used)]
use super::super::preparation::{Size, View};
use super::blocks::Divisor;
use super::*;
use proptest::prelude::*;

/// The round trip as its definition reads: one sample, one block at a time.
mod plain {
    use super::{CHROMA, LUMA};

    const AAN: [f64; 8] = [
        1.0,
        1.387_039_845,
        1.306_562_965,
        1.175_875_602,
        1.0,
        0.785_694_958,
        0.541_196_100,
        0.275_899_379,
    ];

    pub struct Plane {
        pub width: usize,
        pub height: usize,
        pub values: Vec<i64>,
    }

    impl Plane {
        fn at(&self, x: usize, y: usize) -> i64 {
            self.values[y.min(self.height - 1) * self.width + x.min(self.width - 1)]
        }

        fn of(width: usize, height: usize, value: impl Fn(usize, usize) -> i64) -> Self {
            let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
            Self { width, height, values: places.map(|(x, y)| value(x, y)).collect() }
        }
    }

    fn wrap(value: i64) -> i64 {
        i64::from(value as i16)
    }

    fn rounded(value: i64, bits: u32) -> i64 {
        (value + (1 << (bits - 1))) >> bits
    }

    fn dct(d: [i64; 8], rows: bool) -> [i64; 8] {
        let bits = if rows { 11 } else { 15 };
        let t: Vec<i64> = (0..4).map(|i| d[i] + d[7 - i]).collect();
        let (t7, t6, t5, t4) = (d[0] - d[7], d[1] - d[6], d[2] - d[5], d[3] - d[4]);
        let (a, e, b, c) = (t[0] + t[3], t[0] - t[3], t[1] + t[2], t[1] - t[2]);
        let outer = |value: i64| if rows { value << 2 } else { rounded(value, 2) };
        let z = 4433 * (c + e);
        let z5 = 9633 * (t4 + t6 + t5 + t7);
        let (z1, z2) = (-7373 * (t4 + t7), -20995 * (t5 + t6));
        let (z3, z4) = (z5 - 16069 * (t4 + t6), z5 - 3196 * (t5 + t7));
        [
            outer(a + b),
            rounded(12299 * t7 + z1 + z4, bits),
            rounded(z + 6270 * e, bits),
            rounded(25172 * t6 + z2 + z3, bits),
            outer(a - b),
            rounded(16819 * t5 + z2 + z4, bits),
            rounded(z - 15137 * c, bits),
            rounded(2446 * t4 + z1 + z3, bits),
        ]
    }

    fn idct(d: [i64; 8]) -> [i64; 8] {
        let m = |x: i64, k: i64| wrap((wrap(4 * x) * 64 * k) >> 16);
        let (a, b, e) = (wrap(d[0] + d[4]), wrap(d[0] - d[4]), wrap(d[2] + d[6]));
        let f = wrap(m(wrap(d[2] - d[6]), 362) - e);
        let (t0, t3, t1, t2) = (wrap(a + e), wrap(a - e), wrap(b + f), wrap(b - f));
        let (z13, z10) = (wrap(d[5] + d[3]), wrap(d[5] - d[3]));
        let (z11, z12) = (wrap(d[1] + d[7]), wrap(d[1] - d[7]));
        let t7 = wrap(z11 + z13);
        let z5 = wrap((wrap(wrap(4 * z10) + wrap(4 * z12)) * 64 * 473) >> 16);
        let t6 = wrap(wrap(wrap(m(z10, -413) - z10) + z5) - t7);
        let t5 = wrap(m(wrap(z11 - z13), 362) - t6);
        let t4 = wrap(wrap(m(z12, 277) - z5) + t5);
        let sums = [t0 + t7, t1 + t6, t2 + t5, t3 - t4, t3 + t4, t2 - t5, t1 - t6, t0 - t7];
        sums.map(wrap)
    }

    fn block(samples: [i64; 64], table: &[u8; 64]) -> [i64; 64] {
        let mut v = samples.map(|value| value - 128);
        for y in 0..8 {
            let row = dct(std::array::from_fn(|i| v[y * 8 + i]), true);
            v[y * 8..y * 8 + 8].copy_from_slice(&row);
        }
        for x in 0..8 {
            let column = dct(std::array::from_fn(|i| v[i * 8 + x]), false);
            (0..8).for_each(|i| v[i * 8 + x] = column[i]);
        }
        for (i, value) in v.iter_mut().enumerate() {
            let q = ((i64::from(table[i]) * 10 + 50) / 100).clamp(1, 255);
            let scale = (16384.0 * AAN[i / 8] * AAN[i % 8] + 0.5).trunc() as i64;
            let coefficient = value.signum() * ((value.abs() + 4 * q) / (8 * q));
            *value = wrap(coefficient * ((q * scale + 2048) >> 12));
        }
        for x in 0..8 {
            let column = idct(std::array::from_fn(|i| v[i * 8 + x]));
            (0..8).for_each(|i| v[i * 8 + x] = column[i]);
        }
        for y in 0..8 {
            let row = idct(std::array::from_fn(|i| v[y * 8 + i]));
            v[y * 8..y * 8 + 8].copy_from_slice(&row);
        }
        v.map(|value| ((value >> 5) + 128).clamp(0, 255))
    }

    fn through_blocks(plane: &Plane, table: &[u8; 64]) -> Plane {
        let mut out = Plane::of(plane.width, plane.height, |_, _| 0);
        for (y, x) in (0..plane.height)
            .step_by(8)
            .flat_map(|y| (0..plane.width).step_by(8).map(move |x| (y, x)))
        {
            let done = block(std::array::from_fn(|i| plane.at(x + i % 8, y + i / 8)), table);
            for (i, value) in done.into_iter().enumerate() {
                if x + i % 8 < plane.width && y + i / 8 < plane.height {
                    out.values[(y + i / 8) * plane.width + x + i % 8] = value;
                }
            }
        }
        out
    }

    fn smooth(plane: &Plane, x: usize, y: usize) -> i64 {
        if plane.width <= 2 {
            return plane.at(x / 2, y / 2);
        }
        let far = if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 };
        let v = |x: usize| 3 * plane.at(x, y / 2) + plane.at(x, far);
        let centre = x / 2;
        match (x % 2, centre) {
            (0, 0) => (4 * v(0) + 8) >> 4,
            (0, _) => (3 * v(centre) + v(centre - 1) + 8) >> 4,
            (_, last) if last + 1 == plane.width => (4 * v(last) + 7) >> 4,
            _ => (3 * v(centre) + v(centre + 1) + 7) >> 4,
        }
    }

    pub fn round_trip(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
        let weighted = |r: i64, g: i64, b: i64, add: i64| {
            Plane::of(width, height, |x, y| {
                let pixel = &pixels[(y * width + x) * 3..][..3];
                let [red, green, blue] = [0, 1, 2].map(|i| i64::from(pixel[i]));
                (r * red + g * green + b * blue + add) >> 16
            })
        };
        let half = |plane: Plane| {
            Plane::of(width.div_ceil(16) * 8, height.div_ceil(2), |x, y| {
                let sum: i64 = [(0, 0), (1, 0), (0, 1), (1, 1)]
                    .map(|(i, j)| plane.at(2 * x + i, 2 * y + j))
                    .iter()
                    .sum();
                (sum + 1 + (x as i64 & 1)) >> 2
            })
        };
        let luma = through_blocks(&weighted(19595, 38470, 7471, 32768), &LUMA);
        let [blue, red] = [(-11059, -21709, 32768), (32768, -27439, -5329)].map(|(r, g, b)| {
            let done = through_blocks(&half(weighted(r, g, b, 8_421_375)), &CHROMA);
            Plane::of(width.div_ceil(2), done.height, |x, y| done.at(x, y))
        });
        let mut out = Vec::new();
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            let (l, cb, cr) = (luma.at(x, y), smooth(&blue, x, y) - 128, smooth(&red, x, y) - 128);
            let r = l + ((91881 * cr + 32768) >> 16);
            let g = l + ((-22554 * cb - 46802 * cr + 32768) >> 16);
            let b = l + ((116_130 * cb + 32768) >> 16);
            out.extend([r, g, b].map(|value| value.clamp(0, 255) as u8));
        }
        out
    }
}

fn noise(count: usize, seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
}

/// Pictures of all kinds: noise, black and white noise, and full-contrast squares of 1 to 8 pixels,
/// which wrap in 16 bits.
fn picture(width: usize, height: usize, kind: usize, seed: u64) -> Vec<u8> {
    let count = width * height * 3;
    match kind {
        0 => noise(count, seed).collect(),
        1 => noise(count, seed).map(|value| if value < 128 { 0 } else { 255 }).collect(),
        kind => {
            let side = kind - 1;
            let white =
                move |i: usize| (i / 3 % width / side + i / 3 / width / side).is_multiple_of(2);
            let channel = seed as usize % 4;
            (0..count)
                .map(|i| if white(i) && (channel == 3 || i % 3 != channel) { 255 } else { 0 })
                .collect()
        }
    }
}

proptest! {
    #[test]
    fn any_size_follows_the_definition(
        sizes in proptest::collection::vec((1usize..70, 1usize..70), 1..3),
        wide in 1usize..300,
        kind in 0usize..10,
        seed in any::<u64>(),
    ) {
        // One instance for all images, so that remains of an earlier image would show.
        let mut jpeg = JpegRoundTrip::new();
        let mut out = Vec::new();
        for (width, height) in sizes.into_iter().chain([(wide, 9)]) {
            let pixels = picture(width, height, kind, seed);
            let view = View { size: Size { width, height }, pixels: &pixels };
            jpeg.apply(view, &mut out);
            let plain = plain::round_trip(width, height, &pixels);
            prop_assert!(out == plain, "{} x {} of kind {}", width, height, kind);
        }
    }
}

#[test]
fn some_pictures_wrap() {
    let mut jpeg = JpegRoundTrip::new();
    let mut out = Vec::new();
    let farthest = (2..10).map(|kind| {
        let pixels = picture(64, 64, kind, 3);
        jpeg.apply(View { size: Size { width: 64, height: 64 }, pixels: &pixels }, &mut out);
        out.iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    });
    assert!(farthest.max().unwrap() > 200, "no picture of this test reaches the wrap");
}

#[test]
fn division_is_exact() {
    for step in 1..=255u16 {
        let divisor = Divisor::new(step);
        let q = i32::from(step);
        for value in -8192..=8192i32 {
            let expected = value.signum() * ((value.abs() + 4 * q) / (8 * q));
            assert_eq!(i32::from(divisor.divide(value)), expected, "{value} by {step}");
        }
    }
}

#[test]
fn steps_are_those_of_quality_95() {
    let luma = blocks::steps_at_quality_95(&LUMA);
    assert_eq!(luma[..8], [2, 1, 1, 2, 2, 4, 5, 6]);
    let chroma = blocks::steps_at_quality_95(&CHROMA);
    assert_eq!(chroma[..8], [2, 2, 2, 5, 10, 10, 10, 10]);
}
