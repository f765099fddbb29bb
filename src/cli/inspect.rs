//! `openvla inspect`.

mod pi0;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::options::{CheckpointArgs, FolderArgs};
use super::{CliError, print, print_json};
use vla_inference::checkpoint::{
    Checkpoint, CheckpointKind, Group, Inventory, LlamaConfig, OftCheckpoint, TowerConfig,
    sign_of_oft,
};

/// Contents of a checkpoint folder, and whether it is complete.
#[derive(Args)]
pub(super) struct Inspect {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    folder: FolderArgs,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    towers: &'a [TowerConfig],
    llama: &'a LlamaConfig,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    dtypes: &'a BTreeMap<String, usize>,
    groups: &'a [Group],
    missing: &'a [String],
    unused: &'a [String],
    unexpected: &'a [String],
    misshapen: Vec<&'a str>,
    unnorm_keys: BTreeMap<&'a str, Statistics>,
    tokenizer: TokenizerSummary,
    action_bins: usize,
    action_token_end: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    openvla_oft: Option<&'a OftSummary>,
}

/// The components of an OpenVLA-OFT checkpoint.
#[derive(Serialize)]
struct OftSummary {
    /// What marks the folder as one.
    sign: String,
    /// Numbers per step of the regression head.
    #[serde(skip_serializing_if = "Option::is_none")]
    action_dim: Option<usize>,
    /// Residual blocks of the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_blocks: Option<usize>,
    /// Numbers of the robot's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dim: Option<usize>,
    /// Tensors of the towers with FiLM.
    #[serde(skip_serializing_if = "Option::is_none")]
    film_tensors: Option<usize>,
}

#[derive(Serialize)]
struct TokenizerSummary {
    vocab_size: usize,
}

/// One set of statistics: its dimensions, or why it is unusable.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Statistics {
    ActionDim(usize),
    Error(String),
}

impl Inspect {
    pub(super) fn run(self) -> Result<(), CliError> {
        let folder = &self.checkpoint.folder()?;
        match CheckpointKind::of(folder)? {
            CheckpointKind::Pi0 | CheckpointKind::Pi05 => {
                return pi0::run(&self.folder.source(folder), self.json);
            }
            CheckpointKind::OpenVlaOft => {
                let oft = OftCheckpoint::open(folder)?;
                let parts = oft_summary(sign_of_oft(folder)?.unwrap_or_default(), &oft);
                return show_all(&oft.base, Some(&parts), self.json);
            }
            CheckpointKind::OpenVla | CheckpointKind::Scripted => {}
        }
        let checkpoint = Checkpoint::open_unchecked(folder)?;
        show_all(&checkpoint, None, self.json)?;
        // After the output: an incomplete checkpoint is a failure.
        Ok(checkpoint.check()?)
    }
}

fn show_all(checkpoint: &Checkpoint, oft: Option<&OftSummary>, json: bool) -> Result<(), CliError> {
    let inventory = checkpoint.inventory();
    if json {
        return print_json(&summary(checkpoint, &inventory, oft));
    }
    show(checkpoint, &inventory)?;
    oft.map_or(Ok(()), show_oft)
}

fn oft_summary(sign: String, oft: &OftCheckpoint) -> OftSummary {
    OftSummary {
        sign,
        action_dim: oft.head.as_ref().map(|head| head.action_dim),
        head_blocks: oft.head.as_ref().map(|head| head.blocks),
        state_dim: oft.proprio.as_ref().map(|proprio| proprio.state_dim),
        film_tensors: oft.vision.as_ref().map(|vision| vision.component.names().count()),
    }
}

fn show_oft(oft: &OftSummary) -> Result<(), CliError> {
    print(&format!("kind       OpenVLA-OFT, by {}", oft.sign))?;
    print(&match (oft.action_dim, oft.head_blocks) {
        (Some(dim), Some(blocks)) => {
            format!("head       L1 regression, {dim} numbers per step, {blocks} residual blocks")
        }
        _ => "head       none: discrete tokens, or its file is missing".to_owned(),
    })?;
    print(&match oft.state_dim {
        Some(dim) => format!("state      {dim} numbers"),
        None => "state      none".to_owned(),
    })?;
    match oft.film_tensors {
        Some(tensors) => print(&format!("towers     with FiLM, {tensors} tensors, LoRA merged")),
        None => Ok(()),
    }
}

