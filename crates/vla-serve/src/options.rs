//! Where a server listens, whom it answers and how much it takes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use subtle::ConstantTimeEq;

use crate::ServeError;

/// Bytes of an API key.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// What clients must prove to know. It is never printed.
#[derive(Clone)]
pub struct ApiKey(String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl ApiKey {
    /// A key of 16 to 512 visible ASCII characters.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(text: &str) -> Result<Self, ServeError> {
        let key = text.trim();
        if !KEY_BYTES.contains(&key.len()) {
            return Err(ServeError::Key(format!(
                "it has {} characters; 16 to 512 are needed (make one: openssl rand -hex 24)",
                key.len()
            )));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ServeError::Key(
                "it has characters that a header cannot hold; use letters and digits".into(),
            ));
        }
        Ok(Self(key.to_owned()))
    }

    /// The key in a file that only its owner can read.
    ///
    /// # Errors
    /// When the file cannot be read, others can read it too, or it holds no key.
    pub fn from_file(path: &Path) -> Result<Self, ServeError> {
        use std::io::Read;
        use std::os::unix::fs::PermissionsExt;
        let failed = |reason: String| ServeError::Key(format!("{}: {reason}", path.display()));
        let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let about = file.metadata().map_err(|error| failed(error.to_string()))?;
        if !about.is_file() {
            return Err(failed("it is no file".into()));
        }
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(failed(format!(
                "its mode is {mode:o}, so that other users can read it; chmod 600 it"
            )));
        }
        let mut text = String::new();
        let most = *KEY_BYTES.end() as u64 + 64; // white space around it
        file.take(most).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
        Self::new(&text)
    }

    /// Whether this is the key; takes as long for any text of its length.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

/// Bounds on what clients send and on how long they take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request's body or of a websocket message.
    pub body_bytes: usize,
    /// Pixels of a picture.
    pub picture_pixels: usize,
    /// Connections at a time.
    pub connections: usize,
    /// Requests that wait for the policy at a time.
    pub waiting: usize,
    /// Time for the headers of a request, and between requests.
    pub header_time: Duration,
    /// Time for a body, and for the client to take an answer.
    pub body_time: Duration,
    /// Time after which a websocket that sends nothing, not even an answer to a ping, is closed.
    pub silence: Duration,
    /// Time that requests have to end when the server ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            picture_pixels: 16_000_000,
            connections: 32,
            waiting: 64,
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            silence: Duration::from_secs(60),
            drain: Duration::from_secs(30),
        }
    }
}

/// Everything about a server but its policy.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The key of the clients; necessary unless the address is loopback.
    pub api_key: Option<ApiKey>,
    /// Bounds.
    pub limits: Limits,
    /// Whether every chunk starts from the policy's first seed, so that equal observations get
    /// equal actions.
    pub restart: bool,
}

impl Options {
    /// # Errors
    /// When other machines could connect without a key.
    pub(crate) fn check(&self) -> Result<(), ServeError> {
        check_reach(self.listen, self.api_key.as_ref())
    }
}

/// # Errors
/// When other machines could connect without a key.
pub(crate) fn check_reach(listen: SocketAddr, api_key: Option<&ApiKey>) -> Result<(), ServeError> {
    match (listen.ip().is_loopback(), api_key) {
        (false, None) => Err(ServeError::NoKey(listen)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys() {
        let key = ApiKey::new(" 0123456789abcdef\n").unwrap();
        assert!(key.is(b"0123456789abcdef"));
        for other in [&b""[..], b"0123456789abcdeF", b"0123456789abcdef0", b"0123456789abcde"] {
            assert!(!key.is(other));
        }
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
        let error = ApiKey::new("short").unwrap_err().to_string();
        assert!(error.contains("it has 5 characters"), "{error}");
        assert!(ApiKey::new("0123456789 abcdef").is_err());
        assert!(ApiKey::new(&"k".repeat(513)).is_err());
    }

    #[test]
    fn another_address_needs_a_key() {
        let key = ApiKey::new("0123456789abcdef").ok();
        for (listen, api_key, fits) in [
            ("127.0.0.1:0", None, true),
            ("127.8.8.8:0", None, true),
            ("[::1]:0", None, true),
            ("0.0.0.0:0", None, false),
            ("[::]:0", None, false),
            ("192.168.1.2:80", None, false),
            ("0.0.0.0:0", key, true),
        ] {
            let listen = listen.parse().unwrap();
            let options = Options { listen, api_key, limits: Limits::default(), restart: false };
            assert_eq!(options.check().is_ok(), fits, "{listen}");
        }
    }
}
