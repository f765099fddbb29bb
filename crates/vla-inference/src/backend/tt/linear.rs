//! Linear layers over the chips: column-parallel, row-parallel with a sum between chips, or whole
//! on each.

use std::sync::OnceLock;

use tt_metal::{Compute, Distribution, Format, HostArray, Layout, LinearOptions, Mesh, Tensor};

use super::cache::Key;
use super::sharding::{Form, PADDING, TILE, multiple_of};
use super::{Activation, BackendError, LinearSource, TtBackend, TtTensor, device, shape_error};
use crate::backend::{NormSource, Split, WeightRole};

/// Outputs of a layer that one row of cores does: a column of tiles each.
const NARROW: usize = 8 * TILE;

/// A linear layer on the mesh.
pub struct TtLinear {
    /// One weight (and bias) per physical output tensor.
    weights: Vec<(Tensor, Option<Tensor>)>,
    inputs: usize,
    outputs: usize,
    /// How the input must lie.
    takes: Form,
    /// How the output lies.
    gives: Form,
    compute: Compute,
    /// Format of the product, before a sum between chips.
    product: Format,
    /// Format of the output.
    format: Format,
    /// Scale and source, where a scale was folded in: folding is wrong under an activation, for
    /// which this is kept.
    scaled: Option<(Vec<f32>, LinearSource)>,
    unfolded: OnceLock<Box<TtLinear>>,
}

/// A norm on the mesh.
pub struct TtNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    columns: usize,
    epsilon: f32,
}

/// The whole weight as the checkpoint has it.
struct Stacked {
    inputs: usize,
    outputs: usize,
    /// Outputs of each of the stacked weights.
    each: Vec<usize>,
}

fn measure(source: &LinearSource) -> Result<Stacked, BackendError> {
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
    if source.split == Split::Columns && each.iter().any(|&outputs| Some(&outputs) != each.first())
    {
        return refuse(format!("stacked weights of {each:?} outputs cannot be cut alike"));
    }
    let head_columns = match source.split {
        Split::Heads(shape) => Some((outputs, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)),
        Split::AfterHeads(shape) => Some((inputs, shape.heads * shape.head_dim)),
        _ => None,
    };
    match head_columns {
        Some((have, wanted)) if have != wanted => {
            refuse(format!("{have} columns for heads of {wanted}"))
        }
        _ => Ok(Stacked { inputs, outputs, each }),
    }
}

