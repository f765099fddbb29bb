//! Address of a policy server.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::trouble::Trouble;

/// Longest address, characters.
const ADDRESS_MAX: usize = 512;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// openpi's websocket with msgpack.
    Openpi,
    /// OpenVLA's HTTP `POST /act` with JSON.
    Act,
}

/// `openpi://HOST:PORT[/PATH]` or `act://HOST:PORT[/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAddress {
    /// The protocol.
    pub protocol: Protocol,
    /// Name or number; an IPv6 number in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Begins with `/`.
    pub path: String,
}

/// An address that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{}' {reason}; write openpi://HOST:PORT or act://HOST:PORT[/PATH]", shown(.text))]
pub struct AddressError {
    text: String,
    reason: String,
}

fn shown(text: &str) -> String {
    foreign_text::one_line(text, 80)
}

impl FromStr for RemoteAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong =
            |reason: &str| AddressError { text: text.to_owned(), reason: reason.to_owned() };
        if ADDRESS_MAX < text.len() || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(wrong("is no address of printable characters"));
        }
        let (protocol, rest) = match text.split_once("://") {
            Some(("openpi", rest)) => (Protocol::Openpi, rest),
            Some(("act", rest)) => (Protocol::Act, rest),
            Some((scheme @ ("wss" | "https"), _)) => {
                return Err(wrong(&format!(
                    "asks for {scheme}, but there is no TLS here: reach the server through a \
                    tunnel (ssh -L, WireGuard)"
                )));
            }
            Some(("ws", _)) => return Err(wrong("is openpi's address with ws in place of openpi")),
            Some(("http", _)) => return Err(wrong("is OpenVLA's address with http for act")),
            _ => return Err(wrong("has no protocol that is known here")),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None if protocol == Protocol::Act => (rest, "/act"),
            None => (rest, "/"),
        };
        if path.contains(['?', '#']) || authority.contains(['@', '?', '#']) {
            return Err(wrong("has a query, a fragment or a user, which are not sent"));
        }
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (!bracketed && host.contains([':', '[', ']'])) {
            return Err(wrong("has no host; an IPv6 number stands in brackets"));
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| wrong("has a port that is not 1 to 65535"))?;
        Ok(Self { protocol, host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = match self.protocol {
            Protocol::Openpi => ("openpi", "/"),
            Protocol::Act => ("act", "/act"),
        };
        let path = if self.path == usual { "" } else { &self.path };
        write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
    }
}

impl RemoteAddress {
    /// `HOST:PORT`, as in the header `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The numbers that the name stands for. The system's resolver has no deadline: it runs in a
    /// thread of its own, which is left behind when it takes too long.
    pub(crate) fn resolve(&self, within: Duration) -> Result<Vec<SocketAddr>, Trouble> {
        let (host, port) = (self.host.trim_matches(['[', ']']).to_owned(), self.port);
        let (found, answer) = sync_channel(1);
        let lookup = move || {
            let addresses = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            let _ = found.send(addresses);
        };
        std::thread::Builder::new()
            .name("resolver".into())
            .spawn(lookup)
            .map_err(|error| Trouble::gone(format!("cannot look up its name: {error}")))?;
        match answer.recv_timeout(within) {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(Trouble::gone(format!("no address is known for '{}'", self.host))),
            Ok(Err(error)) => {
                Err(Trouble::gone(format!("the name '{}' is not known: {error}", self.host)))
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(Trouble::gone(format!(
                    "the name '{}' was not resolved within {:.3} s; give the number",
                    self.host,
                    within.as_secs_f64()
                )))
            }
        }
    }
}

/// The time left until a deadline; `None` when it has passed.
pub(crate) fn left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, host, path) in [
            ("openpi://10.0.0.5:8000", "10.0.0.5", "/"),
            ("openpi://gpu.lab:8000/v1/realtime", "gpu.lab", "/v1/realtime"),
            ("act://[::1]:8000", "[::1]", "/act"),
            ("act://host:8777/robot/act", "host", "/robot/act"),
        ] {
            let address: RemoteAddress = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.path.as_str()), (host, path));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "no protocol"),
            ("10.0.0.5:8000", "no protocol"),
            ("wss://host:1", "no TLS"),
            ("https://host:1", "no TLS"),
            ("ws://host:1", "in place of openpi"),
            ("http://host:1", "http for act"),
            ("openpi://host", "no port"),
            ("openpi://:8000", "no host"),
            ("openpi://::1:8000", "in brackets"),
            ("openpi://host:0", "1 to 65535"),
            ("openpi://host:65536", "1 to 65535"),
            ("act://user@host:1", "a user"),
            ("act://host:1/act?x=1", "a query"),
            ("act://ho st:1", "printable"),
            ("act://host:1/a\r\nX: y", "printable"),
        ] {
            let error = text.parse::<RemoteAddress>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains(char::is_control), "{error}");
        }
    }
}
