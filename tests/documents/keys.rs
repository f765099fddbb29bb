//! The reference pages of policy and robot files have every key that the reader has, and no other.

use std::collections::BTreeSet;

use super::read;

const SOURCE: &str = "crates/vla-config/src/";

/// The raw forms of a policy file, and where their keys are.
const POLICY: &[(&str, &[&str])] = &[
    ("RawPolicyFile", &[""]),
    ("RawAction", &["action."]),
    ("RawPolicyGripper", &["gripper."]),
    ("RawImageSection", &["image."]),
    ("RawStep", &["image.steps[]."]),
    ("RawCamera", &["cameras[]."]),
    ("RawStatePart", &["state[]."]),
    ("RawOft", &["oft."]),
    ("RawFlow", &["flow."]),
    ("RawRemote", &["remote."]),
    ("RawRemoteState", &["remote.state[]."]),
    ("RawEnsemble", &["ensemble."]),
];
const POLICY_FILES: &[&str] = &[
    "policy_file.rs",
    "action_section.rs",
    "image_section.rs",
    "model_sections.rs",
    "observation_section.rs",
    "remote_section.rs",
    "../../vla-control/src/config.rs",
];

/// Those of a robot file.
const ROBOT: &[(&str, &[&str])] = &[
    ("RawRobot", &[""]),
    ("RawFrames", &["frames."]),
    ("RawCommand", &["command."]),
    ("RawRobotLimits", &["limits."]),
    ("RawGroup", &["limits.linear.", "limits.angular."]),
    ("RawCap", &["step_cap."]),
    ("RawBox", &["workspace."]),
    ("RawRobotGripper", &["gripper."]),
    ("RawGripperState", &["gripper.states[]."]),
    ("RawJoint", &["joints[]."]),
];
const ROBOT_FILES: &[&str] = &["robot_file.rs", "gripper_section.rs", "joints_section.rs"];

/// The keys of raw forms: fields that are no form themselves.
fn keys(files: &[&str], forms: &[(&str, &[&str])]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for file in files {
        let text = read(&format!("{SOURCE}{file}"));
        for part in text.split("struct Raw").skip(1) {
            let (name, fields) = part.split_once(" {").unwrap();
            let name = format!("Raw{name}");
            let places = forms.iter().find(|(form, _)| *form == name).map(|(_, places)| *places);
            let Some(places) = places else {
                // Forms of the control core that are in no file.
                assert!(file.contains("vla-control"), "{name} of {file} is not in the list");
                continue;
            };
            let fields = fields.split("\n}").next().unwrap().lines().map(str::trim);
            for field in fields.filter(|line| !line.starts_with(['/', '#'])) {
                let Some((key, kind)) = field.trim_start_matches("pub ").split_once(": ") else {
                    continue;
                };
                if kind.contains("Raw") || key == "unknown" {
                    continue;
                }
                keys.extend(places.iter().map(|place| format!("{place}{key}")));
            }
        }
    }
    keys
}

/// The first column of a page's tables.
fn listed(page: &str) -> BTreeSet<String> {
    let text = read(page);
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

#[test]
fn policy_files_have_the_keys_of_their_page() {
    let keys = keys(POLICY_FILES, POLICY);
    assert!(45 < keys.len(), "{keys:?}");
    assert_eq!(listed("docs/policy-file.md"), keys);
}

#[test]
fn robot_files_have_the_keys_of_their_page() {
    let keys = keys(ROBOT_FILES, ROBOT);
    assert!(30 < keys.len(), "{keys:?}");
    assert_eq!(listed("docs/robot-file.md"), keys);
}
