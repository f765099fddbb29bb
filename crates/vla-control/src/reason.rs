//! Reasons for the state of the control core, with number, name and sentence, and the counters of
//! interventions.

use std::fmt;

use super::inputs::{CAMERAS_MAX, STATE_SOURCES_MAX};

macro_rules! reasons {
    ($(
        $(#[$meta:meta])*
        $variant:ident = $code:literal, $name:literal, $class:ident, $sentence:literal;
    )*) => {
        /// The cause of a state. The numbers are the constants of `Status.msg` and never change
        /// their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(u16)]
        pub enum Reason {
            $($(#[$meta])* #[doc = $sentence] $variant = $code,)*
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// Name of the constant in `Status.msg`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// One sentence for the operator.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Reason::$variant => $sentence,)* }
            }

            /// Treatment by the state machine.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Reason::$variant => Class::$class,)* }
            }
        }
    };
}

/// Treatment of a reason by the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nothing is wrong.
    Fine,
    /// A precondition of motion is not met. Stops motion, is not counted as a fault.
    Gate,
    /// A watchdog. Stops motion; counted as a fault when it interrupts motion; several faults
    /// within the window latch.
    Fault,
    /// Latches at once.
    Latch,
    /// Reported only.
    Report,
}

reasons! {
    #[default]
    None = 0, "NONE", Fine, "nothing is wrong";
    NotConfigured = 1, "NOT_CONFIGURED", Gate, "the node is not configured";
    NotActive = 2, "NOT_ACTIVE", Gate, "the node is configured but not active";
    NotEnabled = 3, "NOT_ENABLED", Gate, "motion is not enabled; call ~/enable";
    DryRun = 4, "DRY_RUN", Gate, "dry_run is true: everything runs but no command is published";
    NoInstruction = 5, "NO_INSTRUCTION", Gate, "there is no instruction";
    WaitingForAction = 6, "WAITING_FOR_ACTION", Fine, "enabled and waiting for the policy's next \
        action";
    Recovering = 7, "RECOVERING", Gate, "the cause is gone; waiting until it has stayed away long \
        enough";
    Deactivating = 8, "DEACTIVATING", Gate, "coming to rest before deactivation";
    Preparing = 9, "PREPARING", Fine, "enabled, and the policy is being prepared for an instruction \
        of this length; motion begins by itself afterwards";
    ImageMissing = 20, "IMAGE_MISSING", Fault, "no camera image has arrived";
    ImageStale = 21, "IMAGE_STALE", Fault, "the newest camera image is too old";
    ImageFrozen = 22, "IMAGE_FROZEN", Fault, "camera images arrive but their stamp does not change";
    ImageStampPast = 23, "IMAGE_STAMP_PAST", Fault, "camera images arrive with stamps too far in \
        the past";
    ImageStampFuture = 24, "IMAGE_STAMP_FUTURE", Fault, "camera images arrive with stamps in the \
        future";
    InferenceTimeout = 25, "INFERENCE_TIMEOUT", Fault, "the policy has not answered in time";
    InferenceFailed = 26, "INFERENCE_FAILED", Fault, "the policy returned an error instead of an \
        action";
    InferenceDead = 27, "INFERENCE_DEAD", Fault, "the inference worker is gone";
    ControlOverrun = 28, "CONTROL_OVERRUN", Fault, "the control loop missed its deadline";
    ProcessPaused = 29, "PROCESS_PAUSED", Fault, "the control loop stood still, as if the process \
        had been paused";
    SubscriberGone = 30, "SUBSCRIBER_GONE", Fault, "the command has no subscriber";
    ClockJumpedBack = 31, "CLOCK_JUMPED_BACK", Fault, "ROS time jumped back";
    EePoseStale = 32, "EE_POSE_STALE", Fault, "a workspace is set but the end effector's pose is \
        missing or too old";
    ImageUnchanged = 33, "IMAGE_UNCHANGED", Fault, "the tool was driven but the camera image \
        stays equal byte for byte";
    StateMissing = 34, "STATE_MISSING", Fault, "a state source has sent nothing";
    StateStale = 35, "STATE_STALE", Fault, "the newest message of a state source is too old";
    StateStamp = 36, "STATE_STAMP", Fault, "a state source's stamps are too far from ROS time";
    StateInvalid = 37, "STATE_INVALID", Fault, "a state source's message lacks a value, or one \
        is not plausible";
    ObservationSpread = 38, "OBSERVATION_SPREAD", Fault, "the newest images and states were taken \
        too far apart";
    TrackingError = 39, "TRACKING_ERROR", Fault, "a joint does not follow its command";
    Estop = 40, "ESTOP", Latch, "emergency stop";
    NotFinite = 41, "NOT_FINITE", Latch, "the policy produced a number that is not finite";
    RepeatedFaults = 42, "REPEATED_FAULTS", Latch, "too many faults in a short time";
    Stuck = 60, "STUCK", Report, "the policy repeats one action and the robot does not move";
    ConstantAction = 61, "CONSTANT_ACTION", Report, "the policy repeats one action";
    WorkspaceLimit = 62, "WORKSPACE_LIMIT", Report, "the workspace limit stops the commanded \
        motion";
    JointLimit = 63, "JOINT_LIMIT", Report, "a joint's position limit stops the commanded motion";
    JointOutside = 64, "JOINT_OUTSIDE", Report, "a joint is outside its position limits and may \
        only move inwards";
}

