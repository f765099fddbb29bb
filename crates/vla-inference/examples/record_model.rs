//! Writes every call that a model of its published size makes to a mesh, one line of JSON each,
//! for `tools/silicon/replay.py`. Weights have shapes only: nothing is read and nothing computed.
//!
//! ```sh
//! cargo run -p vla-inference --example record_model -- \
//!     --model openvla --device sim:n300 --out calls.jsonl
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use serde_json::json;
use tt_metal::{Mesh, MeshOptions, Provider, Target};
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{TtBackend, flow_trace_region_bytes};
use vla_inference::checkpoint::pi0::{Pi0Checkpoint, Pi0Config, Pi0Source};
use vla_inference::checkpoint::{Checkpoint, OftCheckpoint, OpenVlaConfig};
use vla_inference::models::action_trace::{
    ActionInput, ActionTraceSpec, TracedDecode, TracedDecoder,
};
use vla_inference::models::oft::trace::{TracedAnswer, TracedAnswers};
use vla_inference::models::oft::{OftInput, OftParts, OpenVlaOft};
use vla_inference::models::openvla::OpenVla;
use vla_inference::models::pi0::{ChunkInput, Pi0, TracedChunk, TracedChunks};
use vla_inference::models::{ModelError, TensorSource};
use vla_inference::tensor::{DType, HostTensor};

/// Tokens of OpenVLA's vocabulary that stand for actions.
const ACTION_IDS: std::ops::Range<usize> = 31_744..32_000;
/// Side of the images of every model.
const SIDE: usize = 224;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Model {
    /// openvla-7b.
    Openvla,
    /// openvla-7b with an action's tokens drafted, as `draft: true`.
    OpenvlaDraft,
    /// OpenVLA-OFT 7B on LIBERO: two cameras, the state, chunks of 8.
    Oft,
    /// pi0 with three cameras.
    Pi0,
    /// pi0.5 with three cameras.
    Pi05,
}

#[derive(Debug, Parser)]
struct Arguments {
    /// Which model.
    #[arg(long)]
    model: Model,
    /// Mesh of the recording.
    #[arg(long, default_value = "sim:n300")]
    device: String,
    /// Precision policy.
    #[arg(long, default_value = "mixed")]
    precision: String,
    /// At most so many blocks of each network, which repeat the same operations; all by default.
    #[arg(long)]
    layers: Option<usize>,
    /// Only the 256 rows of the head that stand for actions, as `decode: actions`.
    #[arg(long)]
    action_head: bool,
    /// The recording.
    #[arg(long, required_unless_present = "provider")]
    out: Option<PathBuf>,
    /// Makes the calls on this provider instead of recording them: on the shim in TT-NN's mock
    /// mode.
    #[arg(long, conflicts_with = "out")]
    provider: Option<PathBuf>,
}

impl Arguments {
    /// Whether each of the actions is executed from traces: the first is eager and captured. A mock
    /// cluster executes none.
    fn actions(&self) -> &[bool] {
        if self.provider.is_some() { &[false] } else { &[false, true] }
    }
}

/// Tensors of any shape, all of them views of the same zeros, which no page of memory backs.
struct Shapes(Bytes);

impl Shapes {
    /// Room for the largest tensor: a Llama head, or half of a Gemma layer's MLP.
    fn new() -> Self {
        Self(vec![0u8; 32_064 * 4096 * 2].into())
    }
}

impl TensorSource for Shapes {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        let bytes = shape.iter().product::<usize>() * DType::Bf16.bytes();
        let zeros =
            if bytes <= self.0.len() { self.0.slice(..bytes) } else { vec![0; bytes].into() };
        HostTensor::from_bytes(DType::Bf16, shape, zeros)
            .map_err(|source| ModelError::Tensor { name: name.to_owned(), source })
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }
}

fn kit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