impl TtLinear {
    pub(super) fn new(backend: &TtBackend, source: LinearSource) -> Result<Self, BackendError> {
        let stacked = measure(&source)?;
        let Stacked { inputs, outputs, each } = &stacked;
        let chips = (backend.spread(source.role), multiple_of(source.role));
        let parts = each.len();
        let gives = Form::of_outputs(source.split, parts, outputs / parts.max(1), chips);
        let takes = Form::of_inputs(source.split, *inputs, chips);
        let precision = backend.policy.weight(source.role);
        let activations = &backend.formats;
        let format = match (source.role, source.split) {
            // Logits decide: nothing is rounded any more.
            (WeightRole::Head, _) => Format::F32,
            // The rotary embedding and the caches read bf16.
            (_, Split::Heads(_)) => Format::Bf16,
            (_, Split::Columns) => activations.hidden,
            _ => activations.stream,
        };
        let scale = source.output_scale.as_ref().map(|scale| scale.to_f32());
        let host =
            Host { source: &source, stacked: &stacked, scale: scale.as_deref(), takes, gives };
        let weights = (0..gives.parts())
            .map(|part| host.upload(backend, part, super::format(precision.format)));
        Ok(Self {
            weights: weights.collect::<Result<_, _>>()?,
            inputs: *inputs,
            outputs: *outputs,
            takes,
            gives,
            compute: backend.compute(precision.fidelity),
            product: if takes.spread() > 1 { activations.collectives } else { format },
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
        self.unfolded
            .get()
            .map(AsRef::as_ref)
            .ok_or_else(|| shape_error("linear", "the layer was not kept".into()))
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Weight and arithmetic of a layer that a row of cores can do at once: one weight, whole on
    /// every chip, few outputs.
    pub(super) fn narrow(&self) -> Option<(&Tensor, Compute)> {
        let whole = self.takes == Form::Whole && self.gives == Form::Whole && self.scaled.is_none();
        let fits = self.outputs.is_multiple_of(TILE)
            && self.inputs.is_multiple_of(TILE)
            && self.outputs <= NARROW;
        match self.weights.as_slice() {
            [(weight, None)] if whole && fits && self.format == Format::F32 => {
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
        if let (Some((scale, source)), Activation::Gelu) = (&self.scaled, activation) {
            let plain = self.without_scale(backend, source)?.apply(backend, x, activation)?;
            return backend.times_columns(&plain, scale);
        }
        let x = backend.in_form(x, self.takes)?;
        let input = x.one("linear")?;
        let alone = self.takes.spread() == 1;
        let wanted = match activation {
            Activation::Identity => tt_metal::Activation::None,
            Activation::Gelu => tt_metal::Activation::Gelu,
        };
        let options = LinearOptions {
            // Parts of a sum are not activated, the sum is.
            activation: if alone { wanted } else { tt_metal::Activation::None },
            compute: self.compute,
            format: self.product,
        };
        let mut parts = Vec::with_capacity(self.weights.len());
        for (weight, bias) in &self.weights {
            let mut y = input.linear(weight, bias.as_ref(), options).map_err(device("linear"))?;
            if !alone {
                y = sum_over_chips(&y).map_err(device("linear"))?;
                if self.product != self.format {
                    y = y.convert(self.format, Layout::Tile).map_err(device("linear"))?;
                }
                if wanted != tt_metal::Activation::None {
                    y = y.activate(wanted).map_err(device("linear"))?;
                }
            }
            parts.push(y);
        }
        Ok(TtTensor { parts, form: self.gives, rows: x.rows, columns: self.outputs })
    }
}

/// Sums over the chips. A single row fills one of a tile's 32: under another shape the same numbers
/// fill whole tiles, and a 32nd of the bytes goes over the links.
fn sum_over_chips(y: &Tensor) -> tt_metal::Result<Tensor> {
    let dims = y.dims();
    match dims {
        [1, 1, 1, columns] if columns.is_multiple_of(TILE * TILE) => {
            y.reshape([1, 1, TILE, columns / TILE])?.all_reduce()?.reshape(dims)
        }
        _ => y.all_reduce(),
    }
}

/// A weight on its way to the device.
struct Host<'a> {
    source: &'a LinearSource,
    stacked: &'a Stacked,
    scale: Option<&'a [f32]>,
    takes: Form,
    gives: Form,
}

impl Host<'_> {
    /// The weight `[inputs, outputs]` and bias of one physical output tensor, in chip order.
    fn upload(
        &self,
        backend: &TtBackend,
        part: usize,
        format: Format,
    ) -> Result<(Tensor, Option<Tensor>), BackendError> {
        let mesh = &backend.mesh;
        let Stacked { inputs, outputs, .. } = self.stacked;
        let rows = self.takes.maps(*inputs).swap_remove(0);
        let columns = self.gives.maps(*outputs).swap_remove(part);
        let (height, width) = (rows.len(), columns.len());
        let distribution = match (self.takes.spread(), self.gives.spread()) {
            (1, 1) => Distribution::Replicate,
            (1, _) => Distribution::Shard(3),
            _ => Distribution::Shard(2),
        };
        let (operation, dims) = ("load_linear", [1, 1, height, width]);
        let weight = match &backend.weight_cache {
            None => mesh.upload(
                HostArray::f32(&self.values(&rows, &columns), dims),
                distribution,
                format,
                Layout::Tile,
            ),
            Some(cache) => {
                let chips = if distribution == Distribution::Replicate { 1 } else { mesh.chips() };
                let length = packed_bytes(dims, distribution, chips, format);
                let pack = || {
                    let values = self.values(&rows, &columns);
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
        let Some(bias) = self.source.bias.as_ref().map(|bias| bias.to_f32()) else {
            return Ok((weight, None));
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
        let (dims, distribution) = if self.takes.spread() > 1 {
            // Each chip adds its bias to its part of the sum: only the first has one.
            let chips = self.takes.spread();
            line.resize(chips * width, 0.0);
            ([1, chips, 1, width], Distribution::Shard(1))
        } else {
            ([1, 1, 1, width], distribution)
        };
        // As precise as the destination register: a bias is a few bytes.
        let bias =
            mesh.upload(HostArray::f32(&line, dims), distribution, Format::Bf16, Layout::Tile);
        Ok((weight, Some(bias.map_err(device(operation))?)))
    }

    /// Everything that decides the packed bytes.
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

    /// The weight `[inputs, outputs]`, rows and columns as they lie on the chips.
    fn values(&self, rows: &[u32], columns: &[u32]) -> Vec<f32> {
        let Stacked { inputs, each, .. } = self.stacked;
        let (height, width) = (rows.len(), columns.len());
        let mut values = vec![0.0f32; height * width];
        // Logical output of each column, looked up weight by weight so that each is widened once.
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

/// Bytes of what the provider packs: whole tiles, shard after shard.
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
        layer: bool,
        compute: Compute,
    ) -> Result<TtTensor, BackendError> {
        if x.columns != self.columns {
            return Err(shape_error(
                operation,
                format!("{} columns, {} weights", x.columns, self.columns),
            ));
        }
        let input = x.one(operation)?;
        let y = match (layer, &self.bias) {
            (true, Some(bias)) => input.layer_norm(&self.weight, Some(bias), self.epsilon, compute),
            (true, None) => {
                return Err(shape_error(operation, "the norm was loaded without a bias".into()));
            }
            (false, _) => input.rms_norm(&self.weight, self.epsilon, compute),
        };
        Ok(TtTensor { parts: vec![y.map_err(device(operation))?], ..x.clone() })
    }
}
