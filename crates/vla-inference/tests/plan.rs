//! Plans: against the published roofline, against what the simulated mesh really allocates, and
//! what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use vla_inference::backend::precision::{
    MathFidelity, NumberFormat, PrecisionPolicy, WeightPrecision,
};
use vla_inference::backend::tt::{MeshKind, Provider, open};
use vla_inference::checkpoint::OpenVlaConfig;
use vla_inference::plan::{Assumptions, OnePass, Plan};
use vla_inference::policy::{DecodeMode, OpenVlaPolicy, PolicyOptions};

fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny/ckpt")
}

/// openvla-7b's config.json: its text_config holds four fields, everything else is Llama's default.
fn real_json() -> serde_json::Value {
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kit().join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("tiny_timm_overrides");
    config["text_config"] = serde_json::json!({
        "model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064
    });
    config
}

fn real() -> OpenVlaConfig {
    OpenVlaConfig::from_json(Path::new("config.json"), real_json().to_string().as_bytes()).unwrap()
}

/// One format and fidelity for every weight, as the roofline assumes.
fn uniform(format: NumberFormat, fidelity: MathFidelity) -> PrecisionPolicy {
    let weight = WeightPrecision { format, fidelity };
    PrecisionPolicy {
        vision: weight,
        projector: weight,
        attention: weight,
        mlp: weight,
        head: weight,
        attention_math: fidelity,
        cache: NumberFormat::Bf16,
        split_vision: true,
        ..PrecisionPolicy::load("bf16").unwrap()
    }
}

fn near(what: &str, ours: f64, table: f64) {
    // The table has three digits: half of the last one is rounding.
    let rounding = if table < 10.0 { 0.005 } else { 0.05 };
    let error = (ours - table).abs();
    assert!(error <= 0.02 * table + rounding, "{what}: {ours:.3} ms, the roofline says {table}");
}

#[test]
fn predictions_agree_with_the_roofline() {
    use MathFidelity::{HiFi2, HiFi4};
    use MeshKind::{N150, N300, T3k};
    use NumberFormat::{Bf16, Bfp8B};
    // Vision flop and memory at 288 GB/s; prefill flop, memory at 288 and 240; its collectives in
    // bf16 and bfp8; decode with full head at 288 and 240, with 256 rows at 288 and 240; its
    // collectives with 32 rows and with one.
    let table: [(MeshKind, NumberFormat, MathFidelity, [f64; 13]); 9] = [
        (
            N150,
            Bfp8B,
            HiFi2,
            [3.42, 2.96, 28.62, 23.89, 28.67, 0.0, 0.0, 24.89, 29.87, 24.41, 29.29, 0.0, 0.0],
        ),
        (
            N150,
            Bf16,
            HiFi2,
            [3.42, 5.58, 28.62, 44.97, 53.97, 0.0, 0.0, 46.40, 55.68, 45.50, 54.60, 0.0, 0.0],
        ),
        (
            N150,
            Bf16,
            HiFi4,
            [6.85, 5.58, 57.25, 44.97, 53.97, 0.0, 0.0, 46.40, 55.68, 45.50, 54.60, 0.0, 0.0],
        ),
        (
            N300,
            Bfp8B,
            HiFi2,
            [1.71, 1.48, 14.31, 11.95, 14.33, 12.2, 6.5, 12.45, 14.94, 12.21, 14.65, 1.47, 0.17],
        ),
        (
            N300,
            Bf16,
            HiFi2,
            [1.71, 2.79, 14.31, 22.49, 26.98, 12.2, 6.5, 23.20, 27.84, 22.75, 27.30, 1.47, 0.17],
        ),
        (
            N300,
            Bf16,
            HiFi4,
            [3.42, 2.79, 28.62, 22.49, 26.98, 12.2, 6.5, 23.20, 27.84, 22.75, 27.30, 1.47, 0.17],
        ),
        (
            T3k,
            Bfp8B,
            HiFi2,
            [0.43, 0.37, 3.58, 2.99, 3.58, 11.1, 6.1, 3.11, 3.73, 3.05, 3.66, 1.69, 0.55],
        ),
        (
            T3k,
            Bf16,
            HiFi2,
            [0.43, 0.70, 3.58, 5.62, 6.75, 11.1, 6.1, 5.80, 6.96, 5.69, 6.82, 1.69, 0.55],
        ),
        (
            T3k,
            Bf16,
            HiFi4,
            [0.86, 0.70, 7.16, 5.62, 6.75, 11.1, 6.1, 5.80, 6.96, 5.69, 6.82, 1.69, 0.55],
        ),
    ];
    let config = real();
    for (mesh, format, fidelity, row) in table {
        let what = |name: &str| format!("{mesh:?} {} {} {name}", format.name(), fidelity.name());
        let plan = |change: &dyn Fn(&mut Assumptions)| {
            // The roofline pads no MLP, sends a decoded row as a whole tile, reads 284 positions of
            // keys and values, and streams at the specified rate.
            let mut assumptions = Assumptions {
                positions: 276,
                mlp_multiple: 32,
                dram_bytes_per_second: Some(288e9),
                decode_rows: 32,
                ..Assumptions::standard(&config)
            };
            change(&mut assumptions);
            Plan::new(&config, mesh, uniform(format, fidelity), assumptions).stages
        };
        let [vision, prefill, decode] = &plan(&|_| ())[..] else { panic!("three stages") };
        let slow = plan(&|a| a.dram_bytes_per_second = Some(240e9));
        let full = plan(&|a| a.head_rows = 32_064);
        let full_slow = plan(&|a| (a.head_rows, a.dram_bytes_per_second) = (32_064, Some(240e9)));
        let bfp8 = plan(&|a| a.payload = Some([Bfp8B; 2]));
        let one_row = plan(&|a| a.decode_rows = 1);
        let ours = [
            vision.flop_ms,
            vision.memory_ms,
            prefill.flop_ms,
            prefill.memory_ms,
            slow[1].memory_ms,
            prefill.collective_ms,
            bfp8[1].collective_ms,
            full[2].memory_ms,
            full_slow[2].memory_ms,
            decode.memory_ms,
            slow[2].memory_ms,
            decode.collective_ms,
            one_row[2].collective_ms,
        ];
        for (index, (ours, table)) in ours.into_iter().zip(row).enumerate() {
            near(&what(&format!("column {index}")), ours, table);
        }
    }
}

