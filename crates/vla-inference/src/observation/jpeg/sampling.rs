//! Chroma at half resolution and back.

/// Means of 2 x 2 samples. libjpeg's rounding alternates along the row, so that it adds no bias.
/// `out` may be longer than half a row.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn halve(upper: &[u8], lower: &[u8], out: &mut [u8]) {
    let pairs = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
    for (i, (out, (upper, lower))) in out.iter_mut().zip(pairs).enumerate() {
        let sum = u16::from(upper[0])
            + u16::from(upper[1])
            + u16::from(lower[0])
            + u16::from(lower[1])
            + 1
            + (i & 1) as u16;
        *out = (sum >> 2) as u8;
    }
}

/// A row at twice the resolution by libjpeg's triangle filter, from the chroma row that is nearer
/// and the one that is farther; at least two samples, `out` twice as many. `between` is scratch.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn double(near: &[u8], far: &[u8], between: &mut [u16], out: &mut [u8]) {
    for (value, (near, far)) in between.iter_mut().zip(near.iter().zip(far)) {
        *value = 3 * u16::from(*near) + u16::from(*far);
    }
    let inner = between.windows(3);
    let outputs = out.as_chunks_mut::<2>().0;
    let last = outputs.len() - 1;
    for (out, values) in outputs[1..].iter_mut().zip(inner) {
        let centre = 3 * values[1];
        *out = [((centre + values[0] + 8) >> 4) as u8, ((centre + values[2] + 7) >> 4) as u8];
    }
    let (first, next) = (between[0], between[1]);
    outputs[0] = [((4 * first + 8) >> 4) as u8, ((3 * first + next + 7) >> 4) as u8];
    let (end, before) = (between[last], between[last - 1]);
    outputs[last] = [((3 * end + before + 8) >> 4) as u8, ((4 * end + 7) >> 4) as u8];
}

/// A row at twice the resolution by repetition: what libjpeg does with one or two samples.
pub(super) fn repeat(near: &[u8], out: &mut [u8]) {
    for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(near) {
        *out = [*value; 2];
    }
}
