//! Element by element: arithmetic with spreading, and activations.

use tt_metal_sys as abi;

use super::float_tile;
use crate::error::{Result, ensure, invalid};
use crate::format::{Format, Layout, Spec, Values};

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[allow(missing_docs)] // the names of the ABI
pub enum Activation {
    None,
    Gelu,
    Silu,
    Relu,
    GeluTanh,
}

impl Activation {
    /// From the ABI's number.
    pub fn from_abi(value: u32) -> Result<Self> {
        Ok(match value {
            abi::TTP_ACT_NONE => Self::None,
            abi::TTP_ACT_GELU => Self::Gelu,
            abi::TTP_ACT_SILU => Self::Silu,
            abi::TTP_ACT_RELU => Self::Relu,
            abi::TTP_ACT_GELU_TANH => Self::GeluTanh,
            other => return Err(invalid(format!("activation {other} is none of TTP_ACT_*"))),
        })
    }

    /// Its value at `x`.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Relu => x.max(0.0),
            Self::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
        }
    }
}

pub fn check_unary(x: Spec) -> Result<Vec<Spec>> {
    float_tile(&x, "unary: x")?;
    Ok(vec![x])
}

pub fn check_binary(inputs: &[Spec], format: Format) -> Result<Vec<Spec>> {
    let (a, b) = (&inputs[0], &inputs[1]);
    float_tile(a, "binary: a")?;
    float_tile(b, "binary: b")?;
    ensure!(format.is_float(), "binary: output format {format:?} is not a float format");
    let mut dims = [0; 4];
    for (dim, (a_dim, b_dim)) in dims.iter_mut().zip(a.dims.iter().zip(b.dims)) {
        ensure!(
            *a_dim == b_dim || *a_dim == 1 || b_dim == 1,
            "binary: {a} and {b} do not fit: each dimension must be equal or 1"
        );
        *dim = (*a_dim).max(b_dim);
    }
    Ok(vec![Spec::new(dims, format, Layout::Tile)?])
}

pub fn binary(
    specs: &[Spec],
    inputs: &[&Values],
    output: Spec,
    operation: u32,
    left: Activation,
) -> Vec<f32> {
    let (a, b) = (inputs[0].floats(), inputs[1].floats());
    let combine = |x: f32, y: f32| {
        let x = left.apply(x);
        match operation {
            abi::TTP_ADD => x + y,
            abi::TTP_SUB => x - y,
            _ => x * y,
        }
    };
    if specs[0].dims == specs[1].dims {
        return a.iter().zip(b).map(|(x, y)| combine(*x, *y)).collect();
    }
    // A dimension of one is spread: its stride is zero.
    let strides = |spec: &Spec| {
        let [_, d1, d2, d3] = spec.dims;
        let full = [d1 * d2 * d3, d2 * d3, d3, 1];
        std::array::from_fn::<usize, 4, _>(|i| if spec.dims[i] == 1 { 0 } else { full[i] })
    };
    let (sa, sb) = (strides(&specs[0]), strides(&specs[1]));
    let [d0, d1, d2, d3] = output.dims;
    let mut out = Vec::with_capacity(output.elements());
    for i in 0..d0 {
        for j in 0..d1 {
            for k in 0..d2 {
                let (start_a, start_b) =
                    (i * sa[0] + j * sa[1] + k * sa[2], i * sb[0] + j * sb[1] + k * sb[2]);
                out.extend(
                    (0..d3).map(|l| combine(a[start_a + l * sa[3]], b[start_b + l * sb[3]])),
                );
            }
        }
    }
    out
}
