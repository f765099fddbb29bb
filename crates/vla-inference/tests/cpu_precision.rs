//! The golden kits on the CPU with packed bf16 and int8 weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use std::path::{Path, PathBuf};

use vla_inference::backend::cpu::{CpuBackend, CpuPrecision};
use vla_inference::golden::pi0::{self, Pi0Bounds};
use vla_inference::golden::{Bounds, Kit, OftKit, check, check_oft};
use vla_inference::policy::{OpenVlaPolicy, Pi0Policy, PolicyOptions};

fn data(kit: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(kit)
}

fn cpu(precision: &str) -> CpuBackend {
    CpuBackend::new(2).unwrap().with_precision(CpuPrecision::load(precision).unwrap())
}

fn options(precision: &str) -> PolicyOptions {
    PolicyOptions { precision: precision.into(), ..Default::default() }
}

fn openvla(precision: &str, bounds: Bounds) {
    let kit = Kit::open(&data("openvla_tiny")).unwrap();
    let options = PolicyOptions { unnorm_key: Some("bridge_orig".into()), ..options(precision) };
    let mut policy = OpenVlaPolicy::open(cpu(precision), &kit.checkpoint(), &options).unwrap();
    let report = check(&kit, &mut policy, bounds).unwrap();
    let worst = report.stages.iter().min_by(|a, b| a.agreement.pcc.total_cmp(&b.agreement.pcc));
    let distance =
        report.cases.iter().map(|case| case.bin_distance).sum::<f64>() / report.cases.len() as f64;
    let equal = report.cases.iter().filter(|case| case.tokens == case.expected).count();
    println!("{precision}: worst {worst:?}, {equal} cases equal, mean bin distance {distance}");
    assert!(report.missed.is_empty(), "{precision}: {:#?}", report.missed);
    assert_eq!(report.cases.len(), 12);
}

#[test]
fn openvla_in_bf16() {
    openvla("bf16", Bounds { pcc: 0.9995, logits: None, margin: 0.1 });
}

#[test]
fn openvla_in_int8() {
    openvla("int8", Bounds::INT8);
}

#[test]
fn pi0_in_bf16_and_int8() {
    for (precision, pcc) in [("bf16", 0.999), ("int8", 0.995)] {
        for name in pi0_support::KITS {
            let kit = pi0_support::kit(name);
            let policy =
                Pi0Policy::open(cpu(precision), &kit.checkpoint(), &options(precision)).unwrap();
            let bounds = Pi0Bounds { pcc, x: None, actions: None };
            let reports = pi0::check(&kit, &policy, bounds, |report| {
                let worst = report.worst().map(|stage| (&stage.name, stage.agreement.pcc));
                println!("{precision} {name} {}: {worst:?}", report.name);
            })
            .unwrap();
            let missed: Vec<_> = reports.iter().flat_map(|report| &report.missed).collect();
            assert!(missed.is_empty(), "{precision} {name}: {missed:#?}");
        }
    }
}

#[test]
fn oft_in_bf16_and_int8() {
    for precision in ["bf16", "int8"] {
        for name in ["oft_tiny", "oft_tiny_aloha"] {
            let kit = OftKit::open(&data(name)).unwrap();
            let report = check_oft(&kit, cpu(precision), &kit.checkpoint(), precision).unwrap();
            for case in &report.cases {
                println!("{precision} {name} {case}");
            }
            assert_eq!(report.missed(), Vec::<String>::new(), "{precision} {name}");
        }
    }
}
