//! The `openvla` program: exit status, one line per error, JSON on standard output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/openvla_tiny/ckpt")
}

/// openvla-7b's config.json: its text_config holds four fields, everything else is Llama's default.
fn real_json() -> serde_json::Value {
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kit().join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("tiny_timm_overrides");
    config["text_config"] = serde_json::json!({
        "model_type": "llama",
        "pad_token_id": 32000,
        "torch_dtype": "bfloat16",
        "vocab_size": 32064,
    });
    config
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
fn commands_run_on_a_simulated_mesh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/openvla_tiny");
    let (checkpoint, image) = (root.join("ckpt"), root.join("images/07_480x640_RGB.png"));
    let common = [
        "predict",
        "--checkpoint",
        checkpoint.to_str().unwrap(),
        "--image",
        image.to_str().unwrap(),
    ];
    let with = |more: &[&'static str]| {
        let rest = ["--unnorm-key", "bridge_orig", "--instruction", "pick up the block", "--json"];
        [&common[..], &rest, more].concat()
    };
    let answer = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (status, out, error) =
        command(&with(&["--device", "sim:n300", "--precision", "bf16"]), None);
    assert_eq!(status, Some(0), "{error}");
    let mesh = answer(&out);
    assert_eq!(
        (mesh["device"].as_str(), mesh["precision"].as_str()),
        (Some("sim:n300"), Some("bf16"))
    );
    let (_, out, _) = command(&with(&[]), None);
    assert_eq!(answer(&out)["token_ids"], mesh["token_ids"], "the same action as on the CPU");
    // Without a trace, with TT-NN's operations instead of our kernels: the same tokens.
    let (_, out, error) = command(
        &with(&["--device", "sim:n300", "--precision", "bf16", "--eager", "--kernels", "ttnn"]),
        None,
    );
    assert_eq!(answer(&out)["token_ids"], mesh["token_ids"], "{error}");
    let bench =
        ["bench", "--checkpoint", checkpoint.to_str().unwrap(), "--image", image.to_str().unwrap()];
    let bench =
        [&bench[..], &["--unnorm-key", "bridge_orig", "--repeats", "2", "--draft", "--json"]]
            .concat();
    let (status, out, error) = command(&bench, None);
    assert_eq!(status, Some(0), "{error}");
    // Three inferences of one image: the second and the third take the previous tokens as draft.
    assert_eq!(answer(&out)["draft"], serde_json::json!({"drafted": 12, "accepted": 12}));
    // On the CPU in other number formats, with the processor's best rates.
    for precision in ["bf16", "int8"] {
        let (status, out, error) =
            command(&[&bench[..], &["--precision", precision]].concat(), None);
        assert_eq!(status, Some(0), "{error}");
        let answer = answer(&out);
        assert!(answer["device"].as_str().unwrap().contains(precision), "{answer}");
        assert!(answer["ceilings"]["f32_gflops"].as_f64().unwrap() > 0.0, "{answer}");
    }
    let refused: [(&[&str], Option<&str>, &str); 6] = [
        (
            &["--device", "sim:n300", "--weight-cache", "/proc/nowhere"],
            None,
            "name a folder that can be written",
        ),
        (&["--device", "sim:n300"], Some("/nowhere/libtt_mesh_sim.so"), "the file does not exist"),
        (&["--device", "tt:t3k"], None, "libtt_provider_ttnn.so"),
        (&["--device", "sim:n300", "--precision", "f32"], None, "is the CPU's"),
        (
            &["--device", "sim:n300", "--precision", "fp8"],
            None,
            "use bf16, mixed, bfp8 or a YAML file",
        ),
        (&["--precision", "mixed"], None, "is for a mesh"),
    ];
    for (arguments, provider, wanted) in refused {
        let (status, out, error) = command(&with(arguments), provider);
        assert_eq!((status, out.as_str(), error.lines().count()), (Some(1), "", 1), "{error}");
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn plan_knows_pi0() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for kit in ["pi0_lerobot_tiny", "pi05_lerobot_tiny"] {
        let path = data.join(kit).join("ckpt/config.json");
        let path = path.to_str().unwrap();
        let plan = |more: &[&'static str]| {
            command(&[&["plan", "--config", path, "--mesh", "n300"], more].concat(), None)
        };
        let (status, out, error) = plan(&["--json", "--images", "2", "--steps", "5"]);
        assert_eq!(status, Some(0), "{error}");
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        let ms = |field: &str| answer[field].as_f64().unwrap();
        let predicted = answer["predicted_ms"]["likely"].as_f64().unwrap();
        assert!(answer["launches"].as_u64().unwrap() > 50 && predicted > ms("roofline_ms"));
        assert!(plan(&[]).1.contains("326.0 ms per chunk of pi0"));
        let (status, _, error) = plan(&["--chunk", "8"]);
        assert_eq!((status, error.lines().count()), (Some(1), 1), "{error}");
        assert!(error.contains("--chunk 8") && error.contains("--text"), "{error}");
    }
}

#[test]
fn sensitivity_reads_kits_with_chunks() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let sensitivity = |kit: &str, more: &[&'static str]| {
        let kit = data.join(kit).display().to_string();
        let on = ["sensitivity", "--golden", &kit, "--device", "cpu", "--inputs", "2"];
        command(&[&on[..], more].concat(), None)
    };
    let (status, out, error) = sensitivity("pi0_lerobot_tiny", &["--precision", "bf16", "--json"]);
    assert_eq!(status, Some(0), "{error}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let row = &answer["rows"][0];
    assert_eq!((&row["precision"], &row["like_reference"]), (&"bf16".into(), &true.into()));
    let inputs: Vec<_> = row["reactions"].as_array().unwrap().iter().map(|r| &r["input"]).collect();
    let wanted = ["image base_0_rgb", "image left_wrist_0_rgb", "instruction", "state"];
    assert_eq!(inputs, wanted, "{out}");
    // By random weights, the state moves the chunk as much as the rounding of int8 does.
    let (status, out, error) = sensitivity("oft_tiny", &["--precision", "int8"]);
    assert_eq!((status, error.lines().count()), (Some(1), 1), "{out}{error}");
    assert!(error.contains("cpu int8 (state)"), "{error}");
    assert!(out.lines().any(|line| line.starts_with("cpu int8: MISSED")), "{out}");
}

#[test]
fn plan_prints_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, real_json().to_string()).unwrap();
    let path = path.to_str().unwrap();
    let (status, out, error) =
        command(&["plan", "--config", path, "--mesh", "n300", "--json"], None);
    assert_eq!(status, Some(0), "{error}");
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((plan["chips"].as_u64(), plan["precision"].as_str()), (Some(2), Some("mixed")));
    assert!(
        plan["hz"].as_f64().unwrap() > 1.0 && plan["assumptions"].as_array().unwrap().len() > 5
    );
    for mesh in ["p150", "p300", "quietbox", "LoudBox"] {
        let (status, out, error) = command(&["plan", "--config", path, "--mesh", mesh], None);
        assert_eq!(status, Some(0), "{error}");
        let line = out.lines().find(|line| line.starts_with("predicted: ")).unwrap();
        assert!(line.contains(" ms per action (") && out.contains(&mesh.to_lowercase()), "{out}");
    }
    let (status, out, error) =
        command(&["plan", "--config", path, "--mesh", "n150", "--precision", "bf16"], None);
    assert_eq!(status, Some(1));
    assert!(error.contains("GiB too many") && error.lines().count() == 1, "{error}");
    assert!(out.contains("assumed"), "the plan is shown all the same: {out}");
    let images = &["--mesh", "n300", "--images", "2"];
    for wrong in [images, &["--mesh", "n600"][..], &["--mesh", "n300", "--precision", "fp8"], &[]] {
        let (status, _, error) = command(&[&["plan", "--config", path], wrong].concat(), None);
        assert_ne!(status, Some(0), "{wrong:?}: {error}");
    }
    let (status, _, error) = command(&["plan", "--config", "nowhere.json", "--mesh", "n300"], None);
    assert_eq!((status, error.lines().count()), (Some(1), 1), "{error}");
}

