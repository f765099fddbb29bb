//! `openvla inspect`.

use clap::Args;
use serde_json::json;

use super::options::CheckpointArgs;
use super::{CliError, print};
use vla_inference::checkpoint::Checkpoint;

/// What a checkpoint folder holds, and whether it is complete.
#[derive(Args)]
pub(super) struct Inspect {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<(), CliError> {
        let checkpoint = Checkpoint::open_unchecked(self.checkpoint.folder()?)?;
        let (config, inventory) = (&checkpoint.config, checkpoint.inventory());
        let llama = &config.llama;
        let keys: Vec<(String, Result<usize, String>)> = checkpoint
            .norm_stats
            .entries()
            .map(|(key, stats)| {
                (key.to_owned(), stats.map(|stats| stats.dim()).map_err(ToString::to_string))
            })
            .collect();
        if self.json {
            let towers: Vec<_> = config
                .towers
                .iter()
                .map(|tower| {
                    json!({"timm_id": tower.timm_id, "width": tower.width, "depth": tower.depth, "heads": tower.heads,
                        "mlp": tower.mlp, "patch": tower.patch, "image_size": tower.image_size})
                })
                .collect();
            let groups: Vec<_> = inventory
                .groups
                .iter()
                .map(|group| json!({"name": group.name, "tensors": group.tensors, "parameters": group.parameters, "bytes": group.bytes}))
                .collect();
            let keys: serde_json::Map<_, _> = keys
                .into_iter()
                .map(|(key, dim)| {
                    (
                        key,
                        dim.map_or_else(
                            |error| json!({"error": error}),
                            |dim| json!({"action_dim": dim}),
                        ),
                    )
                })
                .collect();
            print(
                &json!({
                    "towers": towers,
                    "llama": {"hidden_size": llama.hidden_size, "layers": llama.layers, "heads": llama.heads,
                        "kv_heads": llama.kv_heads, "intermediate_size": llama.intermediate_size,
                        "vocab_size": llama.vocab_size, "rms_norm_eps": llama.rms_norm_eps, "rope_theta": llama.rope_theta},
                    "tensors": inventory.tensors, "parameters": inventory.parameters, "bytes": inventory.bytes,
                    "dtypes": inventory.dtypes, "groups": groups,
                    "missing": inventory.missing, "unused": inventory.unused, "unexpected": inventory.unexpected,
                    "misshapen": inventory.misshapen.iter().map(|t| &t.name).collect::<Vec<_>>(),
                    "unnorm_keys": keys,
                    "tokenizer": {"vocab_size": checkpoint.tokenizer.vocab_size()},
                    "action_bins": config.action_bins, "action_token_end": config.action_token_end,
                })
                .to_string(),
            )?;
        } else {
            for tower in &config.towers {
                print(&format!(
                    "tower      {}: width {}, {} of {} blocks run, {} heads, MLP {}, {} patches \
                    of {} px",
                    tower.timm_id,
                    tower.width,
                    tower.used_blocks(),
                    tower.depth,
                    tower.heads,
                    tower.mlp,
                    tower.patches(),
                    tower.patch
                ))?;
            }
            print(&format!(
                "llama      hidden {}, {} layers, {} heads ({} key/value), MLP {}, vocabulary {}, \
                rms eps {:e}, theta {}",
                llama.hidden_size,
                llama.layers,
                llama.heads,
                llama.kv_heads,
                llama.intermediate_size,
                llama.vocab_size,
                llama.rms_norm_eps,
                llama.rope_theta
            ))?;
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
            for (what, names) in
                [("missing", &inventory.missing), ("unexpected", &inventory.unexpected)]
            {
                print(&format!(
                    "{what:<10} {}",
                    if names.is_empty() { "none".into() } else { names.join(", ") }
                ))?;
            }
            print(&format!(
                "actions    {} bins, token ids {}..={}",
                config.action_bins,
                config.action_token_end - config.action_bins,
                config.action_token_end - 1
            ))?;
            for (key, dim) in keys {
                print(&format!(
                    "unnorm_key {key}: {}",
                    dim.map_or_else(|error| error, |dim| format!("{dim} dimensions"))
                ))?;
            }
            print(&format!("tokenizer  {} entries", checkpoint.tokenizer.vocab_size()))?;
        }
        // After everything was shown: an incomplete checkpoint is a failure.
        Ok(checkpoint.weights.check(&config.expected_tensors())?)
    }
}
