//! Operations. Each returns a new tensor and does not change its inputs, except those documented
//! as in place. Shapes are those of one chip; their constraints are in `tt_provider.h`.

use std::sync::Arc;

use tt_metal_sys as abi;

use crate::mesh::Inner;
use crate::tensor::words;
use crate::{Activation, Combine, Compute, Error, Format, Layout, Result, RopeOrder, Tensor};

/// Options of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinearOptions {
    /// Applied to the sum.
    pub activation: Activation,
    /// Fidelity and destination.
    pub compute: Compute,
    /// Format of the result.
    pub format: Format,
}

impl Default for LinearOptions {
    /// No activation, exact products, a bf16 result.
    fn default() -> Self {
        Self { activation: Activation::None, compute: Compute::default(), format: Format::Bf16 }
    }
}

/// A call with one output: returns a deferred error, calls, adopts the handle.
macro_rules! call {
    ($mesh:expr, $function:ident ( $($argument:expr),* )) => {{
        let mesh: &Arc<Inner> = $mesh;
        mesh.take_deferred_error()?;
        mesh.count_launch();
        let mut handle: abi::TensorHandle = 0;
        // SAFETY: handles are numbers that the provider checks; every pointer is valid for the
        // call.
        let status = unsafe { (mesh.api().$function)($($argument,)* &raw mut handle) };
        mesh.checked(stringify!($function), status)?;
        Tensor::adopt(mesh.clone(), handle)
    }};
}

/// A call that works in place.
macro_rules! change {
    ($mesh:expr, $function:ident ( $($argument:expr),* )) => {{
        let mesh: &Arc<Inner> = $mesh;
        mesh.take_deferred_error()?;
        mesh.count_launch();
        // SAFETY: handles are numbers that the provider checks.
        let status = unsafe { (mesh.api().$function)($($argument),*) };
        mesh.checked(stringify!($function), status)
    }};
}

fn optional(tensor: Option<&Tensor>) -> abi::TensorHandle {
    tensor.map_or(0, Tensor::input)
}

/// Both functions of the ABI that split heads.
type Split = unsafe extern "C" fn(
    abi::TensorHandle,
    u32,
    u32,
    *mut abi::TensorHandle,
    *mut abi::TensorHandle,
    *mut abi::TensorHandle,
) -> abi::Status;

fn word(value: usize, what: &str) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Host(format!("{what} {value} does not fit 32 bits")))
}

impl Tensor {
    /// `activation(x w + bias)`: x [a,b,M,K], w [1,1,K,N], bias [1,1,1,N] -> [a,b,M,N].
    pub fn linear(
        &self,
        w: &Tensor,
        bias: Option<&Tensor>,
        options: LinearOptions,
    ) -> Result<Tensor> {
        let compute = options.compute.to_abi();
        call!(
            self.inner(),
            ttp_linear(
                self.input(),
                w.input(),
                optional(bias),
                options.activation.to_abi(),
                &raw const compute,
                options.format.to_abi()
            )
        )
    }

    /// Layer norm over the last dimension; weight and bias [1,1,1,W].
    pub fn layer_norm(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
        compute: Compute,
    ) -> Result<Tensor> {
        let compute = compute.to_abi();
        call!(
            self.inner(),
            ttp_layer_norm(self.input(), weight.input(), optional(bias), eps, &raw const compute)
        )
    }

    /// RMS norm over the last dimension; weight [1,1,1,W].
    pub fn rms_norm(&self, weight: &Tensor, eps: f32, compute: Compute) -> Result<Tensor> {
        let compute = compute.to_abi();
        call!(self.inner(), ttp_rms_norm(self.input(), weight.input(), eps, &raw const compute))
    }

    /// Rotary embedding of x [1,H,S,D] by rows 0..S of tables [1,1,T,D].
    pub fn rope(
        &self,
        cosine: &Tensor,
        sine: &Tensor,
        order: RopeOrder,
        compute: Compute,
    ) -> Result<Tensor> {
        let compute = compute.to_abi();
        call!(
            self.inner(),
            ttp_rope(
                self.input(),
                cosine.input(),
                sine.input(),
                order.to_abi(),
                &raw const compute
            )
        )
    }

    /// Fused projection [1,1,S,(q+2kv)D] -> query [1,q,S,D], key and value [1,kv,S,D]. D is a
    /// multiple of 32.
    pub fn split_heads(&self, q_heads: usize, kv_heads: usize) -> Result<[Tensor; 3]> {
        self.split("ttp_split_heads", self.inner().api().ttp_split_heads, [q_heads, kv_heads])
    }