/// `bench` of the kit on an N300.
fn on_chips() -> [String; 7] {
    let image = kit().parent().unwrap().join("images/07_480x640_RGB.png");
    let (checkpoint, image) = (kit().display().to_string(), image.display().to_string());
    ["bench", "--checkpoint", &checkpoint, "--image", &image, "--device", "tt:n300"]
        .map(str::to_owned)
}

/// A provider of another ABI version that writes to standard output when it is loaded, as TT-NN's
/// logger does.
fn noisy_provider(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("noisy.c"), folder.join("libnoisy.so"));
    let text = "#include <stdio.h>\n\
        __attribute__((constructor)) static void loaded(void) {\n\
            puts(\"noise\"); fflush(stdout);\n\
        }\n\
        unsigned ttp_abi_version(void) { return 9999; }\n";
    std::fs::write(&source, text).unwrap();
    let mut compiler = std::process::Command::new("cc");
    let status = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(status.expect("a C compiler is needed for this test").success());
    library
}

#[test]
fn standard_output_holds_answers_only() {
    let folder = tempfile::tempdir().unwrap();
    let noisy = noisy_provider(folder.path());
    let noisy = noisy.to_str().unwrap();
    let bench = on_chips();
    let bench: Vec<&str> = bench.iter().map(String::as_str).collect();
    let (status, out, error) = command(&bench, Some(noisy));
    assert_eq!((status, out.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains("noise\n"), "{error}");
    assert!(error.contains("OPENVLA_TT_PROVIDER: ") && error.contains("version 9999"), "{error}");
    let (status, out, error) = command(&["doctor", "--json", "--device", "sim:n300"], Some(noisy));
    assert_eq!((status, out.lines().count()), (Some(1), 1), "{out}{error}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let checks = answer["checks"].as_array().unwrap();
    let provider = checks.iter().find(|check| check["name"] == "provider").unwrap();
    assert!(provider["level"] == "error" && error.contains("noise"), "{provider}");
}

#[test]
fn a_simulated_provider_is_not_taken_for_chips() {
    let program = Path::new(env!("CARGO_BIN_EXE_openvla")).parent().unwrap();
    let library = ["libtt_mesh_sim.so", "deps/libtt_mesh_sim.so"].map(|name| program.join(name));
    let library = library.iter().find(|path| path.is_file()).unwrap();
    let bench = on_chips();
    let bench: Vec<&str> = bench.iter().map(String::as_str).collect();
    let (status, out, error) = command(&bench, library.to_str());
    assert_eq!((status, out.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains("use sim:n300, or unset OPENVLA_TT_PROVIDER"), "{error}");
}

#[test]
fn the_doctor_ends_with_a_sum() {
    let (status, out, error) = command(&["doctor", "--device", "sim:n300"], None);
    let last = out.lines().last().unwrap();
    assert!(last.contains(" ok, ") && last.ends_with(" errors"), "{out}");
    assert_eq!(status == Some(0), last.ends_with(" 0 errors"), "{out}{error}");
    let named = |out: &str| {
        let line = out.lines().find(|line| line.split_whitespace().nth(1) == Some("provider"));
        line.unwrap().to_owned()
    };
    let provider = named(&out);
    assert!(provider.starts_with("ok ") && provider.contains("libtt_mesh_sim.so"), "{provider}");
    // No card here: each line says what to do, the exit status that something is to be done.
    let (status, out, error) = command(&["doctor", "--device", "tt:n300"], None);
    assert_eq!((status, error.lines().count()), (Some(1), 1), "{out}{error}");
    assert!(error.contains("checks failed"), "{error}");
    let provider = named(&out);
    assert!(
        provider.starts_with("error") && provider.contains("name it in OPENVLA_TT_PROVIDER"),
        "{provider}"
    );
}
