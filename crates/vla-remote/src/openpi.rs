//! openpi's websocket: a frame of metadata, then one frame of an answer to each frame of a request.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tungstenite::client::{IntoClientRequest, client_with_config};
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::http::header::AUTHORIZATION;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Bytes, Error, Message, WebSocket};
use vla_wire::msgpack::{self, Names};
use vla_wire::{Limits, Value};

use crate::deadline_stream::DeadlineStream;
use crate::policy::{Answer, Deadlines};
use crate::trouble::{Trouble, last_line};
use crate::{ANSWER_MAX, ApiKey, RemoteAddress};

/// Longest answer whose repetition is noticed; larger ones are not kept.
const REPEAT_MAX: usize = 256 << 10;
/// By how much a server's stated duration may exceed the time that passed here, milliseconds.
const CLOCKS_DIFFER_MS: f64 = 5.0;

/// A connection on which nothing has gone wrong yet.
pub(crate) struct Connection {
    socket: WebSocket<DeadlineStream>,
    /// The last answer as it came, with a server's duration in it.
    last: Option<Bytes>,
}

impl Connection {
    /// Connects, and reads the server's metadata.
    pub fn open(
        address: &RemoteAddress,
        numbers: &[SocketAddr],
        key: Option<&ApiKey>,
        within: Duration,
    ) -> Result<(Self, Value), Trouble> {
        let deadline = Instant::now() + within;
        let url = format!("ws://{}{}", address.authority(), address.path);
        let unfit = |what: String| Trouble::gone(format!("cannot make a request to {url}: {what}"));
        let mut request = url.as_str().into_client_request().map_err(|e| unfit(e.to_string()))?;
        if let Some(key) = key {
            let mut value = HeaderValue::from_str(&key.authorization())
                .map_err(|_| unfit("the API key is no header".into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let mut stream = DeadlineStream::connect(numbers, within)?;
        stream.expect(deadline, within);
        let config = WebSocketConfig::default()
            .max_message_size(Some(ANSWER_MAX))
            .max_frame_size(Some(ANSWER_MAX))
            .read_buffer_size(16 << 10);
        let late = || {
            Trouble::late(format!(
                "accepted a connection, but has not answered the websocket's handshake and sent \
                its metadata within {:.3} s (remote_connect_timeout_s)",
                within.as_secs_f64()
            ))
        };
        let socket = match client_with_config(request, stream, Some(config)) {
            Ok((socket, _response)) => socket,
            Err(HandshakeError::Interrupted(_)) => return Err(late()),
            Err(HandshakeError::Failure(error)) => {
                return Err(of_handshake(error).unwrap_or_else(late));
            }
        };
        let mut connection = Self { socket, last: None };
        let metadata = match connection.frame() {
            Err(trouble) if connection.socket.get_ref().overdue().is_some() => {
                debug_assert_eq!(trouble.fault, vla_inference::policy::RemoteFault::Late);
                return Err(late());
            }
            frame => frame?,
        };
        let metadata = msgpack::decode(&metadata, &Limits::default())
            .map_err(|error| Trouble::malformed(format!("its metadata is {error}")))?;
        Ok((connection, metadata))
    }

    /// Sends a request and reads its answer.
    pub fn exchange(&mut self, request: &Value, deadlines: &Deadlines) -> Result<Answer, Trouble> {
        self.poll()?;
        let message = msgpack::encode(request, Names::Bytes)?;
        let started = Instant::now();
        let deadline = started + deadlines.answer;
        self.socket.get_mut().expect(deadline, deadlines.read);
        let answer = self.socket.send(Message::Binary(message.into())).map_err(Trouble::from);
        let answer = answer.and_then(|()| self.frame());
        let answer = answer.map_err(|trouble| match self.socket.get_ref().overdue() {
            Some(overdue) => overdue.trouble(deadlines),
            None => trouble,
        })?;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        self.taken(answer, elapsed_ms)
    }

    /// Answers the server's pings, and finds out whether it has closed the connection or sent what
    /// no request is under way for, without waiting.
    pub fn poll(&mut self) -> Result<(), Trouble> {
        let broken = |error: std::io::Error| Trouble::gone(format!("the socket failed: {error}"));
        let before = self.socket.get_ref().received();
        self.socket.get_mut().poll(true).map_err(broken)?;
        let mut of_control = 0_u64;
        let found = loop {
            match self.socket.read() {
                // A header of 2 bytes before at most 125.
                Ok(Message::Ping(data) | Message::Pong(data)) => {
                    of_control += 2 + data.len() as u64
                }
                Ok(message @ (Message::Close(_) | Message::Text(_))) => {
                    break payload(message).map(drop);
                }
                Ok(_) => {
                    break Err(Trouble::malformed(
                        "sent an answer that no request has asked for: it may be a repetition, \
                        and the next answer could be taken for another one",
                    ));
                }
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    let bytes = self.socket.get_ref().received() - before;
                    if bytes <= of_control {
                        break Ok(());
                    }
                    break Err(Trouble::malformed(
                        "sent a part of a frame that no request has asked for",
                    ));
                }
                Err(error) => break Err(error.into()),
            }
        };
        self.socket.get_mut().poll(false).map_err(broken)?;
        found
    }

    /// Says goodbye without waiting for the answer.
    pub fn close(&mut self) {
        if self.socket.get_mut().poll(true).is_ok() {
            let _ = self.socket.close(None);
        }
    }

    /// The next frame of data.
    fn frame(&mut self) -> Result<Bytes, Trouble> {
        loop {
            if let Some(data) = payload(self.socket.read()?)? {
                return Ok(data);
            }
            self.socket.get_mut().not_begun();
        }
    }

    /// The content of an answer that belongs to the last request.
    fn taken(&mut self, message: Bytes, elapsed_ms: f64) -> Result<Answer, Trouble> {
        let decoded = msgpack::decode(&message, &Limits::default())?;
        let server_ms = match decoded.get("server_timing").and_then(|it| it.get("infer_ms")) {
            None => None,
            Some(Value::Float(ms)) if (0.0..1e9).contains(ms) => Some(*ms),
            Some(Value::Int(ms)) if (0..1_000_000_000).contains(ms) => Some(*ms as f64),
            Some(other) => {
                let what = format!("its server_timing.infer_ms is {}", other.described());
                return Err(Trouble::malformed(what));
            }
        };
        if let Some(ms) = server_ms
            && elapsed_ms + CLOCKS_DIFFER_MS < ms
        {
            return Err(Trouble::malformed(format!(
                "states that it has computed for {ms:.1} ms, but its answer came {elapsed_ms:.1} \
                ms after the request: it belongs to an earlier one"
            )));
        }
        // A clock's reading in an answer differs from one to the next.
        let measured = server_ms.is_some_and(|ms| ms.fract() != 0.0);
        if measured && self.last.as_ref() == Some(&message) {
            return Err(Trouble::malformed(
                "sent its last answer again, byte for byte and with the same server_timing",
            ));
        }
        self.last = Some(message).filter(|message| measured && message.len() <= REPEAT_MAX);
        if let Some(Value::Text(text)) = decoded.get("error") {
            return Err(Trouble::refused(format!("answered with an error: {}", last_line(text))));
        }
        let Value::Object(fields) = decoded else {
            let what = format!("its answer is {}, not an object with actions", decoded.described());
            return Err(Trouble::malformed(what));
        };
        let names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
        match fields.into_iter().find(|(name, _)| name == "actions") {
            Some((_, actions)) => Ok(Answer { actions, server_ms }),
            None => Err(Trouble::malformed(format!(
                "its answer has no actions, only {}",
                last_line(&names.join(", "))
            ))),
        }
    }
}

/// The data of a message; `None` for a ping or pong.
fn payload(message: Message) -> Result<Option<Bytes>, Trouble> {
    match message {
        Message::Binary(data) => Ok(Some(data)),
        Message::Text(text) => {
            Err(Trouble::refused(format!("answered with an error: {}", last_line(text.as_str()))))
        }
        Message::Close(frame) => Err(closed(frame.map(|f| (u16::from(f.code), f.reason)))),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
    }
}

/// What a close frame means: 1000 and 1001 are ends in order, the others errors.
fn closed<T: AsRef<str>>(frame: Option<(u16, T)>) -> Trouble {
    match frame {
        None => Trouble::gone("closed the connection without a code"),
        Some((code @ (1000 | 1001), _)) => {
            Trouble::gone(format!("closed the connection with code {code}"))
        }
        Some((code, reason)) => Trouble::refused(format!(
            "closed the connection with code {code}: {}",
            last_line(reason.as_ref())
        )),
    }
}

/// What a failed handshake means; `None` when it took too long.
fn of_handshake(error: Error) -> Option<Trouble> {
    Some(match error {
        Error::Io(error) if error.kind() == ErrorKind::TimedOut => return None,
        Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = last_line(&String::from_utf8_lossy(body));
            let status = response.status();
            Trouble::refused(format!("answered the websocket's handshake with {status}: {body}"))
        }
        Error::Protocol(error) if error != ProtocolError::HandshakeIncomplete => {
            Trouble::malformed(format!("does not speak openpi's websocket: {error}"))
        }
        other => other.into(),
    })
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) if error.kind() == ErrorKind::TimedOut => {
                Self::late("has not answered in time")
            }
            Error::Io(error) => Self::gone(format!("the connection was lost: {error}")),
            Error::ConnectionClosed | Error::AlreadyClosed => Self::gone("closed the connection"),
            Error::Protocol(
                error @ (ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::HandshakeIncomplete),
            ) => Self::gone(format!("the connection was lost: {error}")),
            Error::Capacity(error) => Self::malformed(format!(
                "sent more than {ANSWER_MAX} bytes in place of actions: {error}"
            )),
            other => Self::malformed(format!("broke the websocket's protocol: {other}")),
        }
    }
}
