//! Running a golden kit and comparing every stage.

use std::collections::BTreeMap;

use super::kit::{Case, EosCase, Kit, KitError};
use crate::backend::{Backend, BackendError};
use crate::models::NoProbe;
use crate::models::Probe;
use crate::policy::{ActionCodec, OpenVlaPolicy, PolicyError};
use crate::tensor::{Agreement, HostTensor, agreement};

/// Bounds that a device must meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Lowest Pearson correlation of any stage.
    pub pcc: f64,
    /// Largest absolute error of a logit; `None` when only the correlation counts.
    pub logits: Option<f64>,
    /// A token may differ only where the reference's margin between first and second logit is below
    /// this.
    pub margin: f64,
}

impl Bounds {
    /// For float32 arithmetic.
    pub const F32: Self = Self { pcc: 0.9999, logits: Some(2e-3), margin: 0.0 };
    /// For bf16 tensors with exact products and float32 sums. The margin bounds what rounding in
    /// three layers and in the sums between chips can change on the kit: four times the root mean
    /// square error of its logits at the lowest PCC.
    pub const BF16: Self = Self { pcc: 0.999, logits: None, margin: 0.1 };
    /// For int8 products on the CPU: tokens may differ, their mean distance is reported.
    pub const INT8: Self = Self { pcc: 0.995, logits: None, margin: f64::INFINITY };
    /// For block-float weights: tokens may differ, their mean distance is reported.
    pub const BLOCK_FLOAT: Self = Self { pcc: 0.99, logits: None, margin: f64::INFINITY };

    /// Bounds of a precision, by its name.
    #[must_use]
    pub fn of(precision: &str) -> Self {
        match precision {
            "f32" => Self::F32,
            "bf16" => Self::BF16,
            "int8" => Self::INT8,
            _ => Self::BLOCK_FLOAT,
        }
    }
}

/// One stage of one case.
#[derive(Clone, Debug)]
pub struct StageResult {
    /// Number of the case.
    pub case: usize,
    /// Name as in the kit.
    pub stage: String,
    /// Agreement with the reference.
    pub agreement: Agreement,
}

/// One case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Number of the case.
    pub case: usize,
    /// Whether the resized image equals the kit's, byte for byte.
    pub pixels_equal: bool,
    /// Whether the prompt's ids equal the kit's.
    pub ids_equal: bool,
    /// Generated tokens.
    pub tokens: Vec<u32>,
    /// The kit's tokens.
    pub expected: Vec<u32>,
    /// First differing step whose reference margin is not below the bound.
    pub unexcused: Option<usize>,
    /// Mean distance in bins over the steps.
    pub bin_distance: f64,
    /// Largest difference of a physical action under any statistics, in the data set's units.
    pub physical_error: f64,
}

/// Everything that was compared.
#[derive(Debug)]
pub struct Report {
    /// Stages in the order in which they are computed.
    pub stages: Vec<StageResult>,
    /// Cases.
    pub cases: Vec<CaseResult>,
    /// One line for each special case or text that failed.
    pub special: Vec<String>,
    /// Tokenizer texts compared.
    pub texts: usize,
    /// One line for each bound that was missed.
    pub missed: Vec<String>,
}

/// Why a kit could not be run.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The kit is unfit.
    #[error(transparent)]
    Kit(#[from] KitError),
    /// The policy failed where it must not.
    #[error("case {case}: {source}")]
    Policy {
        /// Number of the case.
        case: usize,
        /// Its error.
        source: PolicyError,
    },
}

/// Keeps the first occurrence of every tensor, and every step's logits.
struct Recorder<'a, B: Backend> {
    backend: &'a B,
    tensors: BTreeMap<String, HostTensor>,
    order: Vec<String>,
    logits: Vec<HostTensor>,
}

