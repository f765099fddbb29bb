//! Host tensors: element types, shapes, bytes that may be part of a mapped file, and the agreement of
//! two tensors.

mod agreement;

pub use agreement::{Agreement, agreement};

use bytes::Bytes;
use half::bf16;

/// Element type of a tensor in host memory or in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32, little endian.
    F32,
    /// The upper half of a binary32, little endian.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// Why bytes could not become a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The bytes do not fill the shape.
    #[error("{bytes} bytes cannot hold shape {shape:?} of {dtype}, which needs {expected}")]
    Size {
        /// Bytes given.
        bytes: usize,
        /// Requested shape.
        shape: Vec<usize>,
        /// Requested element type.
        dtype: DType,
        /// Bytes needed.
        expected: usize,
    },
    /// The product of the dimensions does not fit in memory.
    #[error("shape {0:?} has more elements than memory can address")]
    Overflow(Vec<usize>),
    /// A reshape or a slice that the tensor does not allow.
    #[error("cannot view shape {from:?} as {to:?}")]
    View {
        /// Shape of the tensor.
        from: Vec<usize>,
        /// Requested shape.
        to: Vec<usize>,
    },
}

/// A tensor in host memory, row-major and contiguous. Cloning shares the bytes.
#[derive(Clone)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostTensor({} {:?})", self.dtype, self.shape)
    }
}

/// Number of elements of `shape`, or an error when it overflows.
fn elements(shape: &[usize]) -> Result<usize, TensorError> {
    shape
        .iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n))
        .filter(|n| n.checked_mul(4).is_some())
        .ok_or_else(|| TensorError::Overflow(shape.to_vec()))
}

impl HostTensor {
    /// A tensor over shared bytes, of a mapped file for example.
    ///
    /// # Errors
    /// When the bytes do not fill the shape exactly.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Bytes) -> Result<Self, TensorError> {
        let expected = elements(shape)? * dtype.bytes();
        if bytes.len() != expected {
            return Err(TensorError::Size {
                bytes: bytes.len(),
                shape: shape.to_vec(),
                dtype,
                expected,
            });
        }
        Ok(Self { dtype, shape: shape.to_vec(), bytes })
    }

    /// A float32 tensor that owns its values.
    ///
    /// # Errors
    /// When the values do not fill the shape exactly.
    pub fn from_f32(shape: &[usize], values: Vec<f32>) -> Result<Self, TensorError> {
        Self::from_bytes(DType::F32, shape, Bytes::from_owner(FloatOwner(values)))
    }

    /// Element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The raw little-endian bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, TensorError> {
        if elements(shape)? != self.len() {
            return Err(TensorError::View { from: self.shape.clone(), to: shape.to_vec() });
        }
        Ok(Self { dtype: self.dtype, shape: shape.to_vec(), bytes: self.bytes.clone() })
    }

    /// Rows `range` of the outermost dimension, sharing the bytes.
    ///
    /// # Errors
    /// When the range leaves the tensor.
    pub fn rows(&self, range: std::ops::Range<usize>) -> Result<Self, TensorError> {
        let mut shape = self.shape.clone();
        let (Some(outer), true) = (shape.first_mut(), range.start <= range.end) else {
            return Err(TensorError::View { from: self.shape.clone(), to: vec![range.end] });
        };
        if range.end > *outer {
            return Err(TensorError::View { from: self.shape.clone(), to: vec![range.end] });
        }
        *outer = range.len();
        let stride = self.shape[1..].iter().product::<usize>() * self.dtype.bytes();
        let bytes = self.bytes.slice(range.start * stride..range.end * stride);
        Ok(Self { dtype: self.dtype, shape, bytes })
    }

    /// The elements as bf16 where they are stored so and aligned; `None` otherwise.
    #[must_use]
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        (self.dtype == DType::Bf16).then(|| bytemuck::try_cast_slice(&self.bytes).ok())?
    }

    /// The elements as float32 where they are stored so and aligned; `None` otherwise.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        (self.dtype == DType::F32).then(|| bytemuck::try_cast_slice(&self.bytes).ok())?
    }

    /// The elements widened to float32.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let words = |bytes: &[u8]| -> f32 {
            match *bytes {
                [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                _ => f32::NAN, // chunks_exact gives two or four bytes only
            }
        };
        self.bytes.chunks_exact(self.dtype.bytes()).map(words).collect()
    }
}

/// Lets `Bytes` own a vector of floats without copying it.
struct FloatOwner(Vec<f32>);

impl AsRef<[u8]> for FloatOwner {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_share_and_bound() {
        let tensor = HostTensor::from_f32(&[3, 2], vec![0., 1., 2., 3., 4., 5.]).unwrap();
        assert_eq!(tensor.rows(1..3).unwrap().to_f32(), [2., 3., 4., 5.]);
        assert_eq!(tensor.rows(1..1).unwrap().shape(), [0, 2]);
        assert!(tensor.rows(2..4).is_err());
    }

    #[test]
    fn sizes_are_checked() {
        assert!(HostTensor::from_f32(&[2, 2], vec![0.; 3]).is_err());
        assert!(matches!(
            HostTensor::from_bytes(DType::Bf16, &[usize::MAX, 2], Bytes::new()),
            Err(TensorError::Overflow(_))
        ));
    }

    #[test]
    fn bf16_widens_exactly() {
        let bytes = Bytes::from_static(&[0x80, 0x3f, 0x00, 0xc0]);
        let tensor = HostTensor::from_bytes(DType::Bf16, &[2], bytes).unwrap();
        assert_eq!(tensor.to_f32(), [1.0, -2.0]);
    }
}
