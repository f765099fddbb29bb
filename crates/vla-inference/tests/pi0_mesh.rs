//! pi0 and pi0.5 on simulated meshes: the golden kits, and traces that give what eager operation
//! gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use std::collections::BTreeMap;
use std::path::Path;

use pi0_support::{KITS, copied, edit, kit};
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{Division, MeshKind, Provider, TtBackend, open};
use vla_inference::backend::{Backend, BackendError};
use vla_inference::golden::pi0::{Pi0Bounds, RtcCases, check};
use vla_inference::models::Probe;
use vla_inference::observation::{CameraFrame, Observation, Playback, RgbImage};
use vla_inference::policy::{
    ContinuationMode, FlowOptions, Instruction, Pi0Policy, Policy, PolicyOptions,
};

/// Every query head and MLP whole on every chip.
const WHOLE: Division = Division { queries: false, few_rows_queries: false, few_rows_mlps: false };

fn stages_agree(mesh: MeshKind, precision: &str) {
    divided_stages_agree(mesh, precision, None);
}

/// The kits on a mesh that divides the given layers, or those that it chooses.
fn divided_stages_agree(mesh: MeshKind, precision: &str, division: Option<Division>) {
    for name in KITS {
        let mut kit = kit(name);
        // One case is every operation; the whole kit is `openvla selfcheck`'s.
        kit.cases.truncate(1);
        kit.rtc = RtcCases::default();
        let mut backend =
            open(Provider::Simulated, mesh, PrecisionPolicy::load(precision).unwrap()).unwrap();
        if let Some(division) = division {
            backend = backend.with_division(division);
        }
        let options = PolicyOptions { precision: precision.into(), ..Default::default() };
        let policy = Pi0Policy::open(backend, &kit.checkpoint(), &options).unwrap();
        let reports = check(&kit, &policy, Pi0Bounds::of(precision), |report| {
            let worst = report.worst().map(|stage| (&stage.name, stage.agreement.pcc));
            eprintln!("{name} {mesh:?} {precision} {}: {worst:?} {:?}", report.name, report.growth);
        })
        .unwrap();
        let missed: Vec<_> = reports.iter().flat_map(|report| &report.missed).collect();
        assert!(missed.is_empty(), "{name} {mesh:?} {precision} {division:?}: {missed:#?}");
        assert_eq!(policy.backend().resharding_count(), 0, "resharded through the host");
    }
}

#[test]
fn n150_agrees_in_bf16() {
    stages_agree(MeshKind::N150, "bf16");
}

#[test]
fn n300_agrees_in_bf16() {
    stages_agree(MeshKind::N300, "bf16");
}

#[test]
fn t3k_agrees_in_bf16() {
    stages_agree(MeshKind::T3k, "bf16");
}

#[test]
fn quietbox_agrees_in_bf16() {
    stages_agree(MeshKind::QuietBox, "bf16");
}

#[test]
fn n300_agrees_with_block_float_weights() {
    stages_agree(MeshKind::N300, "mixed");
}

#[test]
fn p300_agrees_in_bf16() {
    stages_agree(MeshKind::P300, "bf16");
}

/// The kits have four query heads: two and one of them on a chip, and, on eight chips, four chips
/// with heads of zeros.
#[test]
fn divided_queries_agree() {
    for mesh in [MeshKind::N300, MeshKind::QuietBox, MeshKind::T3k] {
        divided_stages_agree(mesh, "bf16", Some(Division::ALL));
    }
    divided_stages_agree(MeshKind::P300, "bfp8", Some(Division::ALL));
}

#[test]
fn whole_layers_agree() {
    divided_stages_agree(MeshKind::N300, "bf16", Some(WHOLE));
}

const MESHES: [MeshKind; 3] = [MeshKind::N150, MeshKind::N300, MeshKind::T3k];

fn open_on(mesh: MeshKind, folder: &Path, flow: FlowOptions) -> Pi0Policy<TtBackend> {
    open_divided(mesh, folder, flow, None)
}

