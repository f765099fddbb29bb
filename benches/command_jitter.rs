//! Punctuality of the command stream while inference loads every core: 50, 100 and 250 Hz, with and
//! without `SCHED_FIFO`.
//!
//! `cargo bench --bench command_jitter`, or `... -- 50` for one rate. Measured is the time at which
//! a command is passed to its publisher; the period error is the deviation of the interval between
//! two such times from the period. The summary of `make demo` includes the middleware.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/runtime_support/mod.rs"]
mod runtime_support;

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant as Wall},
};

use openvla_tt::runtime::{NodeClock, Priority, Runtime, Threads};
use runtime_support::{FORWARD, Recorded, Scripted, request};
use vla_control::time::Clock;
use vla_control::{Lifecycle, RawControlConfig, Requests, State};
use vla_inference::observation::EncodedImage;
use vla_inference::policy::{Instruction, Policy};

/// Loads that many threads for 150 ms, like an inference of some hundred million weights.
fn burn(threads: usize) {
    let end = Wall::now() + Duration::from_millis(150);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut memory = vec![1.0f32; 1 << 20];
                while Wall::now() < end {
                    memory.iter_mut().for_each(|x| *x = x.mul_add(1.000_001, 1e-9));
                }
                black_box(&memory);
            });
        }
    });
}

/// Processor time of this process, seconds.
fn processor_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|x| x.parse().ok())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}

fn percentile(sorted: &[f64], percent: f64) -> f64 {
    vla_inference::stats::percentile(sorted, percent).unwrap_or(f64::NAN)
}

fn measure(rate_hz: f64, control_priority: u8, seconds: u64) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let raw = RawControlConfig {
        dry_run: false,
        command_rate_hz: rate_hz,
        expected_inference_s: 5.0,
        observation_timeout_s: 5.0,
        overrun_s: 0.5,
        ..RawControlConfig::default()
    };
    let recorded = Recorded::default();
    recorded.0.lock().unwrap().reserve(100_000);
    let clock = NodeClock::new(false);
    let threads = Threads { control_priority, ..Threads::default() };
    let mut runtime = Runtime::start(
        Arc::new(clock.clone()),
        raw.validate().unwrap(),
        Box::new(recorded.clone()),
        None,
        threads,
    )
    .unwrap();
    let policy: Box<dyn Policy> = Scripted::new(move |_, _| {
        burn(cores);
        Ok(FORWARD.to_vec())
    });
    let loaded = runtime.load(request(Box::new(move || Ok(policy)), 0.0));
    loaded.recv().unwrap().unwrap();
    runtime.set_instruction(Some(Instruction::new("burn").unwrap()));
    runtime.set_lifecycle(Lifecycle::Active);
    let _ = runtime.request(Requests { enable: Some(true), ..Requests::default() });
    let mut noise = 0_u8;
    let mut film = |runtime: &mut Runtime| {
        // Images differ, as those of a camera do: equal ones would stop the robot.
        noise = noise.wrapping_add(1);
        let bytes = EncodedImage::Raw {
            width: 8,
            height: 8,
            encoding: "rgb8".into(),
            step: 24,
            data: vec![noise; 192].into(),
        };
        runtime.set_image(0, clock.ros(), bytes);
        std::thread::sleep(Duration::from_millis(20));
    };
    while runtime.snapshot().is_none_or(|snapshot| snapshot.output.state != State::Running) {
        film(&mut runtime);
        let _ = runtime.request(Requests { enable: Some(true), ..Requests::default() });
    }
    let (begin, used) = (Wall::now(), processor_s());
    recorded.0.lock().unwrap().clear();
    while begin.elapsed() < Duration::from_secs(seconds) {
        film(&mut runtime);
    }
    let load = (processor_s() - used) / begin.elapsed().as_secs_f64();
    let snapshot = runtime.snapshot().unwrap();
    let taken = recorded.0.lock().unwrap().clone();
    runtime.shut_down(Duration::from_secs(5));
    let period = 1.0 / rate_hz;
    let mut errors: Vec<f64> = taken
        .windows(2)
        .map(|pair| (pair[1].0.since(pair[0].0).seconds() - period).abs() * 1e3)
        .collect();
    errors.sort_by(f64::total_cmp);
    let scheduling = match snapshot.priority {
        Priority::RealTime(priority) => format!("FIFO {priority}"),
        Priority::Ordinary if control_priority > 0 => "not permitted".into(),
        Priority::Ordinary => "ordinary".into(),
    };
    println!(
        "{rate_hz:5.0} Hz  {scheduling:13} {:6} commands  load {load:4.2} of {cores} cores   \
        period error [ms]: p50 {:6.3}  p99 {:6.3}  p99.9 {:6.3}  max {:6.3}",
        taken.len(),
        percentile(&errors, 50.0),
        percentile(&errors, 99.0),
        percentile(&errors, 99.9),
        percentile(&errors, 100.0),
    );
}

fn main() {
    // `cargo bench` passes --bench; a number chooses one rate.
    let chosen: Vec<f64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    println!("command jitter while inference keeps every core busy at niceness 10");
    for (rate_hz, seconds) in [(50.0, 22), (100.0, 12), (250.0, 10)] {
        if !chosen.is_empty() && !chosen.contains(&rate_hz) {
            continue;
        }
        for control_priority in [40, 0] {
            measure(rate_hz, control_priority, seconds);
        }
    }
}
