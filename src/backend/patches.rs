//! An image to the rows of a patch embedding, on the host.

use super::{BackendError, PatchSource};

/// Every u8 value normalised once per channel, in the arithmetic of the reference: `(u / 255 - mean) / std` in float32.
fn normalisation_table(mean: f32, std: f32) -> [f32; 256] {
    std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std)
}

/// Rows, columns and values of [`Backend::patches`](super::Backend::patches).
pub(super) fn patches(source: PatchSource<'_>) -> Result<(usize, usize, Vec<f32>), BackendError> {
    let PatchSource { rgb, side, patch, mean, std } = source;
    if patch == 0 || !side.is_multiple_of(patch) || rgb.len() != side * side * 3 {
        let detail = format!("{} bytes are not {side} x {side} RGB pixels in patches of {patch}", rgb.len());
        return Err(BackendError::Shape { operation: "patches", detail });
    }
    let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| normalisation_table(mean[channel], std[channel]));
    let per_side = side / patch;
    let mut values = Vec::with_capacity(rgb.len());
    for patch_index in 0..per_side * per_side {
        let (top, left) = (patch_index / per_side * patch, patch_index % per_side * patch);
        for (channel, table) in tables.iter().enumerate() {
            for y in top..top + patch {
                let row = &rgb[(y * side + left) * 3..(y * side + left + patch) * 3];
                values.extend(row.iter().skip(channel).step_by(3).map(|&value| table[usize::from(value)]));
            }
        }
    }
    Ok((per_side * per_side, 3 * patch * patch, values))
}