#[test]
fn whole_inferences_agree_with_the_roofline() {
    use MathFidelity::HiFi2;
    // 240 GB/s, serial collectives, BFP8 in prefill and bf16 in decode; 256-row head and full head.
    for (mesh, format, rows256, full) in [
        (MeshKind::N150, NumberFormat::Bfp8B, 208.0, 211.5),
        (MeshKind::N300, NumberFormat::Bfp8B, 119.4, 121.1),
        (MeshKind::N300, NumberFormat::Bf16, 209.5, 212.7),
        (MeshKind::T3k, NumberFormat::Bfp8B, 42.2, 42.7),
        (MeshKind::T3k, NumberFormat::Bf16, 64.8, 65.6),
    ] {
        for (head_rows, table) in [(256, rows256), (32_064, full)] {
            let config = real();
            let assumptions = Assumptions {
                positions: 276,
                mlp_multiple: 32,
                head_rows,
                payload: Some([NumberFormat::Bfp8B, NumberFormat::Bf16]),
                decode_rows: 32,
                ..Assumptions::standard(&config)
            };
            let plan = Plan::new(&config, mesh, uniform(format, HiFi2), assumptions);
            near(&format!("{mesh:?} {} {head_rows} rows", format.name()), plan.total_ms(), table);
        }
    }
}

/// What folding a decoded row into whole tiles saves on the links over an action, before the reshapes
/// of tiles that it takes: those cost more, so that it is off.
#[test]
fn one_row_collectives_save_traffic() {
    let config = real();
    for (mesh, least) in [(MeshKind::N300, 7.0), (MeshKind::T3k, 6.0)] {
        let ms = |decode_rows| {
            let assumptions = Assumptions { decode_rows, ..Assumptions::standard(&config) };
            Plan::new(&config, mesh, PrecisionPolicy::load("mixed").unwrap(), assumptions)
                .total_ms()
        };
        assert_eq!(Assumptions::standard(&config).decode_rows, 32);
        println!("{mesh:?} mixed: {:.1} ms with 32 rows, {:.1} ms with one", ms(32), ms(1));
        assert!(ms(32) - ms(1) > least, "{mesh:?}: {} {}", ms(32), ms(1));
    }
}

