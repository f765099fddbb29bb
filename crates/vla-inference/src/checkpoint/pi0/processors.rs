//! LeRobot's processor pipelines, `policy_preprocessor.json` and `policy_postprocessor.json`: what
//! happens to an observation before the model and to its actions after it.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::{Pi0Config, names};
use super::mapping::ActionMapping;
use super::normalizer::{NormMode, Normalizer};
use super::pipeline::{POST_STEPS, PRE_STEPS, Pipeline};
use crate::checkpoint::error::CheckpointError;

const PREPROCESSOR: &str = "policy_preprocessor.json";
const POSTPROCESSOR: &str = "policy_postprocessor.json";

/// Everything around the model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Processors {
    /// Names of the robot's features to those of the model.
    pub rename_map: BTreeMap<String, String>,
    /// Normaliser of the state; `None` when the checkpoint has no statistics.
    pub state: Option<Normalizer>,
    /// Normaliser of the action; `None` when the checkpoint has no statistics.
    pub action: Option<Normalizer>,
    /// Modes of state and action, known even without statistics.
    pub modes: [NormMode; 2],
    /// What the action's numbers are.
    pub mapping: ActionMapping,
    /// Names of the action's dimensions.
    pub action_names: Option<Vec<String>>,
    /// Most text tokens.
    pub max_length: usize,
    /// Folder of the tokenizer inside the checkpoint, if the pipeline names one.
    pub tokenizer: Option<String>,
}

impl Processors {
    /// Reads both pipelines of a folder and their state files.
    ///
    /// # Errors
    /// When one is missing, has a step that is not implemented, or contradicts the configuration.
    pub fn open(folder: &Path, config: &Pi0Config) -> Result<Self, CheckpointError> {
        let pre_path = folder.join(PREPROCESSOR);
        let post_path = folder.join(POSTPROCESSOR);
        let pre = Pipeline::open(&pre_path)?;
        let post = Pipeline::open(&post_path)?;
        pre.check_steps(&PRE_STEPS)?;
        post.check_steps(&POST_STEPS)?;
        let rename_map = pre.rename_map()?;
        let (max_length, tokenizer) = pre.tokenizer(config)?;
        pre.check_prompt(config.kind)?;
        let (state, pre_action, pre_modes) = pre.normalizers(folder, config)?;
        let (_, action, post_modes) = post.normalizers(folder, config)?;
        if let (Some(pre), Some(post)) = (&pre_action, &action)
            && (pre.mode, &pre.low, &pre.high) != (post.mode, &post.low, &post.high)
        {
            return Err(CheckpointError::field(
                &post_path,
                "unnormalizer_processor",
                "other statistics of the action than those of policy_preprocessor.json",
                "use both pipelines of one checkpoint",
            ));
        }
        let (mapping, action_names) = mapping(&pre, &post, config)?;
        let modes = [
            pre_modes[0].or(config.norm_map[0]),
            post_modes[1].or(pre_modes[1]).or(config.norm_map[1]),
        ];
        let [Some(state_mode), Some(action_mode)] = modes else {
            return Err(CheckpointError::field(
                &pre_path,
                "norm_map",
                "without STATE or ACTION",
                "the kind of normalisation is unknown, and a wrong one fails without a word; \
                restore the file from the checkpoint",
            ));
        };
        Ok(Self {
            rename_map,
            state,
            action,
            modes: [state_mode, action_mode],
            mapping,
            action_names,
            max_length,
            tokenizer,
        })
    }

    /// Name of the robot's feature for a feature of the model: the same, unless it is renamed.
    #[must_use]
    pub fn outer_name<'a>(&'a self, feature: &'a str) -> &'a str {
        let renamed = self.rename_map.iter().find(|(_, inner)| inner.as_str() == feature);
        renamed.map_or(feature, |(outer, _)| outer)
    }
}

/// Whether actions are relative, and the names of their dimensions.
fn mapping(
    pre: &Pipeline<'_>,
    post: &Pipeline<'_>,
    config: &Pi0Config,
) -> Result<(ActionMapping, Option<Vec<String>>), CheckpointError> {
    let step = pre.step(&["relative_actions_processor", "delta_actions_processor"]);
    let fields = step.map(|step| pre.fields(step));
    let enabled = match &fields {
        Some(fields) => fields.flag("enabled", false)?,
        None => false,
    };
    let absolute = match post.step(&["absolute_actions_processor"]) {
        Some(step) => post.fields(step).flag("enabled", false)?,
        None => false,
    };
    if enabled != absolute {
        return Err(post.error(
            "absolute_actions_processor.enabled",
            absolute,
            &format!(
                "relative_actions_processor.enabled is {enabled} in policy_preprocessor.json; one \
                undoes the other, use both pipelines of one checkpoint"
            ),
        ));
    }
    if config.use_relative_actions && !enabled {
        let remedy = "config.json states use_relative_actions; the pipelines must enable it";
        return Err(pre.error("relative_actions_processor.enabled", enabled, remedy));
    }
    let own_names = match &fields {
        Some(fields) => names(fields, "action_names")?,
        None => None,
    };
    let (action, state) = (config.action.1, config.state.1);
    let action_names = own_names.clone().or_else(|| config.action_names.clone());
    if let Some(names) = &action_names
        && names.len() != action
    {
        let remedy = format!("the action has {action} dimensions; both must agree");
        return Err(pre.error("action_names", format!("{} names", names.len()), &remedy));
    }
    if !enabled {
        return Ok((ActionMapping::Absolute, action_names));
    }
    let excluded = match &fields {
        Some(fields) => names(fields, "exclude_joints")?.unwrap_or_default(),
        None => Vec::new(),
    };
    let mapping = ActionMapping::relative(own_names.as_deref(), &excluded, action);
    if let Some(at) = mapping.beyond(state) {
        let remedy = format!(
            "action dimension {at} is relative to the state, which has {state} dimensions; \
            restore the checkpoint's files"
        );
        return Err(pre.error("relative_actions_processor", "enabled", &remedy));
    }
    Ok((mapping, action_names))
}
