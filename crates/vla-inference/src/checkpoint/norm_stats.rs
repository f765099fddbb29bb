//! Action statistics, for un-normalization of actions to physical units.
//!
//! # Precedence of the two files
//! A checkpoint may hold statistics twice: `norm_stats` in config.json and
//! `dataset_statistics.json`. The official evaluation code loads the model (with config.json's) and
//! then, if `dataset_statistics.json` exists, **replaces** them as a whole; its own fine-tuning
//! script writes that file and leaves config.json as the base model had it. So the file takes
//! precedence here too, and nothing is merged: a data set only in config.json is one that the
//! fine-tuned weights were not trained for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::config::{MAX_CONFIG_BYTES, read_config};
use super::error::CheckpointError;
use super::fields::shown;
use super::read::{UniqueMap, is_listed, parse_python_json, read_bounded};

/// The fine-tuned checkpoint's statistics.
const STATISTICS: &str = "dataset_statistics.json";
/// Most action dimensions accepted; a two-armed humanoid with hands has about sixty.
pub const MAX_ACTION_DIM: usize = 256;

/// Statistics of one data set's actions. All vectors have the same length, the action dimension;
/// every number is finite and `q99 >= q01`. Units are the data set's own (Bridge: metres, radians
/// and gripper opening per step).
#[derive(Debug, Clone, PartialEq)]
pub struct ActionStats {
    /// 1st percentile of each dimension: the physical value of -1.
    pub q01: Vec<f64>,
    /// 99th percentile: the physical value of +1.
    pub q99: Vec<f64>,
    /// Whether the dimension is un-normalised; where false (grippers) the value passes through. All
    /// true when the file has none.
    pub mask: Vec<bool>,
}

impl ActionStats {
    /// Number of action dimensions.
    pub fn dim(&self) -> usize {
        self.q01.len()
    }
}

/// Which two statistics stand for -1 and +1; a convention of the training code, in no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BoundsKind {
    /// `q01` and `q99`, the 1st and 99th percentile (OpenVLA; OpenVLA-OFT on LIBERO and Bridge).
    Quantiles,
    /// `min` and `max` (OpenVLA-OFT on ALOHA).
    Extremes,
}

/// What a set of statistics describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatsOf {
    /// The actions.
    Action,
    /// The proprioceptive state.
    Proprio,
}

/// The bounds of one data set's actions or states. All vectors have the same length and every
/// number is finite. Units are the data set's own.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueBounds {
    /// The value of -1, by dimension.
    pub low: Vec<f64>,
    /// The value of +1.
    pub high: Vec<f64>,
    /// Whether the dimension is normalised; elsewhere the value passes through. All true when the
    /// file has none.
    pub mask: Vec<bool>,
}

impl ValueBounds {
    /// The first dimension whose high bound is below the low one, with both. No data set has one;
    /// the official code computes with it all the same.
    pub fn inverted(&self) -> Option<(usize, f64, f64)> {
        let pairs = self.low.iter().zip(&self.high).enumerate();
        pairs.map(|(i, (&low, &high))| (i, low, high)).find(|(_, low, high)| low > high)
    }
}

/// The statistics of a checkpoint, by data set.
#[derive(Debug, Clone)]
pub struct NormStats {
    path: PathBuf,
    /// A data set whose entry is broken keeps its error here: only selecting that set fails.
    sets: BTreeMap<String, Result<ActionStats, CheckpointError>>,
    /// The entries as stored, for [`NormStats::bounds`].
    raw: BTreeMap<String, Value>,
    /// How errors name the parent of an entry.
    prefix: &'static str,
    /// Keys in config.json that `dataset_statistics.json` replaced.
    replaced: Vec<String>,
}