fn open_divided(
    mesh: MeshKind,
    folder: &Path,
    flow: FlowOptions,
    division: Option<Division>,
) -> Pi0Policy<TtBackend> {
    let precision = PrecisionPolicy::load("bf16").unwrap();
    let division = division.unwrap_or_else(|| Division::of(mesh, &precision));
    let backend = open(Provider::Simulated, mesh, precision).unwrap().with_division(division);
    let flow = FlowOptions { steps: Some(2), seed: Some(3), ..flow };
    let options = PolicyOptions { precision: "bf16".into(), flow, ..Default::default() };
    Pi0Policy::open(backend, folder, &options).unwrap()
}

/// What the policy's cameras and joints show, as a function of `seed`.
fn observation(policy: &Pi0Policy<TtBackend>, words: &str, seed: u8) -> Observation {
    let image = |number: usize| {
        let value = |at: usize| ((at / 97 + number * 31) as u8).wrapping_mul(seed);
        RgbImage::new(224, 224, (0..224 * 224 * 3).map(value).collect()).unwrap()
    };
    let cameras = policy.info().cameras.iter().enumerate();
    Observation {
        instruction: Instruction::new(words).unwrap(),
        images: cameras
            .map(|(number, camera)| CameraFrame { camera: camera.clone(), image: image(number) })
            .collect(),
        state: (0..policy.info().state_dim)
            .map(|at| f64::from(seed) * 0.01 - 0.05 * at as f64)
            .collect(),
        playback: Playback::default(),
    }
}

/// Chunks with traces are those of eager operation, for new images, states, instructions as long
/// and longer, and where the host corrects velocities.
fn traces_equal_eager(name: &str, mesh: MeshKind, division: Option<Division>) {
    let folder = kit(name).checkpoint();
    let flow = || FlowOptions { continuation: guided(), ..Default::default() };
    let mut eager = open_divided(mesh, &folder, flow(), division);
    let mut traced = open_divided(mesh, &folder, flow(), division).with_traces();
    let long = "把红色的方块放到盘子里";
    let steps = [
        ("pick up the bowl", 3, "capture"),
        ("pick up the bowl", 5, "execute"),
        ("lift up the bowl", 5, "execute"),
        // Another number of positions under the same traces.
        ("pick up the red bowl", 7, "execute"),
        (long, 7, "capture"),
        (long, 9, "execute"),
        // A tile fewer: the larger traces serve it.
        ("pick up the bowl", 11, "execute"),
    ];
    let mut distinct = Vec::new();
    // All of them on one mesh; the others need no second shape.
    let count = if mesh == MeshKind::N300 { steps.len() } else { 4 };
    for (number, (words, seed, stage)) in steps.into_iter().enumerate().take(count) {
        let what = format!("{name} {mesh:?}, chunk {number}");
        let mut seen = observation(&traced, words, seed);
        // The last one continues the one before it, with velocities corrected on the host.
        let corrected = number == 5;
        if corrected {
            seen.playback = Playback { executed: Some(3), delay: 2 };
        }
        let before = (traced.backend().traffic(), traced.backend().launches());
        let (ours, theirs) = (traced.act(&seen).unwrap(), eager.act(&seen).unwrap());
        let after = (traced.backend().traffic(), traced.backend().launches());
        assert_eq!(ours.stages.last().unwrap().name, stage, "{what}");
        assert_eq!(ours.actions, theirs.actions, "{what}");
        if stage == "execute" {
            assert_eq!(before.1, after.1, "{what}: operations launched by the host");
            let reads = if corrected { 2 } else { 1 };
            assert_eq!(after.0.reads - before.0.reads, reads, "{what}");
        }
        if number == 1 {
            // Images, noise, and the state, which pi0.5 has in its prompt.
            let cameras = traced.info().cameras.len() as u64;
            let writes = after.0.writes - before.0.writes;
            assert!((cameras + 2..=cameras + 6).contains(&writes), "{what}: {writes} writes");
        }
        distinct.push(ours.actions);
    }
    distinct.dedup();
    assert_eq!(distinct.len(), count, "{name} {mesh:?}: inputs do not matter");
    for policy in [&eager, &traced] {
        assert_eq!(policy.backend().resharding_count(), 0, "resharded through the host");
    }
}

