//! Why a request gets no action, and why a server does not start.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;

/// How a request ended: the label `outcome` of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// An action was sent.
    Ok,
    /// The bytes are no message of the protocol.
    Malformed,
    /// The message is one, but not for this policy.
    Unfit,
    /// More bytes than allowed.
    TooLarge,
    /// No or another API key.
    Unauthorized,
    /// From a web page.
    Forbidden,
    /// A newer request of the same client came while it waited.
    Replaced,
    /// Too slow in coming.
    Slow,
    /// Too many are waiting.
    Busy,
    /// The server is ending.
    Ending,
    /// The client's deadline passed.
    Deadline,
    /// The policy gave no action.
    Failed,
    /// The client was gone before the answer.
    Gone,
    /// Another path.
    NotFound,
    /// Another method.
    Method,
}

impl Outcome {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Malformed => "malformed",
            Self::Unfit => "unfit",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Replaced => "replaced",
            Self::Slow => "slow",
            Self::Busy => "busy",
            Self::Ending => "ending",
            Self::Deadline => "deadline",
            Self::Failed => "failed",
            Self::Gone => "gone",
            Self::NotFound => "not_found",
            Self::Method => "method",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unfit => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Replaced => StatusCode::CONFLICT,
            Self::Slow | Self::Gone => StatusCode::REQUEST_TIMEOUT,
            Self::Busy | Self::Ending => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// A request without an action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}")]
pub(crate) struct RequestError {
    pub(crate) outcome: Outcome,
    /// What is wrong, with value, place and remedy; one line.
    pub(crate) line: String,
}

impl RequestError {
    pub(crate) fn new(outcome: Outcome, line: impl Into<String>) -> Self {
        // Messages of other crates may have several lines.
        let line: String = line.into();
        Self { outcome, line: line.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    pub(crate) fn unfit(line: impl Into<String>) -> Self {
        Self::new(Outcome::Unfit, line)
    }

    pub(crate) fn ending() -> Self {
        Self::new(Outcome::Ending, "the server is ending and takes no further requests")
    }

    pub(crate) fn deadline(allowed: Duration) -> Self {
        let milliseconds = allowed.as_millis();
        Self::new(
            Outcome::Deadline,
            format!(
                "no action within the {milliseconds} ms that the client waits; ask for a longer \
                time or use a faster device or precision"
            ),
        )
    }
}

impl From<vla_wire::WireError> for RequestError {
    fn from(error: vla_wire::WireError) -> Self {
        let outcome = match error {
            vla_wire::WireError::Malformed { .. } | vla_wire::WireError::NoObject { .. } => {
                Outcome::Malformed
            }
            _ => Outcome::Unfit,
        };
        Self::new(outcome, error.to_string())
    }
}

/// Why a server does not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Other machines would reach a server without a key.
    #[error(
        "{0} can be reached from other machines: give an API key (--api-key-file FILE or \
        OPENVLA_API_KEY), or listen on 127.0.0.1 and forward the port with ssh"
    )]
    NoKey(SocketAddr),
    /// The address is taken, or none of this machine.
    #[error("cannot listen on {address}: {reason}; choose another one with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A key that is none.
    #[error("API key: {0}")]
    Key(String),
    /// The system gives no threads or signals.
    #[error("threads or signals: {0}")]
    Runtime(std::io::Error),
    /// The thread of the policy is gone.
    #[error("the inference thread ended unexpectedly; its last line on stderr says why")]
    Inference,
    /// Two cameras under one name.
    #[error("the name '{name}' stands for two cameras, '{first}' and '{second}'")]
    Name {
        /// The name.
        name: String,
        /// A camera.
        first: String,
        /// Another one.
        second: String,
    },
}
