//! The golden kit on simulated meshes: every stage, token and action under every precision policy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use vla_inference::backend::Backend;
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{MeshKind, Provider, TtBackend, open};
use vla_inference::golden::{Bounds, Kit, Report, check};
use vla_inference::models::NoProbe;
use vla_inference::models::openvla::OpenVla;
use vla_inference::policy::{DecodeMode, OpenVlaPolicy, PolicyOptions};

const MESHES: [MeshKind; 3] = [MeshKind::N150, MeshKind::N300, MeshKind::T3k];

fn kit() -> Kit {
    Kit::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny")).unwrap()
}

fn policy(kit: &Kit, mesh: MeshKind, precision: &str) -> OpenVlaPolicy<TtBackend> {
    let backend =
        open(Provider::Simulated, mesh, PrecisionPolicy::load(precision).unwrap()).unwrap();
    let options = PolicyOptions {
        unnorm_key: Some("bridge_orig".into()),
        decode: DecodeMode::Full,
        precision: precision.into(),
        ..Default::default()
    };
    OpenVlaPolicy::open(backend, &kit.checkpoint(), &options).unwrap()
}

fn run(kit: &Kit, mesh: MeshKind, precision: &str) -> Report {
    let mut policy = policy(kit, mesh, precision);
    let report = check(kit, &mut policy, Bounds::of(precision)).unwrap();
    assert_eq!(policy.backend().resharding_count(), 0, "no matrix is resharded through the host");
    report
}

fn mean_bin_distance(report: &Report) -> f64 {
    report.cases.iter().map(|case| case.bin_distance).sum::<f64>() / report.cases.len() as f64
}

fn worst(report: &Report) -> (f64, &str) {
    let by = |a: &&vla_inference::golden::StageResult, b: &&vla_inference::golden::StageResult| {
        a.agreement.pcc.total_cmp(&b.agreement.pcc)
    };
    let stage = report.stages.iter().min_by(by).unwrap();
    (stage.agreement.pcc, &stage.stage)
}

#[test]
fn bf16_agrees_on_every_mesh() {
    for mesh in MESHES.into_iter().chain([MeshKind::P300, MeshKind::QuietBox]) {
        let report = run(&kit(), mesh, "bf16");
        println!(
            "{mesh:?} bf16: lowest PCC {:?}, mean bin distance {}",
            worst(&report),
            mean_bin_distance(&report)
        );
        assert!(report.missed.is_empty(), "{mesh:?}: {:#?}", report.missed);
        assert_eq!(report.cases.len(), 12);
    }
}

#[test]
fn block_floats_agree_on_every_mesh() {
    // Block floats may choose other tokens, so that nothing is compared in a case without recorded
    // stages; the special cases need the plain ones that they are made of.
    let mut kit = kit();
    let bases: Vec<usize> = kit.eos_cases.iter().map(|case| case.case).collect();
    let staged: Vec<usize> =
        (0..kit.cases.len()).filter(|&case| kit.tensors(case).unwrap().is_some()).collect();
    assert!(!staged.is_empty() && !bases.is_empty());
    kit.cases.retain(|case| staged.contains(&case.id) || bases.contains(&case.id));
    for mesh in MESHES {
        for precision in ["mixed", "bfp8"] {
            let report = run(&kit, mesh, precision);
            assert!(!report.stages.is_empty(), "{mesh:?} {precision}");
            let bins = mean_bin_distance(&report);
            println!(
                "{mesh:?} {precision}: lowest PCC {:?}, mean bin distance {bins}",
                worst(&report)
            );
            assert!(report.missed.is_empty(), "{mesh:?} {precision}: {:#?}", report.missed);
        }
    }
}

#[test]
fn stages_before_all_reduce_are_bit_identical() {
    let kit = kit();
    let case = &kit.cases[0];
    let results = MESHES.map(|mesh| {
        let mut policy = policy(&kit, mesh, "mixed");
        let rgb = policy.prepare(&kit.image(&case.image).unwrap()).unwrap().pixels().to_vec();
        let checkpoint = policy.checkpoint().clone();
        let backend = policy.backend();
        let model = OpenVla::load(
            backend,
            &checkpoint.weights,
            &checkpoint.config,
            &checkpoint.preprocessor,
            31_744..32_000,
        )
        .unwrap();
        let features = model.features(backend, &rgb, &mut NoProbe).unwrap();
        let image = model.project(backend, &features, &mut NoProbe).unwrap();
        let (sequence, _) =
            model.prefill(backend, &image, &case.input_ids_fed, 6, &mut NoProbe).unwrap();
        // Layer 0's projections are column-parallel: each chip computes some of the same sums.
        let (keys, values) = backend.read_cache(sequence.cache(), 0).unwrap();
        [backend.download(&features).unwrap(), backend.download(&image).unwrap(), keys, values]
            .map(|t| t.to_f32())
    });
    let [one, two, eight] = &results;
    for (stage, ((one, two), eight)) in one.iter().zip(two).zip(eight).enumerate() {
        assert!(one.len() > 1000);
        assert!(one == two && one == eight, "stage {stage}");
    }
}
