//! Operations: checks, output specs, and arithmetic on one chip or between
//! chips.

mod attention;
mod collective;
mod eltwise;
mod embedding;
mod heads;
mod in_place;
pub mod l1;
mod launches;
mod matmul;
mod movement;
mod norm;

use std::sync::Arc;

use serde::Serialize;
use tt_metal_sys as abi;

use crate::error::{Result, ensure, invalid};
use crate::format::round::{self, By};
use crate::format::{Format, Layout, Spec, Values};

pub use eltwise::Activation;
pub use matmul::multiply_into;

/// Mantissa bits of the operands used in a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs)] // the names of the ABI
pub enum Fidelity {
    LoFi,
    HiFi2,
    HiFi3,
    HiFi4,
}

/// How to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Compute {
    /// Passes of a matmul.
    pub fidelity: Fidelity,
    /// Whether the destination register holds float32, or bf16.
    pub fp32_dest: bool,
}

impl Compute {
    /// From the ABI's structure. Approximate functions are computed exactly here.
    pub fn from_abi(compute: &abi::Compute) -> Result<Self> {
        let fidelity = match compute.fidelity {
            abi::TTP_LOFI => Fidelity::LoFi,
            abi::TTP_HIFI2 => Fidelity::HiFi2,
            abi::TTP_HIFI3 => Fidelity::HiFi3,
            abi::TTP_HIFI4 => Fidelity::HiFi4,
            other => {
                return Err(invalid(format!(
                    "fidelity {other} is none of TTP_LOFI, TTP_HIFI2, TTP_HIFI3, TTP_HIFI4"
                )));
            }
        };
        Ok(Self { fidelity, fp32_dest: compute.fp32_dest != 0 })
    }

    /// What the destination register keeps of a value.
    fn dest(self, value: f32) -> f32 {
        if self.fp32_dest { value } else { round::bf16_away(value) }
    }
}

/// An operation with its parameters; together with the shapes it identifies a compiled program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs)] // the parameters of the ABI's functions
pub enum Op {
    Linear {
        bias: bool,
        activation: Activation,
        compute: Compute,
        format: Format,
    },
    LayerNorm {
        bias: bool,
        eps: u32,
        compute: Compute,
    },
    RmsNorm {
        eps: u32,
        compute: Compute,
    },
    Rope {
        half: bool,
        compute: Compute,
    },
    SplitHeads {
        q: usize,
        kv: usize,
    },
    SplitHeadsDecode {
        q: usize,
        kv: usize,
    },
    ConcatHeads,
    Attention {
        mask: bool,
        causal: bool,
        scale: u32,
        compute: Compute,
    },
    AttentionDecode {
        scale: u32,
        compute: Compute,
    },
    CacheFill,
    CacheUpdate,
    /// One half of a pair, heads as rows; the first half stands for the launched program.
    CacheUpdatePair {
        first: bool,
    },
    Embedding {
        layout: Layout,
    },
    Binary {
        operation: u32,
        left: Activation,
        format: Format,
    },
    Unary {
        activation: Activation,
    },
    Increment {
        value: i32,
    },
    Concat {
        dim: usize,
    },
    Slice {
        begin: [usize; 4],
        end: [usize; 4],
    },
    Reshape {
        dims: [usize; 4],
    },
    Transpose,
    Convert {
        format: Format,
        layout: Layout,
    },
    Copy,
    Argmax {
        begin: usize,
        end: usize,
    },
    AllGather {
        dim: usize,
    },
    ReduceScatter {
        dim: usize,
    },
    AllReduce,
    Partition {
        dim: usize,
    },
    /// Own kernels, by the number of their program on the mesh.
    Program {
        id: usize,
    },
}

/// Requirement of an operation on an input beyond its spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Every element has been written.
    Written,
    /// Rows 0..=position have been written; the position is in this input.
    RowsUpTo(usize),
    /// These rows of dimension 2 have been written.
    Rows(usize, usize),
    /// Nothing: it is written here.
    Nothing,
}

/// One input on all chips.
pub type Shards = Vec<Arc<Values>>;

/// Identical data on every chip.
pub fn replicated(values: Values, chips: usize) -> Shards {
    let values = Arc::new(values);
    (0..chips).map(|_| values.clone()).collect()
}

