//! The operator page: HTTP in front of a [`Board`], which holds what is shown, and a [`Node`],
//! which takes what is requested. Nothing here has to do with ROS; see `src/ros/dash` of the
//! program, and docs/dash.md.
//!
//! | path | content |
//! |---|---|
//! | `/`, `/dash.css`, `/dash.js` | the page; nothing of it comes from elsewhere |
//! | `/events` | server-sent events of [`Board::show`] |
//! | `/camera/N` | the newest picture of camera N as a JPEG, when it is newer than `after` |
//! | `POST /enable`, `/disable`, `/stop`, `/reset`, `/instruction` | a [`Request`] to the node |

mod board;
mod guard;

pub use board::{Board, CAMERAS};

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use vla_wire::Value;
use vla_wire::json_numpy::{self, Encoding};
use vla_wire::value::object;

use crate::error::{Outcome, RequestError};
use crate::guard::{json, refusal};
use crate::listener::{Connections, Listener, Stop, runtime};
use crate::options::check_reach;
use crate::{ApiKey, Limits, ServeError, body};

/// Threads that read requests and send answers.
const TASK_THREADS: usize = 2;
/// Bytes of a request's body; an instruction has at most 1000.
const BODY: usize = 4096;
/// Connections at a time: some pages with six each, which is what a browser opens.
const CONNECTIONS: usize = 48;
/// Longest wait for a new picture.
const PICTURE_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for the node's answer, which takes a control period.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
const PATHS: &str = "there are GET /, /events, /camera/N and POST /enable, /disable, /stop, \
    /reset, /instruction";

/// What the page's user requests of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `~/enable` with true.
    Enable,
    /// `~/enable` with false.
    Disable,
    /// `~/estop`.
    Stop,
    /// `~/reset`.
    Reset,
    /// A text on the topic `instruction`.
    Instruction(String),
}

/// The node's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it did what was requested.
    pub success: bool,
    /// In words.
    pub message: String,
}

/// An answer that is awaited.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The way to the node.
pub trait Node: Send + Sync + 'static {
    /// Sends a request before it returns; the answer follows.
    fn send(&self, request: Request) -> Answering;
}

/// Where the page is, and who gets it.
#[derive(Clone, Debug)]
pub struct DashServer {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The key, needed for every request when there is one; necessary unless the address is
    /// loopback.
    pub api_key: Option<ApiKey>,
    /// Names in `Host` that are accepted besides addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// The page with an address, before clients can connect.
pub struct BoundDash {
    server: DashServer,
    listener: Listener,
}

struct Shared {
    server: DashServer,
    limits: Limits,
    board: Arc<Board>,
    node: Arc<dyn Node>,
}

impl BoundDash {
    /// Takes the address.
    ///
    /// # Errors
    /// When it is taken, or other machines could connect without a key.
    pub fn new(server: DashServer) -> Result<Self, ServeError> {
        check_reach(server.listen, server.api_key.as_ref())?;
        let listener = Listener::bind(server.listen, limits())?;
        Ok(Self { server, listener })
    }