impl Reason {
    /// Number in `Status.msg`.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

/// What a cause is about. Names of the sources are known outside: [`Cause::named`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The camera with this index.
    Camera(u8),
    /// The state source with this index.
    State(u8),
    /// The measured joint positions as a whole.
    Joints,
    /// The joint with this index.
    Joint(u8),
}

/// A reason with the measured value and the limit it exceeded, both in `unit`; both zero when the
/// reason has no measurement.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cause {
    /// The reason.
    pub reason: Reason,
    /// For [`Reason::NotEnabled`]: the reason for which the enabling was withdrawn, otherwise
    /// [`Reason::None`].
    pub withdrawn_by: Reason,
    /// What it is about, when there may be several.
    pub source: Option<Source>,
    /// Measured value.
    pub value: f64,
    /// Its limit.
    pub limit: f64,
    /// Unit of both; empty without a measurement.
    pub unit: &'static str,
}

impl Cause {
    /// No cause.
    pub const NONE: Self = Self::plain(Reason::None);

    /// A reason without a measurement.
    #[must_use]
    pub const fn plain(reason: Reason) -> Self {
        Self::measured(reason, 0.0, 0.0, "")
    }

    /// A reason with the measured value and its limit in seconds.
    #[must_use]
    pub const fn seconds(reason: Reason, value: f64, limit: f64) -> Self {
        Self::measured(reason, value, limit, "s")
    }

    /// A reason with the measured value and its limit in `unit`.
    #[must_use]
    pub const fn measured(reason: Reason, value: f64, limit: f64, unit: &'static str) -> Self {
        Self { reason, withdrawn_by: Reason::None, source: None, value, limit, unit }
    }

    /// This cause, about `source`.
    #[must_use]
    pub const fn of(self, source: Source) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Its text with the name of its source: `IMAGE_STALE (wrist): the newest ...`. An empty name
    /// is left out.
    #[must_use]
    pub const fn named<'a>(&'a self, name: &'a str) -> NamedCause<'a> {
        NamedCause { cause: self, name }
    }

    /// [`Reason::NotEnabled`]; `by` is the reason for which the enabling was withdrawn, or
    /// [`Reason::None`], and `source` what that reason was about.
    #[must_use]
    pub const fn not_enabled(by: Reason, source: Option<Source>) -> Self {
        Self { withdrawn_by: by, source, ..Self::plain(Reason::NotEnabled) }
    }
}

/// Result of [`Cause::named`].
#[derive(Debug, Clone, Copy)]
pub struct NamedCause<'a> {
    cause: &'a Cause,
    name: &'a str,
}

impl fmt::Display for Cause {
    /// Text of `Status.detail` without the name of the source: `IMAGE_STALE: the newest camera
    /// image is too old (0.620 s, limit 0.500 s)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named("").fmt(f)
    }
}

impl fmt::Display for NamedCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cause { reason, withdrawn_by: by, value, limit, unit, .. } = *self.cause;
        let source = |f: &mut fmt::Formatter<'_>| match self.name {
            "" => Ok(()),
            name => write!(f, " ({name})"),
        };
        write!(f, "{}", reason.name())?;
        if by == Reason::None {
            source(f)?;
        }
        write!(f, ": {}", reason.sentence())?;
        if by != Reason::None {
            // The source is that of the reason for the withdrawal.
            write!(f, " (withdrawn because of {}", by.name())?;
            source(f)?;
            write!(f, ": {})", by.sentence())?;
        }
        if unit.is_empty() {
            return Ok(());
        }
        // Counts have no decimals.
        let digits = if unit == "faults" { 0 } else { 3 };
        write!(f, " ({value:.digits$} {unit}, limit {limit:.digits$} {unit})")
    }
}

/// Capacity of [`CauseSet`]. At most two watchdogs per camera, one per state source and 9 more, and
/// 6 other causes apply at the same time.
pub const CAUSES_MAX: usize = 2 * CAMERAS_MAX + STATE_SOURCES_MAX + 15;

/// The causes that apply in one step, in order of priority, in a fixed array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CauseSet {
    list: [Cause; CAUSES_MAX],
    len: u8,
}

