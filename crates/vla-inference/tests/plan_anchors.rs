//! Published times of comparable models lie within the bounds that the plan's code predicts for an
//! implementation of their kind. One set of figures serves all of them: what differs is the
//! implementation, and `plan/rates.rs` says how.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use vla_inference::backend::precision::{
    MathFidelity, NumberFormat, PrecisionPolicy, WeightPrecision,
};
use vla_inference::backend::tt::MeshKind;
use vla_inference::checkpoint::OpenVlaConfig;
use vla_inference::checkpoint::pi0::Pi0Config;
use vla_inference::plan::rates::{ChipRates, OURS, Span, TT_METAL_PI0, TT_TRANSFORMERS};
use vla_inference::plan::{Assumptions, Flow, OnePass, PUBLISHED, Plan};

fn openvla() -> OpenVlaConfig {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny/ckpt");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kit.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("tiny_timm_overrides");
    config["text_config"] = serde_json::json!({
        "model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064
    });
    OpenVlaConfig::from_json(Path::new("config.json"), config.to_string().as_bytes()).unwrap()
}

fn uniform(format: NumberFormat) -> PrecisionPolicy {
    let weight = WeightPrecision { format, fidelity: MathFidelity::HiFi2 };
    PrecisionPolicy {
        vision: weight,
        projector: weight,
        attention: weight,
        mlp: weight,
        head: weight,
        attention_math: MathFidelity::HiFi2,
        ..PrecisionPolicy::load("bf16").unwrap()
    }
}

/// A decode step of Llama-3.1-8B after 128 tokens. `gate_up`: bfp4_b in the preset "performance".
fn llama(mesh: MeshKind, gate_up: Option<NumberFormat>) -> Span {
    let mut config = openvla();
    config.llama.intermediate_size = 14_336;
    config.llama.num_key_value_heads = 8;
    config.llama.vocab_size = 128_256;
    let assumptions = Assumptions {
        positions: 128,
        tokens: 2,
        head_rows: config.llama.vocab_size,
        mlp_multiple: 32,
        decode_rows: 32,
        implementation: TT_TRANSFORMERS,
        gate_up,
        ..Assumptions::standard(&config)
    };
    let plan = Plan::new(&config, mesh, uniform(NumberFormat::Bfp8B), assumptions);
    let step = plan.stages.iter().find(|stage| stage.name == "decode step").unwrap();
    step.predicted
}

#[test]
fn llama_decodes_as_published() {
    use MeshKind::{N150, N300, P150, T3k};
    let performance = Some(NumberFormat::Bfp4B);
    // Tokens per second of one user: tt_transformers' PERF.md; P150 before and after several
    // readers a bank (tt-metal #54242).
    for (mesh, gate_up, published) in [
        (N150, None, 25.2),
        (N300, None, 38.8),
        (T3k, None, 60.8),
        (N150, performance, 28.3),
        (N300, performance, 44.2),
        (T3k, performance, 64.3),
        (P150, performance, 33.6),
        (P150, performance, 42.0),
    ] {
        let span = llama(mesh, gate_up);
        let Span { low, likely, high } = span;
        println!(
            "Llama-3.1-8B {mesh} {}: {:.1} t/s/u ({:.1} to {:.1}), published {published}",
            if gate_up.is_some() { "performance" } else { "accuracy" },
            1e3 / likely,
            1e3 / high,
            1e3 / low,
        );
        assert!(span.contains(1e3 / published), "{mesh}: {published} t/s/u, {span:?} ms");
        // Bounds that contain everything would say nothing.
        assert!(high < 1.9 * low, "{mesh}: {span:?}");
    }
}

/// The published sizes of pi0: LeRobot's defaults.
fn pi0(kind: &str) -> Pi0Config {
    let image = serde_json::json!({"type": "VISUAL", "shape": [3, 224, 224]});
    let text = serde_json::json!({
        "type": kind,
        "input_features": {
            "observation.images.base_0_rgb": image,
            "observation.images.left_wrist_0_rgb": image,
            "observation.state": {"type": "STATE", "shape": [32]}
        },
        "output_features": {"action": {"type": "ACTION", "shape": [32]}},
        "normalization_mapping":
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    });
    let path = PathBuf::from("config.json");
    Pi0Config::from_json(&path, text.to_string().as_bytes()).unwrap()
}