impl NormStats {
    /// Reads the statistics of the folder: `dataset_statistics.json` if it exists, else
    /// `norm_stats` of config.json.
    ///
    /// # Errors
    /// When neither exists, or the one in use cannot be read. A broken entry is an error only when
    /// it is selected.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("config.json");
        let config = read_config(&path)?;
        Self::open_with_config(folder, &path, &config)
    }

    pub(super) fn open_with_config(
        folder: &Path,
        path: &Path,
        config: &[u8],
    ) -> Result<Self, CheckpointError> {
        let statistics = folder.join(STATISTICS);
        if !is_listed(&statistics) {
            return Self::from_config_json(path, config);
        }
        let bytes =
            read_bounded(&statistics, MAX_CONFIG_BYTES, "copy it from the original checkpoint")?;
        let mut stats = Self::from_statistics_json(&statistics, &bytes)?;
        // Only for a hint in an error; errors in config.json's own statistics do not matter
        // here.
        stats.replaced = Self::from_config_json(path, config)
            .map(|old| old.sets.into_keys().collect())
            .unwrap_or_default();
        Ok(stats)
    }

    /// Parses `norm_stats` out of the bytes of a config.json; `path` is only named in errors.
    ///
    /// # Errors
    /// When the JSON is not valid or has no `norm_stats`.
    pub fn from_config_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct RawConfig {
            norm_stats: Option<UniqueMap<Value>>,
        }
        let raw: RawConfig = parse_python_json(path, bytes)?;
        let Some(sets) = raw.norm_stats else {
            return Err(CheckpointError::field(
                path,
                "norm_stats",
                "missing",
                "put dataset_statistics.json of the fine-tuning run beside it, actions cannot be \
                un-normalised without",
            ));
        };
        Self::from_raw(path, sets, "norm_stats.")
    }

    /// Parses the bytes of a dataset_statistics.json; `path` is only named in errors.
    ///
    /// # Errors
    /// When the JSON is not valid or holds no data set.
    pub fn from_statistics_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        Self::from_raw(path, parse_python_json(path, bytes)?, "")
    }

    fn from_raw(
        path: &Path,
        raw: UniqueMap<Value>,
        prefix: &'static str,
    ) -> Result<Self, CheckpointError> {
        if raw.0.is_empty() {
            return Err(CheckpointError::field(
                path,
                if prefix.is_empty() { "the file" } else { "norm_stats" },
                "empty",
                "it must hold the statistics of at least one data set; copy it from the original \
                checkpoint",
            ));
        }
        let sets = raw.0.iter().map(|(key, value)| {
            let stats = action_stats(path, &format!("{prefix}{key}.action."), value);
            (key.clone(), stats)
        });
        let sets = sets.collect();
        Ok(Self { path: path.to_owned(), sets, raw: raw.0, prefix, replaced: Vec::new() })
    }

    /// The file that the statistics come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The data sets' names, sorted: the possible values of `unnorm_key`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    /// Every data set with its statistics, or with the error in them.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Result<&ActionStats, &CheckpointError>)> {
        self.sets.iter().map(|(key, stats)| (key.as_str(), stats.as_ref()))
    }

    /// The data set of this name, or the only one when none is named (an empty name counts as none:
    /// ROS parameters cannot be unset).
    ///
    /// # Errors
    /// When the name is unknown, none is given although there are several, or the entry is broken.
    pub fn select(
        &self,
        unnorm_key: Option<&str>,
    ) -> Result<(&str, &ActionStats), CheckpointError> {
        let (key, stats) = self.find(unnorm_key)?;
        match stats {
            Ok(stats) => Ok((key, stats)),
            Err(error) => Err(error.clone()),
        }
    }

    /// The bounds of the actions or states of the data set of this name; the name as for
    /// [`NormStats::select`].
    ///
    /// # Errors
    /// When the name is unknown, none is given although there are several, or the data set has no
    /// such bounds.
    pub fn bounds(
        &self,
        unnorm_key: Option<&str>,
        of: StatsOf,
        kind: BoundsKind,
    ) -> Result<(&str, ValueBounds), CheckpointError> {
        let (key, _) = self.find(unnorm_key)?;
        let group = match of {
            StatsOf::Action => "action",
            StatsOf::Proprio => "proprio",
        };
        let prefix = format!("{}{key}.{group}.", self.prefix);
        let Some(value) = self.raw.get(key).and_then(|set| set.get(group)) else {
            let field = prefix.trim_end_matches('.');
            return Err(CheckpointError::field(&self.path, field, "missing", RESTORE));
        };
        Ok((key, value_bounds(&self.path, &prefix, value, kind)?))
    }

    /// The first data set whose states are not all zero. Plain OpenVLA is trained without states
    /// and records zeros; OpenVLA-OFT records what it read, whether the model uses it or not.
    pub(super) fn with_states(&self) -> Option<&str> {
        let moving = |set: &Value| {
            let lists = ["q01", "q99", "min", "max", "std"].into_iter();
            lists
                .filter_map(|name| set.get("proprio")?.get(name)?.as_array())
                .flatten()
                .any(|value| value.as_f64().is_some_and(|number| number != 0.0))
        };
        self.raw.iter().find(|(_, set)| moving(set)).map(|(key, _)| key.as_str())
    }

    fn find(
        &self,
        unnorm_key: Option<&str>,
    ) -> Result<(&str, &Result<ActionStats, CheckpointError>), CheckpointError> {
        let available = || self.keys().map(str::to_owned).collect::<Vec<_>>();
        let found = match unnorm_key.filter(|key| !key.is_empty()) {
            Some(key) => {
                self.sets.get_key_value(key).ok_or_else(|| CheckpointError::UnknownUnnormKey {
                    path: self.path.clone(),
                    key: key.to_owned(),
                    available: available(),
                    hint: if self.replaced.iter().any(|old| old == key) {
                        " (config.json lists it, but dataset_statistics.json replaces those)"
                    } else {
                        ""
                    },
                })?
            }
            None => {
                let mut sets = self.sets.iter();
                match (sets.next(), sets.next()) {
                    (Some(only), None) => only,
                    _ => {
                        return Err(CheckpointError::AmbiguousUnnormKey {
                            path: self.path.clone(),
                            available: available(),
                        });
                    }
                }
            }
        };
        Ok((found.0.as_str(), found.1))
    }
}

