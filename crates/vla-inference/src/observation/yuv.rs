//! YUV images as OpenCV converts them, byte for byte.
//!
//! ITU-R BT.601, limited range (luma 16..235), in OpenCV's 20-bit fixed point, each chroma sample
//! repeated for its pixels: what cv_bridge gives for `yuv422` and `yuv422_yuy2`, and what cameras of
//! the USB video class send. `sensor_msgs/Image` has no field for another matrix or range. Source:
//! OpenCV 4.9, `modules/imgproc/src/color_yuv.simd.hpp`.

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
        // A row of each component at full resolution, with room for a whole pair at the end.
        let padded = width.next_multiple_of(2);
        let (mut luma, mut u, mut v) = (vec![0; padded], vec![0; padded], vec![0; padded]);
        for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
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
            convert(&luma[..width], &u, &v, out);
        }
    }
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_uyvy(row: &[u8], luma: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    let pairs = luma.as_chunks_mut::<2>().0.iter_mut();
    let chroma = u.as_chunks_mut::<2>().0.iter_mut().zip(v.as_chunks_mut::<2>().0);
    for (four, (luma, (u, v))) in row.as_chunks::<4>().0.iter().zip(pairs.zip(chroma)) {
        *luma = [four[1], four[3]];
        *u = [four[0]; 2];
        *v = [four[2]; 2];
    }
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_yuyv(row: &[u8], luma: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    let pairs = luma.as_chunks_mut::<2>().0.iter_mut();
    let chroma = u.as_chunks_mut::<2>().0.iter_mut().zip(v.as_chunks_mut::<2>().0);
    for (four, (luma, (u, v))) in row.as_chunks::<4>().0.iter().zip(pairs.zip(chroma)) {
        *luma = [four[0], four[2]];
        *u = [four[1]; 2];
        *v = [four[3]; 2];
    }
}

/// Pairs of samples as two rows, each sample twice.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn split_twice(row: &[u8], first: &mut [u8], second: &mut [u8]) {
    let out = first.as_chunks_mut::<2>().0.iter_mut().zip(second.as_chunks_mut::<2>().0);
    for (two, (first, second)) in row.as_chunks::<2>().0.iter().zip(out) {
        *first = [two[0]; 2];
        *second = [two[1]; 2];
    }
}

/// Pairs of samples as two rows.
fn split(row: &[u8], first: &mut [u8], second: &mut [u8]) {
    for (two, (first, second)) in row.as_chunks::<2>().0.iter().zip(first.iter_mut().zip(second)) {
        (*first, *second) = (two[0], two[1]);
    }
}

/// A row of components at full resolution as pixels.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn convert(luma: &[u8], u: &[u8], v: &[u8], out: &mut [u8]) {
    let components = luma.iter().zip(u.iter().zip(v));
    for (pixel, (luma, (u, v))) in out.as_chunks_mut::<3>().0.iter_mut().zip(components) {
        let (u, v) = (i32::from(*u) - 128, i32::from(*v) - 128);
        let luma = (i32::from(*luma) - 16).max(0) * 1_220_542 + ROUND;
        let clip = |value: i32| (value >> SHIFT).clamp(0, 255) as u8;
        *pixel = [
            clip(luma + 1_673_527 * v),
            clip(luma - 852_492 * v - 409_993 * u),
            clip(luma + 2_116_026 * u),
        ];
    }
}
