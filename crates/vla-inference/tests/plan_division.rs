//! The layers of pi0 that the backend divides over the chips are those that the plan expects to be
//! fastest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{Division, MeshKind};
use vla_inference::checkpoint::pi0::Pi0Config;
use vla_inference::plan::{Assumptions, Flow, Plan};

/// The published sizes: LeRobot's defaults.
fn published(kind: &str) -> Pi0Config {
    let text = serde_json::json!({
        "type": kind,
        "input_features": {
            "observation.images.base_0_rgb": {"type": "VISUAL", "shape": [3, 224, 224]},
            "observation.state": {"type": "STATE", "shape": [32]}
        },
        "output_features": {"action": {"type": "ACTION", "shape": [32]}},
        "normalization_mapping":
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    });
    Pi0Config::from_json(&PathBuf::from("config.json"), text.to_string().as_bytes()).unwrap()
}

fn divisions() -> impl Iterator<Item = Division> {
    (0..8).map(|bits| Division {
        queries: bits & 1 != 0,
        few_rows_queries: bits & 2 != 0,
        few_rows_mlps: bits & 4 != 0,
    })
}

#[test]
fn the_fastest_division_is_chosen() {
    for kind in ["pi0", "pi05"] {
        let config = published(kind);
        for &mesh in MeshKind::ALL.iter().filter(|mesh| mesh.chips() > 1) {
            for name in PrecisionPolicy::shipped() {
                for cameras in 1..=3 {
                    let flow = Flow { cameras, text: 20, steps: 10 };
                    let policy = || PrecisionPolicy::load(name).unwrap();
                    let ms = |division| {
                        let assumptions =
                            Assumptions { division, ..Assumptions::flow(&config, flow) };
                        Plan::flow(&config, mesh, policy(), assumptions, flow).predicted().likely
                    };
                    let chosen = ms(None);
                    let all: Vec<_> =
                        divisions().map(|division| (ms(Some(division)), division)).collect();
                    let best =
                        all.iter().min_by(|(one, _), (other, _)| one.total_cmp(other)).unwrap();
                    let of = |wanted: Division| {
                        all.iter().find(|(_, division)| *division == wanted).unwrap().0
                    };
                    let mlps =
                        Division { queries: false, few_rows_queries: false, few_rows_mlps: true };
                    println!(
                        "| {kind} {name}, {cameras} cameras | {mesh} | {:.1} | {:.1} | {:.1} | \
                        {chosen:.1} | {:.1} {:?}",
                        of(mlps),
                        of(Division { queries: true, ..mlps }),
                        of(Division::ALL),
                        best.0,
                        best.1
                    );
                    // Two cameras are what the choice was made for.
                    let slack = if cameras == 2 { 0.0 } else { 0.01 };
                    assert!(
                        chosen <= (1.0 + slack) * best.0 + 1e-9,
                        "{kind} {mesh} {name} {cameras} cameras: {chosen} ms, {best:?}"
                    );
                }
            }
        }
    }
}
