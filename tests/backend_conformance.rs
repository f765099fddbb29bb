//! One suite for every backend: each operation against float64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;

use conformance::{Tolerance, suite};
use openvla_tt::backend::cpu::CpuBackend;

#[test]
fn cpu_computes_in_float32() {
    // Sums of a few hundred products in float32.
    suite(&CpuBackend::new(2).unwrap(), Tolerance(2e-5));
}

#[test]
fn one_thread_gives_the_same_as_many() {
    suite(&CpuBackend::new(1).unwrap(), Tolerance(2e-5));
}
