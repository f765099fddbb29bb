//! Our messages between Rust (r2r) and Python (rclpy), in two processes, both ways.
//!
//! Each field is compared by its name in Python and again in Rust after it has come back.
#![cfg(feature = "ros")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ros_support;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use r2r::openvla_tt_msgs::msg::{Action, Status};
use r2r::std_msgs::msg::Header;
use r2r::{QosProfile, builtin_interfaces::msg::Time};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Ends the peer also when an assertion fails.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn header() -> Header {
    Header {
        stamp: Time { sec: 1_700_000_000, nanosec: 999_999_999 },
        frame_id: "widowx/base_link".into(),
    }
}

fn action() -> Action {
    Action {
        header: header(),
        generation: u64::MAX - 1,
        instruction: "stelle die Schüssel auf den Herd".into(),
        unnorm_key: "bridge_orig".into(),
        horizon: 2,
        dimension: 7,
        token_ids: vec![31872, 31744, u32::MAX, 0],
        logit_margins: vec![0.5, -0.0, 1.0e-30],
        normalized: vec![-1.0, 0.1, 1.0],
        action: (0..14).map(|index| f64::from(index) * 0.1 - 0.7).collect(),
        policy_hz: 5.0,
        seed: vec![u64::MAX],
        device: "cpu".into(),
        precision: "f32".into(),
        latency_s: 0.125,
        stage_names: vec!["preprocess".into(), "vision".into()],
        stage_ms: vec![1.5, 250.25],
    }
}

fn status() -> Status {
    Status {
        header: header(),
        state: Status::HOLDING as u8,
        reason: Status::REASON_IMAGE_STALE as u16,
        detail: "image age 0.62 s > 0.50 s".into(),
        causes: vec![Status::REASON_IMAGE_STALE as u16, Status::REASON_DRY_RUN as u16],
        cause_details: vec!["image age 0.62 s > 0.50 s".into(), "dry run".into()],
        latched: true,
        enabled: true,
        dry_run: true,
        resumes_in_s: 0.25,
        enable_withdrawn_in_s: 1.5,
        instruction: "put the bowl on the stove".into(),
        source: "camera wrist".into(),
        seams: 3,
        seam_last: vec![0.001, 0.02, 0.0],
        seam_largest: vec![0.004, 0.05, 0.0],
        image_age_s: 0.62,
        inference_ms: 180.5,
        command_hz: 50.0,
        generation: 17,
        images_received: 1,
        images_dropped: 2,
        images_rejected: 3,
        inferences: 4,
        late_results: 5,
        faults: 6,
        overruns: 7,
        interventions: vec![u64::MAX - 1, 0, 9],
        intervention_names: vec!["velocity".into(), "acceleration".into(), "jerk".into()],
    }
}

/// The r2r half. A process of its own, because a domain is chosen by the environment when a process
/// starts.
#[test]
#[ignore = "started by exchange_with_python"]
fn child_process() {
    let context = r2r::Context::create().unwrap();
    let mut node = r2r::Node::create(context, "exchange", "").unwrap();
    let qos = QosProfile::default().keep_last(1).reliable().transient_local();
    let mut actions = node.subscribe::<Action>("echo/action", qos.clone()).unwrap();
    let mut statuses = node.subscribe::<Status>("echo/status", qos.clone()).unwrap();
    // Published before the peer exists: as in real use, a late subscriber must get the last one.
    let to_action = node.create_publisher::<Action>("sent/action", qos.clone()).unwrap();
    let to_status = node.create_publisher::<Status>("sent/status", qos).unwrap();
    to_action.publish(&action()).unwrap();
    to_status.publish(&status()).unwrap();

    let mut command = ros_support::python();
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ros_setup/echo_peer.py"))
        .stdin(Stdio::piped());
    let mut peer = Peer(command.spawn().unwrap());
    let announced = serde_json::json!({
        "action": action(),
        "status": status(),
        "constants": {
            "UNCONFIGURED": Status::UNCONFIGURED as u8,
            "ESTOPPED": Status::ESTOPPED as u8,
            "REASON_NONE": Status::REASON_NONE as u16,
            "REASON_REPEATED_FAULTS": Status::REASON_REPEATED_FAULTS as u16,
        },
    });
    peer.0.stdin.take().unwrap().write_all(announced.to_string().as_bytes()).unwrap();

    let deadline = Instant::now() + TIMEOUT;
    let (mut got_action, mut got_status) = (None, None);
    let ended = loop {
        assert!(
            Instant::now() < deadline,
            "no answer: action {got_action:?}, status {got_status:?}"
        );
        node.spin_once(Duration::from_millis(20));
        got_action = got_action.or_else(|| actions.next().now_or_never().flatten());
        got_status = got_status.or_else(|| statuses.next().now_or_never().flatten());
        if let Some(ended) = peer.0.try_wait().unwrap() {
            assert!(ended.success(), "the peer found a difference: {ended}");
            if got_action.is_some() && got_status.is_some() {
                break ended;
            }
        }
    };
    assert!(ended.success());
    assert_eq!(got_action.unwrap(), action());
    assert_eq!(got_status.unwrap(), status());
}

#[test]
fn exchange_with_python() {
    let domain = ros_support::Domain::claim();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process", "--ignored", "--nocapture"]).stdin(Stdio::null());
    let output = domain.apply(&mut command).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "in domain {}:\n{text}",
        domain.id()
    );
}

#[test]
fn no_two_claims_share_a_domain() {
    let domains: Vec<_> = (0..5).map(|_| ros_support::Domain::claim()).collect();
    let ids: std::collections::HashSet<_> = domains.iter().map(|domain| domain.id()).collect();
    assert_eq!(ids.len(), domains.len());
}
