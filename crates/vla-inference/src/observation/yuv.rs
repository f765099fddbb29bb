//! YUV images as OpenCV converts them, byte for byte.
//!
//! ITU-R BT.601, limited range (luma 16..235), in OpenCV's 20-bit fixed point, each chroma sample
//! repeated for its pixels: what cv_bridge gives for `yuv422` and `yuv422_yuy2`, and what cameras
//! of the USB video class send. `sensor_msgs/Image` has no field for another matrix or range.
//! Source: OpenCV 4.9, `modules/imgproc/src/color_yuv.simd.hpp`.

/// A layout of luma and chroma in the rows of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum YuvLayout {
    /// 4:2:2, bytes `U Y V Y`.
    Uyvy,
    /// 4:2:2, bytes `Y U Y V`.
    Yuyv,
    /// 4:2:0, a plane of luma, then rows of `U V` for two rows each.
    Nv12,
    /// 4:2:0, as NV12 with `V U`.
    Nv21,
    /// 4:4:4, a plane of luma, then rows of `U V`, twice as long.
    Nv24,
}

const SHIFT: u32 = 20;
const ROUND: i32 = 1 << (SHIFT - 1);

impl YuvLayout {
    /// Bytes of a row that hold `width` pixels: the longest of luma and chroma rows with that
    /// distance.
    pub(super) fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Uyvy | Self::Yuyv => width.div_ceil(2) * 4,
            Self::Nv12 | Self::Nv21 => width.next_multiple_of(2),
            Self::Nv24 => width,
        }
    }

    /// Rows of the message for `height` rows of pixels, chroma included.
    pub(super) fn rows(self, height: usize) -> usize {
        match self {
            Self::Uyvy | Self::Yuyv => height,
            Self::Nv12 | Self::Nv21 => height + height.div_ceil(2),
            Self::Nv24 => 3 * height,
        }
    }

    /// The pixels of `width * height * 3` bytes. `data` has [`YuvLayout::rows`] rows of
    /// [`YuvLayout::row_bytes`], `step` bytes apart.
    pub(super) fn to_rgb(
        self,
        (width, height): (usize, usize),
        step: usize,
        data: &[u8],
        out: &mut [u8],
    ) {
        let used = self.row_bytes(width);
        let row = |y: usize| &data[y * step..y * step + used];
        let pairs = width.div_ceil(2);
        let (mut luma, mut u, mut v) = (vec![0; 2 * pairs], vec![0; 2 * pairs], vec![0; 2 * pairs]);
        let mut terms = Terms([0, 1, 2].map(|_| vec![0; 2 * pairs]));
        for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
            match self {
                Self::Uyvy | Self::Yuyv => {
                    let (luma, u, v) = (&mut luma, &mut u[..pairs], &mut v[..pairs]);
                    match self {
                        Self::Uyvy => split_uyvy(row(y), luma, u, v),
                        _ => split_yuyv(row(y), luma, u, v),
                    }
                    terms.of_pairs(u, v);
                }
                Self::Nv12 | Self::Nv21 => {
                    luma.copy_from_slice(row(y));
                    // Two rows share a row of chroma.
                    if y % 2 == 0 {
                        let (u, v) = (&mut u[..pairs], &mut v[..pairs]);
                        let chroma = row(height + y / 2);
                        match self {
                            Self::Nv12 => split(chroma, u, v),
                            _ => split(chroma, v, u),
                        }
                        terms.of_pairs(u, v);
                    }
                }
                Self::Nv24 => {
                    luma[..width].copy_from_slice(row(y));
                    // A chroma row takes two steps; its end may lie in the second one's padding.
                    let start = (height + 2 * y) * step;
                    split(&data[start..start + 2 * width], &mut u, &mut v);
                    terms.of_pixels(&u, &v);
                }
            }
            let Terms([red, green, blue]) = &terms;
            convert(&luma[..width], red, green, blue, out);
        }
    }
}

/// Red, green and blue of a row's chroma, for every pixel, before the luma is added.
struct Terms([Vec<i32>; 3]);

impl Terms {
    /// From a chroma sample for each pair of pixels.
    fn of_pairs(&mut self, u: &[u8], v: &[u8]) {
        let [red, green, blue] = &mut self.0;
        twice(u, v, red, green, blue);
    }

    /// From a chroma sample for each pixel.
    fn of_pixels(&mut self, u: &[u8], v: &[u8]) {
        let [red, green, blue] = &mut self.0;
        let out = red.iter_mut().zip(green.iter_mut().zip(blue));
        for ((u, v), (red, (green, blue))) in u.iter().zip(v).zip(out) {
            [*red, *green, *blue] = chroma(*u, *v);
        }
    }
}

#[inline(always)]
fn chroma(u: u8, v: u8) -> [i32; 3] {
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    [ROUND + 1_673_527 * v, ROUND - 852_492 * v - 409_993 * u, ROUND + 2_116_026 * u]
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn twice(u: &[u8], v: &[u8], red: &mut [i32], green: &mut [i32], blue: &mut [i32]) {
    let red = red.as_chunks_mut::<2>().0.iter_mut();
    let others = green.as_chunks_mut::<2>().0.iter_mut().zip(blue.as_chunks_mut::<2>().0);
    for ((u, v), (red, (green, blue))) in u.iter().zip(v).zip(red.zip(others)) {
        let [r, g, b] = chroma(*u, *v);
        (*red, *green, *blue) = ([r; 2], [g; 2], [b; 2]);
    }
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_uyvy(row: &[u8], luma: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    let out = luma.as_chunks_mut::<2>().0.iter_mut().zip(u.iter_mut().zip(v));
    for (four, (luma, (u, v))) in row.as_chunks::<4>().0.iter().zip(out) {
        *luma = [four[1], four[3]];
        (*u, *v) = (four[0], four[2]);
    }
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_yuyv(row: &[u8], luma: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    let out = luma.as_chunks_mut::<2>().0.iter_mut().zip(u.iter_mut().zip(v));
    for (four, (luma, (u, v))) in row.as_chunks::<4>().0.iter().zip(out) {
        *luma = [four[0], four[2]];
        (*u, *v) = (four[1], four[3]);
    }
}

/// Pairs of samples as two rows.
fn split(row: &[u8], first: &mut [u8], second: &mut [u8]) {
    for (two, (first, second)) in row.as_chunks::<2>().0.iter().zip(first.iter_mut().zip(second)) {
        (*first, *second) = (two[0], two[1]);
    }
}

/// A row of luma and chroma terms as pixels.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn convert(luma: &[u8], red: &[i32], green: &[i32], blue: &[i32], out: &mut [u8]) {
    let terms = red.iter().zip(green.iter().zip(blue));
    let pixels = out.as_chunks_mut::<3>().0.iter_mut();
    for (pixel, (luma, (red, (green, blue)))) in pixels.zip(luma.iter().zip(terms)) {
        let luma = (i32::from(*luma) - 16).max(0) * 1_220_542;
        let clip = |term: i32| ((luma + term) >> SHIFT).clamp(0, 255) as u8;
        *pixel = [clip(*red), clip(*green), clip(*blue)];
    }
}