    /// The address, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves the page until SIGTERM, SIGINT or [`Stop::stop`]. `ready` is called when clients can
    /// connect.
    ///
    /// # Errors
    /// When threads or signals are not to be had.
    pub fn run(
        self,
        board: Arc<Board>,
        node: Arc<dyn Node>,
        ready: impl FnOnce(Stop),
    ) -> Result<(), ServeError> {
        let runtime = runtime(TASK_THREADS, 1)?;
        let ended = runtime.block_on(async {
            let stop = Stop::with_signals()?;
            let ending = watch::Sender::new(false);
            let mut ends = ending.subscribe();
            let of_task = Arc::clone(&board);
            // Open event streams would keep their connections.
            let closing = tokio::spawn(async move {
                let _ = ends.wait_for(|ending| *ending).await;
                of_task.close();
            });
            let shared = Shared { server: self.server, limits: limits(), board, node };
            let router = router(&Arc::new(shared));
            let connections = Connections::default();
            let served = self
                .listener
                .serve(router, connections, &stop, &ending, || ready(stop.clone()))
                .await;
            closing.abort();
            served.map(|_| ())
        });
        runtime.shutdown_background();
        ended
    }
}

fn limits() -> Limits {
    Limits {
        body_bytes: BODY,
        connections: CONNECTIONS,
        body_time: Duration::from_secs(5),
        drain: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn router(shared: &Arc<Shared>) -> Router {
    const HTML: &str = "text/html; charset=utf-8";
    const CSS: &str = "text/css; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let file = |kind: &'static str, text: &'static str| get(async move || file(kind, text));
    let button = |wanted: Request| {
        post(async move |state: State<Arc<Shared>>| request(state, wanted.clone()).await)
    };
    Router::new()
        .route("/", file(HTML, include_str!("page.html")))
        .route("/dash.css", file(CSS, include_str!("page.css")))
        .route("/dash.js", file(SCRIPT, include_str!("page.js")))
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .route("/events", get(events))
        .route("/camera/{index}", get(camera))
        .route("/enable", button(Request::Enable))
        .route("/disable", button(Request::Disable))
        .route("/stop", button(Request::Stop))
        .route("/reset", button(Request::Reset))
        .route("/instruction", post(instruction))
        .fallback(async || refusal(&RequestError::new(Outcome::NotFound, PATHS)))
        .method_not_allowed_fallback(async || refusal(&RequestError::new(Outcome::Method, PATHS)))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), guard::admit))
        .with_state(Arc::clone(shared))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn events(State(shared): State<Arc<Shared>>) -> Response {
    match shared.board.subscribe() {
        Some(events) => {
            let mut response = Response::new(Body::new(events));
            let kind = axum::http::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        None => {
            refusal(&RequestError::new(Outcome::Busy, "too many pages are open; close one of them"))
        }
    }
}

/// The picture that follows the one named in the query (`after=N`).
async fn camera(State(shared): State<Arc<Shared>>, Path(index): Path<usize>, uri: Uri) -> Response {
    let after = uri.query().and_then(|query| query.strip_prefix("after="));
    let after = after.and_then(|number| number.parse().ok()).unwrap_or(0);
    match shared.board.newer(index, after, PICTURE_WAIT).await {
        Some((number, jpeg)) => {
            let headers = [
                (CONTENT_TYPE, "image/jpeg".to_owned()),
                (HeaderName::from_static("x-picture"), number.to_string()),
            ];
            (headers, jpeg).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn request(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let began = Instant::now();
    let what = match request {
        Request::Stop => "the stop may not have reached the node: use the emergency stop",
        _ => "is it running?",
    };
    let answering = shared.node.send(request);
    let (status, answer) = match tokio::time::timeout(ANSWER_WAIT, answering).await {
        Ok(answer) => (StatusCode::OK, answer),
        Err(_) => {
            let message = format!("no answer of the node within 1 s; {what}");
            (StatusCode::GATEWAY_TIMEOUT, Answer { success: false, message })
        }
    };
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let fields = [
        ("success", Value::Bool(answer.success)),
        ("message", answer.message.as_str().into()),
        ("ms", ms.into()),
    ];
    json(status, json_numpy::encode(&object(fields), Encoding::Single).unwrap_or_default())
}

async fn instruction(state: State<Arc<Shared>>, http: HttpRequest) -> Response {
    let (parts, body) = http.into_parts();
    let limits = &state.limits;
    let (most, time) = (limits.body_bytes, limits.body_time);
    let read = body::read(&parts.headers, body, most, time, ": write a shorter sentence").await;
    let text = read.and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|_| RequestError::new(Outcome::Malformed, "the instruction is not UTF-8"))
    });
    match text {
        Ok(text) => request(state, Request::Instruction(text)).await,
        Err(error) => refusal(&error),
    }
}
