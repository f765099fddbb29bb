//! Layer and RMS norm over the last dimension. Sums are exact here; what the destination keeps
//! between the steps is rounded to the format of the destination.

use super::{Compute, float_tile, vector};
use crate::error::Result;
use crate::format::{Spec, Values};

pub fn check(inputs: &[Spec]) -> Result<Vec<Spec>> {
    float_tile(&inputs[0], "norm: x")?;
    for input in &inputs[1..] {
        vector(input, inputs[0].width(), "norm: weight and bias")?;
    }
    Ok(vec![inputs[0]])
}

pub fn layer(
    specs: &[Spec],
    inputs: &[&Values],
    bias: bool,
    eps: f32,
    compute: Compute,
) -> Vec<f32> {
    let width = specs[0].width();
    let weight = inputs[1].floats();
    let mut out = Vec::with_capacity(specs[0].elements());
    for row in inputs[0].floats().chunks_exact(width) {
        let mean =
            compute.dest((row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64) as f32);
        let centred: Vec<f32> = row.iter().map(|x| compute.dest(x - mean)).collect();
        let variance = compute.dest(
            (centred.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / width as f64)
                as f32,
        );
        let scale = compute.dest(1.0 / (variance + eps).sqrt());
        for (i, x) in centred.iter().enumerate() {
            let value = compute.dest(compute.dest(x * scale) * weight[i]);
            out.push(if bias { compute.dest(value + inputs[2].floats()[i]) } else { value });
        }
    }
    out
}

pub fn rms(specs: &[Spec], inputs: &[&Values], eps: f32, compute: Compute) -> Vec<f32> {
    let width = specs[0].width();
    let weight = inputs[1].floats();
    let mut out = Vec::with_capacity(specs[0].elements());
    for row in inputs[0].floats().chunks_exact(width) {
        let mean = compute.dest(
            (row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / width as f64) as f32,
        );
        let scale = compute.dest(1.0 / (mean + eps).sqrt());
        out.extend(
            row.iter()
                .zip(weight)
                .map(|(x, weight)| compute.dest(compute.dest(x * scale) * weight)),
        );
    }
    out
}
