//! Linear layers on the mesh: column-parallel, row-parallel with an all-reduce, or replicated.

use std::sync::OnceLock;

use tt_metal::{Compute, Distribution, Format, HostArray, Layout, LinearOptions, Mesh, Tensor};

use super::sharding::{PADDING, Sharding, TILE, column_multiple};
use super::weight_cache::Key;
use super::{Activation, BackendError, LinearSource, TtBackend, TtTensor, device, shape_error};
use crate::backend::{NormSource, TensorParallel, WeightRole};

/// Outputs that one row of 8 cores computes, a column of tiles each.
pub(super) const NARROW: usize = 8 * TILE;

/// A linear layer on the mesh.
pub struct TtLinear {
    /// One weight (and bias) per physical output tensor.
    weights: Vec<(Tensor, Option<Tensor>)>,
    inputs: usize,
    outputs: usize,
    /// Required sharding of the input.
    input_sharding: Sharding,
    /// Sharding of the output.
    output_sharding: Sharding,
    compute: Compute,
    /// Format of the product, before an all-reduce.
    product: Format,
    /// Format of the output.
    format: Format,
    /// Scale and source, where a scale was folded into the weights: under an activation the fold is
    /// wrong, and the layer is loaded again without it.
    scaled: Option<(Vec<f32>, LinearSource)>,
    unfolded: OnceLock<Box<TtLinear>>,
}

/// A layer norm or RMS norm on the mesh.
pub struct TtNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    columns: usize,
    epsilon: f32,
}

/// Dimensions of the stacked weights.
struct StackedShape {
    inputs: usize,
    outputs: usize,
    /// Outputs of each of the stacked weights.
    each: Vec<usize>,
}

fn measure(source: &LinearSource) -> Result<StackedShape, BackendError> {
    let refuse = |detail| Err(shape_error("load_linear", detail));
    let (mut inputs, mut each) = (None, Vec::new());
    for weight in &source.weights {
        let [rows, columns] = *weight.shape() else {
            return refuse(format!("weight {:?} is not [outputs, inputs]", weight.shape()));
        };
        if *inputs.get_or_insert(columns) != columns {
            return refuse(format!("{columns} inputs after {inputs:?}"));
        }
        each.push(rows);
    }
    let (Some(inputs), outputs) = (inputs, each.iter().sum::<usize>()) else {
        return refuse("no weight given".into());
    };
    for (name, vector) in [("bias", &source.bias), ("output_scale", &source.output_scale)] {
        if let Some(vector) = vector
            && vector.len() != outputs
        {
            return refuse(format!("{name} of {} for {outputs} outputs", vector.len()));
        }
    }
    if source.parallelism == TensorParallel::Column
        && each.iter().any(|&outputs| Some(&outputs) != each.first())
    {
        return refuse(format!("stacked weights of {each:?} outputs cannot be sharded alike"));
    }
    let head_columns = match source.parallelism {
        TensorParallel::ColumnByHead(shape) => {
            Some((outputs, (shape.heads + 2 * shape.kv_heads) * shape.head_dim))
        }
        TensorParallel::RowByHead(shape) => Some((inputs, shape.heads * shape.head_dim)),
        _ => None,
    };
    match head_columns {
        Some((have, wanted)) if have != wanted => {
            refuse(format!("{have} columns for heads of {wanted}"))
        }
        _ => Ok(StackedShape { inputs, outputs, each }),
    }
}

