//! What the node's parameters say: cameras, joints, limits, and the folder of recordings. Read
//! through the parameter services, so that the page needs none of the node's arguments.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::UNIX_EPOCH;

use futures::FutureExt;
use r2r::QosProfile;
use r2r::rcl_interfaces::msg::ParameterValue;
use r2r::rcl_interfaces::srv::GetParameters;
use serde_json::{Value as Json, json};
use vla_config::{TABLE, Value};
use vla_control::action_chunk::JointAction;

use super::cameras::Named;
use crate::ros::names::Names;
use crate::ros::{ImageTransport, NodeError, ResolvedConfig, parameter_services};

/// Parameters that are not passed on: reading a configuration makes the folder of recordings, and
/// the checkpoint need not be on this machine.
const LEFT_OUT: [&str; 2] = ["record_directory", "checkpoint"];
/// Recordings that are listed, and files of the folder that are looked at.
const RECORDINGS: usize = 8;
const FILES: usize = 1000;

type Reply = Pin<Box<dyn Future<Output = r2r::Result<GetParameters::Response>>>>;

/// Reads the node's parameters, again and again.
pub(super) struct SettingsReader {
    node: String,
    client: r2r::Client<GetParameters::Service>,
    reply: Option<Reply>,
    values: Vec<ParameterValue>,
    config: Option<ResolvedConfig>,
    note: String,
    records: Option<PathBuf>,
}

impl SettingsReader {
    pub(super) fn create(
        ros: &mut r2r::Node,
        node: &str,
        names: &Names,
    ) -> Result<Self, NodeError> {
        let client = ros
            .create_client(&names.resolve("~/get_parameters"), QosProfile::services_default())
            .map_err(|error| NodeError::Ros { what: "a client", error })?;
        Ok(Self {
            node: node.to_owned(),
            client,
            reply: None,
            values: Vec::new(),
            config: None,
            note: String::new(),
            records: None,
        })
    }

    /// Sends a request, unless one is on its way.
    pub(super) fn request(&mut self) {
        if self.reply.is_some() {
            return;
        }
        let names = TABLE.iter().map(|row| row.name.to_owned()).collect();
        if let Ok(reply) = self.client.request(&GetParameters::Request { names }) {
            self.reply = Some(Box::pin(reply));
        }
    }

    /// Takes an answer; whether something is different now.
    pub(super) fn take(&mut self) -> bool {
        let Some(answer) = self.reply.as_mut().and_then(FutureExt::now_or_never) else {
            return false;
        };
        self.reply = None;
        let Ok(GetParameters::Response { values }) = answer else { return false };
        if values == self.values {
            return false;
        }
        let text = |name: &str| {
            let found = TABLE.iter().position(|row| row.name == name);
            let value = found.and_then(|place| values.get(place));
            value.map(|value| value.string_value.clone()).filter(|text| !text.is_empty())
        };
        self.records = text("record_directory").map(PathBuf::from);
        match ResolvedConfig::read(&arguments(&values), &self.node) {
            Ok((config, _)) => (self.config, self.note) = (Some(config), String::new()),
            Err(problems) => {
                let first = problems.0.first().map(ToString::to_string).unwrap_or_default();
                self.config = None;
                self.note = format!("limits, joints and cameras are not known here: {first}");
            }
        }
        self.values = values;
        true
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn note(&self) -> &str {
        &self.note
    }

    /// Names and topics of the policy's cameras; the usual one before the parameters are known.
    pub(super) fn cameras(&self, names: &Names) -> Vec<Named> {
        let Some(config) = &self.config else {
            return vec![("image".into(), names.resolve("image"))];
        };
        let compressed = config.image_transport == ImageTransport::Compressed;
        let topic = |topic: &str| match compressed {
            true => names.resolve(&format!("{topic}/compressed")),
            false => names.resolve(topic),
        };
        config
            .cameras
            .iter()
            .map(|camera| (camera.name.to_string(), topic(&camera.topic)))
            .collect()
    }

    /// Whether joints are shown by their velocities, not by their positions.
    pub(super) fn is_velocity(&self) -> bool {
        let space = self.config.as_ref().and_then(|config| config.control.joints());
        space.is_some_and(|space| space.action() == JointAction::Velocity)
    }

    /// The motion's channels: name, unit and limits.
    pub(super) fn channels(&self, joints: bool) -> Vec<Json> {
        let channel = |name: &str, unit: &str, [low, high]: [f64; 2]| {
            let [name, unit, low, high] = [json!(name), json!(unit), json!(low), json!(high)];
            json!({ "name": name, "unit": unit, "low": low, "high": high })
        };
        let config = self.config.as_ref();
        if !joints {
            let limits = config.map(|config| {
                [config.control.linear().velocity(), config.control.angular().velocity()]
            });
            let [linear, angular] = limits.unwrap_or([f64::NAN; 2]);
            let group = |names: [&str; 3], unit: &str, limit: f64| {
                names.map(|name| channel(name, unit, [-limit, limit]))
            };
            let linear = group(["x", "y", "z"], "m/s", linear);
            let angular = group(["about x", "about y", "about z"], "rad/s", angular);
            return linear.into_iter().chain(angular).collect();
        }
        let Some((config, space)) = config.and_then(|c| Some((c, c.control.joints()?))) else {
            return Vec::new();
        };
        let velocity = self.is_velocity();
        let joints = config.joints.iter().enumerate().take(space.count());
        joints
            .map(|(joint, name)| match velocity {
                true => {
                    let [limit, ..] = space.motion_limits(joint);
                    channel(name, "rad/s", [-limit, limit])
                }
                false => channel(name, "rad", space.position_limits(joint)),
            })
            .collect()
    }

    /// The newest files in the folder of recordings.
    pub(super) fn records(&self) -> Json {
        match &self.records {
            None => json!({
                "folder": "",
                "note": "none are kept: the node's parameter record_directory is not set",
                "files": [],
            }),
            Some(folder) => match newest(folder) {
                Ok(files) => json!({ "folder": folder, "note": "", "files": files }),
                Err(error) => {
                    let note = format!("not readable from here: {error}");
                    json!({ "folder": folder, "note": note, "files": [] })
                }
            },
        }
    }
}

/// Names, sizes and times of the newest recordings.
fn newest(folder: &Path) -> std::io::Result<Vec<Json>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.take(FILES) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let about = entry.metadata()?;
        if !name.ends_with(".mcap") || !about.is_file() {
            continue;
        }
        let at = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        files.push((at, name, about.len()));
    }
    files.sort_by(|a, b| b.0.total_cmp(&a.0));
    files.truncate(RECORDINGS);
    Ok(files
        .into_iter()
        .map(|(at, name, bytes)| json!({ "at": at, "name": name, "bytes": bytes }))
        .collect())
}

