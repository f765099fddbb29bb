//! Listening, connections, and the end of a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use vla_inference::policy::Policy;
use vla_wire::picture::PictureLimits;

use crate::contract::{Contract, Names};
use crate::engine::Engine;
use crate::error::{Outcome, RequestError};
use crate::guard::{admit, json, refusal};
use crate::metrics::Metrics;
use crate::{Limits, Options, ServeError, act, openpi, vla_eval};

/// Threads that read requests and send answers; inference has its own.
const TASK_THREADS: usize = 2;
/// Threads that decode pictures.
const DECODE_THREADS: usize = 4;
/// Headers of a request.
const HEADERS: usize = 64;
/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 128;
/// Connections at a time that get the answer that there is no place for them.
const REFUSALS: usize = 64;
/// What there is.
const PATHS: &str = "there are POST /act, the websockets / (openpi) and /vla-eval, GET /healthz \
    and GET /metrics";

/// The place of a connection among those that are allowed; free when its last copy is dropped.
#[derive(Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "held, not read")] Arc<Held>);

struct Held {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, metrics: &Arc<Metrics>) -> Self {
        metrics.connections.inc();
        Self(Arc::new(Held { _permit: permit, metrics: Arc::clone(metrics) }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

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
        let mut ending = self.ending.subscribe();
        // The sender lives as long as `self`.
        let _ = ending.wait_for(|ending| *ending).await;
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
    socket: TcpSocket,
    address: SocketAddr,
}

impl Bound {
    /// Takes the address.
    ///
    /// # Errors
    /// When it is taken, or other machines could connect without a key.
    pub fn new(options: Options) -> Result<Self, ServeError> {
        options.check()?;
        let address = options.listen;
        let failed = |reason| ServeError::Listen { address, reason };
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(failed)?;
        // A server that was just stopped has connections in TIME_WAIT.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { options, socket, address })
    }

    /// The address, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(TASK_THREADS)
            .max_blocking_threads(DECODE_THREADS)
            .thread_name("serve")
            .enable_all()
            .build()
            .map_err(ServeError::Runtime)?;
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
        let stop = Stop(watch::Sender::new(0));
        signals(stop.clone())?;
        let Limits { waiting, connections, drain, .. } = self.options.limits;
        let metrics = Arc::new(Metrics::new());
        let contract = Arc::new(Contract::new(policy.info(), names)?);
        let of_engine = stop.clone();
        let restart = self.options.restart;
        let engine =
            Engine::start(policy, restart, waiting, Arc::clone(&metrics), move || of_engine.stop())
                .map_err(ServeError::Runtime)?;
        let address = self.address;
        let failed = |reason| ServeError::Listen { address, reason };
        let listener = self.socket.listen(BACKLOG).map_err(failed)?;
        let (options, ending) = (self.options, watch::Sender::new(false));
        let shared = Arc::new(Shared { options, contract, engine, metrics, ending });
        ready(stop.clone());

        let places = Arc::new(Semaphore::new(connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let router = router(&shared);
        let mut stops = stop.0.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = stops.wait_for(|stops| *stops > 0) => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Of this process (no descriptors left) or of the connection.
                    tracing::warn!("a connection was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
                let place = Place::new(permit, &shared.metrics);
                tokio::spawn(connection(stream, router.clone(), Arc::clone(&shared), place));
            } else {
                shared.metrics.refused.inc();
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tokio::spawn(refuse(stream, permit, connections));
                }
            }
        }
        drop(listener);
        shared.ending.send_replace(true);
        let all = u32::try_from(connections).unwrap_or(u32::MAX);
        tokio::select! {
            _ = tokio::time::timeout(drain, places.acquire_many(all)) => {}
            _ = stops.wait_for(|stops| *stops > 1) => {}
        }
        if shared.engine.has_failed() {
            return Err(ServeError::Inference);
        }
        shared.engine.close();
        Ok(Ending { cut_off: connections - places.available_permits() })
    }
}

/// Ends a server.
#[derive(Clone)]
pub struct Stop(watch::Sender<u32>);

impl Stop {
    /// Lets open requests end, and takes no others; the second time, does not wait for them.
    pub fn stop(&self) {
        self.0.send_modify(|stops| *stops = stops.saturating_add(1));
    }
}

fn signals(stop: Stop) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
    tokio::spawn(async move {
        loop {
            let received = tokio::select! {
                received = terminate.recv() => received,
                received = interrupt.recv() => received,
            };
            if received.is_none() {
                return;
            }
            stop.stop();
        }
    });
    Ok(())
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

/// One connection until its end; its place is free when also a websocket on it has ended.
async fn connection(stream: TcpStream, router: Router, shared: Arc<Shared>, place: Place) {
    // Answers are one small packet each.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        TowerToHyperService::new(router.clone()).call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options.limits.header_time)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    // Errors are those of the client: it broke off, was too slow or sent no HTTP.
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shared.ending() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
}

/// Tells a client that there is no place for it.
async fn refuse(stream: TcpStream, _permit: OwnedSemaphorePermit, most: usize) {
    let body =
        format!("{{\"error\":\"{most} connections are open (--max-connections); try later\"}}");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
        connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let sending = async {
        stream.writable().await?;
        stream.try_write(answer.as_bytes())?;
        // What it sends is read, so that the answer is not lost with the connection.
        let mut ignored = [0; 4096];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut ignored) {
                Ok(0) => return Ok::<(), std::io::Error>(()),
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), sending).await;
}
