//! The golden kit on simulated meshes: every stage, token and action under every precision policy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use openvla_tt::backend::Backend;
use openvla_tt::backend::precision::PrecisionPolicy;
use openvla_tt::backend::tt::{MeshKind, Provider, TtBackend, open};
use openvla_tt::golden::{Bounds, Kit, Report, check};
use openvla_tt::models::openvla::OpenVla;
use openvla_tt::models::probe::Blind;
use openvla_tt::policy::{DecodeMode, OpenVlaPolicy, PolicyOptions};

const MESHES: [MeshKind; 3] = [MeshKind::N150, MeshKind::N300, MeshKind::T3k];

fn kit() -> Kit {
    Kit::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/openvla_tiny")).unwrap()
}

fn policy(kit: &Kit, mesh: MeshKind, precision: &str) -> OpenVlaPolicy<TtBackend> {
    let backend = open(Provider::Simulated, mesh, PrecisionPolicy::load(precision).unwrap()).unwrap();
    let options = PolicyOptions {
        unnorm_key: Some("bridge_orig".into()),
        decode: DecodeMode::Full,
        precision: precision.into(),
        ..Default::default()
    };
    OpenVlaPolicy::open(backend, &kit.checkpoint(), &options).unwrap()
}

fn run(mesh: MeshKind, precision: &str) -> Report {
    let kit = kit();
    let mut policy = policy(&kit, mesh, precision);
    let report = check(&kit, &mut policy, Bounds::of(precision)).unwrap();
    assert_eq!(policy.backend().detours(), 0, "no matrix goes through the host on a model's way");
    report
}

fn mean_bin_distance(report: &Report) -> f64 {
    report.cases.iter().map(|case| case.bin_distance).sum::<f64>() / report.cases.len() as f64
}

fn worst(report: &Report) -> (f64, &str) {
    let by = |a: &&openvla_tt::golden::StageResult, b: &&openvla_tt::golden::StageResult| {
        a.agreement.pcc.total_cmp(&b.agreement.pcc)
    };
    let stage = report.stages.iter().min_by(by).unwrap();
    (stage.agreement.pcc, &stage.stage)
}

#[test]
fn bf16_agrees_on_every_mesh() {
    for mesh in MESHES {
        let report = run(mesh, "bf16");
        println!("{mesh:?} bf16: lowest PCC {:?}, mean bin distance {}", worst(&report), mean_bin_distance(&report));
        assert!(report.missed.is_empty(), "{mesh:?}: {:#?}", report.missed);
        assert_eq!(report.cases.len(), 12);
    }
}

#[test]
fn block_floats_agree_on_every_mesh() {
    for mesh in MESHES {
        for precision in ["mixed", "bfp8"] {
            let report = run(mesh, precision);
            let bins = mean_bin_distance(&report);
            println!("{mesh:?} {precision}: lowest PCC {:?}, mean bin distance {bins}", worst(&report));
            assert!(report.missed.is_empty(), "{mesh:?} {precision}: {:#?}", report.missed);
        }
    }
}

#[test]
fn what_is_not_summed_between_chips_is_identical_on_every_mesh() {
    let kit = kit();
    let case = &kit.cases[0];
    let results = MESHES.map(|mesh| {
        let mut policy = policy(&kit, mesh, "mixed");
        let rgb = policy.resize(&kit.image(&case.image).unwrap());
        let checkpoint = policy.checkpoint().clone();
        let backend = policy.backend();
        let model =
            OpenVla::load(backend, &checkpoint.weights, &checkpoint.config, &checkpoint.preprocessor, 31_744..32_000)
                .unwrap();
        let features = model.features(backend, &rgb, &mut Blind).unwrap();
        let image = model.project(backend, &features, &mut Blind).unwrap();
        let (sequence, _) = model.prefill(backend, &image, &case.input_ids_fed, 6, &mut Blind).unwrap();
        // Layer 0's projections are cut by columns: each chip does some of the very same sums.
        let (keys, values) = backend.read_cache(sequence.cache(), 0).unwrap();
        [backend.download(&features).unwrap(), backend.download(&image).unwrap(), keys, values].map(|t| t.to_f32())
    });
    let [one, two, eight] = &results;
    for (stage, ((one, two), eight)) in one.iter().zip(two).zip(eight).enumerate() {
        assert!(one.len() > 1000);
        assert!(one == two && one == eight, "stage {stage}");
    }
}

fn command(arguments: &[&str], provider: Option<&str>) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_openvla"));
    command.args(arguments).env_remove("OPENVLA_TT_PROVIDER");
    if let Some(path) = provider {
        command.env("OPENVLA_TT_PROVIDER", path);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_commands_run_on_a_mesh_and_name_what_is_missing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/openvla_tiny");
    let (checkpoint, image) = (root.join("ckpt"), root.join("images/07_480x640_RGB.png"));
    let common = ["predict", "--checkpoint", checkpoint.to_str().unwrap(), "--image", image.to_str().unwrap()];
    let with = |more: &[&'static str]| {
        let rest = ["--unnorm-key", "bridge_orig", "--instruction", "pick up the block", "--json"];
        [&common[..], &rest, more].concat()
    };
    let answer = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (status, out, error) = command(&with(&["--device", "sim:n300", "--precision", "bf16"]), None);
    assert_eq!(status, Some(0), "{error}");
    let mesh = answer(&out);
    assert_eq!((mesh["device"].as_str(), mesh["precision"].as_str()), (Some("sim:n300"), Some("bf16")));
    let (_, out, _) = command(&with(&[]), None);
    assert_eq!(answer(&out)["token_ids"], mesh["token_ids"], "the same action as on the CPU");
    // Without replaying, with TT-NN's operations instead of our kernels: the same.
    let (_, out, error) =
        command(&with(&["--device", "sim:n300", "--precision", "bf16", "--eager", "--kernels", "ttnn"]), None);
    assert_eq!(answer(&out)["token_ids"], mesh["token_ids"], "{error}");
    let bench = ["bench", "--checkpoint", checkpoint.to_str().unwrap(), "--image", image.to_str().unwrap()];
    let bench = [&bench[..], &["--unnorm-key", "bridge_orig", "--repeats", "2", "--draft", "--json"]].concat();
    let (status, out, error) = command(&bench, None);
    assert_eq!(status, Some(0), "{error}");
    // Three inferences of one image: the second and the third guess what the one before said.
    assert_eq!(answer(&out)["draft"], serde_json::json!({"offered": 12, "accepted": 12}));
    let refused: [(&[&str], Option<&str>, &str); 6] = [
        (&["--device", "sim:n300", "--weight-cache", "/proc/nowhere"], None, "name a folder that can be written"),
        (&["--device", "sim:n300"], Some("/nowhere/libtt_mesh_sim.so"), "the file does not exist"),
        (&["--device", "tt:t3k"], None, "libtt_provider_ttnn.so"),
        (&["--device", "sim:n300", "--precision", "f32"], None, "is the CPU's"),
        (&["--device", "sim:n300", "--precision", "fp8"], None, "use bf16, mixed, bfp8 or a YAML file"),
        (&["--precision", "bf16"], None, "is for a mesh"),
    ];
    for (arguments, provider, wanted) in refused {
        let (status, out, error) = command(&with(arguments), provider);
        assert_eq!((status, out.as_str(), error.lines().count()), (Some(1), "", 1), "{error}");
        assert!(error.contains(wanted), "{error}");
    }
}
