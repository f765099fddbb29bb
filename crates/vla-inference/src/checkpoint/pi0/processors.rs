//! LeRobot's processor pipelines, `policy_preprocessor.json` and `policy_postprocessor.json`: what
//! happens to an observation before the model and to its actions after it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::{Pi0Config, Pi0Kind, modes, names};
use super::normalizer::{NormMode, Normalizer};
use super::statistics::StateFile;
use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::fields::{Fields, shown};
use crate::checkpoint::read::{parse_json, read_bounded};

/// Largest pipeline read, bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Most steps of a pipeline.
const MAX_STEPS: usize = 64;

const PREPROCESSOR: &str = "policy_preprocessor.json";
const POSTPROCESSOR: &str = "policy_postprocessor.json";
const RESTORE: &str = "take both pipelines and their state files from the checkpoint; folders \
    written before LeRobot 0.4 have none and must be converted";

/// What an action's numbers are.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum ActionMapping {
    /// The values themselves.
    Absolute,
    /// Where the mask is true, differences from the state at the observation: not cumulative, each
    /// step is relative to the same state.
    Relative {
        /// One flag per dimension.
        mask: Vec<bool>,
    },
}

impl std::str::FromStr for ActionMapping {
    type Err = String;

    /// `absolute`, or `relative:` and the lengths of runs, negative for absolute ones, as openpi's
    /// `make_bool_mask` takes them: `relative:6,-1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("actions is '{text}'; use absolute, or relative:6,-1 and the like");
        if text == "absolute" {
            return Ok(Self::Absolute);
        }
        let mut mask = Vec::new();
        for run in text.strip_prefix("relative:").ok_or_else(wrong)?.split(',') {
            let run: i16 = run.trim().parse().map_err(|_| wrong())?;
            mask.extend(std::iter::repeat_n(run > 0, run.unsigned_abs().into()));
        }
        if mask.is_empty() || mask.len() > 1024 {
            Err(wrong())
        } else {
            Ok(Self::Relative { mask })
        }
    }
}

impl ActionMapping {
    /// Relative in every dimension whose name contains none of the `excluded` words, in any case.
    /// As LeRobot does it: without names nothing can be excluded.
    #[must_use]
    pub fn relative(names: Option<&[String]>, excluded: &[String], dimensions: usize) -> Self {
        let is_relative = |at: usize| {
            let name = names.and_then(|names| names.get(at)).map(|name| name.to_lowercase());
            let hit = |word: &String| {
                !word.is_empty()
                    && name.as_ref().is_some_and(|name| name.contains(&word.to_lowercase()))
            };
            !excluded.iter().any(hit)
        };
        Self::Relative { mask: (0..dimensions).map(is_relative).collect() }
    }

    /// The first dimension that is relative to a state of only `state` dimensions.
    pub(super) fn beyond(&self, state: usize) -> Option<usize> {
        let Self::Relative { mask } = self else { return None };
        (state..mask.len()).find(|&at| mask[at])
    }

    /// `action + state` where relative.
    #[must_use]
    pub fn to_absolute(&self, action: &[f32], state: &[f32]) -> Vec<f32> {
        self.shifted(action, state, 1.0)
    }

    /// `action - state` where relative.
    #[must_use]
    pub fn to_relative(&self, action: &[f32], state: &[f32]) -> Vec<f32> {
        self.shifted(action, state, -1.0)
    }

    fn shifted(&self, action: &[f32], state: &[f32], sign: f32) -> Vec<f32> {
        let Self::Relative { mask } = self else { return action.to_vec() };
        let one = |(at, &value): (usize, &f32)| match (mask.get(at), state.get(at)) {
            (Some(true), Some(state)) => value + sign * state,
            _ => value,
        };
        action.iter().enumerate().map(one).collect()
    }
}

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

/// One step of a pipeline.
struct Step {
    name: String,
    config: Map<String, Value>,
    state_file: Option<String>,
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

const PRE_STEPS: [&str; 9] = [
    "rename_observations_processor",
    "to_batch_processor",
    "pi0_new_line_processor",
    "pi05_prepare_state_tokenizer_processor_step",
    "tokenizer_processor",
    "device_processor",
    "relative_actions_processor",
    "delta_actions_processor",
    "normalizer_processor",
];
const POST_STEPS: [&str; 3] =
    ["unnormalizer_processor", "absolute_actions_processor", "device_processor"];

struct Pipeline<'a> {
    path: &'a Path,
    steps: Vec<Step>,
}

impl<'a> Pipeline<'a> {
    fn open(path: &'a Path) -> Result<Self, CheckpointError> {
        let map: Map<String, Value> = parse_json(path, &read_bounded(path, MAX_BYTES, RESTORE)?)?;
        let fields = Fields::new(path, "", &map);
        let Some(list) = fields.list("steps")? else {
            return Err(fields.error("steps", "missing", RESTORE));
        };
        if list.len() > MAX_STEPS {
            return Err(fields.error("steps", list.len(), format!("at most {MAX_STEPS} are read")));
        }
        let mut steps = Vec::new();
        for (index, value) in list.iter().enumerate() {
            let prefix = format!("steps[{index}].");
            let Some(map) = value.as_object() else {
                return Err(fields.error("steps", shown(value), "must be objects"));
            };
            let step = Fields::new(path, &prefix, map);
            let name = match (step.text("registry_name")?, step.text("class")?) {
                (Some(name), _) => name.to_owned(),
                (None, Some(class)) => {
                    let remedy = "a class of its own is not implemented; this checkpoint needs \
                        the Python code that it came with";
                    return Err(step.error("class", quoted(class), remedy));
                }
                (None, None) => return Err(step.error("registry_name", "missing", RESTORE)),
            };
            let config = step.object("config")?.cloned().unwrap_or_default();
            let state_file = step.text("state_file")?.map(str::to_owned);
            if let Some(file) = &state_file
                && (file.contains(['/', '\\']) || file.starts_with('.'))
            {
                let remedy = "must name a file of the folder";
                return Err(step.error("state_file", quoted(file), remedy));
            }
            steps.push(Step { name, config, state_file });
        }
        Ok(Self { path, steps })
    }

