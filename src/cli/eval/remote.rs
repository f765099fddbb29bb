//! `openvla eval run --remote`: the policy of a server in place of a checkpoint.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::remote::contract;
use vla_config::PolicyFile;
use vla_eval::{EvalError, ServerSettings};
use vla_inference::policy::Policy;
use vla_remote::{Answers, ApiKey, Deadlines, PersistentPolicy, RemoteAddress, Settings};

/// Longest deadline, seconds.
const LONGEST_S: f64 = 3600.0;
/// Defaults: a server on a processor may need half a minute for an answer, and no arm waits.
const TIMEOUT_S: f64 = 60.0;
const CONNECT_TIMEOUT_S: f64 = 5.0;
const READ_TIMEOUT_S: f64 = 5.0;
const ATTEMPTS: u32 = 5;

/// A policy on a server.
#[derive(Args, Debug)]
#[command(next_help_heading = "A policy server in place of a checkpoint")]
pub(super) struct RemoteArgs {
    /// openpi://HOST:PORT or act://HOST:PORT. Needs a --policy-file with a section remote, as the
    /// node does: see docs/remote.md
    #[arg(
        long,
        value_name = "ADDRESS",
        requires = "policy_file",
        conflicts_with_all = [
            "device", "precision", "threads", "kernels", "weight_cache", "decode", "draft", "eager",
            "tokenizer", "norm_stats", "resize", "state_tokens", "horizon", "actions",
            "absent_camera", "steps", "seed", "rtc",
        ]
    )]
    remote: Option<RemoteAddress>,
    /// File with the server's API key and nothing else
    #[arg(long, value_name = "FILE", requires = "remote")]
    remote_key_file: Option<PathBuf>,
    /// From a request to its whole answer; default 60 s
    #[arg(long, value_name = "S", value_parser = seconds, requires = "remote")]
    remote_timeout_s: Option<f64>,
    /// For a connection with its handshake and metadata; default 5 s
    #[arg(long, value_name = "S", value_parser = seconds, requires = "remote")]
    remote_connect_timeout_s: Option<f64>,
    /// For a silence within an answer; default 5 s
    #[arg(long, value_name = "S", value_parser = seconds, requires = "remote")]
    remote_read_timeout_s: Option<f64>,
    /// Attempts to connect in a row before the evaluation stops; default 5
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1000),
        requires = "remote"
    )]
    remote_attempts: Option<u32>,
}

/// A server's policy, connected, and what a report says of it.
type ServersPolicy = (Box<dyn Policy>, ServerSettings);

fn seconds(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (0.001..=LONGEST_S).contains(value));
    value.ok_or_else(|| format!("'{text}' is not a number of seconds from 0.001 to {LONGEST_S}"))
}

impl RemoteArgs {
    /// Whether a server is named.
    pub(super) fn is_given(&self) -> bool {
        self.remote.is_some()
    }

    /// The server's policy, connected, with what a report says of it; `None` without `--remote`.
    ///
    /// # Errors
    /// When the policy file is not one for a server, or the server cannot be reached.
    pub(super) fn open(
        &self,
        file: Option<&PolicyFile>,
        unnorm_key: Option<&str>,
    ) -> Result<Option<ServersPolicy>, EvalError> {
        let Some(address) = &self.remote else { return Ok(None) };
        let usage = |error: &dyn std::fmt::Display| EvalError::Usage(format!("--remote: {error}"));
        let no_section = "the policy file has no section remote, which says what the server's \
                          requests and answers mean; see docs/remote.md";
        let file = file.ok_or_else(|| usage(&no_section))?;
        let unnorm_key = match unnorm_key {
            None => file.unnorm_keys.first().cloned().unwrap_or_default(),
            key => file.choose_key(key).map_err(|error| usage(&error))?.to_owned(),
        };
        let contract =
            contract(file, address.protocol, &unnorm_key).map_err(|error| usage(&error))?;
        let contract = contract.ok_or_else(|| usage(&no_section))?;
        let answers = match contract.answers {
            Answers::Physical => "physical",
            Answers::Normalized { .. } => "normalized",
        };
        let key = self.remote_key_file.as_deref().map(ApiKey::load).transpose();
        let settings = Settings {
            address: address.clone(),
            key: key.map_err(|error| usage(&error))?,
            deadlines: self.deadlines(),
            contract,
            unnorm_key,
        };
        let policy = PersistentPolicy::open(&settings, self.remote_attempts.unwrap_or(ATTEMPTS))?;
        let server = ServerSettings {
            address: address.to_string(),
            metadata: policy.metadata().to_owned(),
            answers: answers.to_owned(),
        };
        Ok(Some((Box::new(policy), server)))
    }

    fn deadlines(&self) -> Deadlines {
        let time = |given: Option<f64>, usual| Duration::from_secs_f64(given.unwrap_or(usual));
        let answer = time(self.remote_timeout_s, TIMEOUT_S);
        Deadlines {
            connect: time(self.remote_connect_timeout_s, CONNECT_TIMEOUT_S),
            read: time(self.remote_read_timeout_s, READ_TIMEOUT_S),
            answer,
            first_answer: answer,
        }
    }
}