/// The arguments of a node with these parameters, in the order of the table.
fn arguments(values: &[ParameterValue]) -> Vec<String> {
    let mut arguments = vec!["--ros-args".to_owned()];
    for (row, value) in TABLE.iter().zip(values) {
        if LEFT_OUT.contains(&row.name) {
            continue;
        }
        if let Some(text) = yaml(&parameter_services::value(value)) {
            arguments.extend(["-p".to_owned(), format!("{}:={text}", row.name)]);
        }
    }
    arguments
}

/// A value as the command line takes it; `None` for one that is not set.
fn yaml(value: &Value) -> Option<String> {
    let number = |value: &f64| format!("{value:?}");
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Float(value) => value.is_finite().then(|| number(value)),
        Value::Text(text) if text.is_empty() => None,
        Value::Text(text) => Some(format!("'{}'", text.replace('\'', "''"))),
        Value::Floats(values) if values.is_empty() => None,
        Value::Floats(values) => {
            Some(format!("[{}]", values.iter().map(number).collect::<Vec<_>>().join(", ")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(arguments: &[String]) -> ResolvedConfig {
        ResolvedConfig::read(arguments, "/vla").unwrap().0
    }

    /// Whatever a node runs with is read again from its parameters.
    #[test]
    fn parameters_give_the_configuration_back() {
        let root = env!("CARGO_MANIFEST_DIR");
        for given in [
            vec![],
            vec!["limits.linear.velocity:=0.02".to_owned()],
            vec![
                format!("policy_file:='{root}/config/policies/tabletop.yaml'"),
                format!("robot_file:='{root}/config/robots/tabletop.yaml'"),
            ],
            vec![
                format!(
                    "policy_file:='{root}/config/policies/tabletop_scripted_joint_position.yaml'"
                ),
                format!("robot_file:='{root}/config/robots/tabletop_joint_trajectory.yaml'"),
            ],
        ] {
            let mut command = vec!["--ros-args".to_owned()];
            command.extend(given.iter().flat_map(|p| ["-p".to_owned(), p.clone()]));
            let config = read(&command);
            let values: Vec<ParameterValue> =
                TABLE.iter().map(|row| parameter_services::message(config.get(row.name))).collect();
            let again = read(&arguments(&values));
            assert_eq!(again.control, config.control, "{given:?}");
            assert_eq!((again.cameras, again.joints), (config.cameras, config.joints), "{given:?}");
        }
    }

    #[test]
    fn recordings_are_the_newest_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..12 {
            let file = fs::File::create(folder.path().join(format!("{index:02}.mcap"))).unwrap();
            file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(index)).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let found = newest(folder.path()).unwrap();
        assert_eq!(found.len(), RECORDINGS);
        assert_eq!(found[0]["name"], "11.mcap");
        assert!(newest(Path::new("/nowhere")).is_err());
    }
}
