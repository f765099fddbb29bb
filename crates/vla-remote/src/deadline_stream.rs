//! A TCP stream on which every read and write ends by a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::address::left;
use crate::policy::Deadlines;
use crate::trouble::Trouble;

/// Which limit a read ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The deadline of the whole.
    Whole,
    /// The longest silence between two parts of an answer.
    Silence,
}

impl Overdue {
    /// The limit in words.
    pub fn trouble(self, deadlines: &Deadlines) -> Trouble {
        Trouble::late(match self {
            Self::Whole => format!(
                "has not answered within {:.3} s (remote_timeout_s)",
                deadlines.answer.as_secs_f64()
            ),
            Self::Silence => format!(
                "fell silent within an answer for {:.3} s (remote_read_timeout_s)",
                deadlines.read.as_secs_f64()
            ),
        })
    }
}

/// A stream with a deadline for the whole and a limit of silence from the first byte on. A timeout
/// of the socket alone would begin anew with every byte of a slow server.
pub(crate) struct DeadlineStream {
    tcp: TcpStream,
    deadline: Instant,
    silence: Duration,
    /// Whether a byte of the answer has come.
    begun: bool,
    /// Whether a read returns at once when nothing is there.
    polling: bool,
    received: u64,
    overdue: Option<Overdue>,
}

impl DeadlineStream {
    /// Connects to the first of the addresses that accepts.
    pub fn connect(addresses: &[SocketAddr], within: Duration) -> Result<Self, Trouble> {
        let deadline = Instant::now() + within;
        let mut problem = None;
        for address in addresses {
            let Some(left) = left(deadline) else { break };
            match TcpStream::connect_timeout(address, left) {
                Ok(tcp) => {
                    let stream = Self::over(tcp, deadline, within);
                    return stream
                        .map_err(|error| Trouble::gone(format!("cannot use the socket: {error}")));
                }
                Err(error) => problem = Some((address, error)),
            }
        }
        Err(Trouble::gone(match problem {
            Some((address, error)) if error.kind() == ErrorKind::ConnectionRefused => {
                format!("no server listens at {address}: {error}")
            }
            Some((address, error)) if error.kind() != ErrorKind::TimedOut => {
                format!("cannot connect to {address}: {error}")
            }
            _ => format!(
                "does not accept a connection within {:.3} s (remote_connect_timeout_s)",
                within.as_secs_f64()
            ),
        }))
    }

    fn over(tcp: TcpStream, deadline: Instant, silence: Duration) -> io::Result<Self> {
        // A request is one message: waiting for more of it would only add latency.
        tcp.set_nodelay(true)?;
        let (begun, polling, received, overdue) = (false, false, 0, None);
        Ok(Self { tcp, deadline, silence, begun, polling, received, overdue })
    }

    /// Sets the deadline of what follows and its longest silence.
    pub fn expect(&mut self, deadline: Instant, silence: Duration) {
        (self.deadline, self.silence, self.begun, self.overdue) = (deadline, silence, false, None);
    }

    /// What has come was no part of the answer.
    pub fn not_begun(&mut self) {
        self.begun = false;
    }

    /// Switches between waiting and returning at once.
    pub fn poll(&mut self, polling: bool) -> io::Result<()> {
        self.polling = polling;
        self.tcp.set_nonblocking(polling)
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The limit that the last read or write ran into.
    pub fn overdue(&self) -> Option<Overdue> {
        self.overdue
    }

    /// Time for the next read or write, or the error that it is over.
    fn time(&mut self, reading: bool) -> io::Result<(Duration, Overdue)> {
        let Some(left) = left(self.deadline) else {
            self.overdue = Some(Overdue::Whole);
            return Err(ErrorKind::TimedOut.into());
        };
        // The system's clock of a socket has no shorter time.
        let left = left.max(Duration::from_millis(1));
        Ok(if reading && self.begun && self.silence < left {
            (self.silence, Overdue::Silence)
        } else {
            (left, Overdue::Whole)
        })
    }

    fn waited<T>(&mut self, result: io::Result<T>, limit: Overdue) -> io::Result<T> {
        result.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                self.overdue = Some(limit);
                ErrorKind::TimedOut.into()
            }
            _ => error,
        })
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = if self.polling {
            self.tcp.read(buffer)
        } else {
            let (time, limit) = self.time(true)?;
            self.tcp.set_read_timeout(Some(time))?;
            let result = self.tcp.read(buffer);
            self.waited(result, limit)
        };
        if let Ok(count) = result {
            self.received += count as u64;
            self.begun |= 0 < count;
        }
        result
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.polling {
            return self.tcp.write(buffer);
        }
        let (time, limit) = self.time(false)?;
        self.tcp.set_write_timeout(Some(time))?;
        let result = self.tcp.write(buffer);
        self.waited(result, limit)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}
