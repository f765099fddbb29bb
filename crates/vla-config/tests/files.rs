//! Every YAML under config/ loads and fits; for each rule there is a bad file, and the words it is
//! refused with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use vla_config::{
    ConfigFileError, FILE_BYTES_MAX, Files, Given, Measured, PolicyFile, Resolved, RobotFile,
    resolve_with,
};
use vla_control::{
    ConfigErrors, MotionLimits, RawControlConfig, RawEnvelope, RawLimits, RawMotionLimits,
    RawUnchangedImage, RawWorkspace,
};

fn config(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// The two files merged with the defaults.
fn merged(policy: &PolicyFile, robot: &RobotFile) -> Result<Resolved, ConfigErrors> {
    let mut given = Given::default();
    if let [key, _, ..] = policy.unnorm_keys.as_slice() {
        let value = vla_config::Value::Text(key.clone());
        given.insert("unnorm_key", value, vla_config::Origin::CommandLine);
    }
    if policy.remote.is_some() {
        let value = vla_config::Value::Text("openpi://localhost:8000".into());
        given.insert("remote", value, vla_config::Origin::CommandLine);
    }
    let files = Files { policy: Some(policy.clone().into()), robot: Some(robot.clone().into()) };
    resolve_with(&given, &files, ConfigErrors::default())
}

/// Whether a robot file is for a policy file's action space and joints.
fn belong_together(policy: &PolicyFile, robot: &RobotFile) -> bool {
    let joints: Vec<&str> = robot.joints.iter().map(|joint| joint.name.as_str()).collect();
    match policy.action.joints() {
        None => joints.is_empty(),
        Some(action) => {
            action.joints().map(|column| action.columns[column].as_str()).eq(joints.iter().copied())
        }
    }
}

#[test]
fn shipped_files_fit_in_every_pair() {
    let (policy_files, robots) = (config("policies"), config("robots"));
    assert!(3 <= policy_files.len() && 3 <= robots.len());
    let statistics = Some(([-0.02; 7], [0.03; 7]));
    for file in &policy_files {
        let policy_file = PolicyFile::load(file).unwrap();
        let mut pairs = 0;
        for robot in &robots {
            let robot = RobotFile::load(robot).unwrap();
            let fits = belong_together(&policy_file, &robot);
            let resolved = match merged(&policy_file, &robot) {
                Ok(resolved) if fits => resolved,
                Ok(_) => panic!("{} takes {}", file.display(), robot.name),
                Err(_) if !fits => continue,
                Err(error) => panic!("{} and {}: {error}", file.display(), robot.name),
            };
            pairs += 1;
            let joints = policy_file.action.joints().is_some();
            let measured = Measured {
                inference_s: 0.1,
                horizon: policy_file.horizon,
                action_dim: policy_file.action.width(),
                statistics: statistics.filter(|_| !joints),
            };
            let config = resolved.control_for(&measured).unwrap();
            assert!(config.dry_run(), "no shipped file turns commands on");
            assert_eq!(resolved.command_topics.command, robot.command.topic);
            assert_eq!(config.joints().is_some(), joints);
            if !joints {
                assert!(config.needs_ee_pose());
                assert!(config.linear().velocity() <= 0.25, "{}", robot.name);
            }
        }
        assert!(0 < pairs, "no robot file for {}", file.display());
    }
}

#[test]
fn shipped_policy_files_have_the_known_values() {
    let load = |name: &str| {
        PolicyFile::load(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/policies").join(name),
        )
        .unwrap()
    };
    let bridge = load("openvla-7b.yaml");
    assert_eq!(bridge.choose_key(None).unwrap(), "bridge_orig");
    assert_eq!(bridge.policy_hz, 5.0);
    let libero = load("openvla-7b-finetuned-libero.yaml");
    let problem = libero.choose_key(None).unwrap_err().to_string();
    assert!(
        problem.contains("must be one of libero_spatial, libero_object, libero_goal, libero_10"),
        "{problem}"
    );
    assert_eq!(libero.choose_key(Some("libero_10")).unwrap(), "libero_10");
    assert!(
        libero
            .choose_key(Some("bridge_orig"))
            .unwrap_err()
            .to_string()
            .contains("`bridge_orig` is none of")
    );
    let step = libero.to_step([1.0, -1.0, 0.5, 0.2, 0.0, -0.2, 1.0]).unwrap();
    assert_eq!(step.to_array(), [0.05, -0.05, 0.025, 0.1, 0.0, -0.1, 1.0]);
}

/// Loads a file of this text.
fn load<T>(
    text: &str,
    load: impl FnOnce(&Path) -> Result<T, ConfigFileError>,
) -> Result<T, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, text).unwrap();
    load(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "bad.yaml"))
}

const POLICY_FILE: &str = include_str!("../../../config/policies/openvla-7b-finetuned-libero.yaml");
const CAMERAS: &str = "cameras: [{name: image, topic: image}]";
const ROBOT_FILE: &str = include_str!("../../../config/robots/widowx_250.yaml");

/// Replaces one piece of a good file; panics when it is not there, so that no case can rot.
fn broken(good: &str, from: &str, to: &str) -> String {
    assert!(good.contains(from), "`{from}` is not in the good file");
    good.replacen(from, to, 1)
}

const SERVER_FILE: &str = include_str!("../../../config/policies/openpi-droid.yaml");

