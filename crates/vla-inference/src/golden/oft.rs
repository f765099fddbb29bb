//! Golden kits of OpenVLA-OFT: reading one, running it and comparing every stage.
//!
//! Layout: `ckpt/` (a checkpoint), `cases.json`, `images/`, `prepared/`,
//! `tensors/caseNN.safetensors`; see `tests/data/oft_tiny/README.md`. Images, joints, chunk, layers
//! and statistics are the kit's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::check::CheckError;
use super::image_preparation::pipeline;
use super::kit::{KitError, image, json, read_tensors};
use super::reaction::Inputs;
use crate::backend::{Backend, BackendError};
use crate::checkpoint::{BoundsKind, OftCheckpoint};
use crate::models::oft::OftLayout;
use crate::models::{NoProbe, Probe};
use crate::observation::{Operation, Preparation, RgbImage, Step};
use crate::policy::{
    Instruction, OftContract, OftGeneration, OftPolicy, PolicyError, PolicyOptions, prompt,
};
use crate::tensor::{Agreement, HostTensor, agreement};

/// Side of the images that the official code prepares, pixels.
const SIDE: usize = 224;

/// Bounds that a device must meet on an OpenVLA-OFT kit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OftBounds {
    /// Lowest Pearson correlation of any stage.
    pub pcc: f64,
    /// Largest absolute error of a normalised action; `None` when only the correlation counts.
    pub actions: Option<f64>,
}

impl OftBounds {
    /// Bounds of a precision, by its name.
    #[must_use]
    pub fn of(precision: &str) -> Self {
        match precision {
            "f32" => Self { pcc: 0.99999, actions: Some(1e-4) },
            "bf16" => Self { pcc: 0.999, actions: None },
            _ => Self { pcc: 0.99, actions: None },
        }
    }
}

