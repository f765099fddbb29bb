//! Folders of pi0 and pi0.5.

use serde::Serialize;

use super::super::{CliError, print, print_json};
use super::show_weights;
use vla_inference::checkpoint::pi0::{
    ActionMapping, Normalizer, Pi0Checkpoint, Pi0Config, Pi0Source, Processors, Resize, StateTokens,
};
use vla_inference::policy::pi0::prompt;

/// An instruction of which the prompt is shown.
const EXAMPLE: &str = "pick up the red block";

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    config: &'a Pi0Config,
    processors: &'a Processors,
    resize: Resize,
    state_tokens: StateTokens,
    layout: &'a str,
    /// Whether there are statistics for state and action.
    drivable: bool,
    constant_state_dimensions: Vec<usize>,
    prompt_of_a_zero_state: &'a str,
    tokens: usize,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    missing: &'a [String],
    unused: &'a [String],
    unexpected: &'a [String],
}

/// Prints what the folder holds, and fails when it is incomplete.
pub(super) fn run(source: &Pi0Source, json: bool) -> Result<(), CliError> {
    let checkpoint = Pi0Checkpoint::open_unchecked(source)?;
    let inventory = checkpoint.inventory();
    let config = &checkpoint.config;
    let tokens = (checkpoint.state_tokens, config.max_state_dim);
    let form = (config.kind, checkpoint.lerobot);
    let prompt = prompt(form, EXAMPLE, &vec![0.0; config.state.1], tokens);
    let count = checkpoint.tokenizer.encode(&prompt)?.len();
    let processors = &checkpoint.processors;
    if json {
        print_json(&Summary {
            config,
            processors,
            resize: checkpoint.resize,
            state_tokens: checkpoint.state_tokens,
            layout: layout(&checkpoint),
            drivable: processors.state.is_some() && processors.action.is_some(),
            constant_state_dimensions: constant(processors),
            prompt_of_a_zero_state: &prompt,
            tokens: count,
            tensors: inventory.tensors,
            parameters: inventory.parameters,
            bytes: inventory.bytes,
            missing: &inventory.missing,
            unused: &inventory.unused,
            unexpected: &inventory.unexpected,
        })?;
    } else {
        show(&checkpoint, (&prompt, count))?;
        show_weights(&inventory, "language heads, last VLM layer after its keys, VLM norm")?;
    }
    // After the output: an incomplete checkpoint is a failure.
    Pi0Checkpoint::open(source).map(drop).map_err(CliError::from)
}

fn layout(checkpoint: &Pi0Checkpoint) -> &'static str {
    if checkpoint.lerobot { "LeRobot" } else { "openpi, converted" }
}

fn constant(processors: &Processors) -> Vec<usize> {
    processors.state.as_ref().map(Normalizer::constant_dimensions).unwrap_or_default()
}

fn show(checkpoint: &Pi0Checkpoint, (prompt, count): (&str, usize)) -> Result<(), CliError> {
    let Pi0Checkpoint { config, processors, .. } = checkpoint;
    print(&format!("model      {} ({})", config.kind, layout(checkpoint)))?;
    let vision = &config.vision;
    print(&format!(
        "tower      SigLIP: width {}, {} layers, {} heads, MLP {}, {} patches of {} px",
        vision.hidden_size,
        vision.num_hidden_layers,
        vision.num_attention_heads,
        vision.intermediate_size,
        config.patches(),
        vision.patch_size
    ))?;
    for (name, gemma) in [("vlm", &config.vlm), ("expert", &config.expert)] {
        print(&format!(
            "{name:<10} Gemma: width {}, {} layers, {} heads of {} ({} key/value), MLP {}",
            gemma.width,
            gemma.depth,
            gemma.num_heads,
            gemma.head_dim,
            gemma.num_kv_heads,
            gemma.mlp_dim
        ))?;
    }
    let [height, width] = config.image_resolution;
    let resize = match checkpoint.resize {
        Resize::TorchBilinearPad => "torch_bilinear_pad",
        Resize::PilBilinearPad => "pil_bilinear_pad",
    };
    for (index, camera) in config.cameras.iter().enumerate() {
        let robot = processors.outer_name(&camera.feature);
        let renamed =
            if robot == camera.feature { String::new() } else { format!(", from {robot}") };
        let size = camera.shape.map(|[h, w]| format!(", trained on {w} x {h}")).unwrap_or_default();
        let fate = if camera.empty {
            ": empty, dropped".to_owned()
        } else {
            format!("{renamed}{size}, {resize} to {width} x {height}")
        };
        print(&format!("camera {index}   {}{fate}", camera.feature))?;
    }
    show_values("state", &config.state, processors.state.as_ref())?;
    let constant = constant(processors);
    if !constant.is_empty() {
        print(&format!("           dimensions {constant:?} were constant in training: refused"))?;
    }
    show_values("action", &config.action, processors.action.as_ref())?;
    let names = match &processors.action_names {
        Some(names) => names.join(", "),
        None => "without names".to_owned(),
    };
    let mapping = match &processors.mapping {
        ActionMapping::Absolute => "as they are".to_owned(),
        ActionMapping::Relative { mask } => format!("relative to the state where {mask:?}"),
    };
    print(&format!("           {names}; {mapping}; rate and gripper stand in the policy file"))?;
    print(&format!(
        "chunk      {} steps, {} executed, {} Euler steps, trained delay {}",
        config.chunk_size,
        config.n_action_steps,
        config.num_inference_steps,
        config.rtc_training_max_delay
    ))?;
    print(&format!(
        "prompt     {prompt:?} for a normalised state of zeros: {count} of {} tokens",
        processors.max_length
    ))?;
    print(&format!("tokenizer  {} entries", checkpoint.tokenizer.vocab_size()))?;
    if !config.unknown.is_empty() {
        print(&format!("not read   of config.json: {}", config.unknown.join(", ")))?;
    }
    Ok(())
}

fn show_values(
    what: &str,
    (feature, width): &(String, usize),
    normalizer: Option<&Normalizer>,
) -> Result<(), CliError> {
    let Some(normalizer) = normalizer else {
        return print(&format!(
            "{what:<10} {feature}, {width} wide: NO STATISTICS, not drivable without --norm-stats"
        ));
    };
    print(&format!("{what:<10} {feature}, {width} wide, {:?}", normalizer.mode))?;
    for (at, (low, high)) in normalizer.ranges().into_iter().enumerate() {
        print(&format!("           {at:>3}  {low:>12.5} .. {high:.5}"))?;
    }
    Ok(())
}
