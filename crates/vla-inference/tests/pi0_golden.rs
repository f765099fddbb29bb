//! The golden kits of LeRobot's pi0 and pi0.5 on the CPU backend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use pi0_support::{KITS, kit, policy};
use vla_inference::golden::pi0::{Pi0Bounds, check};

#[test]
fn every_stage_and_every_step_agrees() {
    for name in KITS {
        let kit = kit(name);
        let reports = check(&kit, &policy(&kit), Pi0Bounds::F32, |report| {
            let worst = report.worst().map(|stage| (&stage.name, stage.agreement));
            eprintln!("{name} {}: {} {worst:?} {:?}", report.name, report.detail, report.missed);
        })
        .unwrap();
        let missed: Vec<_> = reports
            .iter()
            .flat_map(|report| report.missed.iter().map(|miss| format!("{}: {miss}", report.name)))
            .collect();
        assert!(missed.is_empty(), "{name}: {missed:#?}");
        let of = |word: &str| reports.iter().filter(|r| r.name.starts_with(word)).count();
        assert_eq!(of("case "), kit.cases.len(), "{name}");
        assert_eq!(of("guided "), kit.rtc.cases.len(), "{name}");
        assert_eq!(of("trained "), kit.rtc.trained.len(), "{name}");
    }
}
