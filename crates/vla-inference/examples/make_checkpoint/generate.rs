//! Random checkpoints, streamed to disk in a few megabytes of memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use serde_json::{Map, Value, json};
use vla_inference::checkpoint::{ExpectedTensor, OpenVlaConfig};

/// What to write.
pub struct Request {
    /// Folder to write; must not exist or be empty.
    pub out: PathBuf,
    /// Checkpoint folder that gives tokenizer, preprocessor and statistics.
    pub template: PathBuf,
    /// Size of the language model.
    pub llama: LlamaSize,
    /// Whether the template's `tiny_timm_overrides` stay.
    pub tiny_towers: bool,
    /// Seed of the weights.
    pub seed: u64,
    /// Largest shard, bytes of tensors.
    pub shard_bytes: u64,
}

/// Size of the language model.
pub struct LlamaSize {
    /// Width.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// MLP width.
    pub intermediate: usize,
}

/// What was written.
pub struct Report {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements.
    pub parameters: u64,
    /// Bytes of tensors.
    pub bytes: u64,
    /// Number of safetensors files.
    pub files: usize,
}

/// Files copied as they are. `dataset_statistics.json` is not: a base checkpoint has its statistics
/// in config.json.
const COPIED: [&str; 7] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "generation_config.json",
];

/// Writes the checkpoint.
///
/// # Errors
/// One line: a size that makes no consistent model, a folder that is not empty, a disk that is
/// full.
pub fn generate(request: &Request) -> Result<Report, String> {
    let out = &request.out;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| format!("{}: {error}", path.display())
    };
    fs::create_dir_all(out).map_err(at(out))?;
    if fs::read_dir(out).map_err(at(out))?.next().is_some() {
        return Err(format!("{}: not empty: give a new folder", out.display()));
    }
    let bytes = configuration(request)?;
    let path = out.join("config.json");
    let config = OpenVlaConfig::from_json(&path, &bytes).map_err(|error| error.to_string())?;
    fs::write(&path, bytes).map_err(at(&path))?;
    for name in COPIED {
        let source = request.template.join(name);
        if source.exists() {
            fs::copy(&source, out.join(name)).map_err(at(&source))?;
        }
    }

    let tensors = config.expected_tensors();
    let shards = split(&tensors, request.shard_bytes);
    let mut places = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let path = out.join(&name);
        write_shard(&path, shard, &config, request.seed).map_err(at(&path))?;
        places.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone())));
    }
    let parameters: u64 = tensors.iter().map(ExpectedTensor::parameters).sum();
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": 2 * parameters}, "weight_map": places});
        let path = out.join("model.safetensors.index.json");
        fs::write(&path, format!("{index:#}\n")).map_err(at(&path))?;
    }
    Ok(Report { tensors: tensors.len(), parameters, bytes: 2 * parameters, files: shards.len() })
}

/// The template's config.json with the requested sizes.
fn configuration(request: &Request) -> Result<Vec<u8>, String> {
    let path = request.template.join("config.json");
    let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = fs::read(&path).map_err(|error| fail(&error))?;
    let mut config: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| fail(&error))?;
    if !request.tiny_towers {
        config.remove("tiny_timm_overrides");
    }
    let text = config.get_mut("text_config").and_then(Value::as_object_mut);
    let text = text.ok_or_else(|| fail(&"no text_config"))?;
    let LlamaSize { hidden, layers, heads, kv_heads, intermediate } = request.llama;
    let sizes = [
        ("hidden_size", hidden),
        ("num_hidden_layers", layers),
        ("num_attention_heads", heads),
        ("num_key_value_heads", kv_heads),
        ("intermediate_size", intermediate),
    ];
    text.extend(sizes.map(|(name, size)| (name.to_owned(), json!(size))));
    serde_json::to_vec_pretty(&config).map_err(|error| fail(&error))
}

/// Fills one shard after the other in state-dict order, as `save_pretrained` does.
fn split(tensors: &[ExpectedTensor], limit: u64) -> Vec<Vec<&ExpectedTensor>> {
    let mut shards: Vec<Vec<&ExpectedTensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let bytes = 2 * tensor.parameters();
        if filled > 0 && filled + bytes > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

fn write_shard(
    path: &Path,
    tensors: &[&ExpectedTensor],
    config: &OpenVlaConfig,
    seed: u64,
) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let begin = end;
        end += 2 * tensor.parameters();
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::to_string(&header)?;
    while !header.len().is_multiple_of(8) {
        header.push(' '); // so that the tensors are aligned in the mapped file
    }
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for tensor in tensors {
        write_tensor(&mut file, tensor, config, seed)?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Writes uniform values around the tensor's mean. Uniform, because only the variance matters after
/// a sum of thousands.
fn write_tensor(
    file: &mut impl Write,
    tensor: &ExpectedTensor,
    config: &OpenVlaConfig,
    seed: u64,
) -> io::Result<()> {
    let (mean, deviation) = distribution(tensor, config);
    let mut random = Random::new(seed, &tensor.name);
    let mut remaining = usize::try_from(tensor.parameters()).map_err(io::Error::other)?;
    // The head's rows for actions are four times as long, so that greedy decoding chooses action
    // tokens, as with a trained model.
    let head = tensor.name.ends_with("lm_head.weight");
    let end = config.action_token_end * config.llama.hidden_size;
    let actions = end - config.action_bins * config.llama.hidden_size..end;
    let mut position = 0;
    let mut block = Vec::with_capacity(1 << 16);
    while remaining > 0 {
        block.clear();
        let count = remaining.min(1 << 15);
        while block.len() < 2 * count {
            let mut word = random.next();
            for _ in 0..4 {
                let unit = f32::from(word as u16) / 32_767.5 - 1.0;
                let boost = if head && actions.contains(&position) { 4.0 } else { 1.0 };
                block.extend_from_slice(
                    &bf16::from_f32(mean + unit * deviation * 1.732_050_8 * boost).to_le_bytes(),
                );
                word >>= 16;
                position += 1;
            }
        }
        position -= block.len() / 2 - count;
        file.write_all(block.get(..2 * count).unwrap_or_default())?;
        remaining -= count;
    }
    Ok(())
}

/// Mean and standard deviation that keep activations near 1 at any width and depth: no overflow, no
/// denormals.
fn distribution(tensor: &ExpectedTensor, config: &OpenVlaConfig) -> (f32, f32) {
    let name = tensor.name.as_str();
    let inputs: usize = tensor.shape.iter().skip(1).product();
    let deviation = 1.0 / (inputs as f32).sqrt();
    let is_norm = name.contains("norm") && name.ends_with(".weight");
    if is_norm {
        (1.0, 0.05)
    } else if name.ends_with("scale_factor") {
        (0.3, 0.1)
    } else if name.ends_with(".bias") {
        (0.0, 0.02)
    } else if name.ends_with("_token")
        || name.ends_with("pos_embed")
        || name.ends_with("latent")
        || name.contains("embed_tokens")
    {
        (0.0, 0.5)
    } else if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
        (0.0, deviation / (2.0 * config.llama.num_hidden_layers as f32).sqrt())
    } else {
        (0.0, deviation)
    }
}

/// SplitMix64, one stream per tensor: the weights depend on seed and name, not on the order of
/// writing.
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the name.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
