//! Number formats of packed weights.

use crate::backend::cpu::CpuFormat;
use crate::tensor::{DType, HostTensor};

/// Number format of stored weights and of the activations that they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// float32.
    Floats,
    /// bf16 weights, exact float32 activations.
    WidenedBf16,
    /// bf16.
    Bf16,
    /// int8 with a factor per output.
    Int8,
}

impl Format {
    /// float32 arithmetic keeps weights in half the memory where all are bf16.
    pub(super) fn of(format: CpuFormat, weights: &[HostTensor]) -> Self {
        match format {
            CpuFormat::F32 if weights.iter().all(|w| w.dtype() == DType::Bf16) => Self::WidenedBf16,
            CpuFormat::F32 => Self::Floats,
            CpuFormat::Bf16 => Self::Bf16,
            CpuFormat::Int8 => Self::Int8,
        }
    }

    /// Weights in a word.
    pub(super) fn per_word(self) -> usize {
        match self {
            Self::Floats => 1,
            Self::WidenedBf16 | Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }
}