fn guided() -> ContinuationMode {
    ContinuationMode::Guided { horizon: None, schedule: None, max_weight: None }
}

#[test]
fn traces_of_pi0_equal_eager_chunks() {
    for mesh in MESHES {
        traces_equal_eager(KITS[0], mesh, None);
    }
}

#[test]
fn traces_of_pi05_equal_eager_chunks() {
    for mesh in MESHES {
        traces_equal_eager(KITS[1], mesh, None);
    }
}

#[test]
fn traces_of_other_divisions_equal_eager_chunks() {
    traces_equal_eager(KITS[0], MeshKind::T3k, Some(Division::ALL));
    traces_equal_eager(KITS[1], MeshKind::P300, Some(Division::ALL));
    traces_equal_eager(KITS[1], MeshKind::T3k, Some(WHOLE));
}

#[test]
fn frozen_rows_run_eagerly_over_a_traced_prefix() {
    let copy = copied(KITS[1]);
    let folder = copy.path().join("ckpt");
    edit(&folder.join("config.json"), |config| config["rtc_training_max_delay"] = 4.into());
    let flow = || FlowOptions { continuation: ContinuationMode::Trained, ..Default::default() };
    let mut eager = open_on(MeshKind::N300, &folder, flow());
    let mut traced = open_on(MeshKind::N300, &folder, flow()).with_traces();
    for (seed, delay, stage) in [(3, 0, "capture"), (5, 2, "execute"), (7, 0, "execute")] {
        let mut seen = observation(&traced, "pick up the bowl", seed);
        seen.playback = Playback { executed: Some(3), delay };
        let (ours, theirs) = (traced.act(&seen).unwrap(), eager.act(&seen).unwrap());
        assert_eq!(ours.stages.last().unwrap().name, stage, "{seed}");
        assert_eq!(ours.actions, theirs.actions, "{seed}");
    }
}

/// Keeps every tensor by its name.
struct Recorder<'a>(&'a TtBackend, BTreeMap<String, Vec<f32>>);

impl Probe<TtBackend> for Recorder<'_> {
    fn observe(
        &mut self,
        name: &str,
        tensor: &<TtBackend as Backend>::Tensor,
    ) -> Result<(), BackendError> {
        self.1.insert(name.to_owned(), self.0.download(tensor)?.to_f32());
        Ok(())
    }
}

#[test]
fn chips_agree_in_every_bit_before_the_first_sum_over_them() {
    for name in KITS {
        let runs: Vec<_> = MESHES
            .iter()
            .map(|&mesh| {
                let policy = open_on(mesh, &kit(name).checkpoint(), FlowOptions::default());
                let seen = observation(&policy, "pick up the bowl", 3);
                let state: Vec<f32> = seen.state.iter().map(|&value| value as f32).collect();
                let features: Vec<String> = policy
                    .checkpoint()
                    .config
                    .real_cameras()
                    .map(|camera| camera.feature.clone())
                    .collect();
                let images = features
                    .into_iter()
                    .zip(&seen.images)
                    .map(|(feature, frame)| (feature, &frame.image))
                    .collect();
                let prepared = policy.prepare(&images, &state, "pick up the bowl").unwrap();
                let mut recorder = Recorder(policy.backend(), BTreeMap::new());
                let prefix = policy.prefix(&prepared, &mut recorder).unwrap();
                let (keys, values) = policy.backend().read_cache(prefix.cache(), 0).unwrap();
                let mut tensors = recorder.1;
                tensors.insert("keys".into(), keys.to_f32());
                tensors.insert("values".into(), values.to_f32());
                tensors
            })
            .collect();
        let [one, two, eight] = runs.as_slice() else { panic!("three meshes") };
        let mut equal = 0;
        for (tensor, values) in one {
            let before = ["vision.", "projector.", "prefix.embs", "state.embs", "keys", "values"];
            if before.iter().any(|prefix| tensor.starts_with(prefix)) {
                assert_eq!((values, values), (&two[tensor], &eight[tensor]), "{name} {tensor}");
                equal += 1;
            }
        }
        assert!(equal >= 7, "{name}: {:?}", one.keys());
    }
}