#[derive(Deserialize)]
struct Cases {
    about: String,
    platform: Platform,
    cases: Vec<Case>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    chunk: usize,
    action_dim: usize,
    proprio_dim: usize,
    bounds: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Case {
    id: usize,
    images: Vec<CaseImage>,
    pipeline: String,
    center_crop: bool,
    instruction: String,
    prompt: String,
    unnorm_key: String,
    input_ids: Vec<u32>,
    input_ids_fed: Vec<u32>,
    layout: Layout,
    #[serde(default)]
    proprio: Option<State>,
    tensors: Option<PathBuf>,
    /// Results of the whole checkpoint with and without FiLM.
    #[serde(default)]
    results: BTreeMap<String, Answer>,
    /// Results of a kit without FiLM, and of variants.
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct CaseImage {
    camera: String,
    file: PathBuf,
    prepared: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
struct Layout {
    rows: usize,
    patches: [usize; 2],
    proprio: Option<usize>,
    prompt: [usize; 2],
    action_zeros: [usize; 2],
    read: [usize; 2],
}

#[derive(Clone, Debug, Deserialize)]
struct State {
    raw: Vec<f64>,
    normalized: Vec<f64>,
}

/// What the official code answered.
#[derive(Clone, Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    normalized_actions: Vec<Vec<f64>>,
    actions: Vec<Vec<f64>>,
    #[serde(default)]
    wrong_if_causal: Vec<Vec<f64>>,
    #[serde(default)]
    token_ids: Vec<u32>,
}

/// A golden kit of OpenVLA-OFT.
pub struct OftKit {
    folder: PathBuf,
    /// How it was made.
    pub about: String,
    platform: Platform,
    bounds: BoundsKind,
    cases: Vec<Case>,
}

/// One way to run a checkpoint, with the cases that were recorded so.
struct Variant {
    name: String,
    /// Prefix of its tensors; `None` when none were recorded.
    tensors: Option<String>,
    discrete: bool,
    state: bool,
    film: bool,
    /// Number of images, if not all of the case.
    images: Option<usize>,
    answers: BTreeMap<usize, Answer>,
}

impl OftKit {
    /// Whether the folder is such a kit, by the fields of its `cases.json`.
    #[must_use]
    pub fn is_one(folder: &Path) -> bool {
        #[derive(Deserialize)]
        struct Sign {
            platform: Option<Platform>,
        }
        json::<Sign>(&folder.join("cases.json")).is_ok_and(|sign| sign.platform.is_some())
    }

    /// Reads the kit in `folder`.
    ///
    /// # Errors
    /// When a file is missing or is not a kit's.
    pub fn open(folder: &Path) -> Result<Self, KitError> {
        let path = folder.join("cases.json");
        let failed = |reason: String| KitError { path: path.clone(), reason };
        let Cases { about, platform, cases } = json(&path)?;
        if cases.is_empty() {
            return Err(failed("holds no case".into()));
        }
        let bounds = match platform.bounds.as_str() {
            "q01/q99" => BoundsKind::Quantiles,
            "min/max" => BoundsKind::Extremes,
            other => return Err(failed(format!("has unknown bounds {other:?}"))),
        };
        Ok(Self { folder: folder.to_owned(), about, platform, bounds, cases })
    }

    /// The checkpoint folder.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("ckpt")
    }

    /// Options of a policy of the kit's own checkpoint, as its first case was recorded.
    ///
    /// # Errors
    /// When the kit is unfit.
    pub fn options(&self) -> Result<PolicyOptions, KitError> {
        let variants = self.variants()?;
        let contract = variants.first().map(|variant| self.contract(variant)).transpose()?;
        Ok(PolicyOptions {
            unnorm_key: self.cases.first().map(|case| case.unnorm_key.clone()),
            // Where the folder has them, the checkpoint was trained with them.
            oft: contract.map(|contract| OftContract { film: true, ..contract }),
            ..PolicyOptions::default()
        })
    }

    /// Up to `count` values of each input of a policy.
    ///
    /// # Errors
    /// When an image cannot be read or an instruction cannot be given.
    pub fn inputs(&self, count: usize) -> Result<Inputs, KitError> {
        let files: BTreeSet<&PathBuf> = self
            .cases
            .iter()
            .flat_map(|case| case.images.iter().map(|image| &image.file))
            .collect();
        let images = files.into_iter().take(count).map(|file| image(&self.folder, file));
        let instructions = self.cases.iter().map(|case| case.instruction.as_str()).collect();
        let states = self.cases.iter().filter_map(|case| case.proprio.as_ref());
        let states = states.map(|state| state.raw.clone()).collect();
        Inputs::of_kit(&self.folder, images.collect::<Result<_, _>>()?, instructions, states, count)
    }

    /// The ways to run the checkpoint that the kit has results for.
    fn variants(&self) -> Result<Vec<Variant>, KitError> {
        let mut variants: BTreeMap<(usize, String), Variant> = BTreeMap::new();
        for case in &self.cases {
            let mut add = |order: usize, variant: Variant, answer: Answer| {
                let key = (order, variant.name.clone());
                variants.entry(key).or_insert(variant).answers.insert(case.id, answer);
            };
            let whole = |name: &str, prefix: &str, film| Variant {
                name: name.to_owned(),
                tensors: Some(prefix.to_owned()),
                discrete: false,
                state: case.proprio.is_some(),
                film,
                images: None,
                answers: BTreeMap::new(),
            };
            for (name, answer) in &case.results {
                let film = name == "film";
                add(usize::from(film), whole(name, &format!("{name}."), film), answer.clone());
            }
            if case.others.contains_key("actions") {
                add(0, whole("plain", "", false), self.answer(case, &case.others)?);
            }
            let part = |name: &str| {
                case.others.get(name).and_then(Value::as_object).map(|map| self.answer(case, map))
            };
            if let Some(answer) = part("one_image") {
                let variant = whole("one_image", "", false);
                add(2, Variant { tensors: None, images: Some(1), ..variant }, answer?);
            }
            if let Some(answer) = part("without_proprio") {
                let variant = whole("without_proprio", "", false);
                add(3, Variant { tensors: None, state: false, ..variant }, answer?);
            }
            for name in case.others.keys().filter(|name| name.starts_with("discrete_")) {
                let Some(answer) = part(name) else { continue };
                let count = ["one", "two", "three", "four"].iter().position(|count| {
                    name.strip_prefix("discrete_").is_some_and(|rest| rest.starts_with(count))
                });
                let variant = Variant {
                    tensors: None,
                    discrete: true,
                    // The official code never passes the state on without a head.
                    state: false,
                    images: count.map(|index| index + 1),
                    ..whole(name, "", false)
                };
                add(4, variant, answer?);
            }
        }
        Ok(variants.into_values().collect())
    }

    fn answer(&self, case: &Case, map: &Map<String, Value>) -> Result<Answer, KitError> {
        Answer::deserialize(Value::Object(map.clone())).map_err(|error| KitError {
            path: self.folder.join("cases.json"),
            reason: format!("case {}: {error}", case.id),
        })
    }

    fn contract(&self, variant: &Variant) -> Result<OftContract, KitError> {
        let case = &self.cases[0];
        Ok(OftContract {
            cameras: case.images.iter().map(|image| image.camera.as_str().into()).collect(),
            preparation: self.preparation(case)?,
            chunk: self.platform.chunk,
            bounds: self.bounds,
            state: variant.state,
            discrete: variant.discrete,
            film: variant.film,
        })
    }

    /// The official preparation of a case's images, by its name. Whether the centre crop applies is
    /// the user's choice in the official code.
    fn preparation(&self, case: &Case) -> Result<Preparation, KitError> {
        let failed = |reason: String| KitError { path: self.folder.join("cases.json"), reason };
        let Some(whole) = pipeline(&case.pipeline, SIDE) else {
            return Err(failed(format!("has the unknown pipeline {:?}", case.pipeline)));
        };
        let crops = |step: &Step| matches!(step.operation, Operation::CenterCrop(_));
        let mut steps = whole.steps().to_vec();
        if !case.center_crop {
            steps.retain(|step| !crops(step));
        } else if !steps.iter().any(crops) {
            return Err(failed(format!("crops in pipeline {:?}, which does not", case.pipeline)));
        }
        Preparation::new(steps).map_err(|error| failed(error.to_string()))
    }
}

/// One stage of one case.
#[derive(Clone, Debug, serde::Serialize)]
pub struct OftStage {
    /// Name as in the kit.
    pub stage: String,
    /// Pearson correlation with the kit's values; NaN when they cannot be compared.
    pub pcc: f64,
    /// Root mean square of the difference over that of the kit's values.
    pub relative_rms: f64,
}

/// One case of one variant.
#[derive(Clone, Debug, serde::Serialize)]
pub struct OftCaseResult {
    /// Number of the case.
    pub case: usize,
    /// Variant: `plain`, `film`, `without_proprio`, ...
    pub variant: String,
    /// Prepared images that equal the kit's byte for byte, and all of them.
    pub images_equal: (usize, usize),
    /// Whether the prompt, its ids and the rows equal the kit's.
    pub ids_equal: bool,
    /// Largest difference of the normalised state.
    pub state_error: f64,
    /// Stages compared.
    pub stages: Vec<OftStage>,
    /// Stage with the lowest correlation, and that correlation.
    pub lowest: Option<(String, f64)>,
    /// Largest difference of a normalised action, where the kit has them.
    pub normalized_error: Option<f64>,
    /// Largest difference of an action, in the data set's units.
    pub action_error: f64,
    /// Tokens of a discrete answer.
    pub token_ids: Vec<u32>,
    /// Those of them that differ from the kit's.
    pub tokens_differ: usize,
    /// Bounds missed, in words.
    pub missed: Vec<String>,
}

impl std::fmt::Display for OftCaseResult {
    /// One line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { case, variant, images_equal: (equal, all), .. } = self;
        write!(f, "case {case} {variant}: {equal} of {all} images exact, ids ")?;
        f.write_str(if self.ids_equal { "equal" } else { "differ" })?;
        if let Some((stage, pcc)) = &self.lowest {
            write!(f, ", {} stages, lowest PCC {pcc:.8} ({stage})", self.stages.len())?;
        }
        if self.tokens_differ > 0 {
            write!(f, ", {} tokens differ", self.tokens_differ)?;
        }
        f.write_str(", actions off by ")?;
        if let Some(error) = self.normalized_error {
            write!(f, "{error:.1e} normalised, ")?;
        }
        write!(f, "{:.1e} in units", self.action_error)?;
        f.write_str(if self.missed.is_empty() { ": ok" } else { ": MISSED " })?;
        f.write_str(&self.missed.join("; "))
    }
}

