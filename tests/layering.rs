//! The layers of ARCHITECTURE.md, as Cargo keeps them: which crate depends on which, and what a
//! build of the node compiles.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate of the workspace, and those of the workspace that it may depend on.
const LAYERS: &[(&str, &[&str])] = &[
    ("foreign-text", &[]),
    ("vla-control", &["foreign-text"]),
    ("vla-config", &["foreign-text", "vla-control"]),
    ("flight-recorder", &["vla-control"]),
    ("rosbag2-reader", &["foreign-text"]),
    ("lerobot-dataset", &["foreign-text"]),
    ("tt-metal-sys", &[]),
    ("tt-metal", &["tt-metal-sys"]),
    ("tt-mesh-sim", &["tt-metal", "tt-metal-sys"]),
    ("vla-inference", &["foreign-text", "tt-metal"]),
    ("vla-wire", &["foreign-text"]),
    ("vla-remote", &["foreign-text", "vla-inference", "vla-wire"]),
    ("vla-serve", &["vla-inference", "vla-wire"]),
    (
        "vla-eval",
        &["lerobot-dataset", "rosbag2-reader", "vla-config", "vla-control", "vla-inference"],
    ),
    (
        "openvla_tt",
        &[
            "flight-recorder",
            "foreign-text",
            "lerobot-dataset",
            "rosbag2-reader",
            "vla-config",
            "vla-control",
            "vla-eval",
            "vla-inference",
            "vla-remote",
            "vla-serve",
        ],
    ),
];

/// Dependency from outside, and the crates of the workspace that alone may use it.
const CONFINED: &[(&str, &[&str])] = &[
    ("r2r", &["openvla_tt"]),
    ("embedded-graphics", &["openvla_tt"]),
    ("rusqlite", &["rosbag2-reader"]),
    ("parquet", &["lerobot-dataset"]),
    ("mcap", &["flight-recorder", "rosbag2-reader"]),
    ("plotters", &["vla-eval"]),
    ("maud", &["vla-eval"]),
    ("tokio", &["vla-serve"]),
    ("axum", &["vla-serve"]),
    ("rmp-serde", &["vla-wire"]),
    ("gemm-f32", &["vla-inference"]),
    ("tokenizers", &["vla-inference"]),
    ("memmap2", &["vla-inference"]),
    ("httparse", &["vla-remote"]),
    ("tungstenite", &["vla-remote"]),
];

/// What a build of the node must not compile: SQLite, Parquet, plots, HTML, C compression, servers.
const NOT_IN_THE_NODE: &[&str] = &[
    "rusqlite",
    "libsqlite3-sys",
    "parquet",
    "lerobot-dataset",
    "plotters",
    "maud",
    "vla-eval",
    "zstd-sys",
    "lz4-sys",
    "vla-serve",
    "tokio",
    "axum",
    "hyper",
];

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--offline")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Crate of the workspace -> names of its dependencies outside of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let used = package["dependencies"].as_array().unwrap().iter();
            let used = used.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
            let names = used.map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn each_crate_depends_only_on_the_layers_below() {
    let dependencies = dependencies();
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let named: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    assert_eq!(named, layers.keys().copied().collect(), "every crate has a row in LAYERS");
    for (package, used) in &dependencies {
        for name in used.iter().filter(|name| layers.contains_key(name.as_str())) {
            assert!(
                layers[package.as_str()].contains(&name.as_str()),
                "{package} depends on {name}; see LAYERS in tests/layering.rs"
            );
        }
    }
}

#[test]
fn external_crates_are_confined() {
    let dependencies = dependencies();
    for (name, allowed) in CONFINED {
        let users = dependencies.iter().filter(|(_, used)| used.contains(*name));
        let users: Vec<&str> = users.map(|(package, _)| package.as_str()).collect();
        assert!(!users.is_empty(), "{name} is used by no crate; remove its row");
        for user in users {
            assert!(allowed.contains(&user), "{user} depends on {name}; allowed: {allowed:?}");
        }
    }
}

#[test]
fn the_node_compiles_no_sqlite_plots_html_or_server() {
    let tree = |features: &[&str]| {
        let common = ["tree", "--package", "openvla_tt", "--edges", "normal,build"];
        cargo(&[&common[..], &["--prefix", "none", "--format", "{p}"], features].concat())
    };
    let names = |tree: &str| -> BTreeSet<String> {
        tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let node = names(&tree(&["--no-default-features", "--features", "ros"]));
    assert!(node.contains("r2r") && node.contains("vla-control"), "{node:?}");
    for name in NOT_IN_THE_NODE {
        assert!(!node.contains(*name), "the node compiles {name}");
    }
    // The command line does use them, so that the names above are the real ones.
    let program = names(&tree(&[]));
    assert!(NOT_IN_THE_NODE.iter().all(|name| program.contains(*name)), "{program:?}");
}
