//! LeRobot datasets in the place of bags: which episodes, and which features stand for the topics.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use lerobot_dataset::{Dataset, is_dataset};
use vla_eval::{EvalError, Settings, episode_path, locate_episode};
use vla_inference::policy::PolicyInfo;

/// The feature of actions, of the state and of a row's task, as LeRobot names them.
const ACTION: &str = "action";
const STATE: &str = "observation.state";
const TASK: &str = "task";
/// Most episodes of a list.
const MAX_EPISODES: u64 = 1_000_000;

/// Options for LeRobot datasets.
#[derive(Args, Debug)]
pub(super) struct DatasetArgs {
    /// Of a LeRobot dataset: these episodes, such as 0,4-9; default: all
    #[arg(long, value_name = "LIST")]
    episodes: Option<EpisodeList>,
    /// Of a LeRobot dataset: feature with the state in the policy's order; default:
    /// observation.state
    #[arg(long, value_name = "FEATURE")]
    state_feature: Option<String>,
}

/// Pairs of first and last, written as `0,4-9`.
#[derive(Clone, Debug)]
struct EpisodeList(Vec<(u64, u64)>);

impl FromStr for EpisodeList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let pair = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (pair.0 <= pair.1 && pair.1 < MAX_EPISODES).then_some(pair)
        };
        let pairs: Option<Vec<(u64, u64)>> = text.split(',').map(one).collect();
        let pairs =
            pairs.ok_or_else(|| format!("'{text}' is no list of episodes; write such as 0,4-9"));
        pairs.map(EpisodeList)
    }
}

impl DatasetArgs {
    /// Puts a dataset's episodes in place of its folder, and its features in place of the topics
    /// that were not given. Leaves bags as they are.
    pub(super) fn apply(
        &self,
        settings: &mut Settings,
        info: &PolicyInfo,
        policy_hz: Option<f64>,
    ) -> Result<(), EvalError> {
        let usage = |line: String| Err(EvalError::Usage(line));
        let mut paths = Vec::new();
        let mut first: Option<Dataset> = None;
        let mut bag: Option<&PathBuf> = None;
        for path in &settings.bags {
            let (folder, episodes) = match locate_episode(path) {
                Some((folder, number)) => {
                    let number = number as u64;
                    (folder, Some(vec![(number, number)]))
                }
                None if is_dataset(path) => {
                    (path.clone(), self.episodes.clone().map(|list| list.0))
                }
                None => {
                    bag = Some(path);
                    continue;
                }
            };
            let dataset = Dataset::open(&folder)?;
            let count = dataset.episodes().len() as u64;
            let chosen = episodes.unwrap_or_else(|| vec![(0, count.saturating_sub(1))]);
            for (from, until) in chosen {
                if count <= until {
                    return usage(format!(
                        "{} has no episode {until}; its episodes are 0 to {}",
                        folder.display(),
                        count.saturating_sub(1)
                    ));
                }
                paths.extend((from..=until).map(|number| episode_path(&folder, number)));
            }
            first.get_or_insert(dataset);
        }
        match (first, bag) {
            (None, _) if self.episodes.is_some() || self.state_feature.is_some() => usage(
                "--episodes and --state-feature are for LeRobot datasets; remove them, or give a \
                dataset's folder with --bag"
                    .to_owned(),
            ),
            (None, _) => Ok(()),
            (Some(dataset), Some(bag)) => usage(format!(
                "{} is a bag and {} a LeRobot dataset; evaluate them one after the other",
                bag.display(),
                dataset.folder().display()
            )),
            (Some(dataset), None) => {
                settings.bags = paths;
                self.features(settings, info, &dataset)?;
                settings.policy_hz = policy_hz.unwrap_or(dataset.info().fps);
                Ok(())
            }
        }
    }

    /// The features that were not named.
    fn features(
        &self,
        settings: &mut Settings,
        info: &PolicyInfo,
        dataset: &Dataset,
    ) -> Result<(), EvalError> {
        let usage = |line: String| Err(EvalError::Usage(line));
        let refused = [
            ("--gripper-topic", settings.gripper_topic.is_some()),
            ("--state-topic", !settings.state_topics.is_empty()),
            ("--match", settings.action_match.is_some()),
            ("--tolerance-ms", settings.tolerance_ms.is_some()),
        ];
        if let Some((option, _)) = refused.iter().find(|(_, given)| *given) {
            return usage(format!(
                "{option} is for bags; a row of a LeRobot dataset has its own action and state, \
                remove it"
            ));
        }
        if settings.image_topic.is_empty() && settings.cameras.is_empty() {
            cameras(settings, info, dataset)?;
        }
        if settings.instruction.is_none() {
            let named = settings.instruction_topic.get_or_insert_with(|| TASK.to_owned());
            if named != TASK {
                return usage(format!(
                    "--instruction-topic '{named}': the instruction of a LeRobot dataset is its \
                    task; remove the option, or give --instruction TEXT"
                ));
            }
        }
        settings.action_topic.get_or_insert_with(|| ACTION.to_owned());
        if 0 < info.state_dim || self.state_feature.is_some() {
            let given = self.state_feature.clone();
            settings.state_feature = Some(given.unwrap_or_else(|| STATE.to_owned()));
        }
        if info.state_dim == 0 && self.state_feature.is_some() {
            return usage("--state-feature: the policy has no state; remove it".to_owned());
        }
        Ok(())
    }
}

/// Whether a path is a dataset's folder or one of its episodes.
pub(super) fn names_dataset(path: &Path) -> bool {
    is_dataset(path) || locate_episode(path).is_some()
}

/// The only camera, or for each of the policy's the one of that name.
fn cameras(settings: &mut Settings, info: &PolicyInfo, dataset: &Dataset) -> Result<(), EvalError> {
    let found: Vec<&str> = dataset.info().cameras().map(|f| f.name.as_str()).collect();
    if let ([only], 1) = (found.as_slice(), info.cameras.len()) {
        settings.image_topic = (*only).to_owned();
        return Ok(());
    }
    let feature = |camera: &str| {
        let ends = [format!("observation.images.{camera}"), format!("observation.{camera}")];
        found.iter().find(|name| **name == camera || ends.contains(&(**name).to_owned()))
    };
    let mut cameras = Vec::new();
    for camera in &info.cameras {
        let Some(name) = feature(camera) else {
            let known = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(EvalError::Usage(format!(
                "no camera of {} has the policy's name '{camera}'; give --camera {camera}=FEATURE \
                for each of the policy's cameras, of {known}",
                dataset.folder().display()
            )));
        };
        cameras.push((camera.to_string(), (*name).to_owned()));
    }
    settings.image_topic = cameras.first().map(|(_, name)| name.clone()).unwrap_or_default();
    if 1 < cameras.len() {
        settings.cameras = cameras;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn episodes_are_parsed() {
        let list = |text: &str| EpisodeList::from_str(text).map(|list| list.0);
        assert_eq!(list("0,4-9, 2").unwrap(), [(0, 0), (4, 9), (2, 2)]);
        for wrong in ["", "a", "3-1", "-1", "1,,2", "0-99999999999"] {
            assert!(list(wrong).unwrap_err().contains("no list of episodes"), "{wrong}");
        }
    }
}
