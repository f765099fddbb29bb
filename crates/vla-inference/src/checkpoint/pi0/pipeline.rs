//! The steps of LeRobot's pipeline files, `{name, steps: [{registry_name, config, state_file}]}`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::{Pi0Config, Pi0Kind, modes};
use super::normalizer::{NormMode, Normalizer};
use super::statistics::StateFile;
use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::fields::{Fields, shown};
use crate::checkpoint::read::{parse_json, read_bounded};

/// Largest pipeline read, bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Most steps of a pipeline.
const MAX_STEPS: usize = 64;

const RESTORE: &str = "take both pipelines and their state files from the checkpoint; folders \
    written before LeRobot 0.4 have none and must be converted";

/// One step of a pipeline.
pub(super) struct Step {
    name: String,
    config: Map<String, Value>,
    state_file: Option<String>,
}

pub(super) const PRE_STEPS: [&str; 9] = [
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
pub(super) const POST_STEPS: [&str; 3] =
    ["unnormalizer_processor", "absolute_actions_processor", "device_processor"];

/// The steps of a pipeline file.
pub(super) struct Pipeline<'a> {
    path: &'a Path,
    steps: Vec<Step>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, CheckpointError> {
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

    pub(super) fn fields<'b>(&'b self, step: &'b Step) -> Fields<'b> {
        Fields { path: self.path, prefix: "", map: &step.config }
    }

    pub(super) fn error(
        &self,
        step: &str,
        value: impl std::fmt::Display,
        remedy: &str,
    ) -> CheckpointError {
        CheckpointError::field(self.path, step, value, remedy)
    }

    pub(super) fn check_steps(&self, known: &[&str]) -> Result<(), CheckpointError> {
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

    pub(super) fn step(&self, names: &[&str]) -> Option<&Step> {
        self.steps.iter().find(|step| names.contains(&step.name.as_str()))
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    pub(super) fn rename_map(&self) -> Result<BTreeMap<String, String>, CheckpointError> {
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
    pub(super) fn check_prompt(&self, kind: Pi0Kind) -> Result<(), CheckpointError> {
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

    pub(super) fn tokenizer(
        &self,
        config: &Pi0Config,
    ) -> Result<(usize, Option<String>), CheckpointError> {
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
    pub(super) fn normalizers(
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
        let file = match &step.state_file {
            Some(file) => StateFile::open(&folder.join(file))?,
            None => StateFile::default(),
        };
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