    fn fields<'b>(&'b self, step: &'b Step) -> Fields<'b> {
        Fields { path: self.path, prefix: "", map: &step.config }
    }

    fn error(&self, step: &str, value: impl std::fmt::Display, remedy: &str) -> CheckpointError {
        CheckpointError::field(self.path, step, value, remedy)
    }

    fn check_steps(&self, known: &[&str]) -> Result<(), CheckpointError> {
        for (index, step) in self.steps.iter().enumerate() {
            if !known.contains(&step.name.as_str()) {
                return Err(self.error(
                    &format!("steps[{index}].registry_name"),
                    quoted(&step.name),
                    "this step is not implemented, and leaving it out would change the actions",
                ));
            }
            if step.name != "device_processor"
                && self.steps[..index].iter().any(|earlier| earlier.name == step.name)
            {
                let remedy = "a step occurs once; restore the file from the checkpoint";
                return Err(self.error(&step.name, "listed twice", remedy));
            }
        }
        Ok(())
    }

    fn step(&self, names: &[&str]) -> Option<&Step> {
        self.steps.iter().find(|step| names.contains(&step.name.as_str()))
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    fn rename_map(&self) -> Result<BTreeMap<String, String>, CheckpointError> {
        let Some(step) = self.step(&["rename_observations_processor"]) else {
            return Ok(BTreeMap::new());
        };
        let fields = self.fields(step);
        let mut map = BTreeMap::new();
        for (outer, inner) in fields.object("rename_map")?.into_iter().flatten() {
            let Some(inner) = inner.as_str() else {
                return Err(fields.error("rename_map", shown(inner), "must be names"));
            };
            if map.values().any(|other| other == inner) {
                let remedy = "two features are renamed to it; only one can be fed";
                return Err(fields.error("rename_map", quoted(inner), remedy));
            }
            map.insert(outer.clone(), inner.to_owned());
        }
        Ok(map)
    }

    /// Checks that the prompt is made as this reader makes it.
    fn check_prompt(&self, kind: Pi0Kind) -> Result<(), CheckpointError> {
        let (wanted, other) = match kind {
            Pi0Kind::Pi0 => {
                ("pi0_new_line_processor", "pi05_prepare_state_tokenizer_processor_step")
            }
            Pi0Kind::Pi05 => {
                ("pi05_prepare_state_tokenizer_processor_step", "pi0_new_line_processor")
            }
        };
        if self.place(other).is_some() {
            let remedy = format!("config.json states {kind}; use both from one checkpoint");
            return Err(self.error("steps", quoted(other), &remedy));
        }
        let (Some(prompt), Some(tokens)) = (self.place(wanted), self.place("tokenizer_processor"))
        else {
            let remedy = format!("{wanted} and tokenizer_processor make the prompt; {RESTORE}");
            return Err(self.error("steps", format!("without {wanted}"), &remedy));
        };
        let ordered = prompt < tokens
            && (kind == Pi0Kind::Pi0
                || self.place("normalizer_processor").is_some_and(|place| place < prompt));
        if ordered {
            return Ok(());
        }
        let remedy = "the prompt is made from the normalised state, then tokenised; another order \
            is not implemented";
        Err(self.error("steps", format!("{wanted} in another place"), remedy))
    }

    fn tokenizer(&self, config: &Pi0Config) -> Result<(usize, Option<String>), CheckpointError> {
        let Some(step) = self.step(&["tokenizer_processor"]) else {
            return Ok((config.tokenizer_max_length, None));
        };
        let fields = self.fields(step);
        if let Some(side) = fields.text("padding_side")?
            && side != "right"
        {
            return Err(fields.error("padding_side", quoted(side), "must be right"));
        }
        let length = fields.size("max_length", config.tokenizer_max_length, 1, 8192)?;
        let name = fields.text("tokenizer_name")?;
        let inside = name.filter(|name| {
            !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.')
        });
        Ok((length, inside.map(str::to_owned)))
    }

    /// Normalisers of state and action, and their modes.
    #[allow(clippy::type_complexity)] // two normalisers and two modes, used in one place
    fn normalizers(
        &self,
        folder: &Path,
        config: &Pi0Config,
    ) -> Result<(Option<Normalizer>, Option<Normalizer>, [Option<NormMode>; 2]), CheckpointError>
    {
        let Some(step) = self.step(&["normalizer_processor", "unnormalizer_processor"]) else {
            let remedy = "without it the actions stay normalised; restore the file";
            return Err(self.error("steps", "without a normaliser", remedy));
        };
        let fields = self.fields(step);
        let modes = modes(&fields, "norm_map")?;
        let epsilon = fields.number("eps", 1e-8, 0.0, 1.0)? as f32;
        let Some(file) = &step.state_file else { return Ok((None, None, modes)) };
        let file = StateFile::open(&folder.join(file))?;
        let read = |feature: &(String, usize), mode: Option<NormMode>| match mode {
            Some(mode) => file.normalizer(&feature.0, feature.1, mode, epsilon),
            None => Ok(None),
        };
        // The post-processor's file holds the state too, but only the action is un-normalised.
        let state = match step.name.as_str() {
            "normalizer_processor" => read(&config.state, modes[0])?,
            _ => None,
        };
        Ok((state, read(&config.action, modes[1])?, modes))
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