/// Everything that was compared.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct OftReport {
    /// Cases, by variant.
    pub cases: Vec<OftCaseResult>,
}

impl OftReport {
    /// One line for each bound that was missed.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let lines = self.cases.iter().flat_map(|result| {
            let place = format!("case {} {}", result.case, result.variant);
            result.missed.iter().map(move |missed| format!("{place}: {missed}"))
        });
        lines.collect()
    }
}

/// Keeps every tensor by its name.
struct Recorder<'a, B: Backend> {
    backend: &'a B,
    tensors: BTreeMap<String, HostTensor>,
}

impl<B: Backend> Probe<B> for Recorder<'_, B> {
    fn observe(&mut self, name: &str, tensor: &B::Tensor) -> Result<(), BackendError> {
        self.tensors.insert(name.to_owned(), self.backend.download(tensor)?);
        Ok(())
    }
}

/// Runs the kit on a checkpoint folder (its own, or another of the same dimensions).
///
/// # Errors
/// When the kit or the folder is unfit or a case fails altogether; missed bounds are in the report.
pub fn check_oft<B: Backend>(
    kit: &OftKit,
    backend: B,
    folder: &Path,
    precision: &str,
) -> Result<OftReport, CheckError> {
    check_oft_with(kit, backend, folder, precision, |_| {})
}

