//! `Status.msg` and the control core have the same names and numbers of states and causes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use vla_control::{Reason, State};

/// Causes from this number on are decided outside of the control core.
const NODE_CAUSES: u16 = 100;

/// The constants of one type in `Status.msg`.
fn constants(kind: &str) -> BTreeMap<String, u16> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/msg/msg/Status.msg"))
        .unwrap();
    let constant = |line: &str| {
        let (name, value) = line.strip_prefix(kind)?.split('#').next()?.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().parse().unwrap()))
    };
    text.lines().filter_map(constant).collect()
}

#[test]
fn causes_of_the_control_core_are_the_constants() {
    let core: BTreeMap<_, _> = Reason::ALL
        .iter()
        .map(|reason| (format!("REASON_{}", reason.name()), reason.code()))
        .collect();
    assert!(core.values().all(|code| *code < NODE_CAUSES));
    let message: BTreeMap<_, _> =
        constants("uint16 ").into_iter().filter(|(_, code)| *code < NODE_CAUSES).collect();
    assert_eq!(message, core);
}

#[test]
fn states_are_the_constants() {
    let states = [
        ("UNCONFIGURED", State::Unconfigured),
        ("INACTIVE", State::Inactive),
        ("IDLE", State::Idle),
        ("RUNNING", State::Running),
        ("HOLDING", State::Holding),
        ("FAULT", State::Fault),
        ("ESTOPPED", State::Estopped),
    ];
    let core: BTreeMap<_, _> =
        states.iter().map(|(name, state)| ((*name).to_owned(), *state as u16)).collect();
    assert_eq!(constants("uint8 "), core);
}