#[test]
fn each_rule_of_the_section_remote_has_a_bad_file() {
    let cases: &[(&str, &str, &str)] = &[
        ("  answers: physical", "  #", "remote.answers: missing; it has no default"),
        ("answers: physical", "answers: q01_q99", "`q01_q99` is none of physical, normalized"),
        (
            "answers: physical",
            "answers: physical\n  unchanged: [7]",
            "remote.unchanged: means nothing for physical answers",
        ),
        (
            "answers: physical",
            "answers: normalized\n  unchanged: [8]",
            "remote.unchanged: 8 is no column; the last one is 7",
        ),
        ("    - [0.0, 1.0]\n", "", "remote.bounds: has 7 pairs; a step has 8 numbers"),
        ("[0.0, 1.0]", "[1.0, 1.0]", "remote.bounds[7]: [1, 1] is no range"),
        ("[0.0, 1.0]", "[.nan, 1.0]", "remote.bounds[7]: [NaN, 1] is no range"),
        ("[0.0, 1.0]", "[0.0, .inf]", "remote.bounds[7]: [0, inf] is no range"),
        ("tolerance: 0.25", "tolerance: 1.5", "remote.tolerance: 1.5 of the range is outside"),
        ("    wrist: obs", "    hand: obs", "remote.images: has no key for camera `wrist`"),
        ("    wrist: obs", "    hand: obs", "names `hand`, which is no camera with a topic"),
        ("values: 7", "values: 6", "remote.state: sends 7 numbers, but the state has 8"),
        ("values: 1}", "values: 0}", "remote.state[1].values: is 0"),
        ("values: 1}", "values: 18446744073709551615}", "remote.state: sends"),
        ("gripper_position", "joint_position", "has the key `observation/joint_position` twice"),
        ("key: observation/joint_position", "key: ''", "a key that is not 1 to 255 printable"),
        ("  tolerance", "  host: gpu\n  tolerance", "remote.host: unknown key"),
        ("execute: 8", "execute: 8\nflow: {}", "flow: means nothing for a policy server"),
        ("execute: 8", "execute: 8\nprompt: openvla", "prompt: means nothing for a policy server"),
        (
            "topic: wrist_image}",
            "topic: wrist_image}\n  - {name: third, absent: true}",
            "cameras: `third` is absent, which means nothing for a server",
        ),
    ];
    assert!(load(SERVER_FILE, PolicyFile::load).is_ok());
    for (from, to, expected) in cases {
        let error = load(&broken(SERVER_FILE, from, to), PolicyFile::load).unwrap_err();
        assert!(
            error.contains(*expected),
            "`{from}` -> `{to}`:\n  got      {error}\n  expected {expected}"
        );
    }
}

