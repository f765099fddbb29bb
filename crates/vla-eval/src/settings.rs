//! What is evaluated and how: all runs of one evaluation have the same settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use rosbag2_reader::align::ActionMatch;

/// Settings of an evaluation. `report.json` contains them; a resumed run must have the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Bags, one episode each; or episodes of LeRobot datasets, named as
    /// `DATASET/lerobot_episode_000000`, whose features stand in place of the topics below.
    pub bags: Vec<PathBuf>,
    /// Topic of the camera images; of several cameras, the first one's.
    pub image_topic: String,
    /// Names and topics of the cameras, in the policy's order; empty for a policy with one camera.
    #[serde(default)]
    pub cameras: Vec<(String, String)>,
    /// Topics of the state: as the policy file names them, and as recorded, where that differs.
    #[serde(default)]
    pub state_topics: Vec<(String, String)>,
    /// Feature with the state of a LeRobot dataset, as the policy takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_feature: Option<String>,
    /// The instruction, if it is not recorded.
    pub instruction: Option<String>,
    /// Topic of the recorded instruction.
    pub instruction_topic: Option<String>,
    /// Topic of the recorded actions.
    pub action_topic: Option<String>,
    /// Topic of the recorded gripper command, for actions recorded as twists.
    pub gripper_topic: Option<String>,
    /// How actions are matched to images; the default depends on the type of the topic.
    pub action_match: Option<ActionMatch>,
    /// Largest time between image and action, milliseconds; the default is one policy period.
    pub tolerance_ms: Option<f64>,
    /// Rate of the policy, hertz.
    pub policy_hz: f64,
    /// Every n-th image is evaluated.
    pub every: u64,
    /// Largest number of images per bag.
    pub limit: Option<u64>,
    /// The part of the images that this run evaluates.
    pub shard: Shard,
    /// The gripper is open above this value.
    pub gripper_threshold: f64,
    /// The policy.
    pub policy: PolicySettings,
}

/// The policy of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicySettings {
    /// Folder of the checkpoint; empty for a policy on a server.
    pub checkpoint: PathBuf,
    /// The server, in place of a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerSettings>,
    /// Statistics for un-normalization.
    pub unnorm_key: String,
    /// Numbers per action.
    pub action_dim: usize,
    /// Device that it runs on.
    pub device: String,
    /// Name of the precision policy.
    pub precision: String,
    /// Steps of the policy file's image preparation, or `own` for the checkpoint's processor.
    #[serde(default)]
    pub image_preparation: String,
    /// `full` or `actions`: the tokens over which it decodes; of pi0 and pi0.5 the Euler steps and
    /// the seed of every frame's noise.
    pub decode: String,
}

/// A policy server. Its metadata belong to the settings, so that answers of two policies are not
/// joined to one result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerSettings {
    /// `openpi://HOST:PORT` or `act://HOST:PORT`.
    pub address: String,
    /// What the server states about its policy, in one line; empty where its protocol states
    /// nothing.
    pub metadata: String,
    /// `physical` or `normalized`: what the policy file says that its numbers are.
    pub answers: String,
}

impl PolicySettings {
    /// What was evaluated, for headings: the checkpoint's folder or the server's address.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.server {
            Some(server) => server.address.clone(),
            None => self.checkpoint.display().to_string(),
        }
    }
}

/// Part `index` of `count`. Consecutive frames belong to different parts, so that all parts take
/// about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// 0 to `count - 1`.
    pub index: u64,
    /// At least 1.
    pub count: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Shard { index: 0, count: 1 }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('/').and_then(|(index, count)| {
            let shard = Shard { index: index.parse().ok()?, count: count.parse().ok()? };
            (shard.index < shard.count).then_some(shard)
        });
        parsed.ok_or_else(|| {
            format!("shard is '{text}'; write i/n with i from 0 to n - 1, such as 0/4")
        })
    }
}

impl Settings {
    /// Whether this run evaluates the `frame`-th image of the `bag`-th bag.
    pub fn takes(&self, bag: usize, frame: u64) -> bool {
        if !frame.is_multiple_of(self.every) {
            return false;
        }
        let turn = frame / self.every;
        // Offset by the bag: otherwise the first shard would get most of many short bags.
        self.limit.is_none_or(|limit| turn < limit)
            && (turn + bag as u64) % self.shard.count == self.shard.index
    }