impl TtLinear {
    pub(super) fn new(backend: &TtBackend, source: LinearSource) -> Result<Self, BackendError> {
        let stacked = measure(&source)?;
        let StackedShape { inputs, outputs, each } = &stacked;
        let chips = (backend.chips_of(&source), column_multiple(source.role));
        let parts = each.len();
        let output_sharding =
            Sharding::of_outputs(source.parallelism, parts, outputs / parts.max(1), chips);
        let input_sharding = Sharding::of_inputs(source.parallelism, *inputs, chips);
        let precision = backend.policy.weight(source.role);
        let activations = &backend.formats;
        let format = match (source.role, source.parallelism) {
            // Logits are compared: they are not rounded.
            (WeightRole::Head, _) => Format::F32,
            // Input format of the rotary embedding and of the KV cache.
            (_, TensorParallel::ColumnByHead(_)) => Format::Bf16,
            (_, TensorParallel::Column) => activations.hidden,
            _ => activations.stream,
        };
        let scale = source.output_scale.as_ref().map(|scale| scale.to_f32());
        let upload = WeightUpload {
            source: &source,
            stacked: &stacked,
            scale: scale.as_deref(),
            input_sharding,
            output_sharding,
        };
        let weights = (0..output_sharding.parts())
            .map(|part| upload.part(backend, part, super::format(precision.format)));
        Ok(Self {
            weights: weights.collect::<Result<_, _>>()?,
            inputs: *inputs,
            outputs: *outputs,
            input_sharding,
            output_sharding,
            compute: backend.compute(precision.fidelity),
            product: if input_sharding.num_shards() > 1 { activations.collectives } else { format },
            format,
            scaled: scale.map(|scale| (scale, source)),
            unfolded: OnceLock::new(),
        })
    }

    /// The same layer without its scale folded in.
    fn without_scale(
        &self,
        backend: &TtBackend,
        source: &LinearSource,
    ) -> Result<&Self, BackendError> {
        if self.unfolded.get().is_none() {
            let plain = Self::new(backend, LinearSource { output_scale: None, ..source.clone() })?;
            let _ = self.unfolded.set(Box::new(plain));
        }
        self.unfolded.get().map(AsRef::as_ref).ok_or_else(|| {
            shape_error("linear", "the layer without its scale was not stored".into())
        })
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Weight and arithmetic of a layer for [`tt_metal::kernels::narrow_matmul`]: one replicated
    /// weight without bias, at most [`NARROW`] outputs. `None` for any other layer.
    pub(super) fn narrow_weight(&self) -> Option<(&Tensor, Compute)> {
        let replicated = self.input_sharding == Sharding::Replicated
            && self.output_sharding == Sharding::Replicated
            && self.scaled.is_none();
        let fits = self.outputs.is_multiple_of(TILE)
            && self.inputs.is_multiple_of(TILE)
            && self.outputs <= NARROW;
        match self.weights.as_slice() {
            [(weight, None)] if replicated && fits && self.format == Format::F32 => {
                Some((weight, self.compute))
            }
            _ => None,
        }
    }

    pub(super) fn apply(
        &self,
        backend: &TtBackend,
        x: &TtTensor,
        activation: Activation,
    ) -> Result<TtTensor, BackendError> {
        if x.columns != self.inputs {
            return Err(shape_error(
                "linear",
                format!("{} columns into {} inputs", x.columns, self.inputs),
            ));
        }
        if let Some((scale, source)) = &self.scaled
            && activation != Activation::Identity
        {
            let plain = self.without_scale(backend, source)?.apply(backend, x, activation)?;
            return backend.times_columns(&plain, scale);
        }
        let x = backend.reshard(x, self.input_sharding)?;
        let input = x.one("linear")?;
        let row_parallel = self.input_sharding.num_shards() > 1;
        let activation = match activation {
            Activation::Identity => tt_metal::Activation::None,
            Activation::Gelu => tt_metal::Activation::Gelu,
            Activation::GeluTanh => tt_metal::Activation::GeluTanh,
            Activation::Silu => tt_metal::Activation::Silu,
            Activation::Relu => tt_metal::Activation::Relu,
        };
        let options = LinearOptions {
            // Applied after the all-reduce, not to partial sums.
            activation: if row_parallel { tt_metal::Activation::None } else { activation },
            compute: self.compute,
            format: self.product,
        };
        let mut parts = Vec::with_capacity(self.weights.len());
        for (weight, bias) in &self.weights {
            let mut y = input.linear(weight, bias.as_ref(), options).map_err(device("linear"))?;
            if row_parallel {
                y = all_reduce(&y, backend.fold_rows).map_err(device("linear"))?;
                if self.product != self.format {
                    y = y.convert(self.format, Layout::Tile).map_err(device("linear"))?;
                }
                if activation != tt_metal::Activation::None {
                    y = y.activate(activation).map_err(device("linear"))?;
                }
            }
            parts.push(y);
        }
        Ok(TtTensor { parts, sharding: self.output_sharding, rows: x.rows, columns: self.outputs })
    }
}

/// All-reduce (sum) over the chips. A single row occupies one of a tile's 32 rows; folded, the same
/// numbers fill whole tiles, and 1/32 of the bytes are sent over the links.
fn all_reduce(y: &Tensor, fold: bool) -> tt_metal::Result<Tensor> {
    let dims = y.dims();
    match dims {
        [1, 1, 1, columns] if fold && columns.is_multiple_of(TILE * TILE) => {
            y.reshape([1, 1, TILE, columns / TILE])?.all_reduce()?.reshape(dims)
        }
        _ => y.all_reduce(),
    }
}

/// Upload of one linear layer's weights.
struct WeightUpload<'a> {
    source: &'a LinearSource,
    stacked: &'a StackedShape,
    scale: Option<&'a [f32]>,
    input_sharding: Sharding,
    output_sharding: Sharding,
}

