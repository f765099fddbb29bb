//! A backend and weights with one defect, of those that other ports of pi0 have had.

use std::ops::Range;
use std::sync::Mutex;

use vla_inference::backend::cpu::{
    CpuBackend, CpuCache, CpuImage, CpuLinear, CpuNorm, CpuPatchEmbedding, CpuTable, CpuTensor,
};
use vla_inference::backend::{
    Activation, Backend, BackendError, CacheSpec, LinearSource, Mask, NormSource,
    PatchEmbeddingSource, Pixels, TopTwo,
};
use vla_inference::checkpoint::WeightFiles;
use vla_inference::models::{ModelError, TensorSource};
use vla_inference::tensor::HostTensor;

/// A wrong operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    SuffixFromZero,
    SuffixBlind,
    SuffixCausal,
    PrefixCausal,
    ErfInGemma,
    SiluInGemma,
    ErfInVision,
    /// With the number of layer norms of one image.
    NoPostLayernorm(usize),
}

#[derive(Default)]
struct Seen {
    spec: Option<CacheSpec>,
    prefix: usize,
    layer_norms: usize,
}

/// The CPU backend with a wrong operation.
pub struct Defective {
    cpu: CpuBackend,
    wrong: Wrong,
    seen: Mutex<Seen>,
}

impl Defective {
    pub fn new(wrong: Wrong) -> Self {
        Self { cpu: CpuBackend::new(2).unwrap(), wrong, seen: Mutex::default() }
    }

    /// `qkv` with queries and keys turned back by `positions`.
    fn turned_back(&self, qkv: &CpuTensor, positions: usize, spec: CacheSpec) -> CpuTensor {
        let host = self.cpu.download(qkv).unwrap();
        let [rows, columns] = *host.shape() else { unreachable!() };
        let (dim, half) = (spec.head_dim, spec.head_dim / 2);
        let mut values = host.to_f32();
        for row in values.chunks_exact_mut(columns) {
            for head in (0..(spec.heads + spec.kv_heads) * dim).step_by(dim) {
                for pair in 0..half {
                    let angle =
                        -(positions as f64) * spec.rope_theta.powf(-2.0 * pair as f64 / dim as f64);
                    let (sin, cos) = angle.sin_cos();
                    let (a, b) = (f64::from(row[head + pair]), f64::from(row[head + pair + half]));
                    row[head + pair] = (a * cos - b * sin) as f32;
                    row[head + pair + half] = (b * cos + a * sin) as f32;
                }
            }
        }
        self.cpu.upload(&HostTensor::from_f32(&[rows, columns], values).unwrap()).unwrap()
    }
}

type Done<T> = Result<T, BackendError>;

impl Backend for Defective {
    type Tensor = CpuTensor;
    type Linear = CpuLinear;
    type Norm = CpuNorm;
    type Table = CpuTable;
    type Cache = CpuCache;
    type PatchEmbedding = CpuPatchEmbedding;
    type Image = CpuImage;

