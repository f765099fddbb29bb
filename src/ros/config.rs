//! The node's configuration: what was given, the policy file and the robot file, merged and
//! validated by `vla-config`, with the types of this node. Made once at start; a change makes
//! another.

use std::{fs, path::Path, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use crate::runtime::{ActionTransform, Loaded, Threads, longest_pause};
use vla_config::{
    Arguments, CommandTopics, Given, GripperState, LifecycleState, Measured, PolicyFile,
    QosOverride, Remark, Resolved, STEP_WIDTH, StateAssembler, StatePart, Value, read_arguments,
    resolve,
};
use vla_control::action_chunk::ChunkStep;
use vla_control::{ConfigError, ConfigErrors, ControlConfig, RawControlConfig, Source};
use vla_inference::observation::SINGLE_CAMERA;
use vla_inference::policy::{DecodeMode, Device, PolicyInfo, Precision};
use vla_remote::{Deadlines, RemoteAddress};

/// Whether images come raw or compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageTransport {
    /// `sensor_msgs/Image` on `image`.
    Raw,
    /// `sensor_msgs/CompressedImage` on `image/compressed`.
    Compressed,
}

/// A camera of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraTopic {
    /// Name by which the checkpoint knows it.
    pub name: Arc<str>,
    /// Topic of its images.
    pub topic: String,
}

/// Parameters and files, merged and validated. It does not change.
#[derive(Debug, Clone)]
pub struct ResolvedConfig {
    /// Checkpoint folder; empty when none was named: then configuring fails.
    pub checkpoint: PathBuf,
    /// Policy server that decides instead of a checkpoint.
    pub remote: Option<RemoteAddress>,
    /// File with its API key.
    pub remote_key_file: Option<PathBuf>,
    /// How long it may take.
    pub remote_deadlines: Deadlines,
    /// Statistics to use; needed unless there is exactly one set.
    pub unnorm_key: Option<String>,
    /// Where the model runs.
    pub device: Device,
    /// Number formats; `None` is the device's default.
    pub precision: Option<Precision>,
    /// Longest loading and testing of a checkpoint, seconds.
    pub load_timeout_s: f64,
    /// Threads of the CPU backend, 0 = one per core.
    pub threads: usize,
    /// The tokens that the argmax is taken over.
    pub decode: DecodeMode,
    /// Speculative decoding with the last action's tokens.
    pub draft: bool,
    /// Seed of the first chunk's noise; `None` draws one.
    pub seed: Option<u64>,
    /// Time added to every inference, seconds.
    pub added_latency_s: f64,
    /// Folder of packed weights; `None` keeps none.
    pub weight_cache: Option<PathBuf>,
    /// Configure and activate without a lifecycle manager.
    pub autostart: bool,
    /// How images come.
    pub image_transport: ImageTransport,
    /// The cameras by index: names of the checkpoint, and topics.
    pub cameras: Vec<CameraTopic>,
    /// Parts of the policy's state.
    pub state: Vec<StatePart>,
    /// Names of the joints that are commanded, in control's order; none for an end effector.
    pub joints: Vec<String>,
    /// Rate at which a chunk's steps follow each other, Hz.
    pub policy_hz: f64,
    /// Steps of a chunk that begin before the next observation.
    pub execute: usize,
    /// At most so many inferences per second, Hz.
    pub inference_rate_hz: f64,
    /// Frame of the action: `header.frame_id` of every command.
    pub frame_id: String,
    /// Topics that the commands are published on.
    pub command_topics: CommandTopics,
    /// Priorities of the threads.
    pub scheduling: Threads,
    /// Folder of flight records; `None` keeps none.
    pub record_directory: Option<PathBuf>,
    /// Time between two pictures on `~/debug_image`; `None` publishes none.
    pub debug_image_interval: Option<Duration>,
    /// ROS time comes from `/clock`.
    pub use_sim_time: bool,
    /// Control's parameters, without what loading a checkpoint adds.
    pub raw_control: RawControlConfig,
    /// The same, validated; with latency and envelope once a checkpoint is loaded.
    pub control: ControlConfig,
    /// What loading the checkpoint added.
    measured: Option<Measured>,
    resolved: Resolved,
}

