//! A policy on a server for a caller that can wait, such as an evaluation: the connection is opened
//! again within [`Policy::act`], a bounded number of times, and the request is repeated on it.

use std::thread;

use vla_inference::observation::Observation;
use vla_inference::policy::{
    Decision, Policy, PolicyError, PolicyInfo, RemoteError, RemoteFault, Restored,
};

use crate::policy::retry_delay;
use crate::{Answers, RemotePolicy, Settings};

/// A policy on a server that outlives its connections.
pub struct PersistentPolicy {
    inner: RemotePolicy,
    attempts: u32,
    /// Of the first connection.
    metadata: String,
}

impl PersistentPolicy {
    /// Connects, in at most so many attempts.
    ///
    /// # Errors
    /// As [`RemotePolicy::open`], of the last attempt.
    pub fn open(settings: &Settings, attempts: u32) -> Result<Self, PolicyError> {
        let mut tries = 1;
        loop {
            match RemotePolicy::open(settings.clone()) {
                Ok(inner) => {
                    let metadata = inner.metadata().to_owned();
                    return Ok(Self { inner, attempts, metadata });
                }
                Err(PolicyError::Remote(error)) if error.fault == RemoteFault::Gone => {
                    if attempts <= tries {
                        return Err(exhausted(error, tries).into());
                    }
                    thread::sleep(retry_delay(tries));
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What the server states about its policy, in one line; empty for `/act`.
    #[must_use]
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// Opens the connection if it was lost; `tries` counts the attempts.
    fn connect(&mut self, tries: &mut u32) -> Result<(), PolicyError> {
        loop {
            let was_down = self.inner.is_down();
            let failed = match self.inner.restore() {
                Restored::Ready => break,
                Restored::Again(_) => {
                    *tries += 1;
                    break;
                }
                Restored::Later(time) => {
                    thread::sleep(time);
                    continue;
                }
                Restored::Failed(error) => error,
            };
            // A connection that was found to be closed is no attempt to open one.
            *tries += u32::from(was_down);
            match failed {
                PolicyError::Remote(error) if self.attempts <= *tries => {
                    return Err(exhausted(error, *tries).into());
                }
                PolicyError::Remote(_) => {}
                error => return Err(error),
            }
        }
        if self.inner.metadata() == self.metadata {
            return Ok(());
        }
        // Answers of two policies are never joined to one result.
        let what = format!(
            "states other metadata than at the start ('{}', before '{}'): another policy is served",
            self.inner.metadata(),
            self.metadata
        );
        let address = self.inner.address().to_string();
        Err(RemoteError { fault: RemoteFault::Gone, address, what, out_of_bounds: false }.into())
    }
}

/// The last of so many failed attempts: there is no server.
fn exhausted(error: RemoteError, tries: u32) -> RemoteError {
    let what = match tries {
        1 => error.what,
        _ => format!("{} ({tries} attempts to connect)", error.what),
    };
    RemoteError { fault: RemoteFault::Gone, what, ..error }
}

impl Policy for PersistentPolicy {
    /// An error with [`RemoteFault::Gone`] is that of the last attempt; any other one concerns this
    /// observation. Where the answers are physical, there is nothing to normalise them by, and
    /// `normalized` is empty.
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let mut tries = 0;
        loop {
            self.connect(&mut tries)?;
            match self.inner.act(observation) {
                Err(PolicyError::Remote(error)) if error.fault == RemoteFault::Gone => {
                    if self.attempts <= tries {
                        return Err(exhausted(error, tries).into());
                    }
                }
                Ok(mut decision) => {
                    if *self.inner.answers() == Answers::Physical {
                        decision.normalized.clear();
                    }
                    return Ok(decision);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn info(&self) -> &PolicyInfo {
        self.inner.info()
    }

    fn origin(&self) -> Option<String> {
        self.inner.origin()
    }
}