/// The configuration of openvla-7b, which OpenVLA-OFT shares, with fewer layers if wanted.
fn openvla_config(layers: Option<usize>) -> OpenVlaConfig {
    let path = kit("openvla_tiny").join("ckpt/config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("tiny_timm_overrides");
    config["text_config"] = json!({
        "model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16",
        "vocab_size": 32064
    });
    let mut config = OpenVlaConfig::from_json(&path, config.to_string().as_bytes()).unwrap();
    if let Some(layers) = layers {
        config.llama.num_hidden_layers = config.llama.num_hidden_layers.min(layers);
        for tower in &mut config.towers {
            // The last block of a tower is never used.
            tower.depth = tower.depth.min(layers + 1);
        }
    }
    config
}

/// LeRobot's defaults, which are the published sizes.
fn pi0_config(kind: &str, layers: Option<usize>) -> Pi0Config {
    let image = json!({"type": "VISUAL", "shape": [3, SIDE, SIDE]});
    let text = json!({
        "type": kind,
        "input_features": {
            "observation.images.base_0_rgb": image,
            "observation.images.left_wrist_0_rgb": image,
            "observation.images.right_wrist_0_rgb": image,
            "observation.state": {"type": "STATE", "shape": [32]}
        },
        "output_features": {"action": {"type": "ACTION", "shape": [32]}},
        "normalization_mapping":
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    });
    let path = PathBuf::from("config.json");
    let mut config = Pi0Config::from_json(&path, text.to_string().as_bytes()).unwrap();
    if let Some(layers) = layers {
        let vision = &mut config.vision.num_hidden_layers;
        *vision = (*vision).min(layers);
        config.vlm.depth = config.vlm.depth.min(layers);
        config.expert.depth = config.expert.depth.min(layers);
    }
    config
}

fn openvla(backend: &TtBackend, arguments: &Arguments, speculative: bool) {
    let config = openvla_config(arguments.layers);
    let preprocessor = Checkpoint::open(&kit("openvla_tiny").join("ckpt")).unwrap().preprocessor;
    let head = if arguments.action_head { ACTION_IDS } else { 0..config.llama.vocab_size };
    let model = OpenVla::load(backend, &Shapes::new(), &config, &preprocessor, head).unwrap();
    let spec = ActionTraceSpec {
        tokens: 7,
        speculative,
        end_id: ACTION_IDS.end as u32,
        centres: vec![0.0; 255],
    };
    let mut decoder = TracedDecoder::new(spec);
    let (rgb, prompt, draft) = ([7; SIDE * SIDE * 3], [1; 20], [ACTION_IDS.start as u32; 7]);
    for &executed in arguments.actions() {
        let input = ActionInput { rgb: &rgb, prompt: &prompt, draft: &draft };
        let tokens = decoder.decode(backend, &model, input).unwrap();
        assert_eq!(tokens.executed, executed);
    }
}

fn oft(backend: &TtBackend, arguments: &Arguments) {
    let mut checkpoint = OftCheckpoint::open(&kit("oft_tiny").join("ckpt")).unwrap();
    checkpoint.base.config = openvla_config(arguments.layers);
    let head = checkpoint.head.as_mut().unwrap();
    (head.action_dim, head.hidden, head.blocks) = (7, 4096, 2);
    checkpoint.proprio.as_mut().unwrap().state_dim = 8;
    let parts = OftParts { regression: true, proprio: true, film: false };
    let model = OpenVlaOft::load_from(backend, &checkpoint, Some(&Shapes::new()), parts).unwrap();
    let mut answers = TracedAnswers::default();
    let (rgb, prompt, state) = ([7; SIDE * SIDE * 3], [1; 34], [0.5; 8]);
    for &executed in arguments.actions() {
        let input = OftInput {
            images: &[&rgb, &rgb],
            prompt: &prompt,
            state: Some(&state),
            conditioning: None,
            actions: (8, 7),
        };
        let (_, from_trace) = answers.answer(backend, &model, &input).unwrap();
        assert_eq!(from_trace, executed);
    }
}

fn pi0(backend: &TtBackend, arguments: &Arguments, kind: &str, kit_name: &str) {
    let source = Pi0Source { folder: kit(kit_name).join("ckpt"), ..Pi0Source::default() };
    let mut checkpoint = Pi0Checkpoint::open(&source).unwrap();
    checkpoint.config = pi0_config(kind, arguments.layers);
    checkpoint.positions = 256;
    // The embedding stays on the host, where only the prompt's rows are read.
    checkpoint.embedding.1 = 1024;
    let config = &checkpoint.config;
    let model = Pi0::load(backend, &Shapes::new(), &checkpoint).unwrap();
    let schedule = model.schedule(backend, config.num_inference_steps).unwrap();
    let pixels = vec![0.25; 3 * SIDE * SIDE];
    let state = vec![0.5; config.max_state_dim];
    // A short instruction; pi0.5's prompt holds the state too.
    let ids = vec![3; if kind == "pi0" { 20 } else { 150 }];
    let input = ChunkInput { images: &[&pixels[..], &pixels, &pixels], ids: &ids, state: &state };
    let noise = [config.chunk_size, config.max_action_dim];
    let noise = HostTensor::from_f32(&noise, vec![0.1; noise[0] * noise[1]]).unwrap();
    let mut traced = TracedChunks::default();
    let network = (&model, &schedule);
    for &executed in arguments.actions() {
        assert_eq!(traced.begin(backend, network, &input).unwrap(), executed);
        traced.integrate(backend, network, &noise).unwrap();
        traced.finish(backend, network).unwrap();
    }
}

fn main() {
    let arguments = Arguments::parse();
    let target: Target = arguments.device.parse().expect("a device such as sim:n300");
    let provider = match (&arguments.out, &arguments.provider) {
        (Some(out), _) => {
            Provider::linked(tt_mesh_sim::record::api(out).expect("the recording's file"))
        }
        (None, library) => Provider::open(library.as_deref().unwrap()).unwrap(),
    };
    let trace_region_bytes = flow_trace_region_bytes(target.board);
    let options = MeshOptions { trace_region_bytes, ..MeshOptions::default() };
    let mesh = Mesh::open(&provider, target.board, options).unwrap();
    let policy = PrecisionPolicy::load(&arguments.precision).unwrap();
    let backend = TtBackend::new(mesh, target.to_string(), policy);
    match arguments.model {
        Model::Openvla => openvla(&backend, &arguments, false),
        Model::OpenvlaDraft => openvla(&backend, &arguments, true),
        Model::Oft => oft(&backend, &arguments),
        Model::Pi0 => pi0(&backend, &arguments, "pi0", "pi0_lerobot_tiny"),
        Model::Pi05 => pi0(&backend, &arguments, "pi05", "pi05_lerobot_tiny"),
    }
    println!(
        "{:?} on {target} {}: {:?}, {} MiB a chip",
        arguments.model,
        arguments.precision,
        backend.launches(),
        backend.allocated_memory().unwrap() >> 20
    );
}