impl Op {
    /// Name in error texts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::LayerNorm { .. } => "layer_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Rope { .. } => "rope",
            Self::SplitHeads { .. } => "split_heads",
            Self::SplitHeadsDecode { .. } => "split_heads_decode",
            Self::ConcatHeads => "concat_heads",
            Self::Attention { .. } => "attention",
            Self::AttentionDecode { .. } => "attention_decode",
            Self::CacheFill => "cache_fill",
            Self::CacheUpdate => "cache_update",
            Self::CacheUpdatePair { .. } => "cache_update_pair",
            Self::Embedding { .. } => "embedding",
            Self::Binary { .. } => "binary",
            Self::Unary { .. } => "unary",
            Self::Increment { .. } => "increment",
            Self::Concat { .. } => "concat",
            Self::Slice { .. } => "slice",
            Self::Reshape { .. } => "reshape",
            Self::Transpose => "transpose",
            Self::Convert { .. } => "convert",
            Self::Copy => "copy",
            Self::Argmax { .. } => "argmax",
            Self::AllGather { .. } => "all_gather",
            Self::ReduceScatter { .. } => "reduce_scatter",
            Self::AllReduce => "all_reduce",
            Self::Partition { .. } => "partition",
            Self::Program { .. } => "run_program",
        }
    }

    /// Whether the first input is changed and nothing is given out.
    pub fn in_place(&self) -> bool {
        matches!(
            self,
            Self::CacheFill
                | Self::CacheUpdate
                | Self::CacheUpdatePair { .. }
                | Self::Increment { .. }
                | Self::Copy
        )
    }

    /// Requirement on input `index`.
    pub fn need(&self, index: usize) -> Need {
        match (self, index) {
            (Self::CacheFill | Self::CacheUpdate | Self::Copy, 0)
            | (Self::CacheUpdatePair { .. }, 0) => Need::Nothing,
            (Self::AttentionDecode { .. }, 1 | 2) => Need::RowsUpTo(3),
            // The kernels' reads are checked byte by byte.
            (Self::Program { .. }, _) => Need::Nothing,
            (Self::Slice { begin, end }, _) => Need::Rows(begin[2], end[2]),
            _ => Need::Written,
        }
    }

    /// Refuses what TT-NN refuses; otherwise the specs given out.
    pub fn check(&self, inputs: &[Spec], chips: usize) -> Result<Vec<Spec>> {
        match *self {
            Self::Linear { bias, format, .. } => matmul::check(inputs, bias, format),
            Self::LayerNorm { .. } | Self::RmsNorm { .. } => norm::check(inputs),
            Self::Rope { half, .. } => heads::check_rope(inputs, half),
            Self::SplitHeads { q, kv } => heads::check_split(inputs[0], q, kv),
            Self::SplitHeadsDecode { q, kv } => heads::check_split_decode(inputs[0], q, kv),
            Self::ConcatHeads => heads::check_concat(inputs[0]),
            Self::Attention { causal, .. } => attention::check(inputs, causal),
            Self::AttentionDecode { .. } => attention::check_decode(inputs),
            Self::CacheFill
            | Self::CacheUpdate
            | Self::CacheUpdatePair { .. }
            | Self::Increment { .. }
            | Self::Copy => in_place::check(self, inputs),
            Self::Embedding { layout } => embedding::check(inputs, layout),
            Self::Binary { format, .. } => eltwise::check_binary(inputs, format),
            Self::Unary { .. } => eltwise::check_unary(inputs[0]),
            Self::Concat { dim } => movement::check_concat(inputs, dim),
            Self::Slice { begin, end } => movement::check_slice(inputs[0], begin, end),
            Self::Reshape { dims } => movement::check_reshape(inputs[0], dims),
            Self::Transpose => movement::check_transpose(inputs[0]),
            Self::Convert { format, layout } => movement::check_convert(inputs[0], format, layout),
            Self::Argmax { begin, end } => embedding::check_argmax(inputs[0], begin, end),
            Self::Program { .. } => Ok(Vec::new()),
            Self::AllGather { .. }
            | Self::ReduceScatter { .. }
            | Self::AllReduce
            | Self::Partition { .. } => collective::check(self, inputs[0], chips),
        }
    }

    /// Runs it. `specs` and `inputs` passed `check`; `outputs` is what `check` gave.
    pub fn run(&self, specs: &[Spec], inputs: &[Shards], outputs: &[Spec]) -> Result<Vec<Shards>> {
        if let Self::AllGather { .. }
        | Self::ReduceScatter { .. }
        | Self::AllReduce
        | Self::Partition { .. } = self
        {
            return Ok(vec![collective::run(self, specs[0], &inputs[0], outputs[0])]);
        }
        let chips = inputs[0].len();
        let mut shards: Vec<Shards> = vec![Vec::with_capacity(chips); outputs.len()];
        for chip in 0..chips {
            // Chips with identical data compute identical results: computed once.
            if chip > 0 && inputs.iter().all(|input| Arc::ptr_eq(&input[chip], &input[0])) {
                shards.iter_mut().for_each(|output| output.push(output[0].clone()));
                continue;
            }
            let values: Vec<&Values> = inputs.iter().map(|input| input[chip].as_ref()).collect();
            for (output, values) in shards.iter_mut().zip(self.on_chip(specs, &values, outputs)?) {
                output.push(Arc::new(values));
            }
        }
        Ok(shards)
    }

    fn on_chip(&self, specs: &[Spec], inputs: &[&Values], outputs: &[Spec]) -> Result<Vec<Values>> {
        let output = outputs[0];
        let float = |mut values: Vec<f32>| {
            round::round_rows(&mut values, output.width(), output.format, By::Device);
            Ok(vec![Values::Float(values)])
        };
        match *self {
            Self::Linear { bias, activation, compute, .. } => {
                float(matmul::linear(specs, inputs, bias, activation, compute))
            }
            Self::LayerNorm { bias, eps, compute } => {
                float(norm::layer(specs, inputs, bias, f32::from_bits(eps), compute))
            }
            Self::RmsNorm { eps, compute } => {
                float(norm::rms(specs, inputs, f32::from_bits(eps), compute))
            }
            Self::Rope { half, compute } => float(heads::rope(specs, inputs, half, compute)),
            // The elements of one row have one order, whichever dimension its heads are.
            Self::SplitHeads { q, kv } | Self::SplitHeadsDecode { q, kv } => {
                Ok(heads::split(specs[0], inputs[0].floats(), q, kv))
            }
            Self::ConcatHeads => float(heads::concat(specs[0], inputs[0].floats())),
            Self::Attention { mask, causal, scale, compute } => {
                float(attention::run(specs, inputs, mask, causal, f32::from_bits(scale), compute))
            }
            Self::AttentionDecode { scale, compute } => {
                float(attention::decode(specs, inputs, f32::from_bits(scale), compute)?)
            }
            Self::Embedding { .. } => Ok(vec![embedding::run(specs, inputs)?]),
            Self::Binary { operation, left, .. } => {
                float(eltwise::binary(specs, inputs, output, operation, left))
            }
            Self::Unary { activation } => {
                float(inputs[0].floats().iter().map(|x| activation.apply(*x)).collect())
            }
            Self::Concat { dim } => Ok(vec![movement::concat(specs, inputs, output, dim)]),
            Self::Slice { begin, .. } => {
                Ok(vec![movement::slice(specs[0], inputs[0], output, begin)])
            }
            Self::Reshape { .. } => Ok(vec![movement::rounded(inputs[0].clone(), output)]),
            Self::Transpose => {
                Ok(vec![movement::rounded(movement::transpose(specs[0], inputs[0]), output)])
            }
            Self::Convert { .. } => Ok(vec![movement::convert(inputs[0], output)]),
            Self::Argmax { begin, end } => {
                Ok(vec![embedding::argmax(specs[0], inputs[0].floats(), begin, end)?])
            }
            _ => Err(invalid(format!("{} does not run on one chip", self.name()))),
        }
    }

    /// Changes `target` (input 0) on one chip and returns which rows of dimension 2 are now written
    /// (None: all).
    pub fn apply(
        &self,
        specs: &[Spec],
        target: &mut Values,
        others: &[&Values],
    ) -> Result<Option<std::ops::Range<usize>>> {
        in_place::apply(self, specs, target, others)
    }
}

/// A floating-point tensor in tiles, which compute kernels can read.
fn float_tile(spec: &Spec, what: &str) -> Result<()> {
    ensure!(
        spec.format.is_float() && spec.layout == Layout::Tile,
        "{what} must be a float format in TILE layout, not {spec}; convert it first"
    );
    Ok(())
}

/// A vector over the last dimension.
fn vector(spec: &Spec, width: usize, what: &str) -> Result<()> {
    float_tile(spec, what)?;
    ensure!(spec.dims == [1, 1, 1, width], "{what} must be [1, 1, 1, {width}], not {spec}");
    Ok(())
}

/// The part of `values` that starts at `begin` and has the shape of `output`, unrounded.
pub fn part(whole: Spec, values: &Values, output: Spec, begin: [usize; 4]) -> Values {
    let output = Spec { format: whole.format, ..output };
    movement::slice(whole, values, output, begin)
}
