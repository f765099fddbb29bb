//! `openvla eval limits` on bags whose numbers are worked out by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use support::{BagWriter, root};
use vla_eval::limits::{LimitsReport, LimitsSettings, lines, replay};

const SECOND: i64 = 1_000_000_000;
/// The policy file's policy has 5 Hz.
const PERIOD: i64 = SECOND / 5;

/// A robot of round numbers: 0.1 m/s, 1 m/s2, 10 m/s3, 50 commands per second.
fn robot(folder: &Path, workspace: bool) -> PathBuf {
    let mut text = "name: round\nframes: {base: base, tool: tool}\n\
        command: {twist_topic: /t, gripper_topic: /g, rate_hz: 50.0, timeout_s: 0.1}\n\
        limits:\n  linear: {velocity: 0.1, acceleration: 1.0, jerk: 10.0}\n  \
        angular: {velocity: 0.5, acceleration: 2.0, jerk: 20.0}\n\
        step_cap: {translation: 0.05, rotation: 0.2}\n\
        gripper: {threshold: 0.5, hysteresis: 0.1, min_dwell_s: 0.5}\n"
        .to_owned();
    if workspace {
        text += "workspace: \
            {frame: base, min: [-0.5, -0.5, 0.0], max: [0.5, 0.5, 1.0], margin: 0.02}\n";
    }
    let path = folder.join("robot.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

fn settings(folder: &Path, workspace: bool) -> LimitsSettings {
    LimitsSettings {
        bags: vec![folder.join("bag.mcap")],
        action_topic: "/action".into(),
        gripper_topic: None,
        pose_topic: None,
        robot_file: robot(folder, workspace),
        policy_file: root("config/policies/openvla_tiny.yaml"),
        checkpoint: None,
        unnorm_key: None,
    }
}

/// Actions at the given times, nanoseconds.
fn write(folder: &Path, actions: &[(i64, [f64; 7])]) {
    let mut writer = BagWriter::new(&folder.join("bag.mcap"));
    for (at, action) in actions {
        writer.array("/action", SECOND + at, action);
    }
    writer.finish();
}

fn close(name: &str, value: f64, expected: f64, tolerance: f64) {
    assert!(
        (value - expected).abs() <= tolerance,
        "{name}: {value}, by hand {expected} within {tolerance}"
    );
}

fn count(report: &LimitsReport, name: &str) -> (u64, u64) {
    let found = report.overall.interventions.iter().find(|count| count.name == name);
    found.map_or((0, 0), |count| (count.commands, count.actions))
}

#[test]
fn motion_at_twice_the_velocity_limit() {
    let folder = tempfile::tempdir().unwrap();
    // Ten steps of 4 cm, a fifth of a second each, give or take 20 ms: 0.2 m/s for 2 s.
    let jitter = |i: i64| if i % 2 == 0 { 0 } else { 20_000_000 };
    let actions: Vec<_> =
        (0..10).map(|i| (i * PERIOD + jitter(i), [0.04, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])).collect();
    write(folder.path(), &actions);
    let report = replay(&settings(folder.path(), false), &folder.path().join("out")).unwrap();
    let summary = &report.overall;
    assert_eq!(
        (summary.actions, summary.superseded, summary.not_finite, summary.pauses),
        (10, 0, 0, 0)
    );
    let desired = summary.linear.desired_velocity.unwrap();
    assert_eq!(desired.n, 10);
    close("desired velocity", desired.p50, 0.2, 1e-12);
    // From rest to 0.2 m/s within one period of 0.2 s: 1 m/s2, and 5 m/s3 twice: when it begins and
    // when it is over.
    let (acceleration, jerk) =
        (summary.linear.desired_acceleration.unwrap(), summary.linear.desired_jerk.unwrap());
    close("desired acceleration", acceleration.max, 1.0, 1e-12);
    close("desired acceleration, mean", acceleration.mean, 0.1, 1e-12);
    close("desired jerk", jerk.max, 5.0, 1e-12);
    close("desired jerk, mean", jerk.mean, 1.0, 1e-12);
    // Every action is cut to half, in dx only; each plays for ten commands, and then the stop
    // begins.
    let clipped: Vec<u64> = summary.dimensions.iter().map(|d| d.clipped).collect();
    assert_eq!(clipped, [10, 0, 0, 0, 0, 0]);
    assert_eq!(summary.dimensions[0].clipped_share, 1.0);
    assert_eq!((count(&report, "velocity"), count(&report, "ramp_down").0), ((100, 10), 1));
    assert_eq!(
        (count(&report, "envelope"), count(&report, "step_cap"), count(&report, "workspace")),
        ((0, 0), (0, 0), (0, 0))
    );
    let commanded = summary.linear.commanded;
    close("commanded velocity", commanded.velocity, 0.1, 1e-6);
    assert!(
        commanded.velocity <= 0.1
            && commanded.acceleration <= 1.0 + 1e-9
            && commanded.jerk <= 10.0 + 1e-6,
        "{commanded:?}"
    );
    // Both lead straight ahead, so that they are apart by the difference of their ways; the stop
    // makes up 0.1 m/s * (v/a + a/j) / 2.
    close("desired path", summary.linear.desired_path, 0.4, 1e-9);
    assert!((0.18..0.2).contains(&summary.linear.commanded_path), "{:?}", summary.linear);
    close(
        "apart at the end",
        summary.linear.deviation_end,
        0.4 - summary.linear.commanded_path,
        1e-9,
    );
    close(
        "made up while stopping",
        summary.linear.deviation_max - summary.linear.deviation_end,
        0.01,
        0.003,
    );
    close("seconds", summary.seconds, 2.2, 0.05);
    assert_eq!((summary.gripper.desired, summary.gripper.commanded), (1, 1));
    assert_eq!(summary.angular.commanded_path, 0.0);
    // The files say the same.
    let out = folder.path().join("out");
    assert_eq!(LimitsReport::read(&out).unwrap(), report);
    let page = std::fs::read_to_string(out.join("limits.html")).unwrap();
    assert!(
        page.contains("limits of round")
            && page.contains("limits_0.png")
            && page.contains("100.00 %")
    );
    let text = lines(&report).join("\n");
    assert!(
        text.contains("linear velocity m/s")
            && text.contains("100.00 %")
            && text.contains("velocity                      100         10"),
        "{text}"
    );
    assert_eq!(report.warnings, ["no --checkpoint: the statistics' envelope was not applied"]);
}

#[test]
fn motion_within_the_limits_lags() {
    let folder = tempfile::tempdir().unwrap();
    let actions: Vec<_> =
        (0..10).map(|i| (i * PERIOD, [0.0, -0.01, 0.0, 0.0, 0.0, 0.0, 0.0])).collect();
    write(folder.path(), &actions);
    let report = replay(&settings(folder.path(), false), &folder.path().join("out")).unwrap();
    let summary = &report.overall;
    assert!(summary.dimensions.iter().all(|d| d.clipped == 0), "{:?}", summary.dimensions);
    let names: Vec<&str> = summary.interventions.iter().map(|count| count.name.as_str()).collect();
    assert!(
        names.iter().all(|name| ["acceleration", "jerk", "ramp_down"].contains(name)),
        "{names:?}"
    );
    // A ramp to 0.05 m/s takes v/a + a/j = 0.15 s and loses half of it; stopping wins the same
    // back. A command is held for 0.02 s: 1 mm.
    close("desired path", summary.linear.desired_path, 0.1, 1e-9);
    close("commanded path", summary.linear.commanded_path, 0.1, 0.0012);
    close("apart at most", summary.linear.deviation_max, 0.05 * 0.075, 0.0012);
    close("apart at the end", summary.linear.deviation_end, 0.0, 0.0012);
    close("commanded", summary.dimensions[1].commanded_max, 0.05, 1e-6);
}

#[test]
fn envelope_scales_the_whole_step() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = root("tests/data/openvla_tiny/ckpt");
    let stats = vla_inference::checkpoint::NormStats::open(&checkpoint).unwrap();
    let (_, stats) = stats.select(Some("bridge_orig")).unwrap();
    let (limit, small) = (stats.q99[0], stats.q99[1] / 10.0);
    // Twice the envelope in dx pulls dy to half with it; a step within it stays.
    let (far, near) = (
        [2.0 * limit, small, 0.0, 0.0, 0.0, 0.0, 0.0],
        [limit / 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    );
    assert!(
        (0.02..0.05).contains(&limit),
        "the envelope ends above the velocity limit and below the step cap: {limit}"
    );
    write(folder.path(), &[(0, far), (PERIOD, near), (2 * PERIOD, far), (3 * PERIOD, near)]);
    let settings = LimitsSettings {
        checkpoint: Some(checkpoint),
        unnorm_key: Some("bridge_orig".into()),
        ..settings(folder.path(), false)
    };
    let report = replay(&settings, &folder.path().join("out")).unwrap();
    assert_eq!(count(&report, "envelope"), (20, 2));
    let clipped: Vec<u64> = report.overall.dimensions.iter().map(|d| d.clipped).collect();
    assert_eq!((count(&report, "velocity").1, count(&report, "step_cap").1), (2, 0));
    assert_eq!(clipped, [2, 2, 0, 0, 0, 0]);
    assert!(report.limits.envelope && report.warnings.is_empty(), "{:?}", report.warnings);
}

#[test]
fn workspace_blocks_outward_motion() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = BagWriter::new(&folder.path().join("bag.mcap"));
    for i in 0..10 {
        let dx = if i < 5 { 0.01 } else { -0.01 };
        writer.array("/action", SECOND + i * PERIOD, &[dx, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
    // In the margin of the box, 1.9 cm from its face at 0.5 m; once beyond it.
    for i in 0..40 {
        let x = if i == 39 { 0.51 } else { 0.481 };
        writer.pose("/pose", SECOND + i * PERIOD / 4, [x, 0.0, 0.5]);
    }
    writer.finish();
    let settings =
        LimitsSettings { pose_topic: Some("/pose".into()), ..settings(folder.path(), true) };
    let report = replay(&settings, &folder.path().join("out")).unwrap();
    assert_eq!(count(&report, "workspace"), (50, 5));
    assert_eq!(
        (report.overall.dimensions[0].clipped, report.overall.dimensions[0].clipped_share),
        (5, 0.5)
    );
    close("inward", report.overall.dimensions[0].commanded_max, 0.05, 1e-6);
    close("commanded path", report.overall.linear.commanded_path, 5.0 * 0.01, 0.002);
    let positions = report.overall.positions.unwrap();
    assert_eq!((positions.n, positions.outside, positions.max), (40, 1, [0.51, 0.0, 0.5]));

    // Without poses the workspace limit is not applied, with a warning.
    let blind = LimitsSettings { pose_topic: None, ..settings };
    let report = replay(&blind, &folder.path().join("blind")).unwrap();
    assert_eq!(count(&report, "workspace"), (0, 0));
    assert!(
        !report.limits.workspace
            && report.warnings.iter().any(|line| line.contains("--pose-topic")),
        "{:?}",
        report.warnings
    );
}

#[test]
fn pauses_stop_and_nan_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let slow = [0.0, 0.0, 0.0, 0.0, 0.0, 0.02, 0.0];
    let mut broken = slow;
    broken[3] = f64::NAN;
    write(folder.path(), &[(0, slow), (PERIOD, broken), (6 * PERIOD, slow), (600 * PERIOD, slow)]);
    let report = replay(&settings(folder.path(), false), &folder.path().join("out")).unwrap();
    let summary = &report.overall;
    assert_eq!((summary.actions, summary.not_finite, summary.pauses), (3, 1, 2));
    // 1.2 s to the second, 5 s in place of two minutes to the third, its 0.2 s, and the stop.
    close("seconds", summary.seconds, 1.2 + 5.0 + 0.2 + 0.15, 0.1);
    assert_eq!(count(&report, "ramp_down").0, 3);
    // Each begins at rest: 0.1 rad/s within 0.2 s.
    let acceleration = summary.angular.desired_acceleration.unwrap();
    close("desired acceleration", acceleration.mean, 0.5, 1e-12);
    assert!(
        report.warnings.iter().any(|line| line.contains("not finite")),
        "{:?}",
        report.warnings
    );
}

#[test]
fn superseded_twists_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = BagWriter::new(&folder.path().join("bag.mcap"));
    for i in 0..100 {
        writer.twist("/action", SECOND + i * 10_000_000, [0.05, 0.0, 0.0], [0.0, 0.0, 0.1]);
        writer.number("/gripper", SECOND + i * 10_000_000, if i < 50 { 0.0 } else { 1.0 });
    }
    writer.finish();
    let settings =
        LimitsSettings { gripper_topic: Some("/gripper".into()), ..settings(folder.path(), false) };
    let report = replay(&settings, &folder.path().join("out")).unwrap();
    let summary = &report.overall;
    // 100 per second against 50 commands per second: every second one is seen, the first at once.
    assert_eq!((summary.actions, summary.superseded, summary.pauses), (100, 49, 0));
    close("desired", summary.linear.desired_velocity.unwrap().max, 0.05, 1e-12);
    close("commanded", summary.angular.commanded.velocity, 0.1, 1e-6);
    assert!(summary.dimensions.iter().all(|d| d.clipped == 0), "{:?}", summary.dimensions);
    assert_eq!((summary.gripper.desired, summary.gripper.commanded), (2, 2));
}

#[test]
fn unfit_files_and_topics_are_refused_first() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[(0, [0.0; 7])]);
    let good = settings(folder.path(), true);
    let fail = |settings: &LimitsSettings| {
        replay(settings, &folder.path().join("out")).err().unwrap().to_string()
    };
    let error = fail(&LimitsSettings { action_topic: "/acton".into(), ..good.clone() });
    assert!(
        error.contains("no topic `/acton`")
            && error.contains("/action (std_msgs/msg/Float64MultiArray"),
        "{error}"
    );
    let error =
        fail(&LimitsSettings { robot_file: folder.path().join("none.yaml"), ..good.clone() });
    assert!(error.contains("none.yaml") && error.contains("cannot read"), "{error}");
    let error = fail(&LimitsSettings {
        checkpoint: Some(root("tests/data/openvla_tiny/ckpt")),
        ..good.clone()
    });
    assert!(
        error.contains("unnorm_key") && error.contains("bridge_orig, tiny_all_true"),
        "{error}"
    );
    let error = fail(&LimitsSettings { pose_topic: Some("/action".into()), ..good });
    assert!(error.contains("`/action` is std_msgs/msg/Float64MultiArray"), "{error}");
    assert!(!folder.path().join("out").exists());
}
