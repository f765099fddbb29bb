//! Checkpoint tensors by name, and layers built from them.

use bytes::Bytes;

use super::ModelError;
use crate::backend::{Backend, LinearSource, NormSource, TensorParallel, WeightRole};
use crate::checkpoint::{MappedTensor, StoredType, WeightFiles};
use crate::tensor::{DType, HostTensor};

/// A source of named tensors: a checkpoint, or a test.
pub trait TensorSource {
    /// The tensor `name`, which must have exactly `shape`.
    ///
    /// # Errors
    /// When it is missing, or has another shape or an element type that is not computed with.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError>;
    /// Whether there is a tensor of that name.
    fn contains(&self, name: &str) -> bool;
}

impl TensorSource for WeightFiles {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        host_tensor(name, self.expect(name, shape)?)
    }

    fn contains(&self, name: &str) -> bool {
        WeightFiles::contains(self, name)
    }
}

/// A checked weight as a tensor: in place where it is bf16 or float32, widened otherwise.
pub(super) fn host_tensor(name: &str, mapped: MappedTensor) -> Result<HostTensor, ModelError> {
    let dtype = match mapped.dtype() {
        StoredType::BF16 => Some(DType::Bf16),
        StoredType::F32 => Some(DType::F32),
        _ => None,
    };
    let shape = mapped.shape().to_vec();
    let tensor = match dtype {
        Some(dtype) => HostTensor::from_bytes(dtype, &shape, Bytes::from_owner(Mapped(mapped))),
        None => HostTensor::from_f32(&shape, mapped.to_f32_vec()?),
    };
    // The shape was checked against the bytes when the file was opened, so this cannot fail for a
    // mapped tensor.
    tensor.map_err(|error| ModelError::Tensor { name: name.to_owned(), source: error })
}

/// Keeps the file mapped while a weight refers to it; then its pages take no more memory, as a
/// backend has made what it needs of them.
struct Mapped(MappedTensor);

impl Drop for Mapped {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The tensors of a checkpoint below a common name prefix.
#[derive(Clone)]
pub struct Weights<'a> {
    source: &'a dyn TensorSource,
    prefix: String,
}

impl<'a> Weights<'a> {
    /// The root of a checkpoint.
    #[must_use]
    pub fn new(source: &'a dyn TensorSource) -> Self {
        Self { source, prefix: String::new() }
    }

    /// The prefix extended by `name`.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { source: self.source, prefix: self.path(name) }
    }

    fn path(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// The tensor `name` below the prefix, of exactly `shape`.
    ///
    /// # Errors
    /// As [`TensorSource::tensor`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        self.source.tensor(&self.path(name), shape)
    }

    /// [`Weights::tensor`] reshaped to `rows` rows.
    ///
    /// # Errors
    /// As [`TensorSource::tensor`].
    pub fn matrix(
        &self,
        name: &str,
        shape: &[usize],
        rows: usize,
    ) -> Result<HostTensor, ModelError> {
        let tensor = self.tensor(name, shape)?;
        let columns = tensor.len() / rows.max(1);
        tensor
            .reshape(&[rows, columns])
            .map_err(|error| ModelError::Tensor { name: self.path(name), source: error })
    }

    /// The linear layer `name` with a bias.
    ///
    /// # Errors
    /// As [`TensorSource::tensor`], and when the device refuses.
    pub fn linear<B: Backend>(
        &self,
        backend: &B,
        (role, parallelism): (WeightRole, TensorParallel),
        name: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<B::Linear, ModelError> {
        self.scaled_linear(backend, (role, parallelism), name, [outputs, inputs], None)
    }

    /// [`Weights::linear`] with a factor per output, such as a LayerScale.
    ///
    /// # Errors
    /// As [`Weights::linear`].
    pub fn scaled_linear<B: Backend>(
        &self,
        backend: &B,
        (role, parallelism): (WeightRole, TensorParallel),
        name: &str,
        [outputs, inputs]: [usize; 2],
        output_scale: Option<HostTensor>,
    ) -> Result<B::Linear, ModelError> {
        let layer = self.at(name);
        let source = LinearSource {
            role,
            weights: vec![layer.tensor("weight", &[outputs, inputs])?],
            bias: Some(layer.tensor("bias", &[outputs])?),
            output_scale,
            parallelism,
            few_rows: false,
        };
        layer.load_linear(backend, source)
    }

    /// One linear layer from several without bias, `(name, outputs)`, stacked along the outputs.
    ///
    /// # Errors
    /// As [`Weights::linear`].
    pub fn stacked<B: Backend>(
        &self,
        backend: &B,
        (role, parallelism): (WeightRole, TensorParallel),
        parts: &[(&str, usize)],
        inputs: usize,
    ) -> Result<B::Linear, ModelError> {
        let source = self.stacked_source((role, parallelism), parts, inputs)?;
        self.load_linear(backend, source)
    }

    /// What [`Weights::stacked`] loads.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen.
    pub fn stacked_source(
        &self,
        (role, parallelism): (WeightRole, TensorParallel),
        parts: &[(&str, usize)],
        inputs: usize,
    ) -> Result<LinearSource, ModelError> {
        let weights = parts
            .iter()
            .map(|(name, outputs)| self.at(name).tensor("weight", &[*outputs, inputs]))
            .collect::<Result<_, _>>()?;
        let (bias, output_scale, few_rows) = (None, None, false);
        Ok(LinearSource { role, weights, bias, output_scale, parallelism, few_rows })
    }

    /// Loads a layer of these weights.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn load_linear<B: Backend>(
        &self,
        backend: &B,
        source: LinearSource,
    ) -> Result<B::Linear, ModelError> {
        backend
            .load_linear(source)
            .map_err(|source| ModelError::Load { name: self.prefix.clone(), source })
    }

    /// [`Weights::stacked`] of layers with a bias each.
    ///
    /// # Errors
    /// As [`Weights::linear`].
    pub fn stacked_with_bias<B: Backend>(
        &self,
        backend: &B,
        (role, parallelism): (WeightRole, TensorParallel),
        parts: &[(&str, usize)],
        inputs: usize,
    ) -> Result<B::Linear, ModelError> {
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        for (name, outputs) in parts {
            let layer = self.at(name);
            weights.push(layer.tensor("weight", &[*outputs, inputs])?);
            bias.extend(layer.tensor("bias", &[*outputs])?.to_f32());
        }
        let bias = HostTensor::from_f32(&[bias.len()], bias)
            .map_err(|source| ModelError::Tensor { name: self.prefix.clone(), source })?;
        let (bias, output_scale, few_rows) = (Some(bias), None, false);
        let source = LinearSource { role, weights, bias, output_scale, parallelism, few_rows };
        self.load_linear(backend, source)
    }

    /// The layer norm `name` over `width` columns.
    ///
    /// # Errors
    /// As [`Weights::linear`].
    pub fn layer_norm<B: Backend>(
        &self,
        backend: &B,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> Result<B::Norm, ModelError> {
        let norm = self.at(name);
        let (weight, bias) =
            (norm.tensor("weight", &[width])?, Some(norm.tensor("bias", &[width])?));
        Ok(backend.load_norm(NormSource { weight, bias, epsilon })?)
    }

    /// The RMS norm `name` over `width` columns.
    ///
    /// # Errors
    /// As [`Weights::linear`].
    pub fn rms_norm<B: Backend>(
        &self,
        backend: &B,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> Result<B::Norm, ModelError> {
        let weight = self.at(name).tensor("weight", &[width])?;
        Ok(backend.load_norm(NormSource { weight, bias: None, epsilon })?)
    }
}