/// [`check_oft`], with a change of each loaded policy: for tests that a defect is noticed.
///
/// # Errors
/// As [`check_oft`].
pub fn check_oft_with<B: Backend>(
    kit: &OftKit,
    backend: B,
    folder: &Path,
    precision: &str,
    change: impl Fn(&mut OftPolicy<B>),
) -> Result<OftReport, CheckError> {
    let failed = |source: PolicyError| CheckError::Policy { case: 0, source };
    let checkpoint = OftCheckpoint::open(folder).map_err(|error| failed(error.into()))?;
    let options = PolicyOptions {
        unnorm_key: kit.cases.first().map(|case| case.unnorm_key.clone()),
        precision: precision.to_owned(),
        ..PolicyOptions::default()
    };
    let mut unloaded = Some((backend, checkpoint));
    let mut loaded: Option<(OftContract, OftPolicy<B>)> = None;
    let mut report = OftReport::default();
    for variant in kit.variants()? {
        let contract = kit.contract(&variant)?;
        let policy = match (unloaded.take(), loaded.take()) {
            (Some((backend, checkpoint)), _) => {
                OftPolicy::from_checkpoint(backend, checkpoint, &options, contract.clone())
            }
            (None, Some((known, policy))) if known.same_model(&contract) => Ok(policy),
            (None, Some((_, policy))) => policy.reload(&options, contract.clone()),
            (None, None) => break,
        };
        let mut policy = policy.map_err(failed)?;
        change(&mut policy);
        for case in &kit.cases {
            let Some(answer) = variant.answers.get(&case.id) else { continue };
            let run =
                Run { kit, case, variant: &variant, answer, bounds: OftBounds::of(precision) };
            report.cases.push(run.check(&mut policy)?);
        }
        loaded = Some((contract, policy));
    }
    Ok(report)
}

/// One case of one variant.
struct Run<'a> {
    kit: &'a OftKit,
    case: &'a Case,
    variant: &'a Variant,
    answer: &'a Answer,
    bounds: OftBounds,
}

