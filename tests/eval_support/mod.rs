//! The program `openvla` and policy servers as the tests of evaluation need them.
#![allow(dead_code)] // each test binary uses its own part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The bag with six images that all evaluations here read.
pub const BAG: &str = "tests/data/bags/mcap_plain";

/// The golden kit with random weights: over the action tokens only.
pub fn kit() -> Vec<String> {
    let checkpoint = root("tests/data/openvla_tiny/ckpt").display().to_string();
    ["--checkpoint", &checkpoint, "--unnorm-key", "bridge_orig", "--decode", "actions"]
        .map(str::to_owned)
        .to_vec()
}

/// The kit as OpenVLA's server has it.
pub fn on_a_server(address: &str) -> Vec<String> {
    let file = root("config/policies/act-openvla-bridge.yaml").display().to_string();
    ["--remote", address, "--policy-file", &file].map(str::to_owned).to_vec()
}

/// `openvla eval run` on [`BAG`] as a process.
pub fn evaluation(policy: &[String], out: &Path) -> Command {
    let mut command = program();
    command
        .args(["eval", "run", "--quiet", "--bag"])
        .arg(root(BAG))
        .args(["--image-topic", "/camera/image", "--instruction-topic", "/instruction"])
        .args(["--action-topic", "/vla/action", "--out"])
        .arg(out)
        .args(policy);
    command
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openvla"));
    command.env_remove("OPENVLA_WEIGHTS").env_remove("OPENVLA_API_KEY").stdin(Stdio::null());
    command
}

/// Exit status, stdout and stderr.
pub fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The one line on stderr of a command that fails.
pub fn failure(command: Command) -> String {
    let (status, _, error) = run(command);
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("openvla: ")).collect();
    assert_eq!((status, lines.len()), (Some(1), 1), "{error}");
    lines[0].to_owned()
}

/// `openvla serve` of the kit on a free port.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start() -> Server {
        let mut command = program();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--json", "--threads", "1"])
            .args(kit())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // It ends with the thread of its test, whatever becomes of that.
        // SAFETY: prctl is safe between fork and exec, and touches no memory.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let about: serde_json::Value = serde_json::from_str(&line).expect("a line when it listens");
        let address = about["listening"].as_str().unwrap().parse().unwrap();
        Server { child, address }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Forwards connections to a server, and kills it when the `fatal`-th one comes, counted from 0.
pub fn forwarder(server: Server, fatal: usize) -> (SocketAddr, Arc<Mutex<Server>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(Mutex::new(server));
    let target = Arc::clone(&server);
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let Ok(client) = client else { continue };
            let mut target = target.lock().unwrap();
            if number == fatal {
                target.kill();
            }
            // Without a server the connection ends.
            let Ok(upstream) = TcpStream::connect(target.address) else { continue };
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), upstream.try_clone().unwrap()), (upstream, client)]
            {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (address, server)
}

/// An action of seven zeros, as `/act` answers it.
pub fn zeros() -> String {
    format!("{{\"__numpy__\":\"{}=\",\"dtype\":\"<f8\",\"shape\":[7]}}", "A".repeat(75))
}

/// What a server of OpenVLA's protocol does with its `number`-th request: a status and a body, or
/// nothing at all.
pub type Reply = fn(number: usize) -> Option<(u16, String)>;

/// A server of OpenVLA's protocol that does what a test says, and how many requests it had.
pub fn act_server(reply: Reply) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), count) = (client, Arc::clone(&count)) else { continue };
            thread::spawn(move || {
                if !takes_request(&mut client) {
                    return;
                }
                match reply(count.fetch_add(1, Ordering::SeqCst)) {
                    Some((status, body)) => {
                        let length = body.len();
                        let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n");
                        let _ = client.write_all(format!("{head}\r\n{body}").as_bytes());
                    }
                    // Until the client gives up.
                    None => drop(client.read(&mut [0])),
                }
            });
        }
    });
    (address, requests)
}

/// Reads a request; `false` for a connection without one.
fn takes_request(client: &mut TcpStream) -> bool {
    let (mut bytes, mut part) = (Vec::new(), [0; 1 << 14]);
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.unwrap().trim().parse().unwrap();
            if at + 4 + length <= bytes.len() {
                return true;
            }
        }
        match client.read(&mut part) {
            Ok(count) if 0 < count => bytes.extend_from_slice(&part[..count]),
            _ => return false,
        }
    }
}
