//! A policy that outlives its connections: repeated requests, bounded attempts, another policy
//! behind the same address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{answer_all, binary, http, listen, observation, openpi, remote, request, settings};
use vla_inference::policy::{Policy, RemoteError, RemoteFault};
use vla_remote::{PersistentPolicy, Protocol};
use vla_wire::Value;
use vla_wire::value::object;

fn act(policy: &mut PersistentPolicy) -> Result<f64, RemoteError> {
    policy.act(&observation()).map(|decision| decision.actions[0][0]).map_err(remote)
}

#[test]
fn a_lost_request_is_repeated_on_another_connection() {
    // The first connection is lost with a request on it, the second one after an answer.
    let server = openpi(|socket, number| match number {
        0 => drop(request(socket)),
        1 => {
            let Some(_) = request(socket) else { return };
            let _ = socket.send(binary(&support::answer(support::steps(0.25), 0.5)));
        }
        _ => answer_all(socket, 0.5),
    });
    let mut policy = PersistentPolicy::open(&settings(Protocol::Openpi, server), 3).unwrap();
    assert_eq!(act(&mut policy).unwrap(), 0.25);
    assert_eq!(act(&mut policy).unwrap(), 0.5);
    assert!(policy.act(&observation()).unwrap().normalized.is_empty(), "its answers are physical");
}

#[test]
fn attempts_are_bounded() {
    // Every request is lost.
    let count = Arc::new(AtomicUsize::new(0));
    let requests = Arc::clone(&count);
    let server = openpi(move |socket, _| {
        requests.fetch_add(usize::from(request(socket).is_some()), Ordering::SeqCst);
    });
    let mut policy = PersistentPolicy::open(&settings(Protocol::Openpi, server), 3).unwrap();
    let error = act(&mut policy).unwrap_err();
    assert_eq!(error.fault, RemoteFault::Gone);
    assert!(error.what.contains("(3 attempts to connect)"), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 4, "one, and one for each attempt");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (attempts, shown) in [(1, false), (2, true)] {
        let settings = settings(Protocol::Act, free);
        let error = remote(PersistentPolicy::open(&settings, attempts).err().unwrap());
        assert_eq!(error.fault, RemoteFault::Gone);
        assert_eq!(error.what.contains("(2 attempts to connect)"), shown, "{error}");
    }
}

#[test]
fn a_server_that_no_longer_speaks_is_gone_after_the_attempts() {
    let server = listen(|stream, number| match number {
        0 => {
            let Ok(mut socket) = tungstenite::accept(stream) else { return };
            let _ = socket.send(binary(&object([("policy", "a".into())])));
        }
        _ => drop(stream.shutdown(Shutdown::Both)),
    });
    let mut policy = PersistentPolicy::open(&settings(Protocol::Openpi, server), 2).unwrap();
    assert_eq!(policy.metadata(), "policy: a");
    let error = act(&mut policy).unwrap_err();
    assert_eq!(error.fault, RemoteFault::Gone);
    assert!(error.what.contains("(2 attempts to connect)"), "{error}");
}

#[test]
fn another_policy_behind_the_address_is_refused() {
    let server = listen(|stream, number| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let names = Value::List(vec!["base".into(), number.to_string().as_str().into()]);
        let metadata = object([("cameras", names), ("reset", Value::Nil)]);
        if socket.send(binary(&metadata)).is_ok() && number > 0 {
            answer_all(&mut socket, 0.5);
        }
    });
    let mut policy = PersistentPolicy::open(&settings(Protocol::Openpi, server), 3).unwrap();
    assert_eq!(policy.metadata(), "cameras: [base, 0], reset: null");
    for _ in 0..2 {
        let error = act(&mut policy).unwrap_err();
        assert_eq!(error.fault, RemoteFault::Gone);
        assert!(error.what.contains("[base, 1]") && error.what.contains("[base, 0]"), "{error}");
    }
}

#[test]
fn errors_about_one_observation_are_not_repeated() {
    let (server, requests) = http(|number, stream| match number {
        1 => support::respond(stream, "500 -", b"{\"error\": \"no action\"}"),
        _ => support::respond(stream, "200 -", b"null"),
    });
    let mut policy = PersistentPolicy::open(&settings(Protocol::Act, server), 3).unwrap();
    let faults: Vec<_> = (0..2).map(|_| act(&mut policy).unwrap_err().fault).collect();
    assert_eq!(faults, [RemoteFault::Refused, RemoteFault::Malformed]);
    assert_eq!(requests.try_iter().count(), 2);
}