impl<B: Backend> Probe<B> for Recorder<'_, B> {
    fn observe(&mut self, name: &str, tensor: &B::Tensor) -> Result<(), BackendError> {
        if name == "logits" {
            self.logits.push(self.backend.download(tensor)?);
        } else if !self.tensors.contains_key(name) {
            self.tensors.insert(name.to_owned(), self.backend.download(tensor)?);
            self.order.push(name.to_owned());
        }
        Ok(())
    }
}

/// Runs the kit on a policy that was loaded from its checkpoint with full decoding.
///
/// # Errors
/// When the kit is unfit or a case fails altogether; missed bounds are in the report.
pub fn check<B: Backend>(
    kit: &Kit,
    policy: &mut OpenVlaPolicy<B>,
    bounds: Bounds,
) -> Result<Report, CheckError> {
    let mut report =
        Report { stages: vec![], cases: vec![], special: vec![], texts: 0, missed: vec![] };
    for case in &kit.cases {
        let policy_error = |source| CheckError::Policy { case: case.id, source };
        let image = kit.image(&case.image)?;
        let rgb = policy.prepare(&image).map_err(|error| policy_error(error.into()))?;
        let rgb = rgb.pixels();
        let pixels_equal = rgb == kit.image(&case.resized_rgb)?.pixels();
        let ids = policy.tokenize(&case.prompt).map_err(policy_error)?;
        let generation = match kit.tensors(case.id)? {
            Some(golden) => {
                let backend = policy.backend();
                let mut recorder =
                    Recorder { backend, tensors: BTreeMap::new(), order: vec![], logits: vec![] };
                let generation = policy.generate(rgb, &ids, &mut recorder).map_err(policy_error)?;
                compare_stages(case, &golden, &recorder, &generation.token_ids, &mut report.stages);
                generation
            }
            None => policy.generate(rgb, &ids, &mut NoProbe).map_err(policy_error)?,
        };
        report.cases.push(compare_case(
            case,
            pixels_equal,
            &ids,
            generation.token_ids,
            policy,
            bounds,
        )?);
    }
    special_cases(kit, policy, bounds, &mut report)?;
    report.missed = missed(&report, bounds);
    Ok(report)
}

/// The rows of `ours` in timm's order: prefix tokens before the patches; our models have them after
/// the patches.
fn like_timm(ours: &HostTensor, stage: &str) -> Vec<f32> {
    let values = ours.to_f32();
    let [rows, columns] = *ours.shape() else { return values };
    let patches = (rows as f64).sqrt().floor().powi(2) as usize;
    let is_tower = stage.starts_with("dino.") && !stage.ends_with("patch_embed");
    if !is_tower || patches == rows {
        return values;
    }
    let (patches, prefix) = values.split_at(patches * columns);
    [prefix, patches].concat()
}

fn compare_stages<B: Backend>(
    case: &Case,
    golden: &BTreeMap<String, HostTensor>,
    recorder: &Recorder<'_, B>,
    tokens: &[u32],
    stages: &mut Vec<StageResult>,
) {
    let mut push = |stage: String, ours: &[f32], reference: &HostTensor| {
        let agreement = agreement(ours, &reference.to_f32()).unwrap_or(Agreement {
            pcc: f64::NAN,
            max_abs: f64::NAN,
            relative_rms: f64::NAN,
        });
        stages.push(StageResult { case: case.id, stage, agreement });
    };
    for name in &recorder.order {
        let ours = &recorder.tensors[name];
        if let Some(reference) = golden.get(name).or_else(|| golden.get(&format!("{name}.all"))) {
            push(name.clone(), &like_timm(ours, name), reference);
        }
        if let Some(reference) = golden.get(&format!("{name}.last")) {
            let values = ours.to_f32();
            push(format!("{name}.last"), &values[values.len() - reference.len()..], reference);
        }
    }
    if let (Some(reference), Some(first)) = (golden.get("logits.first"), recorder.logits.first())
        && first.len() == reference.len()
    {
        push("logits.first".into(), &first.to_f32(), reference);
    }
    if let Some(reference) = golden.get("logits.all_steps.top_rows") {
        let rows = reference.shape().last().copied().unwrap_or(0);
        // After a different token the sequences differ, and with them the logits that follow.
        let same = tokens
            .iter()
            .zip(&case.generated_ids)
            .take_while(|(ours, theirs)| ours == theirs)
            .count();
        let steps = (same + 1).min(tokens.len());
        let ours: Vec<f32> = recorder
            .logits
            .iter()
            .take(steps)
            .flat_map(|logits| {
                let values = logits.to_f32();
                values[values.len().saturating_sub(rows)..].to_vec()
            })
            .collect();
        if let Ok(reference) = reference
            .reshape(&[reference.len() / rows.max(1), rows])
            .and_then(|all| all.rows(0..steps))
        {
            push("logits.all_steps.top_rows".into(), &ours, &reference);
        }
    }
}