impl Default for CauseSet {
    fn default() -> Self {
        Self { list: [Cause::NONE; CAUSES_MAX], len: 0 }
    }
}

impl CauseSet {
    /// In order of priority.
    pub fn iter(&self) -> impl Iterator<Item = &Cause> {
        self.list[..usize::from(self.len)].iter()
    }

    /// The cause with the highest priority.
    #[must_use]
    pub fn first(&self) -> Option<Cause> {
        self.iter().next().copied()
    }

    /// Whether `reason` is among the causes.
    #[must_use]
    pub fn contains(&self, reason: Reason) -> bool {
        self.iter().any(|cause| cause.reason == reason)
    }

    /// Number of causes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no cause applies.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a cause; one beyond the capacity is dropped.
    pub(super) fn push(&mut self, cause: Cause) {
        if let Some(slot) = self.list.get_mut(usize::from(self.len)) {
            *slot = cause;
            self.len += 1;
        }
    }
}

/// In the given order; causes beyond the capacity are dropped.
impl FromIterator<Cause> for CauseSet {
    fn from_iter<I: IntoIterator<Item = Cause>>(causes: I) -> Self {
        let mut set = Self::default();
        causes.into_iter().for_each(|cause| set.push(cause));
        set
    }
}

macro_rules! interventions {
    ($($variant:ident, $name:literal, $sentence:literal;)*) => {
        /// A limit that changed the desired motion, or a refused result. Each is counted by name in
        /// `Status`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Intervention {
            $(#[doc = $sentence] $variant,)*
        }

        impl Intervention {
            /// All interventions, in the order of `Status.interventions`.
            pub const ALL: &[Intervention] = &[$(Intervention::$variant,)*];
            /// Their names, in the same order: `Status.intervention_names`.
            pub const NAMES: &[&str] = &[$($name,)*];
            /// Number of interventions.
            pub const COUNT: usize = Self::ALL.len();

            /// Name in `Status`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

interventions! {
    NotFinite, "not_finite", "A chunk held a number that is not finite and was refused whole.";
    Envelope, "envelope", "A step outside the q01..q99 envelope of the statistics \
        was scaled into it.";
    StepCap, "step_cap", "A step was longer than the step cap and was scaled to it.";
    Workspace, "workspace", "The linear velocity was scaled so that the arm stops inside the \
        workspace box.";
    Velocity, "velocity", "The twist was scaled to the velocity limit.";
    Acceleration, "acceleration", "The command lags its target because of the acceleration limit.";
    Jerk, "jerk", "The command lags its target because of the jerk limit or because a bounded \
        stop must stay possible.";
    GripperHysteresis, "gripper_hysteresis", "A gripper value inside the hysteresis band changed \
        nothing.";
    GripperDwell, "gripper_dwell", "A gripper change came sooner than the minimum dwell and was \
        put off.";
    GripperRange, "gripper_range", "A gripper value outside 0..1 was clipped.";
    OldInstruction, "old_instruction", "A result for an earlier instruction was dropped.";
    OutOfOrder, "out_of_order", "A result older than one already taken was dropped.";
    LateResult, "late_result", "A result that took longer than the inference deadline was dropped.";
    OldObservation, "old_observation", "A result from an image that was already too old, or taken \
        before motion was allowed, was dropped.";
    Exhausted, "exhausted", "A result whose steps are all in the past was dropped.";
    NotAllowed, "not_allowed", "A result that arrived while motion was not allowed was dropped.";
    RampDown, "ramp_down", "A chunk ran out before a newer one arrived and the command was ramped \
        down.";
    JointLimit, "joint_limit", "A joint's target was beyond its position limits and was clipped.";
    GripperRate, "gripper_rate", "A continuous gripper command lags its value because of its rate.";
    OtherSpace, "other_space", "A result for other joints, or in another action space, was \
        dropped.";
}

/// Number of steps in which each intervention occurred since the state was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterventionCounts([u64; Intervention::COUNT]);

impl Default for InterventionCounts {
    fn default() -> Self {
        Self([0; Intervention::COUNT])
    }
}

impl InterventionCounts {
    /// Count of one intervention.
    #[must_use]
    pub const fn get(&self, which: Intervention) -> u64 {
        self.0[which as usize]
    }

    /// All counts, in the order of [`Intervention::ALL`].
    #[must_use]
    pub const fn as_array(&self) -> &[u64; Intervention::COUNT] {
        &self.0
    }

    /// Results dropped as too late or outdated: `late_results` of `Status`.
    #[must_use]
    pub const fn late_results(&self) -> u64 {
        self.get(Intervention::LateResult)
            + self.get(Intervention::OutOfOrder)
            + self.get(Intervention::OldInstruction)
            + self.get(Intervention::OldObservation)
            + self.get(Intervention::Exhausted)
    }

    pub(super) const fn add(&mut self, which: Intervention) {
        self.0[which as usize] = self.0[which as usize].saturating_add(1);
    }
}

/// The interventions of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterventionSet(u32);

impl InterventionSet {
    /// No intervention.
    pub const EMPTY: Self = Self(0);

    /// Whether `which` occurred.
    #[must_use]
    pub const fn contains(self, which: Intervention) -> bool {
        self.0 & (1 << which as u32) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of [`Intervention::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Intervention> {
        Intervention::ALL.iter().copied().filter(move |which| self.contains(*which))
    }

    /// One bit per intervention, bit `i` for `Intervention::ALL[i]`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    pub(super) const fn insert(&mut self, which: Intervention) {
        self.0 |= 1 << which as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_ascending() {
        for pair in Reason::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code());
            assert_ne!(pair[0].name(), pair[1].name());
        }
        const { assert!(Intervention::COUNT <= 32, "InterventionSet has 32 bits") };
        for (i, which) in Intervention::ALL.iter().enumerate() {
            assert_eq!(Intervention::NAMES[i], which.name());
            assert_eq!(*which as usize, i);
        }
    }

    #[test]
    fn a_cause_shows_value_and_limit() {
        let cause = Cause::seconds(Reason::ImageStale, 0.62, 0.5);
        assert_eq!(
            cause.to_string(),
            "IMAGE_STALE: the newest camera image is too old (0.620 s, limit 0.500 s)"
        );
        assert_eq!(Cause::plain(Reason::Estop).to_string(), "ESTOP: emergency stop");
        assert_eq!(
            Cause::not_enabled(Reason::ImageStale, None).to_string(),
            "NOT_ENABLED: motion is not enabled; call ~/enable (withdrawn because of IMAGE_STALE: \
            the newest camera image is too old)"
        );
    }

    #[test]
    fn a_cause_names_its_source() {
        let cause = Cause::seconds(Reason::ImageStale, 0.62, 0.5).of(Source::Camera(1));
        assert_eq!(cause.source, Some(Source::Camera(1)));
        assert_eq!(
            cause.named("wrist").to_string(),
            "IMAGE_STALE (wrist): the newest camera image is too old (0.620 s, limit 0.500 s)"
        );
        assert_eq!(cause.named("").to_string(), cause.to_string());
        let withdrawn = Cause::not_enabled(Reason::StateStale, Some(Source::State(0)));
        assert_eq!(
            withdrawn.named("joint_states").to_string(),
            "NOT_ENABLED: motion is not enabled; call ~/enable (withdrawn because of STATE_STALE \
            (joint_states): the newest message of a state source is too old)"
        );
    }

    #[test]
    fn causes_keep_their_order_up_to_the_capacity() {
        let mut causes = CauseSet::default();
        assert!(causes.is_empty() && causes.first().is_none());
        for i in 0..CAUSES_MAX as u8 + 5 {
            causes.push(Cause::plain(Reason::StateStale).of(Source::State(i)));
        }
        assert_eq!(causes.len(), CAUSES_MAX);
        let sources = (0..CAUSES_MAX as u8).map(|i| Some(Source::State(i)));
        assert!(causes.iter().map(|cause| cause.source).eq(sources));
        assert!(causes.contains(Reason::StateStale) && !causes.contains(Reason::Stuck));
    }

    #[test]
    fn late_results_sum_five_counts() {
        let mut counts = InterventionCounts::default();
        for (i, which) in Intervention::ALL.iter().enumerate() {
            for _ in 0..=i {
                counts.add(*which);
            }
        }
        for (i, which) in Intervention::ALL.iter().enumerate() {
            assert_eq!(
                (counts.get(*which), counts.as_array()[i]),
                (i as u64 + 1, i as u64 + 1),
                "{}",
                which.name()
            );
        }
        let late = [
            Intervention::LateResult,
            Intervention::OutOfOrder,
            Intervention::OldInstruction,
            Intervention::OldObservation,
            Intervention::Exhausted,
        ];
        assert_eq!(
            counts.late_results(),
            late.into_iter().map(|which| counts.get(which)).sum::<u64>()
        );
    }

    #[test]
    fn a_set_contains_what_was_inserted() {
        let mut set = InterventionSet::EMPTY;
        assert!(set.is_empty());
        set.insert(Intervention::Jerk);
        set.insert(Intervention::RampDown);
        assert!(
            !set.is_empty()
                && set.contains(Intervention::Jerk)
                && !set.contains(Intervention::Velocity)
        );
        assert!(set.iter().eq([Intervention::Jerk, Intervention::RampDown]));
        assert_eq!(
            set.bits(),
            (1 << Intervention::Jerk as u32) | (1 << Intervention::RampDown as u32)
        );
    }
}
