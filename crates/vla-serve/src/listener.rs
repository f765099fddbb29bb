//! Listening, connections and their bounds, for every server of this crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{Limits, ServeError};

/// Headers of a request.
const HEADERS: usize = 64;
/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 128;
/// Connections at a time that get the answer that there is no place for them.
const REFUSALS: usize = 64;

/// Counts of connections.
#[derive(Clone, Default)]
pub(crate) struct Connections {
    /// Open ones.
    pub(crate) open: Gauge,
    /// Those that were refused because too many were open.
    pub(crate) refused: Counter,
}

/// The place of a connection among those that are allowed; free when its last copy is dropped.
#[derive(Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "held, not read")] Arc<Held>);

struct Held {
    _permit: OwnedSemaphorePermit,
    open: Gauge,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, connections: &Connections) -> Self {
        connections.open.inc();
        Self(Arc::new(Held { _permit: permit, open: connections.open.clone() }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// A runtime of few threads: what takes long has threads of its own.
pub(crate) fn runtime(
    tasks: usize,
    blocking: usize,
) -> Result<tokio::runtime::Runtime, ServeError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(tasks)
        .max_blocking_threads(blocking)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)
}

/// An address that was taken, before clients can connect.
pub(crate) struct Listener {
    socket: TcpSocket,
    address: SocketAddr,
    limits: Limits,
}

impl Listener {
    /// Takes the address.
    pub(crate) fn bind(address: SocketAddr, limits: Limits) -> Result<Self, ServeError> {
        let failed = |reason| ServeError::Listen { address, reason };
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(failed)?;
        // A server that was just stopped has connections in TIME_WAIT.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address, limits })
    }

    /// The address, with the port that was chosen.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then sets `ending` and waits for open connections, for a bounded time.
    /// `ready` is called when clients can connect. Returns the number of connections that were
    /// still busy.
    pub(crate) async fn serve(
        self,
        router: Router,
        connections: Connections,
        stop: &Stop,
        ending: &watch::Sender<bool>,
        ready: impl FnOnce(),
    ) -> Result<usize, ServeError> {
        let (address, limits) = (self.address, self.limits);
        let failed = |reason| ServeError::Listen { address, reason };
        let listener = self.socket.listen(BACKLOG).map_err(failed)?;
        ready();
        let places = Arc::new(Semaphore::new(limits.connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let mut stops = stop.0.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = stops.wait_for(|stops| *stops > 0) => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Of this process (no descriptors left) or of the connection.
                    tracing::warn!("a connection was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
                let place = Place::new(permit, &connections);
                let (router, ends) = (router.clone(), ending.subscribe());
                tokio::spawn(connection(stream, router, limits.header_time, ends, place));
            } else {
                connections.refused.inc();
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tokio::spawn(refuse(stream, permit, limits.connections));
                }
            }
        }
        drop(listener);
        ending.send_replace(true);
        let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
        tokio::select! {
            _ = tokio::time::timeout(limits.drain, places.acquire_many(all)) => {}
            _ = stops.wait_for(|stops| *stops > 1) => {}
        }
        Ok(limits.connections - places.available_permits())
    }
}

/// Ends a server.
#[derive(Clone)]
pub struct Stop(watch::Sender<u32>);

impl Stop {
    /// For a server that SIGTERM and SIGINT end, too. Needs a runtime.
    pub(crate) fn with_signals() -> Result<Self, ServeError> {
        let stop = Self(watch::Sender::new(0));
        signals(stop.clone())?;
        Ok(stop)
    }

    /// Lets open requests end, and takes no others; the second time, does not wait for them.
    pub fn stop(&self) {
        self.0.send_modify(|stops| *stops = stops.saturating_add(1));
    }
}

fn signals(stop: Stop) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
    tokio::spawn(async move {
        loop {
            let received = tokio::select! {
                received = terminate.recv() => received,
                received = interrupt.recv() => received,
            };
            if received.is_none() {
                return;
            }
            stop.stop();
        }
    });
    Ok(())
}

/// Returns when the server ends.
pub(crate) async fn ended(mut ending: watch::Receiver<bool>) {
    // A sender that is gone is an end, too.
    let _ = ending.wait_for(|ending| *ending).await;
}

/// One connection until its end; its place is free when also a websocket on it has ended.
async fn connection(
    stream: TcpStream,
    router: Router,
    header_time: Duration,
    ending: watch::Receiver<bool>,
    place: Place,
) {
    // Answers are one small packet each.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        TowerToHyperService::new(router.clone()).call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    // Errors are those of the client: it broke off, was too slow or sent no HTTP.
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = ended(ending) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
}

/// Tells a client that there is no place for it.
async fn refuse(stream: TcpStream, _permit: OwnedSemaphorePermit, most: usize) {
    let body =
        format!("{{\"error\":\"{most} connections are open (--max-connections); try later\"}}");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
        connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let sending = async {
        stream.writable().await?;
        stream.try_write(answer.as_bytes())?;
        // What it sends is read, so that the answer is not lost with the connection.
        let mut ignored = [0; 4096];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut ignored) {
                Ok(0) => return Ok::<(), std::io::Error>(()),
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), sending).await;
}
