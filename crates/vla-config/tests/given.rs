//! What is given holds: merging of defaults, files and given values, case by case.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use vla_config::{
    Given, LifecycleState, Origin, QosPolicy, Remark, Resolved, Value, read_arguments, resolve,
};
use vla_control::{ConfigErrors, RawEnsemble};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn config(file: &str) -> String {
    format!("{ROOT}/config/{file}")
}

fn arguments(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// The configuration of a node `name` with these arguments, or every problem.
fn node(name: &str, list: &[&str]) -> (Result<Resolved, String>, Vec<Remark>) {
    let mut problems = ConfigErrors::default();
    let mut all = vec!["--ros-args"];
    all.extend(list);
    let read = read_arguments(&arguments(&all), name, &mut problems);
    let resolved = resolve(&read.given, problems).map_err(|problems| problems.to_string());
    (resolved, read.remarks)
}

/// The configuration with `-p` arguments.
fn with(parameters: &[&str]) -> Result<Resolved, String> {
    let list: Vec<&str> = parameters.iter().flat_map(|parameter| ["-p", parameter]).collect();
    node("/vla", &list).0
}

/// A file with this text in a folder that lives as long as the result.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

fn holds(resolved: &Resolved, name: &str) -> Value {
    vla_config::parameter(name).unwrap().get(&resolved.values)
}

/// The tabletop's robot file with another velocity.
fn robot(velocity: &str) -> (tempfile::TempDir, String) {
    let text = std::fs::read_to_string(config("robots/tabletop.yaml")).unwrap();
    let changed =
        text.replace("linear: {velocity: 0.25", &format!("linear: {{velocity: {velocity}"));
    assert!(velocity == "0.25" || text != changed);
    file(&changed)
}

#[test]
fn a_given_limit_equal_to_the_default_holds() {
    let (_folder, fast) = robot("1.0");
    let robot_file = format!("robot_file:={fast}");
    let resolved = with(&[&robot_file, "limits.linear.velocity:=0.25"]).unwrap();
    assert_eq!(holds(&resolved, "limits.linear.velocity"), Value::Float(0.25));
    assert_eq!(resolved.control.linear().velocity(), 0.25);
    let resolved = with(&[&robot_file]).unwrap();
    assert_eq!(resolved.control.linear().velocity(), 1.0);
}

#[test]
fn a_robot_file_can_be_undercut() {
    let robot_file = format!("robot_file:={}", config("robots/tabletop.yaml"));
    let resolved = with(&[
        &robot_file,
        "limits.linear.velocity:=0.025",
        "limits.angular.velocity:=0.06",
        "step_cap.translation:=0.005",
        "gripper.min_dwell_s:=2",
        "gripper.hysteresis:=0.2",
        "workspace.min:=[0.3, -0.1, 0.05]",
        "workspace.max:=[0.5, 0.1, 0.2]",
        "workspace.margin:=0.02",
        "overrun_s:=0.05",
    ])
    .unwrap();
    for (name, value) in [
        ("limits.linear.velocity", 0.025),
        ("limits.angular.velocity", 0.06),
        ("step_cap.translation", 0.005),
        ("gripper.min_dwell_s", 2.0),
        ("gripper.hysteresis", 0.2),
        ("workspace.margin", 0.02),
        ("overrun_s", 0.05),
        ("limits.linear.acceleration", 1.0),
    ] {
        assert_eq!(holds(&resolved, name), Value::Float(value), "{name}");
    }
    assert_eq!(resolved.raw_control.workspace.unwrap().min, [0.3, -0.1, 0.05]);
}

#[test]
fn what_is_laxer_is_refused_with_both_values() {
    let robot_file = format!("robot_file:={}", config("robots/tabletop.yaml"));
    let policy_file = format!("policy_file:={}", config("policies/tabletop.yaml"));
    for (given, wanted) in [
        (
            "limits.linear.velocity:=0.5",
            "limits.linear.velocity: 0.5 m/s, given on the command line, is more than 0.25 m/s of \
             the robot file 'simulated tabletop robot'; give at most that",
        ),
        ("limits.linear.jerk:=10.1", "10.1 m/s3, given on the command line, is more than 10 m/s3"),
        ("limits.angular.acceleration:=4", "is more than 3 rad/s2"),
        ("step_cap.rotation:=0.3", "0.3 rad, given on the command line, is more than 0.25 rad"),
        ("workspace.min:=[0.2, -0.1, 0.0]", "workspace.min: [0.2, -0.1, 0.0] m, given"),
        ("workspace.max:=[0.6, 0.1, 0.4]", "workspace.max: [0.6, 0.1, 0.4] m, given"),
        ("workspace.margin:=0.005", "is less than 0.01 m"),
        ("gripper.min_dwell_s:=0.1", "is less than 0.4 s"),
        ("gripper.hysteresis:=0.05", "is less than 0.1"),
        ("gripper.threshold:=0.6", "is not 0.5 of the policy file"),
        ("gripper.invert:=true", "true, given on the command line, is not false"),
        ("frame_id:=world", "frame_id: 'world', given on the command line, is not 'base'"),
        ("command_rate_hz:=100", "100 Hz, given on the command line, is not 50 Hz"),
        ("policy_hz:=10", "10 Hz, given on the command line, is more than 5 Hz of the policy file"),
        ("unnorm_key:=bridge_orig", "`bridge_orig` is none of tabletop"),
    ] {
        let error = with(&[&robot_file, &policy_file, given]).unwrap_err();
        assert!(error.contains(wanted), "{given}\n got    {error}\n wanted {wanted}");
        assert!(error.starts_with("1 problem"), "{error}");
    }
    for same in ["frame_id:=base", "command_rate_hz:=50", "policy_hz:=5", "policy_hz:=0.5"] {
        assert!(with(&[&robot_file, &policy_file, same]).is_ok(), "{same}");
    }
}

#[test]
fn zero_leaves_a_rate_to_the_file() {
    let robot_file = format!("robot_file:={}", config("robots/ur5e.yaml"));
    let resolved = with(&[&robot_file, "command_rate_hz:=0.0", "policy_hz:=0.0"]).unwrap();
    assert_eq!(holds(&resolved, "command_rate_hz"), Value::Float(100.0));
    assert_eq!(holds(&resolved, "policy_hz"), Value::Float(5.0));
    assert_eq!(holds(&resolved, "inference_rate_hz"), Value::Float(5.0));
}

#[test]
fn the_arms_own_timeout_bounds_the_overrun() {
    let text = std::fs::read_to_string(config("robots/tabletop.yaml")).unwrap();
    let (_folder, quick) = file(&text.replace("timeout_s: 0.2", "timeout_s: 0.05"));
    let resolved = with(&[&format!("robot_file:={quick}")]).unwrap();
    assert_eq!(holds(&resolved, "overrun_s"), Value::Float(0.05));
}

#[test]
fn every_wildcard_of_a_parameter_file_applies() {
    for (section, node_name, velocity) in [
        ("/**/vla", "/vla", 0.15),
        ("/**/vla", "/robot1/vla", 0.15),
        ("/robot1/*", "/robot1/vla", 0.15),
        ("/*", "/vla", 0.15),
        ("/*", "/robot1/vla", 0.25),
        ("vla", "/robot1/vla", 0.25),
        ("vla", "/vla", 0.15),
        ("/robot2/vla", "/robot1/vla", 0.25),
    ] {
        let (_folder, path) =
            file(&format!("{section}:\n  ros__parameters:\n    limits.linear.velocity: 0.15\n"));
        let (resolved, remarks) = node(node_name, &["--params-file", &path]);
        assert_eq!(
            holds(&resolved.unwrap(), "limits.linear.velocity"),
            Value::Float(velocity),
            "{section} {node_name}"
        );
        let [remark] = remarks.as_slice() else { panic!("{remarks:?}") };
        match (velocity == 0.15, remark) {
            (true, Remark::Info(text)) => {
                assert!(text.contains(": read ") && text.contains(section));
            }
            (false, Remark::Warning(text)) => assert!(text.contains("no section applies")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn sources_override_each_other_as_in_rcl() {
    let (_a, general) =
        file("/**: {ros__parameters: {clear_s: 1.0}}\n/vla: {ros__parameters: {clear_s: 2.0}}\n");
    let (_b, second) = file("/**: {ros__parameters: {clear_s: 3.0, pause_s: 1.0}}\n");
    let value = |list: &[&str]| holds(&node("/vla", list).0.unwrap(), "clear_s");
    let files = ["--params-file", general.as_str(), "--params-file", second.as_str()];
    // Sections of one name are one section, at its first place.
    assert_eq!(value(&files), Value::Float(2.0));
    assert_eq!(value(&["--params-file", &second]), Value::Float(3.0));
    // -p wins, wherever it is; and the later -p.
    assert_eq!(value(&[&["-p", "clear_s:=0.7"][..], &files].concat()), Value::Float(0.7));
    assert_eq!(value(&["-p", "clear_s:=0.7", "--param", "clear_s:=0.8"]), Value::Float(0.8));
    assert_eq!(value(&["-p", "vla:clear_s:=0.9"]), Value::Float(0.9));
    let (resolved, remarks) = node("/vla", &["-p", "other:clear_s:=0.9"]);
    assert_eq!(holds(&resolved.unwrap(), "clear_s"), Value::Float(0.5));
    assert!(matches!(&remarks[..], [Remark::Warning(text)] if text.contains("not this node")));
}

#[test]
fn unknown_names_stop_the_node_only_where_they_are_its_own() {
    let shared = "/**: {ros__parameters: {robot_description: x, publish_rate: 3, use_sim_time: \
                  true, qos_overrides: {/image: {subscription: {depth: 3}}}}}";
    let (_folder, path) = file(shared);
    let (resolved, remarks) = node("/vla", &["--params-file", &path]);
    assert_eq!(holds(&resolved.unwrap(), "use_sim_time"), Value::Bool(true));
    let warned = |wanted: &str| {
        remarks
            .iter()
            .any(|remark| matches!(remark, Remark::Warning(text) if text.contains(wanted)))
    };
    assert!(warned("publish_rate") && !warned("qos_overrides"), "{remarks:?}");
    let (_folder, path) = file("/vla: {ros__parameters: {comand_rate_hz: 5, nonsense: 1}}");
    let error = node("/vla", &["--params-file", &path]).0.unwrap_err();
    assert!(error.contains("comand_rate_hz: there is no such parameter; did you mean"), "{error}");
    assert!(error.contains("nonsense: there is no such parameter; see vla_node --help"), "{error}");
    let error = with(&["limits.linear.velocty:=0.1"]).unwrap_err();
    assert!(error.contains("did you mean 'limits.linear.velocity'?"), "{error}");
}

#[test]
fn quality_of_service_is_overridden_by_topic() {
    let depth = |resolved: &Resolved| {
        let depths = resolved.given.qos.iter().map(|change| (change.topic.clone(), change.policy));
        depths.collect::<Vec<_>>()
    };
    let (_folder, path) = file(
        "/**: {ros__parameters: {qos_overrides: {/a/image: {subscription: {depth: 3, \
         reliability: dependable}, publisher: {depth: 1}}}}}",
    );
    let (resolved, remarks) = node("/vla", &["--params-file", &path]);
    let camera = ("/a/image".to_owned(), QosPolicy::Depth(3));
    assert_eq!(depth(&resolved.unwrap()), vec![camera]);
    for wanted in ["reliability (given in", "publisher.depth (given in"] {
        let warned = |remark: &Remark| matches!(remark, Remark::Warning(t) if t.contains(wanted));
        assert!(remarks.iter().any(warned), "{wanted}: {remarks:?}");
    }
    // In a section of this node, and on the command line, a wrong value stops it.
    let error = with(&["qos_overrides./image.subscription.depth:=0"]).unwrap_err();
    assert!(
        error.contains("subscription.depth: is 0, but must be an integer in 1..1000"),
        "{error}"
    );
}

#[test]
fn misspelt_limits_stop_the_node_in_any_section() {
    for section in ["/**", "/*", "/**/vla", "/vla"] {
        let (_folder, path) =
            file(&format!("{section}: {{ros__parameters: {{limits.linear.velocty: 0.02}}}}"));
        let error = node("/vla", &["--params-file", &path]).0.unwrap_err();
        assert!(error.starts_with("1 problem") && !error.contains('\n'), "{section}: {error}");
        assert!(error.contains("did you mean 'limits.linear.velocity'?"), "{section}: {error}");
    }
    // A name without a group may be another node's: a warning in a shared section.
    let (_folder, path) = file("/**: {ros__parameters: {decoder: x, comand_rate_hz: 1.0}}");
    let (resolved, remarks) = node("/vla", &["--params-file", &path]);
    assert!(resolved.is_ok(), "{:?}", resolved.err());
    assert!(remarks.iter().filter(|remark| matches!(remark, Remark::Warning(_))).count() >= 2);
}

#[test]
fn only_a_last_wildcard_makes_a_section_shared() {
    for (section, name, shared) in [
        ("/**", "/vla", true),
        ("/*", "/vla", true),
        ("/r1/*", "/r1/vla", true),
        ("/**/vla", "/vla", false),
        ("/*/vla", "/r1/vla", false),
    ] {
        let (_folder, path) = file(&format!("{section}: {{ros__parameters: {{nonsense: 1}}}}"));
        let (resolved, remarks) = node(name, &["--params-file", &path]);
        assert_eq!(resolved.is_ok(), shared, "{section}");
        let warned =
            |remark: &Remark| matches!(remark, Remark::Warning(text) if text.contains("nonsense"));
        assert_eq!(remarks.iter().any(warned), shared, "{section}: {remarks:?}");
    }
}

#[test]
fn a_parameter_file_must_be_a_regular_file() {
    use std::os::fd::AsRawFd as _;
    // As `--params-file <(...)` is after rcl has read it.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(writer);
    let pipe = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let folder = tempfile::tempdir().unwrap().path().display().to_string();
    for path in [&pipe, "/dev/null", env!("CARGO_MANIFEST_DIR")] {
        let error = node("/vla", &["--params-file", path]).0.unwrap_err();
        let wanted = format!("--params-file: {path} is not a regular file; write the parameters");
        assert!(error.contains(&wanted) && !error.contains('\n'), "{error}");
    }
    let error = node("/vla", &["--params-file", &folder]).0.unwrap_err();
    assert!(error.contains("cannot read"), "{error}");
}

#[test]
fn lower_limits_must_not_lengthen_a_stop() {
    let robot_file = format!("robot_file:={}", config("robots/tabletop.yaml"));
    for (given, wanted) in [
        (
            "limits.linear.acceleration:=0.5",
            "limits.linear: a stop would take velocity / acceleration + acceleration / jerk = \
             0.55 s, longer than 0.35 s of the robot file 'simulated tabletop robot'; lower \
             limits.linear.velocity too",
        ),
        ("limits.linear.jerk:=8", "= 0.375 s, longer than 0.35 s"),
        ("limits.angular.acceleration:=1.5", "limits.angular: a stop would take"),
        ("limits.angular.jerk:=10", "= 0.5 s, longer than 0.3 s"),
    ] {
        let error = with(&[&robot_file, given]).unwrap_err();
        assert!(error.contains(wanted), "{given}\n got    {error}\n wanted {wanted}");
        assert!(error.starts_with("1 problem") && !error.contains('\n'), "{error}");
        assert!(with(&[given]).is_ok(), "{given} without a robot file");
    }
    let tenth = [
        "limits.linear.velocity:=0.025",
        "limits.linear.acceleration:=0.1",
        "limits.linear.jerk:=1",
        "limits.angular.velocity:=0.06",
        "limits.angular.acceleration:=0.3",
        "limits.angular.jerk:=3",
    ];
    for robot in ["tabletop", "franka_servo", "widowx_250"] {
        let robot_file = format!("robot_file:={}", config(&format!("robots/{robot}.yaml")));
        let resolved = with(&[&[robot_file.as_str()], &tenth[..]].concat()).unwrap();
        assert_eq!(resolved.control.linear().acceleration(), 0.1);
    }
    // A change of the running node keeps to the same rule.
    let resolved = with(&[&robot_file]).unwrap();
    let change = |list: &[(&str, f64)]| {
        let list: Vec<(String, Value)> =
            list.iter().map(|(name, value)| ((*name).to_owned(), Value::Float(*value))).collect();
        resolved.with(&list, LifecycleState::Inactive)
    };
    let error = change(&[("limits.linear.acceleration", 0.5)]).unwrap_err();
    assert!(error.contains("0.55 s, longer than 0.35 s"), "{error}");
    let both = [("limits.linear.acceleration", 0.5), ("limits.linear.velocity", 0.125)];
    assert!(change(&both).is_ok());
}

#[test]
fn a_name_may_occur_once_in_a_request() {
    let robot_file = format!("robot_file:={}", config("robots/tabletop.yaml"));
    let resolved = with(&[&robot_file, "limits.linear.velocity:=0.1"]).unwrap();
    for values in [&[0.25, 0.1][..], &[0.1, 0.1], &[0.1, 0.25, 0.1]] {
        let changes: Vec<(String, Value)> = values
            .iter()
            .map(|value| ("limits.linear.velocity".to_owned(), Value::Float(*value)))
            .collect();
        let error = resolved.with(&changes, LifecycleState::Inactive).unwrap_err();
        assert_eq!(
            error,
            "limits.linear.velocity: occurs more than once in one request; give it once"
        );
    }
}

#[test]
fn what_was_dumped_can_be_given_back() {
    let policy_file = format!("policy_file:={}", config("policies/tabletop.yaml"));
    for robot_file in ["", "robots/tabletop.yaml", "robots/ur5e.yaml"] {
        let mut given = vec![policy_file.clone()];
        if !robot_file.is_empty() {
            given.push(format!("robot_file:={}", config(robot_file)));
        }
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let first = with(&given).unwrap();
        // As `ros2 param dump` writes it.
        let mut dump = String::from("/vla:\n  ros__parameters:\n");
        for row in vla_config::TABLE {
            let value = match row.get(&first.values) {
                Value::Float(number) => format!("{number:?}"),
                Value::Text(text) => format!("'{text}'"),
                other => other.to_string(),
            };
            dump += &format!("    {}: {value}\n", row.name);
        }
        assert!(!dump.contains("null") && !dump.contains("not set"));
        let (_folder, path) = file(&dump);
        let second = node("/vla", &["--params-file", &path]).0.unwrap();
        assert_eq!(second.values, first.values);
        assert_eq!(second.control, first.control);
    }
}

#[test]
fn texts_lead_out() {
    for (given, wanted) in [
        (
            "threads:=1.0",
            "threads: is 1.0, a floating-point number, but must be an integer; write 1",
        ),
        ("unnorm_key:=123e5", "unnorm_key: is 123e5, which YAML does not read as a string; put it"),
        ("checkpoint:=$NOWHERE/x", "$ is not expanded"),
        ("checkpoint:=$HOMES/x", "$ is not expanded"),
        ("checkpoint:='/models/x '", "begins or ends with white space"),
        ("checkpoint:='\"/models/x\"'", "is in quotation marks"),
        ("checkpoint:=hf:openvla/openvla-7b", "hf download openvla/openvla-7b --local-dir DIR"),
        ("checkpoint:=file:///models/x", "is a URL; write the path alone: /models/x"),
        ("checkpoint:=https://huggingface.co/openvla/openvla-7b", "nothing is downloaded here"),
        ("checkpoint:=https://hf.co/a/b/tree/main", "hf download a/b --local-dir DIR"),
        ("checkpoint:=openvla/openvla-7b", "hf download openvla/openvla-7b --local-dir DIR"),
        ("record_directory:=~nobody/records", "only ~/ is expanded"),
        ("workspace.min:=[1.0, 2.0]", "must be a list of three numbers"),
        ("decode:=fast", "'fast' is not known; use full or actions"),
        ("faults_to_latch:=-1", "faults_to_latch: -1 is outside 1..8"),
        ("command_rate_hz:=5000", "5000 Hz is outside 10..1000 Hz, and not 0"),
        ("dry_run:=false", "policy_file: is missing; with dry_run false"),
    ] {
        let error = with(&[given]).unwrap_err();
        assert!(error.contains(wanted), "{given}\n got    {error}\n wanted {wanted}");
    }
    let home = std::env::var("HOME").unwrap();
    let resolved = with(&["checkpoint:=~/models/x"]).unwrap();
    assert_eq!(resolved.values.checkpoint, format!("{home}/models/x"));
    for given in ["checkpoint:=$HOME/models/x", "checkpoint:=${HOME}/models/x"] {
        assert_eq!(with(&[given]).unwrap().values.checkpoint, format!("{home}/models/x"));
    }
    // A relative path whose folder exists is no hub name, and the file decides about a `$`.
    assert!(with(&["checkpoint:=src/missing"]).is_ok());
}

#[test]
fn a_robot_file_decides_the_topics_unless_they_are_remapped() {
    let robot_file = format!("robot_file:={}", config("robots/franka_servo.yaml"));
    let topics = |more: &[&str]| {
        let list = [&["-p", robot_file.as_str()], more].concat();
        node("/robot1/vla", &list).0.unwrap().command_topics
    };
    let plain = topics(&[]);
    assert_eq!(
        (plain.command.as_str(), plain.grippers[0].as_str()),
        ("/servo_node/delta_twist_cmds", "/panda_gripper/command")
    );
    for from in ["~/command/twist", "/robot1/vla/command/twist", "vla/command/twist"] {
        let remapped = topics(&["-r", &format!("{from}:=/other")]);
        assert_eq!(remapped.command, "~/command/twist", "{from}");
        assert_eq!(remapped.grippers[0], "/panda_gripper/command");
    }
    for from in ["rostopic://~/command/twist", "vla:~/command/twist"] {
        assert_eq!(
            topics(&["-r", &format!("{from}:=/other")]).command,
            "~/command/twist",
            "{from}"
        );
    }
    for from in ["/vla/command/twist", "other:~/command/twist", "rosservice://~/command/twist"] {
        assert_eq!(topics(&["-r", &format!("{from}:=/other")]), plain, "{from}");
    }
    assert_eq!(with(&[]).unwrap().command_topics.command, "~/command/twist");
}

#[test]
fn a_server_or_a_checkpoint_each_with_its_own() {
    let policy = |name: &str| format!("policy_file:={}", config(&format!("policies/{name}")));
    let (server, own) = (policy("act-openvla-bridge.yaml"), policy("openvla-7b.yaml"));
    let remote = "remote:=act://gpu:8000";
    let resolved = with(&[remote, &server, "remote_timeout_s:=2.5"]).unwrap();
    assert_eq!(holds(&resolved, "checkpoint"), Value::Text(String::new()));
    // Control's deadline comes after the client's, whatever the self-test took.
    let measured = |inference_s| vla_config::Measured {
        inference_s,
        horizon: 1,
        action_dim: 7,
        statistics: None,
    };
    let deadline = |inference_s| {
        resolved.control_for(&measured(inference_s)).unwrap().inference_timeout().as_secs_f64()
    };
    assert_eq!((deadline(0.1), deadline(2.0)), (2.75, 4.0));
    for (arguments, reason) in [
        (&[remote, own.as_str()][..], "policy_file: needs a section remote"),
        (&[remote], "policy_file: needs a section remote"),
        (&[server.as_str()], "policy_file: is for a policy server (section remote)"),
        (&[remote, &server, "checkpoint:=/tmp"], "checkpoint: is of a checkpoint that is run here"),
        (&[remote, &server, "device:=sim:n150"], "device: is of a checkpoint that is run here"),
        (&["remote_timeout_s:=1.5", &own], "remote_timeout_s: has no effect without"),
        (&[remote, &server, "remote_timeout_s:=0.01"], "remote_timeout_s: 0.01 s is outside"),
        (
            &[remote, &server, "inference_timeout_s:=1.0"],
            "inference_timeout_s: 1 s is not longer than remote_timeout_s, 1 s",
        ),
    ] {
        let problems = with(arguments).unwrap_err();
        assert!(problems.contains(reason), "{arguments:?}: {problems}");
    }
}

#[test]
fn changes_keep_to_their_time_and_to_the_files() {
    let robot_file = format!("robot_file:={}", config("robots/tabletop.yaml"));
    let resolved = with(&[&robot_file]).unwrap();
    let change =
        |name: &str, value: Value, state| resolved.with(&[(name.to_owned(), value)], state);
    use LifecycleState::{Inactive, Other, Unconfigured};
    let slow = change("limits.linear.velocity", Value::Float(0.02), Inactive).unwrap();
    assert_eq!(slow.control.linear().velocity(), 0.02);
    assert_eq!(slow.given.get("limits.linear.velocity").unwrap().origin, Origin::Service);
    let error = change("limits.linear.velocity", Value::Float(0.5), Inactive).unwrap_err();
    assert!(error.contains("0.5 m/s, given by set_parameters, is more than 0.25 m/s"), "{error}");
    let error = change("limits.linear.velocity", Value::Float(0.1), Other).unwrap_err();
    assert!(error.contains("deactivate it first"), "{error}");
    let error = change("threads", Value::Integer(3), Inactive).unwrap_err();
    assert!(error.contains("clean it up first"), "{error}");
    assert!(change("threads", Value::Integer(3), Unconfigured).is_ok());
    let error = change("frame_id", Value::Text("base2".into()), Unconfigured).unwrap_err();
    assert!(error.contains("only when the node is started"), "{error}");
    // The value that holds may be set at any time.
    assert!(change("frame_id", Value::Text("base".into()), Other).is_ok());
    assert!(change("nonsense", Value::Bool(true), Inactive).unwrap_err().contains("no such"));
    assert!(change("dry_run", Value::Bool(false), Inactive).unwrap_err().contains("policy_file"));
    // Two values that are right only together.
    let pair =
        [("pause_s".to_owned(), Value::Float(1.0)), ("overrun_s".into(), Value::Float(0.01))];
    assert!(resolved.with(&pair, Inactive).unwrap_err().contains("overrun_s"));
    assert!(resolved.with(&pair[..1], Inactive).is_ok());
}

#[test]
fn the_defaults_are_valid_and_move_nothing() {
    let resolved = resolve(&Given::default(), ConfigErrors::default()).unwrap();
    assert!(resolved.control.dry_run() && !resolved.values.autostart);
    assert_eq!(resolved.values.policy_hz, 5.0);
    assert!(Path::new(&config("robots")).is_dir());
}

#[test]
fn an_ensemble_of_the_policy_file_reaches_control() {
    let text = std::fs::read_to_string(config("policies/lerobot-so101.yaml")).unwrap();
    let (_folder, policy) = file(&format!("{text}\nensemble: {{decay: 0.1, chunks: 4}}\n"));
    let resolved = with(&[
        &format!("policy_file:={policy}"),
        &format!("robot_file:={}", config("robots/so101.yaml")),
    ])
    .unwrap();
    assert_eq!(resolved.raw_control.ensemble, Some(RawEnsemble { decay: 0.1, chunks: 4 }));
}

#[test]
fn a_refused_path_is_shown_on_one_line() {
    let line = vla_config::expand_path("file:///\u{1}models\nx", Some("/home/robot")).unwrap_err();
    assert_eq!(line, r"is a URL; write the path alone: /\u{1}models\nx");
    let line = vla_config::named_on_the_hub("no-owner/model@\u{3}\n").unwrap();
    assert!(line.starts_with(r"'no-owner/model@\u{3}\n' is no folder here"), "{line}");
}