impl WeightUpload<'_> {
    /// The weight `[inputs, outputs]` and bias of one physical output tensor, shards side by side
    /// in chip order.
    fn part(
        &self,
        backend: &TtBackend,
        part: usize,
        format: Format,
    ) -> Result<(Tensor, Option<Tensor>), BackendError> {
        let mesh = &backend.mesh;
        let StackedShape { inputs, outputs, .. } = self.stacked;
        let rows = self.input_sharding.column_maps(*inputs).swap_remove(0);
        let columns = self.output_sharding.column_maps(*outputs).swap_remove(part);
        let (height, width) = (rows.len(), columns.len());
        let distribution =
            match (self.input_sharding.num_shards(), self.output_sharding.num_shards()) {
                (1, 1) => Distribution::Replicate,
                (1, _) => Distribution::Shard(3),
                _ => Distribution::Shard(2),
            };
        let (operation, dims) = ("load_linear", [1, 1, height, width]);
        let weight = match &backend.weight_cache {
            None => mesh.upload(
                HostArray::f32(&self.values(backend, &rows, &columns), dims),
                distribution,
                format,
                Layout::Tile,
            ),
            Some(cache) => {
                let chips = if distribution == Distribution::Replicate { 1 } else { mesh.chips() };
                let length = packed_bytes(dims, distribution, chips, format);
                let pack = || {
                    let values = self.values(backend, &rows, &columns);
                    tt_metal::pack(
                        mesh.provider(),
                        HostArray::f32(&values, dims),
                        distribution,
                        chips,
                        format,
                    )
                };
                let packed = cache.get(
                    self.key(mesh, (&rows, &columns), (distribution, format)),
                    length,
                    pack,
                );
                packed.and_then(|packed| {
                    mesh.upload(
                        HostArray::packed(&packed, dims, format),
                        distribution,
                        format,
                        Layout::Tile,
                    )
                })
            }
        };
        let weight = weight.map_err(device(operation))?;
        let bias = self.bias(backend, &columns, distribution)?;
        Ok((weight, bias))
    }

    /// The bias of one physical output tensor, if the layer has one.
    fn bias(
        &self,
        backend: &TtBackend,
        columns: &[u32],
        distribution: Distribution,
    ) -> Result<Option<Tensor>, BackendError> {
        let width = columns.len();
        let Some(bias) = self.source.bias.as_ref().map(|bias| bias.to_f32()) else {
            return Ok(None);
        };
        let mut line: Vec<f32> = columns
            .iter()
            .map(|&output| match output {
                PADDING => 0.0,
                output => {
                    bias[output as usize] * self.scale.map_or(1.0, |scale| scale[output as usize])
                }
            })
            .collect();
        let (dims, distribution) = if self.input_sharding.num_shards() > 1 {
            // Every chip adds its bias to its partial sum: only the first chip's is not zero.
            let chips = self.input_sharding.num_shards();
            line.resize(chips * width, 0.0);
            ([1, chips, 1, width], Distribution::Shard(1))
        } else {
            ([1, 1, 1, width], distribution)
        };
        // bf16 whatever the weight's format: a bias is a few bytes.
        let bias = backend.mesh.upload(
            HostArray::f32(&line, dims),
            distribution,
            Format::Bf16,
            Layout::Tile,
        );
        Ok(Some(bias.map_err(device("load_linear"))?))
    }

    /// Cache key: everything that determines the packed bytes.
    fn key(
        &self,
        mesh: &Mesh,
        (rows, columns): (&[u32], &[u32]),
        (distribution, format): (Distribution, Format),
    ) -> Key {
        let mut key = Key::new(mesh.provider_name(), mesh.chips());
        key.add(format!("{distribution:?} {format}").as_bytes());
        key.add(bytemuck::cast_slice(rows));
        key.add(bytemuck::cast_slice(columns));
        key.add(bytemuck::cast_slice(self.scale.unwrap_or_default()));
        for weight in &self.source.weights {
            key.add(format!("{:?} {:?}", weight.dtype(), weight.shape()).as_bytes());
            key.add(weight.bytes());
        }
        key
    }

    /// The weight `[inputs, outputs]` with physical rows and columns.
    fn values(&self, backend: &TtBackend, rows: &[u32], columns: &[u32]) -> Vec<f32> {
        let StackedShape { inputs, each, .. } = self.stacked;
        let (height, width) = (rows.len(), columns.len());
        let mut values = vec![0.0f32; height * width];
        if backend.shapes_only {
            return values;
        }
        // Weight by weight, so that each is converted to float32 once.
        let mut first = 0;
        for (weight, &count) in self.source.weights.iter().zip(each) {
            let stored = weight.to_f32();
            for (column, &output) in columns.iter().enumerate() {
                let output = output as usize;
                if !(first..first + count).contains(&output) {
                    continue;
                }
                let line = &stored[(output - first) * inputs..(output - first + 1) * inputs];
                let factor = self.scale.map_or(1.0, |scale| scale[output]);
                for (row, &input) in rows.iter().enumerate() {
                    if input != PADDING {
                        values[row * width + column] = line[input as usize] * factor;
                    }
                }
            }
            first += count;
        }
        values
    }
}

