//! Writes an OpenVLA checkpoint with random weights in the exact Hugging Face layout, of any size:
//! for benchmarks and memory tests where the real one cannot be downloaded. Its actions are
//! random: not for a robot.
//!
//! ```text
//! # real towers, Llama 2048 x 8 (about 2.5 GB)
//! cargo run --release -p vla-inference --example make_checkpoint -- --out /tmp/cut
//! # as large as openvla-7b (15 GB)
//! cargo run --release -p vla-inference --example make_checkpoint -- --out /tmp/full --preset 7b
//! ```

mod generate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use generate::{LlamaSize, Request};

#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    /// Llama 2048 wide, 8 layers, 16 heads, MLP 5504: real-size towers and projector in front of a
    /// short language model.
    Cut,
    /// The size of openvla-7b: Llama 4096 wide, 32 layers, 32 heads, MLP 11008.
    #[value(name = "7b")]
    Full,
}

#[derive(Parser)]
#[command(about = "Writes an OpenVLA checkpoint with random bfloat16 weights")]
struct Arguments {
    /// Folder to write; must not exist or be empty.
    #[arg(long)]
    out: PathBuf,
    /// Sizes that the options below start from.
    #[arg(long, value_enum, default_value = "cut")]
    preset: Preset,
    /// Width of the language model.
    #[arg(long)]
    hidden: Option<usize>,
    /// Layers of the language model.
    #[arg(long)]
    layers: Option<usize>,
    /// Attention heads of the language model.
    #[arg(long)]
    heads: Option<usize>,
    /// Key and value heads [default: as many as heads].
    #[arg(long)]
    kv_heads: Option<usize>,
    /// MLP width of the language model.
    #[arg(long)]
    intermediate: Option<usize>,
    /// Vision towers of 3 blocks, 64 and 72 wide, as in the test kit, instead of the real ones.
    #[arg(long)]
    tiny_towers: bool,
    /// The same seed gives the same weights, however they are sharded.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Largest shard, bytes.
    #[arg(long, default_value_t = 5_000_000_000)]
    shard_bytes: u64,
    /// Folder that tokenizer, preprocessor and statistics are taken from [default: the test kit].
    #[arg(long)]
    template: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut llama = match arguments.preset {
        Preset::Cut => {
            LlamaSize { hidden: 2048, layers: 8, heads: 16, kv_heads: 16, intermediate: 5504 }
        }
        Preset::Full => {
            LlamaSize { hidden: 4096, layers: 32, heads: 32, kv_heads: 32, intermediate: 11_008 }
        }
    };
    llama.hidden = arguments.hidden.unwrap_or(llama.hidden);
    llama.layers = arguments.layers.unwrap_or(llama.layers);
    llama.heads = arguments.heads.unwrap_or(llama.heads);
    llama.kv_heads = arguments.kv_heads.unwrap_or(llama.heads);
    llama.intermediate = arguments.intermediate.unwrap_or(llama.intermediate);
    let kit = || {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/openvla_tiny/ckpt"))
    };
    let request = Request {
        out: arguments.out,
        template: arguments.template.unwrap_or_else(kit),
        llama,
        tiny_towers: arguments.tiny_towers,
        seed: arguments.seed,
        shard_bytes: arguments.shard_bytes,
    };
    match generate::generate(&request) {
        Ok(report) => {
            println!(
                "{}: {} tensors, {} parameters, {} bytes in {} files",
                request.out.display(),
                report.tensors,
                report.parameters,
                report.bytes,
                report.files
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