fn compare_case<B: Backend>(
    case: &Case,
    pixels_equal: bool,
    ids: &[u32],
    tokens: Vec<u32>,
    policy: &OpenVlaPolicy<B>,
    bounds: Bounds,
) -> Result<CaseResult, CheckError> {
    let failed = |source| CheckError::Policy { case: case.id, source };
    let bin = |tokens: &[u32]| -> Result<Vec<usize>, CheckError> {
        tokens
            .iter()
            .enumerate()
            .map(|(i, &id)| policy.codec().bin(id, i).map_err(|e| failed(e.into())))
            .collect()
    };
    let (ours, theirs) = (bin(&tokens)?, bin(&case.generated_ids)?);
    let bin_distance = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b) as f64).sum::<f64>()
        / theirs.len().max(1) as f64;
    // After a different token the sequences differ, so only the first difference counts.
    let unexcused =
        tokens.iter().zip(&case.generated_ids).position(|(ours, theirs)| ours != theirs).filter(
            |&step| case.top5_per_step.get(step).is_none_or(|top| top.margin >= bounds.margin),
        );
    let normalized = policy.codec().normalized(&tokens).map_err(|error| failed(error.into()))?;
    let mut physical_error = 0.0f64;
    for (key, action) in &case.actions {
        let (_, stats) = policy
            .checkpoint()
            .norm_stats
            .select(Some(key))
            .map_err(|error| failed(error.into()))?;
        let codec = ActionCodec::new(&policy.checkpoint().config, stats.clone());
        let ours = codec.unnormalize(&normalized);
        physical_error =
            ours.iter().zip(action).map(|(a, b)| (a - b).abs()).fold(physical_error, f64::max);
    }
    Ok(CaseResult {
        case: case.id,
        pixels_equal,
        ids_equal: ids == case.input_ids_fed,
        tokens,
        expected: case.generated_ids.clone(),
        unexcused,
        bin_distance,
        physical_error,
    })
}

fn special_cases<B: Backend>(
    kit: &Kit,
    policy: &mut OpenVlaPolicy<B>,
    bounds: Bounds,
    report: &mut Report,
) -> Result<(), CheckError> {
    tokenizer_cases(kit, policy, report)?;
    decode_cases(kit, policy, report);
    report.special.extend(trailing_space(kit, policy, bounds, &report.cases)?);
    for case in &kit.eos_cases {
        report.special.extend(end_token(kit, case, policy, &report.cases)?);
    }
    Ok(())
}

fn tokenizer_cases<B: Backend>(
    kit: &Kit,
    policy: &OpenVlaPolicy<B>,
    report: &mut Report,
) -> Result<(), CheckError> {
    for text in &kit.tokenizer_cases {
        let ids = policy.checkpoint().tokenizer.encode_as_official(&text.text);
        let ids = ids.map_err(|source| CheckError::Policy { case: 0, source: source.into() })?;
        report.texts += 1;
        if ids != text.ids {
            report
                .special
                .push(format!("text {:?} gives {ids:?}, the reference {:?}", text.text, text.ids));
        }
    }
    Ok(())
}

