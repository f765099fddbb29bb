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

    /// The pixels, `width * height * 3` bytes. `data` has [`YuvLayout::rows`] rows of
    /// [`YuvLayout::row_bytes`], `step` bytes apart.
    pub(super) fn to_rgb(
        self,
        (width, height): (usize, usize),
        step: usize,
        data: &[u8],
    ) -> Vec<u8> {
        let used = self.row_bytes(width);
        let row = |y: usize| &data[y * step..y * step + used];
        // Whole pairs of pixels.
        let [mut luma, mut u, mut v] = [0, 1, 2].map(|_| vec![0; width.next_multiple_of(2)]);
        let mut pixels = vec![0; 3 * width];
        let mut out = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            match self {
                Self::Uyvy => split_uyvy(row(y), &mut luma, &mut u, &mut v),
                Self::Yuyv => split_yuyv(row(y), &mut luma, &mut u, &mut v),
                Self::Nv12 | Self::Nv21 => {
                    luma.copy_from_slice(row(y));
                    // Two rows share a row of chroma.
                    if y % 2 == 0 {
                        let chroma = row(height + y / 2);
                        match self {
                            Self::Nv12 => split_twice(chroma, &mut u, &mut v),
                            _ => split_twice(chroma, &mut v, &mut u),
                        }
                    }
                }
                Self::Nv24 => {
                    luma[..width].copy_from_slice(row(y));
                    // A chroma row takes two steps; its end may lie in the second one's padding.
                    let start = (height + 2 * y) * step;
                    split(&data[start..start + 2 * width], &mut u, &mut v);
                }
            }
            convert(&luma[..width], &u, &v, &mut pixels);
            out.extend_from_slice(&pixels);
        }
        out
    }
}

/// A row as luma, and chroma of every pixel.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_uyvy(row: &[u8], luma: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    let out = pairs(luma).zip(pairs(u).zip(pairs(v)));
    for (four, (luma, (u, v))) in row.as_chunks::<4>().0.iter().zip(out) {
        (*luma, *u, *v) = ([four[1], four[3]], [four[0]; 2], [four[2]; 2]);
    }
}

/// As [`split_uyvy`].
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_yuyv(row: &[u8], luma: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    let out = pairs(luma).zip(pairs(u).zip(pairs(v)));
    for (four, (luma, (u, v))) in row.as_chunks::<4>().0.iter().zip(out) {
        (*luma, *u, *v) = ([four[0], four[2]], [four[1]; 2], [four[3]; 2]);
    }
}

/// Pairs of samples as two rows, each sample for two pixels.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_twice(row: &[u8], first: &mut [u8], second: &mut [u8]) {
    let out = pairs(first).zip(pairs(second));
    for (two, (first, second)) in row.as_chunks::<2>().0.iter().zip(out) {
        (*first, *second) = ([two[0]; 2], [two[1]; 2]);
    }
}

/// Pairs of samples as two rows.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split(row: &[u8], first: &mut [u8], second: &mut [u8]) {
    for (two, (first, second)) in row.as_chunks::<2>().0.iter().zip(first.iter_mut().zip(second)) {
        (*first, *second) = (two[0], two[1]);
    }
}

#[inline(always)]
fn pairs(row: &mut [u8]) -> impl Iterator<Item = &mut [u8; 2]> {
    row.as_chunks_mut::<2>().0.iter_mut()
}

/// A row of luma and chroma as pixels.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn convert(luma: &[u8], u: &[u8], v: &[u8], out: &mut [u8]) {
    let samples = luma.iter().zip(u.iter().zip(v));
    for (pixel, (luma, (u, v))) in out.as_chunks_mut::<3>().0.iter_mut().zip(samples) {
        let luma = i32::from(luma.saturating_sub(16)) * 1_220_542 + ROUND;
        let (u, v) = (i32::from(*u) - 128, i32::from(*v) - 128);
        let clip = |chroma: i32| ((luma + chroma) >> SHIFT).clamp(0, 255) as u8;
        *pixel = [clip(1_673_527 * v), clip(-852_492 * v - 409_993 * u), clip(2_116_026 * u)];
    }
}