/// Every problem of a set of parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} problem{} in the parameters:{}", .0.len(), if .0.len() == 1 { "" } else { "s" },
    .0.iter().map(|p| format!("\n  {p}")).collect::<String>())]
pub struct ParameterProblems(pub Vec<ConfigError>);

impl ResolvedConfig {
    /// The configuration of the node of this fully qualified name, with the arguments of the
    /// process (without its name), and what there is to log about them.
    ///
    /// # Errors
    /// All problems at once.
    pub fn read(
        arguments: &[String],
        node: &str,
    ) -> Result<(Self, Vec<Remark>), ParameterProblems> {
        let mut problems = ConfigErrors::default();
        let Arguments { given, mut remarks } = read_arguments(arguments, node, &mut problems);
        check_names(&given, &mut problems);
        let resolved =
            resolve(&given, problems).map_err(|problems| ParameterProblems(problems.0))?;
        let config =
            Self::new(resolved, None).map_err(|problem| ParameterProblems(vec![problem]))?;
        if let Some(folder) = &config.record_directory {
            probe(folder).map_err(|what| {
                ParameterProblems(vec![ConfigError {
                    path: "record_directory".into(),
                    message: what,
                }])
            })?;
        }
        remarks.extend(config.resolved.summary());
        Ok((config, remarks))
    }

    /// The policy file, if one was named.
    #[must_use]
    pub fn policy_file(&self) -> Option<&PolicyFile> {
        self.resolved.files.policy.as_deref()
    }

    /// Where the robot file says that grippers are measured.
    #[must_use]
    pub fn gripper_states(&self) -> &[GripperState] {
        self.resolved.files.robot.as_ref().map_or(&[], |robot| &robot.gripper_states)
    }

    /// Overridden QoS of subscriptions.
    #[must_use]
    pub fn qos_overrides(&self) -> &[QosOverride] {
        &self.resolved.given.qos
    }

    fn new(resolved: Resolved, measured: Option<Measured>) -> Result<Self, ConfigError> {
        let values = &resolved.values;
        let policy = resolved.files.policy.as_ref();
        let cameras = match policy {
            Some(policy) => policy
                .cameras
                .iter()
                .filter_map(|camera| {
                    let (name, topic) = (camera.name.as_str().into(), camera.topic.clone()?);
                    Some(CameraTopic { name, topic })
                })
                .collect(),
            None => vec![CameraTopic { name: SINGLE_CAMERA.into(), topic: "image".into() }],
        };
        let joints = resolved.files.robot.iter().flat_map(|robot| &robot.joints);
        let refuse = |path: &str, message| ConfigError { path: path.into(), message };
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let small = |number: i64| u8::try_from(number).unwrap_or(0); // within its range
        Ok(Self {
            checkpoint: PathBuf::from(&values.checkpoint),
            remote: match values.remote.as_str() {
                "" => None,
                text => Some(
                    RemoteAddress::from_str(text)
                        .map_err(|error| refuse("remote", error.to_string()))?,
                ),
            },
            remote_key_file: path(&values.remote_key_file),
            remote_deadlines: Deadlines {
                connect: Duration::from_secs_f64(values.remote_connect_timeout_s),
                read: Duration::from_secs_f64(values.remote_read_timeout_s),
                answer: Duration::from_secs_f64(values.remote_timeout_s),
                first_answer: Duration::from_secs_f64(values.load_timeout_s),
            },
            unnorm_key: (!values.unnorm_key.is_empty()).then(|| values.unnorm_key.clone()),
            device: Device::from_str(&values.device)
                .map_err(|error| refuse("device", error.to_string()))?,
            // Cannot fail: any text is a precision's name.
            precision: (!values.precision.is_empty())
                .then(|| values.precision.parse().unwrap_or(Precision::F32)),
            load_timeout_s: values.load_timeout_s,
            threads: small(values.threads).into(),
            decode: DecodeMode::from_str(&values.decode)
                .map_err(|error| refuse("decode", error))?,
            draft: values.draft,
            seed: u64::try_from(values.seed).ok().filter(|seed| *seed != 0),
            added_latency_s: values.added_latency_s,
            weight_cache: path(&values.weight_cache),
            autostart: values.autostart,
            image_transport: match values.image_transport.as_str() {
                "compressed" => ImageTransport::Compressed,
                _ => ImageTransport::Raw,
            },
            cameras,
            state: policy.map(|policy| policy.state.clone()).unwrap_or_default(),
            joints: joints.map(|joint| joint.name.clone()).collect(),
            policy_hz: values.policy_hz,
            execute: policy.map_or(1, |policy| policy.execute),
            inference_rate_hz: values.inference_rate_hz,
            frame_id: values.frame_id.clone(),
            command_topics: resolved.command_topics.clone(),
            scheduling: Threads {
                control_priority: small(values.control_priority),
                inference_niceness: small(values.inference_niceness).into(),
            },
            record_directory: path(&values.record_directory),
            debug_image_interval: (0.0 < values.debug_image_hz)
                .then(|| Duration::from_secs_f64(values.debug_image_hz.recip())),
            use_sim_time: values.use_sim_time,
            raw_control: resolved.raw_control,
            control: resolved.control,
            measured,
            resolved,
        })
    }