fn decode_cases<B: Backend>(kit: &Kit, policy: &OpenVlaPolicy<B>, report: &mut Report) {
    for case in &kit.decode_cases {
        let result = policy.codec().bin(case.id, 0);
        let right = if policy.codec().ids().contains(&case.id) {
            result == Ok(case.bin_index)
                && policy.codec().normalized(&[case.id]).is_ok_and(|n| n == [case.normalized])
        } else {
            // The official code clips these to an action; ours must refuse them.
            result.is_err()
        };
        if !right {
            report.special.push(format!(
                "token {} decodes to {result:?}, the reference {}",
                case.id, case.bin_index
            ));
        }
    }
}

/// Largest difference of two physical actions that come from the same tokens.
const SAME_ACTION: f64 = 1e-9;

/// First dimension in which `tokens` give another physical action than `recorded`, under the
/// closest of the checkpoint's statistics (the kit does not record which ones it used).
fn first_difference<B: Backend>(
    policy: &OpenVlaPolicy<B>,
    tokens: &[u32],
    recorded: &[f64],
) -> Option<usize> {
    let Ok(normalized) = policy.codec().normalized(tokens) else { return Some(0) };
    if tokens.len() != recorded.len() {
        return Some(0);
    }
    let checkpoint = policy.checkpoint();
    let sets = checkpoint.norm_stats.entries().filter_map(|(_, stats)| stats.ok());
    let differences = sets.filter(|stats| stats.dim() == recorded.len()).map(|stats| {
        let action = ActionCodec::new(&checkpoint.config, stats.clone()).unnormalize(&normalized);
        action.iter().zip(recorded).position(|(a, b)| (a - b).abs() > SAME_ACTION)
    });
    // `None`, no difference, counts as later than any dimension.
    differences.max_by_key(|first| first.unwrap_or(usize::MAX)).unwrap_or(Some(0))
}

/// A prompt that already ends with the empty word: its ids and its action must be the recorded
/// ones.
fn trailing_space<B: Backend>(
    kit: &Kit,
    policy: &mut OpenVlaPolicy<B>,
    bounds: Bounds,
    cases: &[CaseResult],
) -> Result<Option<String>, CheckError> {
    let special = &kit.trailing_space_case;
    let failed = |source| CheckError::Policy { case: 0, source };
    let ids = policy.tokenize(&special.prompt).map_err(failed)?;
    if ids != special.input_ids {
        return Ok(Some(format!(
            "trailing space: prompt ids {ids:?}, recorded {:?}",
            special.input_ids
        )));
    }
    let image = kit.image(&special.image)?;
    let rgb = policy.prepare(&image).map_err(|error| failed(error.into()))?;
    let rgb = rgb.pixels();
    let tokens = policy.generate(rgb, &ids, &mut NoProbe).map_err(failed)?.token_ids;
    // A case with the same input, if the kit has one: its answer must be the same, and its recorded
    // margins apply here too.
    let twin = kit
        .cases
        .iter()
        .find(|case| case.image == special.image && case.input_ids_fed == special.input_ids);
    let answer = twin.and_then(|twin| cases.iter().find(|case| case.case == twin.id));
    if let Some(answer) = answer.filter(|answer| answer.tokens != tokens) {
        return Ok(Some(format!(
            "trailing space: tokens {tokens:?}, {:?} in case {}, which has the same input",
            answer.tokens, answer.case
        )));
    }
    let excused = |step: usize| match twin.and_then(|twin| twin.top5_per_step.get(step)) {
        Some(top) => top.margin < bounds.margin,
        None => bounds.margin == f64::INFINITY,
    };
    let difference = first_difference(policy, &tokens, &special.action);
    Ok(difference.filter(|&step| !excused(step)).map(|step| {
        format!(
            "trailing space: tokens {tokens:?} give another action than the recorded {:?} from \
            dimension {step} on",
            special.action
        )
    }))
}

