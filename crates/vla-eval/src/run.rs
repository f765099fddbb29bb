//! Runs an evaluation.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::clock::{self, Verdict};
use super::episode::{self, Episode};
use super::frames::{Frame, ReadResult};
use super::journal::Journal;
use super::pipeline::{self, Decoded, Source};
use super::progress::Progress;
use super::recorded::{ActionSpace, Track};
use super::report::{EpisodeNotes, Report};
use super::sources::{self, ObservationRules};
use super::step::{Outcome, Paired, Prediction, Step};
use super::tokens::ActionTokens;
use super::{EvalError, Settings};
use rosbag2_reader::align::ActionMatch;
use vla_inference::observation::{
    CameraFrame, EncodedImage, Observation, Place, Playback, RgbImage,
};
use vla_inference::policy::{FlowError, OftError, Policy, PolicyError, RemoteError, RemoteFault};

/// Reason by which frames without an answer are counted. They are not in the journal, so that the
/// next run evaluates them.
const NO_ANSWER: &str = "no answer of the server";
/// So many frames in a row without an answer end the run: the server or the policy file is wrong,
/// not the frames.
const NO_ANSWERS_MAX: u32 = 5;

/// Options of a run that do not change its result.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Start again although the folder contains an evaluation.
    pub overwrite: bool,
    /// Show no progress.
    pub quiet: bool,
}

/// A report with its frames.
#[derive(Debug)]
pub struct Evaluated {
    /// The report.
    pub report: Report,
    /// The frames, by bag and number.
    pub pairs: Vec<Paired>,
    /// Whether `stop` ended it.
    pub interrupted: bool,
    /// Why no frame has a recorded action, where recorded actions were asked for.
    pub unmatched: Option<String>,
}

/// Evaluates `policy` on the bags of `settings`; resumes an earlier run in `out`. `stop` ends it
/// after the frame in progress. A bag that cannot be read to its end is listed in the report's
/// `incomplete`.
pub fn evaluate(
    policy: &mut dyn Policy,
    settings: &Settings,
    out: &Path,
    options: RunOptions,
    stop: &AtomicBool,
) -> Result<Evaluated, EvalError> {
    evaluate_from(policy, settings, &ObservationRules::default(), out, options, stop)
}