    /// A parameter's value as it holds, files included; `NotSet` for an unknown name.
    #[must_use]
    pub fn get(&self, name: &str) -> Value {
        vla_config::parameter(name).map_or(Value::NotSet, |row| row.get(&self.resolved.values))
    }

    /// Time from the begin of a chunk's step to that of the robot's motion: the limiter's, and the
    /// robot's as its file gives it.
    #[must_use]
    pub fn motion_delay(&self) -> Duration {
        let robot = self.resolved.files.robot.as_ref();
        let latency_s = robot.map_or(0.0, |robot| robot.command.latency_s);
        Duration::from_secs_f64(self.control.motion_delay_s() + latency_s)
    }

    /// The configuration with changed parameters.
    ///
    /// # Errors
    /// What is wrong or not allowed in this state, in one line.
    pub fn with(&self, changes: &[(String, Value)], state: LifecycleState) -> Result<Self, String> {
        let resolved = self.resolved.with(changes, state)?;
        let changed = Self::new(resolved, None).map_err(|problem| problem.to_string())?;
        match (&self.measured, state) {
            (Some(measured), LifecycleState::Inactive | LifecycleState::Other) => {
                changed.with_measured(measured.clone())
            }
            _ => Ok(changed),
        }
    }

    /// The configuration for a checkpoint that was loaded: its latency and its statistics.
    ///
    /// # Errors
    /// What does not fit, in one line.
    pub fn with_policy(&self, loaded: &Loaded) -> Result<Self, String> {
        self.check_observation(&loaded.info)?;
        self.with_measured(Measured {
            inference_s: loaded.inference_s,
            horizon: loaded.info.horizon,
            action_dim: loaded.info.action_dim,
            statistics: statistics(&loaded.info),
        })
    }

    /// Whether the policy's cameras and state are those of the policy file.
    fn check_observation(&self, info: &PolicyInfo) -> Result<(), String> {
        let list = |names: &[Arc<str>]| names.join(", ");
        let known: Vec<Arc<str>> =
            self.cameras.iter().map(|camera| Arc::clone(&camera.name)).collect();
        let (mut wanted, mut given) = (info.cameras.clone(), known.clone());
        wanted.sort();
        given.sort();
        if wanted != given {
            return Err(format!(
                "policy_file: its cameras are {}, but the checkpoint's are {}; name these, each \
                with its topic",
                list(&known),
                list(&info.cameras)
            ));
        }
        let state: usize = self.state.iter().map(StatePart::width).sum();
        if state != info.state_dim {
            return Err(format!(
                "policy_file: its state has {state} numbers, but the checkpoint's {}; list the \
                sources of these",
                info.state_dim
            ));
        }
        Ok(())
    }

    /// Assembles the policy's state and the joints' positions.
    #[must_use]
    pub fn state_assembler(&self) -> StateAssembler {
        StateAssembler::new(&self.state, &self.joints, self.raw_control.state_timeout_s)
    }