fn statistics(checkpoint: &Checkpoint) -> impl Iterator<Item = (&str, Statistics)> {
    checkpoint.norm_stats.entries().map(|(key, stats)| match stats {
        Ok(stats) => (key, Statistics::ActionDim(stats.dim())),
        Err(error) => (key, Statistics::Error(error.to_string())),
    })
}

fn summary<'a>(
    checkpoint: &'a Checkpoint,
    inventory: &'a Inventory,
    openvla_oft: Option<&'a OftSummary>,
) -> Summary<'a> {
    let config = &checkpoint.config;
    Summary {
        towers: &config.towers,
        llama: &config.llama,
        tensors: inventory.tensors,
        parameters: inventory.parameters,
        bytes: inventory.bytes,
        dtypes: &inventory.dtypes,
        groups: &inventory.groups,
        missing: &inventory.missing,
        unused: &inventory.unused,
        unexpected: &inventory.unexpected,
        misshapen: inventory.misshapen.iter().map(|tensor| tensor.name.as_str()).collect(),
        unnorm_keys: statistics(checkpoint).collect(),
        tokenizer: TokenizerSummary { vocab_size: checkpoint.tokenizer.vocab_size() },
        action_bins: config.action_bins,
        action_token_end: config.action_token_end,
        openvla_oft,
    }
}

fn show(checkpoint: &Checkpoint, inventory: &Inventory) -> Result<(), CliError> {
    let config = &checkpoint.config;
    show_architecture(&config.towers, &config.llama)?;
    show_weights(inventory, "last blocks, final norms, attention pool")?;
    print(&format!(
        "actions    {} bins, token ids {}..={}",
        config.action_bins,
        config.action_token_end - config.action_bins,
        config.action_token_end - 1
    ))?;
    for (key, statistics) in statistics(checkpoint) {
        print(&match statistics {
            Statistics::ActionDim(dim) => format!("unnorm_key {key}: {dim} dimensions"),
            Statistics::Error(error) => format!("unnorm_key {key}: {error}"),
        })?;
    }
    print(&format!("tokenizer  {} entries", checkpoint.tokenizer.vocab_size()))
}

fn show_architecture(towers: &[TowerConfig], llama: &LlamaConfig) -> Result<(), CliError> {
    for tower in towers {
        print(&format!(
            "tower      {}: width {}, {} of {} blocks run, {} heads, MLP {}, {} patches of {} px",
            tower.timm_id,
            tower.embed_dim,
            tower.used_blocks(),
            tower.depth,
            tower.num_heads,
            tower.mlp_hidden,
            tower.patches(),
            tower.patch_size
        ))?;
    }
    print(&format!(
        "llama      hidden {}, {} layers, {} heads ({} key/value), MLP {}, vocabulary {}, rms eps \
        {:e}, theta {}",
        llama.hidden_size,
        llama.num_hidden_layers,
        llama.num_attention_heads,
        llama.num_key_value_heads,
        llama.intermediate_size,
        llama.vocab_size,
        llama.rms_norm_eps,
        llama.rope_theta
    ))
}

/// `parts` says which parts of the model the unused tensors are.
fn show_weights(inventory: &Inventory, parts: &str) -> Result<(), CliError> {
    print(&format!(
        "weights    {} tensors, {} parameters, {} bytes",
        inventory.tensors, inventory.parameters, inventory.bytes
    ))?;
    for group in &inventory.groups {
        print(&format!(
            "           {:<34} {:>4} tensors {:>14} parameters",
            group.name, group.tensors, group.parameters
        ))?;
    }
    print(&format!(
        "unused     {} tensors, {} parameters ({parts})",
        inventory.unused.len(),
        inventory.unused_parameters
    ))?;
    for (what, names) in [("missing", &inventory.missing), ("unexpected", &inventory.unexpected)] {
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        print(&format!("{what:<10} {names}"))?;
    }
    Ok(())
}