#[test]
fn pi0_answers_as_published() {
    let config = pi0("pi0");
    let flow = Flow { cameras: 2, text: 32, steps: 10 };
    for (mesh, (board, published, source)) in
        [MeshKind::N150, MeshKind::P150].into_iter().zip(PUBLISHED)
    {
        let theirs =
            Assumptions { implementation: TT_METAL_PI0, ..Assumptions::flow(&config, flow) };
        let plan = Plan::flow(&config, mesh, uniform(NumberFormat::Bf16), theirs, flow);
        let span = plan.predicted();
        println!("pi0 on {board}: {span:.0?} ms, published {published} ({source})");
        assert!(span.contains(published), "{board}: {published} ms, {span:?}");
        // Ours differs by tuned configurations and fewer operations, and is expected to be faster.
        let ours = Assumptions::flow(&config, flow);
        let ours = Plan::flow(&config, mesh, uniform(NumberFormat::Bf16), ours, flow);
        assert!(ours.operations() < plan.operations());
        assert!(ours.predicted().likely < span.likely);
    }
}

/// The table of docs/mesh.md: every board and model, roofline and prediction.
#[test]
fn every_board_and_model() {
    let openvla = openvla();
    let policy = |name| PrecisionPolicy::load(name).unwrap();
    for &mesh in MeshKind::ALL {
        let mut plans = Vec::new();
        for name in ["mixed", "bfp8"] {
            let assumptions = Assumptions::standard(&openvla);
            plans.push((
                format!("OpenVLA {name}"),
                Plan::new(&openvla, mesh, policy(name), assumptions),
            ));
        }
        let pass = OnePass { chunk: 8, action_dim: 7, state_dim: 8 };
        let assumptions = Assumptions::one_pass(&openvla, 2, pass);
        let plan = Plan::new(&openvla, mesh, policy("bfp8"), assumptions);
        plans.push(("OFT bfp8, 2 cameras".into(), plan));
        for kind in ["pi0", "pi05"] {
            let config = pi0(kind);
            let flow = Flow { cameras: 2, text: 20, steps: 10 };
            let assumptions = Assumptions::flow(&config, flow);
            let plan = Plan::flow(&config, mesh, policy("bfp8"), assumptions, flow);
            plans.push((format!("{kind} bfp8, 2 cameras"), plan));
        }
        for (what, plan) in plans {
            let (predicted, roofline) = (plan.predicted(), plan.total_ms());
            let Span { low, likely, high } = predicted;
            println!(
                "| {what} | {mesh} | {roofline:.1} | {likely:.0} | {low:.0} to {high:.0} | {} | \
                {:.2} |",
                plan.operations(),
                plan.memory.total() as f64 / (1u64 << 30) as f64
            );
            assert!(low <= likely && likely <= high, "{what} {mesh}: {predicted:?}");
            // Nothing is expected to be as fast as the roofline, and bounds say something.
            assert!(likely > roofline && high < 2.5 * low, "{what} {mesh}: {predicted:?}");
            // Only OpenVLA in other formats than bfp8 needs more than a Wormhole chip has.
            let fits = plan.memory.shortfall().is_none();
            assert!(fits || mesh == MeshKind::N150 && what == "OpenVLA mixed", "{what} {mesh}");
        }
    }
}

/// Every figure has bounds in order and a source.
#[test]
fn figures_are_bounded_and_sourced() {
    for &mesh in MeshKind::ALL {
        let rates = ChipRates::of(mesh);
        for figure in [
            rates.dram_interleaved,
            rates.dram_sharded,
            rates.link,
            rates.hop,
            OURS.launch,
            OURS.few_rows,
            OURS.many_rows,
        ] {
            assert!(0.0 < figure.low && figure.low <= figure.likely, "{figure:?}");
            assert!(figure.likely <= figure.high && !figure.source.is_empty(), "{figure:?}");
        }
        assert!(rates.dram_sharded.high <= rates.dram_specified);
    }
    // 64 cores at 1 GHz, 130 at 1.35 GHz.
    assert_eq!(ChipRates::flop_per_second(MeshKind::N300), 262.144e12);
    assert!((ChipRates::flop_per_second(MeshKind::P150) / 718.8e12 - 1.0).abs() < 1e-3);
}
