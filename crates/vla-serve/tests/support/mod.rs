//! A server on loopback with a policy that the test holds, and raw HTTP to it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use vla_inference::observation::Observation;
use vla_inference::policy::{Decision, Policy, PolicyError, PolicyInfo};
use vla_serve::{Bound, Ending, Limits, Names, Options, ServeError, Stop};

/// Opens and closes the policy: while it is shut, an inference waits.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    shut: bool,
    begun: usize,
    panics: bool,
}

impl Gate {
    pub fn shut(&self) {
        self.0.0.lock().unwrap().shut = true;
    }

    pub fn open(&self) {
        self.0.0.lock().unwrap().shut = false;
        self.0.1.notify_all();
    }

    pub fn panic_next(&self) {
        self.0.0.lock().unwrap().panics = true;
    }

    /// Inferences that have begun.
    pub fn begun(&self) -> usize {
        self.0.0.lock().unwrap().begun
    }

    /// Waits until an inference has begun after `before` of them.
    pub fn wait_begun(&self, before: usize) {
        let mut state = self.0.0.lock().unwrap();
        while state.begun <= before {
            state = self.0.1.wait(state).unwrap();
        }
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.begun += 1;
        self.0.1.notify_all();
        if state.panics {
            drop(state);
            panic!("a policy that panics");
        }
        while state.shut {
            state = self.0.1.wait(state).unwrap();
        }
    }
}

/// A policy whose action is made of what it is given: the first byte of each picture, the state,
/// and the length of the instruction.
struct Echo {
    info: PolicyInfo,
    gate: Gate,
}

pub fn action(pictures: &[u8], state: &[f64], instruction: &str) -> Vec<f64> {
    let pictures = pictures.iter().map(|byte| f64::from(*byte) + 0.1);
    pictures.chain(state.iter().copied()).chain([instruction.len() as f64 / 3.0]).collect()
}

impl Policy for Echo {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        self.gate.pass();
        let pictures = self.info.cameras.iter();
        let pictures = pictures.map(|camera| Ok(observation.image(camera)?.pixels()[0]));
        let pictures = pictures.collect::<Result<Vec<u8>, PolicyError>>()?;
        let state = observation.state(self.info.state_dim)?;
        let action = action(&pictures, state, observation.instruction.as_given());
        Ok(Decision { actions: vec![action; self.info.horizon], ..Decision::default() })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}

/// A server in a thread of the test.
pub struct Server {
    pub address: SocketAddr,
    pub gate: Gate,
    pub stop: Stop,
    thread: Option<JoinHandle<Result<Ending, ServeError>>>,
}

pub struct Setup {
    pub cameras: &'static [&'static str],
    pub state_dim: usize,
    pub horizon: usize,
    pub execute: Option<usize>,
    pub key: Option<&'static str>,
    pub limits: Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cameras: &["image"],
            state_dim: 0,
            horizon: 1,
            execute: None,
            key: None,
            limits: Limits::default(),
        }
    }
}

impl Setup {
    pub fn start(self) -> Server {
        let gate = Gate::default();
        let info = PolicyInfo {
            unnorm_key: "bridge_orig".into(),
            action_dim: self.cameras.len() + self.state_dim + 1,
            action_names: vec![],
            horizon: self.horizon,
            cameras: self.cameras.iter().map(|name| (*name).into()).collect(),
            state_dim: self.state_dim,
            device: "cpu".into(),
            precision: "f32".into(),
            envelope: vec![],
            action_tokens: None,
        };
        let policy = Box::new(Echo { info, gate: gate.clone() });
        let bound = Bound::new(Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            api_key: self.key.map(|key| vla_serve::ApiKey::new(key).unwrap()),
            limits: self.limits,
            restart: false,
        })
        .unwrap();
        let address = bound.address();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let names = Names { execute: self.execute, ..Names::default() };
            bound.run(policy, names, move |stop| ready.send(stop).unwrap())
        });
        Server { address, gate, stop: started.recv().unwrap(), thread: Some(thread) }
    }
}

impl Server {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends a request on a connection of its own: status and body.
    pub fn request(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect();
        let length = body.len();
        let head =
            format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        answer(stream)
    }

    pub fn act(&self, body: &str) -> (u16, String) {
        self.request("POST /act HTTP/1.1", body.as_bytes())
    }

    pub fn metric(&self, line: &str) -> String {
        let (_, text) = self.request("GET /metrics HTTP/1.1", b"");
        let value = text.lines().find_map(|text| text.strip_prefix(line));
        value.unwrap_or("").trim().to_owned()
    }

    /// Ends the server: what it says about its end.
    pub fn end(mut self) -> Result<Ending, ServeError> {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits for the end of a server that ends by itself.
    pub fn wait(mut self) -> Result<Ending, ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gate.open();
        self.stop.stop();
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Status and body of a connection's answer.
pub fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// A picture as json_numpy writes it: `height` x `width` pixels of one value.
pub fn picture(value: u8, height: usize, width: usize) -> String {
    use vla_wire::json_numpy::{Encoding, encode};
    let data = vec![value; height * width * 3];
    let array = vla_wire::NdArray::new(vla_wire::Dtype::U8, vec![height, width, 3], data).unwrap();
    String::from_utf8(encode(&array.into(), Encoding::Single).unwrap()).unwrap()
}

pub fn body(value: u8, instruction: &str) -> String {
    format!(r#"{{"image": {}, "instruction": "{instruction}"}}"#, picture(value, 4, 5))
}

/// The numbers of an answer of `/act`.
pub fn rows(body: &str) -> Vec<Vec<f64>> {
    let limits = vla_wire::Limits::default();
    let value = vla_wire::json_numpy::decode_answer(body.as_bytes(), &limits).unwrap();
    value.rows("answer").unwrap()
}