    /// One fused projection [1,1,1,(q+2kv)D] -> query [1,1,q,D], key and value [1,1,kv,D]: heads as
    /// rows, for [`Tensor::rope`], [`Tensor::update_pair`] and [`Tensor::attention_decode`].
    pub fn split_heads_decode(&self, q_heads: usize, kv_heads: usize) -> Result<[Tensor; 3]> {
        let split = self.inner().api().ttp_split_heads_decode;
        self.split("ttp_split_heads_decode", split, [q_heads, kv_heads])
    }

    fn split(&self, name: &'static str, split: Split, heads: [usize; 2]) -> Result<[Tensor; 3]> {
        let [q_heads, kv_heads] = heads;
        let mesh = self.inner();
        mesh.take_deferred_error()?;
        mesh.count_launch();
        let (q_heads, kv_heads) = (word(q_heads, "query heads")?, word(kv_heads, "key heads")?);
        let [mut q, mut k, mut v] = [0; 3];
        // SAFETY: the handle is a number that the provider checks; the pointers are valid for the
        // call.
        let status =
            unsafe { split(self.input(), q_heads, kv_heads, &raw mut q, &raw mut k, &raw mut v) };
        mesh.checked(name, status)?;
        // All three are adopted before the first failure returns, so that none leaks.
        let [q, k, v] = [q, k, v].map(|handle| Tensor::adopt(mesh.clone(), handle));
        Ok([q?, k?, v?])
    }

    /// [1,H,S,D] -> [1,1,S,HD].
    pub fn concat_heads(&self) -> Result<Tensor> {
        call!(self.inner(), ttp_concat_heads(self.input()))
    }

    /// Attention of query [1,H,S,D] over key and value [1,G,T,D]; causal needs S = T and no mask.
    pub fn attention(
        &self,
        key: &Tensor,
        value: &Tensor,
        mask: Option<&Tensor>,
        causal: bool,
        scale: f32,
        compute: Compute,
    ) -> Result<Tensor> {
        let compute = compute.to_abi();
        call!(
            self.inner(),
            ttp_attention(
                self.input(),
                key.input(),
                value.input(),
                optional(mask),
                u32::from(causal),
                scale,
                &raw const compute
            )
        )
    }

    /// Attention of one query row [1,H,1,D] or [1,1,H,D] over rows 0..=position of caches
    /// [1,G,T,D] -> [1,H,1,D]; position I32 [1,1,1,1].
    pub fn attention_decode(
        &self,
        key_cache: &Tensor,
        value_cache: &Tensor,
        position: &Tensor,
        scale: f32,
        compute: Compute,
    ) -> Result<Tensor> {
        let compute = compute.to_abi();
        call!(
            self.inner(),
            ttp_attention_decode(
                self.input(),
                key_cache.input(),
                value_cache.input(),
                position.input(),
                scale,
                &raw const compute
            )
        )
    }

    /// In place: writes rows [1,G,S,D] to rows 0..S of this cache.
    pub fn cache_fill(&self, rows: &Tensor) -> Result<()> {
        change!(self.inner(), ttp_cache_fill(self.input(), rows.input()))
    }

    /// In place: writes one row [1,G,1,D] to row `position` (I32 [1,1,1,1]) of this cache.
    pub fn cache_update(&self, row: &Tensor, position: &Tensor) -> Result<()> {
        change!(self.inner(), ttp_cache_update(self.input(), row.input(), position.input()))
    }

    /// In place: writes one row of keys and one of values, each [1,1,G,D], to row `position` of the
    /// caches (keys, values).
    pub fn update_pair(caches: [&Tensor; 2], rows: [&Tensor; 2], position: &Tensor) -> Result<()> {
        let ([keys, values], [key, value]) = (caches, rows);
        change!(
            keys.inner(),
            ttp_cache_update_pair(
                keys.input(),
                values.input(),
                key.input(),
                value.input(),
                position.input()
            )
        )
    }

    /// Rows of this table [1,1,V,D] (BF16, row-major) for ids U32 [1,1,1,N] -> [1,1,N,D].
    pub fn embedding(&self, ids: &Tensor, layout: Layout) -> Result<Tensor> {
        call!(self.inner(), ttp_embedding(ids.input(), self.input(), layout.to_abi()))
    }

