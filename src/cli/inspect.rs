//! `openvla inspect`.

mod pi0;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::options::{CheckpointArgs, FolderArgs};
use super::{CliError, print, print_json};
use vla_inference::checkpoint::{
    Checkpoint, CheckpointKind, Group, Inventory, LlamaConfig, TowerConfig,
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
        let folder = self.checkpoint.folder()?;
        if let CheckpointKind::Pi0 | CheckpointKind::Pi05 = CheckpointKind::of(folder)? {
            return pi0::run(&self.folder.source(folder), self.json);
        }
        let checkpoint = Checkpoint::open_unchecked(folder)?;
        let inventory = checkpoint.inventory();
        if self.json {
            print_json(&summary(&checkpoint, &inventory))?;
        } else {
            show(&checkpoint, &inventory)?;
        }
        // After the output: an incomplete checkpoint is a failure.
        Ok(checkpoint.weights.check(&checkpoint.config.expected_tensors())?)
    }
}

fn statistics(checkpoint: &Checkpoint) -> impl Iterator<Item = (&str, Statistics)> {
    checkpoint.norm_stats.entries().map(|(key, stats)| match stats {
        Ok(stats) => (key, Statistics::ActionDim(stats.dim())),
        Err(error) => (key, Statistics::Error(error.to_string())),
    })
}

fn summary<'a>(checkpoint: &'a Checkpoint, inventory: &'a Inventory) -> Summary<'a> {
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
    }
}

fn show(checkpoint: &Checkpoint, inventory: &Inventory) -> Result<(), CliError> {
    let config = &checkpoint.config;
    show_architecture(&config.towers, &config.llama)?;
    show_weights(inventory)?;
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

fn show_weights(inventory: &Inventory) -> Result<(), CliError> {
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
        "unused     {} tensors, {} parameters (last blocks, final norms, attention pool)",
        inventory.unused.len(),
        inventory.unused_parameters
    ))?;
    for (what, names) in [("missing", &inventory.missing), ("unexpected", &inventory.unexpected)] {
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        print(&format!("{what:<10} {names}"))?;
    }
    Ok(())
}
