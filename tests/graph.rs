//! The node on a real ROS graph, with rclpy peers in their own processes. One scenario at a time:
//! they measure time.
#![cfg(feature = "ros")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ros_support;

use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ros_support::Domain;

const NODE: &str = env!("CARGO_BIN_EXE_vla_node");

/// One scenario at a time, however many threads the test runner has.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a scenario of tests/graph/ in a domain of its own, and shows what it measured.
fn scenario(script: &str, program: &str) {
    scenario_of(script, &[program]);
}

/// Likewise, with several programs.
fn scenario_of(script: &str, programs: &[&str]) {
    let _alone = alone();
    let domain = Domain::claim();
    let mut command = ros_support::python();
    command
        .arg(format!("{}/tests/graph/{script}.py", env!("CARGO_MANIFEST_DIR")))
        .args(programs)
        .env("CARGO_TARGET_TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null());
    let output = domain.apply(&mut command).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(
        output.status.success(),
        "{script} in domain {}: {}\n{err}",
        domain.id(),
        output.status
    );
}

/// Starts the node with arguments that it must refuse.
fn refused(arguments: &[&str]) -> Output {
    let domain = Domain::claim();
    let mut command = Command::new(NODE);
    command.args(arguments).stdin(Stdio::null());
    let output = domain.apply(&mut command).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn images_give_golden_tokens_and_twists() {
    scenario("golden", NODE);
}

#[test]
fn changing_instructions_keep_their_deadline_on_a_mesh_that_compiles() {
    scenario("instructions", NODE);
}

#[test]
fn simulated_mesh_gives_the_actions_of_the_cpu() {
    scenario("mesh", NODE);
}

#[test]
fn node_stops_latches_and_survives() {
    scenario("safety", NODE);
}

#[test]
fn lifecycle_is_managed_by_services() {
    scenario("lifecycle", NODE);
}

#[test]
fn workspace_needs_fresh_poses() {
    scenario("workspace", NODE);
}

#[test]
fn every_source_of_an_arm_is_watched() {
    scenario("joints", NODE);
}

#[test]
fn chunk_policies_answer_live_as_offline() {
    scenario("chunks", NODE);
}

#[test]
fn real_time_chunking_makes_seams_smaller() {
    scenario("rtc", NODE);
}

#[test]
fn every_fault_of_a_policy_server_is_a_bounded_stop() {
    scenario("remote", NODE);
}

#[test]
fn a_served_policy_commands_as_a_local_one() {
    scenario("serve", NODE);
}

#[test]
fn every_ending_ramps_down() {
    scenario("endings", NODE);
}

#[test]
fn a_task_runs_as_an_action() {
    scenario("run_policy", NODE);
}

#[test]
fn a_held_object_ends_a_goal() {
    scenario("holding", NODE);
}

#[test]
fn pictures_for_people_show_what_the_node_does() {
    scenario("debug_image", NODE);
}

#[test]
fn a_state_of_constants_needs_no_message() {
    scenario("constant_state", NODE);
}

#[test]
fn instructions_of_every_qos_arrive() {
    scenario("inputs", NODE);
}

#[test]
fn the_configuration_holds() {
    scenario("config", NODE);
}

#[test]
fn the_doctor_names_what_is_wrong_with_topics() {
    scenario("doctor", env!("CARGO_BIN_EXE_openvla"));
}

#[test]
fn an_operator_moves_and_stops_the_arm_from_the_page() {
    scenario_of("dash", &[NODE, env!("CARGO_BIN_EXE_openvla")]);
}

#[test]
fn an_operator_sees_a_fault_and_the_way_back() {
    scenario_of("dash_fault", &[NODE, env!("CARGO_BIN_EXE_openvla")]);
}

#[test]
fn bad_parameters_are_refused_with_a_list() {
    let output = refused(&[
        "--ros-args",
        "-p",
        "comand_rate_hz:=50.0",
        "-p",
        "observation_timeout_s:=-1.0",
        "-p",
        "dry_run:=maybe",
        "-p",
        "limits.linear.velocity:=40",
        "-p",
        "device:=gpu",
    ]);
    let text = String::from_utf8_lossy(&output.stderr);
    for wanted in [
        "5 problems in the parameters",
        "comand_rate_hz: there is no such parameter; did you mean 'command_rate_hz'?",
        "observation_timeout_s: -1 s is outside 0.02..60 s",
        "dry_run: is 'maybe', but must be true or false",
        "limits.linear.velocity: 40 m/s is outside 0.001..3 m/s",
        "device: device 'gpu' is not known",
    ] {
        assert!(text.contains(wanted), "'{wanted}' not in\n{text}");
    }
}

#[test]
fn wrong_arguments_are_one_line() {
    for arguments in [
        &["checkpoint:=x"][..],
        &["--ros-args", "-p", "no_value"],
        &["--ros-args", "--params-file", "/no/such.yaml"],
    ] {
        let output = refused(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("vla_node: ")).collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn help_needs_no_ros_graph() {
    let output = Command::new(NODE).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("limits.linear.velocity") && text.contains("m/s"),
        "{text}"
    );
}