    /// A name for the source of a cause.
    #[must_use]
    pub fn source_name(&self, source: Source) -> String {
        let unnamed = || format!("{source:?}");
        match source {
            Source::Camera(index) => self
                .cameras
                .get(usize::from(index))
                .map_or_else(unnamed, |camera| format!("camera {}", camera.name)),
            Source::State(index) => {
                let assembler = self.state_assembler();
                let topic = assembler.topics().get(usize::from(index));
                topic.map_or_else(unnamed, |topic| topic.name().to_owned())
            }
            Source::Joints => "joint_states".into(),
            Source::Joint(index) => self
                .joints
                .get(usize::from(index))
                .map_or_else(unnamed, |name| format!("joint {name}")),
        }
    }

    fn with_measured(&self, measured: Measured) -> Result<Self, String> {
        let control =
            self.resolved.control_for(&measured).map_err(|problems| problems.to_string())?;
        // An inference rate below what the inference watchdog allows would stop the robot in every
        // pause.
        let allowed = control.inference_timeout() + control.observation_timeout();
        let pause = longest_pause(self.inference_rate_hz);
        if allowed <= pause {
            return Err(format!(
                "inference_rate_hz: at {} Hz up to {:.3} s pass from one inference to the next, \
                but inference_timeout_s and observation_timeout_s together allow {:.3} s; raise \
                one of the three",
                self.inference_rate_hz,
                pause.as_secs_f64(),
                allowed.as_secs_f64()
            ));
        }
        Ok(Self { control, measured: Some(measured), ..self.clone() })
    }

    /// How a step's numbers become metres and radians.
    #[must_use]
    pub fn transform(&self) -> ActionTransform {
        if let Some(layout) = self.resolved.joint_layout() {
            return ActionTransform::Joints(Arc::new(layout));
        }
        match &self.resolved.files.policy {
            Some(policy) => {
                let policy = Arc::clone(policy);
                ActionTransform::EndEffector(Arc::new(move |numbers| {
                    // Without a layout the action is the end effector's.
                    policy.to_step(numbers).unwrap_or_else(|| ChunkStep::from_array(numbers))
                }))
            }
            None => ActionTransform::identity(),
        }
    }
}

/// Reports a device or an address that is not known together with the other problems.
fn check_names(given: &Given, problems: &mut ConfigErrors) {
    if let Some(Value::Text(text)) = given.get("device").map(|given| &given.value)
        && let Err(error) = Device::from_str(text)
    {
        problems.add("device", error.to_string());
    }
    if let Some(Value::Text(text)) = given.get("remote").map(|given| &given.value)
        && !text.is_empty()
        && let Err(error) = RemoteAddress::from_str(text)
    {
        problems.add("remote", error.to_string());
    }
}

/// Creates the folder and a file in it, so that a folder that cannot be written is refused at
/// start and not at the first fault.
fn probe(folder: &Path) -> Result<(), String> {
    let file = folder.join(format!(".vla_node_{}", std::process::id()));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, b""))
        .and_then(|()| fs::remove_file(&file))
        .map_err(|error| {
            let folder = folder.display();
            format!("cannot write into {folder}: {error}; name a folder that this user may write")
        })
}

