//! Patch extraction on the host.

use super::{BackendError, Normalisation, Pixels};

/// Checks that the bytes are an image of the given size, and that patches divide it.
pub(super) fn check_pixels(
    operation: &'static str,
    pixels: Pixels<'_>,
) -> Result<(), BackendError> {
    let Pixels { rgb, side, patch } = pixels;
    if patch == 0 || side == 0 || !side.is_multiple_of(patch) || rgb.len() != side * side * 3 {
        let detail =
            format!("{} bytes are not {side} x {side} RGB pixels in patches of {patch}", rgb.len());
        return Err(BackendError::Shape { operation, detail });
    }
    Ok(())
}

/// Patches `[patches, 3 * patch * patch]` of a checked image, values byte minus 128.
pub(super) fn centred_patches(pixels: Pixels<'_>) -> Vec<f32> {
    let Pixels { rgb, side, patch } = pixels;
    let per_side = side / patch;
    let mut values = Vec::with_capacity(rgb.len());
    for index in 0..per_side * per_side {
        let (top, left) = (index / per_side * patch, index % per_side * patch);
        for channel in 0..3 {
            for y in top..top + patch {
                let row = &rgb[(y * side + left) * 3..(y * side + left + patch) * 3];
                values.extend(
                    row.iter().skip(channel).step_by(3).map(|&value| f32::from(value) - 128.0),
                );
            }
        }
    }
    values
}

/// Normalised value of every byte per channel, `[3][256]`, in the reference's arithmetic: `(u / 255
/// - mean) / std` in float32.
pub(super) fn normalisation_tables(normalisation: Normalisation) -> [[f32; 256]; 3] {
    let Normalisation { mean, std } = normalisation;
    std::array::from_fn(|channel| {
        std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel])
    })
}
