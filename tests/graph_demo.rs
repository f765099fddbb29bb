//! `make demo` runs, and leaves no process behind.
#![cfg(feature = "ros")]
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ros_support;

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ros_support::Domain;

/// A variable that every process of a demo inherits, to find them all by.
const MARK: &str = "OPENVLA_TT_DEMO_TEST";

/// One at a time: each of them starts two processes that want the processor.
static ALONE: Mutex<()> = Mutex::new(());

struct Demo {
    child: Child,
    mark: String,
    _domain: Domain,
}

impl Demo {
    fn start(seconds: &str) -> Self {
        let domain = Domain::claim();
        let mark = format!("{}-{}", std::process::id(), domain.id());
        let mut command = ros_support::python();
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/demo/run"))
            .args(["--seconds", seconds]);
        command.env("VLA_NODE", env!("CARGO_BIN_EXE_vla_node")).env(MARK, &mark);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = domain.apply(&mut command).spawn().unwrap();
        Self { child, mark, _domain: domain }
    }

    /// Processes of this demo that are alive.
    fn alive(&self) -> Vec<String> {
        let wanted = format!("{MARK}={}", self.mark);
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| {
                let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
            })
            .map(|entry| {
                std::fs::read_to_string(entry.path().join("cmdline"))
                    .unwrap_or_default()
                    .replace('\0', " ")
            })
            .collect()
    }

    fn wait(&mut self, longest: Duration) -> i32 {
        let end = Instant::now() + longest;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < end, "the demo does not end; alive: {:?}", self.alive());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn rest(&mut self, out: &mut BufReader<ChildStdout>) -> String {
        let (mut text, mut errors) = (String::new(), String::new());
        out.read_to_string(&mut text).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        text + &errors
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demo_runs_and_sums_up() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut demo = Demo::start("6");
    let mut out = BufReader::new(demo.child.stdout.take().unwrap());
    let text = demo.rest(&mut out);
    assert_eq!(demo.wait(Duration::from_secs(5)), 0, "{text}");
    let number = |before: &str| -> u32 {
        let rest =
            text.split(before).nth(1).unwrap_or_else(|| panic!("'{before}' is not in\n{text}"));
        rest.trim_start()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap()
    };
    assert!(
        number("images in") > 20 && number("inferences ") > 5 && number("commands out") > 200,
        "{text}"
    );
    let golden = text.split("official code's: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let (equal, of) = golden.split_once(" of ").unwrap();
    assert!(equal == of && equal != "0", "{golden}\n{text}");
    assert_eq!(demo.alive(), Vec::<String>::new());
    println!("{text}");
}

#[test]
fn ctrl_c_leaves_no_process() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Before the node is up, and while it moves.
    for lines in [1, 5] {
        let mut demo = Demo::start("60");
        let mut out = BufReader::new(demo.child.stdout.take().unwrap());
        for _ in 0..lines {
            let mut line = String::new();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the demo ended by itself");
        }
        assert!(2 <= demo.alive().len(), "the demo and its node: {:?}", demo.alive());
        let killed =
            Command::new("kill").args(["-INT", &demo.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let code = demo.wait(Duration::from_secs(20));
        let text = demo.rest(&mut out);
        assert_eq!(code, 130, "{text}");
        assert_eq!(demo.alive(), Vec::<String>::new(), "{text}");
        assert!(text.contains("interrupted: the node came to rest and ended"), "{text}");
    }
}
