//! RGB and YCbCr as JFIF defines them, in libjpeg's 16-bit fixed point.

const HALF: i32 = 1 << 15;
/// 128 with the fraction that libjpeg adds: one less than a half.
const CENTRE: i32 = (128 << 16) + HALF - 1;

/// A row of pixels as luma, blue and red difference. Rows of components may be longer.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn from_rgb(pixels: &[u8], luma: &mut [u8], blue: &mut [u8], red: &mut [u8]) {
    let pixels = pixels.as_chunks::<3>().0;
    let components = luma.iter_mut().zip(blue.iter_mut().zip(red));
    for (&[r, g, b], (y, (cb, cr))) in pixels.iter().zip(components) {
        let (r, g, b) = (i32::from(r), i32::from(g), i32::from(b));
        *y = ((19_595 * r + 38_470 * g + 7_471 * b + HALF) >> 16) as u8;
        *cb = ((-11_059 * r - 21_709 * g + 32_768 * b + CENTRE) >> 16) as u8;
        *cr = ((32_768 * r - 27_439 * g - 5_329 * b + CENTRE) >> 16) as u8;
    }
}

/// A row of components as pixels. Rows of chroma may be longer.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn to_rgb(luma: &[u8], blue: &[u8], red: &[u8], pixels: &mut [u8]) {
    let components = luma.iter().zip(blue.iter().zip(red));
    for (pixel, (y, (cb, cr))) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(components) {
        let (y, cb, cr) = (i32::from(*y), i32::from(*cb) - 128, i32::from(*cr) - 128);
        let clip = |value: i32| value.clamp(0, 255) as u8;
        *pixel = [
            clip(y + ((91_881 * cr + HALF) >> 16)),
            clip(y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16)),
            clip(y + ((116_130 * cb + HALF) >> 16)),
        ];
    }
}
