//! Frames per second of an evaluation without its model: reading, decompressing, decoding,
//! resizing, journal; beside a plain Python reader (`tools/eval/read_in_python.py`: rosbags,
//! Pillow) on the same bags of 640x480 images.
//!
//! `cargo bench --bench replay [-- FRAMES]`; `PYTHON` (default `python3`) needs rosbags and Pillow
//! before 13, see tools/bags/requirements.txt. Both run by turns, each in a process of its own,
//! first on one core and then on all; the best of the rounds counts. Processor time is printed too:
//! on a busy machine it is the fairer number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use support::{BagWriter, settings};
use vla_eval::{RunOptions, Settings, evaluate};
use vla_inference::observation::{Observation, Resizer, SINGLE_CAMERA};
use vla_inference::policy::{Decision, Policy, PolicyError, PolicyInfo};

/// What every policy does to an image, and no more.
struct ResizeOnly {
    resizer: Resizer,
    info: PolicyInfo,
    sum: u64,
}

impl Policy for ResizeOnly {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let pixels = self.resizer.resize(observation.image(SINGLE_CAMERA)?);
        self.sum += pixels.iter().map(|&value| u64::from(value)).sum::<u64>();
        Ok(Decision {
            token_ids: vec![31_872; 7],
            normalized: vec![vec![0.0; 7]],
            actions: vec![vec![0.0; 7]],
            logit_margins: vec![1.0; 7],
            ..Decision::default()
        })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}

/// A camera looking at something: smooth, with noise, and never the same twice.
fn picture(frame: u32) -> Vec<u8> {
    let (width, height) = (640_u32, 480_u32);
    let mut state = frame.wrapping_mul(2_654_435_761) | 1;
    (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let noise = state & 7;
            [x + frame * 3, y + frame, (x * y) >> 9].map(|value| ((value + noise) & 255) as u8)
        })
        .collect()
}

/// A kind of bag.
struct Case {
    name: &'static str,
    jpeg: bool,
    compression: Option<mcap::Compression>,
}

const CASES: [Case; 4] = [
    Case { name: "raw", jpeg: false, compression: None },
    Case { name: "raw, zstd chunks", jpeg: false, compression: Some(mcap::Compression::Zstd) },
    Case { name: "raw, lz4 chunks", jpeg: false, compression: Some(mcap::Compression::Lz4) },
    Case { name: "JPEG", jpeg: true, compression: None },
];

fn write(path: &Path, frames: u32, case: &Case) {
    let mut writer = BagWriter::compressing(path, case.compression);
    writer.text("/instruction", 1, "go");
    let pictures: Vec<Vec<u8>> = (0..8)
        .map(|i| {
            let raw = picture(i);
            if !case.jpeg {
                return raw;
            }
            let mut bytes = std::io::Cursor::new(Vec::new());
            let image = image::RgbImage::from_raw(640, 480, raw).unwrap();
            image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
            bytes.into_inner()
        })
        .collect();
    for i in 0..frames {
        let (at, data) = (i64::from(i + 1) * 33_000_000, pictures[i as usize % 8].clone());
        if case.jpeg {
            writer.compressed("/camera/image", at, "jpeg", data);
        } else {
            writer.image("/camera/image", at, 640, 480, "rgb8", 3, data);
        }
    }
    writer.finish();
}

/// Seconds that all threads of this process have worked.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "no processor clock");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// What one reading of a bag came to.
#[derive(Clone, Copy)]
struct Reading {
    frames_per_second: f64,
    processor_ms: f64,
    /// Of all pixels that a model would have got.
    sum: u64,
}

impl Reading {
    /// From the line that a reader prints.
    fn of(line: &str) -> Option<Reading> {
        let mut words = line.split_whitespace();
        let mut number = || words.next()?.parse::<f64>().ok();
        let (frames_per_second, processor_ms) = (number()?, number()?);
        Some(Reading { frames_per_second, processor_ms, sum: words.next()?.parse().ok()? })
    }