const RESTORE: &str = "restore the statistics from the fine-tuning run or the original checkpoint";

/// Checks the `action` object of one data set; `prefix` is how errors name it.
fn action_stats(path: &Path, prefix: &str, value: &Value) -> Result<ActionStats, CheckpointError> {
    let action = value.get("action").filter(|action| action.is_object());
    let Some(action) = action else {
        return Err(CheckpointError::field(path, prefix.trim_end_matches('.'), "missing", RESTORE));
    };
    let bounds = value_bounds(path, prefix, action, BoundsKind::Quantiles)?;
    refuse_not_finite(path, prefix, action)?;
    if let Some((i, low, high)) = bounds.inverted() {
        return Err(CheckpointError::field(
            path,
            format!("{prefix}q99[{i}]"),
            high,
            format!("must not be below q01[{i}] = {low}; {RESTORE}"),
        ));
    }
    let ValueBounds { low, high, mask } = bounds;
    Ok(ActionStats { q01: low, q99: high, mask })
}

/// Refuses statistics in which any number is not finite, also one that un-normalising does not
/// read: a mean that is NaN was computed from recordings with NaN in them.
fn refuse_not_finite(path: &Path, prefix: &str, action: &Value) -> Result<(), CheckpointError> {
    for name in ["mean", "std", "min", "max"] {
        let values = action.get(name).and_then(Value::as_array).into_iter().flatten();
        // Python's NaN and Infinity arrive as texts, see `python_json`.
        if let Some((i, value)) = values.enumerate().find(|(_, value)| value.is_string()) {
            let remedy = format!(
                "must be a finite number: the actions of this data set were not all finite; \
                {RESTORE}"
            );
            return Err(CheckpointError::field(
                path,
                format!("{prefix}{name}[{i}]"),
                value.as_str().unwrap_or_default(),
                remedy,
            ));
        }
    }
    Ok(())
}

/// Checks the bounds in one object of statistics; `prefix` is how errors name it.
fn value_bounds(
    path: &Path,
    prefix: &str,
    object: &Value,
    kind: BoundsKind,
) -> Result<ValueBounds, CheckpointError> {
    let (lower, upper) = match kind {
        BoundsKind::Quantiles => ("q01", "q99"),
        BoundsKind::Extremes => ("min", "max"),
    };
    let low = numbers(path, prefix, lower, object)?;
    let high = numbers(path, prefix, upper, object)?;
    let dim = low.len();
    if high.len() != dim {
        return Err(CheckpointError::field(
            path,
            format!("{prefix}{upper}"),
            format!("{} values wide", high.len()),
            format!("{lower} is {dim} wide and both must agree; {RESTORE}"),
        ));
    }
    let mask = match object.get("mask").filter(|mask| !mask.is_null()) {
        None => vec![true; dim],
        Some(mask) => {
            let flags: Option<Vec<bool>> =
                mask.as_array().and_then(|flags| flags.iter().map(Value::as_bool).collect());
            flags.ok_or_else(|| {
                CheckpointError::field(
                    path,
                    format!("{prefix}mask"),
                    shown(mask),
                    format!("must be a list of true and false; {RESTORE}"),
                )
            })?
        }
    };
    if mask.len() != dim {
        return Err(CheckpointError::field(
            path,
            format!("{prefix}mask"),
            format!("{} values wide", mask.len()),
            format!("{lower} is {dim} wide and both must agree; {RESTORE}"),
        ));
    }
    Ok(ValueBounds { low, high, mask })
}

fn numbers(
    path: &Path,
    prefix: &str,
    name: &str,
    action: &Value,
) -> Result<Vec<f64>, CheckpointError> {
    let fail = |value: String, rule: String| {
        CheckpointError::field(path, format!("{prefix}{name}"), value, format!("{rule}; {RESTORE}"))
    };
    let Some(value) = action.get(name) else {
        return Err(fail(
            "missing".to_owned(),
            "un-normalising needs it (mean and std belong to other policies)".to_owned(),
        ));
    };
    let Some(values) = value.as_array() else {
        return Err(fail(shown(value), "must be a list of numbers".to_owned()));
    };
    if values.is_empty() || values.len() > MAX_ACTION_DIM {
        return Err(fail(
            format!("{} values wide", values.len()),
            format!("must have 1 to {MAX_ACTION_DIM} values"),
        ));
    }
    values
        .iter()
        .enumerate()
        .map(|(i, value)| {
            value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| {
                CheckpointError::field(
                    path,
                    format!("{prefix}{name}[{i}]"),
                    shown(value),
                    format!("must be a finite number; {RESTORE}"),
                )
            })
        })
        .collect()
}
