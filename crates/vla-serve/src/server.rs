//! The server of a policy: its tasks, its paths, and its end.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use vla_inference::policy::Policy;
use vla_wire::picture::PictureLimits;

use crate::contract::{Contract, Names};
use crate::engine::Engine;
use crate::error::{Outcome, RequestError};
use crate::guard::{admit, json, refusal};
use crate::listener::{Listener, Stop, ended, runtime};
use crate::metrics::Metrics;
use crate::{Options, ServeError, act, openpi, vla_eval};

/// Threads that read requests and send answers; inference has its own.
const TASK_THREADS: usize = 2;
/// Threads that decode pictures.
const DECODE_THREADS: usize = 4;
/// What there is.
const PATHS: &str = "there are POST /act, the websockets / (openpi) and /vla-eval, GET /healthz \
    and GET /metrics";

/// What the tasks of a server share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) contract: Arc<Contract>,
    pub(crate) engine: Engine,
    pub(crate) metrics: Arc<Metrics>,
    ending: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Returns when the server ends.
    pub(crate) async fn ending(&self) {
        ended(self.ending.subscribe()).await;
    }

    /// Decodes on a thread for it: pictures of a large body take milliseconds.
    pub(crate) async fn decode<T: Send + 'static>(
        &self,
        decode: impl FnOnce(&Contract, &vla_wire::Limits, &PictureLimits) -> Result<T, RequestError>
        + Send
        + 'static,
    ) -> Result<T, RequestError> {
        let contract = Arc::clone(&self.contract);
        let pictures = PictureLimits { pixels: self.options.limits.picture_pixels };
        let decoded = tokio::task::spawn_blocking(move || {
            decode(&contract, &vla_wire::Limits::default(), &pictures)
        });
        decoded
            .await
            .map_err(|_| RequestError::new(Outcome::Failed, "the request could not be decoded"))?
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Connections that were still busy when the time for them was over.
    pub cut_off: usize,
}

/// A server with an address, before it listens. A taken port is known before a
/// checkpoint is loaded; clients are refused until it is.
pub struct Bound {
    options: Options,
    listener: Listener,
}

impl Bound {
    /// Takes the address.
    ///
    /// # Errors
    /// When it is taken, or other machines could connect without a key.
    pub fn new(options: Options) -> Result<Self, ServeError> {
        options.check()?;
        let listener = Listener::bind(options.listen, options.limits)?;
        Ok(Self { options, listener })
    }

    /// The address, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves `policy` until SIGTERM, SIGINT or [`Stop::stop`]; a second one ends the wait for open
    /// requests. `ready` is called when clients can connect.
    ///
    /// # Errors
    /// When threads or signals are not to be had, or the policy's thread ends.
    pub fn run(
        self,
        policy: Box<dyn Policy>,
        names: Names,
        ready: impl FnOnce(Stop),
    ) -> Result<Ending, ServeError> {
        let runtime = runtime(TASK_THREADS, DECODE_THREADS)?;
        let ended = runtime.block_on(self.serve(policy, names, ready));
        // Neither a decoder nor an inference that takes longer than the drain is waited for.
        runtime.shutdown_background();
        ended
    }

    async fn serve(
        self,
        policy: Box<dyn Policy>,
        names: Names,
        ready: impl FnOnce(Stop),
    ) -> Result<Ending, ServeError> {
        let stop = Stop::with_signals()?;
        let metrics = Arc::new(Metrics::new());
        let contract = Arc::new(Contract::new(policy.info(), names)?);
        let of_engine = stop.clone();
        let (restart, waiting) = (self.options.restart, self.options.limits.waiting);
        let engine =
            Engine::start(policy, restart, waiting, Arc::clone(&metrics), move || of_engine.stop())
                .map_err(ServeError::Runtime)?;
        let (options, ending) = (self.options, watch::Sender::new(false));
        let shared = Arc::new(Shared { options, contract, engine, metrics, ending });
        let connections = shared.metrics.connections.clone();
        let router = router(&shared);
        let cut_off = self
            .listener
            .serve(router, connections, &stop, &shared.ending, || ready(stop.clone()))
            .await?;
        if shared.engine.has_failed() {
            return Err(ServeError::Inference);
        }
        shared.engine.close();
        Ok(Ending { cut_off })
    }
}

fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(openpi::connect))
        .route("/act", post(act::act))
        .route("/vla-eval", get(vla_eval::connect))
        .route("/healthz", get(healthz))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || refusal(&RequestError::new(Outcome::NotFound, PATHS)))
        .method_not_allowed_fallback(async || refusal(&RequestError::new(Outcome::Method, PATHS)))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), admit))
        .with_state(Arc::clone(shared))
}

/// As openpi's server answers.
async fn healthz(State(server): State<Arc<Shared>>) -> Response {
    if server.is_ending() {
        return refusal(&RequestError::ending());
    }
    "OK\n".into_response()
}

/// As vla-eval's server answers.
async fn health(State(server): State<Arc<Shared>>) -> Response {
    if server.is_ending() {
        return refusal(&RequestError::ending());
    }
    json(StatusCode::OK, b"{\"status\": \"ok\"}\n".to_vec())
}

async fn metrics(State(server): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], server.metrics.text()).into_response()
}
