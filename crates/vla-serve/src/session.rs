//! A websocket with bounds in time: silence, and a peer that takes nothing.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};

use crate::engine::{Answer, Ticket};
use crate::error::{Outcome, RequestError};
use crate::listener::Place;
use crate::server::Shared;

/// `close` codes of RFC 6455.
pub(crate) mod code {
    pub(crate) const GOING_AWAY: u16 = 1001;
    pub(crate) const UNSUPPORTED: u16 = 1003;
    pub(crate) const TOO_BIG: u16 = 1009;
    pub(crate) const INTERNAL: u16 = 1011;
}

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it, or the connection broke.
    Gone,
    /// The client was silent, or did not take what was sent.
    Silent,
    /// The server ends.
    Ending,
    /// A message that is too large, or text where bytes are expected.
    Refused(u16, RequestError),
}

/// A websocket and the place of its connection.
pub(crate) struct Session {
    socket: WebSocket,
    server: Arc<Shared>,
    /// A message that came while another one was computed.
    early: Option<Bytes>,
    _place: Option<Place>,
}

impl Session {
    pub(crate) fn new(socket: WebSocket, server: Arc<Shared>, place: Option<Place>) -> Self {
        Self { socket, server, early: None, _place: place }
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Bytes, End> {
        if let Some(early) = self.early.take() {
            return Ok(early);
        }
        loop {
            if self.server.is_ending() {
                return Err(End::Ending);
            }
            let server = Arc::clone(&self.server);
            let received = tokio::select! {
                received = self.received() => received?,
                () = server.ending() => return Err(End::Ending),
            };
            if let Some(bytes) = received {
                return Ok(bytes);
            }
        }
    }

    /// A message; `None` for what the protocol of websockets needs itself. A client that is silent
    /// for half of the time allowed gets a ping, which it answers without its program's help.
    async fn received(&mut self) -> Result<Option<Bytes>, End> {
        let half = self.server.options.limits.silence / 2;
        let received = match tokio::time::timeout(half, self.socket.recv()).await {
            Ok(received) => received,
            Err(_) => {
                self.send(Message::Ping(Bytes::new())).await?;
                let answered = tokio::time::timeout(half, self.socket.recv()).await;
                answered.map_err(|_| End::Silent)?
            }
        };
        match received {
            None | Some(Ok(Message::Close(_))) => Err(End::Gone),
            Some(Ok(Message::Binary(bytes))) => Ok(Some(bytes)),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
            Some(Ok(Message::Text(_))) => Err(End::Refused(
                code::UNSUPPORTED,
                RequestError::new(Outcome::Malformed, "a text message; send msgpack as bytes"),
            )),
            Some(Err(error)) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, error: &axum::Error) -> End {
        let text = error.to_string();
        if !text.contains("too long") && !text.contains("too big") {
            return End::Gone;
        }
        let most = self.server.options.limits.body_bytes;
        End::Refused(
            code::TOO_BIG,
            RequestError::new(
                Outcome::TooLarge,
                format!(
                    "a message of more than {most} bytes (--max-body-mib); send smaller pictures"
                ),
            ),
        )
    }

    /// Waits for an answer; ends when the client is gone first, so that nothing is computed for it.
    pub(crate) async fn answer(
        &mut self,
        ticket: Ticket,
        deadline: Option<(std::time::Instant, std::time::Duration)>,
    ) -> Result<Result<Answer, RequestError>, End> {
        let answer = ticket.answer(deadline);
        tokio::pin!(answer);
        loop {
            // One message is kept; a client that sends more is read again after the answer.
            if self.early.is_some() {
                return Ok(answer.await);
            }
            tokio::select! {
                answer = &mut answer => return Ok(answer),
                received = self.socket.recv() => match received {
                    None | Some(Ok(Message::Close(_))) => return Err(End::Gone),
                    Some(Ok(Message::Binary(bytes))) => self.early = Some(bytes),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(self.broken(&error)),
                },
            }
        }
    }

    /// Sends a message, which the client must take in time.
    pub(crate) async fn send(&mut self, message: Message) -> Result<(), End> {
        let time = self.server.options.limits.body_time;
        match tokio::time::timeout(time, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Silent),
        }
    }

    /// Closes with a code and a reason of at most 123 bytes, and waits for the client's answer, so
    /// that what was sent before is read by it.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code, reason: reason.into() };
        if self.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        let answered = async { while let Some(Ok(_)) = self.socket.recv().await {} };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), answered).await;
    }
}
