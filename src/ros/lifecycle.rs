//! The managed lifecycle of `lifecycle_msgs` as a table of transitions. Independent of ROS.
//!
//! Design: <https://design.ros2.org/articles/node_lifecycle.html>; numbers:
//! `lifecycle_msgs/msg/{State,Transition}.msg`; labels: rcl_lifecycle.

/// A primary or transition state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // The names are those of the design document.
pub enum State {
    Unconfigured = 1,
    Inactive = 2,
    Active = 3,
    Finalized = 4,
    Configuring = 10,
    CleaningUp = 11,
    ShuttingDown = 12,
    Activating = 13,
    Deactivating = 14,
    ErrorProcessing = 15,
}

impl State {
    /// Every state, in rcl's order.
    pub const ALL: [State; 10] = [
        State::Unconfigured,
        State::Inactive,
        State::Active,
        State::Finalized,
        State::Configuring,
        State::CleaningUp,
        State::ShuttingDown,
        State::Activating,
        State::Deactivating,
        State::ErrorProcessing,
    ];

    /// The number in `lifecycle_msgs/State`.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// rcl's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            State::Unconfigured => "unconfigured",
            State::Inactive => "inactive",
            State::Active => "active",
            State::Finalized => "finalized",
            State::Configuring => "configuring",
            State::CleaningUp => "cleaningup",
            State::ShuttingDown => "shuttingdown",
            State::Activating => "activating",
            State::Deactivating => "deactivating",
            State::ErrorProcessing => "errorprocessing",
        }
    }
}

/// One edge of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The number in `lifecycle_msgs/Transition`.
    pub id: u8,
    /// rcl's label.
    pub label: &'static str,
    /// State in which it starts.
    pub start: State,
    /// State that it enters.
    pub goal: State,
}

const fn edge(id: u8, label: &'static str, start: State, goal: State) -> Transition {
    Transition { id, label, start, goal }
}

/// Every edge. Those with numbers below 10 can be requested; the others are taken when the work of
/// a transition state ends.
pub const GRAPH: &[Transition] = &[
    edge(1, "configure", State::Unconfigured, State::Configuring),
    edge(10, "transition_success", State::Configuring, State::Inactive),
    edge(11, "transition_failure", State::Configuring, State::Unconfigured),
    edge(12, "transition_error", State::Configuring, State::ErrorProcessing),
    edge(2, "cleanup", State::Inactive, State::CleaningUp),
    edge(20, "transition_success", State::CleaningUp, State::Unconfigured),
    edge(21, "transition_failure", State::CleaningUp, State::Inactive),
    edge(22, "transition_error", State::CleaningUp, State::ErrorProcessing),
    edge(3, "activate", State::Inactive, State::Activating),
    edge(30, "transition_success", State::Activating, State::Active),
    edge(31, "transition_failure", State::Activating, State::Inactive),
    edge(32, "transition_error", State::Activating, State::ErrorProcessing),
    edge(4, "deactivate", State::Active, State::Deactivating),
    edge(40, "transition_success", State::Deactivating, State::Inactive),
    edge(41, "transition_failure", State::Deactivating, State::Active),
    edge(42, "transition_error", State::Deactivating, State::ErrorProcessing),
    edge(5, "shutdown", State::Unconfigured, State::ShuttingDown),
    edge(6, "shutdown", State::Inactive, State::ShuttingDown),
    edge(7, "shutdown", State::Active, State::ShuttingDown),
    edge(50, "transition_success", State::ShuttingDown, State::Finalized),
    edge(51, "transition_failure", State::ShuttingDown, State::Finalized),
    edge(52, "transition_error", State::ShuttingDown, State::ErrorProcessing),
    edge(60, "transition_success", State::ErrorProcessing, State::Unconfigured),
    edge(61, "transition_failure", State::ErrorProcessing, State::Finalized),
    edge(62, "transition_error", State::ErrorProcessing, State::Finalized),
];

/// How the work of a transition state ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Done.
    Success,
    /// Not possible; nothing changed.
    Failure,
    /// Failed halfway.
    Error,
}

/// The state and its permitted changes.
#[derive(Debug)]
pub struct LifecycleStateMachine {
    state: State,
}

impl Default for LifecycleStateMachine {
    fn default() -> Self {
        Self { state: State::Unconfigured }
    }
}

impl LifecycleStateMachine {
    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The transitions that can be requested now.
    pub fn available(&self) -> impl Iterator<Item = &'static Transition> + use<> {
        let state = self.state;
        GRAPH.iter().filter(move |edge| edge.start == state && edge.id < 10)
    }

    /// Starts a transition requested by label or, without one, by number (as rclcpp does).
    pub fn begin(&mut self, id: u8, label: &str) -> Option<&'static Transition> {
        let edge = self
            .available()
            .find(|edge| if label.is_empty() { edge.id == id } else { edge.label == label })?;
        self.state = edge.goal;
        Some(edge)
    }

    /// Leaves a transition state.
    pub fn end(&mut self, ended: Ended) -> Option<&'static Transition> {
        let label = match ended {
            Ended::Success => "transition_success",
            Ended::Failure => "transition_failure",
            Ended::Error => "transition_error",
        };
        let edge = GRAPH.iter().find(|edge| edge.start == self.state && edge.label == label)?;
        self.state = edge.goal;
        Some(edge)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn usual_transitions() {
        let mut machine = LifecycleStateMachine::default();
        for (label, ended, after) in [
            ("configure", Ended::Failure, State::Unconfigured),
            ("configure", Ended::Success, State::Inactive),
            ("activate", Ended::Success, State::Active),
            ("deactivate", Ended::Success, State::Inactive),
            ("cleanup", Ended::Success, State::Unconfigured),
            ("shutdown", Ended::Success, State::Finalized),
        ] {
            assert!(machine.begin(0, label).is_some(), "{label}");
            assert_eq!(machine.available().count(), 0, "busy");
            machine.end(ended).unwrap();
            assert_eq!(machine.state(), after);
        }
        assert!(machine.begin(0, "configure").is_none());
    }

    #[test]
    fn other_transitions_are_refused() {
        let mut machine = LifecycleStateMachine::default();
        for id in (0..=255).filter(|id| ![1, 5].contains(id)) {
            assert!(machine.begin(id, "").is_none(), "{id}");
        }
        assert!(machine.begin(1, "activate").is_none(), "the label goes first");
        assert!(
            machine.begin(10, "transition_success").is_none(),
            "only the node itself ends its work"
        );
        assert!(machine.end(Ended::Success).is_none(), "there is no work to end");
        assert_eq!(machine.begin(1, "").unwrap().label, "configure");
    }

    #[test]
    fn errors_pass_through_error_processing() {
        let mut machine = LifecycleStateMachine::default();
        machine.begin(0, "configure").unwrap();
        machine.end(Ended::Error).unwrap();
        assert_eq!(machine.state(), State::ErrorProcessing);
        machine.end(Ended::Success).unwrap();
        assert_eq!(machine.state(), State::Unconfigured);
    }

    #[test]
    fn transition_states_have_three_ends() {
        for state in State::ALL.into_iter().filter(|state| 10 <= state.id()) {
            assert_eq!(GRAPH.iter().filter(|edge| edge.start == state).count(), 3, "{state:?}");
        }
    }
}
