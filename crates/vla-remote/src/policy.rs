//! The policy on a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foreign_text::one_line;
use vla_inference::observation::{Observation, Preparer};
use vla_inference::policy::{
    Decision, Policy, PolicyError, PolicyInfo, RemoteError, Restored, Stage,
};
use vla_wire::Value;

use crate::act;
use crate::contract::{Answers, Contract};
use crate::openpi::Connection;
use crate::trouble::{Trouble, last_line};
use crate::{ApiKey, Protocol, RemoteAddress};

/// First and longest time between two attempts, after one without delay.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// Longest text of metadata that is kept, characters.
const METADATA_MAX: usize = 2000;

/// How long a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a connection, a websocket's handshake and metadata included.
    pub connect: Duration,
    /// For a silence within an answer.
    pub read: Duration,
    /// From a request to its whole answer.
    pub answer: Duration,
    /// The same for the first answer: a server may compile its model then.
    pub first_answer: Duration,
}

/// A server, and what its numbers mean.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub address: RemoteAddress,
    /// Its key.
    pub key: Option<ApiKey>,
    /// How long it may take.
    pub deadlines: Deadlines,
    /// What requests and answers mean.
    pub contract: Contract,
    /// Key of the statistics, for reports.
    pub unnorm_key: String,
}

/// An answer to the last request.
pub(crate) struct Answer {
    pub actions: Value,
    /// The duration that the server states, milliseconds.
    pub server_ms: Option<f64>,
}

/// A policy on a server.
pub struct RemotePolicy {
    settings: Settings,
    info: PolicyInfo,
    numbers: Vec<SocketAddr>,
    preparers: Vec<Preparer>,
    /// openpi's connection; `None` while there is none, and for `/act`.
    connection: Option<Connection>,
    metadata: String,
    /// What is wrong, and when the next attempt to repair it begins.
    down: Option<(RemoteError, Instant)>,
    /// Failures since the last valid answer.
    failures: u32,
    /// Whether a valid answer has come.
    warm: bool,
}

impl RemotePolicy {
    /// Resolves the server's name, connects, and reads its metadata.
    ///
    /// # Errors
    /// [`PolicyError::Remote`] with the address, or an image preparation that cannot be carried
    /// out.
    pub fn open(settings: Settings) -> Result<Self, PolicyError> {
        let Settings { address, deadlines, contract, .. } = &settings;
        let numbers = address.resolve(deadlines.connect).map_err(|trouble| trouble.at(address))?;
        let preparers = contract.preparers()?;
        let info = info(&settings);
        let mut policy = Self {
            info,
            numbers,
            preparers,
            connection: None,
            metadata: String::new(),
            down: None,
            failures: 0,
            warm: false,
            settings,
        };
        policy.connect().map_err(|trouble| trouble.at(&policy.settings.address))?;
        Ok(policy)
    }

    /// What the server states about its policy, in one line; empty for `/act`, which has none.
    #[must_use]
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// Whether the connection is closed, to be opened again by [`Policy::restore`].
    pub(crate) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// Where the server is.
    pub(crate) fn address(&self) -> &RemoteAddress {
        &self.settings.address
    }

    /// What its answers are.
    pub(crate) fn answers(&self) -> &Answers {
        &self.settings.contract.answers
    }

    fn connect(&mut self) -> Result<(), Trouble> {
        let Settings { address, key, deadlines, .. } = &self.settings;
        match address.protocol {
            Protocol::Act => act::probe(&self.numbers, deadlines),
            Protocol::Openpi => {
                let within = deadlines.connect;
                let (connection, metadata) =
                    Connection::open(address, &self.numbers, key.as_ref(), within)?;
                self.metadata = described(&metadata);
                self.connection = Some(connection);
                Ok(())
            }
        }
    }

    /// The server's answer, its own duration in milliseconds if it states one.
    fn exchange(&mut self, request: &Value) -> Result<Answer, Trouble> {
        let Settings { address, key, deadlines, .. } = &self.settings;
        let first = deadlines.answer.max(deadlines.first_answer);
        let answer = if self.warm { deadlines.answer } else { first };
        let deadlines = Deadlines { answer, ..*deadlines };
        match (&mut self.connection, address.protocol) {
            (Some(connection), Protocol::Openpi) => connection.exchange(request, &deadlines),
            (None, Protocol::Openpi) => Err(Trouble::gone("there is no connection")),
            (_, Protocol::Act) => {
                act::exchange(address, &self.numbers, key.as_ref(), request, &deadlines)
            }
        }
    }

