//! Sections `oft` and `flow` of a policy file: what a checkpoint of OpenVLA-OFT, pi0 or pi0.5 was
//! trained with and no file of its folder says.

use serde::Deserialize;
use vla_control::ConfigErrors;

use super::{Unknown, choice, refuse_unknown};

/// Statistics that bound states and actions of OpenVLA-OFT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OftBounds {
    /// 1st and 99th percentile (LIBERO).
    Quantiles,
    /// Smallest and largest value (ALOHA).
    Extremes,
}

/// A checkpoint of OpenVLA-OFT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OftSection {
    /// Statistics that bound states and actions.
    pub bounds: OftBounds,
    /// Whether the answers are action tokens; otherwise the regression head's.
    pub discrete: bool,
}

/// How a chunk of pi0 or pi0.5 continues the previous one (real-time chunking).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Continuation {
    /// Every chunk starts anew.
    #[default]
    None,
    /// LeRobot's guided mode.
    Guided,
    /// The trained mode, for checkpoints trained for it.
    Trained,
}

/// State in the prompt of pi0.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateInPrompt {
    /// One number for each of the state's.
    Exact,
    /// Padded to the model's width, as LeRobot did until about 0.4.
    Padded,
    /// None, as openpi's `discrete_state_input=False`.
    None,
}

/// A checkpoint of pi0 or pi0.5.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlowSection {
    /// Tokenizer file or folder; `None` searches the checkpoint's folder and beside it.
    pub tokenizer: Option<String>,
    /// `norm_stats.json` that replaces the checkpoint's statistics.
    pub statistics: Option<String>,
    /// Euler steps; `None` for the checkpoint's.
    pub euler_steps: Option<u32>,
    /// How a chunk continues the previous one.
    pub continuation: Continuation,
    /// State in the prompt, where the folder does not say.
    pub state_in_prompt: Option<StateInPrompt>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawOft {
    bounds: Option<String>,
    answers: Option<String>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawFlow {
    tokenizer: Option<String>,
    statistics: Option<String>,
    euler_steps: Option<u32>,
    real_time_chunking: Option<String>,
    state_in_prompt: Option<String>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// `None` only after something was noted.
pub(super) fn check_oft(p: &mut ConfigErrors, raw: RawOft) -> Option<OftSection> {
    refuse_unknown(p, "oft", &raw.unknown);
    let bounds = [("q01_q99", OftBounds::Quantiles), ("min_max", OftBounds::Extremes)];
    let bounds = choice(p, "oft.bounds", raw.bounds.as_deref(), &bounds);
    let answers = [("regression", false), ("discrete", true)];
    let discrete = choice(p, "oft.answers", raw.answers.as_deref(), &answers);
    Some(OftSection { bounds: bounds?, discrete: discrete? })
}

/// `None` only after something was noted.
pub(super) fn check_flow(p: &mut ConfigErrors, raw: RawFlow) -> Option<FlowSection> {
    refuse_unknown(p, "flow", &raw.unknown);
    if let Some(steps) = raw.euler_steps
        && !(1..=100).contains(&steps)
    {
        p.add("flow.euler_steps", format!("{steps} is outside 1..100"));
    }
    let modes = [
        ("none", Continuation::None),
        ("guided", Continuation::Guided),
        ("trained", Continuation::Trained),
    ];
    let continuation = match raw.real_time_chunking.as_deref() {
        None => Continuation::None,
        given => choice(p, "flow.real_time_chunking", given, &modes)?,
    };
    let forms = [
        ("exact", StateInPrompt::Exact),
        ("padded", StateInPrompt::Padded),
        ("none", StateInPrompt::None),
    ];
    let state_in_prompt = match raw.state_in_prompt.as_deref() {
        None => None,
        given => Some(choice(p, "flow.state_in_prompt", given, &forms)?),
    };
    let (tokenizer, statistics) = (raw.tokenizer, raw.statistics);
    Some(FlowSection {
        tokenizer,
        statistics,
        euler_steps: raw.euler_steps,
        continuation,
        state_in_prompt,
    })
}
