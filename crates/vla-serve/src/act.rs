//! `POST /act`, as OpenVLA's and OpenVLA-OFT's `vla-scripts/deploy.py` answer it: an array for one
//! action, a list of arrays for a chunk; double-encoded when the request is. Unlike there, an error
//! has a status of its own.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use vla_wire::json_numpy::{self, Encoding};
use vla_wire::{NdArray, Value};

use crate::body;
use crate::engine::Answer;
use crate::error::{Outcome, RequestError};
use crate::guard::{self, json, refusal};
use crate::metrics::{Counted, Protocol};
use crate::observation::{self, Style};
use crate::server::Shared;

/// Answers one request.
pub(crate) async fn act(State(server): State<Arc<Shared>>, request: Request) -> Response {
    let counted = Counted::new(&server.metrics, Protocol::Act);
    let answered = answer(&server, request).await;
    match answered {
        Ok((body, timing)) => {
            server.metrics.sent(Protocol::Act, body.len());
            counted.end(Outcome::Ok);
            let mut response = json(StatusCode::OK, body);
            if let Ok(timing) = timing.parse() {
                response.headers_mut().insert("server-timing", timing);
            }
            response
        }
        Err(error) => {
            counted.end(error.outcome);
            refusal(&error)
        }
    }
}

/// The answer's body, and its header `Server-Timing`.
async fn answer(server: &Arc<Shared>, request: Request) -> Result<(Vec<u8>, String), RequestError> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let deadline = guard::from_now(guard::deadline(&parts.headers)?);
    let client = guard::client(&parts.headers)?;
    if server.is_ending() {
        return Err(RequestError::ending());
    }
    let limits = &server.options.limits;
    let remedy = " (--max-body-mib): send smaller pictures";
    let body =
        body::read(&parts.headers, body, limits.body_bytes, limits.body_time, remedy).await?;
    server.metrics.received(Protocol::Act, body.len());
    let (observation, encoding) = server
        .decode(move |contract, limits, pictures| {
            let (fields, encoding) = json_numpy::decode_request(&body, limits)?;
            drop(body);
            let observation = observation::read(fields, contract, Style::OpenVla, pictures)?;
            Ok((observation, encoding))
        })
        .await?;
    let ticket = server.engine.submit(observation, client, deadline.map(|(at, _)| at))?;
    let answer = ticket.answer(deadline).await?;
    let inference = answer.inference;
    let body = encode(&answer, server.contract.horizon, encoding)?;
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let timing = format!(
        "infer;dur={:.3}, total;dur={:.3}",
        milliseconds(inference),
        milliseconds(arrived.elapsed())
    );
    Ok((body, timing))
}

/// What the official servers answer: OpenVLA's one action, OFT's a list of actions.
fn encode(answer: &Answer, horizon: usize, encoding: Encoding) -> Result<Vec<u8>, RequestError> {
    let action = |action: &Vec<f64>| Value::Array(NdArray::vector(action));
    let value = match (horizon, answer.actions.as_slice()) {
        (1, [only]) => action(only),
        (_, actions) => Value::List(actions.iter().map(action).collect()),
    };
    json_numpy::encode(&value, encoding)
        .map_err(|error| RequestError::new(Outcome::Failed, error.to_string()))
}