    /// Element by element with another tensor; dimensions of 1 are spread. `left` is applied to
    /// self first.
    pub fn combine(
        &self,
        other: &Tensor,
        operation: Combine,
        left: Activation,
        format: Format,
    ) -> Result<Tensor> {
        call!(
            self.inner(),
            ttp_binary(
                self.input(),
                other.input(),
                operation.to_abi(),
                left.to_abi(),
                format.to_abi()
            )
        )
    }

    /// self + other, in self's format.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        self.combine(other, Combine::Add, Activation::None, self.format())
    }

    /// self * other, in self's format.
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        self.combine(other, Combine::Mul, Activation::None, self.format())
    }

    /// silu(self) * other, in self's format.
    pub fn silu_mul(&self, other: &Tensor) -> Result<Tensor> {
        self.combine(other, Combine::Mul, Activation::Silu, self.format())
    }

    /// A function of each element.
    pub fn activate(&self, activation: Activation) -> Result<Tensor> {
        call!(self.inner(), ttp_unary(self.input(), activation.to_abi()))
    }

    /// In place: adds to every element of an I32 or U32 tensor.
    pub fn increment(&self, value: i32) -> Result<()> {
        change!(self.inner(), ttp_increment(self.input(), value))
    }

    /// Joins tensors along a dimension.
    pub fn concat(tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            return Err(Error::Host("concat of no tensors".into()));
        };
        let handles: Vec<abi::TensorHandle> = tensors.iter().map(|tensor| tensor.input()).collect();
        let (count, dim) = (word(handles.len(), "number of tensors")?, word(dim, "dimension")?);
        call!(first.inner(), ttp_concat(handles.as_ptr(), count, dim))
    }

    /// The part [begin, end) in each dimension.
    pub fn slice(&self, begin: [usize; 4], end: [usize; 4]) -> Result<Tensor> {
        let (begin, end) = (words(begin)?, words(end)?);
        call!(self.inner(), ttp_slice(self.input(), begin.as_ptr(), end.as_ptr()))
    }

    /// The same elements in another shape.
    pub fn reshape(&self, dims: [usize; 4]) -> Result<Tensor> {
        let dims = words(dims)?;
        call!(self.inner(), ttp_reshape(self.input(), dims.as_ptr()))
    }

    /// Exchanges the last two dimensions.
    pub fn transpose(&self) -> Result<Tensor> {
        call!(self.inner(), ttp_transpose(self.input()))
    }

    /// Another format and layout, with the device's rounding.
    pub fn convert(&self, format: Format, layout: Layout) -> Result<Tensor> {
        call!(self.inner(), ttp_convert(self.input(), format.to_abi(), layout.to_abi()))
    }

    /// Copies into `target`, which keeps its address; a trace passes data to its next execution so.
    pub fn copy_to(&self, target: &Tensor) -> Result<()> {
        change!(self.inner(), ttp_copy(self.input(), target.input()))
    }

    /// Index of the largest of `columns` in each row, lowest on ties: BF16 or F32 [1,1,R,W] -> U32
    /// [1,1,1,R].
    pub fn argmax(&self, columns: std::ops::Range<usize>) -> Result<Tensor> {
        let (begin, end) = (word(columns.start, "column")?, word(columns.end, "column")?);
        call!(self.inner(), ttp_argmax(self.input(), begin, end))
    }

    /// Every chip gets all parts, joined along `dim` in chip order.
    pub fn all_gather(&self, dim: usize) -> Result<Tensor> {
        let dim = word(dim, "dimension")?;
        call!(self.inner(), ttp_all_gather(self.input(), dim))
    }

    /// Sums over the chips; chip i keeps part i along `dim`.
    pub fn reduce_scatter(&self, dim: usize) -> Result<Tensor> {
        let dim = word(dim, "dimension")?;
        call!(self.inner(), ttp_reduce_scatter(self.input(), dim))
    }

    /// Sums over the chips; every chip gets the sum.
    pub fn all_reduce(&self) -> Result<Tensor> {
        call!(self.inner(), ttp_all_reduce(self.input()))
    }

    /// Chip i keeps part i of its own tensor along `dim`; nothing is sent.
    pub fn partition(&self, dim: usize) -> Result<Tensor> {
        let dim = word(dim, "dimension")?;
        call!(self.inner(), ttp_partition(self.input(), dim))
    }
}
