//! Statistics of state and action: from a processor's state file (flat tensors
//! `<feature>.<statistic>`), or from a norm_stats.json.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::normalizer::{NormMode, Normalizer, Origin};
use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::fields::shown;
use crate::checkpoint::read::{parse_json, read_bounded};
use crate::checkpoint::shard::SafetensorsFile;

/// Most tensors read of a state file, and most elements of one: a feature of a data set is an
/// image's channels or a few joints.
const MAX_TENSORS: usize = 4096;
const MAX_ELEMENTS: usize = 1024;
/// Largest norm_stats.json read, bytes.
const MAX_BYTES: u64 = 16 << 20;

const EXTERNAL: &str = "without statistics the robot is not driven: give those of the fine-tuning \
    run, or a norm_stats.json";

/// The statistics of a state file by feature and name.
#[derive(Clone, Debug, Default)]
pub(super) struct StateFile {
    path: std::path::PathBuf,
    tensors: BTreeMap<String, Vec<f32>>,
}

impl StateFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = SafetensorsFile::open(path)?;
        let mut tensors = BTreeMap::new();
        for name in file.names().take(MAX_TENSORS) {
            let tensor = file.tensor(name)?;
            // Counts are integers in some versions; nothing needs them.
            if name.ends_with(".count") || tensor.elements() > MAX_ELEMENTS {
                continue;
            }
            tensors.insert(name.to_owned(), tensor.to_f32_vec()?);
        }
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// The normaliser of `feature`, `width` dimensions wide; `None` when the file has none of its
    /// statistics.
    pub(super) fn normalizer(
        &self,
        feature: &str,
        width: usize,
        mode: NormMode,
        epsilon: f32,
    ) -> Result<Option<Normalizer>, CheckpointError> {
        let Some(names) = mode.statistics() else {
            return Ok(Some(Normalizer { epsilon, ..Normalizer::identity() }));
        };
        let mut values = Vec::new();
        for name in names {
            let key = format!("{feature}.{name}");
            match self.tensors.get(&key) {
                Some(tensor) => {
                    check(&self.path, &key, tensor, width)?;
                    values.push(tensor.clone());
                }
                None => {
                    self.refuse_qualified(&key)?;
                    if values.is_empty() && !self.has(feature) {
                        return Ok(None);
                    }
                    let remedy = format!(
                        "the normalisation of {} needs it; restore the file from the fine-tuning \
                        run",
                        quoted(feature)
                    );
                    return Err(CheckpointError::field(&self.path, key, "missing", remedy));
                }
            }
        }
        let mut values = values.into_iter();
        let (low, high) = (values.next().unwrap_or_default(), values.next().unwrap_or_default());
        Ok(Some(Normalizer { mode, origin: Origin::LeRobot, epsilon, low, high }))
    }

    fn has(&self, feature: &str) -> bool {
        let of = |key: &String| key.rsplit_once('.').is_some_and(|(owner, _)| owner == feature);
        self.tensors.keys().any(of)
    }

    /// LeRobot finds nothing under a key that names a data set and passes values through
    /// un-normalised, without a word.
    fn refuse_qualified(&self, key: &str) -> Result<(), CheckpointError> {
        let ending = format!(".{key}");
        match self.tensors.keys().find(|name| name.ends_with(&ending)) {
            Some(name) => Err(CheckpointError::field(
                &self.path,
                quoted(name),
                "qualified by a data set",
                format!("statistics must be named {key}; save the processors for one data set"),
            )),
            None => Ok(()),
        }
    }
}

fn check(path: &Path, key: &str, values: &[f32], width: usize) -> Result<(), CheckpointError> {
    let fail =
        |value: String, remedy: String| Err(CheckpointError::field(path, key, value, remedy));
    if values.len() != width {
        let remedy = format!("config.json states {width}; use both from one checkpoint");
        return fail(format!("{} values wide", values.len()), remedy);
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => fail(format!("{} at {at}", values[at]), "must be finite numbers".into()),
        None => Ok(()),
    }
}

/// State and action normalisers of a norm_stats.json as openpi writes it: `{"norm_stats": {"state":
/// {mean, std, q01, q99}, "actions": …}}`. Lists that are padded to the model's width are cut to
/// the widths given; without widths, their own length counts.
pub(super) fn read_norm_stats(
    path: &Path,
    mode: NormMode,
    [state, action]: [Option<usize>; 2],
) -> Result<[Normalizer; 2], CheckpointError> {
    let remedy = "give a norm_stats.json as openpi's compute_norm_stats.py writes it";
    let map: Map<String, Value> = parse_json(path, &read_bounded(path, MAX_BYTES, remedy)?)?;
    let stats = map.get("norm_stats").and_then(Value::as_object).unwrap_or(&map);
    let read = |keys: &[&str], width| -> Result<Normalizer, CheckpointError> {
        let found = keys.iter().find_map(|key| Some((*key, stats.get(*key)?.as_object()?)));
        let Some((key, entry)) = found else {
            let name = keys.first().copied().unwrap_or_default();
            return Err(CheckpointError::field(path, name, "missing", EXTERNAL));
        };
        let Some(names) = mode.statistics() else { return Ok(Normalizer::identity()) };
        let mut lists = Vec::new();
        for name in names {
            lists.push(numbers(path, &format!("{key}.{name}"), entry.get(name), width)?);
        }
        if lists[0].len() != lists[1].len() {
            let value = format!("{} and {} values wide", lists[0].len(), lists[1].len());
            return Err(CheckpointError::field(path, key, value, "both lists must agree"));
        }
        let high = lists.pop().unwrap_or_default();
        let low = lists.pop().unwrap_or_default();
        Ok(Normalizer { mode, origin: Origin::OpenPi, epsilon: 1e-6, low, high })
    };
    Ok([read(&["state", "observation.state"], state)?, read(&["actions", "action"], action)?])
}

fn numbers(
    path: &Path,
    name: &str,
    value: Option<&Value>,
    width: Option<usize>,
) -> Result<Vec<f32>, CheckpointError> {
    let fail =
        |value: String, remedy: String| Err(CheckpointError::field(path, name, value, remedy));
    let Some(values) = value.and_then(Value::as_array) else {
        return fail(value.map_or("missing".into(), shown), EXTERNAL.into());
    };
    let width = width.unwrap_or(values.len());
    if values.len() < width || values.is_empty() || values.len() > MAX_ELEMENTS {
        let remedy = format!("the robot has {width} dimensions; {EXTERNAL}");
        return fail(format!("{} values wide", values.len()), remedy);
    }
    let read = |value: &Value| value.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
    match values.iter().take(width).map(read).collect() {
        Some(values) => Ok(values),
        None => fail("not a list of numbers".into(), "must be finite numbers".into()),
    }
}
