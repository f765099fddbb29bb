//! Failures of a policy that runs on a server.

use std::time::Duration;

use super::PolicyError;

/// What is wrong with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemoteFault {
    /// It cannot be reached, or the connection was lost.
    Gone,
    /// It answered with an error.
    Refused,
    /// It did not answer in time.
    Late,
    /// Its answer is not what the policy file states.
    Malformed,
}

impl RemoteFault {
    /// Name, as in `Status.msg` after `REASON_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "REMOTE_GONE",
            Self::Refused => "REMOTE_REFUSED",
            Self::Late => "REMOTE_LATE",
            Self::Malformed => "REMOTE_MALFORMED",
        }
    }
}

/// A failure of a policy server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address}: {what}")]
pub struct RemoteError {
    /// Which kind.
    pub fault: RemoteFault,
    /// The server's address as it was given.
    pub address: String,
    /// What happened, with the values and the remedy.
    pub what: String,
    /// Whether the answer was well-formed but out of the bounds that the policy file states.
    pub out_of_bounds: bool,
}

/// What a policy did to be able to decide again, [`Policy::restore`](super::Policy::restore).
#[derive(Debug)]
pub enum Restored {
    /// Nothing was to be done.
    Ready,
    /// It can decide again; one line for the log.
    Again(String),
    /// Nothing can be tried before this time has passed.
    Later(Duration),
    /// It is, or still is, unable to decide.
    Failed(PolicyError),
}
