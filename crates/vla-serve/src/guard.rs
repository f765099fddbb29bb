//! Who is answered, and what the headers of a request say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use vla_wire::json_numpy::{self, Encoding};
use vla_wire::value::object;

use crate::error::{Outcome, RequestError};
use crate::metrics::Protocol;
use crate::server::Shared;

/// Milliseconds that the client waits for its action.
pub(crate) const DEADLINE: &str = "x-deadline-ms";
/// Name of the client, of which one request waits at most.
pub(crate) const CLIENT: &str = "x-client-id";

const DEADLINE_MS: std::ops::RangeInclusive<u64> = 1..=600_000;
const CLIENT_CHARACTERS: std::ops::RangeInclusive<usize> = 1..=64;

/// Lets pass what has the key and does not come from a web page: a browser sends `Origin` with
/// every request to another site, and with every websocket.
pub(crate) async fn admit(
    State(server): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    if request.headers().contains_key(ORIGIN) {
        server.metrics.ended(Protocol::None, Outcome::Forbidden);
        return refusal(&RequestError::new(
            Outcome::Forbidden,
            "requests of web pages are not answered (the request has the header Origin)",
        ));
    }
    // A load balancer that checks for life has no key.
    let open = matches!(request.uri().path(), "/healthz" | "/health");
    if let (Some(key), false) = (&server.options.api_key, open) {
        let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|value| value.strip_prefix(b"Api-Key "));
        if !given.is_some_and(|given| key.is(given)) {
            server.metrics.ended(Protocol::None, Outcome::Unauthorized);
            return refusal(&RequestError::new(
                Outcome::Unauthorized,
                "no or another API key; send the header 'Authorization: Api-Key KEY'",
            ));
        }
    }
    next.run(request).await
}

/// Until when the client waits, and how long that was when its request came.
pub(crate) fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, RequestError> {
    let Some(value) = headers.get(DEADLINE) else { return Ok(None) };
    let milliseconds = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    match milliseconds.filter(|milliseconds| DEADLINE_MS.contains(milliseconds)) {
        Some(milliseconds) => Ok(Some(Duration::from_millis(milliseconds))),
        None => Err(RequestError::new(
            Outcome::Malformed,
            format!("the header X-Deadline-Ms is {value:?}; it is a whole number from 1 to 600000"),
        )),
    }
}

/// The instant of a deadline that begins now.
pub(crate) fn from_now(allowed: Option<Duration>) -> Option<(Instant, Duration)> {
    allowed.map(|allowed| (Instant::now() + allowed, allowed))
}

/// The name that the client has given itself.
pub(crate) fn client(headers: &HeaderMap) -> Result<Option<String>, RequestError> {
    let Some(value) = headers.get(CLIENT) else { return Ok(None) };
    let name = value.to_str().ok().filter(|name| CLIENT_CHARACTERS.contains(&name.len()));
    match name {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(RequestError::new(
            Outcome::Malformed,
            "the header X-Client-Id is not 1 to 64 ASCII characters",
        )),
    }
}

/// The answer to a request without an action: its status and `{"error": "..."}`.
pub(crate) fn refusal(error: &RequestError) -> Response {
    let body = object([("error", error.line.as_str().into())]);
    let body = json_numpy::encode(&body, Encoding::Single).unwrap_or_default();
    let mut response = json(error.outcome.status(), body);
    if error.outcome == Outcome::Busy {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
