//! Frames per second of an evaluation without its model: reading, decompressing, decoding, resizing, journal.
//!
//! `cargo bench --bench replay [-- FRAMES]` writes bags of 640x480 images, evaluates them with a policy that only resizes,
//! and, where `PYTHON` (default `python3`) has rosbags and Pillow, times `tools/eval/read_in_python.py` on the same bags.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/eval_support/mod.rs"]
mod eval_support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use eval_support::{BagWriter, settings};
use openvla_tt::eval::{RunOptions, Settings, evaluate};
use openvla_tt::observation::{Resizer, RgbImage};
use openvla_tt::policy::{Decision, Instruction, Policy, PolicyError, PolicyInfo};

/// What every policy does to an image, and no more.
struct ResizeOnly {
    resizer: Resizer,
    info: PolicyInfo,
    sum: u64,
}

impl Policy for ResizeOnly {
    fn act(&mut self, image: &RgbImage, _: &Instruction) -> Result<Decision, PolicyError> {
        let pixels = self.resizer.resize(image);
        self.sum += pixels.iter().map(|&value| u64::from(value)).sum::<u64>();
        Ok(Decision {
            prompt: String::new(),
            input_ids: vec![],
            token_ids: vec![31_872; 7],
            normalized: vec![0.0; 7],
            action: vec![0.0; 7],
            margins: vec![1.0; 7],
            stages: vec![],
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

fn write(path: &Path, frames: u32, jpeg: bool) {
    let mut writer = BagWriter::new(path);
    writer.text("/instruction", 1, "go");
    let pictures: Vec<Vec<u8>> = (0..8)
        .map(|i| {
            let raw = picture(i);
            if !jpeg {
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
        if jpeg {
            writer.compressed("/camera/image", at, "jpeg", data);
        } else {
            writer.image("/camera/image", at, 640, 480, "rgb8", 3, data);
        }
    }
    writer.finish();
}

fn ours(bag: &Path, out: &Path) -> (f64, u64) {
    let settings = Settings { action_topic: None, ..settings(bag) };
    let mut policy =
        ResizeOnly { resizer: Resizer::new(224).unwrap(), info: eval_support::Scripted::new().info, sum: 0 };
    let started = Instant::now();
    let options = RunOptions { overwrite: true, quiet: true };
    let evaluated = evaluate(&mut policy, &settings, out, options, &AtomicBool::new(false)).unwrap();
    (evaluated.pairs.len() as f64 / started.elapsed().as_secs_f64(), policy.sum)
}

fn python(bag: &Path) -> Option<(f64, u64)> {
    let script = eval_support::root("tools/eval/read_in_python.py");
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let output = Command::new(python).arg(script).arg(bag).arg("/camera/image").output().ok()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.split_whitespace();
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn main() {
    // `cargo test` runs benches too: a few frames then, so that this cannot rot.
    let benching = std::env::args().any(|argument| argument == "--bench");
    let frames = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let frames: u32 = frames.unwrap_or(if benching { 600 } else { 4 });
    let folder = tempfile::tempdir().unwrap();
    for (name, jpeg) in [("raw rgb8, lz4", false), ("JPEG, lz4", true)] {
        let bag = folder.path().join(if jpeg { "jpeg.mcap" } else { "raw.mcap" });
        write(&bag, frames, jpeg);
        let rounds = if benching { 3 } else { 1 };
        let best = |times: Vec<(f64, u64)>| times.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, sum) = best((0..rounds).map(|_| ours(&bag, &folder.path().join("out"))).collect()).unwrap();
        assert!(sum > 0);
        match best((0..rounds).map_while(|_| if benching { python(&bag) } else { None }).collect()) {
            Some((theirs, their_sum)) => {
                println!("replay {name}: {rate:.0} frames/s, Python {theirs:.0} frames/s, {:.1} times", rate / theirs);
                // JPEG decoders may differ in the last bit; raw images may not.
                assert!(jpeg || sum == their_sum, "the pixels differ: {sum} here, {their_sum} in Python");
            }
            None => println!("replay {name}: {rate:.0} frames/s (no Python reader to compare with)"),
        }
    }
}