    /// Closes the connection: nothing more is taken from it.
    fn fail(&mut self, trouble: Trouble) -> PolicyError {
        if let Some(mut connection) = self.connection.take() {
            connection.close();
        }
        let delay = retry_delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        let error = trouble.at(&self.settings.address);
        self.down = Some((error.clone(), Instant::now() + delay));
        error.into()
    }
}

impl Policy for RemotePolicy {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        if let Some((error, _)) = &self.down {
            return Err(error.clone().into());
        }
        let started = Instant::now();
        let request = self.settings.contract.request(observation, &mut self.preparers)?;
        let sent = Instant::now();
        let answer = self.exchange(&request).and_then(|answer| {
            Ok((self.settings.contract.steps(&answer.actions)?, answer.server_ms))
        });
        let (steps, server_ms) = match answer {
            Ok(answer) => answer,
            // The answer is the one to this request; only its numbers are not to be moved by.
            Err(trouble) if trouble.out_of_bounds => {
                (self.warm, self.failures) = (true, 0);
                return Err(trouble.at(&self.settings.address).into());
            }
            Err(trouble) => return Err(self.fail(trouble)),
        };
        let round_trip_ms = sent.elapsed().as_secs_f64() * 1e3;
        (self.warm, self.failures) = (true, 0);
        let stage = |name, milliseconds| Stage { name, milliseconds };
        let mut stages = vec![stage("preprocess", (sent - started).as_secs_f64() * 1e3)];
        match server_ms {
            Some(ms) => {
                stages.push(stage("network", (round_trip_ms - ms).max(0.0)));
                stages.push(stage("server", ms));
            }
            None => stages.push(stage("round_trip", round_trip_ms)),
        }
        Ok(Decision {
            prompt: observation.instruction.text().to_owned(),
            normalized: steps.sent,
            actions: steps.physical,
            stages,
            ..Decision::default()
        })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }

    fn restore(&mut self) -> Restored {
        let Some((_, next)) = &self.down else {
            return match self.connection.as_mut().map_or(Ok(()), Connection::poll) {
                Ok(()) => Restored::Ready,
                Err(trouble) => Restored::Failed(self.fail(trouble)),
            };
        };
        let wait = next.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            return Restored::Later(wait);
        }
        match self.connect() {
            Ok(()) => {
                self.down = None;
                Restored::Again(format!("{}: connected again", self.settings.address))
            }
            Err(trouble) => Restored::Failed(self.fail(trouble)),
        }
    }

    fn origin(&self) -> Option<String> {
        let address = &self.settings.address;
        Some(match self.settings.address.protocol {
            Protocol::Openpi => {
                format!("{address}; the server's metadata: {}", last_line(&self.metadata))
            }
            Protocol::Act => address.to_string(),
        })
    }
}

impl Drop for RemotePolicy {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close();
        }
    }
}

/// No delay after the first failure, then doubled ones.
pub(crate) fn retry_delay(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(further) => (RETRY_FIRST * 2_u32.pow(further.min(10))).min(RETRY_LONGEST),
    }
}

fn info(settings: &Settings) -> PolicyInfo {
    let Settings { address, contract, unnorm_key, .. } = settings;
    let envelope = |(column, [low, high]): (usize, &[f64; 2])| match &contract.answers {
        Answers::Normalized { unchanged } if !unchanged.contains(&column) => Some((*low, *high)),
        // Bounds of plausibility, not percentiles of the data.
        _ => None,
    };
    PolicyInfo {
        unnorm_key: unnorm_key.clone(),
        action_dim: contract.bounds.len(),
        action_names: contract.names.clone(),
        horizon: contract.horizon,
        cameras: contract.images.iter().map(|(camera, _)| Arc::clone(camera)).collect(),
        state_dim: contract.state_dim(),
        device: address.to_string(),
        precision: "the server's".into(),
        envelope: contract.bounds.iter().enumerate().map(envelope).collect(),
        action_tokens: None,
    }
}

/// Metadata in one line.
fn described(metadata: &Value) -> String {
    fn plain(value: &Value, depth: u8) -> String {
        match value {
            Value::Text(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::List(values) if 0 < depth => {
                let values: Vec<_> = values.iter().map(|value| plain(value, depth - 1)).collect();
                format!("[{}]", values.join(", "))
            }
            other => other.described(),
        }
    }
    let Value::Object(fields) = metadata else { return one_line(&metadata.described(), 200) };
    let field = |(name, value): &(String, Value)| format!("{name}: {}", plain(value, 2));
    match fields.as_slice() {
        [] => "none".into(),
        fields => one_line(&fields.iter().map(field).collect::<Vec<_>>().join(", "), METADATA_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_second() {
        let delays: Vec<u128> = (0..8).map(|n| retry_delay(n).as_millis()).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(retry_delay(u32::MAX), RETRY_LONGEST);
    }
}
