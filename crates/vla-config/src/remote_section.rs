//! Section `remote` of a policy file: what a policy server's requests and answers mean. Without it
//! no server is used: neither the keys nor the units of its numbers are guessed.

use std::collections::BTreeMap;

use serde::Deserialize;
use vla_control::ConfigErrors;

use super::observation_section::Camera;
use super::{Unknown, choice, need, refuse_unknown};

/// Most characters of a key of the wire.
const KEY_MAX: usize = 255;
/// Largest magnitude of a bound.
const BOUND_MAX: f64 = 1e4;
/// By how much of their range answers may exceed the bounds where the file does not say.
const TOLERANCE: f64 = 0.1;

/// A run of the state's numbers that is sent under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteState {
    /// The key.
    pub key: String,
    /// How many of the state's next numbers.
    pub values: usize,
}

/// What the numbers of an answer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteAnswers {
    /// In the units of the section `action`.
    Physical,
    /// -1 stands for a bound's lower end, 1 for its upper one; the columns listed are physical.
    Normalized {
        /// Columns that are not normalised.
        unchanged: Vec<usize>,
    },
}

/// What a policy server's requests and answers mean, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteSection {
    /// Camera and key of its image, in the order of the section `cameras`.
    pub images: Vec<(String, String)>,
    /// The state's numbers in their order.
    pub state: Vec<RemoteState>,
    /// Key of the instruction; `None` for the protocol's own.
    pub instruction: Option<String>,
    /// What the numbers of an answer are.
    pub answers: RemoteAnswers,
    /// Lower and upper bound of each number of a step, in the units of the section `action`.
    pub bounds: Vec<[f64; 2]>,
    /// By how much of their range numbers may exceed the bounds.
    pub tolerance: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawRemote {
    images: Option<BTreeMap<String, String>>,
    #[serde(default)]
    state: Vec<RawRemoteState>,
    instruction: Option<String>,
    answers: Option<String>,
    unchanged: Option<Vec<usize>>,
    bounds: Option<Vec<[f64; 2]>>,
    tolerance: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Deserialize)]
struct RawRemoteState {
    key: Option<String>,
    values: Option<usize>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// What of the other sections this one must fit.
pub(super) struct Fits<'a> {
    /// The cameras.
    pub cameras: &'a [Camera],
    /// Numbers of the state.
    pub state: usize,
    /// Numbers of a step.
    pub width: usize,
}

/// `None` only after something was noted.
pub(super) fn check_remote(
    p: &mut ConfigErrors,
    raw: RawRemote,
    fits: &Fits<'_>,
) -> Option<RemoteSection> {
    refuse_unknown(p, "remote", &raw.unknown);
    let images = need(p, "remote.images", raw.images)?;
    let images = check_images(p, images, fits.cameras);
    let state = check_state(p, raw.state, fits.state);
    let keys = images.iter().map(|(_, key)| key).chain(state.iter().map(|part| &part.key));
    check_keys(p, keys.chain(&raw.instruction).map(String::as_str));
    let answers = check_answers(p, raw.answers.as_deref(), raw.unchanged, fits.width);
    let bounds = need(p, "remote.bounds", raw.bounds)?;
    if bounds.len() != fits.width {
        let (given, width) = (bounds.len(), fits.width);
        p.add("remote.bounds", format!("has {given} pairs; a step has {width} numbers"));
    }
    for (column, [low, high]) in bounds.iter().enumerate() {
        let within = |bound: &f64| bound.abs() <= BOUND_MAX; // not true of NaN
        if !(within(low) && within(high) && low < high) {
            p.add(
                &format!("remote.bounds[{column}]"),
                format!("[{low}, {high}] is no range within -{BOUND_MAX}..{BOUND_MAX}"),
            );
        }
    }
    let tolerance = raw.tolerance.unwrap_or(TOLERANCE);
    p.range("remote.tolerance", tolerance, 0.0, 1.0, "of the range");
    Some(RemoteSection {
        images,
        state,
        instruction: raw.instruction,
        answers: answers?,
        bounds,
        tolerance,
    })
}

/// Every camera that the robot has, and no other one, has a key.
fn check_images(
    p: &mut ConfigErrors,
    mut given: BTreeMap<String, String>,
    cameras: &[Camera],
) -> Vec<(String, String)> {
    let mut images = Vec::new();
    for camera in cameras.iter().filter(|camera| camera.topic.is_some()) {
        match given.remove(&camera.name) {
            Some(key) => images.push((camera.name.clone(), key)),
            None => p.add(
                "remote.images",
                format!("has no key for camera `{}`; add it", camera.name.escape_debug()),
            ),
        }
    }
    for camera in cameras.iter().filter(|camera| camera.topic.is_none()) {
        let name = camera.name.escape_debug();
        p.add(
            "cameras",
            format!("`{name}` is absent, which means nothing for a server; remove it"),
        );
    }
    for name in given.keys() {
        p.add(
            "remote.images",
            format!("names `{}`, which is no camera with a topic; remove it", name.escape_debug()),
        );
    }
    images
}

fn check_state(p: &mut ConfigErrors, raw: Vec<RawRemoteState>, numbers: usize) -> Vec<RemoteState> {
    let mut state = Vec::new();
    for (i, raw) in raw.into_iter().enumerate() {
        let place = format!("remote.state[{i}]");
        refuse_unknown(p, &place, &raw.unknown);
        let key = need(p, &format!("{place}.key"), raw.key);
        let values = need(p, &format!("{place}.values"), raw.values);
        let (Some(key), Some(values)) = (key, values) else { continue };
        if values == 0 {
            p.add(&format!("{place}.values"), "is 0; remove the entry");
        }
        state.push(RemoteState { key, values });
    }
    let sent = state.iter().fold(0_usize, |sum, part| sum.saturating_add(part.values));
    if sent != numbers {
        p.add("remote.state", format!("sends {sent} numbers, but the state has {numbers}"));
    }
    state
}

fn check_keys<'a>(p: &mut ConfigErrors, keys: impl Iterator<Item = &'a str>) {
    let mut known: Vec<&str> = Vec::new();
    for key in keys {
        if key.is_empty() || KEY_MAX < key.len() || key.chars().any(char::is_control) {
            let message = format!("has a key that is not 1 to {KEY_MAX} printable characters");
            p.add("remote", message);
        }
        if known.contains(&key) {
            p.add("remote", format!("has the key `{}` twice", key.escape_debug()));
        }
        known.push(key);
    }
}

fn check_answers(
    p: &mut ConfigErrors,
    answers: Option<&str>,
    unchanged: Option<Vec<usize>>,
    width: usize,
) -> Option<RemoteAnswers> {
    let kinds = [("physical", false), ("normalized", true)];
    let normalized = choice(p, "remote.answers", answers, &kinds)?;
    if !normalized && unchanged.is_some() {
        p.add("remote.unchanged", "means nothing for physical answers; remove it");
    }
    if !normalized {
        return Some(RemoteAnswers::Physical);
    }
    let unchanged = unchanged.unwrap_or_default();
    for column in unchanged.iter().filter(|column| width <= **column) {
        let last = width.saturating_sub(1);
        p.add("remote.unchanged", format!("{column} is no column; the last one is {last}"));
    }
    Some(RemoteAnswers::Normalized { unchanged })
}
