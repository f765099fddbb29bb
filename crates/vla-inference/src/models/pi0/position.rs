//! Position embeddings for another grid of patches than the checkpoint's: bicubic, as
//! `interpolate_pos_encoding` of transformers does it (torch's `interpolate(mode="bicubic",
//! align_corners=False)`, kernel coefficient -0.75, edge rows repeated, no antialiasing).

use crate::backend::BackendError;
use crate::tensor::HostTensor;

/// Coefficient of torch's cubic kernel.
const A: f64 = -0.75;

/// Weights of the four neighbours at the fraction `t` after the second of them.
fn cubic(t: f64) -> [f64; 4] {
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// The four neighbours of each of `outputs` positions among `inputs`, and their weights.
fn taps(inputs: usize, outputs: usize) -> Vec<[(usize, f64); 4]> {
    let scale = inputs as f64 / outputs as f64;
    let last = inputs.saturating_sub(1) as i64;
    (0..outputs)
        .map(|at| {
            let source = (at as f64 + 0.5) * scale - 0.5;
            let first = source.floor();
            let weights = cubic(source - first);
            std::array::from_fn(|tap| {
                let place = (first as i64 - 1 + tap as i64).clamp(0, last);
                (place as usize, weights[tap])
            })
        })
        .collect()
}

/// `stored` = `[side * side, width]` for a grid of `[rows, columns]` patches.
///
/// # Errors
/// When the stored embeddings are not a square grid.
pub fn interpolated(stored: &HostTensor, grid: [usize; 2]) -> Result<HostTensor, BackendError> {
    let [positions, width] = *stored.shape() else {
        let detail = format!("shape {:?} is not [positions, width]", stored.shape());
        return Err(BackendError::Shape { operation: "position_embedding", detail });
    };
    let side = positions.isqrt();
    let [rows, columns] = grid;
    if side * side != positions || positions == 0 {
        let detail = format!("{positions} positions are not a square grid");
        return Err(BackendError::Shape { operation: "position_embedding", detail });
    }
    if [rows, columns] == [side, side] {
        return Ok(stored.clone());
    }
    let values = stored.to_f32();
    let (down, across) = (taps(side, rows), taps(side, columns));
    let mut out = Vec::with_capacity(rows * columns * width);
    for vertical in &down {
        for horizontal in &across {
            for column in 0..width {
                let value = |y: usize, x: usize| f64::from(values[(y * side + x) * width + column]);
                let sum: f64 = vertical
                    .iter()
                    .map(|(y, wy)| {
                        wy * horizontal.iter().map(|(x, wx)| wx * value(*y, *x)).sum::<f64>()
                    })
                    .sum();
                out.push(sum as f32);
            }
        }
    }
    Ok(HostTensor::from_f32(&[rows * columns, width], out)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_own_grid_is_untouched_and_constants_stay() {
        let stored = HostTensor::from_f32(&[9, 2], (0..18).map(|v| v as f32).collect()).unwrap();
        assert_eq!(interpolated(&stored, [3, 3]).unwrap().to_f32(), stored.to_f32());
        let constant = HostTensor::from_f32(&[9, 1], vec![2.5; 9]).unwrap();
        let wide = interpolated(&constant, [5, 7]).unwrap();
        assert_eq!(wide.shape(), [35, 1]);
        assert!(wide.to_f32().iter().all(|v| (v - 2.5).abs() < 1e-6));
        assert!(
            interpolated(&HostTensor::from_f32(&[8, 1], vec![0.; 8]).unwrap(), [3, 3]).is_err()
        );
    }

    /// OpenCV 5.0's `resize(arange(16).reshape(4, 4) ** 2, (6, 3), interpolation=INTER_CUBIC)`,
    /// whose kernel, centres and edges are torch's.
    #[test]
    fn values_are_those_of_another_implementation() {
        let stored =
            HostTensor::from_f32(&[16, 1], (0..16).map(|v| (v * v) as f32).collect()).unwrap();
        let ours = interpolated(&stored, [3, 6]).unwrap().to_f32();
        for (ours, other) in ours.iter().zip(OPENCV) {
            assert!((ours - other).abs() < 1e-4, "{ours} {other}");
        }
    }

    const OPENCV: [f32; 18] = [
        1.28855, 2.09172, 4.11771, 6.41932, 10.861_98, 14.012_38, 32.871_53, 39.093_75, 49.986_11,
        58.597_22, 71.906_25, 80.4757, 131.2693, 142.9106, 162.669_31, 177.589_94, 199.765_34,
        213.753_81,
    ];
}