/// [`evaluate`] for a policy with several cameras or a state.
pub fn evaluate_from(
    policy: &mut dyn Policy,
    settings: &Settings,
    rules: &ObservationRules,
    out: &Path,
    options: RunOptions,
    stop: &AtomicBool,
) -> Result<Evaluated, EvalError> {
    sources::check(policy.info(), settings, rules)?;
    // Every bag is checked before the first inference, so that a misspelt topic is found at once.
    let episodes = episode::open_all(settings, rules, policy.info().state_dim)?;
    let space = ActionSpace {
        dimensions: settings.policy.action_dim,
        ranges: policy.info().envelope.clone(),
        policy_hz: settings.policy_hz,
    };
    for episode in &episodes {
        episode.track(&space)?;
    }
    let files = episodes.iter().map(Episode::file_states).collect::<Result<Vec<_>, _>>()?;
    let action_tokens = policy.info().action_tokens.clone();
    let mut journal = Journal::open(out, settings, &files, options.overwrite)?;
    let mut steps = std::mem::take(&mut journal.steps);
    let total = episodes
        .iter()
        .enumerate()
        .map(|(bag, episode)| Some(settings.share(bag, episode.images()?)))
        .sum();
    let mut progress = Progress::new(total, steps.len() as u64, options.quiet);

    let mut run = Run {
        policy,
        settings,
        journal: &mut journal,
        progress: &mut progress,
        stop,
        abort: None,
        no_answers: 0,
    };
    let mut results = Vec::new();
    for (bag, episode) in episodes.iter().enumerate() {
        let done: HashSet<u64> =
            steps.iter().filter(|step| step.bag == bag).map(|step| step.frame).collect();
        results.push(run.episode(bag, episode, &space, &done, &mut steps)?);
        if run.abort.is_some() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let abort = run.abort;
    progress.finish();
    steps.sort_by_key(|step| (step.bag, step.frame));
    let interrupted = stop.load(Ordering::Relaxed);
    let action_tokens = action_tokens.as_ref().and_then(ActionTokens::new);
    let ranges = space.ranges;
    Ok(sum_up(settings, &episodes, results, steps, action_tokens, &ranges, abort, interrupted))
}

/// Matches frames with recorded actions and computes the report.
#[allow(clippy::too_many_arguments)] // everything that a run has gathered
fn sum_up(
    settings: &Settings,
    episodes: &[Episode],
    results: Vec<ReadResult>,
    steps: Vec<Step>,
    action_tokens: Option<ActionTokens>,
    ranges: &[Option<(f64, f64)>],
    abort: Option<PolicyError>,
    interrupted: bool,
) -> Evaluated {
    let (mut incomplete, mut warnings, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut causes = Vec::new();
    let mut pairs: Vec<Paired> =
        steps.into_iter().map(|step| Paired { step, recorded: None }).collect();
    let read = results.len();
    for (bag, (result, episode)) in results.into_iter().zip(episodes).enumerate() {
        let own: Vec<&mut Paired> = pairs.iter_mut().filter(|pair| pair.step.bag == bag).collect();
        let matching = match_actions(settings, episode, &result, action_tokens, own);
        let name = settings.bags[bag].display();
        warnings.extend(result.warnings);
        for (reason, (count, first)) in &result.skipped {
            if *reason == NO_ANSWER {
                incomplete.push(format!(
                    "{name}: {count} frames without an answer of the server, the first is {first}; \
                    the same command evaluates them"
                ));
            } else {
                warnings.push(format!("{name}: {count} frames skipped, {reason} ({first})"));
            }
        }
        warnings.extend(matching.warnings.iter().map(|warning| format!("{name}: {warning}")));
        causes.extend(matching.cause);
        incomplete.extend(result.failure.map(|error| error.to_string()));
        let skipped = result.skipped.into_iter();
        notes.push(EpisodeNotes {
            images: result.images,
            skipped: skipped.map(|(reason, (count, _))| (reason.to_owned(), count)).collect(),
        });
    }
    incomplete.extend(abort.map(|error| match error {
        PolicyError::Remote(_) => format!(
            "stopped after {} frames: {error}; the same command resumes the evaluation",
            pairs.len()
        ),
        _ => format!("the policy stopped: {error}"),
    }));
    if interrupted {
        incomplete.push(format!("interrupted after {} frames", pairs.len()));
    }
    incomplete.extend(
        settings.bags.iter().skip(read).map(|bag| format!("{} was not reached", bag.display())),
    );
    notes.resize(settings.bags.len(), EpisodeNotes::default());
    let none = settings.action_topic.is_some()
        && !pairs.is_empty()
        && pairs.iter().all(|pair| pair.recorded.is_none());
    let unmatched = none.then(|| causes.into_iter().next().unwrap_or_default());
    let report = Report::of(settings.clone(), action_tokens, notes, &pairs, incomplete, warnings)
        .with_conventions(ranges.to_vec(), &pairs);
    Evaluated { report, pairs, interrupted, unmatched }
}

/// What matching one bag's frames showed.
#[derive(Default)]
pub(super) struct Matching {
    pub warnings: Vec<String>,
    /// Why no frame has a recorded action.
    pub cause: Option<String>,
}

/// Sets the recorded action of each frame.
pub(super) fn match_actions(
    settings: &Settings,
    episode: &Episode,
    result: &ReadResult,
    action_tokens: Option<ActionTokens>,
    pairs: Vec<&mut Paired>,
) -> Matching {
    let (Some(track), Some(kind)) = (result.track.as_ref(), episode.action_kind()) else {
        return Matching::default();
    };
    let mut matching = Matching::default();
    let how = settings.action_match.unwrap_or_else(|| kind.default_match());
    let tolerance_ms = settings.tolerance_ms.unwrap_or(1e3 / settings.policy_hz);
    let topic = settings.action_topic.as_deref().unwrap_or_default();
    let verdict = clock::compare(
        (&settings.image_topic, &result.stamps),
        (topic, &track.stamps()),
        how == ActionMatch::Exact,
    );
    let clock = match verdict {
        Verdict::Stamps => None,
        Verdict::Doubtful(why) => {
            let line = format!("{why}; actions are matched by these stamps all the same");
            matching.warnings.push(line);
            None
        }
        Verdict::LogTimes(why) => {
            matching.warnings.push(format!("{why}; actions are matched by log times"));
            Some(why)
        }
    };
    let times: Vec<(i64, Option<i64>)> = pairs
        .iter()
        .map(|pair| (pair.step.log_time, pair.step.stamp.filter(|_| clock.is_none())))
        .collect();
    let found = track.matched(&times, how, (tolerance_ms * 1e6) as i64, action_tokens);
    let (frames, missing) =
        (found.len(), found.iter().filter(|recorded| recorded.is_none()).count());
    pairs.into_iter().zip(found).for_each(|(pair, recorded)| pair.recorded = recorded);
    if missing > 0 {
        let why = cause(track, topic, how, &times, clock);
        let line = format!(
            "{missing} of {frames} frames have no recorded action within {tolerance_ms} ms"
        );
        if missing == frames {
            matching.warnings.push(format!("{line}: {why}"));
            matching.cause = Some(why);
        } else {
            matching.warnings.push(line);
        }
    }
    matching
}

/// Why no frame of a bag has a recorded action.
fn cause(
    track: &Track,
    topic: &str,
    how: ActionMatch,
    frames: &[(i64, Option<i64>)],
    clock: Option<String>,
) -> String {
    if track.len() == 0 {
        return match track.wrong_size {
            (0, _) => format!("{topic} has no message in this bag"),
            (count, values) => format!(
                "none of the {count} messages on {topic} has the policy's number of values (the \
                first has {values})"
            ),
        };
    }
    let clock = clock.map_or_else(String::new, |why| format!("; {why}"));
    if how == ActionMatch::Exact {
        return format!(
            "no message on {topic} has exactly the stamp of an image, which `exact` needs: use \
            --match next or nearest{clock}"
        );
    }
    let nearest = track.nearest(frames).map_or_else(String::new, clock::in_words);
    format!(
        "the nearest message on {topic} is {nearest} away: give a larger --tolerance-ms, another \
        --match, or bags in which images and actions were recorded together{clock}"
    )
}

struct Run<'a> {
    policy: &'a mut dyn Policy,
    settings: &'a Settings,
    journal: &'a mut Journal,
    progress: &'a mut Progress,
    stop: &'a AtomicBool,
    abort: Option<PolicyError>,
    /// Frames in a row that the server has not answered.
    no_answers: u32,
}

/// What became of a frame.
enum Evaluation {
    /// A result.
    Done(Step),
    /// The server gave no valid answer.
    NoAnswer(RemoteError),
    /// The policy cannot go on.
    Stop,
}

impl Run<'_> {
    /// Evaluates one bag.
    fn episode(
        &mut self,
        bag: usize,
        episode: &Episode,
        space: &ActionSpace,
        done: &HashSet<u64>,
        steps: &mut Vec<Step>,
    ) -> Result<ReadResult, EvalError> {
        let (settings, stop, track) = (self.settings, self.stop, episode.track(space)?);
        let mut invalid: Vec<(u64, String)> = Vec::new();
        let mut unanswered: Vec<(u64, String)> = Vec::new();
        let mut sizes = Sizes::default();
        // Once a bag: a camera does not turn between its images.
        let (mut remarked, mut remark) = (false, None);
        let source = Source { episode, bag, settings, track, done, stop };
        let mut result = pipeline::run(source, &mut |Decoded { frame, images }| {
            match images {
                Err((camera, error)) => {
                    let mut line = error.at(Place::Recording);
                    if let (2.., Some((name, _))) =
                        (settings.cameras.len(), settings.cameras.get(camera))
                    {
                        line = format!("camera {name}: {line}");
                    }
                    invalid.push((frame.number, line));
                }
                Ok(images) => {
                    if !remarked {
                        remarked = true;
                        remark = frame.images.iter().find_map(EncodedImage::remark);
                    }
                    let size =
                        images.first().map_or((0, 0), |image| (image.width(), image.height()));
                    sizes.add(frame.number, size);
                    let number = frame.number;
                    match self.step(bag, frame, images, size)? {
                        Evaluation::Done(step) => steps.push(step),
                        Evaluation::NoAnswer(error) => {
                            unanswered.push((number, error.to_string()));
                            return Ok(self.abort.is_none() && !stop.load(Ordering::Relaxed));
                        }
                        Evaluation::Stop => return Ok(false),
                    }
                }
            }
            Ok(!stop.load(Ordering::Relaxed))
        })?;
        invalid.iter().for_each(|(number, detail)| result.skip(*number, "invalid image", detail));
        unanswered.iter().for_each(|(number, detail)| result.skip(*number, NO_ANSWER, detail));
        result.warnings.extend(sizes.warning(episode.path()));
        let (bag, topic) = (episode.path().display(), &settings.image_topic);
        result.warnings.extend(remark.map(|remark| format!("{bag}: {topic}: {remark}")));
        Ok(result)
    }

    /// What the policy sees of a frame; [`sources::check`] has compared the cameras with it.
    fn observation(&self, frame: &Frame, images: Vec<RgbImage>) -> Observation {
        let cameras = self.policy.info().cameras.iter();
        let images = cameras.zip(images);
        Observation {
            instruction: frame.instruction.clone(),
            images: images
                .map(|(camera, image)| CameraFrame { camera: Arc::clone(camera), image })
                .collect(),
            state: frame.state.clone(),
            playback: Playback::default(),
        }
    }

    /// Evaluates one frame.
    fn step(
        &mut self,
        bag: usize,
        frame: Frame,
        images: Vec<RgbImage>,
        size: (usize, usize),
    ) -> Result<Evaluation, EvalError> {
        let observation = self.observation(&frame, images);
        // From the same noise for every frame: a frame's answer must not depend on which frames
        // this run, its shard or an interrupted one before it had evaluated.
        if self.policy.next_seed().is_some() {
            self.policy.restart();
        }
        let outcome = match self.policy.act(&observation) {
            // Of a chunk, the step that belongs to this frame is the first.
            Ok(decision) => Outcome::Action(Prediction {
                token_ids: decision.token_ids,
                normalized: decision.normalized.into_iter().next().unwrap_or_default(),
                action: decision.actions.into_iter().next().unwrap_or_default(),
                logit_margins: decision.logit_margins,
                stages: decision
                    .stages
                    .iter()
                    .map(|stage| (stage.name.to_owned(), stage.milliseconds))
                    .collect(),
            }),
            Err(error) if concerns_one_frame(&error) => Outcome::Failure(error.to_string()),
            Err(PolicyError::Remote(error)) if error.fault != RemoteFault::Gone => {
                self.no_answers += 1;
                if self.no_answers >= NO_ANSWERS_MAX {
                    self.abort =
                        Some(RemoteError { what: in_a_row(&error), ..error.clone() }.into());
                }
                return Ok(Evaluation::NoAnswer(error));
            }
            Err(error) => {
                self.abort = Some(error);
                return Ok(Evaluation::Stop);
            }
        };
        self.no_answers = 0;
        self.progress.step(frame.instruction.text());
        let step = Step {
            bag,
            frame: frame.number,
            log_time: frame.log_time,
            stamp: frame.stamp,
            // Sides are bounded by the observation code, far below u32::MAX.
            size: (size.0 as u32, size.1 as u32),
            instruction: frame.instruction.text().to_owned(),
            outcome,
        };
        self.journal.push(&step)?;
        Ok(Evaluation::Done(step))
    }
}

