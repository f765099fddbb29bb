//! The body of a request, bounded in bytes and time.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;

use crate::error::{Outcome, RequestError};

/// The body, bounded in bytes and time.
/// `remedy` follows the sentence that a body is too large.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    most: usize,
    time: Duration,
    remedy: &str,
) -> Result<Vec<u8>, RequestError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|text| text.parse::<u64>().ok());
    let reading = async {
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(most as u64) as usize);
        let mut received = 0u64;
        let mut fits = announced.is_none_or(|announced| announced <= most as u64);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                RequestError::new(Outcome::Malformed, format!("the body broke off: {error}"))
            })?;
            let Some(data) = frame.data_ref() else { continue };
            received += data.len() as u64;
            fits &= received <= most as u64;
            // What is too long is read to its end, without keeping it: many clients read no answer
            // before they have sent everything.
            if fits {
                bytes.extend_from_slice(data);
            } else {
                bytes = Vec::new();
            }
        }
        if fits {
            return Ok(bytes);
        }
        Err(RequestError::new(
            Outcome::TooLarge,
            format!("a body of {received} bytes; at most {most} are taken{remedy}"),
        ))
    };
    match tokio::time::timeout(time, reading).await {
        Ok(read) => read,
        Err(_) => Err(RequestError::new(
            Outcome::Slow,
            format!("the body did not come within {} s", time.as_secs()),
        )),
    }
}
