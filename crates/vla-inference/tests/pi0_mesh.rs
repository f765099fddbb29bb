//! The golden kits of pi0 and pi0.5 on simulated meshes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use pi0_support::{KITS, kit};
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{MeshKind, Provider, open};
use vla_inference::golden::pi0::{Pi0Bounds, RtcCases, check};
use vla_inference::policy::{Pi0Policy, PolicyOptions};

fn stages_agree(mesh: MeshKind, precision: &str) {
    for name in KITS {
        let mut kit = kit(name);
        // One case is every operation; the whole kit is `openvla selfcheck`'s.
        kit.cases.truncate(1);
        kit.rtc = RtcCases::default();
        let backend =
            open(Provider::Simulated, mesh, PrecisionPolicy::load(precision).unwrap()).unwrap();
        let options = PolicyOptions { precision: precision.into(), ..Default::default() };
        let policy = Pi0Policy::open(backend, &kit.checkpoint(), &options).unwrap();
        let reports = check(&kit, &policy, Pi0Bounds::of(precision), |report| {
            let worst = report.worst().map(|stage| (&stage.name, stage.agreement.pcc));
            eprintln!("{name} {mesh:?} {precision} {}: {worst:?} {:?}", report.name, report.growth);
        })
        .unwrap();
        let missed: Vec<_> = reports.iter().flat_map(|report| &report.missed).collect();
        assert!(missed.is_empty(), "{name} {mesh:?} {precision}: {missed:#?}");
    }
}

#[test]
fn n150_agrees_in_bf16() {
    stages_agree(MeshKind::N150, "bf16");
}

#[test]
fn n300_agrees_in_bf16() {
    stages_agree(MeshKind::N300, "bf16");
}

#[test]
fn t3k_agrees_in_bf16() {
    stages_agree(MeshKind::T3k, "bf16");
}

#[test]
fn n300_agrees_with_block_float_weights() {
    stages_agree(MeshKind::N300, "mixed");
}