    /// Number of images, of the first `frames` of the `bag`-th bag, that this run evaluates.
    pub fn share(&self, bag: usize, frames: u64) -> u64 {
        let turns = frames.div_ceil(self.every);
        let turns = self.limit.map_or(turns, |limit| turns.min(limit));
        let first = (self.shard.index + self.shard.count - bag as u64 % self.shard.count)
            % self.shard.count;
        turns.saturating_sub(first).div_ceil(self.shard.count)
    }

    /// Names and both values of the settings that differ in `other`; `any_shard` excludes the
    /// shard.
    pub fn differences(&self, other: &Settings, any_shard: bool) -> Vec<String> {
        let (Ok(a), Ok(b)) = (serde_json::to_value(self), serde_json::to_value(other)) else {
            return vec!["settings".to_owned()];
        };
        let mut differing = Vec::new();
        collect("", &a, &b, &mut differing);
        differing.retain(|line| !(any_shard && line.starts_with("shard")));
        differing
    }
}

fn collect(prefix: &str, a: &serde_json::Value, b: &serde_json::Value, into: &mut Vec<String>) {
    match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            let only_there = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(only_there) {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                let null = &serde_json::Value::Null;
                collect(&name, a.get(key).unwrap_or(null), b.get(key).unwrap_or(null), into);
            }
        }
        _ if a != b => into.push(format!("{prefix} ({a} here, {b} there)")),
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Settings for tests.
    pub fn settings() -> Settings {
        Settings {
            bags: vec!["a".into(), "b".into()],
            image_topic: "/image".into(),
            cameras: Vec::new(),
            state_topics: Vec::new(),
            state_feature: None,
            instruction: Some("go".into()),
            instruction_topic: None,
            action_topic: None,
            gripper_topic: None,
            action_match: None,
            tolerance_ms: None,
            policy_hz: 5.0,
            every: 1,
            limit: None,
            shard: Shard::default(),
            gripper_threshold: 0.5,
            policy: PolicySettings {
                checkpoint: "c".into(),
                server: None,
                unnorm_key: "k".into(),
                action_dim: 7,
                device: "cpu".into(),
                precision: "f32".into(),
                image_preparation: "own".into(),
                decode: "full".into(),
            },
        }
    }

    #[test]
    fn shards_cover_every_frame_once() {
        for (every, limit, count) in [(1, None, 1), (3, None, 4), (2, Some(5), 3), (1, Some(2), 7)]
        {
            for bag in 0..3 {
                for frames in [0, 1, 7, 30] {
                    let shards: Vec<Settings> = (0..count)
                        .map(|index| Settings {
                            every,
                            limit,
                            shard: Shard { index, count },
                            ..settings()
                        })
                        .collect();
                    for frame in 0..frames {
                        let takers = shards.iter().filter(|shard| shard.takes(bag, frame)).count();
                        let wanted =
                            frame % every == 0 && limit.is_none_or(|limit| frame / every < limit);
                        assert_eq!(
                            takers,
                            usize::from(wanted),
                            "{every} {limit:?} {count} {bag} {frame}"
                        );
                    }
                    for shard in shards {
                        let taken =
                            (0..frames).filter(|&frame| shard.takes(bag, frame)).count() as u64;
                        assert_eq!(
                            shard.share(bag, frames),
                            taken,
                            "{every} {limit:?} {count} {bag} {frames}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn shards_are_parsed_and_differences_named() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        for wrong in ["3/3", "1", "0/0", "-1/2", "a/b"] {
            assert!(wrong.parse::<Shard>().unwrap_err().contains(wrong));
        }
        let mut other = settings();
        other.shard = Shard { index: 1, count: 2 };
        other.policy.device = "sim:n300".into();
        let differing = settings().differences(&other, true);
        assert_eq!(differing, ["policy.device (\"cpu\" here, \"sim:n300\" there)"]);
        assert_eq!(settings().differences(&other, false).len(), 3);
        let server = |metadata: &str| {
            let mut settings = settings();
            settings.policy.server = Some(ServerSettings {
                address: "openpi://host:1".into(),
                metadata: metadata.into(),
                answers: "physical".into(),
            });
            settings
        };
        let differing = server("policy: a").differences(&server("policy: b"), false);
        let line = "policy.server.metadata (\"policy: a\" here, \"policy: b\" there)";
        assert_eq!(differing, [line]);
        assert_eq!(server("a").differences(&settings(), false).len(), 1);
        assert_eq!(settings().differences(&server("a"), false).len(), 1);
    }
}