    fn name(&self) -> String {
        format!("{:?}", self.wrong)
    }
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.cpu.scope(work)
    }
    fn load_linear(&self, source: LinearSource) -> Done<CpuLinear> {
        self.cpu.load_linear(source)
    }
    fn load_norm(&self, source: NormSource) -> Done<CpuNorm> {
        self.cpu.load_norm(source)
    }
    fn load_table(&self, table: HostTensor) -> Done<CpuTable> {
        self.cpu.load_table(table)
    }
    fn load_patch_embedding(&self, source: PatchEmbeddingSource) -> Done<CpuPatchEmbedding> {
        self.cpu.load_patch_embedding(source)
    }
    fn upload(&self, tensor: &HostTensor) -> Done<CpuTensor> {
        self.cpu.upload(tensor)
    }
    fn shape(&self, tensor: &CpuTensor) -> [usize; 2] {
        self.cpu.shape(tensor)
    }
    fn download(&self, tensor: &CpuTensor) -> Done<HostTensor> {
        self.cpu.download(tensor)
    }
    fn new_cache(&self, spec: CacheSpec) -> Done<CpuCache> {
        self.seen.lock().unwrap().spec = Some(spec);
        self.cpu.new_cache(spec)
    }
    fn read_cache(&self, cache: &CpuCache, layer: usize) -> Done<(HostTensor, HostTensor)> {
        self.cpu.read_cache(cache, layer)
    }
    fn upload_image(&self, pixels: Pixels<'_>) -> Done<CpuImage> {
        self.cpu.upload_image(pixels)
    }
    fn cut_patches(&self, image: &CpuImage) -> Done<CpuTensor> {
        self.cpu.cut_patches(image)
    }
    fn embed_patches(&self, x: &CpuTensor, layer: &CpuPatchEmbedding) -> Done<CpuTensor> {
        self.cpu.embed_patches(x, layer)
    }
    fn linear(&self, x: &CpuTensor, layer: &CpuLinear, activation: Activation) -> Done<CpuTensor> {
        let activation = match (self.wrong, activation) {
            (Wrong::ErfInVision, Activation::GeluTanh) => Activation::Gelu,
            (_, activation) => activation,
        };
        self.cpu.linear(x, layer, activation)
    }
    fn layer_norm(&self, x: &CpuTensor, norm: &CpuNorm) -> Done<CpuTensor> {
        if let Wrong::NoPostLayernorm(per_image) = self.wrong {
            let mut seen = self.seen.lock().unwrap();
            seen.layer_norms += 1;
            if seen.layer_norms.is_multiple_of(per_image) {
                return Ok(x.clone());
            }
        }
        self.cpu.layer_norm(x, norm)
    }
    fn rms_norm(&self, x: &CpuTensor, norm: &CpuNorm) -> Done<CpuTensor> {
        self.cpu.rms_norm(x, norm)
    }
    fn add(&self, x: CpuTensor, y: &CpuTensor) -> Done<CpuTensor> {
        self.cpu.add(x, y)
    }
    fn multiply_add(&self, x: &CpuTensor, a: &CpuTensor, b: &CpuTensor) -> Done<CpuTensor> {
        self.cpu.multiply_add(x, a, b)
    }
    fn silu_mul(&self, x: &CpuTensor) -> Done<CpuTensor> {
        self.cpu.silu_mul(x)
    }
    fn reshape_rows(&self, x: &CpuTensor, rows: usize) -> Done<CpuTensor> {
        self.cpu.reshape_rows(x, rows)
    }
    fn gelu_tanh_mul(&self, x: &CpuTensor) -> Done<CpuTensor> {
        match self.wrong {
            Wrong::SiluInGemma => self.cpu.silu_mul(x),
            Wrong::ErfInGemma => {
                let host = self.cpu.download(x)?;
                let [rows, columns] = *host.shape() else { unreachable!() };
                // A layer of identity weights applies the exact GELU.
                let half = columns / 2;
                let identity = (0..half * half)
                    .map(|at| f32::from(u8::from(at / half == at % half)))
                    .collect();
                let layer = self.cpu.load_linear(LinearSource {
                    role: vla_inference::backend::WeightRole::Mlp,
                    weights: vec![HostTensor::from_f32(&[half, half], identity)?],
                    bias: None,
                    output_scale: None,
                    parallelism: Default::default(),
                    few_rows: false,
                })?;
                let values = host.to_f32();
                let part = |from: usize| {
                    let rows_of = values.chunks_exact(columns);
                    let cut = rows_of.flat_map(|row| row[from..from + half].to_vec()).collect();
                    self.cpu.upload(&HostTensor::from_f32(&[rows, half], cut).unwrap())
                };
                let gate = self.cpu.linear(&part(0)?, &layer, Activation::Gelu)?;
                let zero = HostTensor::from_f32(&[1, half], vec![0.0; half])?;
                self.cpu.multiply_add(&gate, &part(half)?, &self.cpu.upload(&zero)?)
            }
            _ => self.cpu.gelu_tanh_mul(x),
        }
    }
    fn attention(&self, qkv: &CpuTensor, heads: usize) -> Done<CpuTensor> {
        self.cpu.attention(qkv, heads)
    }
    fn cached_attention(
        &self,
        qkv: &CpuTensor,
        cache: &mut CpuCache,
        layer: usize,
        position: usize,
        mask: Mask,
    ) -> Done<CpuTensor> {
        let (spec, prefix) = {
            let mut seen = self.seen.lock().unwrap();
            if position == 0 {
                seen.prefix = self.cpu.shape(qkv)[0];
            }
            (seen.spec.unwrap(), seen.prefix)
        };
        let (suffix, causal) = (position > 0, Mask::Causal);
        match self.wrong {
            Wrong::SuffixFromZero if suffix => {
                let qkv = self.turned_back(qkv, prefix, spec);
                self.cpu.cached_attention(&qkv, cache, layer, position, mask)
            }
            Wrong::SuffixBlind if suffix => {
                self.cpu.write_cache(qkv, cache, layer, position)?;
                let mut own = self.cpu.new_cache(CacheSpec { layers: 1, ..spec })?;
                self.cpu.cached_attention(qkv, &mut own, 0, 0, mask)
            }
            Wrong::SuffixCausal if suffix => {
                self.cpu.cached_attention(qkv, cache, layer, position, causal)
            }
            Wrong::PrefixCausal if !suffix => {
                self.cpu.cached_attention(qkv, cache, layer, position, causal)
            }
            _ => self.cpu.cached_attention(qkv, cache, layer, position, mask),
        }
    }
    fn write_cache(
        &self,
        qkv: &CpuTensor,
        cache: &mut CpuCache,
        layer: usize,
        position: usize,
    ) -> Done<()> {
        self.cpu.write_cache(qkv, cache, layer, position)
    }
    fn embed(&self, table: &CpuTable, ids: &[u32]) -> Done<CpuTensor> {
        self.cpu.embed(table, ids)
    }
    fn concat_rows(&self, parts: &[&CpuTensor]) -> Done<CpuTensor> {
        self.cpu.concat_rows(parts)
    }
    fn concat_columns(&self, parts: &[&CpuTensor]) -> Done<CpuTensor> {
        self.cpu.concat_columns(parts)
    }
    fn slice_rows(&self, x: &CpuTensor, range: Range<usize>) -> Done<CpuTensor> {
        self.cpu.slice_rows(x, range)
    }
    fn top_two(&self, x: &CpuTensor) -> Done<Vec<TopTwo>> {
        self.cpu.top_two(x)
    }
}

/// A change of a tensor: its name, its values and its shape.
pub type Change = Box<dyn Fn(&str, &mut Vec<f32>, &[usize]) + Send + Sync>;

/// The weights of a checkpoint with a change.
pub struct Altered {
    pub files: WeightFiles,
    pub change: Change,
    /// A tensor to read instead of another.
    pub instead: Option<(&'static str, &'static str)>,
}

impl TensorSource for Altered {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        let name = match self.instead {
            Some((wanted, given)) if wanted == name => given,
            _ => name,
        };
        let mut values = TensorSource::tensor(&self.files, name, shape)?.to_f32();
        (self.change)(name, &mut values, shape);
        Ok(HostTensor::from_f32(shape, values).unwrap())
    }
    fn contains(&self, name: &str) -> bool {
        self.files.contains(name)
    }
}