/// Detects images of changing size.
#[derive(Default)]
struct Sizes {
    last: Option<(usize, usize)>,
    changes: u64,
    first: String,
}

impl Sizes {
    fn add(&mut self, frame: u64, size: (usize, usize)) {
        if let Some(before) = self.last.replace(size).filter(|before| *before != size) {
            if self.changes == 0 {
                self.first = format!(
                    "from {}x{} to {}x{} at frame {frame}",
                    before.0, before.1, size.0, size.1
                );
            }
            self.changes += 1;
        }
    }

    fn warning(&self, bag: &Path) -> Option<String> {
        let Self { changes, first, .. } = self;
        (*changes > 0).then(|| {
            format!("{}: the image size changes {changes} times, first {first}", bag.display())
        })
    }
}

/// The last of so many errors that the run ends.
fn in_a_row(error: &RemoteError) -> String {
    format!("{NO_ANSWERS_MAX} frames in a row without an answer, the last time {}", error.what)
}

/// Whether an error concerns only one frame: a wrong token is a result, a lost device is not.
fn concerns_one_frame(error: &PolicyError) -> bool {
    match error {
        PolicyError::Codec(_)
        | PolicyError::EndedEarly { .. }
        | PolicyError::Image(_)
        | PolicyError::Observation(_)
        | PolicyError::Instruction(_)
        | PolicyError::Flow(FlowError::PromptTooLong { .. })
        | PolicyError::Oft(OftError::NotFinite { .. }) => true,
        other => other.is_not_finite(),
    }
}