/// The statistics' percentiles in the checkpoint's own units, if it has them for each of the six
/// pose numbers. Control does not use the gripper's. Every step of a chunk has the same.
fn statistics(info: &PolicyInfo) -> Option<([f64; STEP_WIDTH], [f64; STEP_WIDTH])> {
    let (mut low, mut high) = ([0.0; STEP_WIDTH], [1.0; STEP_WIDTH]);
    for i in 0..STEP_WIDTH - 1 {
        (low[i], high[i]) = (*info.envelope.get(i)?)?;
    }
    Some((low, high))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(parameters: &[&str]) -> Result<ResolvedConfig, String> {
        let mut arguments = vec!["--ros-args".to_owned()];
        arguments.extend(parameters.iter().flat_map(|p| ["-p".to_owned(), (*p).to_owned()]));
        ResolvedConfig::read(&arguments, "/vla")
            .map(|(config, _)| config)
            .map_err(|problems| problems.to_string())
    }

    fn loaded(inference_s: f64) -> Loaded {
        let info = PolicyInfo {
            unnorm_key: "test".into(),
            action_tokens: None,
            action_dim: 7,
            action_names: Vec::new(),
            horizon: 1,
            cameras: vec![SINGLE_CAMERA.into()],
            state_dim: 0,
            device: "cpu".into(),
            precision: "f32".into(),
            envelope: vec![None; 7],
        };
        Loaded { info, inference_s, remark: None, seed: None, origin: None }
    }

    #[test]
    fn rates_below_the_watchdog_are_refused() {
        let control =
            |parameters: &[&str]| read(parameters).unwrap().with_policy(&loaded(0.02)).map(|_| ());
        // A policy's own rate always fits the deadline that is derived from it.
        for hz in [0.1, 1.0, 5.0, 50.0] {
            assert_eq!(control(&[&format!("policy_hz:={hz}")]), Ok(()), "{hz} Hz");
        }
        assert_eq!(control(&["inference_timeout_s:=1.0", "policy_hz:=1.0"]), Ok(()));
        let text = control(&["inference_timeout_s:=0.2", "policy_hz:=1.0"]).unwrap_err();
        assert!(text.contains("1.050 s") && text.contains("0.700 s"), "{text}");
        assert!(control(&["inference_rate_hz:=0.5"]).is_err());
    }

    #[test]
    fn limits_change_without_reloading() {
        let config = read(&[]).unwrap().with_policy(&loaded(0.4)).unwrap();
        let timeout = config.control.inference_timeout();
        let change = [("limits.linear.velocity".to_owned(), Value::Float(0.02))];
        let slow = config.with(&change, LifecycleState::Inactive).unwrap();
        assert_eq!(slow.control.linear().velocity(), 0.02);
        assert_eq!(slow.control.inference_timeout(), timeout, "the measured latency is kept");
        let error = config.with(&change, LifecycleState::Other).unwrap_err();
        assert!(error.contains("deactivate"), "{error}");
    }

    #[test]
    fn a_record_folder_is_made_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("a/records");
        let config = read(&[&format!("record_directory:={}", records.display())]).unwrap();
        assert!(records.is_dir() && fs::read_dir(&records).unwrap().next().is_none());
        assert_eq!(config.record_directory, Some(records));
        let text = read(&["record_directory:=/proc/records"]).unwrap_err();
        assert!(text.contains("record_directory: cannot write into /proc/records"), "{text}");
    }

    #[test]
    fn all_problems_come_at_once() {
        let text = read(&[
            "comand_rate_hz:=50.0",
            "nonsense:=true",
            "command_rate_hz:=5000",
            "dry_run:='no'",
            "device:=gpu",
            "decode:=fast",
            "image_transport:=theora",
            "limits.linear.velocity:=.nan",
            "workspace.min:=[0.0, 0.0, 0.0]",
            "gripper.hysteresis:=0.9",
            "control_priority:=100",
            "policy_hz:=-1.0",
            "robot_file:=/no/such/robot.yaml",
            "faults_to_latch:=-1",
        ])
        .unwrap_err();
        for wanted in [
            "14 problems in the parameters",
            "comand_rate_hz: there is no such parameter; did you mean 'command_rate_hz'?",
            "nonsense: there is no such parameter; see vla_node --help",
            "command_rate_hz: 5000 Hz is outside 10..1000 Hz",
            "dry_run: is 'no', but must be true or false",
            "device: device 'gpu' is not known",
            "decode: 'fast' is not known; use full or actions",
            "image_transport: 'theora' is not known; use raw or compressed",
            "limits.linear.velocity: NaN m/s is outside",
            "workspace.max: is missing",
            "gripper.hysteresis: 0.9 is outside",
            "control_priority: 100 is outside 0..99",
            "policy_hz: -1 Hz is outside 0.1..200 Hz",
            "robot_file: cannot read /no/such/robot.yaml",
            "faults_to_latch: -1 is outside 1..8",
        ] {
            assert!(text.contains(wanted), "'{wanted}' not in\n{text}");
        }
    }
}
