//! Faults injected on the real graph, each with its measured time to stop. The table is always
//! printed.
//!
//! The node of these tests is this test binary: [`faulty_node`] runs the real node with a policy
//! that fails on marked images. The released node contains no such policy.
#![cfg(feature = "ros")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ros_support;

use std::{io::Write, process::Stdio, time::Duration};

use openvla_tt::ros::{ResolvedConfig, checkpoint_policy, start};
use openvla_tt::runtime::Loader;
use vla_inference::observation::{Observation, SINGLE_CAMERA};
use vla_inference::policy::{CodecError, Decision, Policy, PolicyError, PolicyInfo};

/// An image whose first pixel is `[254, 1, code]` causes a fault; the codes are those of
/// `tests/graph/faults.py`.
const MARK: [u8; 2] = [254, 1];

struct Faulty(Box<dyn Policy>);

impl Policy for Faulty {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let image = observation.image(SINGLE_CAMERA)?;
        let code = match image.pixels() {
            [a, b, code, ..] if [*a, *b] == MARK => *code,
            _ => 0,
        };
        let number = match code {
            1 => {
                std::thread::sleep(Duration::from_secs(4));
                None
            }
            2 => panic!("injected panic"),
            3 => Some(f64::NAN),
            4 => {
                return Err(CodecError {
                    id: 13,
                    text: Some("<0x0A>".into()),
                    dimension: 3,
                    range: 31744..32000,
                }
                .into());
            }
            5 => Some(f64::INFINITY),
            6 => {
                std::thread::sleep(Duration::from_millis(400));
                None
            }
            _ => None,
        };
        let mut decision = self.0.act(observation)?;
        if let Some(number) = number {
            decision.actions[0][1] = number;
        }
        Ok(decision)
    }

    fn info(&self) -> &PolicyInfo {
        self.0.info()
    }
}

fn faulty(parameters: &ResolvedConfig) -> Loader {
    let load = checkpoint_policy(parameters);
    Box::new(move || Ok(Box::new(Faulty(load()?))))
}

/// The node under test, in a process of its own.
#[test]
#[ignore = "started by the scenario"]
fn faulty_node() {
    start(faulty).unwrap();
}

#[test]
fn every_fault_is_a_bounded_stop() {
    let domain = ros_support::Domain::claim();
    let mut command = ros_support::python();
    command.arg(format!("{}/tests/graph/faults.py", env!("CARGO_MANIFEST_DIR")));
    command.arg(std::env::current_exe().unwrap()).args([
        "--exact",
        "--ignored",
        "--nocapture",
        "faulty_node",
        "--",
    ]);
    let output = domain.apply(command.stdin(Stdio::null())).output().unwrap();
    // Past the test runner's capture, which hides what a test that passes has to say.
    std::io::stdout().write_all(&output.stdout).unwrap();
    assert!(
        output.status.success(),
        "in domain {}: {}\n{}",
        domain.id(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