impl Run<'_> {
    fn check<B: Backend>(&self, policy: &mut OftPolicy<B>) -> Result<OftCaseResult, CheckError> {
        let failed = |source| CheckError::Policy { case: self.case.id, source };
        let Self { kit, case, variant, .. } = self;
        let mut result = OftCaseResult {
            case: case.id,
            variant: variant.name.clone(),
            images_equal: (0, 0),
            ids_equal: true,
            state_error: 0.0,
            stages: Vec::new(),
            lowest: None,
            normalized_error: None,
            action_error: 0.0,
            token_ids: Vec::new(),
            tokens_differ: 0,
            missed: Vec::new(),
        };
        policy.select_statistics(&case.unnorm_key).map_err(failed)?;
        policy.set_preparation(kit.preparation(case)?).map_err(failed)?;
        let images = self.images(policy, &mut result)?;
        let ids = self.ids(policy, &mut result)?;
        let state = self.state(policy, &mut result);
        let pixels: Vec<&[u8]> = images.iter().map(RgbImage::pixels).collect();
        let generation = match (&variant.tensors, &case.tensors) {
            (Some(prefix), Some(path)) => {
                let path = kit.folder.join(path);
                let golden = read_tensors(&path)?
                    .ok_or_else(|| KitError { path: path.clone(), reason: "is missing".into() })?;
                let backend = policy.backend();
                let mut recorder = Recorder { backend, tensors: BTreeMap::new() };
                let generation = policy.generate(&pixels, &ids, &state, &mut recorder);
                self.stages(&recorder.tensors, (prefix, &golden), &mut result);
                generation
            }
            _ => policy.generate(&pixels, &ids, &state, &mut NoProbe),
        };
        self.actions(&generation.map_err(failed)?, &mut result);
        Ok(result)
    }

    /// Prepares the images, and returns the kit's, so that a difference counts once.
    fn images<B: Backend>(
        &self,
        policy: &mut OftPolicy<B>,
        result: &mut OftCaseResult,
    ) -> Result<Vec<RgbImage>, CheckError> {
        let failed = |source| CheckError::Policy { case: self.case.id, source };
        let wanted = self.variant.images.unwrap_or(self.case.images.len());
        let mut prepared = Vec::new();
        for entry in self.case.images.iter().take(wanted) {
            let ours = policy.prepare(&image(&self.kit.folder, &entry.file)?).map_err(failed)?;
            let theirs = image(&self.kit.folder, &entry.prepared)?;
            result.images_equal.1 += 1;
            if ours == theirs {
                result.images_equal.0 += 1;
            } else {
                let name = entry.file.display();
                result.missed.push(format!("{name} is prepared differently"));
            }
            prepared.push(theirs);
        }
        Ok(prepared)
    }

    /// The prompt's ids, compared with the kit's, and the rows.
    fn ids<B: Backend>(
        &self,
        policy: &OftPolicy<B>,
        result: &mut OftCaseResult,
    ) -> Result<Vec<u32>, CheckError> {
        let failed = |source| CheckError::Policy { case: self.case.id, source };
        let (case, platform) = (self.case, &self.kit.platform);
        let instruction =
            Instruction::recorded(&case.instruction).map_err(|error| failed(error.into()))?;
        let text = prompt(&policy.checkpoint().base.config.prompt, &instruction);
        let ids = policy.tokenize(&text).map_err(failed)?;
        let answers = platform.chunk * platform.action_dim;
        let fed = [ids.as_slice(), &vec![1; answers], &[2]].concat();
        if text != case.prompt || !ids.starts_with(&case.input_ids) || fed != case.input_ids_fed {
            result.missed.push("the prompt's ids differ".into());
            result.ids_equal = false;
        }
        let layout = &case.layout;
        let range = |[start, end]: [usize; 2]| start..end;
        let theirs = OftLayout {
            rows: layout.rows,
            patches: range(layout.patches),
            proprio: layout.proprio,
            prompt: range(layout.prompt),
            action_zeros: range(layout.action_zeros),
            read: range(layout.read),
        };
        let patches = case.images.len() * policy.checkpoint().base.config.patches();
        let ours = OftLayout::new(patches, case.proprio.is_some(), ids.len(), answers);
        if ours != theirs {
            result.missed.push(format!("rows {ours:?}, recorded {theirs:?}"));
            result.ids_equal = false;
        }
        Ok(ids)
    }

    fn state<B: Backend>(&self, policy: &OftPolicy<B>, result: &mut OftCaseResult) -> Vec<f64> {
        let (Some(state), true) = (&self.case.proprio, self.variant.state) else {
            return Vec::new();
        };
        let ours = policy.normalize_state(&state.raw);
        result.state_error =
            largest(std::slice::from_ref(&ours), std::slice::from_ref(&state.normalized));
        let wanted = self.kit.platform.proprio_dim;
        if result.state_error.is_nan() || result.state_error > 1e-9 || ours.len() != wanted {
            let error = result.state_error;
            result.missed.push(format!("the normalised state is off by {error:.1e}"));
        }
        ours
    }

    fn stages(
        &self,
        ours: &BTreeMap<String, HostTensor>,
        (prefix, golden): (&str, &BTreeMap<String, HostTensor>),
        result: &mut OftCaseResult,
    ) {
        let read = self.case.layout.read;
        for (name, reference) in golden {
            let stage = match name.strip_prefix(prefix) {
                Some(stage) => stage,
                None if name == "proprio.token" => name,
                None => continue,
            };
            let Some(values) = stage_values(ours, stage, read) else {
                continue;
            };
            let agreement = agreement(&values, &reference.to_f32());
            let pcc = agreement.map_or(f64::NAN, |Agreement { pcc, .. }| pcc);
            let relative_rms = agreement.map_or(f64::NAN, |agreement| agreement.relative_rms);
            result.stages.push(OftStage { stage: stage.to_owned(), pcc, relative_rms });
            if result.lowest.as_ref().is_none_or(|(_, lowest)| pcc.is_nan() || pcc < *lowest) {
                result.lowest = Some((stage.to_owned(), pcc));
            }
            if pcc.is_nan() || pcc < self.bounds.pcc {
                result.missed.push(format!("{stage}: PCC {pcc:.7} below {}", self.bounds.pcc));
            }
        }
        if result.stages.is_empty() {
            result.missed.push("no stage of the kit was compared".into());
        }
    }

    fn actions(&self, ours: &OftGeneration, result: &mut OftCaseResult) {
        let theirs = self.answer;
        if !theirs.token_ids.is_empty() {
            result.token_ids.clone_from(&ours.token_ids);
            let pairs = ours.token_ids.iter().zip(&theirs.token_ids);
            result.tokens_differ = pairs.filter(|(a, b)| a != b).count()
                + ours.token_ids.len().abs_diff(theirs.token_ids.len());
            if result.tokens_differ > 0 && self.bounds.actions.is_some() {
                result.missed.push("tokens differ".into());
            }
        }
        result.action_error = largest(&ours.actions, &theirs.actions);
        if !theirs.normalized_actions.is_empty() {
            let worst = largest(&ours.normalized, &theirs.normalized_actions);
            result.normalized_error = Some(worst);
            if let Some(limit) = self.bounds.actions
                && (worst.is_nan() || worst > limit)
            {
                result.missed.push(format!("normalised actions are off by {worst:.1e}"));
            }
            let causal = &theirs.wrong_if_causal;
            if !causal.is_empty() && largest(&ours.normalized, causal) <= worst {
                result.missed.push("the actions are nearer to those of causal attention".into());
            }
        }
        // Wide ranges enlarge the error of a normalised action with them.
        let units = largest_of(&theirs.actions).max(1.0) * self.bounds.actions.unwrap_or(f64::MAX);
        if result.action_error.is_nan() || result.action_error > units {
            result.missed.push(format!("actions are off by {:.1e}", result.action_error));
        }
    }
}