/// A case repeated with one of its tokens as the end token. In last place it completes the answer;
/// before that it is an error, where the official code returns an action made of prompt tokens.
fn end_token<B: Backend>(
    kit: &Kit,
    case: &EosCase,
    policy: &mut OpenVlaPolicy<B>,
    cases: &[CaseResult],
) -> Result<Option<String>, CheckError> {
    let id = case.eos_token_id;
    let wrong = |text: String| Some(format!("case {} with end token {id}: {text}", case.case));
    let base = kit.cases.iter().find(|base| base.id == case.case);
    let answer = cases.iter().find(|answer| answer.case == case.case);
    let (Some(base), Some(answer)) = (base, answer) else {
        return Ok(wrong("the kit has no such case".into()));
    };
    let place = answer.tokens.iter().position(|&token| token == id);
    let as_recorded = answer.tokens == base.generated_ids;
    let Some(place) = place else {
        // A device of lower precision may choose other tokens; the case was compared by itself.
        let missing = || wrong(format!("the recorded tokens {:?} lack it", base.generated_ids));
        return Ok(if as_recorded { missing() } else { None });
    };
    let failed = |source| CheckError::Policy { case: case.case, source };
    let image = kit.image(&base.image)?;
    let rgb = policy.prepare(&image).map_err(|error| failed(error.into()))?;
    let rgb = rgb.pixels();
    let ids = policy.tokenize(&base.prompt).map_err(failed)?;
    let end = policy.end_of_sequence();
    policy.set_end_of_sequence(Some(id));
    let result = policy.generate(rgb, &ids, &mut NoProbe);
    policy.set_end_of_sequence(end);
    let complete = place + 1 == answer.tokens.len();
    Ok(match result.map(|generation| generation.token_ids) {
        Err(PolicyError::EndedEarly { got, .. }) if !complete && got == place => None,
        Ok(tokens) if complete && tokens == answer.tokens => {
            let difference = first_difference(policy, &tokens, &case.action);
            difference.filter(|_| as_recorded).and_then(|dimension| {
                wrong(format!(
                    "tokens {tokens:?} give another action than the recorded {:?} from dimension \
                    {dimension} on",
                    case.action
                ))
            })
        }
        other => {
            let wanted = if complete {
                format!("{:?}", answer.tokens)
            } else {
                format!("an early end after {place} tokens")
            };
            wrong(format!("{:?} instead of {wanted}", other.map_err(|error| error.to_string())))
        }
    })
}

fn missed(report: &Report, bounds: Bounds) -> Vec<String> {
    let mut missed = report.special.clone();
    for StageResult { case, stage, agreement } in &report.stages {
        // NaN misses every bound.
        if agreement.pcc.is_nan() || agreement.pcc < bounds.pcc {
            missed.push(format!(
                "case {case}, {stage}: PCC {:.6} below {}",
                agreement.pcc, bounds.pcc
            ));
        }
        if let Some(limit) = bounds.logits
            && stage.starts_with("logits")
            && (agreement.max_abs.is_nan() || agreement.max_abs > limit)
        {
            missed.push(format!(
                "case {case}, {stage}: error {:.2e} above {limit:e}",
                agreement.max_abs
            ));
        }
    }
    for case in &report.cases {
        if !case.pixels_equal {
            missed.push(format!("case {}: resized pixels differ", case.case));
        }
        if !case.ids_equal {
            missed.push(format!("case {}: prompt ids differ", case.case));
        }
        if let Some(step) = case.unexcused {
            missed.push(format!(
                "case {}: tokens {:?} differ from {:?} at step {step}",
                case.case, case.tokens, case.expected
            ));
        }
    }
    missed
}
