//! Writes a pi0 or pi0.5 checkpoint with random bfloat16 weights in LeRobot's layout: full size by
//! default, for memory and speed where the real one cannot be downloaded. Its actions are random:
//! not for a robot.
//!
//! ```text
//! # as large as pi0 without its unused heads (6.5 GB)
//! cargo run --release -p vla-inference --example make_pi0_checkpoint -- --out /tmp/pi0/ckpt
//! # the same widths with 3 layers, 4 of vision and a small vocabulary (0.9 GB)
//! cargo run --release -p vla-inference --example make_pi0_checkpoint -- --out /tmp/cut/ckpt --cut
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use half::bf16;
use serde_json::{Map, Value, json};
use vla_inference::checkpoint::ExpectedTensor;
use vla_inference::checkpoint::pi0::Pi0Config;

#[derive(Parser)]
#[command(about = "Writes a pi0 or pi0.5 checkpoint with random bfloat16 weights")]
struct Arguments {
    /// Folder to write; must not exist or be empty. The tokenizer is written beside it
    #[arg(long)]
    out: PathBuf,
    /// Write pi0.5
    #[arg(long)]
    pi05: bool,
    /// Keep the small dimensions of the test kit
    #[arg(long, conflicts_with = "cut")]
    tiny: bool,
    /// Full widths, with 3 layers of language model and expert, 4 of vision, 4096 tokens
    #[arg(long)]
    cut: bool,
    /// Steps of a chunk
    #[arg(long, default_value_t = 50)]
    chunk: usize,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Patches of an image of 224 x 224 pixels.
const POSITIONS: usize = 256;
/// Rows of PaliGemma's embedding.
const VOCABULARY: usize = 257_152;

fn main() -> ExitCode {
    match generate(&Arguments::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn generate(arguments: &Arguments) -> Result<String, String> {
    let kit = if arguments.pi05 { "pi05_lerobot_tiny" } else { "pi0_lerobot_tiny" };
    let kit = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data")).join(kit);
    let out = &arguments.out;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| format!("{}: {error}", path.display())
    };
    fs::create_dir_all(out).map_err(at(out))?;
    if fs::read_dir(out).map_err(at(out))?.next().is_some() {
        return Err(format!("{}: not empty: give a new folder", out.display()));
    }
    for entry in fs::read_dir(kit.join("ckpt")).map_err(at(&kit))?.flatten() {
        let name = entry.file_name();
        if name != "model.safetensors" && name != "config.json" {
            fs::copy(entry.path(), out.join(name)).map_err(at(out))?;
        }
    }
    let tokenizer = out.join("tokenizer");
    fs::create_dir_all(&tokenizer).map_err(at(&tokenizer))?;
    let file = kit.join("tokenizer/tokenizer.json");
    fs::copy(&file, tokenizer.join("tokenizer.json")).map_err(at(&file))?;
    let template = kit.join("ckpt/config.json");
    let bytes = fs::read(&template).map_err(at(&template))?;
    let mut json: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if arguments.cut {
        json.insert("tiny_overrides".into(), cut());
    } else if !arguments.tiny {
        json.remove("tiny_overrides");
    }
    json.insert("chunk_size".into(), json!(arguments.chunk));
    json.insert("n_action_steps".into(), json!(arguments.chunk));
    json.insert("dtype".into(), json!("bfloat16"));
    let bytes = serde_json::to_vec_pretty(&json).map_err(|error| error.to_string())?;
    let path = out.join("config.json");
    let config = Pi0Config::from_json(&path, &bytes).map_err(|error| error.to_string())?;
    fs::write(&path, bytes).map_err(at(&path))?;
    let tensors = config.expected_tensors(POSITIONS, config.vocab_size.unwrap_or(VOCABULARY));
    let path = out.join("model.safetensors");
    write(&path, &tensors, arguments.seed).map_err(at(&path))?;
    let parameters: u64 = tensors.iter().map(ExpectedTensor::parameters).sum();
    Ok(format!("{}: {} tensors, {parameters} parameters", out.display(), tensors.len()))
}

/// Fewer layers and tokens; what is not named keeps its size.
fn cut() -> Value {
    json!({
        "gemma_2b": {"depth": 3},
        "gemma_300m": {"depth": 3},
        "vision": {"num_hidden_layers": 4},
        "vocab_size": 4096
    })
}

fn write(path: &Path, tensors: &[ExpectedTensor], seed: u64) -> io::Result<()> {
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
        // FNV-1a over the name: the weights do not depend on the order of writing.
        let hash = tensor.name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = fastrand::Rng::with_seed(hash ^ seed);
        let (mean, deviation) = distribution(tensor);
        let mut left = usize::try_from(tensor.parameters()).map_err(io::Error::other)?;
        let mut block = Vec::with_capacity(2 << 16);
        while left > 0 {
            block.clear();
            // Uniform: only the variance matters after a sum of thousands. Four from each number.
            for _ in 0..(1 << 16).min(left).div_ceil(4) {
                let word = random.u64(..);
                for part in 0..4 {
                    let unit = f32::from((word >> (16 * part)) as u16) / 32_767.5 - 1.0;
                    let value = mean + unit * deviation * 1.732_050_8;
                    block.extend_from_slice(&bf16::from_f32(value).to_le_bytes());
                }
            }
            block.truncate(2 * left);
            file.write_all(&block)?;
            left -= block.len() / 2;
        }
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Mean and standard deviation that keep activations near 1 at any width and depth.
fn distribution(tensor: &ExpectedTensor) -> (f32, f32) {
    let name = tensor.name.as_str();
    let inputs: usize = tensor.shape.iter().skip(1).product();
    let deviation = 1.0 / (inputs.max(1) as f32).sqrt();
    let vision = name.contains("vision_tower");
    if name.ends_with(".bias") {
        (0.0, 0.02)
    } else if name.contains("norm") && name.ends_with("norm.weight") || name.contains("layer_norm")
    {
        // Gemma stores the gain minus 1.
        (if vision { 1.0 } else { 0.0 }, 0.05)
    } else if name.contains("dense") {
        (0.0, 0.2 * deviation)
    } else if name.contains("embed_tokens") || name.contains("position_embedding") {
        (0.0, if vision { 0.5 } else { 0.02 })
    } else if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
        (0.0, deviation / 6.0)
    } else {
        (0.0, deviation)
    }
}
