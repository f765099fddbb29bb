//! One suite for every backend: each operation against float64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;

use conformance::{Tolerance, suite, trace_suite};
use vla_inference::backend::cpu::{CpuBackend, CpuFormat, CpuPrecision};
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{Division, Kernels, MeshKind, Provider, TtBackend, open};

#[test]
fn cpu_computes_in_float32() {
    // Sums of a few hundred products in float32.
    suite(&CpuBackend::new(2).unwrap(), Tolerance(2e-5));
}

#[test]
fn cpu_computes_in_float32_on_one_thread() {
    suite(&CpuBackend::new(1).unwrap(), Tolerance(2e-5));
}

fn cpu_in(format: CpuFormat) -> CpuBackend {
    CpuBackend::new(2).unwrap().with_precision(CpuPrecision::uniform(format))
}

#[test]
fn cpu_computes_in_bf16() {
    // Inputs and weights of the suite are exact in bf16; what one layer gives to the next is
    // rounded by up to 2^-9.
    suite(&cpu_in(CpuFormat::Bf16), Tolerance(1e-2));
}

#[test]
fn cpu_computes_in_int8() {
    // Values uniform in -1..1 in units of 1/127: a product is off by sqrt(1/2) / 127 = 0.56 % of
    // its own root mean square, the worst of a few million elements by 5.2 times as much. Behind an
    // activation and a random scale, the root mean square of the outputs is up to 2.5 times smaller
    // than that of the product of the element with the largest scale.
    suite(&cpu_in(CpuFormat::Int8), Tolerance(8e-2));
}

fn mesh(kind: MeshKind, precision: &str) -> TtBackend {
    open(Provider::Simulated, kind, PrecisionPolicy::load(precision).unwrap()).unwrap()
}

/// bf16 keeps 8 significant bits; a chain of roundings (weights folded with a scale, products,
/// sums) adds up.
const BF16: Tolerance = Tolerance(3e-2);
/// BFP8 shares an exponent among 16 neighbours: the error of a weight is up to 2^-8 of the largest
/// of them.
const BFP8: Tolerance = Tolerance(8e-2);

#[test]
fn n150_computes_in_bf16() {
    trace_suite(&mesh(MeshKind::N150, "bf16"), BF16);
}

#[test]
fn n300_computes_in_bf16() {
    trace_suite(&mesh(MeshKind::N300, "bf16"), BF16);
}

#[test]
fn t3k_computes_in_bf16() {
    trace_suite(&mesh(MeshKind::T3k, "bf16"), BF16);
}

#[test]
fn blackhole_computes_in_bf16() {
    // One chip and four; the others differ from Wormhole boards of as many chips in nothing that
    // the suite computes with.
    for kind in [MeshKind::P150, MeshKind::QuietBox] {
        trace_suite(&mesh(kind, "bf16"), BF16);
    }
}

#[test]
fn n300_computes_with_ttnn_operations() {
    trace_suite(&mesh(MeshKind::N300, "bf16").with_kernels(Kernels::Ttnn), BF16);
}

/// Queries over one key head divided over the chips: two and one of them, and heads of zeros.
#[test]
fn meshes_compute_with_divided_queries() {
    for kind in [MeshKind::N300, MeshKind::T3k, MeshKind::QuietBox] {
        let backend = mesh(kind, "bf16").with_division(Division::ALL);
        trace_suite(&backend, BF16);
    }
}

#[test]
fn every_mesh_computes_in_mixed_and_bfp8() {
    for kind in [MeshKind::N150, MeshKind::N300, MeshKind::T3k] {
        for precision in ["mixed", "bfp8"] {
            trace_suite(&mesh(kind, precision), BFP8);
        }
    }
}