    fn better(self, other: Option<Reading>) -> Reading {
        let other = other.unwrap_or(self);
        Reading {
            frames_per_second: self.frames_per_second.max(other.frames_per_second),
            processor_ms: self.processor_ms.min(other.processor_ms),
            sum: self.sum,
        }
    }
}

/// Our reader, in this process: prints its line.
fn read(bag: &Path) {
    let out = tempfile::tempdir().unwrap();
    let settings = Settings { action_topic: None, ..settings(bag) };
    let mut policy = ResizeOnly {
        resizer: Resizer::new(224).unwrap(),
        info: support::Scripted::new().info,
        sum: 0,
    };
    let (started, worked) = (Instant::now(), processor_seconds());
    let options = RunOptions { overwrite: true, quiet: true };
    let evaluated =
        evaluate(&mut policy, &settings, out.path(), options, &AtomicBool::new(false)).unwrap();
    let frames = evaluated.pairs.len() as f64;
    let (seconds, worked) = (started.elapsed().as_secs_f64(), processor_seconds() - worked);
    println!("{} {} {}", frames / seconds, worked * 1e3 / frames, policy.sum);
}

/// A reader in a process of its own, on the first core or on all.
fn run(program: &Path, arguments: &[&Path], one_core: bool) -> Option<Reading> {
    let mut command = if one_core { Command::new("taskset") } else { Command::new(program) };
    if one_core {
        command.args(["-c", "0"]).arg(program);
    }
    let output = command.args(arguments).output().ok()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
        return None;
    }
    Reading::of(std::str::from_utf8(&output.stdout).ok()?)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(bag) = arguments
        .iter()
        .position(|argument| argument == "--read")
        .and_then(|at| arguments.get(at + 1))
    {
        return read(Path::new(bag));
    }
    // `cargo test` runs benches too: a few frames then, so that this cannot rot.
    let benching = arguments.iter().any(|argument| argument == "--bench");
    let frames = arguments.iter().find_map(|argument| argument.parse().ok());
    let frames: u32 = frames.unwrap_or(if benching { 600 } else { 4 });
    let own = std::env::current_exe().unwrap();
    let python = PathBuf::from(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
    let script = support::root("tools/eval/read_in_python.py");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let folder = tempfile::tempdir().unwrap();
    for (case, one_core) in CASES.iter().flat_map(|case| [(case, true), (case, false)]) {
        let bag = folder.path().join("bag.mcap");
        write(&bag, frames, case);
        let (mut ours, mut theirs) = (None, None);
        for _ in 0..if benching { 4 } else { 1 } {
            ours = run(&own, &[Path::new("--read"), &bag], one_core)
                .map(|reading| reading.better(ours))
                .or(ours);
            if benching {
                let topic = Path::new("/camera/image");
                theirs = run(&python, &[&script, &bag, topic], one_core)
                    .map(|reading| reading.better(theirs))
                    .or(theirs);
            }
        }
        let name =
            format!("replay {}, {} of {cores} cores", case.name, if one_core { 1 } else { cores });
        // Without `taskset` there is no first half.
        let Some(ours) = ours else { continue };
        assert!(ours.sum > 0);
        let Some(theirs) = theirs else {
            println!(
                "{name}: {:.0} frames/s (no Python reader to compare with)",
                ours.frames_per_second
            );
            continue;
        };
        println!(
            "{name}: {:.0} frames/s, Python {:.0}, {:.1} times; processor {:.2} ms a frame, \
            Python {:.2}, {:.1} times",
            ours.frames_per_second,
            theirs.frames_per_second,
            ours.frames_per_second / theirs.frames_per_second,
            ours.processor_ms,
            theirs.processor_ms,
            theirs.processor_ms / ours.processor_ms
        );
        // JPEG decoders may differ in the last bit; raw images may not.
        assert!(
            case.jpeg || ours.sum == theirs.sum,
            "the pixels differ: {} here, {} in Python",
            ours.sum,
            theirs.sum
        );
    }
}