/// Our values of a stage under the kit's name, in the kit's order.
fn stage_values(
    ours: &BTreeMap<String, HostTensor>,
    stage: &str,
    read: [usize; 2],
) -> Option<Vec<f32>> {
    if stage == "action_hidden_states" {
        return ours.get("llm.final_norm.out").map(HostTensor::to_f32);
    }
    if let Some(whole) = stage.strip_suffix(".read") {
        return Some(ours.get(whole)?.rows(read[0]..read[1]).ok()?.to_f32());
    }
    for tower in ["dino", "siglip"] {
        if let Some(image) = stage.strip_suffix(&format!(".{tower}")) {
            return ours.get(&format!("{image}.patch_features.{tower}")).map(HostTensor::to_f32);
        }
    }
    let tensor = ours.get(stage)?;
    Some(if stage.contains(".dino.block") { like_timm(tensor) } else { tensor.to_f32() })
}

/// The rows in timm's order: prefix tokens before the patches; our models have them after.
fn like_timm(tensor: &HostTensor) -> Vec<f32> {
    let values = tensor.to_f32();
    let [rows, columns] = *tensor.shape() else { return values };
    let patches = rows.isqrt().pow(2);
    let (patches, prefix) = values.split_at(patches * columns);
    [prefix, patches].concat()
}

/// Largest difference; NaN when the shapes differ or a value is not finite.
fn largest(ours: &[Vec<f64>], theirs: &[Vec<f64>]) -> f64 {
    let same =
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.len() == b.len());
    let pairs = ours.iter().flatten().zip(theirs.iter().flatten());
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |worst: f64, error| {
        if error.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(error) }
    });
    if same { worst } else { f64::NAN }
}

fn largest_of(values: &[Vec<f64>]) -> f64 {
    values.iter().flatten().fold(0.0, |worst: f64, value| worst.max(value.abs()))
}
