//! Golden kits of LeRobot's pi0 and pi0.5: every stage, every Euler step, real-time chunking,
//! relative actions, prompts, state bins and resized images.
//!
//! Layout of a kit: `ckpt/`, `tokenizer/`, `images/`, `cases.json`, `tensors/`, and optionally
//! `tokenizer_cases.json`, `state_bins.json`, `rtc.json` with `rtc/`, `relative.json` with
//! `processors_relative/`, `ckpt_trained_rtc/`; see `tests/data/pi0_lerobot_tiny/README.md`.

mod case;
mod kit;
mod parts;
mod rtc;

pub use kit::{
    BinCase, Pi0Case, Pi0Kit, PromptCase, RelativeCase, Resized, RtcCase, RtcCases, WeightCase,
};

use std::collections::BTreeMap;

use super::kit::KitError;
use crate::backend::Backend;
use crate::models::pi0::Schedule;
use crate::policy::{Pi0Policy, PolicyError};
use crate::tensor::{Agreement, HostTensor, agreement};

/// Bounds that a device must meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pi0Bounds {
    /// Lowest Pearson correlation of any stage.
    pub pcc: f64,
    /// Largest error of the noisy actions at any step; `None` when only the correlation counts.
    pub x: Option<f64>,
    /// Largest error of a physical action, and of everything in real-time chunking.
    pub actions: Option<f64>,
}

impl Pi0Bounds {
    /// For float32 arithmetic. 2e-5 separates every defect listed in the kits' READMEs from
    /// rounding, which moves x by at most 3.5e-6.
    pub const F32: Self = Self { pcc: 0.999_99, x: Some(2e-5), actions: Some(1e-4) };
    /// For bf16 tensors.
    pub const BF16: Self = Self { pcc: 0.999, x: None, actions: None };
    /// For block-float weights.
    pub const BLOCK_FLOAT: Self = Self { pcc: 0.99, x: None, actions: None };

    /// Bounds of a precision, by its name.
    #[must_use]
    pub fn of(precision: &str) -> Self {
        match precision {
            "f32" => Self::F32,
            "bf16" => Self::BF16,
            _ => Self::BLOCK_FLOAT,
        }
    }
}

/// One comparison of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What was compared, in the order of the computation.
    pub name: String,
    /// Agreement with the reference; NaN where shapes differ.
    pub agreement: Agreement,
    /// Largest error allowed, where one is.
    pub limit: Option<f64>,
}

/// A case or a group of small cases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaseReport {
    /// `case 3`, `guided 2`, `prompts`.
    pub name: String,
    /// What was run, in words.
    pub detail: String,
    /// Tensors compared.
    pub stages: Vec<Stage>,
    /// Error of x after each Euler step.
    pub growth: Vec<f64>,
    /// What was missed, the first in the order of the computation first.
    pub missed: Vec<String>,
}

impl CaseReport {
    /// The stage with the lowest correlation.
    #[must_use]
    pub fn worst(&self) -> Option<&Stage> {
        self.stages.iter().min_by(|a, b| a.agreement.pcc.total_cmp(&b.agreement.pcc))
    }

    /// Compares a tensor.
    fn compare(
        &mut self,
        name: impl Into<String>,
        ours: &[f32],
        reference: &[f32],
        (bounds, limit): (Pi0Bounds, Option<f64>),
    ) {
        let nothing = Agreement { pcc: f64::NAN, max_abs: f64::NAN, relative_rms: f64::NAN };
        let name = name.into();
        let agreement = if ours.is_empty() && reference.is_empty() {
            Agreement { pcc: 1.0, max_abs: 0.0, relative_rms: 0.0 }
        } else {
            agreement(ours, reference).unwrap_or(nothing)
        };
        // A tensor that is constant in the reference has no correlation; its error counts.
        let constant = reference.windows(2).all(|pair| pair[0] == pair[1]);
        let alike = agreement.pcc >= bounds.pcc || (constant && agreement.max_abs <= 1e-5);
        // NaN misses every bound.
        if !alike {
            self.missed.push(if agreement.pcc.is_nan() {
                format!("{name}: {} values, the reference has {}", ours.len(), reference.len())
            } else {
                format!("{name}: PCC {:.7} below {}", agreement.pcc, bounds.pcc)
            });
        } else if let Some(limit) = limit
            && agreement.max_abs > limit
        {
            self.missed.push(format!("{name}: error {:.2e} above {limit:e}", agreement.max_abs));
        }
        self.stages.push(Stage { name, agreement, limit });
    }

    /// Notes a miss unless `right`.
    fn require(&mut self, right: bool, miss: impl FnOnce() -> String) {
        if !right {
            self.missed.push(miss());
        }
    }
}

/// Why a kit could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Pi0CheckError {
    /// The kit is unfit.
    #[error(transparent)]
    Kit(#[from] KitError),
    /// The policy failed where it must not.
    #[error("{case}: {source}")]
    Policy {
        /// The case.
        case: String,
        /// Its error.
        source: PolicyError,
    },
}

/// A kit with a policy that was loaded from its checkpoint.
struct Run<'a, B: Backend> {
    kit: &'a Pi0Kit,
    policy: &'a Pi0Policy<B>,
    bounds: Pi0Bounds,
    /// Tables by number of Euler steps.
    schedules: BTreeMap<usize, Schedule<B>>,
}

impl<B: Backend> Run<'_, B> {
    fn schedule(&mut self, steps: usize) -> Result<(), PolicyError> {
        if !self.schedules.contains_key(&steps) {
            self.schedules.insert(steps, self.policy.schedule(steps)?);
        }
        Ok(())
    }
}

/// Runs a kit on a policy that was loaded from its checkpoint, and calls `done` with each case.
///
/// # Errors
/// When the kit is unfit or a case fails altogether; missed bounds are in the reports.
pub fn check<B: Backend>(
    kit: &Pi0Kit,
    policy: &Pi0Policy<B>,
    bounds: Pi0Bounds,
    mut done: impl FnMut(&CaseReport),
) -> Result<Vec<CaseReport>, Pi0CheckError> {
    let mut run = Run { kit, policy, bounds, schedules: BTreeMap::new() };
    let mut reports = Vec::new();
    let mut finish = |report: CaseReport| {
        done(&report);
        reports.push(report);
    };
    for report in [run.prompts()?, run.images()?] {
        finish(report);
    }
    for case in &kit.cases {
        finish(run.case(case)?);
    }
    if !kit.rtc.prefix_weights.is_empty() {
        finish(run.weights());
    }
    for case in &kit.rtc.cases {
        finish(run.guided(case)?);
    }
    for case in &kit.rtc.trained {
        finish(run.trained(case)?);
    }
    if !kit.relative.is_empty() {
        finish(run.relative()?);
    }
    Ok(reports)
}

fn failed(case: impl Into<String>) -> impl FnOnce(PolicyError) -> Pi0CheckError {
    let case = case.into();
    move |source| Pi0CheckError::Policy { case, source }
}

fn narrow(rows: &[Vec<f64>]) -> Vec<f32> {
    rows.iter().flatten().map(|&value| value as f32).collect()
}

fn flat(tensors: &BTreeMap<String, HostTensor>, name: &str) -> Vec<f32> {
    tensors.get(name).map(HostTensor::to_f32).unwrap_or_default()
}