#[test]
fn each_rule_of_a_policy_file_has_a_bad_file() {
    let long_key = &format!("{}, libero_object", "k".repeat(257));
    let cases: &[(&str, &str, &str)] = &[
        ("name: openvla-7b fine-tuned on LIBERO\n", "", "name: missing"),
        (
            "unnorm_keys: [libero_spatial, libero_object, libero_goal, libero_10]\n",
            "",
            "unnorm_keys: missing",
        ),
        (
            "[libero_spatial, libero_object, libero_goal, libero_10]",
            "[]",
            "unnorm_keys: must name at least one",
        ),
        (
            "libero_spatial, libero_object",
            "libero_goal, libero_object",
            "unnorm_keys[2]: `libero_goal` is named twice",
        ),
        (
            "libero_spatial, libero_object",
            "'', libero_object",
            "unnorm_keys[0]: must have 1 to 256 characters",
        ),
        (
            "libero_spatial, libero_object",
            long_key,
            "unnorm_keys[0]: must have 1 to 256 characters",
        ),
        ("  frame: base\n", "", "action.frame: missing; it has no default"),
        ("  frame: base\n", "  frame: camera\n", "action.frame: `camera` is none of base, tool"),
        (
            "  frame: base\n",
            "  frame: tool\n",
            "action.composition: a rotation in the base frame composes from the left",
        ),
        (
            "rotation: rotation_vector",
            "rotation: quaternion",
            "action.rotation: `quaternion` is none of rpy_delta, rotation_vector",
        ),
        ("rotation: rotation_vector", "#", "action.rotation: missing"),
        (
            "composition: left",
            "composition: right",
            "action.composition: a rotation in the base frame composes from the left",
        ),
        ("composition: left", "composition: up", "action.composition: `up` is none of left, right"),
        ("  composition: left", "  #", "action.composition: missing"),
        ("  translation_scale_m: 0.05\n", "", "action.translation_scale_m: missing"),
        (
            "translation_scale_m: 0.05",
            "translation_scale_m: 0.0",
            "action.translation_scale_m: 0 m is outside",
        ),
        (
            "rotation_scale_rad: 0.5",
            "rotation_scale_rad: .nan",
            "action.rotation_scale_rad: NaN rad is outside",
        ),
        ("  rotation_scale_rad: 0.5", "  #", "action.rotation_scale_rad: missing"),
        (
            "polarity: one_is_open",
            "polarity: yes_please",
            "gripper.polarity: `yes_please` is none of one_is_open, one_is_closed",
        ),
        ("  polarity: one_is_open", "  #", "gripper.polarity: missing"),
        ("threshold: 0.5", "threshold: 1.0", "gripper.threshold: 1 is outside 0.05..0.95"),
        ("policy_hz: 20.0\n", "", "policy_hz: missing"),
        ("policy_hz: 20.0", "policy_hz: -20.0", "policy_hz: -20 Hz is outside"),
        ("policy_hz: 20.0", "policy_hz: 201", "policy_hz: 201 Hz is outside 0.1..200 Hz"),
        ("horizon: 1", "horizon: 0", "horizon: 0 is outside 1..256"),
        ("horizon: 1", "horizon: 257", "horizon: 257 is outside 1..256"),
        ("prompt: openvla", "prompt: llama", "prompt: `llama` is none of openvla, openvla_v01"),
        (CAMERAS, "#", "cameras: missing"),
        (CAMERAS, "cameras: 1", "cameras: is the number 1; list the cameras"),
        (CAMERAS, "cameras: []", "cameras: has 0 entries; 1 to 8 are allowed"),
        (CAMERAS, "cameras: [image]", "bad.yaml is not valid: "),
        (CAMERAS, "cameras: one", "bad.yaml is not valid: "),
        (CAMERAS, "camera: 1", "camera: unknown key"),
        (CAMERAS, "cameras: [{name: image}]", "cameras[0].topic: missing"),
        (CAMERAS, "cameras: [{topic: image}]", "cameras[0].name: missing"),
        (CAMERAS, "cameras: [{name: a, absent: true}]", "cameras: are all absent"),
        (
            CAMERAS,
            "cameras: [{name: a, topic: x}, {name: b, topic: x}]",
            "cameras[1].topic: `x` is another camera's too",
        ),
        (
            CAMERAS,
            "cameras: [{name: a, topic: x}, {name: a, absent: true}]",
            "cameras[1].name: `a` is named twice",
        ),
        (
            CAMERAS,
            "cameras: [{name: a, topic: x, absent: true}]",
            "cameras[0].absent: is true beside a topic",
        ),
        (CAMERAS, "cameras: [{name: a, topic: x, fps: 3}]", "cameras[0].fps: unknown key"),
        ("horizon: 1", "horizon: 8\nexecute: 9", "execute: 9 is outside 1..8"),
        ("horizon: 1", "horizon: 1\nensemble: {}", "ensemble: averages nothing"),
        ("horizon: 1", "horizon: 8\nensemble: {chunks: 2}", "ensemble: averages nothing"),
        (
            "horizon: 1",
            "horizon: 8\nexecute: 1\nensemble: {chunks: 65}",
            "ensemble.chunks: 65 is outside 2..64",
        ),
        (
            "horizon: 1",
            "horizon: 8\nexecute: 1\nensemble: {decay: .nan}",
            "ensemble.decay: NaN is outside -10..10",
        ),
        ("horizon: 1", "horizon: 8\nexecute: 1\nensemble: {window: 3}", "window"),
        (
            "horizon: 1",
            "horizon: 8\nexecute: 1\nensemble: {}\nflow: {real_time_chunking: guided}",
            "ensemble: and flow.real_time_chunking exclude each other",
        ),
        ("horizon: 1", "state: [{from: sonar}]\nhorizon: 1", "state[0].from: `sonar` is none of"),
        ("horizon: 1", "state: [{from: gripper}]\nhorizon: 1", "state[0].topic: missing"),
        (
            "horizon: 1",
            "state: [{from: joint_position, joints: []}]\nhorizon: 1",
            "state[0].joints: has 0 names",
        ),
        (
            "horizon: 1",
            "state: [{from: ee_rpy, joints: [a]}]\nhorizon: 1",
            "state[0].joints: means nothing for this source",
        ),
        (
            "horizon: 1",
            "state: [{from: constant, values: [.nan]}]\nhorizon: 1",
            "state[0].values: must be 1 to 64 finite numbers",
        ),
        ("polarity: one_is_open", "closed: 0", "gripper: has only one of closed and open"),
        ("polarity: one_is_open", "closed: 1\n  open: 1", "gripper.open: 1 is gripper.closed too"),
        (
            "  frame: base\n",
            "  frame: base\n  relative: true\n",
            "action.relative: means nothing in the space end_effector",
        ),
        ("policy_hz: 20.0", "policy_hz: 20.0\npolicy_rate: 5", "policy_rate: unknown key"),
        ("  frame: base", "  frame: base\n  unit: m", "action.unit: unknown key"),
        ("  threshold: 0.5", "  threshold: 0.5\n  invert: true", "gripper.invert: unknown key"),
        (
            "policy_hz: 20.0",
            "policy_hz: fast",
            "bad.yaml is not valid: invalid floating point at line ",
        ),
        ("policy_hz: 20.0", "policy_hz: [", "bad.yaml is not valid: "),
    ];
    assert!(load(POLICY_FILE, PolicyFile::load).is_ok());
    for (from, to, expected) in cases {
        let error = load(&broken(POLICY_FILE, from, to), PolicyFile::load).unwrap_err();
        assert!(
            error.contains(*expected),
            "`{from}` -> `{to}`:\n  got      {error}\n  expected {expected}"
        );
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn each_rule_of_image_steps_has_a_bad_file() {
    let lanczos = "    - {step: lanczos3, size: 224}\n";
    let crop = "    - {step: center_crop, area: 0.9}";
    let cases: &[(&str, &str, &str)] = &[
        ("image:\n  steps:", "image:\n  stages:", "image.stages: unknown key"),
        ("image:\n  steps:", "image:\n  stages:", "image.steps: missing"),
        ("image:\n", "image:\n  jpeg: true\n", "image.jpeg: is a step: write image.steps"),
        ("image:\n", "image:\n  resize: bicubic\n", "image.resize: is a step: write image.steps"),
        ("image:\n", "image:\n  crop_area: 0.9\n", "image.crop_area: is a step"),
        (
            "step: jpeg",
            "step: png",
            "image.steps[1].step: `png` is none of rotate_180, jpeg, bicubic, bilinear, \
            bilinear_pad, torch_bilinear_pad, lanczos3, area, center_crop",
        ),
        ("step: jpeg", "steps: jpeg", "image.steps[1].steps: unknown key"),
        ("step: jpeg", "steps: jpeg", "image.steps[1].step: missing"),
        ("step: lanczos3, size: 224", "step: lanczos3", "image.steps[2].size: missing"),
        ("size: 224", "size: 0", "image.steps[2].size: 0 pixels is outside 1..8192"),
        ("size: 224", "size: 8193", "image.steps[2].size: 8193 pixels is outside"),
        ("size: 224", "size: big", "bad.yaml is not valid: "),
        ("size: 224", "size: 224, area: 0.9", "image.steps[2].area: `lanczos3` has no area"),
        ("area: 0.9}", "size: 224}", "image.steps[3].size: `center_crop` keeps the size"),
        ("area: 0.9}", "size: 224}", "image.steps[3].area: missing"),
        ("area: 0.9}", "area: 1.1}", "image.steps[3].area: 1.1 of the area is outside 0.01..1"),
        ("area: 0.9}", "area: .nan}", "image.steps[3].area: NaN of the area is outside"),
        (lanczos, "", "image.steps: no step sets the size"),
        (
            "size: 224}",
            "size: 224, unless_size: 256}",
            "image.steps[2].unless_size: 256 is not the step's size, 224",
        ),
        (
            "lanczos3, size: 224",
            "torch_bilinear_pad, size: 224",
            "image.steps[2]: `torch_bilinear_pad` gives floats; it must be the last step",
        ),
        (lanczos, &lanczos.repeat(14), "image.steps: 17 steps, more than 16"),
    ];
    assert!(POLICY_FILE.contains(crop));
    for (from, to, expected) in cases {
        let error = load(&broken(POLICY_FILE, from, to), PolicyFile::load).unwrap_err();
        assert!(error.contains(*expected), "`{from}` -> `{to}`: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn image_steps_are_read_in_order() {
    use vla_config::ImageOperation::{
        Area, Bicubic, Bilinear, BilinearPad, CenterCrop, Jpeg, Lanczos3, Rotate180,
        TorchBilinearPad,
    };
    let steps = |text: &str| {
        let start = POLICY_FILE.find("image:\n").unwrap();
        let end = POLICY_FILE.find("prompt:").unwrap();
        let file = [&POLICY_FILE[..start], text, &POLICY_FILE[end..]].concat();
        let steps = load(&file, PolicyFile::load).unwrap().image.steps;
        steps.into_iter().map(|step| (step.operation, step.unless_size)).collect::<Vec<_>>()
    };
    let libero = load(POLICY_FILE, PolicyFile::load).unwrap();
    let operations: Vec<_> = libero.image.steps.iter().map(|step| step.operation).collect();
    assert_eq!(operations, [Rotate180, Jpeg, Lanczos3(224), CenterCrop(0.9)]);
    // OpenVLA-OFT's server, its ALOHA evaluation, SimplerEnv, openpi and LeRobot.
    assert_eq!(
        steps(
            "image:\n  steps:\n    - {step: jpeg, unless_size: 224}\n    - {step: lanczos3, size: \
            224, unless_size: 224}\n    - {step: center_crop, area: 0.9}\n"
        ),
        [(Jpeg, Some(224)), (Lanczos3(224), Some(224)), (CenterCrop(0.9), None)]
    );
    assert_eq!(
        steps(
            "image:\n  steps:\n    - {step: bicubic, size: 256}\n    - step: jpeg\n    - {step: \
            lanczos3, size: 224}\n    - {step: center_crop, area: 0.9}\n"
        ),
        [(Bicubic(256), None), (Jpeg, None), (Lanczos3(224), None), (CenterCrop(0.9), None)]
    );
    for (name, operation) in [
        ("area", Area(224)),
        ("bilinear", Bilinear(224)),
        ("bilinear_pad", BilinearPad(224)),
        ("torch_bilinear_pad", TorchBilinearPad(224)),
    ] {
        let text = format!("image: {{steps: [{{step: {name}, size: 224}}]}}\n");
        assert_eq!(steps(&text), [(operation, None)]);
    }
}

#[test]
fn each_rule_of_a_robot_has_a_bad_file() {
    let cases = [
        ("name: WidowX-250 6DOF\n", "", "name: missing"),
        ("base: wx250s/base_link", "base: ''", "frames.base: `` is not a frame name"),
        ("  tool: wx250s/ee_gripper_link\n", "", "frames.tool: missing"),
        (
            "twist_topic: /servo_node/delta_twist_cmds",
            "twist_topic: 'a b'",
            "command.twist_topic: `a b` is not a topic name",
        ),
        (
            "twist_topic: /servo_node/delta_twist_cmds",
            "twist_topic: /servo_node//twist",
            "command.twist_topic: `/servo_node//twist` is not a topic name",
        ),
        (
            "twist_topic: /servo_node/delta_twist_cmds",
            "twist_topic: /2nd/twist",
            "command.twist_topic: `/2nd/twist` is not a topic name",
        ),
        ("  gripper_topic: /wx250s/gripper_command\n", "", "command.gripper_topic: missing"),
        ("rate_hz: 50.0", "rate_hz: 5.0", "command.rate_hz: 5 Hz is outside 10..1000 Hz"),
        (
            "rate_hz: 50.0",
            "rate_hz: 15.0",
            "command.rate_hz: at 15 Hz one late command exceeds the arm's timeout of 0.1 s",
        ),
        ("timeout_s: 0.1", "timeout_s: 0", "command.timeout_s: 0 s is outside"),
        (
            "timeout_s: 0.1",
            "timeout_s: 0.1\n  latency_s: 1.5",
            "command.latency_s: 1.5 s is outside",
        ),
        ("  timeout_s: 0.1", "  #", "command.timeout_s: missing"),
        ("  twist_topic: /servo_node/delta_twist_cmds\n", "", "command.twist_topic: missing"),
        ("  rate_hz: 50.0", "  #", "command.rate_hz: missing"),
        ("  translation: 0.05", "  #", "step_cap.translation: missing"),
        ("  rotation: 0.25", "  rotation: 3.3", "step_cap.rotation: 3.3 rad is outside"),
        ("jerk: 10.0}", "}", "limits.linear.jerk: missing"),
        ("velocity: 0.25, ", "", "limits.linear.velocity: missing"),
        ("acceleration: 3.0, ", "", "limits.angular.acceleration: missing"),
        ("  translation: 0.05", "  translation: 2.0", "step_cap.translation: 2 m is outside"),
        ("  rotation: 0.25", "  #", "step_cap.rotation: missing"),
        (
            "frame: wx250s/base_link\n  min",
            "frame: world\n  min",
            "workspace.frame: `world` is not the base frame",
        ),
        ("  frame: wx250s/base_link\n  min", "  min", "workspace.frame: missing"),
        (
            "frame: wx250s/base_link\n  min",
            "frame: 'a-b'\n  min",
            "workspace.frame: `a-b` is not a frame name",
        ),
        ("  margin: 0.01", "  #", "workspace.margin: missing"),
        ("  min: [0.10, -0.20, -0.01] # m\n", "", "workspace.min: missing"),
        ("  max: [0.45, 0.25, 0.30]\n", "", "workspace.max: missing"),
        ("margin: 0.01", "margin: -1", "workspace.margin: -1 m is outside"),
        ("min_dwell_s: 0.4", "min_dwell_s: 0.4\n  polarity: open", "gripper.polarity: unknown key"),
        ("min_dwell_s: 0.4", "min_dwell_s: -1", "gripper.min_dwell_s: -1 s is outside 0..60 s"),
        (
            "min_dwell_s: 0.4",
            "states: [{closed: 0, open: 1}]",
            "gripper.states[0]: has neither of joint and topic; give one of the two",
        ),
        (
            "min_dwell_s: 0.4",
            "states: [{joint: j, topic: t, closed: 0, open: 1}]",
            "gripper.states[0]: has both of joint and topic; give one of the two",
        ),
        ("min_dwell_s: 0.4", "states: [{joint: j, open: 1}]", "gripper.states[0].closed: missing"),
        (
            "min_dwell_s: 0.4",
            "states: [{joint: j, closed: 1, open: 1}]",
            "gripper.states[0].open: 1 is closed too",
        ),
        (
            "min_dwell_s: 0.4",
            "states: [{joint: j, closed: .nan, open: 1}]",
            "gripper.states[0].closed: NaN is outside",
        ),
        (
            "min_dwell_s: 0.4",
            "states: [{topic: 'a b', closed: 0, open: 1}]",
            "gripper.states[0].topic: `a b` is not a topic name",
        ),
        (
            "min_dwell_s: 0.4",
            "states: [{joint: a, closed: 0, open: 1}, {joint: b, closed: 0, open: 1}]",
            "gripper.states: has 2 entries, but command names 1 grippers",
        ),
        (
            "min_dwell_s: 0.4",
            "states: [{joint: a, closed: 0, open: 1, unit: m}]",
            "gripper.states[0].unit: unknown key",
        ),
        ("velocity: 0.25", "velocity: 25.0", "limits.linear.velocity: 25 m/s is outside"),
        ("name: WidowX", "name: x\nname: WidowX", "duplicate mapping key: name"),
        ("  rate_hz: 50.0", "  rate_hz: 50.0\n  hz: 3", "command.hz: unknown key"),
        ("  base: wx", "  world: map\n  base: wx", "frames.world: unknown key"),
        ("name: WidowX", "colour: red\nname: WidowX", "colour: unknown key"),
        ("  margin: 0.01", "  margin: 0.01\n  shape: ball", "workspace.shape: unknown key"),
        ("step_cap:\n", "step_cap:\n  speed: 1\n", "step_cap.speed: unknown key"),
        ("limits:\n", "limits:\n  torque: 1\n", "limits.torque: unknown key"),
        ("jerk: 10.0}", "jerk: 10.0, snap: 1}", "limits.linear.snap: unknown key"),
        (
            "[0.10, -0.20, -0.01]",
            "[0.10, -0.20]",
            "bad.yaml is not valid: invalid length 2, expected",
        ),
    ];
    assert!(load(ROBOT_FILE, RobotFile::load).is_ok());
    for (from, to, expected) in cases {
        let error = load(&broken(ROBOT_FILE, from, to), RobotFile::load).unwrap_err();
        assert!(
            error.contains(expected),
            "`{from}` -> `{to}`:\n  got      {error}\n  expected {expected}"
        );
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let error = load("{}", PolicyFile::load).unwrap_err();
    for place in [
        "name",
        "unnorm_keys",
        "action.frame",
        "action.rotation",
        "action.composition",
        "gripper.polarity",
        "policy_hz",
        "image.steps",
        "cameras",
    ] {
        assert!(error.contains(&format!("{place}: ")), "{place} is not in {error}");
    }
    let error = load("{}", RobotFile::load).unwrap_err();
    for place in [
        "name",
        "frames.base",
        "frames.tool",
        "command.twist_topic",
        "command.rate_hz",
        "limits.linear.jerk",
        "limits.angular.velocity",
        "step_cap.rotation",
    ] {
        assert!(error.contains(&format!("{place}: ")), "{place} is not in {error}");
    }
}

#[test]
fn other_files_are_refused() {
    let missing = PolicyFile::load(Path::new("does/not/exist.yaml")).unwrap_err();
    assert!(
        matches!(missing, ConfigFileError::Read { .. })
            && missing.to_string().contains("does/not/exist.yaml")
    );
    let large = load(&"#".repeat(FILE_BYTES_MAX as usize + 1), RobotFile::load).unwrap_err();
    assert!(large.contains("65537 bytes, more than the 65536"), "{large}");
    let exact = load(&"#".repeat(FILE_BYTES_MAX as usize), RobotFile::load).unwrap_err();
    assert!(!exact.contains("more than"), "{exact}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("binary.yaml");
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(RobotFile::load(&path).is_err());
}

#[test]
fn a_pair_that_does_not_fit_is_refused() {
    let policy_file = |from, to| load(&broken(POLICY_FILE, from, to), PolicyFile::load).unwrap();
    let robot = |from, to| load(&broken(ROBOT_FILE, from, to), RobotFile::load).unwrap();
    let tool = broken(
        &broken(POLICY_FILE, "frame: base", "frame: tool"),
        "composition: left",
        "composition: right",
    );
    let tool = load(&tool, PolicyFile::load).unwrap();
    let same = robot("name: WidowX-250", "name: Same");
    let error = merged(&tool, &same).unwrap_err().to_string();
    assert!(
        error.contains("the action is in the tool frame, but the box is in the base frame"),
        "{error}"
    );
    let fast = policy_file("policy_hz: 20.0", "policy_hz: 60.0");
    let error = merged(&fast, &same).unwrap_err().to_string();
    assert!(error.contains("command_rate_hz: 50 Hz is slower than the policy's 60 Hz"), "{error}");
    // Polarity and threshold are the policy file's.
    let closed = policy_file("polarity: one_is_open", "polarity: one_is_closed");
    let raw = merged(&closed, &robot("threshold: 0.5", "threshold: 0.4")).unwrap().raw_control;
    assert!(raw.gripper.invert);
    assert_eq!((raw.gripper.threshold, raw.gripper.min_dwell_s), (0.5, 0.4));
}

#[test]
fn statistics_of_other_widths_are_refused() {
    let policy = load(POLICY_FILE, PolicyFile::load).unwrap();
    let robot = load(ROBOT_FILE, RobotFile::load).unwrap();
    let base = RawControlConfig { dry_run: false, ..RawControlConfig::default() };
    let join = |low: &[f64], high: &[f64]| {
        vla_config::join(&policy, &robot, Some((low, high)), &base)
            .map_err(|problems| problems.to_string())
    };
    for (low, high) in [(5, 5), (7, 6), (6, 7), (8, 7)] {
        let error = join(&vec![0.0; low], &vec![0.0; high]).unwrap_err();
        assert!(error.contains(&format!("{low} and {high} dimensions")), "{error}");
    }
    let raw = join(&[-0.02; 7], &[0.03; 7]).unwrap();
    assert_eq!(
        raw.envelope.unwrap().q99[0],
        0.03 * policy.action.end_effector().unwrap().translation_scale
    );
    assert_eq!(
        raw.envelope.unwrap().q01[5],
        -0.02 * policy.action.end_effector().unwrap().rotation_scale
    );
    assert!(!raw.dry_run && raw.workspace.is_some());
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let policy_file = |from, to| load(&broken(POLICY_FILE, from, to), PolicyFile::load).unwrap();
    let robot = load(ROBOT_FILE, RobotFile::load).unwrap();
    let resolved = merged(&policy_file("LIBERO", "LIBERO"), &robot).unwrap();
    let with = |(horizon, action_dim), statistics| {
        let measured = Measured { inference_s: 0.1, horizon, action_dim, statistics };
        resolved.control_for(&measured).map_err(|problems| problems.to_string())
    };
    assert!(with((1, 7), None).is_ok());
    let error = with((8, 14), None).unwrap_err();
    let wanted = "chunks of 1 steps (horizon) of 7 numbers (action), but the checkpoint's have 8 \
        steps of 14";
    assert!(error.contains(wanted), "{error}");
    let error = with((1, 7), Some(([f64::NAN; 7], [1.0; 7]))).unwrap_err();
    assert!(error.contains("envelope.dx"), "{error}");
    // Roll, pitch, yaw may be taken as a rotation vector for small steps only.
    let rpy = policy_file("rotation: rotation_vector", "rotation: rpy_delta");
    let rpy = merged(&rpy, &robot).unwrap();
    let turning = |angle: f64| {
        let statistics = Some(([0.0; 7], [0.0, 0.0, 0.0, angle, 0.0, 0.0, 1.0]));
        rpy.control_for(&Measured { inference_s: 0.1, horizon: 1, action_dim: 7, statistics })
    };
    assert!(turning(0.5).is_ok());
    assert!(turning(1.0).unwrap_err().to_string().contains("rpy_delta"));
}

#[test]
fn each_rule_of_controls_parameters_is_asserted() {
    type Change = fn(&mut RawControlConfig);
    let cases: &[(Change, &str)] = &[
        (|c| c.command_rate_hz = 9.9, "command_rate_hz: 9.9 Hz is outside 10..1000 Hz"),
        (|c| c.command_rate_hz = 1000.5, "command_rate_hz: 1000.5 Hz is outside"),
        (|c| c.command_rate_hz = f64::NAN, "command_rate_hz: NaN Hz is outside"),
        (|c| c.observation_timeout_s = 0.0, "observation_timeout_s: 0 s is outside 0.02..60 s"),
        (|c| c.stamp_future_tolerance_s = -0.1, "stamp_future_tolerance_s: -0.1 s is outside"),
        (|c| c.stamp_past_tolerance_s = 61.0, "stamp_past_tolerance_s: 61 s is outside"),
        (|c| c.inference_timeout_s = 601.0, "inference_timeout_s: 601 s is outside"),
        (|c| c.expected_inference_s = 0.0, "expected_inference_s: 0 s is outside"),
        (|c| c.clock_jump_tolerance_s = f64::INFINITY, "clock_jump_tolerance_s: inf s is outside"),
        (|c| c.overrun_s = 0.029, "overrun_s: 0.029 s is less than one and a half control periods"),
        (|c| c.overrun_s = 1.1, "overrun_s: 1.1 s is outside 0..1 s"),
        (|c| c.pause_s = 0.01, "pause_s: 0.01 s is outside"),
        (|c| c.pause_s = 0.06, "pause_s: 0.06 s is less than the overrun limit of 0.1 s"),
        (|c| c.pose_timeout_s = 0.0, "pose_timeout_s: 0 s is outside"),
        (|c| c.subscriber_timeout_s = -1.0, "subscriber_timeout_s: -1 s is outside"),
        (|c| c.faults_to_latch = 0, "faults_to_latch: 0 is outside 1..8"),
        (|c| c.faults_to_latch = 9, "faults_to_latch: 9 is outside 1..8"),
        (|c| c.fault_window_s = 0.0, "fault_window_s: 0 s is outside"),
        (|c| c.clear_s = 0.0, "clear_s: 0 s is outside"),
        (
            |c| c.unchanged_image.distance = 0.0,
            "unchanged_image.distance: 0 m is outside 0.001..10 m",
        ),
        (|c| c.unchanged_image.distance = 10.1, "unchanged_image.distance: 10.1 m is outside"),
        (
            |c| c.unchanged_image.angle = f64::NAN,
            "unchanged_image.angle: NaN rad is outside 0.001..100 rad",
        ),
        (|c| c.unchanged_image.angle = 101.0, "unchanged_image.angle: 101 rad is outside"),
        (
            |c| c.limits.linear.velocity = 3.1,
            "limits.linear.velocity: 3.1 m/s is outside 0.001..3 m/s",
        ),
        (|c| c.limits.linear.acceleration = 0.0, "limits.linear.acceleration: 0 m/s2 is outside"),
        (|c| c.limits.linear.jerk = -1.0, "limits.linear.jerk: -1 m/s3 is outside"),
        (|c| c.limits.angular.velocity = f64::NAN, "limits.angular.velocity: NaN rad/s is outside"),
        (
            |c| c.limits.angular.acceleration = 61.0,
            "limits.angular.acceleration: 61 rad/s2 is outside",
        ),
        (|c| c.limits.angular.jerk = 10001.0, "limits.angular.jerk: 10001 rad/s3 is outside"),
        (
            |c| {
                c.command_rate_hz = 1000.0;
                c.limits.linear.jerk = 1.0;
            },
            "limits.linear.jerk: acceleration / jerk is 1 s, at most 0.128 s at 1000 Hz",
        ),
        (
            |c| c.limits.linear.acceleration = 0.08,
            "limits.linear.acceleration: a stop would take velocity / acceleration + acceleration \
            / jerk = 3.133 s, more than 3 s",
        ),
        (|c| c.step_cap.translation = 0.0, "step_cap.translation: 0 m is outside"),
        (|c| c.step_cap.rotation = 3.3, "step_cap.rotation: 3.3 rad is outside"),
        (
            |c| {
                c.workspace =
                    Some(RawWorkspace { min: [0.0; 3], max: [0.04, 1.0, 1.0], margin: 0.02 })
            },
            "workspace.x: min 0 m and max 0.04 m leave no room between two margins of 0.02 m",
        ),
        (
            |c| {
                c.workspace =
                    Some(RawWorkspace { min: [0.0, f64::NAN, 0.0], max: [1.0; 3], margin: 0.02 })
            },
            "workspace.min.y: NaN m is outside",
        ),
        (
            |c| {
                c.workspace =
                    Some(RawWorkspace { min: [0.0; 3], max: [1.0, 1.0, 11.0], margin: 0.02 })
            },
            "workspace.max.z: 11 m is outside",
        ),
        (
            |c| c.workspace = Some(RawWorkspace { min: [0.0; 3], max: [1.0; 3], margin: 0.6 }),
            "workspace.margin: 0.6 m is outside",
        ),
        (|c| c.gripper.threshold = 1.1, "gripper.threshold: 1.1 is outside"),
        (|c| c.gripper.hysteresis = -0.1, "gripper.hysteresis: -0.1 is outside"),
        (
            |c| c.gripper.hysteresis = 0.5,
            "gripper.hysteresis: threshold 0.5 +- hysteresis 0.5 leaves 0..1",
        ),
        (
            |c| c.gripper.threshold = 0.1,
            "gripper.hysteresis: threshold 0.1 +- hysteresis 0.1 leaves 0..1",
        ),
        (|c| c.gripper.min_dwell_s = 61.0, "gripper.min_dwell_s: 61 s is outside"),
        (|c| c.detectors.constant_steps = 1, "detectors.constant_steps: 1 is outside 2..10000"),
        (|c| c.detectors.stuck_distance = -1.0, "detectors.stuck_distance: -1 m is outside"),
        (
            |c| c.envelope = Some(RawEnvelope { q01: [0.1; 6], q99: [0.0; 6] }),
            "envelope.droll: q01 0.1 and q99 0 are not an interval of finite numbers",
        ),
        (
            |c| c.envelope = Some(RawEnvelope { q01: [f64::NEG_INFINITY; 6], q99: [0.0; 6] }),
            "envelope.dx: q01 -inf and q99 0 are not an interval",
        ),
    ];
    assert!(RawControlConfig::default().validate().is_ok());
    for (change, expected) in cases {
        let mut raw = RawControlConfig::default();
        change(&mut raw);
        let error = raw.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "got      {error}\nexpected {expected}");
    }
    // All at once.
    let mut raw = RawControlConfig::default();
    for (change, _) in cases {
        change(&mut raw);
    }
    assert!(15 < raw.validate().unwrap_err().0.len());
}

#[test]
fn the_rules_between_parameters_allow_exactly_what_they_say() {
    type Change = fn(&mut RawControlConfig);
    // Each pair: the last value that is good, and the first that is not.
    let cases: &[(Change, Change, &str)] = &[
        (|c| c.overrun_s = 0.03, |c| c.overrun_s = 0.029_999, "overrun_s"),
        (|c| c.pause_s = 0.1, |c| c.pause_s = 0.099_999, "pause_s"),
        (
            |c| {
                (c.command_rate_hz, c.limits.linear.acceleration, c.limits.angular.jerk) =
                    (1000.0, 1.28, 100.0)
            },
            |c| {
                (c.command_rate_hz, c.limits.linear.acceleration, c.limits.angular.jerk) =
                    (1000.0, 1.2801, 100.0)
            },
            "limits.linear.jerk",
        ),
        // 3 s: 2.5 s of braking and 0.5 s of jerk.
        (
            |c| c.limits.angular = RawMotionLimits { velocity: 2.5, acceleration: 1.0, jerk: 2.0 },
            |c| {
                c.limits.angular =
                    RawMotionLimits { velocity: 2.5001, acceleration: 1.0, jerk: 2.0 }
            },
            "limits.angular.acceleration",
        ),
        (|c| c.faults_to_latch = 8, |c| c.faults_to_latch = 9, "faults_to_latch"),
        (
            |c| c.detectors.constant_steps = 10_000,
            |c| c.detectors.constant_steps = 10_001,
            "detectors.constant_steps",
        ),
        (
            |c| {
                c.workspace =
                    Some(RawWorkspace { min: [0.0; 3], max: [1.0, 1.0, 0.251], margin: 0.125 })
            },
            |c| {
                c.workspace =
                    Some(RawWorkspace { min: [0.0; 3], max: [1.0, 1.0, 0.25], margin: 0.125 })
            },
            "workspace.z",
        ),
        (
            |c| (c.gripper.threshold, c.gripper.hysteresis) = (0.5, 0.499),
            |c| (c.gripper.threshold, c.gripper.hysteresis) = (0.5, 0.5),
            "gripper.hysteresis",
        ),
        (
            |c| (c.gripper.threshold, c.gripper.hysteresis) = (0.75, 0.249),
            |c| (c.gripper.threshold, c.gripper.hysteresis) = (0.75, 0.25),
            "gripper.hysteresis",
        ),
        (
            |c| (c.gripper.threshold, c.gripper.hysteresis) = (0.25, 0.249),
            |c| (c.gripper.threshold, c.gripper.hysteresis) = (0.25, 0.25),
            "gripper.hysteresis",
        ),
        (
            |c| c.envelope = Some(RawEnvelope { q01: [0.01; 6], q99: [0.01; 6] }),
            |c| {
                c.envelope =
                    Some(RawEnvelope { q01: [0.01; 6], q99: [0.01, 0.01, 0.01, 0.01, 0.01, 0.009] })
            },
            "envelope.dyaw",
        ),
    ];
    for (good, bad, place) in cases {
        let with = |change: &Change| {
            let mut raw = RawControlConfig::default();
            change(&mut raw);
            raw.validate()
        };
        assert!(with(good).is_ok(), "{place}: {}", with(good).unwrap_err());
        let problems = with(bad).unwrap_err();
        assert_eq!(
            problems.0.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(),
            [*place],
            "{problems}"
        );
    }
    // Two problems of one kind do not hide each other, and one problem has the singular.
    let raw = RawControlConfig { faults_to_latch: 0, ..RawControlConfig::default() };
    assert_eq!(
        raw.validate().unwrap_err().to_string(),
        "1 problem in the configuration: faults_to_latch: 0 is outside 1..8"
    );
    let raw = RawControlConfig { faults_to_latch: 0, clear_s: 0.0, ..RawControlConfig::default() };
    assert_eq!(
        raw.validate().unwrap_err().to_string(),
        "2 problems in the configuration: clear_s: 0 s is outside 0.1..60 s; faults_to_latch: 0 \
       is outside 1..8"
    );
    let infinite =
        RawEnvelope { q01: [-0.01; 6], q99: [0.01, f64::INFINITY, 0.01, 0.01, 0.01, 0.01] };
    let raw = RawControlConfig { envelope: Some(infinite), ..RawControlConfig::default() };
    assert!(raw.validate().unwrap_err().to_string().contains("envelope.dy: "));
}

#[test]
fn a_validated_configuration_says_what_was_given() {
    let raw = RawControlConfig {
        dry_run: false,
        command_rate_hz: 100.0,
        expected_inference_s: 0.4,
        observation_timeout_s: 0.7,
        limits: RawLimits {
            linear: RawMotionLimits { velocity: 0.5, acceleration: 2.0, jerk: 8.0 },
            angular: RawMotionLimits { velocity: 0.75, acceleration: 1.5, jerk: 12.0 },
        },
        ..RawControlConfig::default()
    };
    let config = raw.validate().unwrap();
    assert!(!config.dry_run() && !config.needs_ee_pose());
    assert_eq!(config.period(), Duration::from_millis(10));
    assert_eq!(config.inference_timeout(), Duration::from_millis(800), "twice what was measured");
    assert_eq!(config.observation_timeout(), Duration::from_millis(700));
    let limits = |limits: &MotionLimits| (limits.velocity(), limits.acceleration(), limits.jerk());
    assert_eq!(
        (limits(config.linear()), limits(config.angular())),
        ((0.5, 2.0, 8.0), (0.75, 1.5, 12.0))
    );
    assert_eq!((config.linear().stop_time_s(), config.angular().stop_time_s()), (0.5, 0.625));
    assert_eq!(config.stop_time_s(), 0.625, "the slower group's");
    let given = RawControlConfig { inference_timeout_s: 3.0, ..raw };
    assert_eq!(given.validate().unwrap().inference_timeout(), Duration::from_secs(3));
    let area = RawWorkspace { min: [0.0; 3], max: [1.0; 3], margin: 0.02 };
    assert!(RawControlConfig { workspace: Some(area), ..raw }.validate().unwrap().needs_ee_pose());
}

#[test]
fn parameters_from_yaml_know_no_other_names() {
    let parse = |text: &str| vla_config::parse_yaml::<RawControlConfig>(text);
    let raw = parse(
        "{command_rate_hz: 100.0, limits: {linear: {velocity: 0.1, acceleration: 0.5, jerk: 5.0}}}",
    )
    .unwrap();
    assert_eq!(
        (raw.command_rate_hz, raw.limits.linear.velocity, raw.limits.angular.velocity),
        (100.0, 0.1, 0.6)
    );
    assert!(raw.dry_run);
    let raw = parse("{workspace: {min: [0.0, 0.0, 0.0], max: [1.0, 1.0, 1.0]}}").unwrap();
    assert_eq!(raw.workspace.unwrap().margin, 0.02);
    let raw = parse("{unchanged_image: {distance: 0.2}}").unwrap();
    assert_eq!(raw.unchanged_image, RawUnchangedImage { distance: 0.2, angle: 0.25 });
    for bad in [
        "{speed: 1}",
        "{gripper: {polarity: 1}}",
        "{unchanged_image: {speed: 1}}",
        "{limits: {linear: {velocity: 1.0, acceleration: 1.0, jerk: 1.0, snap: 1.0}}}",
    ] {
        assert!(parse(bad).unwrap_err().contains("unknown field"), "{bad}");
    }
}