/// Bytes of the packed weight: whole tiles, shard after shard.
fn packed_bytes(
    dims: [usize; 4],
    distribution: Distribution,
    chips: usize,
    format: Format,
) -> usize {
    let mut shard = dims;
    if let Distribution::Shard(dim) = distribution {
        shard[dim] /= chips.max(1);
    }
    let [a, b, rows, columns] = shard;
    chips * a * b * rows.div_ceil(TILE) * columns.div_ceil(TILE) * format.tile_bytes()
}

impl TtNorm {
    pub(super) fn new(backend: &TtBackend, source: &NormSource) -> Result<Self, BackendError> {
        let columns = source.weight.len();
        if let Some(bias) = &source.bias
            && bias.len() != columns
        {
            return Err(shape_error(
                "load_norm",
                format!("{columns} weights, {} biases", bias.len()),
            ));
        }
        let vector = |tensor: &crate::tensor::HostTensor| {
            let values = tensor.to_f32();
            let array = HostArray::f32(&values, [1, 1, 1, columns]);
            backend
                .mesh
                .upload(array, Distribution::Replicate, Format::Bf16, Layout::Tile)
                .map_err(device("load_norm"))
        };
        Ok(Self {
            weight: vector(&source.weight)?,
            bias: source.bias.as_ref().map(vector).transpose()?,
            columns,
            epsilon: source.epsilon,
        })
    }

    pub(super) fn apply(
        &self,
        operation: &'static str,
        x: &TtTensor,
        layer_norm: bool,
        compute: Compute,
    ) -> Result<TtTensor, BackendError> {
        if x.columns != self.columns {
            return Err(shape_error(
                operation,
                format!("{} columns, {} weights", x.columns, self.columns),
            ));
        }
        let input = x.one(operation)?;
        let y = match (layer_norm, &self.bias) {
            (true, Some(bias)) => input.layer_norm(&self.weight, Some(bias), self.epsilon, compute),
            (true, None) => {
                return Err(shape_error(operation, "the norm was loaded without a bias".into()));
            }
            (false, _) => input.rms_norm(&self.weight, self.epsilon, compute),
        };
        Ok(TtTensor { parts: vec![y.map_err(device(operation))?], ..x.clone() })
    }
}
