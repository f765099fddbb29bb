//! OpenVLA's `POST /act`: one connection for each request, so that an answer cannot be taken for
//! another one's. HTTP/1.1 over the standard library with `httparse`: a client library would bring
//! its own pool, redirects, proxies and name resolution, none of which may happen here.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use vla_wire::json_numpy::{self, Encoding};
use vla_wire::{Limits, Value};

use crate::deadline_stream::DeadlineStream;
use crate::policy::{Answer, Deadlines};
use crate::server_timing;
use crate::trouble::{Trouble, last_line};
use crate::{ANSWER_MAX, ApiKey, RemoteAddress};

/// Longest status line with headers, bytes, and most headers.
const HEAD_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// Sends a request and reads its answer.
pub(crate) fn exchange(
    address: &RemoteAddress,
    numbers: &[SocketAddr],
    key: Option<&ApiKey>,
    request: &Value,
    deadlines: &Deadlines,
) -> Result<Answer, Trouble> {
    let body = json_numpy::encode_request(request, Encoding::Single)?;
    let started = Instant::now();
    let mut stream = DeadlineStream::connect(numbers, deadlines.connect.min(deadlines.answer))?;
    stream.expect(started + deadlines.answer, deadlines.read);
    let response = send(&mut stream, address, key, &body).and_then(|()| receive(&mut stream));
    let response = response.map_err(|failed| match (failed, stream.overdue()) {
        (_, Some(overdue)) => overdue.trouble(deadlines),
        (Failed::Stream(error), None) => Trouble::gone(format!("the connection was lost: {error}")),
        (Failed::Answer(trouble), None) => trouble,
    })?;
    if response.head.status != 200 {
        let line = last_line(&String::from_utf8_lossy(&response.body));
        let status = response.head.status;
        return Err(Trouble::refused(format!("answered with status {status}: {line}")));
    }
    let actions = json_numpy::decode_answer(&response.body, &Limits::default())?;
    // A connection has one answer: a duration that cannot be is a wrong clock, not another answer.
    let passed_ms = started.elapsed().as_secs_f64() * 1e3;
    let server_ms = response.head.server_ms.filter(|ms| *ms <= passed_ms);
    Ok(Answer { actions, server_ms })
}

/// Connects, to find out whether the server is there.
pub(crate) fn probe(numbers: &[SocketAddr], deadlines: &Deadlines) -> Result<(), Trouble> {
    DeadlineStream::connect(numbers, deadlines.connect).map(drop)
}

enum Failed {
    Stream(std::io::Error),
    Answer(Trouble),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Stream(error)
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Answer(trouble)
    }
}

fn send(
    stream: &mut DeadlineStream,
    address: &RemoteAddress,
    key: Option<&ApiKey>,
    body: &[u8],
) -> Result<(), Failed> {
    let authorization =
        key.map_or_else(String::new, |key| format!("Authorization: {}\r\n", key.authorization()));
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: \
        application/json\r\nContent-Length: {}\r\nConnection: close\r\n{authorization}\r\n",
        address.path,
        address.authority(),
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(body)?)
}

struct Response {
    head: Head,
    body: Vec<u8>,
}

/// What is of use of the lines before a body.
struct Head {
    status: u16,
    length: Length,
    /// The duration that the server states, milliseconds.
    server_ms: Option<f64>,
}

/// How long the body is.
enum Length {
    Known(usize),
    Chunked,
    UntilEnd,
}

fn receive(stream: &mut DeadlineStream) -> Result<Response, Failed> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some((consumed, head)) = head(&bytes)? {
            bytes.drain(..consumed);
            break head;
        }
        if HEAD_MAX < bytes.len() {
            let what = format!("its answer begins with more than {HEAD_MAX} bytes of headers");
            return Err(Trouble::malformed(what).into());
        }
        more(stream, &mut bytes)?;
    };
    let too_long =
        || Trouble::malformed(format!("sent more than {ANSWER_MAX} bytes in place of actions"));
    let body = match head.length {
        Length::Known(length) if ANSWER_MAX < length => return Err(too_long().into()),
        Length::Known(length) => {
            while bytes.len() < length {
                more(stream, &mut bytes)?;
            }
            bytes.truncate(length);
            bytes
        }
        Length::Chunked => chunks(stream, bytes)?.ok_or_else(too_long)?,
        Length::UntilEnd => {
            while grow(stream, &mut bytes)? {
                if ANSWER_MAX < bytes.len() {
                    return Err(too_long().into());
                }
            }
            bytes
        }
    };
    Ok(Response { head, body })
}

/// The head of an answer, if it is complete, and its length.
fn head(bytes: &[u8]) -> Result<Option<(usize, Head)>, Trouble> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let malformed = |what: String| Trouble::malformed(format!("does not speak HTTP: {what}"));
    let parsed = response.parse(bytes).map_err(|error| malformed(error.to_string()))?;
    let (httparse::Status::Complete(consumed), Some(status)) = (parsed, response.code) else {
        return Ok(None);
    };
    let (mut length, mut server_ms) = (Length::UntilEnd, None);
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.trim().eq_ignore_ascii_case("chunked") {
                return Err(malformed(format!("transfer encoding {}", last_line(&value))));
            }
            length = Length::Chunked;
        } else if header.name.eq_ignore_ascii_case("content-length")
            && !matches!(length, Length::Chunked)
        {
            let number = value.trim().parse();
            let wrong = |_| malformed(format!("content length {}", last_line(&value)));
            length = Length::Known(number.map_err(wrong)?);
        } else if header.name.eq_ignore_ascii_case("server-timing") {
            server_ms = server_ms.or_else(|| server_timing::duration_ms(&value));
        }
    }
    Ok(Some((consumed, Head { status, length, server_ms })))
}

/// A body in chunks; `None` when it is too long.
fn chunks(stream: &mut DeadlineStream, mut bytes: Vec<u8>) -> Result<Option<Vec<u8>>, Failed> {
    let mut body = Vec::new();
    loop {
        let (start, size) = loop {
            match httparse::parse_chunk_size(&bytes) {
                Ok(httparse::Status::Complete((start, size))) => break (start, size),
                Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => {
                    more(stream, &mut bytes)?;
                }
                _ => return Err(Trouble::malformed("sent a chunk without a size").into()),
            }
        };
        if size == 0 {
            return Ok(Some(body)); // trailers are of no use here
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if ANSWER_MAX < size.saturating_add(body.len()) {
            return Ok(None);
        }
        // The chunk, and the end of its line.
        while bytes.len() < start + size + 2 {
            more(stream, &mut bytes)?;
        }
        body.extend_from_slice(&bytes[start..start + size]);
        bytes.drain(..start + size + 2);
    }
}

/// Reads further bytes, which must come.
fn more(stream: &mut DeadlineStream, bytes: &mut Vec<u8>) -> Result<(), Failed> {
    if grow(stream, bytes)? {
        return Ok(());
    }
    let end = std::io::Error::new(ErrorKind::UnexpectedEof, "it ended within an answer");
    Err(Failed::Stream(end))
}

/// Reads further bytes; returns whether there were any.
fn grow(stream: &mut DeadlineStream, bytes: &mut Vec<u8>) -> Result<bool, Failed> {
    let mut part = [0; 16 << 10];
    let count = loop {
        match stream.read(&mut part) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    bytes.extend_from_slice(&part[..count]);
    Ok(0 < count)
}