#[test]
fn the_real_model_fits_where_it_should() {
    let config = real();
    let plan = |mesh, name| {
        Plan::new(
            &config,
            mesh,
            PrecisionPolicy::load(name).unwrap(),
            Assumptions::standard(&config),
        )
        .memory
    };
    let shortfall =
        plan(MeshKind::N150, "bf16").shortfall().expect("15 GB do not fit 12 GB") as f64 / 1e9;
    assert!((2.0..6.0).contains(&shortfall), "{shortfall}");
    for name in PrecisionPolicy::shipped() {
        for mesh in [MeshKind::N300, MeshKind::T3k] {
            let memory = plan(mesh, name);
            assert_eq!(memory.shortfall(), None, "{mesh:?} {name}: {memory:#?}");
        }
    }
    assert_eq!(plan(MeshKind::N150, "bfp8").shortfall(), None);
    // A Blackhole chip holds it in any format.
    for mesh in [MeshKind::P150, MeshKind::P300, MeshKind::QuietBox, MeshKind::LoudBox] {
        assert_eq!(plan(mesh, "bf16").shortfall(), None, "{mesh:?}");
    }
}

#[test]
fn planned_weights_equal_allocated_memory() {
    let bytes = std::fs::read(kit().join("config.json")).unwrap();
    let config = OpenVlaConfig::from_json(Path::new("config.json"), &bytes).unwrap();
    for mesh in [MeshKind::N150, MeshKind::N300, MeshKind::T3k, MeshKind::P300] {
        for (name, split_vision) in [("bf16", false), ("bfp8", false), ("mixed", true)] {
            for (decode, head_rows) in [(DecodeMode::Actions, 256), (DecodeMode::Full, 32_064)] {
                let policy =
                    PrecisionPolicy { split_vision, ..PrecisionPolicy::load(name).unwrap() };
                let assumptions = Assumptions { head_rows, ..Assumptions::standard(&config) };
                let plan = Plan::new(&config, mesh, policy.clone(), assumptions);
                let backend = open(Provider::Simulated, mesh, policy).unwrap();
                let options = PolicyOptions {
                    unnorm_key: Some("bridge_orig".into()),
                    decode,
                    precision: name.into(),
                    ..Default::default()
                };
                let loaded = OpenVlaPolicy::open(backend, &kit(), &options).unwrap();
                // All but keys and values, activations and the trace region, which come later or
                // are kept apart.
                let planned: u64 = plan.memory.items[..6].iter().map(|(_, bytes)| bytes).sum();
                assert_eq!(
                    loaded.backend().allocated_memory().unwrap(),
                    planned,
                    "{mesh:?} {name} {decode:?}"
                );
            }
        }
    }
}

#[test]
fn one_pass_of_openvla_oft_agrees_with_the_roofline() {
    // Two images, a state and 8 x 7 numbers, about 605 positions: 8.0 TFLOP in the language model
    // and 0.8 in the towers, which two passes of the fidelity (131 TFLOP/s) take 67 ms for on one
    // chip. Ours counts padding to tiles, projector and head as well.
    let pass = OnePass { chunk: 8, action_dim: 7, state_dim: 8 };
    let assumptions = Assumptions::one_pass(&real(), 2, pass);
    assert_eq!(assumptions.positions, 600);
    let policy = uniform(NumberFormat::Bfp8B, MathFidelity::HiFi2);
    let flop = |plan: &Plan| plan.stages.iter().map(|stage| stage.flop).sum::<f64>();
    let one = Plan::new(&real(), MeshKind::N150, policy.clone(), assumptions.clone());
    assert!((8.6e12..9.6e12).contains(&flop(&one)), "{:.3e}", flop(&one));
    assert!((65.0..75.0).contains(&one.total_ms()), "{}", one.total_ms());
    // No decoding, and one pass for the whole chunk.
    assert!(one.stages.iter().all(|stage| stage.name != "decode step" && stage.count == 1));
    // Three images and 25 x 14 numbers: twice the rows.
    let aloha = OnePass { chunk: 25, action_dim: 14, state_dim: 14 };
    let wide = Assumptions::one_pass(&real(), 3, aloha);
    let three = Plan::new(&real(), MeshKind::N150, policy.clone(), wide);
    assert!((125.0..145.0).contains(&three.total_ms()), "{}", three.total_ms());
    // More chips are faster by less than their number: the all-reduces remain.
    let two = Plan::new(&real(), MeshKind::N300, policy, assumptions);
    assert!(two.total_ms() < one.total_ms() && 2.0 * two.total_ms() > one.total_ms());
}
